"""How fast a sweep of many small models trains as packs, beside the same function in a loop, under Optuna and Ray Tune.

    python -m benchmarks.engine rates   [--pairs 7]      # steady state, one core: as written, compiled, plain loop
    python -m benchmarks.engine agreement                # whether bfloat16 has the losses of float32, beside seeds
    python -m benchmarks.engine roofline                 # where a compiled step's time goes, what is left to gain
    python -m benchmarks.engine members [--pairs 7]      # throughput and memory by rows of a pack
    python -m benchmarks.engine kept                     # a worker that keeps freed memory beside one that does not
    python -m benchmarks.engine start                    # from `run` to the first step, and what checkpoints cost
    python -m benchmarks.engine sweep   [--steps 3000]   # 32 members from start to end, every core, all ways

Each writes its part of benchmarks/results/engine.json. Byte transformers of about 10 thousand, 100 thousand and a
million parameters, batches of 8 x 64 tokens, AdamW. A newcomer would compare a pack with its own members trained alone;
the plain loop here is what a user would write instead: the same module, torch.optim.AdamW, nothing of ours, and
torch.autocast around the loss where it is in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import windtunnel as wt
from benchmarks.common import RESULTS, interval, write
from windtunnel.launch.here import KEEPS_MEMORY
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.optimizers import AdamW
from windtunnel.recipe import Recipe
from windtunnel.runs import RunSpec
from windtunnel.train.engine import Engine
from windtunnel.train.loop import train
from windtunnel.train.memory import pack_bytes
from windtunnel.train.pack import Pack
from windtunnel.train.peak import matmul_rate
from windtunnel.train.precision import PRECISIONS

CONTEXT, BATCH, DEPTH, MEMBERS, PACK = 64, 8, 2, 32, 8
ROWS = (1, 2, 4, 8, 16, 32)
WIDTHS = {"10k": 16, "100k": 64, "1M": 192}  # name to width; 14k, 130k and 983k parameters with embedding and readout
BARS = {"10k": 3.0, "100k": 1.5, "1M": 1.2}
OTHERS = ("optuna", "ray", "loop")
WAYS = tuple(f"{way}{low}" for way in ("windtunnel", *OTHERS) for low in ("", "-bfloat16"))
CPU = torch.device("cpu")


def recipe() -> Recipe:
    """The byte transformer with its learning rate open."""
    data = wt.data.text(context=CONTEXT, repeat=True)
    base = wt.recipes.transformer_mup_adamw(data=data)
    return base.but(optimizer=AdamW(lr=wt.tuned(2**-9, 2**-4)), batch=FixedBatch(examples=BATCH))


def pack_of(width: int, members: int, steps: int = 10**6, precision: str = "float32", to_a_seed: int = 1) -> Pack:
    """Members of four learning rates, a seed each; or so many members in turn of one seed."""
    asked = recipe()
    rung = wt.Rung(width=width, depth=DEPTH, heads=width // 16, tokens=steps * BATCH * CONTEXT, batch=BATCH)
    judge = wt.Judge(data=asked.data, tokens=8192, evaluations=1)
    described, judged = asked.describe(), judge.describe()
    specs = tuple(
        RunSpec(
            recipe=described,
            rung=rung,
            hyperparameters={"lr": 2.0 ** (-9 + i % 4)},
            seed=i // to_a_seed,
            judge=judged,
            base_rung=rung,
        )
        for i in range(members)
    )
    labels = ({"study": "engine", "idea": "", "stage": "sweep"},) * members
    return Pack(recipe=asked, specs=specs, judge=judge, labels=labels, precision=precision)


def plain(width: int, seed: int, lr: float, precision: str = "float32") -> Callable[[int], float]:
    """One step of what a user would write: the loss at step `i`."""
    asked = recipe()
    torch.manual_seed(seed)
    model = asked.model.build(pack_of(width, 1).rung, asked.data.shape())
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)

    def step(i: int) -> float:
        inputs, targets = (torch.from_numpy(a) for a in asked.data.batch(seed=seed, step=i, size=BATCH))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def timed(act: Callable[[int], Any], steps: int, first: int) -> float:
    """Seconds a step."""
    began = time.perf_counter()
    for i in range(first, first + steps):
        act(i)
    return (time.perf_counter() - began) / steps


def rates(names: list[str], pairs: int) -> dict[str, Any]:
    """Throughput per core of packs, as written and compiled, over the plain loop's, in both precisions, in turns."""
    torch.set_num_threads(1)
    found = {}
    for name in names:
        width, acts = WIDTHS[name], {}
        for precision in PRECISIONS:
            pack = pack_of(width, PACK, precision=precision)
            for kind, compile in (("as written", False), ("compiled", True)):
                engine = Engine(pack, CPU, True, compile)
                state = engine.start()
                acts[kind, precision] = (lambda i, e=engine, s=state: e.advance(s), PACK)
            acts["plain", precision] = (plain(width, 0, 1e-3, precision), 1)
        steps = {
            kind: max(2, round((0.6 if members == 1 else 1.2) / timed(act, 2, 0)))
            for kind, (act, members) in acts.items()
        }
        flops = pack_of(width, PACK).size().training_flops(BATCH * CONTEXT)
        turns: dict[Any, list[float]] = {kind: [] for kind in acts}
        peaks: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
        for turn in range(pairs):
            for kind, (act, members) in acts.items():
                turns[kind].append(timed(act, steps[kind], 2 + turn * steps[kind]) / members)
            for precision, seen in peaks.items():
                seen.append(matmul_rate.__wrapped__(CPU, precision))  # not from its cache
        found[name] = _told(name, flops, turns, {p: median(seen) for p, seen in peaks.items()})
    return found


