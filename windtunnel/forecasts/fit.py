"""fit(): which laws these runs can tell about, how far each is believed, and what is doubtful. Fit: the answer.

A Fit is what every forecast at any target is read from; it holds no target. A refit of the same runs, in any order,
gives the same digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from windtunnel.errors import InputError
from windtunnel.forecasts.backtest import Backtest, replay
from windtunnel.forecasts.caveats import of_data, steepens
from windtunnel.forecasts.combine import combined, law_mixture, size_at
from windtunnel.forecasts.forecast import make_forecast
from windtunnel.forecasts.interval import Mixture
from windtunnel.ladder import Target
from windtunnel.laws.fitting import LawFit, candidates, fit_law
from windtunnel.laws.law import Law, Sizes
from windtunnel.laws.noise import Noise, run_noise
from windtunnel.laws.observations import Observations, check_sizes
from windtunnel.runs import Run

if TYPE_CHECKING:
    from windtunnel.forecasts.forecast import Forecast


@dataclass(frozen=True, eq=False, kw_only=True)
class Fit:
    """Laws given runs: parameter draws (`laws[i].draws`), backtest `weights`, `noise`, `backtest`, `caveats`.

    `stretch` widens every interval by what the backtests showed; `reliable` is False when the backtest failed, when no
    backtest was possible, or when the curve steepens in log-log (no law here can follow it).
    """

    observations: Observations
    laws: tuple[LawFit, ...]
    weights: tuple[float, ...]
    noise: Noise
    backtest: Backtest
    stretch: float
    df: float
    caveats: tuple[str, ...]
    reliable: bool

    def predict(self, at: Sizes, *, noise: bool = True) -> Mixture:
        """Distribution of the log loss of one new run at `at`; without `noise`, of the expected loss."""
        top = size_at(self.observations, int(self.observations.size.argmax()))
        sd = self.noise.relative if noise else 0.0
        parts = [law_mixture(law, at, top, sd, self.df) for law in self.laws]
        return combined(parts, self.weights).stretched(self.stretch)

    def forecast(self, target: Target, level: float = 0.9, **labels: Any) -> Forecast:
        """The loss at a target; see `windtunnel.forecast`."""
        return make_forecast(self, target, level, **labels)

    def __str__(self) -> str:
        lines = [f"caveat: {caveat}" for caveat in self.caveats]
        for law, weight in sorted(zip(self.laws, self.weights, strict=True), key=lambda pair: -pair[1]):
            stated = ", ".join(f"{name} = {value:.4g}" for name, value in law.parameters().items())
            lines.append(f"{law.law.name} (weight {weight:.2f}): {stated}; residuals {100 * law.spread:.2f} %")
        return "\n".join([*lines, f"run-to-run noise: {self.noise}", str(self.backtest)])


def fit(
    observations: Observations | Sequence[Run], laws: Sequence[Law] | None = None, *, draws: int = 200, seed: int = 0
) -> Fit:
    """Fit scaling laws to one series of runs; rows whose split is "predict" are left out.

    `laws` None chooses by what varies in the data. Raises InputError for fewer than 3 distinct sizes, or for
    observations of several series or ideas (fit each on its own: `observations.by_series()`).
    """
    o = observations if isinstance(observations, Observations) else Observations.from_runs(observations)
    o = o.to_fit().ordered()
    check_sizes(o)
    names = sorted(set(o.labels()))
    if len(names) > 1:
        raise InputError(
            f"{o.source} holds {len(names)} series ({', '.join(names[:4])}); each needs its own fit: "
            f"for name, runs in observations.by_series(): fit(runs)."
        )
    chosen = tuple(laws) if laws else candidates(o)
    fits = tuple(fit_law(law, o, draws=draws, seed=seed) for law in chosen)
    closest = min(fits, key=lambda law: law.spread)
    noise = run_noise(o, closest.spread, closest.df)
    record = replay(chosen, o, noise, seed=seed)
    steep = steepens(o)
    return Fit(
        observations=o,
        laws=fits,
        weights=tuple(float(weight) for weight in record.weights),
        noise=noise,
        backtest=record.backtest,
        stretch=record.stretch,
        df=record.df,
        caveats=of_data(o, noise, record.backtest, steep),
        reliable=bool(record.backtest.hidden) and not record.backtest.failed and not steep,
    )
