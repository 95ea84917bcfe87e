"""Pruning by forecast inside Optuna's and Ray Tune's loops: a run is stopped when it surely ends behind the best.

Where a median pruner compares losses at one step, this foretells each run's final loss from its curve (`heading.py`),
through the shape of the finished runs' curves, and stops one whose chance of beating the best finished final loss is
below `chance`. A newcomer would prune by the loss so far: a high learning rate that decays late looks worst until then.
Neither Optuna nor Ray is imported: one is given an object with `prune`, the other calls it.
"""

from __future__ import annotations

import logging
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
log = logging.getLogger("windtunnel")


class ForecastPruner:
    """Stops runs that surely lose. `horizon` is a run's length in what it reports as its step.

    Where the longest finished run's next report would have come at the horizon or later, its last one is taken as the
    end: steps may be counted from 0, and reports far apart. A horizon that no finished run reaches is warned of, once,
    to the logger "windtunnel".

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
        self.done: set[str] = set()
        self.warned = False
        self.curves: dict[Any, np.ndarray] = {}
        self.pasts: dict[Any, Past] = {}
        self.shapes: tuple[Any, Shapes] = (None, ())
        self.pruned: dict[str, tuple[float, float]] = {}

    def prune(self, study: Any, trial: Any) -> bool:
        """Optuna's question: whether the trial should be pruned now."""
        if [direction.name for direction in study.directions] != ["MINIMIZE"]:
            raise InputError("ForecastPruner foretells a loss: make the study with direction='minimize'.")
        done = [each for each in study.get_trials(deepcopy=False) if each.state.name == "COMPLETE"]
        finished = {(study.study_name, each.number): each.intermediate_values for each in done}
        return self._loses(f"trial {trial.number}", trial.intermediate_values, finished)

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Ray Tune's question: whether the run should stop after this result."""
        missing = [name for name in (self.metric, self.at) if name not in result]
        if missing:
            raise InputError(
                f"The result of {trial_id} has no {' and no '.join(missing)}; name what is reported: "
                f"ForecastPruner(metric=..., at=...). It reports {', '.join(sorted(map(str, result)))}."
            )
        self.rows.setdefault(trial_id, {})[float(result[self.at])] = float(result[self.metric])
        if result.get("done"):  # Ray sends the last result again when the function has returned
            self.done.add(trial_id)
            return False
        others = {name: rows for name, rows in self.rows.items() if name != trial_id and name not in self.pruned}
        finished = {(name, len(rows)): rows for name, rows in others.items() if self._over(name, rows)}
        return self._loses(trial_id, self.rows[trial_id], finished)

    def _over(self, name: str, rows: Mapping[float, float]) -> bool:
        return name in self.done or max(rows) >= 0.999 * self.horizon

    def _end(self, curves: Sequence[np.ndarray]) -> float:
        """The step at which a run ends, by the longest finished one; the horizon where none has come near it."""
        ends = [(step[-1], step[-1] - step[-2]) for step, _ in curves if len(step) > 1]
        last, gap = max(ends, default=(0.0, 0.0))
        if last + gap >= 0.999 * self.horizon:
            return min(float(last), self.horizon)
        if ends and len(curves) >= self.least and not self.warned:
            self.warned = True
            log.warning(
                "None of %d finished runs reaches the horizon of %g: the longest ended at step %g, so they do not say "
                "how a run ends. If that is a run's length, make it ForecastPruner(horizon=%g).",
                len(curves), self.horizon, last, last,
            )  # fmt: skip
        return self.horizon

    def _finished(self, done: Mapping[Any, Mapping[Any, float]]) -> tuple[float, list[Past]]:
        """Where a run ends and the finished curves up to there, each computed once."""
        for key in done.keys() - self.curves.keys():
            self.curves[key] = _rows(done[key])
        end = self._end([self.curves[key] for key in done])
        for key in done:
            if (key, end) not in self.pasts:
                self.pasts[key, end] = _past(_shares(self.curves[key], end), str(key))
        return end, [self.pasts[key, end] for key in done]

    def _loses(self, name: str, values: Mapping[Any, float], done: Mapping[Any, Mapping[Any, float]]) -> bool:
        end, finished = self._finished(done)
        rows = _shares(_rows(values), end)
        known = [past for past in [*self.ladder, *finished] if np.isfinite(past.final) and _whole(past)]
        best = min((past.final for past in finished if np.isfinite(past.final)), default=None)
        begun = rows.shape[1] > 0 and self.warm_up <= rows[0, -1] < 1
        if name in self.pruned or not begun or best is None or len(known) < self.least:
            return False
        if self.shapes[0] != (seen := (frozenset(done), end)):
            self.shapes = seen, ((1.0, shape_of(known, best)),) if known else typical_shapes()
        chance = chance_of(rows, best, self.shapes[1])
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


def _rows(values: Mapping[Any, float]) -> np.ndarray:
    """Step and loss, (2, rows), in the order of the steps."""
    return np.array(sorted((float(step), float(loss)) for step, loss in values.items())).reshape(-1, 2).T


def _shares(rows: np.ndarray, end: float) -> np.ndarray:
    return np.stack([rows[0] / end, rows[1]])


def _past(rows: np.ndarray, name: str) -> Past:
    usable = rows.shape[1] > 0 and np.isfinite(rows[1]).any() and (rows[1][np.isfinite(rows[1])] > 0).all()
    final = final_loss(rows[0], rows[1]) if usable else float("nan")
    return Past(rows[0], rows[1], final, name)


def _whole(past: Past) -> bool:
    """Whether its curve is known from a fifth of its horizon on, as `shape_of` needs it."""
    return bool(np.isfinite(past.excess[SHARES >= 0.2]).all())