def _told(name: str, flops: float, turns: dict[Any, list[float]], peaks: dict[str, float]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "params": pack_of(WIDTHS[name], 1).size().total, "bar": BARS[name], "members": PACK,
        "gemm_peak_gflops": {precision: peak / 1e9 for precision, peak in peaks.items()},
    }  # fmt: skip
    loops = [turns["plain", precision] for precision in PRECISIONS]
    for (kind, precision), seconds in turns.items():
        over = {"plain": loops[0], "plain_in_bfloat16": loops[1], "faster_plain": list(map(min, *loops))}
        row.setdefault(precision, {})[kind] = {
            "ms_a_member_step": 1e3 * median(seconds), "share_of_peak": flops / median(seconds) / peaks[precision],
        } | {f"over_{loop}": _ratios(theirs, seconds) for loop, theirs in over.items()}  # fmt: skip
    for precision in PRECISIONS:
        written, best = (row[precision][kind] for kind in ("as written", "compiled"))
        over, faster = best["over_plain"], best["over_faster_plain"]
        print(
            f"{name}, {precision}: packs of {PACK} {written['over_plain']['median']:.2f}x a plain float32 loop, "
            f"compiled {over['median']:.2f}x [{over['least']:.2f}, {over['most']:.2f}], "
            f"{faster['median']:.2f}x [{faster['least']:.2f}, {faster['most']:.2f}] the faster of the plain loops (bar "
            f"{row['bar']}); {100 * best['share_of_peak']:.0f} % of {row['gemm_peak_gflops'][precision]:.0f} GFLOP/s",
            flush=True,
        )
    return row


def _ratios(theirs: list[float], ours: list[float]) -> dict[str, float]:
    found = sorted(p / s for p, s in zip(theirs, ours, strict=True))
    return {"median": median(found), "least": found[0], "most": found[-1]}


STEPS = {"10k": 3000, "100k": 1000, "1M": 600}
SEEDS = 4


