"""compare_parametrizations: on losses whose truth is known, and on real tiny runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny import CONTEXT, recipe
from torch import nn

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.ladder import Rung
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.optimizers import AdamW
from windtunnel.scaling.rules import MuP, Standard
from windtunnel.transfers import Comparison, judged
from windtunnel.tune import Tried

RUNGS = [Rung(width=w, depth=2, tokens=1000) for w in (32, 64, 128, 256)]
RATES = [2.0**k for k in range(-11, -3)]


def tried(moves, bend=0.02, noise=0.002, seeds=3, seed=0):
    """Basins whose optimum moves from 2^-7 by `moves` (log2) at each rung."""
    draw = np.random.default_rng(seed)
    return [
        [
            Tried(lr, s, 2 + bend * (math.log2(lr) + 7 - move) ** 2 + 0.02 * s + noise * draw.standard_normal())
            for lr in RATES
            for s in range(seeds)
        ]
        for move in moves
    ]


def rule(moves, name="rule", **more):
    return judged(name, "lr", RUNGS, tried(moves, **more))


def test_an_optimum_that_stays_transfers():
    found = rule((0, 0, 0, 0))
    assert found.verdict == "transfers" and found.drift[-1].holds(0.0) and found.gap[-1].high < 0.003


def test_an_optimum_that_moves_does_not_and_its_drift_is_found():
    found = rule((0, -0.5, -1.0, -1.5))
    assert found.verdict == "does not transfer"
    assert found.drift[-1].median == pytest.approx(-1.5, abs=0.15) and found.drift[-1].holds(-1.5)
    assert found.per_doubling.median == pytest.approx(-0.5, abs=0.05)
    assert found.gap[-1].holds(0.02 * 1.5**2 / 2) and found.penalty.median == pytest.approx(0.02 * 2**2 / 2, rel=0.15)


def test_few_noisy_seeds_cannot_tell():
    assert rule((0, 0, -0.3, -0.3), noise=0.03, bend=0.05, seeds=2).verdict == "cannot tell"
    assert rule((0, 0, 0, 0), seeds=1).verdict == "cannot tell"


def test_intervals_of_the_drift_hold_the_truth_about_as_often_as_they_say():
    """90 % intervals, 20 worlds with a drift of -0.7; fewer than 15 hold with a probability of 1 %."""
    worlds = [judged("rule", "lr", RUNGS[::3], tried((0, -0.7), noise=0.01, seed=seed)) for seed in range(20)]
    assert sum(world.drift[-1].holds(-0.7) for world in worlds) >= 15


def test_an_optimum_beyond_the_values_is_no_transfer():
    assert rule((0, 2, 4, 6)).verdict != "transfers"


def test_a_base_whose_optimum_lies_beyond_the_values_cannot_tell():
    found = rule((-4.2, -3.8, -3.7, -3.6), noise=1e-4)  # values end at -4
    assert found.gap[-1].high < 0.003 and found.verdict.startswith("cannot tell")


def test_rules_are_ranked_by_the_loss_of_the_carried_value_and_paired_by_seed():
    good, bad = rule((0, 0, 0, 0), "good"), rule((0, -0.5, -1.0, -1.5), "bad")
    both = Comparison(rules=(good, bad), missing={})
    beside = both.against_best(bad)
    assert beside is not None and beside.low > 0 and both.against_best(good) is None
    assert "bad" in str(both) and "does not transfer" in str(both)


def compared(corpus, store, rules, **more):
    base = recipe(corpus, optimizer=AdamW(lr=wt.tuned(2**-9, 2**-3)), batch=FixedBatch(examples=4))
    rungs = [Rung(width=w, depth=1, heads=w // 8, tokens=CONTEXT * 4 * 20) for w in (8, 32)]
    asked = {"rungs": rungs, "store": store, "seeds": 2, "values": [2**-8, 2**-6, 2**-4]} | more
    return wt.compare_parametrizations(base, rules, **asked)


@pytest.fixture
def store(tmp_path):
    return wt.Store(tmp_path / "runs")


def test_rules_are_one_at_the_base_and_differ_above(corpus, store):
    found = compared(corpus, store, {"muP": MuP(), "standard": Standard()})
    by_name = {rule.name: rule for rule in found.rules}
    losses = [[t.loss for t in by_name[name].basins[at].tried] for at in (0, 1) for name in ("muP", "standard")]
    assert losses[0] == losses[1] and losses[2] != losses[3]
    assert found.to_json()["rules"][0]["tried"]


def test_a_second_call_trains_nothing(corpus, store):
    compared(corpus, store, {"muP": MuP()})

    def refuses(*_):
        raise AssertionError("nothing is left to train")

    again = compared(corpus, store, {"muP": MuP()}, launcher=refuses)
    assert len(again.rules) == 1


def test_what_cannot_be_compared_is_refused(corpus, store):
    with pytest.raises(InputError, match="a transfer needs the base and at least one larger rung"):
        compared(corpus, store, {}, rungs=[RUNGS[0]])
    with pytest.raises(InputError, match="2 values of lr to try; a basin needs 3"):
        compared(corpus, store, {}, values=[0.1, 0.2])
    with pytest.raises(InputError, match="varies one field; the recipe leaves none open"):
        wt.compare_parametrizations(recipe(corpus, optimizer=AdamW(lr=0.1)), {}, rungs=RUNGS, store=store)


def test_the_gap_is_nothing_where_the_optimum_hardly_moves():
    """Both losses are read off one curve a seed, so noise that they share is not counted."""
    found = rule((0, 0, 0, 0.05), noise=0.01)
    assert abs(found.gap[-1].median) < 1e-3 and found.gap[-1].high < 0.003


def test_losses_near_zero_are_read_as_shares():
    """A toy that is learnt by heart: losses fall by a thousand between neighbouring values."""
    steep = [Tried(lr, seed, 10.0 ** -(k % 5 + 0.01 * seed)) for k, lr in enumerate(RATES) for seed in (0, 1)]
    found = judged("rule", "lr", RUNGS[:2], [steep, steep])
    assert all(loss > 0 for loss in found.there.values()) and found.gap[-1].median >= 0


def test_rungs_that_do_not_grow_are_refused_and_a_growing_batch_is_growth():
    with pytest.raises(InputError, match="The rungs do not grow"):
        judged("rule", "lr", [RUNGS[0], RUNGS[0]], tried((0, 0)))
    batches = [RUNGS[0].but(batch=n) for n in (8, 32)]
    assert judged("rule", "lr", batches, tried((0, 0))).growths == (1.0, 4.0)


# a loop of one's own


def network(width):
    return nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 4))


def batch(seed, step):
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(1000 * seed + step))
    return x, (x @ torch.linspace(-1, 1, 32).view(8, 4)).argmax(dim=1)


def cross_entropy(model, given):
    return nn.functional.cross_entropy(model(given[0]), given[1])


def setup(**more):
    asked = {"build": network, "base": 16, "optimizer": torch.optim.AdamW, "loss": cross_entropy, "batches": batch}
    return wt.checks.Setup(**{**asked, "lr": 0.03, **more})


def test_a_loop_of_ones_own_is_judged_by_its_own_losses():
    heard = []
    found = wt.transfer_check(
        setup(), (16, 64), steps=30, seeds=(0, 1), rules={"muP": MuP(), "standard": Standard()}, report=heard.append
    )
    by_name = {rule.name: rule for rule in found.rules}
    assert [t.loss for t in by_name["muP"].basins[0].tried] == [t.loss for t in by_name["standard"].basins[0].tried]
    assert by_name["standard"].drift[-1].median < by_name["muP"].drift[-1].median
    assert {progress.size for progress in heard} == {16, 64, None}


def test_a_held_out_loss_is_taken_where_one_is_given():
    found = wt.transfer_check(setup(), (16, 32), steps=2, seeds=(0, 1), evaluate=lambda model: 1.0)
    assert {t.loss for t in found.rules[0].basins[0].tried} == {1.0}


def test_rates_at_which_all_diverge_are_an_outcome():
    def exploding(model, given):
        return cross_entropy(model, given) * (float("nan") if model[0].weight.abs().max() > 0.5 else 1.0)

    found = wt.transfer_check(setup(loss=exploding), (16, 32), steps=40, seeds=(0,))
    assert found.rules == () and "diverged" in str(found)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"evaluate": lambda model: -0.9}, "A loss of -0.9 at .*16.*return 1 - accuracy"),
        ({"evaluate": lambda model: 0.0}, "must be above 0"),
        ({"seeds": (0, 0, 1)}, "each seed once"),
        ({"sizes": (32, 16)}, "from small to large"),
    ],
)
def test_what_gives_no_comparison_is_refused(changes, says):
    asked = {"sizes": (16, 32), "steps": 2, "seeds": (0, 1)} | changes
    with pytest.raises(InputError, match=says):
        wt.transfer_check(setup(), asked.pop("sizes"), **asked)


def test_a_check_of_one_size_is_refused():
    with pytest.raises(InputError, match=r"transfer_check\(sizes=\[16\].*a larger size"):
        wt.transfer_check(setup(), (16,), steps=2)
