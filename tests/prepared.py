"""What pages of the documentation leave to their reader: files, a study, a training loop; small stand-ins for them.

Each function is given the empty folder in which its page's blocks will run and pytest's monkeypatch, and returns the
names that the blocks find. A newcomer would put more here; what a page can say itself belongs on the page.
"""

from __future__ import annotations

import inspect
import math
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import windtunnel as wt

Names = dict[str, Any]


def fair(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Names:
    """Logs of AlgoPerf as its harness writes them, three studies of two submissions; and two texts."""
    columns = "accumulated_submission_time,global_step,preemption_count,validation/ppl,validation/num_examples\n"
    for submission, seconds in (("one", 100.0), ("two", 150.0)):
        for study in range(3):
            log = folder / "logs/external_tuning" / submission / f"study_{study}" / "finewebedu_lm_jax" / "trial_1"
            log.mkdir(parents=True)
            rows = "".join(f"{seconds * step + study},{step},0,{30 - step},10\n" for step in range(1, 10))
            (log / "eval_measurements.csv").write_text(columns + rows)
    for kind in ("judged", "tuning"):
        (folder / kind).mkdir()
        (folder / kind / "text.txt").write_text("".join(f"{kind} line {number}\n" for number in range(40_000)))
    return {}


def store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Names:
    """A bucket that lies in memory: s3fs is not asked for."""
    pytest.importorskip("fsspec", reason="needs fsspec: pip install 'windtunnel[remote]'")
    from fsspec.implementations.memory import MemoryFileSystem
    from fsspec.registry import _registry as loaded
    from fsspec.registry import known_implementations as known

    monkeypatch.setitem(known, "s3", {"class": "fsspec.implementations.memory.MemoryFileSystem"})
    # fsspec keeps what it has loaded; what it keeps from here must go again
    monkeypatch.setitem(loaded, "s3", MemoryFileSystem)
    monkeypatch.setattr(MemoryFileSystem, "protocol", ("memory", "s3"))
    return {}


def which_run_to_buy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Names:
    """A training loop whose loss is known: on each text it falls with that text's share."""
    pytest.importorskip("botorch", reason="needs botorch: pip install 'windtunnel[bayes]'")

    def train(point: Any) -> tuple[float, dict[str, float]]:
        """Smaller sizes lie higher, and the best rate is 1e-2."""
        above = (0.4, 0.2, 0.0)[point.fidelity] + 0.1 * (math.log10(point.values["lr"]) + 2) ** 2
        parts = {name: 1.5 + above + 0.5 * (point.values[name] + 0.05) ** -0.4 for name in ("english", "german")}
        return sum(parts.values()) / 2, parts

    study = wt.Study(
        name="narrow",
        base=wt.recipes.transformer_mup_adamw(data=wt.data.text(context=16)),
        ladder=wt.Ladder.widths((16, 24, 32, 40, 48), depth=1, tokens=10_000, head_width=8, seeds=1),
        target=wt.Target(rung=wt.Rung(width=64, depth=1, heads=8, tokens=10_000)),
    )
    return {"train": train, "study": study}


def one_large_target(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Names:
    """One process as torchrun starts it, and a study that says that it ran (test_torchrun.py trains real ones)."""
    torch = pytest.importorskip("torch")
    from windtunnel import Study

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in started.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # it would outlast the page

    def run(store: Any, **asked: Any) -> str:
        inspect.signature(Study.run).bind(None, store, **asked)  # as a study would take it
        return "ran"

    return {"study": SimpleNamespace(run=run), "store": "store"}


PREPARED: dict[str, Callable[[Path, pytest.MonkeyPatch], Names]] = {
    "fair.md": fair,
    "store.md": store,
    "which-run-to-buy.md": which_run_to_buy,
    "one-large-target.md": one_large_target,
}
