"""Pruning by forecast inside Optuna's and Ray Tune's loops: a run is stopped when it surely ends behind the best.

Where a median pruner compares losses at one step, this foretells each run's final loss from its curve (`heading.py`),
through the shape of the finished runs' curves, and stops one whose chance of beating the best finished final loss is
below `chance`. A newcomer would prune by the loss so far: a high learning rate that decays late looks worst until then.
Neither Optuna nor Ray is imported: one is given an object with `prune`, the other calls it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from windtunnel.bridge.foreign import ForeignRun
from windtunnel.errors import InputError
from windtunnel.forecasts.band import FIRST, SHARES, Past, final_loss, gathered, shape_of, typical_shapes
from windtunnel.forecasts.heading import Shapes, headings_of

CHANCE = 0.02  # of beating the best, below which a run is stopped (guess)
LEAST = 3  # finished runs before one is stopped: only their curves say whether a late decay is to come


class ForecastPruner:
    """Stops runs that surely lose. `horizon` is a run's length in what it reports as its step.

    Optuna: `create_study(pruner=ForecastPruner(horizon=...))`, then `trial.report(loss, step)` and
    `trial.should_prune()`; the study must minimize. Ray Tune: `RunConfig(stop=ForecastPruner(horizon=...))`, with
    `metric` the reported loss and `at` the reported step. `ladder` are finished runs whose curves are known beforehand
    and count among the `least` that must have finished.
    `pruned` holds what was stopped: name, share of the horizon, chance of beating the best. Raises InputError.
    """

    def __init__(
        self, *, horizon: float, chance: float = CHANCE, warm_up: float = 0.1, least: int = LEAST,
        ladder: Sequence[ForeignRun | Past] = (), metric: str = "loss", at: str = "training_iteration",
    ) -> None:  # fmt: skip
        if not horizon > 0 or not 0 < chance < 1 or not 0 <= warm_up < 1:
            raise InputError(
                f"ForecastPruner(horizon={horizon}, chance={chance}, warm_up={warm_up}): horizon must be above zero, "
                f"chance within 0 and 1, warm_up a share of the horizon below 1."
            )
        self.horizon, self.chance, self.warm_up = float(horizon), chance, max(warm_up, FIRST)
        self.least, self.metric, self.at = least, metric, at
        given = [each.past() if isinstance(each, ForeignRun) else each for each in ladder]
        self.ladder = [past for past in given if past is not None]
        self.rows: dict[str, dict[float, float]] = {}
        self.pruned: dict[str, tuple[float, float]] = {}

    def prune(self, study: Any, trial: Any) -> bool:
        """Optuna's question: whether the trial should be pruned now."""
        if [direction.name for direction in study.directions] != ["MINIMIZE"]:
            raise InputError("ForecastPruner foretells a loss: make the study with direction='minimize'.")
        done = [each for each in study.get_trials(deepcopy=False) if each.state.name == "COMPLETE"]
        finished = [_past(self._rows(each.intermediate_values), str(each.number)) for each in done]
        return self._loses(f"trial {trial.number}", self._rows(trial.intermediate_values), finished)

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Ray Tune's question: whether the run should stop after this result."""
        missing = [name for name in (self.metric, self.at) if name not in result]
        if missing:
            raise InputError(
                f"The result of {trial_id} has no {' and no '.join(missing)}; name what is reported: "
                f"ForecastPruner(metric=..., at=...). It reports {', '.join(sorted(map(str, result)))}."
            )
        self.rows.setdefault(trial_id, {})[float(result[self.at])] = float(result[self.metric])
        others = {name: self._rows(rows) for name, rows in self.rows.items() if name != trial_id}
        finished = [_past(rows, name) for name, rows in others.items() if name not in self.pruned and _over(rows)]
        return self._loses(trial_id, self._rows(self.rows[trial_id]), finished)

    def _rows(self, values: Mapping[Any, float]) -> np.ndarray:
        """Share of the horizon and loss, (2, rows)."""
        rows = sorted((float(step) / self.horizon, float(loss)) for step, loss in values.items())
        return np.array(rows).reshape(-1, 2).T

    def _loses(self, name: str, rows: np.ndarray, finished: Sequence[Past]) -> bool:
        known = [past for past in [*self.ladder, *finished] if np.isfinite(past.final) and _whole(past)]
        best = min((past.final for past in finished if np.isfinite(past.final)), default=None)
        begun = rows.shape[1] > 0 and self.warm_up <= rows[0, -1] < 1
        if name in self.pruned or not begun or best is None or len(known) < self.least:
            return False
        shapes = ((1.0, shape_of(known, best)),) if known else typical_shapes()
        chance = chance_of(rows, best, shapes)
        if chance < self.chance:
            self.pruned[name] = float(rows[0, -1]), chance
        return chance < self.chance


def chance_of(rows: np.ndarray, best: float, shapes: Shapes) -> float:
    """The probability that a curve, share and loss (2, rows), ends below `best`; 1 where it is too early to say.

    A curve whose last loss is not finite has none.
    """
    if not np.isfinite(rows[1, -1]):
        return 0.0
    headings = headings_of(*gathered(rows[0], rows[1]), shapes)
    if not headings:
        return 1.0
    return float(sum(w * special.stdtr(h.degrees, (np.log(best) - h.centre) / h.scale) for w, h in headings))


def _past(rows: np.ndarray, name: str) -> Past:
    usable = rows.shape[1] > 0 and np.isfinite(rows[1]).any() and (rows[1][np.isfinite(rows[1])] > 0).all()
    final = final_loss(rows[0], rows[1]) if usable else float("nan")
    return Past(rows[0], rows[1], final, name)


def _whole(past: Past) -> bool:
    """Whether its curve is known from a fifth of its horizon on, as `shape_of` needs it."""
    return bool(np.isfinite(past.excess[SHARES >= 0.2]).all())


def _over(rows: np.ndarray) -> bool:
    return bool(rows.shape[1]) and bool(rows[0, -1] >= 0.999)
