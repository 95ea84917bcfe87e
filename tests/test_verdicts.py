"""Verdicts: pairing pays, the sign is found, and P(better) means what it says."""

import json

import numpy as np
import pytest

from windtunnel.errors import InputError
from windtunnel.forecasts import Verdict, compare, difference
from windtunnel.forecasts.gap import fit_gap
from windtunnel.forecasts.pairs import paired
from windtunnel.ladder import Rung, Size, Target
from windtunnel.laws import Observations
from windtunnel.laws.law import Sizes
from windtunnel.runs import Cost, Outcome, Run, RunSpec

SIZES = np.geomspace(1e6, 3e7, 6)
TARGET = Target(params=9e7, tokens=20 * 9e7)


def _at(params, tokens=None):
    """One size, on the ladder's path unless tokens are given."""
    n = np.atleast_1d(np.asarray(params, float))
    d = 20 * n if tokens is None else np.atleast_1d(np.asarray(tokens, float))
    return Sizes(params=n, tokens=d, flops=6 * n * d)


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
    verdict = compare(*_pair(0.0), TARGET)
    assert verdict.verdict == "cannot tell"
    assert verdict.compute_multiplier.holds(1.0)
    said = [float(fit_gap(paired(*_pair(0.0, seed=seed))).at(_at(9e7)).cdf(0.0)) for seed in range(40)]
    assert np.mean(np.abs(np.array(said) - 0.5) < 0.45) > 0.85


def test_verdict_reads_as_a_person_says_it():
    verdict = compare(*_pair(-0.01), TARGET)
    *caveats, last = str(verdict).splitlines()
    assert caveats == [f"caveat: {each}" for each in verdict.caveats]
    assert last.startswith("verdict at 90M params") and f": {verdict.summary}; loss -0.0" in last
    text = verdict.summary
    assert text.startswith("helps: 1.")
    assert "x compute [" in text and "P(better) = " in text


def _strangers(seed):
    """An idea's runs that share neither seeds nor noise with the base of `_pair(-0.01)`."""
    idea = _pair(-0.01, seed=100 + seed)[1]
    return Observations(
        loss=idea.loss, params=idea.params, tokens=idea.tokens, flops=idea.flops, seed=np.char.add("x", idea.seed)
    )


def test_pairing_by_seed_cuts_the_error_of_the_gap_three_times():
    bases = [_pair(-0.01, seed=seed) for seed in range(20)]
    same = [float(fit_gap(paired(base, idea)).on_ladder().quantile(0.5)) + 0.01 for base, idea in bases]
    apart = [
        float(fit_gap(paired(base, _strangers(seed))).on_ladder().quantile(0.5)) + 0.01
        for seed, (base, _) in enumerate(bases)
    ]
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
    assert any("17 pairs; 1 of 18 base runs have no partner" in caveat for caveat in verdict.caveats)


def test_pairs_at_one_rung_are_refused():
    base, idea = _pair(-0.01)
    with pytest.raises(InputError, match="1 rung"):
        compare(base, idea.where(idea.params == SIZES[0]), TARGET)


def test_a_slope_is_believed_only_on_evidence():
    flat = fit_gap(paired(*_pair(-0.01, 0.0)))
    sloped = fit_gap(paired(*_pair(-0.01, 0.004)))
    assert flat.probability("constant") > 0.5 > 4 * sloped.probability("constant")


def test_a_verdict_survives_json():
    verdict = compare(*_pair(-0.01), TARGET, name="idea", study="s")
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict


def test_an_old_record_without_a_crossing_is_read():
    stated = compare(*_pair(-0.01), TARGET).to_json()
    del stated["crossing"], stated["crossing_axis"], stated["one_pair"]
    read = Verdict.from_json(stated)
    assert read.crossing is None and read.one_pair is None


def test_one_more_pair_shows_the_expected_difference_and_a_pairs_noise():
    """Noise of 0.8 % in 60 pairs hides little of the mean, and all of what the next pair shows."""
    base, idea = _pair(-0.01, own=0.008, seeds=10)
    verdict = compare(base, idea, Target(params=3e7, tokens=6e8))
    ours, noise = verdict.delta.high - verdict.delta.low, 2 * 1.645 * 0.008 * (1.7 + 300 * 3e7**-0.4)
    assert verdict.one_pair is not None
    assert verdict.one_pair.high - verdict.one_pair.low == pytest.approx(np.hypot(ours, noise), rel=0.3)
    assert ours < 0.5 * noise


