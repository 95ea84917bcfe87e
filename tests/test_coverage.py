"""Intervals hold the truth as often as they say, and P(better) is right as often as it says, in worlds of known truth.

The full-sized measurement, by kind of world, is benchmarks/coverage.py; these tests draw fewer worlds, so their bounds
are the bars of that measurement widened by what so few draws can differ by chance. Breaks beyond the ladder are left
out of the coverage: nothing in the runs tells of them.
"""

from functools import cache

import numpy as np
import pytest
from scipy.stats import binom

from windtunnel.forecasts import compare, fit
from windtunnel.ladder import Target
from windtunnel.worlds import draw_idea, draw_power_law, draw_ridge, draw_two_regimes
from windtunnel.worlds.world import columns

KINDS = (
    lambda generator, runs: draw_power_law(generator, runs, "horizon"),
    lambda generator, runs: draw_power_law(generator, runs, "path"),
    lambda generator, runs: draw_power_law(generator, runs, "grid"),
    draw_ridge,
    draw_two_regimes,
)
EACH = 8  # worlds of each kind for each ladder
IDEAS = 24  # on ladders of 8 runs: a verdict fits the base too, which takes longer on more
CHANCE = 0.005  # how often a method that just meets its bar would fail a test here


def _target(sizes):
    params, tokens = columns(sizes)
    return Target(params=float(params[0]), tokens=float(tokens[0]))


def _foretold(kind, runs, seed):
    generator = np.random.default_rng([seed, runs, kind])
    world = KINDS[kind](generator, runs)
    observed = world.observations(generator)
    answer = fit(observed).forecast(_target(world.ladder.target), 0.9)
    truth = float(observed.to_predict().loss[0])
    return {interval.level: interval.holds(truth) for interval in answer.intervals}


@cache
def _answers(runs):
    return [_foretold(kind, runs, seed) for seed in range(EACH) for kind in range(len(KINDS))]


def _allowed(bar, draws):
    """The shares that a method within the bar may show by chance in so many draws."""
    low, high = bar
    return binom.ppf(CHANCE, draws, low) / draws, binom.ppf(1 - CHANCE, draws, high) / draws


def _covered(answers, level):
    return float(np.mean([held[level] for held in answers]))


@pytest.mark.slow
@pytest.mark.parametrize("runs", [5, 8, 20])
def test_ninety_percent_intervals_hold_the_new_run_in_86_to_94_percent_of_worlds(runs):
    """Buys the claim that an interval means what it says, on ladders of 5, 8 and 20 runs."""
    answers = _answers(runs)
    low, high = _allowed((0.86, 0.94), len(answers))
    assert low <= _covered(answers, 0.9) <= high


@pytest.mark.slow
@pytest.mark.parametrize(
    ("level", "bar"), [(0.5, (0.4, 0.6)), (0.8, (0.72, 0.9)), (0.9, (0.86, 0.94)), (0.95, (0.9, 0.99))]
)
def test_every_level_covers_over_all_ladders(level, bar):
    """Buys the other levels; the tails are what a decision rests on. Uses the worlds of the test above."""
    answers = [answer for runs in (5, 8, 20) for answer in _answers(runs)]
    low, high = _allowed(bar, len(answers))
    assert low <= _covered(answers, level) <= high


@cache
def _verdicts():
    said, better = [], []
    for seed in range(IDEAS):
        generator = np.random.default_rng([seed, 1])
        idea = draw_idea(generator, 8, ("constant", "fading", "crossing")[seed % 3])
        verdict = compare(*idea.observations(generator), _target(idea.base.ladder.target))
        said.append(verdict.probability_better)
        better.append(idea.delta(idea.base.ladder.target)[0] < 0)
    return np.array(said), np.array(better)


@pytest.mark.slow
def test_the_side_said_to_win_wins_as_often_as_was_said():
    """Buys P(better): within 5 percent in each half of the scale, beyond what so few ideas differ by chance."""
    said, better = _verdicts()
    right = np.where(said >= 0.5, better, ~better)
    sure = np.maximum(said, 1 - said)
    for mask in (sure < 0.9, sure >= 0.9):
        said_so = sure[mask].mean()
        low, high = _allowed((said_so - 0.05, min(said_so + 0.05, 1.0)), int(mask.sum()))
        assert low <= right[mask].mean() <= high


@pytest.mark.slow
def test_verdicts_beat_saying_one_half():
    """Uses the ideas of the test above."""
    said, better = _verdicts()
    assert np.mean((said - better) ** 2) < 0.16
