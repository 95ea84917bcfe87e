"""a and b of the Power schedule from small sweeps: best learning rate = batch x a x tokens^b (2408.13359).

A sweep of the rate at two horizons or more, one batch, WSD or another schedule with a short decay. The best rates come
from the joint hyperparameter surface, which uses every run; a newcomer would regress the best run of each horizon,
whose grid is a factor of two wide. That a and b hold at any batch and size is the law's claim and not fitted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from windtunnel.errors import InputError
from windtunnel.laws.law import Sizes
from windtunnel.laws.observations import Observations
from windtunnel.laws.surface import Surface
from windtunnel.laws.surface_fit import fit_surface
from windtunnel.notebook import printed
from windtunnel.runs import Run


@dataclass(frozen=True, eq=False)
class PowerScheduleFit:
    """rate = batch_tokens x `a` x tokens^`b`; `b_error` is b's standard error, `shortest` the least horizon swept."""

    a: float
    b: float
    b_error: float
    shortest: float
    batch_tokens: float
    caveats: tuple[str, ...]
    surface: Surface

    def rate(self, tokens: float, batch_tokens: float | None = None) -> float:
        """The best constant rate for a horizon, at a batch in tokens a step (None: the sweep's)."""
        return (batch_tokens or self.batch_tokens) * self.a * tokens**self.b

    def knee_tokens(self, peak: float, batch_tokens: float | None = None) -> float:
        """Where the power meets a peak rate: `knee_tokens` of `parts.schedules.Power`. InputError where it rises."""
        if self.b >= 0 or not peak > 0:
            raise InputError(
                f"No knee for peak {peak} and b = {self.b:.3g}: the best rate must fall with the horizon for a Power "
                f"schedule. Sweep longer horizons, further apart."
            )
        return (peak / ((batch_tokens or self.batch_tokens) * self.a)) ** (1 / self.b)

    _repr_pretty_ = printed

    def __str__(self) -> str:
        return f"rate = batch_tokens x {self.a:.3g} x tokens^({self.b:.3f} +- {self.b_error:.3f})"


def fit_power_schedule(evidence: Observations | Sequence[Run]) -> PowerScheduleFit:
    """Fit a and b to runs that swept `lr` at several horizons with one batch: a table, or runs from a store.

    Runs are read by their hyperparameter `lr`. b is drawn weakly to the published belief about rates at a fixed batch;
    its error and a caveat say where it rests on that. Raises InputError for one horizon, several batches or no sweep.
    """
    swept = evidence if isinstance(evidence, Observations) else swept_runs(evidence)
    if swept.tokens is None or swept.lr is None or swept.batch_tokens is None:
        raise InputError("fit_power_schedule reads the columns lr, tokens and batch_tokens; the runs lack one of them.")
    batch = _one_batch(swept.batch_tokens)
    horizons = np.unique(swept.tokens)
    if horizons[-1] < 1.5 * horizons[0]:
        raise InputError(
            f"The runs have one horizon, {horizons[-1]:,.0f} tokens; b says how the best rate moves with it. Sweep the "
            f"rate at two horizons, four times apart or more."
        )
    per_batch = replace(swept, lr=swept.lr / batch, batch_tokens=None, flops=None, width=None, params=_varying(swept))
    surface = fit_surface(per_batch)
    exponent = next(e for e in surface.exponents() if e.size == "tokens")
    middle = float(np.exp(np.log(horizons).mean()))
    size = None if per_batch.params is None else np.array([np.exp(np.log(per_batch.params).mean())])
    best = float(surface.best(Sizes(tokens=np.array([middle]), params=size))["lr"][0])
    a = best / middle**exponent.value
    said = _caveats(surface, exponent.settled, exponent.value)
    return PowerScheduleFit(a, exponent.value, exponent.error, float(horizons[0]), batch, said, surface)


def swept_runs(runs: Sequence[Run], field: str = "lr") -> Observations:
    """Stored runs as observations with their rate and batch; unfinished ones are listed in `dropped`."""
    lacking = [run.key[:8] for run in runs if field not in run.spec.hyperparameters]
    if lacking:
        raise InputError(f"Runs {', '.join(lacking[:3])} have no hyperparameter {field}; name the swept one: field=...")
    found = Observations.from_runs(runs)
    by_key = {run.key: run for run in runs}
    kept = [by_key[key] for key in (found.key if found.key is not None else ())]
    rates = np.array([run.spec.hyperparameters[field] for run in kept])
    return replace(found, lr=rates, batch_tokens=np.array([float(run.curve["tokens"][0]) for run in kept]))


def _one_batch(batch_tokens: np.ndarray) -> float:
    batches = np.unique(batch_tokens[np.isfinite(batch_tokens)])
    if len(batches) != 1:
        raise InputError(
            f"The sweep has {len(batches)} batch sizes ({', '.join(f'{b:,.0f}' for b in batches[:4])} tokens a step); "
            f"fit the runs of one batch at a time and compare their a, which the law says are equal."
        )
    return float(batches[0])


def _varying(runs: Observations) -> np.ndarray | None:
    """Parameters where they vary: runs of another size have another floor."""
    return None if runs.params is None or np.ptp(np.log(runs.params)) < 0.02 else runs.params


def _caveats(surface: Surface, settled: float, b: float) -> tuple[str, ...]:
    said = list(surface.caveats)
    at_edge = (surface.cells.best < surface.cells.low) | (surface.cells.best > surface.cells.high)
    if np.any(at_edge):
        said.append(f"the best rate lies outside the swept range at {int(at_edge.sum())} horizon(s): widen the sweep")
    if settled < 0.5:
        said.append(f"b = {b:.2f} rests mostly on a belief: sweep horizons further apart")
    if b >= 0:
        said.append("the best rate does not fall with the horizon here: a Power schedule has nothing to go by")
    return tuple(said)