def agreement(names: list[str]) -> dict[str, Any]:
    """Four seeds of four learning rates, trained in both precisions: their difference beside that of two seeds."""
    torch.set_num_threads(1)
    found = {}
    for name in names:
        losses = {}
        for precision in PRECISIONS:
            pack = pack_of(WIDTHS[name], 4 * SEEDS, STEPS[name], precision, to_a_seed=4)
            runs = train(pack, device=CPU)
            losses[precision] = np.array([run.loss for run in runs], dtype=float).reshape(SEEDS, 4)
        plain, low = (losses[precision] for precision in PRECISIONS)
        apart, scatter = (low - plain) / plain, (plain - plain.mean(0)) / plain.mean(0)
        found[name] = row = {
            "steps": STEPS[name], "seeds": SEEDS, "losses": {p: each.tolist() for p, each in losses.items()},
            "difference": interval(apart.ravel().tolist()),
            "spread_of_differences": float(apart.std(ddof=1)),
            "spread_of_seeds": float(np.sqrt((scatter**2).sum() / (4 * (SEEDS - 1)))),
            "same_best_rate": bool(plain.mean(0).argmin() == low.mean(0).argmin()),
        }  # fmt: skip
        said, spread = row["difference"], (row["spread_of_differences"], row["spread_of_seeds"])
        best = "the same" if row["same_best_rate"] else "another"
        print(
            f"{name}: bfloat16 {100 * said['mean']:+.3f} % [{100 * said['low']:+.3f}, {100 * said['high']:+.3f}] of "
            f"float32's loss, spread {100 * spread[0]:.3f} %, of seeds {100 * spread[1]:.3f} %; {best} best rate",
            flush=True,
        )
    return found


PRODUCTS, ATTENTION = ("aten::bmm", "aten::mm", "aten::addmm"), "aten::_scaled_dot_product"


def roofline(names: list[str], steps: int = 40) -> dict[str, Any]:
    """Where a compiled step's time goes; `bound` is its gain over a plain loop in float32 if all but products and
    attention were free, with these as fast as they are in shapes so small. In bfloat16 attention is among the
    products."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name in names:
        alone = plain(WIDTHS[name], 0, 1e-3)
        turns = [timed(alone, 20, turn * 20) for turn in range(7)]
        for precision in PRECISIONS:
            row = _profiled(name, precision, steps, median(turns))
            found.setdefault(name, {})[precision] = row
            print(
                f"{name}, {precision}: a member's step {row['compiled_ms']:.2f} ms ({row['plain_ms']:.2f} in a plain "
                f"float32 loop), products {row['products_ms']:.2f} at {100 * row['products_share_of_peak']:.0f} % of a "
                f"large product's rate, attention {row['attention_ms']:.2f}: at most {row['bound']:.1f}x a plain loop",
                flush=True,
            )
    return found


def _profiled(name: str, precision: str, steps: int, loop: float) -> dict[str, float]:
    pack = pack_of(WIDTHS[name], PACK, precision=precision)
    engine = Engine(pack, CPU, True, True)
    state, flops = engine.start(), _product_flops(pack)
    timed(lambda i: engine.advance(state), 4, 0)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        seconds = timed(lambda i: engine.advance(state), steps, 0) / PACK
    own = {event.key: event.self_cpu_time_total / 1e6 / steps / PACK for event in seen.key_averages()}
    products = sum(own.get(key, 0.0) for key in PRODUCTS)
    attention = sum(time for key, time in own.items() if key.startswith(ATTENTION))
    return {
        "plain_ms": 1e3 * loop, "compiled_ms": 1e3 * seconds, "products_ms": 1e3 * products,
        "attention_ms": 1e3 * attention,
        "products_share_of_peak": flops / products / matmul_rate.__wrapped__(CPU, precision),
        "bound": loop / (products + attention),
    }  # fmt: skip


def _product_flops(pack: Pack) -> float:
    """FLOPs of the matrix products of one member's step."""
    engine = Engine(pack, CPU, True, False)
    state = engine.start()
    with FlopCounterMode(display=False) as counted:
        engine.advance(state)
    by_operation = counted.get_flop_counts()["Global"]
    return sum(n for op, n in by_operation.items() if str(op).replace(".", "::") in PRODUCTS) / PACK


