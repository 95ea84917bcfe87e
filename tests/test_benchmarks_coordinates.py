"""The coordinate matrix in small: the arithmetic on known slopes, and muP beside the standard parametrization."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks are not part of the package

from benchmarks import coordinates

WIDTHS, SEEDS = (32, 64, 128), 3
# Exponents of rules come in halves, so a wrong one shows as 0.5 in the end; half of that tells right from wrong.
BETWEEN = 0.25


def noisy(exponent, scatter, seed):
    """Scatter of each width, and a shift that a seed has at all of them and that is no scatter of the slope."""
    draw = np.random.default_rng(seed)
    shift = draw.normal(size=SEEDS)
    return {w: exponent * math.log(w) + shift + scatter * draw.normal(size=SEEDS) for w in WIDTHS}


def test_the_slope_of_a_power_is_its_exponent():
    value, half = coordinates.slope(noisy(0.7, 0.0, 0))
    assert value == pytest.approx(0.7) and half == pytest.approx(0, abs=1e-6)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """90 of 100, and 1000 worlds have a standard error of one in a hundred."""
    fits = [coordinates.slope(noisy(0.3, 0.2, seed)) for seed in range(1000)]
    assert np.mean([abs(value - 0.3) <= half for value, half in fits]) == pytest.approx(0.9, abs=0.04)


def test_what_was_measured_is_read_and_not_measured_again(tmp_path):
    first = coordinates.Kept(tmp_path / "kept")
    assert first.get("a", lambda: [1.5]) == [1.5]
    again = coordinates.Kept(tmp_path / "kept")
    assert again.get("a", lambda: pytest.fail("measured twice")) == [1.5]
    assert set(again.seconds) == {"a"}


def test_experts_of_a_block_are_one_module_and_the_readout_is_none(tmp_path):
    recipe = coordinates.recipe_of("SGD", "experts", {"lr": 0.1}, "muP")
    found = coordinates.measured(recipe, 32, 32, 0)
    names = set(coordinates._logs(found["seen"]))
    assert {"blocks.0.mlp.experts.*.down", "norm"} <= names
    assert not {"readout", "blocks.0.mlp.experts.0.down", "blocks.0.mlp.router"} & names
    assert set(found["routers"]) == {"blocks.0.mlp.router", "blocks.1.mlp.router"}


def test_what_standard_training_adds_grows_with_width_and_what_mup_adds_does_not(tmp_path, capsys):
    models, optimizers = ("decoder", "gated"), ("AdamW", "Lion")
    plans = dict.fromkeys(("muP", "standard"), (WIDTHS, SEEDS))
    found = coordinates.main(tmp_path / "kept", plans, models, optimizers)
    for cell in (f"{o} {m}" for o in optimizers for m in models):
        wrong = found["cells"][f"standard {cell}"]["move"]
        value, half = wrong["modules"][wrong["worst"]]
        assert value - half > BETWEEN, (cell, wrong)
        for right in (found["cells"][f"muP {cell}"][quantity] for quantity in ("size", "move")):
            value, half = right["modules"][right["worst"]]
            assert abs(value) - half < BETWEEN, (cell, right)
        assert found["cells"][f"muP {cell}"]["move"]["median"] < wrong["median"]
    said = capsys.readouterr().out
    assert all(name in said for name in (*models, *optimizers, "muP, slope of", "standard, slope of"))
