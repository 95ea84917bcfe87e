"""What a run that has not been trained would teach: places it could be trained at, and the variance it would leave.

The parameter draws of all laws, pooled by weight, say how the log loss at any place goes together with the log loss at
the target (or with any other quantity); a new run is then a linear-Gaussian update of that cloud. What a newcomer would
get wrong: the law has an error of its own that repeats do not average away. It grows with the distance to the target,
and is shared by places close to one another, so a thousand tiny runs do not settle a large one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from windtunnel.errors import InputError
from windtunnel.forecasts.price import price_of
from windtunnel.laws.law import Law, Sizes
from windtunnel.laws.noise import two_ways
from windtunnel.laws.observations import ALL_SIZES, Observations, with_flops

if TYPE_CHECKING:
    from windtunnel.forecasts.fit import Fit

STEPS = 14  # candidate sizes along the ladder and beyond it
STEPS_TWO_WAYS, HORIZONS = 9, 4  # the same where params and tokens vary independently, times horizons at each
NEAR_TARGET = 0.5  # a run that costs more than this share of the target is no way to foretell it (guess)
ALIKE = float(np.log(10))  # law errors at places a factor 10 apart in compute go together as exp(-1) (guess)
# Share of the variance over draws that laws which disagree keep whatever is trained, for they keep some weight. Without
# it one run at 30 times a ladder on a line left 1.4 to 1.8 times the width that was promised; with it eleven of
# twelve kinds of ladder and budget came to 0.76 to 1.09 of the promise, one to 1.49 (medians of 14 made-up ladders).
# Of isoFLOP sweeps one run at 30 times their top comes to 1.34 of it (1.05 and 0.89 for cheaper ones; 10 each).
# Updating each law by itself brought that to 1.22 and ladders on a line from 0.81 to 0.77, so it was left.
KEPT = 0.03
NORMAL_90 = 1.6449


def priced(o: Observations, what: str = "What to run next") -> Observations:
    """The observations with FLOPs. Raises InputError where no price can be told."""
    found = with_flops(o)
    if found.flops is None:
        raise InputError(
            f"{what} needs the price of a run, but {o.source} states only {o.axis}; add a flops column, or params and "
            f"tokens (6 x params x tokens is then taken)."
        )
    return found


def pooled(fit: Fit, sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Log expected loss of all laws' draws at sizes, (draws, n), and the draws' weights, (draws,)."""
    logs = np.concatenate([law.log_loss(sizes) for law in fit.laws])
    pairs = zip(fit.laws, fit.weights, strict=True)
    weights = np.concatenate([np.full(len(law.drawn), weight / len(law.drawn)) for law, weight in pairs])
    return logs, weights / weights.sum()


def by_law(fit: Fit) -> list[tuple[Law, float]]:
    """Each law once, with its weight over all the parts of the runs it was fitted to, heaviest first."""
    total: dict[str, tuple[Law, float]] = {}
    for law, weight in zip(fit.laws, fit.weights, strict=True):
        total[law.law.name] = law.law, weight + total.get(law.law.name, (law.law, 0.0))[1]
    return sorted(total.values(), key=lambda pair: -pair[1])


# places


def places(o: Observations, goal: Sizes, most: float) -> Sizes:
    """Sizes at which a run could be trained for at most `most` FLOPs and well below the goal's price, small to large.

    Along the ladder's own path where the runs lie on one; over sizes and horizons where they vary independently.
    """
    o = priced(o)
    assert o.flops is not None
    ceiling = most if goal.flops is None else min(most, NEAR_TARGET * float(goal.flops[0]))
    low = float(o.flops.min())
    if ceiling < low:
        raise InputError(
            f"The budget of {most:.3g} FLOPs buys no run: the ladder's smallest costs {low:.3g}"
            + ("." if ceiling == most else f", and a run may cost at most half the target ({ceiling:.3g}).")
        )
    if two_ways(o):
        return _grid(o, goal, low, ceiling)
    flops = np.geomspace(low, ceiling, STEPS)
    own = np.exp(np.unique(np.round(np.log(o.flops), 2)))
    flops = np.unique(np.append(flops, own[own <= ceiling][-STEPS:])) if len(own) <= STEPS else flops
    return _followed(o, {"flops": flops})


def _grid(o: Observations, goal: Sizes, low: float, high: float) -> Sizes:
    assert o.params is not None and o.tokens is not None and o.flops is not None
    ratios = np.log(o.tokens / o.params)
    horizons = np.quantile(ratios, 0.05) + np.linspace(0, 1, HORIZONS) * np.ptp(np.quantile(ratios, [0.05, 0.95]))
    if goal.params is not None and goal.tokens is not None:
        horizons = np.append(horizons, np.log(goal.tokens[0] / goal.params[0]))
    steps = np.geomspace(low, high, STEPS_TWO_WAYS)
    flops, ratio = (each.ravel() for each in np.meshgrid(steps, np.unique(horizons)))
    price, at_work = price_of(o.params, o), price_of(o.active_params, o)
    assert price is not None
    params = price.params_along(flops, np.exp(ratio))
    found = _followed(o, {"flops": flops, "params": params, "tokens": np.exp(ratio) * params})
    if at_work is None:
        return found
    assert found.active_params is not None and found.tokens is not None
    dear = replace(found, flops=at_work.flops(found.active_params, found.tokens))  # params that wait cost nothing
    assert dear.flops is not None
    return Sizes.of(dear, dear.flops <= high)


