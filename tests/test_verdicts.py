"""Verdicts: pairing pays, the sign is found, and P(better) means what it says."""

import json

import numpy as np
import pytest

from windtunnel.errors import InputError
from windtunnel.forecasts import Verdict, compare
from windtunnel.forecasts.gap import fit_gap
from windtunnel.forecasts.pairs import paired
from windtunnel.ladder import Target
from windtunnel.laws import Observations

SIZES = np.geomspace(1e6, 3e7, 6)
TARGET = Target(params=9e7, tokens=20 * 9e7)


def _pair(gap, slope=0.0, *, seeds=3, common=0.008, own=0.001, seed=0, sizes=SIZES):
    """Base and idea runs: `gap` in log loss at the top rung, changing by `slope` per e-fold of params."""
    generator = np.random.default_rng(seed)
    n = np.repeat(sizes, seeds)
    names = np.tile([str(i) for i in range(seeds)], len(sizes))
    shared = common * generator.standard_normal(len(n))
    base = (1.7 + 300 * n**-0.4) * np.exp(shared)
    idea = base * np.exp(gap + slope * np.log(n / sizes[-1]) + own * generator.standard_normal(len(n)))
    return tuple(
        Observations(loss=loss, params=n, tokens=20 * n, flops=120 * n * n, seed=names) for loss in (base, idea)
    )


def test_a_steady_gain_helps():
    verdict = compare(*_pair(-0.01), TARGET)
    assert verdict.verdict == "helps"
    assert verdict.probability_better > 0.95
    assert verdict.relative.holds(np.expm1(-0.01))
    assert verdict.compute_multiplier.low > 1
    assert verdict.pairs == 18 and verdict.rungs == 6


def test_a_steady_loss_hurts():
    verdict = compare(*_pair(0.01), TARGET)
    assert verdict.verdict == "hurts"
    assert verdict.compute_multiplier.high < 1


def test_a_gain_that_is_gone_at_the_target_fades():
    verdict = compare(*_pair(-0.004, 0.005), TARGET)
    assert verdict.verdict == "fades"
    assert verdict.ladder.high < 0


def test_no_difference_cannot_be_told():
    verdicts = [compare(*_pair(0.0, seed=seed), TARGET) for seed in range(5)]
    assert sum(each.verdict == "cannot tell" for each in verdicts) >= 4
    assert all(each.compute_multiplier.holds(1.0) for each in verdicts if each.verdict == "cannot tell")


def test_verdict_reads_as_a_person_says_it():
    assert str(compare(*_pair(-0.01), TARGET)).startswith("helps: 1.")
    assert "x compute [" in (text := str(compare(*_pair(-0.01), TARGET))) and "P(better) = " in text


def _strangers(seed):
    """An idea's runs that share neither seeds nor noise with the base of `_pair(-0.01)`."""
    idea = _pair(-0.01, seed=100 + seed)[1]
    return Observations(
        loss=idea.loss, params=idea.params, tokens=idea.tokens, flops=idea.flops, seed=np.char.add("x", idea.seed)
    )


def test_pairing_by_seed_cuts_the_error_of_the_gap_three_times():
    bases = [_pair(-0.01, seed=seed) for seed in range(20)]
    same = [fit_gap(paired(base, idea)).level + 0.01 for base, idea in bases]
    apart = [fit_gap(paired(base, _strangers(seed))).level + 0.01 for seed, (base, _) in enumerate(bases)]
    assert np.std(apart) > 3 * np.std(same)


def test_runs_not_paired_by_seed_get_a_wider_gap_and_a_caveat():
    base, idea = _pair(-0.01)
    same, apart = compare(base, idea, TARGET), compare(base, _strangers(0), TARGET)
    assert apart.relative.high - apart.relative.low > 1.5 * (same.relative.high - same.relative.low)
    assert any("not paired by seed" in caveat for caveat in apart.caveats)


def test_swapping_base_and_idea_flips_the_gap():
    base, idea = _pair(-0.01)
    ours, theirs = compare(base, idea, TARGET), compare(idea, base, TARGET)
    assert theirs.probability_better == pytest.approx(1 - ours.probability_better, abs=1e-6)
    assert (theirs.verdict, ours.verdict) == ("hurts", "helps")


def test_the_compute_multiplier_is_what_the_base_would_need():
    """The idea is the base with 1.5 times the compute: the multiplier must say so."""
    n = np.repeat(SIZES, 2)
    names = np.tile(["0", "1"], len(SIZES))
    base, idea = (
        Observations(loss=1.7 + 300 * (n * boost) ** -0.4, params=n, tokens=20 * n, flops=120 * n * n, seed=names)
        for boost in (1.0, np.sqrt(1.5))
    )
    multiplier = compare(base, idea, TARGET).compute_multiplier
    assert multiplier.holds(1.5)
    assert multiplier.median == pytest.approx(1.5, rel=0.2)


def test_runs_without_a_partner_are_left_out_and_said():
    base, idea = _pair(-0.01)
    verdict = compare(base, idea.where(np.arange(18) > 0), TARGET)
    assert verdict.pairs == 17
    assert any("17 pairs among 18" in caveat for caveat in verdict.caveats)


def test_pairs_at_one_rung_are_refused():
    base, idea = _pair(-0.01)
    with pytest.raises(InputError, match="1 rung"):
        compare(base, idea.where(idea.params == SIZES[0]), TARGET)


def test_a_slope_is_believed_only_on_evidence():
    flat = fit_gap(paired(*_pair(-0.01, 0.0)))
    sloped = fit_gap(paired(*_pair(-0.01, 0.004)))
    assert flat.slope_probability < 0.5 < 0.95 < sloped.slope_probability


def test_a_verdict_survives_json():
    verdict = compare(*_pair(-0.01), TARGET, name="idea", study="s")
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict


def test_probability_better_is_calibrated_on_random_worlds():
    """Gaps, slopes and noise at random; the truth is the sign of the expected gap at the target."""
    generator = np.random.default_rng(7)
    said, true = [], []
    for _ in range(400):
        gap, slope = generator.normal(0, 0.004), generator.normal(0, 0.0015)
        sizes = np.geomspace(1e6, 3e7, int(generator.integers(4, 7)))
        pairs = paired(
            *_pair(gap, slope, seeds=int(generator.integers(1, 4)), own=generator.uniform(0.001, 0.004),
                   seed=int(generator.integers(1 << 30)), sizes=sizes)
        )  # fmt: skip
        said.append(float(fit_gap(pairs).at(np.log(120 * 9e7**2)).cdf(0.0)))
        true.append(gap + slope * np.log(3) < 0)
    said, true = np.array(said), np.array(true)
    assert np.mean((said - true) ** 2) < 0.16
    sure = np.maximum(said, 1 - said) > 0.9
    right = np.where(said > 0.5, true, ~true)
    assert sure.mean() > 0.2
    assert right[sure].mean() > 0.88
    assert 0.55 < right[~sure].mean() < 0.9