def members(names: list[str], pairs: int) -> dict[str, Any]:
    """Throughput of packs of 1 to 32 rows over that of 8, in turns; and the peak memory of each, alone in a process."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name in names:
        found[name] = {}
        for kind, precision, compile in (("as written", "float32", False), ("compiled", "bfloat16", True)):
            acts, turns = {}, {count: list[float]() for count in ROWS}
            for count in ROWS:
                engine = Engine(pack_of(WIDTHS[name], count, precision=precision), CPU, True, compile)
                state = engine.start()
                acts[count] = lambda i, e=engine, s=state: e.advance(s)
            steps = {count: max(2, round(0.8 / timed(act, 2, 0))) for count, act in acts.items()}
            for turn in range(pairs):
                for count, act in acts.items():
                    turns[count].append(timed(act, steps[count], 2 + turn * steps[count]) / count)
            rows = {count: _ratios(turns[PACK], seconds) for count, seconds in turns.items()}
            found[name][f"{kind}, {precision}"] = rows
            said = (
                f"{count}: {row['median']:.2f} [{row['least']:.2f}, {row['most']:.2f}]" for count, row in rows.items()
            )
            print(f"{name}, {kind}, {precision}, rows: rate over that of {PACK}", *said, sep="\n  ", flush=True)
        found[name]["memory"] = {count: _alone(name, count) for count in ROWS}
    return found


def _alone(name: str, count: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.engine", "one", "--width", str(WIDTHS[name]), "--members", str(count)]
    row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    print(f"{name}, {count} rows: {row['peak_mib']:.0f} MiB (counted {row['counted_mib']:.0f})", flush=True)
    return {which: row[which] for which in ("peak_mib", "counted_mib")}


def kept(pairs: int) -> dict[str, Any]:
    """Processor seconds of a step in a process with a worker's setting of glibc over those in one without, in turns."""
    found: dict[str, Any] = {}
    for name, width in WIDTHS.items():
        command = [sys.executable, "-m", "benchmarks.engine", "one", "--width", str(width), "--members", str(PACK)]
        ratios, rose = [], []
        for _ in range(pairs):
            rows = []
            for setting in (KEEPS_MEMORY, {}):
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | setting)
                rows.append(json.loads(done.stdout.splitlines()[-1]))
            ratios.append(rows[0]["processor_seconds"] / rows[1]["processor_seconds"])
            rose.append(rows[0]["peak_mib"] - rows[1]["peak_mib"])
        found[name] = {"processor_seconds_over_without": interval(ratios), "peak_mib_more": median(rose)}
        said = found[name]["processor_seconds_over_without"]
        print(f"{name}: {said['mean']:.3f} [{said['low']:.3f}, {said['high']:.3f}]", flush=True)
    return found


def one(width: int, count: int) -> None:
    """For `members` and `kept`: one pack, as written, its throughput and how far the process's memory rose."""
    torch.set_num_threads(1)
    warm = Engine(pack_of(16, 1), CPU, True, False)
    warm.advance(warm.start())  # what torch itself loads is not the pack's
    pack = pack_of(width, count)
    before = _peak_kib()
    engine = Engine(pack, CPU, True, False)
    state = engine.start()
    seconds = timed(lambda i: engine.advance(state), 2, 0)
    steps, busy = max(3, round(2 / seconds)), time.process_time()
    seconds = timed(lambda i: engine.advance(state), steps, 0)
    busy = (time.process_time() - busy) / steps
    peak = _peak_kib() - before
    counted = pack_bytes(pack)
    print(json.dumps({
        "tokens_a_second": count * BATCH * CONTEXT / seconds, "peak_mib": peak / 1024,
        "counted_mib": None if counted is None else counted / 2**20, "processor_seconds": busy,
    }))  # fmt: skip