def _followed(o: Observations, known: dict[str, np.ndarray]) -> Sizes:
    """Known columns with the ladder's other ones, which follow them along a line in log-log."""
    basis = [name for name in ("params", "tokens") if name in known] or ["flops"]
    old, new = (
        np.stack([np.ones(len(at[basis[0]])), *(np.log(at[name]) for name in basis)], axis=1)
        for at in ({name: getattr(o, name) for name in basis}, known)
    )
    found = dict(known)
    for name in ALL_SIZES:
        column = getattr(o, name)
        if column is not None and name not in known:
            found[name] = np.exp(new @ np.linalg.lstsq(old, np.log(column), rcond=None)[0])
    return Sizes(**found)


def beyond(o: Observations, times: float = 10.0) -> Sizes:
    """A place at `times` the top run's FLOPs, where the ladder's own path leads."""
    o = priced(o)
    assert o.flops is not None
    found = {"flops": np.array([times * float(o.flops.max())])}
    if o.params is not None and o.tokens is not None:
        half = 0.5 * np.log(o.flops)
        for name, column in (("params", o.params), ("tokens", o.tokens)):
            slope, start = np.polyfit(half, np.log(column), 1)
            found[name] = np.exp(slope * 0.5 * np.log(found["flops"]) + start)
    return _followed(o, found)


def row(sizes: Sizes, index: int) -> Sizes:
    """One place of several."""
    return Sizes.of(sizes, slice(index, index + 1))


# variance


@dataclass(frozen=True, eq=False, kw_only=True)
class Design:
    """Covariances of candidate runs (C of them) with one another and with a goal, in log loss.

    `prior` is the goal's variance over the draws, `shared` the covariance of the law's own errors at the candidates,
    `noise` the variance of one run. The Fit's own interval splits into `own` (parameters and disagreement), `anchor`
    (the law's error; `anchors` what it is if a candidate becomes the nearest run) and `rest` (the goal run's noise,
    which nothing shrinks).
    """

    price: np.ndarray
    prior: float
    cross: np.ndarray
    among: np.ndarray
    shared: np.ndarray
    noise: float
    own: float
    anchors: np.ndarray
    anchor: float
    rest: float

    def left(self, runs: np.ndarray) -> float:
        """The share of the variance over the draws that is left once `runs[c]` runs of every candidate are trained."""
        chosen = np.flatnonzero(runs)
        if not len(chosen) or self.prior <= 0:
            return 1.0
        block = np.ix_(chosen, chosen)
        seen = self.among[block] + self.shared[block] + np.diag(self.noise / runs[chosen])
        gained = float(self.cross[chosen] @ np.linalg.solve(seen, self.cross[chosen]))
        return KEPT + (1 - KEPT) * max(1 - gained / self.prior, 0.0)

    def variance(self, runs: np.ndarray) -> float:
        """The variance of a run at the goal, everything included."""
        anchor = min([self.anchor, *self.anchors[np.flatnonzero(runs)]])
        return self.own * self.left(runs) + anchor + self.rest


def design(fit: Fit, at: Sizes, goal: Sizes, quantity: np.ndarray | None = None) -> Design:
    """What runs at `at` teach about the log loss at `goal`, or about a `quantity` of the draws (draws,) instead."""
    assert at.flops is not None
    logs, weights = pooled(fit, at)
    wanted = pooled(fit, goal)[0][:, 0] if quantity is None else quantity
    away, centred = logs - weights @ logs, wanted - weights @ wanted
    own = spread(fit, goal, nearest=goal)
    anchors = np.array([law_error(fit, row(at, index), goal, own) for index in range(len(at.flops))])
    whole = spread(fit, goal)
    return Design(
        price=at.flops,
        prior=float(weights @ centred**2),
        cross=(weights * centred) @ away,
        among=(away * weights[:, None]).T @ away,
        shared=np.sqrt(anchors[:, None] * anchors) * np.exp(-_apart(at) / ALIKE),
        noise=fit.noise.relative**2,
        own=own,
        anchors=anchors,
        anchor=max(whole - own, 0.0),
        rest=max(spread(fit, goal, noise=True) - whole, 0.0),
    )


def _apart(at: Sizes) -> np.ndarray:
    """Distances (C, C) in log compute; a change of horizon counts by what it changes params and tokens."""
    pair = [np.log(column) for column in (at.params, at.tokens) if column is not None and at.tokens is not None]
    logs = np.stack(pair if len(pair) == 2 else [np.log(at.flops)], axis=1)  # type: ignore[arg-type]
    return np.abs(logs[:, None] - logs).sum(axis=-1)


def law_error(fit: Fit, nearest: Sizes, goal: Sizes, own: float | None = None) -> float:
    """The variance that the Fit's own rule gives the law's error at the goal, were `nearest` its only (top) run."""
    at_goal = spread(fit, goal, nearest=goal) if own is None else own
    return max(spread(fit, goal, nearest=nearest) - at_goal, 0.0)


def spread(fit: Fit, goal: Sizes, *, nearest: Sizes | None = None, noise: bool = False) -> float:
    """Variance of the predictive distribution at the goal before the backtest's stretch, as a normal's of equal width.

    With `nearest`, as if that were the ladder's top: at the goal itself only parameters and disagreement are left.
    """
    if nearest is not None:
        columns = {f.name: getattr(nearest, f.name) for f in fields(Sizes)}
        alone = Observations(loss=np.ones(1), **{name: value for name, value in columns.items() if value is not None})
        fit = replace(fit, observations=alone)
    mixture = fit.predict(goal, noise=noise)
    tails = special.stdtrit(mixture.df, 0.95) / NORMAL_90
    within = np.broadcast_to((tails * mixture.scale) ** 2, mixture.weights.shape)
    between = (mixture.centres - mixture.weights @ mixture.centres) ** 2
    return float(mixture.weights @ (within + between)) / fit.stretch**2
