"""The arithmetic of the gallery's checks on data and on going on with new data, each against an answer known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from studies.gallery import checks_anchors as anchors
from studies.gallery import checks_continual as continual
from studies.gallery import checks_data as data
from studies.gallery.checks import DIGITS
from studies.gallery.checks_hard import TAIL, LongTail, TailAccuracy


def run(flops: float, loss: float | None) -> Any:
    """What the checks read of a run."""
    return SimpleNamespace(cost=SimpleNamespace(flops=flops), loss=loss)


def test_flops_to_a_loss_are_read_off_a_power_law_exactly():
    def of(flops: float) -> Any:
        return run(flops, 3 * flops**-0.1)

    assert data._flops_to(of(1.4e9).loss, of(1e9), of(2e9)) == pytest.approx(1.4e9)
    assert data._flops_to(of(0.5e9).loss, of(1e9), of(2e9)) == 1e9  # it is there already: no less is claimed
    assert data._flops_to(1.0, run(1e9, 2.0), run(2e9, 2.1)) == np.inf  # more tokens that do not help never reach it


def test_the_replay_share_needed_is_between_the_shares_that_were_tried():
    assert continual.SHARES == (0.0, 0.01, 0.05, 0.25)
    assert continual._needed([0.5, 0.4, 0.2, 0.0]) == pytest.approx(15)
    assert continual._needed([0.05, 0.4, 0.2, 0.0]) == 0
    assert continual._needed([0.5, 0.4, 0.3, 0.2]) == 25


def test_what_is_tuned_on_another_shift_never_looks_better_than_what_is_tuned_on_its_own():
    draw = np.random.default_rng(0)
    for _ in range(20):
        table = draw.normal(3, 0.1, (2, 4, 5))
        assert anchors.own(table).mean() <= anchors.transferred(table).mean()
    table = np.zeros((2, 2, 3)) + np.array([[1.0, 2.0], [4.0, 3.0]])[:, :, None]  # each shift has another best value
    assert anchors.own(table).tolist() == [2.0] * 3 and anchors.transferred(table).tolist() == [3.0] * 3


def test_the_fisher_anchor_pulls_by_importance():
    now, start = ({"a": torch.tensor([x]), "b": torch.tensor([y])} for x, y in ((1.0, 5.0), (0.0, 3.0)))
    part = anchors.FisherAnchor(strength=0.5, importance={"a": torch.tensor([2.0]), "b": torch.tensor([0.25])})
    outputs, targets = torch.zeros(2, 1, 4), torch.zeros(2, 1, dtype=torch.long)
    found = part(outputs, targets, {"params": now, "start": start})
    assert found.flatten().tolist() == pytest.approx([np.log(4) + 0.5 * (2 * 1 + 0.25 * 4)] * 2)


def test_a_long_tail_has_a_tenth_of_the_rare_classes_and_its_accuracy_is_theirs():
    labels = DIGITS.taken(np.arange(DIGITS.examples()))[1][:, 0]
    kept = np.bincount(labels[LongTail()(DIGITS)], minlength=10)
    whole = np.bincount(labels, minlength=10)
    assert all(kept[c] == (-(-whole[c] // 10) if c in TAIL else whole[c]) for c in range(10))

    def says_five(images):
        return torch.nn.functional.one_hot(torch.full((len(images), 1), 5), 10).float()

    batch = (torch.zeros(6, 1, 8, 8), torch.tensor([[5], [5], [6], [9], [0], [1]]))
    assert TailAccuracy()(says_five, [batch]) == {"tail_accuracy": 0.5}  # type: ignore[arg-type]