def test_a_steady_gain_in_tight_pairs_helps_even_far_away():
    base, idea = _pair(-0.01, own=0.0003)
    far = compare(base, idea, Target(params=1e9, tokens=2e10))  # 1100x the top rung's compute
    near = compare(base, idea, TARGET)
    assert far.verdict == "helps"
    assert far.probability_better < near.probability_better
    assert far.relative.high - far.relative.low > 2 * (near.relative.high - near.relative.low)


def test_a_fading_gain_that_never_crosses_is_not_foretold_to_cross():
    n = np.repeat(SIZES, 2)
    base = 1.7 + 300 * n**-0.4
    ours, theirs = (
        Observations(loss=loss, params=n, tokens=20 * n, flops=120 * n * n, seed=np.tile(["0", "1"], len(SIZES)))
        for loss in (base, base * np.exp(-0.01 * (n / SIZES[-1]) ** -0.5))
    )
    verdict = compare(ours, theirs, TARGET)
    assert verdict.verdict == "helps"
    assert verdict.crossing is None
    assert verdict.relative.median == pytest.approx(np.expm1(-0.01 * 3**-0.5), rel=0.1)


def test_a_crossing_beyond_the_ladder_is_foretold_with_never_as_its_bound():
    verdict = compare(*_pair(-0.004, 0.003, own=0.0005), Target(params=4e8, tokens=8e9))
    truth = 120 * (SIZES[-1] * np.exp(0.004 / 0.003)) ** 2
    assert verdict.crossing is not None and verdict.crossing_axis == "flops"
    assert verdict.crossing.holds(truth)
    assert 1 / 4 < verdict.crossing.median / truth < 4
    assert verdict.crossing.high == pytest.approx(1000 * 120 * SIZES[-1] ** 2)
    assert "cross zero at" in str(verdict)


def test_a_crossing_inside_the_ladder_is_known_closely():
    verdict = compare(*_pair(0.004, 0.005, own=0.0005), TARGET)
    truth = 120 * (SIZES[-1] * np.exp(-0.004 / 0.005)) ** 2
    assert verdict.crossing is not None and verdict.crossing.holds(truth)
    assert verdict.crossing.high / verdict.crossing.low < 10
    assert verdict.verdict == "hurts"


def test_no_crossing_is_stated_where_the_ladder_shows_no_sign():
    assert compare(*_pair(0.0), TARGET).crossing is None


def test_a_gap_that_depends_on_tokens_alone_is_told_from_one_in_parameters():
    """The target has the top rung's compute with 16x fewer tokens a parameter: only tokens may move the gap."""
    n, d = (column.ravel() for column in np.meshgrid(np.geomspace(1e7, 8e7, 4), np.geomspace(2e8, 1.6e9, 4)))
    generator = np.random.default_rng(0)
    base = 1.7 + 300 * n**-0.4 + 2000 * d**-0.4
    idea = base * np.exp(-0.02 * (d / 2e8) ** -0.5 + 0.0003 * generator.standard_normal(len(n)))
    pairs = paired(*(Observations(loss=loss, params=n, tokens=d, flops=6 * n * d) for loss in (base, idea)))
    law = fit_gap(pairs)
    for params, tokens in ((3.2e8, 4e8), (2e7, 6.4e9)):
        expected = -0.02 * (tokens / 2e8) ** -0.5
        found = law.at(_at(params, tokens)).interval(0.95)
        assert found.holds(expected)
        assert found.median == pytest.approx(expected, rel=0.35)


def _width(law, params, tokens=None):
    interval = law.at(_at(params, tokens)).interval(0.9)
    return interval.high - interval.low


def test_a_target_off_the_ladders_line_is_less_sure_than_one_of_the_same_compute_on_it():
    law = fit_gap(paired(*_pair(-0.01)))  # 20 tokens a parameter
    on, fewer, more = _width(law, 9e7), _width(law, 4 * 9e7, 5 * 9e7), _width(law, 9e7 / 4, 80 * 9e7)
    assert min(fewer, more) > 1.5 * on


