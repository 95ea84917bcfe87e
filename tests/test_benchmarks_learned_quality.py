"""The quality of learned optimizers, in small: what must hold of a meta-training of seconds, and what is said of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks are not part of the package

from benchmarks import learned_quality as quality
from benchmarks.common import RESULTS

ENDS = 10  # outer steps at either end, over which a meta-loss is averaged


def test_the_quality_benchmark_in_small_tells_all_rules_and_writes_nothing(tmp_path: Path) -> None:
    """What so short a meta-training does is not asserted."""
    before = sorted((place.name, place.stat().st_mtime_ns) for place in RESULTS.iterdir())
    few: dict[str, Any] = {"outer_steps": 6, "home": 2, "elsewhere": 1, "tuning": 1, "steps": 12, "far": 24}
    result, extent = quality.quick(tmp_path, rates=(2**-6, 2**-5), widths=(32, 64), **few)
    lines = quality.table(result, extent).splitlines()
    assert len(lines) == 1 + 3 + 6 and not any("nan" in line for line in lines)
    claims = quality.claims(result, extent).splitlines()
    assert [claim[claim.index("(") :][:3] for claim in claims] == ["(a)", "(b)", "(c)", "(d)"]
    assert sorted((place.name, place.stat().st_mtime_ns) for place in RESULTS.iterdir()) == before


def test_in_the_quick_versions_outer_steps_the_meta_loss_falls(tmp_path: Path, monkeypatch: Any) -> None:
    """Some 20 seconds. It begins as Adam, so most of the fall is in the first 50 steps."""
    losses: list[float] = []
    monkeypatch.setattr(quality, "_told", lambda _, now: losses.append(now.loss))
    quality.meta_trained("mup", 0, quality.Extent(folder=tmp_path, **quality.QUICK))
    assert np.mean(losses[-ENDS:]) < 0.9 * np.mean(losses[:ENDS])


def test_a_claim_is_said_to_hold_where_its_figures_do_and_only_there() -> None:
    extent = quality.Extent(folder=Path(), outer_steps=1)

    def rule(home: float, wide: float, final: float, far: float) -> Any:
        cells = {(32, 200): (home, final), (512, 200): (wide, final), (32, 1000): (home, far)}
        return {quality._named(*c): {"mean": {"mean": m}, "final": {"mean": f}} for c, (m, f) in cells.items()}

    adam = rule(0.2, 0.2, 0.01, 0.01)
    rivals = dict.fromkeys(("mup, tuned on mean loss", "mup cosine, tuned on final loss"), adam)
    good = {
        "mup": rule(0.19, 0.2, 0.1, 0.1),
        "standard": rule(0.2, 0.7, 0.1, 0.1),
        "mup cosine": rule(0.2, 0.2, 0.009, 0.0),
    }
    bad = {
        "mup": rule(0.21, 0.3, 0.1, 0.1),
        "standard": rule(0.2, 0.5, 0.1, 0.1),
        "mup cosine": rule(0.2, 0.2, 0.009, 0.1),
    }
    for arms, holds in ((good, True), (bad, False)):
        said = quality.claims({"arms": {n: {"0": a} for n, a in arms.items()}, "adam": rivals}, extent)
        assert [line.startswith("holds") for line in said.splitlines()] == [holds] * 4
