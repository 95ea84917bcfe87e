"""With too little data, or a target too far, there is no bare number: a refusal, or an interval that says why."""

from __future__ import annotations

import numpy as np
import pytest

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.laws.observations import Observations


def ladder(count, seed=0, to=1e8):
    params = np.geomspace(1e6, to, count)
    noise = np.random.default_rng(seed).standard_normal(count)
    losses = (1.7 + 400 / params**0.35) * np.exp(0.003 * noise)
    return Observations(loss=losses, params=params, tokens=20 * params)


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_scales_get_no_forecast(count):
    with pytest.raises(InputError, match="at least 3"):
        wt.fit(ladder(count)).forecast(wt.Target(params=1e9, tokens=2e10))


@pytest.mark.parametrize("seed", range(5))
def test_three_scales_get_an_interval_that_is_not_called_reliable_and_says_why(seed):
    forecast = wt.fit(ladder(3, seed)).forecast(wt.Target(params=1e9, tokens=2e10))
    assert not forecast.reliable and forecast.loss.low < forecast.loss.median < forecast.loss.high
    assert any("none can be hidden" in caveat for caveat in forecast.caveats)
    assert str(forecast).index("caveat: ") < str(forecast).index("loss at ")


@pytest.mark.parametrize("reach", [100.0, 1e3, 1e6])
def test_a_target_a_hundred_times_beyond_is_called_far_before_its_number_and_its_interval_is_wider(reach):
    fit = wt.fit(ladder(8))
    near, far = (fit.forecast(wt.Target(params=1e8 * f**0.5, tokens=2e9 * f**0.5)) for f in (2.0, reach))
    assert any(f"{reach:.3g}x" in caveat.replace(",", "") for caveat in far.caveats), far.caveats
    assert any("That is far" in caveat for caveat in far.caveats)
    assert not any("That is far" in caveat for caveat in near.caveats)
    relative = [(f.loss.high - f.loss.low) / f.loss.median for f in (near, far)]
    assert relative[1] > relative[0]
    assert str(far).index("caveat: ") < str(far).index("loss at ")


def test_a_forecast_is_never_a_bare_number():
    for count in (3, 4, 8):
        forecast = wt.fit(ladder(count)).forecast(wt.Target(params=1e10, tokens=2e11))
        assert all(i.low < i.median < i.high for i in forecast.intervals)
        assert "[" in str(forecast.loss) and "%" in str(forecast.loss)
