"""fit(): which laws these runs can tell about, how far each is believed, and what is doubtful. Fit: the answer.

A Fit is what every forecast at any target is read from; it holds no target. A refit of the same runs, in any order,
gives the same digits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.forecasts.backtest import Backtest, Record, replay, replay_all
from windtunnel.forecasts.caveats import of_data, steepens
from windtunnel.forecasts.combine import combined
from windtunnel.forecasts.forecast import make_forecast
from windtunnel.forecasts.interval import Mixture
from windtunnel.forecasts.outliers import odd_runs
from windtunnel.ladder import Target
from windtunnel.laws.candidates import candidates
from windtunnel.laws.fitting import LawFit
from windtunnel.laws.law import Law, Sizes
from windtunnel.laws.noise import Noise, run_noise, rungs, shrinkage, shrunk
from windtunnel.laws.observations import Observations, check_numbers, check_sizes, with_flops, with_tokens_of_flops
from windtunnel.laws.prepare import prepared
from windtunnel.laws.unread import unread
from windtunnel.notebook import card, marked, printed
from windtunnel.runs import Run, canonical

if TYPE_CHECKING:
    from windtunnel.forecasts.forecast import Forecast

FEWEST_DRAWS = 8  # of a member whose weight is next to nothing


@dataclass(frozen=True, eq=False, kw_only=True)
class Fit:
    """Laws given runs: members (`laws`, each with its share of runs and `draws`), their stacking `weights`, `backtest`.

    `scatter` is that of runs about the closest law and goes as size ** -`shrink`; `noise` is what seeds say.
    `stretch` widens every interval by what the backtests showed; `reliable` is False when the backtest failed, when no
    backtest was possible, or when the curve steepens in log-log (no law here can follow it). `unread` are size columns
    that change the loss and that no law reads.
    """

    observations: Observations
    laws: tuple[LawFit, ...]
    weights: tuple[float, ...]
    noise: Noise
    scatter: float
    shrink: float
    backtest: Backtest
    stretch: float
    caveats: tuple[str, ...]
    reliable: bool
    unread: tuple[str, ...] = ()

    @property
    def reads(self) -> frozenset[str]:
        """The size columns that the laws use; a target must state them."""
        return frozenset(name for law in self.laws for name in law.law.columns)

    @cached_property
    def run_keys(self) -> tuple[str, ...]:
        """Keys of the runs it stands on, sorted."""
        return tuple(sorted(self._keys))

    @cached_property
    def _keys(self) -> tuple[str, ...]:
        return self.observations.keys()

    @cached_property
    def run_hash(self) -> str:
        """Hash of those runs and their numbers."""
        o = self.observations
        rows = sorted(canonical([key, row]) for key, row in zip(self._keys, o.rows(), strict=True))
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()

    def predict(self, at: Sizes, *, noise: bool = True) -> Mixture:
        """Distribution of the log loss of one new run at `at`; without `noise`, of the expected loss.

        Raises InputError for a Target, which `forecast` takes.
        """
        if isinstance(at, Target):
            raise InputError(f"predict takes Sizes, arrays of every size that laws read; for {at} ask fit.forecast.")
        here, (middle, largest, top_loss) = np.log(getattr(at, self.observations.axis)), self._reference
        sd = float(shrunk(self.scatter, here, middle, self.shrink)[0]) if noise else 0.0
        mixture = combined(self.laws, self.weights, at, top_loss, sd, float(here[0] - largest))
        return mixture.stretched(self.stretch)

    @cached_property
    def _reference(self) -> tuple[float, float, float]:
        """Log size in the middle and at the top, and the members' mean log loss at the top rung."""
        size, label = np.log(self.observations.size), rungs(self.observations)
        top = Sizes.of(self.observations, np.flatnonzero(label == label.max()))
        return float(size.mean()), float(size.max()), float(np.mean([law.centre(top).mean() for law in self.laws]))

    def shares(self) -> dict[str, float]:
        """Weight of every law by name, over all the shares of runs it was fitted to, largest first."""
        total: dict[str, float] = {}
        for law, weight in zip(self.laws, self.weights, strict=True):
            total[law.law.name] = total.get(law.law.name, 0.0) + weight
        return dict(sorted(total.items(), key=lambda pair: -pair[1]))

    def forecast(self, target: Target, level: float = 0.9, **labels: Any) -> Forecast:
        """The loss at a target; see `windtunnel.forecast`."""
        return make_forecast(self, target, level, **labels)

    def _repr_html_(self) -> str:
        shares, failed = self.shares(), [] if self.reliable else ["No forecast of this fit is reliable."]
        rows = [
            (law.law.name, f"{shares[law.law.name]:.2f}", f"{100 * law.spread:.2f} %",
             ", ".join(f"{name} = {value:.4g}" for name, value in law.parameters().items()))
            for law in sorted(self.laws, key=lambda law: -shares[law.law.name]) if law.keep == 1.0
        ]  # fmt: skip
        return card(
            f"Fit of {len(self.run_keys)} runs", caveats=[*failed, *self.caveats], says=str(self.backtest),
            facts={"run-to-run noise": str(self.noise)}, head=("law", "weight", "scatter", "parameters"), rows=rows,
        )  # fmt: skip

    _repr_pretty_ = printed

    def __str__(self) -> str:
        lines = marked(self.caveats)
        shares = self.shares()
        for law in sorted((law for law in self.laws if law.keep == 1.0), key=lambda law: -shares[law.law.name]):
            stated = ", ".join(f"{name} = {value:.4g}" for name, value in law.parameters().items())
            lines.append(
                f"{law.law.name} (weight {shares[law.law.name]:.2f}): {stated}; scatter {100 * law.spread:.2f} %"
            )
        return "\n".join([*lines, f"run-to-run noise: {self.noise}", str(self.backtest)])


