"""A run in flight beside its forecast: what the probability of landing inside must do, on worlds whose end is known."""

from __future__ import annotations

import numpy as np
import pytest

from windtunnel.errors import InputError
from windtunnel.forecasts.band import Past, final_loss, gathered, known_at, shape_of, typical_shapes
from windtunnel.forecasts.heading import headings_of, posterior, prior_of
from windtunnel.forecasts.interval import Interval
from windtunnel.forecasts.watch import Foretold, history, look_at, unit_doubt, warned

ROWS = 400


def curve(params: float, noise: float = 0.002, seed: int = 0, **changed: float) -> tuple[np.ndarray, np.ndarray]:
    """Share and loss of a run of a made-up recipe at 20 tokens a parameter."""
    share = np.linspace(1 / ROWS, 1, ROWS)
    loss = 1.7 + 400 / params**0.34 + 410 / (20 * params * share) ** 0.28
    rough = noise * np.random.default_rng([seed, int(params)]).standard_normal(ROWS)
    drift = changed.get("drift", 0.0) * np.clip((share - 0.4) / 0.05, 0, 1)
    return share, loss * np.exp(0.03 * np.cos(np.pi * share) + rough + drift)


def ladder() -> list[Past]:
    found = []
    for params in (1e7, 2e7, 4e7, 8e7, 1.6e8):
        share, loss = curve(params)
        found.append(Past(share, loss, final_loss(share, loss)))
    return found


def foretold(median: float, half: float = 0.01) -> Foretold:
    """A forecast with a half-width of `half` (log loss) at 90 %."""
    away = {level: half * t for level, t in ((0.5, 0.42), (0.9, 1.0), (0.95, 1.2))}
    made = [Interval(*(median * np.exp(np.array([0, -a, a]))).tolist(), level) for level, a in away.items()]
    return Foretold(loss=made[1], intervals=tuple(made), target={"tokens": 2e10})


@pytest.fixture(scope="module")
def run():
    share, loss = curve(1e9, seed=3)
    return share, loss, final_loss(share, loss)


def shapes_of(forecast: Foretold):
    return ((1.0, shape_of(ladder(), forecast.loss.median)),)


def at(share, loss, upto):
    return share[share <= upto], loss[share <= upto]


def test_a_run_that_keeps_to_its_forecast_becomes_ever_surer_and_never_warns(run):
    share, loss, final = run
    forecast = foretold(final * 1.002)
    shapes = shapes_of(forecast)
    looks = [look_at(forecast, *at(share, loss, u), shapes) for u in (0.02, 0.3, 0.6, 0.9)]
    assert looks[0].inside == pytest.approx(0.9, abs=0.01)  # nothing seen yet: the forecast's own level
    assert looks[2].inside > 0.9 and looks[3].inside > 0.99
    assert history(forecast, share, loss, shapes) == (False, [])
    width = [np.log(look.final.high / look.final.low) for look in looks]
    assert width == sorted(width, reverse=True)


@pytest.mark.parametrize("drift", [0.04, -0.04])
def test_a_departure_is_warned_of_once_and_long_before_the_end(run, drift):
    share, _, final = run
    _, moved = curve(1e9, seed=3, drift=drift)
    forecast = foretold(final)
    standing, raised = history(forecast, share, moved, shapes_of(forecast))
    assert standing and len(raised) == 1
    assert 0.4 < raised[0].share < 0.75  # more than a quarter of the run is left
    assert (raised[0].final.median > forecast.loss.median) == (drift > 0)


def test_spikes_and_nan_rows_raise_no_warning(run):
    share, loss, final = run
    forecast = foretold(final)
    rough = loss.copy()
    for start in (80, 200, 320):
        rough[start : start + 4] *= 2.0
        rough[start + 5 : start + 9] = np.nan
    assert history(forecast, share, rough, shapes_of(forecast)) == (False, [])
    calm, hurt = (look_at(forecast, share[:350], each[:350], shapes_of(forecast)) for each in (loss, rough))
    assert hurt.final.median == pytest.approx(calm.final.median, rel=0.003)


def test_looking_back_says_what_was_said_at_the_time(run):
    share, _, final = run
    _, moved = curve(1e9, seed=3, drift=0.05)
    forecast = foretold(final)
    shapes = shapes_of(forecast)
    _, (raised,) = history(forecast, share, moved, shapes)
    then = look_at(forecast, *at(share, moved, raised.share), shapes)
    assert then.inside == pytest.approx(raised.inside, rel=1e-9) and then.final == raised.final


def test_later_rows_change_no_earlier_level(run):
    share, loss, _ = run
    whole = gathered(share, loss)
    for upto in (0.21, 0.5, 0.83):
        part = gathered(*at(share, loss, upto))
        known = np.isfinite(part[0])
        assert known.sum() == np.sum(known_at(True) <= share[share <= upto][-1] * 1.0001)
        assert np.array_equal(part[0][known], whole[0][known])


