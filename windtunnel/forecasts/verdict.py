"""Verdict: does an idea help at the target? From paired runs, through the difference law, never from two separate fits.

The compute multiplier asks the base's own fit how much more base compute would reach the idea's loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.forecasts.fit import Fit, fit
from windtunnel.forecasts.gap import GapLaw, fit_gap
from windtunnel.forecasts.interval import Interval, Mixture
from windtunnel.forecasts.pairs import Pairs, paired
from windtunnel.forecasts.place import Place, located
from windtunnel.ladder import Size, Target
from windtunnel.laws.law import Sizes
from windtunnel.laws.observations import Observations
from windtunnel.runs import Run

MOST = 1000.0  # compute multipliers are reported within 1/1000x and 1000x
_SAMPLES = 400


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """An idea against its base at the target.

    `delta` is the expected loss of the idea minus the base's, in the runs' unit (negative is better); `relative` the
    same as a share of the base's loss. `compute_multiplier` is base compute per idea compute for equal loss (above 1 is
    better). `verdict` is helps, hurts, fades (helps on the ladder, not at the target) or cannot tell.
    """

    verdict: str
    delta: Interval
    relative: Interval
    compute_multiplier: Interval
    probability_better: float
    ladder: Interval
    pairs: int
    rungs: int
    caveats: tuple[str, ...]
    target: Mapping[str, float]
    idea: str = ""
    study: str = ""

    def __str__(self) -> str:
        m = self.compute_multiplier
        return (
            f"{self.verdict}: {_times(m.median)}x compute [{_times(m.low)}, {_times(m.high)}], "
            f"P(better) = {self.probability_better:.2f}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads."""
        intervals = ("delta", "relative", "compute_multiplier", "ladder")
        plain = ("verdict", "probability_better", "pairs", "rungs", "idea", "study")
        stated: dict[str, Any] = {name: getattr(self, name) for name in plain}
        stated |= {name: getattr(self, name).to_json() for name in intervals}
        return stated | {"caveats": list(self.caveats), "target": dict(self.target)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        """The verdict that `to_json` wrote."""
        intervals = ("delta", "relative", "compute_multiplier", "ladder")
        read: dict[str, Any] = {**data, "caveats": tuple(data["caveats"])}
        for name in intervals:
            read[name] = Interval.from_json(data[name])
        return cls(**read)


def compare(
    base: Observations | Sequence[Run],
    idea: Observations | Sequence[Run],
    target: Target,
    level: float = 0.9,
    *,
    size: Size | None = None,
    seed: int = 0,
    name: str = "",
    study: str = "",
) -> Verdict:
    """The idea's worth at the target, from runs of both at the same rungs and seeds.

    `size` is the base model's Size where the target is a rung. Raises InputError where fewer than two rungs have pairs,
    or where the base alone cannot be fitted (3 distinct sizes).
    """
    if not 0 < level < 1:
        raise InputError(f"level is {level!r}; it is the probability that the interval holds the truth, as in 0.9.")
    base_runs, idea_runs = _observations(base), _observations(idea)
    base_fit = fit(base_runs, seed=seed)
    pairs = paired(base_runs, idea_runs)
    place = located(base_fit.observations, target, size)
    law = fit_gap(pairs)
    gap = law.at(float(np.log(getattr(place.sizes, base_runs.axis)[0])))
    ladder = law.at(law.middle)
    expected = float(np.exp(base_fit.predict(place.sizes, noise=False).quantile(0.5)))
    relative = gap.interval(level)
    better = float(gap.cdf(0.0))
    return Verdict(
        verdict=_decide(better, gap, ladder, law, level),
        delta=_mapped(relative, lambda share: expected * np.expm1(share)),
        relative=_mapped(relative, np.expm1),
        compute_multiplier=_multiplier(base_fit, place, gap, level, seed),
        probability_better=better,
        ladder=_mapped(ladder.interval(level), np.expm1),
        pairs=len(pairs),
        rungs=len(set(pairs.rung.tolist())),
        caveats=_caveats(pairs, base_runs, idea_runs, base_fit, place),
        target=place.stated(),
        idea=name,
        study=study,
    )


def difference(
    base: Observations | Sequence[Run],
    idea: Observations | Sequence[Run],
    targets: Sequence[Target],
    level: float = 0.9,
) -> list[Interval]:
    """The expected loss of the idea minus the base's along a path of sizes: the curve behind a verdict's `delta`."""
    base_runs, idea_runs = _observations(base), _observations(idea)
    base_fit, law = fit(base_runs), fit_gap(paired(base_runs, idea_runs))
    found = []
    for target in targets:
        sizes = located(base_fit.observations, target, None).sizes
        expected = float(np.exp(base_fit.predict(sizes, noise=False).quantile(0.5)))
        gap = law.at(float(np.log(getattr(sizes, base_runs.axis)[0]))).interval(level)
        found.append(_mapped(gap, lambda share, expected=expected: expected * np.expm1(share)))
    return found


def _observations(runs: Observations | Sequence[Run]) -> Observations:
    return (runs if isinstance(runs, Observations) else Observations.from_runs(runs)).to_fit().ordered()


def _decide(better: float, gap: Mixture, ladder: Mixture, law: GapLaw, level: float) -> str:
    """Sure of a sign at the interval's own confidence, or sure of the ladder's gain and of its loss, or cannot tell."""
    sure = 0.5 + level / 2
    if better >= sure:
        return "helps"
    if better <= 1 - sure:
        return "hurts"
    fading = law.slope > 0 and law.slope_probability > 0.5
    if ladder.cdf(0.0) >= sure and fading and better < 0.5:
        return "fades"
    return "cannot tell"


def _multiplier(base: Fit, place: Place, gap: Mixture, level: float, seed: int) -> Interval:
    """Base compute, as a multiple of the target's, at which the base reaches the idea's loss."""
    generator = np.random.default_rng(seed)
    gaps = generator.permutation(gap.quantile((np.arange(_SAMPLES) + 0.5) / _SAMPLES))
    counts = np.round(np.asarray(base.weights) * _SAMPLES).astype(int)
    found, start = [], 0
    for law, count in zip(base.laws, counts, strict=True):
        theta = law.draws[np.arange(count) % len(law.draws)]
        found.append(_reached(law.law, theta, place.sizes, gaps[start : start + count]))
        start += count
    low, median, high = np.exp(np.quantile(np.concatenate(found), [0.5 - level / 2, 0.5, 0.5 + level / 2]))
    return Interval(float(median), float(low), float(high), level)


def _reached(law: Any, theta: np.ndarray, sizes: Sizes, gaps: np.ndarray) -> np.ndarray:
    """Log multiple of compute at which each draw's loss has changed by its gap; the loss falls with compute."""
    wanted = law(theta, sizes)[:, 0] * np.exp(gaps[: len(theta)])
    low, high = np.full(len(wanted), -np.log(MOST)), np.full(len(wanted), np.log(MOST))
    for _ in range(40):
        middle = 0.5 * (low + high)
        above = law(theta, _scaled(law, sizes, middle))[:, 0] > wanted
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return 0.5 * (low + high)


def _scaled(law: Any, sizes: Sizes, log_multiple: np.ndarray) -> Sizes:
    """Sizes at a multiple of compute: all of it in a one-variable law's own variable, else half each in N and D."""
    share = 1.0 if hasattr(law, "variable") else 0.5
    times = np.exp(log_multiple)[:, None]
    columns = {n: getattr(sizes, n) for n in ("params", "tokens", "flops")}
    return Sizes(
        **{n: None if v is None else v * times ** (1.0 if n == "flops" else share) for n, v in columns.items()}
    )


def _times(multiple: float) -> str:
    """A compute multiplier in words; at its bounds nothing more is known than that it is beyond them."""
    if multiple > 0.99 * MOST:
        return f">{MOST:g}"
    return f"<{1 / MOST:g}" if multiple < 1.01 / MOST else f"{multiple:.2f}"


def _mapped(interval: Interval, change: Any) -> Interval:
    median, low, high = (float(change(value)) for value in (interval.median, interval.low, interval.high))
    return Interval(median, low, high, interval.level)


def _caveats(pairs: Pairs, base: Observations, idea: Observations, fitted: Fit, place: Place) -> tuple[str, ...]:
    found = list(place.caveats)
    if not pairs.seeded:
        found.append(
            "Runs are not paired by seed, which leaves the seeds' noise in the gap; train both with the same seeds."
        )
    elif len(pairs) < max(len(base), len(idea)):
        found.append(
            f"{len(pairs)} pairs among {len(base)} base and {len(idea)} idea runs; the others have no partner."
        )
    if pairs.within()[1] == 0:
        found.append("One pair at each rung: the noise of a gap is guessed from its scatter about a line. Add seeds.")
    if len(set(pairs.rung.tolist())) < 4:
        found.append("Fewer than 4 rungs have pairs; whether the gap fades with size can hardly be told.")
    if not fitted.reliable:
        found.append(f"The base's forecast fails its own test, so the compute multiplier is rough ({fitted.backtest}).")
    return tuple(found)