def _steady(params, tokens):
    """Pairs without seeds, 1 % better everywhere but for 0.03 % of noise."""
    generator = np.random.default_rng(0)
    base = 1.7 + 300 * params**-0.4 + 2000 * tokens**-0.4
    idea = base * np.exp(-0.01 + 0.0003 * generator.standard_normal(len(params)))
    flops = 6 * params * tokens
    return paired(*(Observations(loss=loss, params=params, tokens=tokens, flops=flops) for loss in (base, idea)))


def test_one_size_at_many_horizons_tells_less_of_a_larger_size_than_of_a_longer_horizon():
    law = fit_gap(_steady(np.full(6, 2e7), np.geomspace(2e8, 6.4e9, 6)))
    assert _width(law, 3.2e8, 6.4e9) > 2 * _width(law, 2e7, 16 * 6.4e9)


def test_pairs_at_one_budget_foretell_another_budget():
    """Sizes of one budget have no extent in FLOPs, which once made any other budget endlessly far away."""
    params = np.geomspace(1e7, 8e7, 6)
    law = fit_gap(_steady(params, 1e17 / params))
    found = law.at(_at(9e7, 1e18 / 9e7)).interval(0.9)
    assert found.holds(-0.01)
    assert _width(law, 3e7, 1e17 / 3e7) < found.high - found.low < 0.02


def test_a_fading_gain_may_cross_zero_far_beyond_the_ladder():
    """The gain halves with each 4x in size; which sign is left of it at 1000 times the top rung is a guess."""
    n = np.repeat(SIZES, 2)
    gap = -0.01 * (n / SIZES[0]) ** -0.5 + 0.0002 * np.random.default_rng(0).standard_normal(len(n))
    base = 1.7 + 300 * n**-0.4
    sizes = {"params": n, "tokens": 20 * n, "flops": 120 * n * n}
    law = fit_gap(paired(*(Observations(loss=loss, **sizes) for loss in (base, base * np.exp(gap)))))
    near, far = (float(law.at(_at(size)).cdf(0.0)) for size in (SIZES[-1], 1e3 * SIZES[-1]))
    assert near > 0.95
    assert 0.3 < far < 0.7


def test_many_pairs_do_not_thin_the_tails():
    """A gap goes another way beyond the ladder more often than a normal curve says, however tight the pairs."""
    found = fit_gap(paired(*_pair(-0.01, seeds=10))).on_ladder()
    lowest, low, high, highest = found.quantile(np.array([0.005, 0.25, 0.75, 0.995]))
    assert (highest - lowest) / (high - low) > 5  # 3.8 for a normal curve, 6.2 for Student-t of 4 degrees of freedom


def test_an_idea_that_adds_parameters_is_paired_at_its_rung():
    base, idea = _pair(-0.01)
    names = np.repeat([f"rung {i}" for i in range(len(SIZES))], 3)
    grown = {"params": 1.3 * idea.params, "tokens": idea.tokens, "flops": 1.3 * idea.flops}
    named = Observations(
        loss=base.loss, params=base.params, tokens=base.tokens, flops=base.flops, seed=base.seed, rung=names
    )
    larger = Observations(loss=idea.loss, **grown, seed=idea.seed, rung=names)
    pairs = paired(named, larger)
    assert len(pairs) == 18 and pairs.rungs == 6
    np.testing.assert_array_equal(np.unique(pairs.sizes.params), SIZES)


def test_a_swept_rate_is_judged_at_each_recipes_best():
    n, rates = np.repeat(SIZES, 5), np.tile(np.geomspace(0.25, 4, 5), len(SIZES))
    loss = 1.7 + 300 * n**-0.4
    columns = {"params": n, "tokens": 20 * n, "flops": 120 * n * n, "lr": rates}
    base = Observations(loss=loss * np.exp(0.01 * np.log2(rates) ** 2), **columns)
    idea = Observations(loss=loss * np.exp(0.01 * np.log2(rates / 2) ** 2 - 0.003), **columns)
    pairs = paired(base, idea)
    assert len(pairs) == 6
    np.testing.assert_allclose(pairs.gap, -0.003, atol=1e-9)


def test_runs_without_seeds_are_paired_by_lot_not_by_loss():
    """In order of loss the gaps of a rung would agree far better than two runs ever do."""
    base, _ = _pair(0.0, seeds=30)
    bare = [
        Observations(loss=o.loss, params=o.params, tokens=o.tokens, flops=o.flops).ordered()
        for o in (base, _strangers(0))
    ]
    within = paired(*bare).within()[0]
    assert 0.7 < within / (0.008 * np.sqrt(2)) < 1.4


