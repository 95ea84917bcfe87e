"""Values carried over batch and horizon inside the engine: what a run is trained with when its rung differs."""

from __future__ import annotations

import pytest
from tiny import alone, pack, recipe

from windtunnel.errors import InputError
from windtunnel.ladder import Rung
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.optimizers import SGD, AdamW
from windtunnel.scaling.rules.carry import complete, linear, square_root
from windtunnel.train.pack import carried


def base(corpus, carry=None, optimizer=None):
    part = optimizer or AdamW(lr=0.01, weight_decay=0.1)
    return recipe(corpus, optimizer=part, batch=FixedBatch(examples=4, carry=carry))


SMALL = Rung(width=8, depth=1, tokens=1024)
GROWN = SMALL.but(tokens=4096, batch=16)


def test_without_a_rule_nothing_changes(corpus):
    assert carried(base(corpus), GROWN, SMALL) == base(corpus)


def test_at_the_bases_batch_and_horizon_nothing_changes(corpus):
    assert carried(base(corpus, complete), SMALL.but(width=16), SMALL).optimizer == base(corpus).optimizer


def test_values_follow_the_rule_of_the_batch_part(corpus):
    found = carried(base(corpus, square_root), GROWN, SMALL).optimizer
    assert (found.lr, found.eps, found.weight_decay) == pytest.approx((0.02, 5e-9, 0.2))
    assert (1 - found.beta1, 1 - found.beta2) == pytest.approx((0.4, 0.2))
    longer = carried(base(corpus, complete), SMALL.but(tokens=4096), SMALL).optimizer
    assert longer.lr == pytest.approx(0.005)


def test_a_rule_that_does_not_reach_is_refused(corpus):
    with pytest.raises(InputError, match=r"beta1=0\.9 would become"):
        carried(base(corpus, square_root), SMALL.but(batch=64), SMALL)


def test_a_run_is_trained_with_the_carried_values(corpus):
    """The same bits as a run whose recipe holds those values itself."""
    part = SGD(lr=0.05, momentum=0.0)
    rungs = {"rung": SMALL.but(batch=8), "base": SMALL.but(batch=4)}
    followed = pack(base(corpus, linear, part), [{}], **rungs)
    by_hand = pack(base(corpus, None, SGD(lr=0.1, momentum=0.0)), [{}], **rungs)
    kept = pack(base(corpus, None, part), [{}], **rungs)
    losses = [alone(each, 0).loss for each in (followed, by_hand, kept)]
    assert losses[0] == losses[1] != losses[2]
