"""Data plans made of another one, and the probes that look at a trained network: each against an answer known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
import torch

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.ideas.data_diet import HardestByEL2N, scores
from windtunnel.parts.data.altered import Drawn, NoisyLabels, Subset
from windtunnel.parts.probes.calibration import calibration_error
from windtunnel.parts.probes.collapse import within_class_variability
from windtunnel.parts.probes.rank import effective_rank

DIGITS = wt.data.digits()


def everything(data):
    return data.taken(np.arange(data.examples()))


def test_a_subset_holds_what_was_chosen_and_the_judge_sees_no_difference():
    some = Subset(DIGITS, Drawn(100, seed=3))
    x, _ = some.batch(seed=1, step=0, size=100)
    chosen = Drawn(100, seed=3)(DIGITS)
    assert some.examples() == len(set(chosen.tolist())) == 100 and some.shape().train_tokens == 100
    assert {a.tobytes() for a in x} == {a.tobytes() for a in DIGITS.taken(chosen)[0]}  # one pass sees each once
    held, own = (list(data.held_out(size=50, tokens=359)) for data in (some, DIGITS))
    assert all(np.array_equal(a, b) for one, two in zip(held, own, strict=True) for a, b in zip(one, two, strict=True))
    prints = {d.fingerprint() for d in (DIGITS, some, Subset(DIGITS, Drawn(100)), Subset(DIGITS, Drawn(99, seed=3)))}
    assert len(prints) == 4
    with pytest.raises(InputError, match="the data have 1,438 training examples"):
        Subset(DIGITS, Drawn(2000)).examples()


def test_noise_is_the_same_in_every_pass_and_never_the_true_label():
    noisy = NoisyLabels(DIGITS, 0.4, seed=1)
    (x, y), (clean_x, clean_y) = everything(noisy), everything(DIGITS)
    assert np.array_equal(x, clean_x)
    wrong = (y != clean_y).mean()
    assert abs(wrong - 0.4) < 4 * math.sqrt(0.24 / len(y))
    counts = np.bincount((y - clean_y)[y != clean_y] % 10, minlength=10)
    assert counts[0] == 0 and counts[1:].min() > 0.5 * counts[1:].mean()
    again = everything(NoisyLabels(DIGITS, 0.4, seed=1))[1]
    assert np.array_equal(y, again) and not np.array_equal(y, everything(NoisyLabels(DIGITS, 0.4, seed=2))[1])
    assert np.array_equal(
        next(iter(noisy.held_out(size=359, tokens=359)))[1], next(iter(DIGITS.held_out(size=359, tokens=359)))[1]
    )
    with pytest.raises(InputError, match="share of the labels"):
        NoisyLabels(DIGITS, 40)


def test_text_can_be_altered_too(corpus):
    data = tiny.text(corpus)
    few = Subset(data, Drawn(20))
    x, y = few.batch(seed=0, step=7, size=8)
    assert x.shape == y.shape == (8, tiny.CONTEXT) and np.array_equal(x[:, 1:], y[:, :-1])
    assert (everything(NoisyLabels(data, 0.5))[1] != everything(data)[1]).mean() == pytest.approx(0.5, abs=0.05)


def test_hard_examples_are_the_ones_with_wrong_labels():
    noisy = NoisyLabels(Subset(DIGITS, Drawn(500)), 0.1)
    by = HardestByEL2N(networks=2)
    wrong = (everything(noisy)[1] != everything(noisy.data)[1]).flatten()
    found = scores(by, noisy)
    assert np.median(found[wrong]) > np.quantile(found[~wrong], 0.9)
    kept = by(noisy)
    assert len(kept) == 250 and wrong[kept].sum() > 0.9 * wrong.sum()
    offset = HardestByEL2N(networks=2, noisiest=0.15)(noisy)
    assert wrong[offset].sum() < 0.5 * wrong.sum()
    assert np.array_equal(found, scores(by, noisy))


def test_probes_know_the_answers_that_have_one():
    eye, line = torch.eye(8), torch.ones(8, 1) @ torch.arange(1.0, 9.0)[None]
    assert effective_rank(eye) == pytest.approx(8, rel=1e-4) and effective_rank(line) == pytest.approx(1, rel=1e-3)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(400, 8, generator=generator)
    assert effective_rank(line.repeat(50, 1) / 10 + noise) > 4  # the known limit: noise looks like rank
    targets = torch.arange(400) % 4
    means = torch.eye(4, 8)
    collapsed = means[targets]
    assert within_class_variability(collapsed, targets) == pytest.approx(0, abs=1e-9)
    loose, tight = (within_class_variability(collapsed + s * noise, targets) for s in (1.0, 0.1))
    assert loose > 50 * tight > 0
    assert math.isnan(within_class_variability(noise, torch.zeros(400)))
    sure = torch.full((1000,), 0.8)
    right = torch.arange(1000) % 10 < 8
    assert calibration_error(sure, right) == pytest.approx(0, abs=1e-6)
    assert calibration_error(sure, torch.ones(1000, dtype=torch.bool)) == pytest.approx(0.2, abs=1e-6)