def fit(
    observations: Observations | Sequence[Run], laws: Sequence[Law] | None = None, *, draws: int = 200, seed: int = 0
) -> Fit:
    """Fit scaling laws to one series of runs; rows whose split is "predict" are left out.

    `laws` None chooses by what varies in the data. Raises InputError for fewer than 3 distinct sizes, or for
    observations of several series or ideas (fit each on its own: `observations.by_series()`), and for laws that read
    sizes which are not stated. Single runs far off the law of the others are named in the caveats.
    """
    o = _checked(observations if isinstance(observations, Observations) else Observations.from_runs(observations))
    chosen = candidates(o) if laws is None else _known(laws, o)
    found = _fit(o, replay(chosen, o), draws, seed)
    return replace(found, caveats=(*found.caveats, *map(str, odd_runs(found))))


def _known(laws: Sequence[Law], o: Observations) -> tuple[Law, ...]:
    """The laws that somebody chose. Raises InputError for what is none, and where a size that one reads is unknown."""
    laws = tuple(laws) if isinstance(laws, Iterable) else (laws,)
    for law in laws:
        if isinstance(law, type) or not hasattr(law, "terms"):
            raise InputError(f"laws holds {law!r}; give laws themselves, as in laws=[wt.laws.PowerLaw('params')].")
        columns = {name: getattr(o, name) for name in law.columns}
        lacking = [name for name, column in columns.items() if column is None or not np.all(np.isfinite(column))]
        if lacking:
            raise InputError(
                f"The {law.name} reads {', '.join(law.columns)}, and {o.source} does not state {', '.join(lacking)} of "
                f"every run. Give it, or another law."
            )
    if not laws:
        raise InputError("laws is empty; leave it out, and the laws are chosen by what varies in the runs.")
    return laws


def fit_each(tables: Sequence[Observations], *, draws: int = 200, seed: int = 0) -> list[Fit | InputError]:
    """`fit` of every table, or why it has none. Many small ones take a fraction of their time one by one."""
    found: dict[int, Fit | InputError] = {}
    ladders: dict[int, tuple[tuple[Law, ...], Observations]] = {}
    for index, observations in enumerate(tables):
        try:
            ladders[index] = (candidates(o := _checked(observations)), o)
        except InputError as error:
            found[index] = error
    for (index, (_, o)), record in zip(ladders.items(), replay_all(list(ladders.values())), strict=True):
        found[index] = _fit(o, record, draws, seed)
    return [found[index] for index in range(len(tables))]


def _checked(o: Observations) -> Observations:
    """The runs that laws are fitted to. Raises InputError where they are of several series or too few."""
    o = o.to_fit()
    names = sorted(set(o.labels()))
    if len(names) > 1:
        raise InputError(
            f"{o.source} holds {len(names)} series ({', '.join(names[:4])}); each needs its own fit: "
            f"for name, runs in observations.by_series(): fit(runs)."
        )
    check_numbers(o)
    o = with_flops(with_tokens_of_flops(o))
    check_sizes(o)
    return prepared(o)


def _fit(o: Observations, record: Record, draws: int, seed: int) -> Fit:
    fits = record.cuts.law_fits(o, _draws_each(record.weights, draws), seed)
    closest = min((law for law in fits if law.keep == 1.0), key=lambda law: law.spread)
    noise = run_noise(o, closest.spread, closest.df)
    steep = steepens(o)
    beside = unread(o, {name for law in fits for name in law.law.columns})
    return Fit(
        observations=o,
        laws=fits,
        weights=tuple(float(weight) for weight in record.weights),
        noise=noise,
        scatter=closest.spread,
        shrink=shrinkage(o),
        backtest=record.backtest,
        stretch=record.stretch,
        caveats=of_data(o, noise, record.backtest, steep, beside),
        reliable=bool(record.backtest.hidden) and not record.backtest.failed and not steep,
        unread=beside,
    )


def _draws_each(weights: np.ndarray, draws: int) -> list[int]:
    """Draws of each member: about as many as its weight says, none fewer than FEWEST_DRAWS."""
    return [max(FEWEST_DRAWS, round(draws * weight)) for weight in weights]