def _peak_kib() -> int:
    """The most memory this process has had; getrusage would count what its parent had before the exec."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def start() -> dict[str, Any]:
    """Seconds from the beginning of a process to its first step as written, and of a checkpoint, beside a step."""
    code = (
        "import time; t = time.perf_counter(); import tempfile; "
        "from benchmarks.engine import *; torch.set_num_threads(1); "
        "pack = pack_of({width}, PACK); engine = Engine(pack, CPU, True, False); state = engine.start(); "
        "engine.advance(state); first = time.perf_counter() - t; step = timed(lambda i: engine.advance(state), 5, 0); "
        "from windtunnel.train.saving import Saving; folder = tempfile.mkdtemp(); "
        "saving = Saving(Path(folder), [s.key for s in pack.specs]); "
        "write = timed(lambda i: saving.now(state), 5, 0); "
        "print(json.dumps(dict(first_step_seconds=first, step_seconds=step, checkpoint_seconds=write)))"
    )
    found = {}
    for name, width in WIDTHS.items():
        said = subprocess.run(
            [sys.executable, "-c", code.format(width=width)], check=True, capture_output=True, text=True
        )
        found[name] = json.loads(said.stdout.splitlines()[-1])
        row = found[name]
        print(f"{name}: first step of {PACK} members after {row['first_step_seconds']:.1f} s; a checkpoint takes "
              f"{row['checkpoint_seconds'] / row['step_seconds']:.1f} steps")  # fmt: skip
    return found


def sweep(names: list[str], steps: int, asked: list[str], warm: bool, turns: int) -> dict[str, Any]:
    """Tokens a second over a sweep of 32 members, from start to end, on every core, all ways in each turn.

    The compiler's cache is empty at first, so that a sweep pays what the first one on a machine pays; `warm` has each
    done twice and counts the second, as the next sweep of these shapes. Ratios are of one turn.
    """
    found: dict[str, Any] = {}
    for name in names:
        ways: dict[str, list[float]] = {way: [] for way in asked}
        for _ in range(turns):
            for way, rates in ways.items():
                rates.append(MEMBERS * steps * BATCH * CONTEXT / _swept(name, steps, way, warm))
                print(f"{name}, {way}: {rates[-1]:,.0f} tokens a second", flush=True)
        row = {"steps": steps, "tokens_a_second": ways, "bar": BARS[name]}
        others = {way: rates for way, rates in ways.items() if way.startswith(OTHERS)}
        plain = [rates for way, rates in others.items() if not way.endswith("-bfloat16")]
        for ours in (way for way in ways if way.startswith("windtunnel") and plain):
            over = {}
            for kind, theirs in (("over_best_in_float32", plain), ("over_best", others.values())):
                ratios = [our / max(turn) for our, *turn in zip(ways[ours], *theirs, strict=True)]
                over[kind] = {"median": median(ratios), "least": min(ratios), "most": max(ratios), "turns": turns}
            row[ours] = over
            print(
                f"{name}, {ours}, {turns} turns: {_in_words(over['over_best_in_float32'])}x the best of the others in "
                f"float32, {_in_words(over['over_best'])}x the best of them in either precision (bar {BARS[name]})",
                flush=True,
            )
        found[f"{name}, {steps} steps{', again' * warm}"] = row
    return found


def _in_words(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} [{ratio['least']:.2f}, {ratio['most']:.2f}]"


def _swept(name: str, steps: int, way: str, warm: bool) -> float:
    """Seconds of one sweep, with a compiler's cache of its own."""
    trainer, _, low = way.partition("-")
    command = [sys.executable, "-m", "benchmarks.engine_ways", trainer, "--precision", low or "float32"]
    command += ["--width", str(WIDTHS[name]), "--steps", str(steps)]
    with tempfile.TemporaryDirectory(prefix="engine-compiler-") as empty:
        apart = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": empty}
        for _ in range(1 + warm):
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | apart)
        return time.perf_counter() - began


def main() -> None:
    """Measure one part and write it beside the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("rates", "agreement", "roofline", "members", "kept", "start", "sweep", "one"))
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--sizes", nargs="*", default=list(WIDTHS), choices=list(WIDTHS))
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS, help="ours, and others to set it beside")
    parser.add_argument("--warm", action="store_true", help="count the second sweep of the same shapes")
    parser.add_argument("--turns", type=int, default=3, help="of a sweep")
    parser.add_argument("--width", type=int)
    parser.add_argument("--members", type=int)
    args = parser.parse_args()
    if args.part == "one":
        one(args.width, args.members)
        return
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "rates": lambda: rates(args.sizes, args.pairs), "agreement": lambda: agreement(args.sizes),
        "roofline": lambda: roofline(args.sizes), "members": lambda: members(args.sizes, args.pairs), "start": start,
        "kept": lambda: kept(args.pairs),
        "sweep": lambda: sweep(args.sizes, args.steps, args.ways, args.warm, args.turns),
    }  # fmt: skip
    path = RESULTS / "engine.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    before.pop("machine", None)
    load = os.getloadavg()[0]
    found = parts[args.part]()
    before[args.part] = before.get(args.part, {}) | found | {"load_before": load}
    print(write("engine", before))


if __name__ == "__main__":
    main()