def test_the_curve_of_differences_meets_the_verdict():
    base, idea = _pair(-0.01)
    verdict, curve = compare(base, idea, TARGET), difference(base, idea, [Target(params=3e7, tokens=6e8), TARGET])
    assert curve[1] == verdict.delta
    assert curve[0].high - curve[0].low < curve[1].high - curve[1].low


def test_the_unit_of_loss_and_of_tokens_do_not_matter():
    base, idea = _pair(-0.01)
    other = [
        Observations(
            loss=o.loss / np.log(2), params=o.params, tokens=1e-3 * o.tokens, flops=1e-3 * o.flops, seed=o.seed
        )
        for o in (base, idea)
    ]
    ours = fit_gap(paired(base, idea)).at(_at(9e7)).interval(0.9)
    theirs = fit_gap(paired(*other)).at(_at(9e7, 20e-3 * 9e7)).interval(0.9)
    assert theirs.low == pytest.approx(ours.low, rel=1e-6) and theirs.high == pytest.approx(ours.high, rel=1e-6)


KINDS = ("multiplier", "fading", "crossing", "own law", "none")


def _world(generator):
    """An idea of known worth 5 to 100 times beyond 4 to 8 rungs of 2 or 3 seeds: pairs, target and the true log gap.

    Log compute multipliers have a standard deviation of 0.25; a pair's noise is 0.03 to 0.5 % and falls with size.
    """
    exponent, share = generator.uniform(0.1, 0.4), generator.uniform(0.15, 0.6)
    rungs, seeds = int(generator.integers(4, 9)), int(generator.integers(2, 4))
    sizes = np.geomspace(1e6, 1e6 * 10 ** generator.uniform(1, 2), rungs)
    target, top = sizes[-1] * np.sqrt(5 * 20 ** generator.uniform()), sizes[-1]
    kind, gain = str(generator.choice(KINDS)), 0.25 * generator.standard_normal()
    fade, where, change = generator.uniform(0.1, 0.5), generator.uniform(-1.7, 1.7), generator.standard_normal(3)

    def base(n, power=exponent):
        return 1 + share / (1 - share) * (n / top) ** -power

    def idea(n):
        if kind == "own law":
            return (base(n, exponent * (1 + 0.03 * change[0])) - 1) * (1 + 0.02 * change[1]) + 1 + 0.01 * change[2]
        log_size = np.log(n / top)
        worth = {
            "multiplier": 1.0,
            "fading": np.exp(-fade * log_size),
            "crossing": (where - log_size) / 1.7,
            "none": 0.0,
        }
        return base(n * np.exp(0.5 * gain * worth[kind]))

    n = np.repeat(sizes, seeds)
    names = np.tile([str(i) for i in range(seeds)], rungs)
    noise = 10 ** generator.uniform(-3.5, -2.3) * (n / top) ** -0.15 * generator.standard_normal(len(n))
    common = np.exp(0.008 * generator.standard_normal(len(n)))
    ours, theirs = (
        Observations(loss=loss, params=n, tokens=20 * n, flops=120 * n * n, seed=names)
        for loss in (base(n) * common, idea(n) * common * np.exp(noise))
    )
    return paired(ours, theirs), _at(target), float(np.log(idea(target) / base(target)))


@pytest.mark.slow
def test_what_is_said_with_a_probability_is_right_that_often():
    """600 exact worlds: each bin of P(better) within 5 %, and the gap's 90 % interval; buys the word "calibrated".

    The interval covers more than its level (0.98): the same beliefs must serve public runs, where it covers 0.87. What
    keeps it useful is asked of the verdicts: where there is a difference, four in ten are sure of its sign.
    """
    generator = np.random.default_rng(11)
    said, better, inside = [], [], []
    for _ in range(600):
        pairs, target, truth = _world(generator)
        found = fit_gap(pairs).at(target)
        inside.append(found.interval(0.9).holds(truth))
        if truth != 0:
            said.append(float(found.cdf(0.0)))
            better.append(truth < 0)
    said, better = np.array(said), np.array(better)
    sure, right = np.maximum(said, 1 - said), np.where(said > 0.5, better, ~better)
    for low, high in ((0.5, 0.75), (0.75, 0.95), (0.95, 1.01)):
        chosen = (sure >= low) & (sure < high)
        assert chosen.sum() > 80
        assert abs(right[chosen].mean() - sure[chosen].mean()) < 0.05, (low, right[chosen].mean(), sure[chosen].mean())
    assert np.mean(inside) > 0.88
    assert np.mean(sure > 0.95) > 0.4


