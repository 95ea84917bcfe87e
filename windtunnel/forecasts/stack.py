"""Weights of the members, found from their past: how would they best have been averaged at the earlier cuts?

Stacking, not selection: a law with a floor mostly foretells too high and one without too low, and the mean of the two
that would have been right at the last cuts is mostly right at the target. In-sample fit plays no part. A newcomer would
weight by likelihood, which picks the one law that happened to fit and is then sure of it.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from windtunnel.forecasts.constants import LEARNED, Constants
from windtunnel.forecasts.members import Cuts

_SUM = 1e4  # weight of the row that makes the weights sum to one


def weights_at(cuts: Cuts, truth: np.ndarray, now: int, c: Constants = LEARNED) -> np.ndarray:
    """Members' weights for cut `now`, from the cuts before it and only the rungs it keeps: (members,), summing to 1.

    Least squares of the members' mean error in standard units, drawn to the prior; `truth` is the log loss of all runs.
    """
    kept = cuts.label < cuts.kept[now]
    noise = max(c.stack_noise, float(np.exp(np.mean(np.log(cuts.spread[now][kept])))))
    rows = [_errors(cuts, truth, before, now, noise, c) for before in range(now)]
    pull = np.sqrt(c.prior_weight / cuts.prior)
    count = len(cuts.prior)
    left = np.concatenate([*rows, np.diag(pull), np.full((1, count), _SUM)])
    right = np.concatenate([np.zeros(sum(map(len, rows))), pull * cuts.prior, [_SUM]])
    found, _ = nnls(left, right)
    return found / found.sum()


def fall(cuts: Cuts, at: int) -> np.ndarray:
    """Change of log loss from the top rung kept to every run, as the members foretell it on average: (runs,)."""
    mean = cuts.centre[at].mean(axis=0)
    return np.abs(mean - mean[cuts.label == cuts.kept[at] - 1].mean())


def _errors(cuts: Cuts, truth: np.ndarray, before: int, now: int, noise: float, c: Constants) -> np.ndarray:
    """Errors of every member at the rungs that cut `before` hid and `now` knows, in standard units: (runs, members)."""
    first, last = cuts.kept[before], cuts.kept[now]
    hidden = np.flatnonzero((cuts.label >= first) & (cuts.label < last))
    in_rung = np.bincount(cuts.label, minlength=last)[cuts.label[hidden]]
    share = c.forget ** (now - 1 - before) / ((last - first) * in_rung)
    unit = np.hypot(c.stack_error * fall(cuts, before)[hidden], noise)
    return ((cuts.centre[before][:, hidden] - truth[hidden]) * np.sqrt(share) / unit).T