def test_a_loss_in_another_unit_moves_nothing_when_all_logs_share_it(run):
    share, loss, final = run
    forecast = foretold(final)
    bits = [Past(p.share, p.loss / np.log(2), p.final / np.log(2)) for p in ladder()]
    there = foretold(final / np.log(2))
    one = look_at(forecast, *at(share, loss, 0.5), shapes_of(forecast))
    other = look_at(there, *at(share, loss / np.log(2), 0.5), ((1.0, shape_of(bits, there.loss.median)),))
    assert other.inside == pytest.approx(one.inside, abs=0.02)


@pytest.mark.parametrize("unit, factor", [("bits", 1 / np.log(2)), ("nats where", np.log(2))])
def test_a_log_in_another_unit_than_the_forecast_is_doubted(run, unit, factor):
    share, loss, final = run
    forecast = foretold(final)
    shapes = shapes_of(forecast)
    assert unit in unit_doubt(look_at(forecast, *at(share, loss * factor, 0.5), shapes))
    assert "perplexity" in unit_doubt(look_at(forecast, *at(share, np.exp(loss), 0.5), shapes))
    assert unit_doubt(look_at(forecast, *at(share, loss, 0.5), shapes)) == ""


def test_the_final_interval_covers_its_share_of_ends():
    """Sixteen new runs, each with its own noise: at half their way, the 90 % intervals must hold most ends."""
    held = []
    for seed in range(16):
        share, loss = curve(1e9, noise=0.005, seed=100 + seed)
        final = final_loss(share, loss)
        off = np.random.default_rng(seed).standard_normal() * 0.005
        forecast = foretold(final * np.exp(off))
        held.append(look_at(forecast, *at(share, loss, 0.5), shapes_of(forecast)).final.holds(final))
    assert sum(held) >= 12  # 0.9 of 16 is 14.4; fewer than 12 has a probability of 2 %


def test_a_ladder_that_kept_to_its_shape_is_trusted_more_than_one_that_did_not():
    rough = [
        Past(p.share, p.loss * np.exp(0.02 * (-1) ** i * np.sin(6 * p.share)), p.final) for i, p in enumerate(ladder())
    ]
    good, bad = shape_of(ladder(), 2.5), shape_of(rough, 2.5)
    assert bad.error > 2 * good.error and bad.at(0.5)[1] > good.at(0.5)[1]
    assert good.tested == 4


def test_without_a_ladder_the_end_is_held_more_loosely(run):
    share, loss, final = run
    forecast = foretold(final, half=0.03)
    taught, typical = (look_at(forecast, *at(share, loss, 0.6), s) for s in (shapes_of(forecast), typical_shapes()))
    assert np.log(typical.final.high / typical.final.low) > 2 * np.log(taught.final.high / taught.final.low)
    assert typical.final.holds(final)
    assert len(typical_shapes(falling=0.1)) == 1


def test_a_ladder_without_whole_curves_is_refused():
    share, loss = curve(1e7)
    with pytest.raises(InputError, match="over its whole horizon"):
        shape_of([Past(share[200:], loss[200:], 3.0)], 2.5)


def test_the_prior_gives_back_the_forecasts_own_probabilities():
    forecast = foretold(2.5, half=0.02)
    grid, mass = posterior(prior_of(forecast.intervals), ())
    for each in forecast.intervals:
        there = mass[(grid >= np.log(each.low)) & (grid <= np.log(each.high))].sum()
        assert there == pytest.approx(each.level, abs=0.03)
    assert mass.sum() == pytest.approx(1)


def test_headings_are_probabilities_and_need_a_curve(run):
    share, loss, _ = run
    level, noise = gathered(*at(share, loss, 0.5))
    headings = headings_of(level, noise, typical_shapes())
    assert sum(weight for weight, _ in headings) == pytest.approx(1)
    assert headings_of(*gathered(share[:2], loss[:2]), typical_shapes()) == ()


def test_a_warning_is_raised_below_and_taken_back_well_above():
    said, standing = [], False
    for inside in (0.9, 0.51, 0.49, 0.55, 0.45, 0.7, 0.76, 0.6, 0.4):
        standing = warned(standing, inside)
        said.append(standing)
    assert said == [False, False, True, True, True, True, False, False, True]


def test_a_forecast_of_another_kind_is_refused():
    for wrong in ({}, {"forecasts": []}, {"loss": {"median": 1}, "target": {}}, {"loss": 3, "target": {}}):
        with pytest.raises(InputError):
            Foretold.from_json(wrong)
    interval = {"median": 2.0, "low": 2.1, "high": 1.9, "level": 0.9}
    with pytest.raises(InputError, match="not in order"):
        Foretold.from_json({"loss": interval, "intervals": [interval], "target": {}})