def test_marins_optimizers_at_a_billion_parameters(shared_data):
    """Muon, NAdamW and SOAP minus AdamW at 1.2B, 1 and 8 times Chinchilla, from 130M to 520M: sign, and rough size."""
    import csv

    with open(shared_data("runs/marin_optimizers_best.csv")) as file:
        rows = [row for row in csv.DictReader(file)]
    losses = [min(float(row[name] or "inf") for name in ("loss_best_run", "min_loss_reported")) for row in rows]
    table = {
        (r["optimizer"], float(r["n_params"]), float(r["tokens"])): loss for r, loss in zip(rows, losses, strict=True)
    }

    def runs(name):
        picked = [(n, d, loss) for (optimizer, n, d), loss in table.items() if optimizer == name and n < 1e9]
        n, d, loss = np.array(picked).T
        return Observations(loss=loss, params=n, tokens=d, flops=6 * n * d)

    large = max(n for _, n, _ in table)
    errors, said, plain = [], [], []
    for name in ("muon", "nadamw", "soape"):
        law = fit_gap(paired(runs("adamw"), runs(name)))
        for multiple in (1, 2, 4, 8):
            base, truth = (table[each, large, 20 * large * multiple] for each in ("adamw", name))
            found = law.at(_at(large, 20 * large * multiple))
            errors.append(abs(base * np.expm1(float(found.quantile(0.5))) - (truth - base)))
            said.append((float(found.cdf(0.0)) - (truth < base)) ** 2)
            small = 536870912.0
            plain.append(
                abs(
                    table[name, small, 20 * small * multiple]
                    - table["adamw", small, 20 * small * multiple]
                    - truth
                    + base
                )
            )
    assert np.mean(said) < 0.15
    assert np.mean(errors) < 0.5 * np.mean(plain)
    assert np.mean(errors) < 0.004


def _trained(width, seed, loss, dearer=1.0):
    rung = Rung(width=width, depth=2, tokens=1_000_000)
    spec = RunSpec(recipe={}, rung=rung, hyperparameters={}, seed=seed, judge={}, base_rung=rung)
    params = 24 * width**2
    size = Size(embedding=0, non_embedding=params, flops_per_token=6.0 * params * dearer)
    cost = Cost(flops=size.training_flops(1e6), seconds=1.0, device="cpu", threads=1, members=1)
    return Run(key=spec.key, spec=spec, outcome=Outcome.FINISHED, loss=loss, metrics={}, size=size, cost=cost, curve={})


def test_what_an_idea_costs_more_is_taken_off_its_compute_multiplier_and_said():
    law = {(w, s): 1.7 + 30 * w**-0.6 + 0.002 * s for w in (16, 24, 32, 48, 64) for s in (0, 1, 2)}
    base = [_trained(w, s, loss) for (w, s), loss in law.items()]
    target = Target(params=24 * 128**2, tokens=1_000_000)
    same, twice = (compare(base, [_trained(w, s, 0.98 * loss, d) for (w, s), loss in law.items()], target)
                   for d in (1.0, 2.0))  # fmt: skip
    assert twice.delta == same.delta and twice.verdict == same.verdict
    assert twice.compute_multiplier.median == pytest.approx(same.compute_multiplier.median / 2)
    assert any("takes 2.00 times the base's FLOPs" in caveat for caveat in twice.caveats)
    assert not any("FLOPs at one size" in caveat for caveat in same.caveats)


def test_a_target_far_beyond_the_pairs_is_said_though_the_base_was_trained_near_it():
    base, idea = _pair(-0.01)
    few = idea.where(idea.params <= np.sort(np.unique(idea.params))[1])
    said = compare(base, few, TARGET).caveats
    times = TARGET.params * TARGET.tokens / np.max(few.params * few.tokens)
    assert any(f"The target is {times:.3g}x the flops of the largest pair" in each for each in said)
    assert not any("of the largest pair" in each for each in compare(base, idea, TARGET).caveats)
