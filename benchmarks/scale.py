"""Ten thousand runs of a thousand steps in one store: seconds to list and to report them, and to open the report.

Records are made up and written without flushing each to disk, which is not what is measured: a study's own asks, with
losses of a power law and seed noise. Every figure is the median of several fresh processes, as wall seconds and as
seconds of processor (of use on a machine that others share). The page is opened by a headless Chromium.

    python -m benchmarks.scale --runs 10000
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import windtunnel as wt
from windtunnel.runs import Cost

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]  # the records of the tests serve here


STUDY = '''\
"""Written by benchmarks/scale.py."""
import windtunnel as wt
from windtunnel.parts.batch import FixedBatch

data = wt.data.text(context=16, repeat=True)
study = wt.Study(
    name="many",
    base=wt.recipes.transformer_mup_adamw(data=data).but(batch=FixedBatch(examples=4)),
    ladder=wt.Ladder.widths((16, 24, 32, 48, 64), depth=2, tokens={tokens}, head_width=8, seeds={seeds}),
    target=wt.Target(rung=wt.Rung(width=128, depth=2, heads=16, tokens={tokens})),
    tuning=wt.Tuning(points=5, seeds=2),
)
'''
STEPS = 1000
PAINTED = """async () => {
    const largest = await new Promise((done) => {
        const seen = new PerformanceObserver((list) => done(list.getEntries().at(-1).startTime));
        seen.observe({ type: "largest-contentful-paint", buffered: true });
    });
    const first = performance.getEntriesByName("first-contentful-paint")[0].startTime;
    const whole = performance.timing.loadEventEnd - performance.timing.navigationStart;
    return { "first paint": first, "largest paint": largest, whole };
}"""


def made(folder: Path, count: int) -> tuple[Path, Path]:
    """A study file and a store with about so many runs of it."""
    from windtunnel.study.stages import Stages

    file, names = folder / "many_study.py", dict[str, Any]()
    file.write_text(STUDY.format(tokens=STEPS * 64, seeds=count // 5))
    exec(compile(file.read_text(), str(file), "exec"), names)
    stages, flush = Stages(names["study"], wt.Store(folder / "store")), os.fsync
    os.fsync = lambda descriptor: None
    try:
        while not (state := stages.tuning("base")).done:
            _add(stages, state.asked)
        again = [ask for asks in stages.recheck("base", state.values).values() for ask in asks]
        _add(stages, [*stages.ladder("base", state.values), *again])
    finally:
        os.fsync = flush
    return file, folder / "store"


def _add(stages: Any, asks: Any) -> None:
    from test_store import run

    steps = np.arange(1, STEPS + 1)
    for ask in stages.missing(asks):
        spec, noise = ask.spec, np.random.default_rng(int(ask.spec.key[:12], 16))
        size = stages.study.size(stages.recipes["base"], spec.rung)
        far = np.log(next(iter(spec.hyperparameters.values())) / 0.01)
        loss = float(1.5 + 30 * size.params**-0.4 + 0.02 * far**2 + 0.003 * noise.standard_normal())
        curve = {
            "step": steps, "tokens": steps * 64, "train_loss": loss + 3 / steps + 0.01 * noise.standard_normal(STEPS),
            "judged_tokens": steps[99::100] * 64, "judged_loss": loss + 3 / steps[99::100],
        }  # fmt: skip
        flops = size.training_flops(spec.rung.tokens)
        cost = Cost(flops=flops, seconds=flops / 1e10, device="cpu", threads=1, members=8)
        labels = {"study": "many", "idea": "base", "stage": ask.stage}
        stages.store.add(
            run(key=spec.key, spec=spec, loss=loss, size=size, cost=cost, curve=curve, labels=labels, source={})
        )


def timed(arguments: list[str], cache: Path) -> tuple[float, float]:
    """Wall and processor seconds of a fresh Python."""
    here = str(Path(wt.__file__).resolve().parents[1])
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = os.environ | {"WINDTUNNEL_CACHE": str(cache), "PYTHONPATH": here}
    subprocess.run([sys.executable, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - started
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def opened(page: Path) -> dict[str, Any]:
    """Seconds in a headless Chromium until the page's first and largest content is painted, and until it is whole."""
    chromium = shutil.which("chromium")
    if chromium is None:
        return {"not measured": "no chromium on this machine"}
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        shown = browser.new_page()
        shown.goto("about:blank")
        shown.goto(page.as_uri())
        milliseconds = shown.evaluate(PAINTED)
        browser.close()
    return {name: round(value / 1000, 2) for name, value in milliseconds.items()}


def main() -> int:
    from benchmarks.common import write

    parser = argparse.ArgumentParser(description="a store of many runs")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name) / "cache"
        os.environ["WINDTUNNEL_CACHE"] = str(cache)
        file, store = made(Path(name), args.runs)
        listing = ["-m", "windtunnel", "runs", "--store", str(store)]
        read = f"import windtunnel as wt; wt.Store({str(store)!r})"
        reporting = ["-m", "windtunnel", "report", str(file), "--store", str(store)]
        result: dict[str, Any] = {
            "runs": len(list(wt.Store(store).keys())),
            "steps of each": STEPS,
            "times": args.times,
        }
        asked = {
            "import alone": (["-c", "import windtunnel.store"], args.times),
            "open": (["-c", read], args.times),
            "list, no cache yet": (listing, 1),
            "list": (listing, args.times),
            "all runs with curves": (["-c", f"{read}.runs()"], 1),
            "report": (reporting, args.times),
        }
        for what, (arguments, times) in asked.items():
            walls, processor = zip(*(timed(arguments, cache) for _ in range(times)), strict=True)
            print(what, walls, flush=True)
            result[what] = {"wall seconds": round(statistics.median(walls), 2),
                            "processor seconds": round(statistics.median(processor), 2)}  # fmt: skip
        result["report bytes"] = (store / "many.html").stat().st_size
        result["page opens"] = [opened(store / "many.html") for _ in range(args.times)]
        result["load average"] = os.getloadavg()[0]
    for what, found in result.items():
        print(f"{what}: {found}")
    write("scale", result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
