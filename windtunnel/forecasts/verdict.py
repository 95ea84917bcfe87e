"""Verdict: does an idea help at the target? From paired runs, through the difference law, never from two separate fits.

What a newcomer would get wrong: P(better) and `delta` are about the expected gap, without the noise of one more pair of
runs; hold `one_pair` against what two runs at the target show. The compute multiplier asks the base's own fit how much
more base compute would reach the idea's loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.files import shape_of
from windtunnel.forecasts.fit import Fit, fit
from windtunnel.forecasts.frame import axis_of
from windtunnel.forecasts.gap import fit_gap
from windtunnel.forecasts.interval import Interval, Mixture
from windtunnel.forecasts.pairs import Pairs, paired
from windtunnel.forecasts.place import Place, located
from windtunnel.forecasts.price import ALIKE, Bill, params_by_rung
from windtunnel.forecasts.worth import MOST, crossing, multiplier, pace_of
from windtunnel.ladder import Size, Target, compact, in_words
from windtunnel.laws.law import Sizes
from windtunnel.laws.observations import Observations, check_numbers, with_flops, with_tokens_of_flops
from windtunnel.notebook import card, marked, printed
from windtunnel.runs import Run

SAME = 1.1  # a ladder whose top is within this of the largest pair's ends there
_INTERVALS = ("delta", "relative", "compute_multiplier", "ladder", "crossing", "one_pair")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """An idea against its base at the target.

    `delta` is the expected loss of the idea minus the base's, in the runs' unit (negative is better); `relative` the
    same as a share of the base's loss, `ladder` that share at the ladder's middle. `compute_multiplier` is base compute
    per idea compute for equal loss (above 1 is better). `probability_better` is that of a negative expected delta.

    `verdict`, with sure = 0.5 + level / 2 (0.95 at level 0.9):
    helps: P(better) >= sure. hurts: P(better) <= 1 - sure.
    fades: neither, but surely better at the ladder's middle, and at most half of its worth in compute there (half the
        logarithm: 1.5 times, of 2.25) is expected at the target. In nats every gain fades as loss nears its floor.
    cannot tell: everything else.

    `crossing` is the size, in units of `crossing_axis`, at which the gap of the ladder's smallest rung is expected to
    change sign, at the target's tokens per parameter; None where that is as likely as not beyond 1000x the top rung, or
    where the ladder itself shows no sure sign. A bound at 1000x means "or never".
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
    crossing: Interval | None = None
    crossing_axis: str = ""
    one_pair: Interval | None = None

    _repr_pretty_ = printed

    def __str__(self) -> str:
        of = f" on {self.idea}" if self.idea else ""
        verdict = f"verdict{of} at {in_words(self.target)}: {self.summary}"
        return "\n".join([*marked(self.caveats), f"{verdict}; loss {self.delta.signed()} against the base"])

    @property
    def summary(self) -> str:
        """Label, compute multiplier and P(better) in one line."""
        m = self.compute_multiplier
        return (
            f"{self.verdict}: {_times(m.median)}x compute [{_times(m.low)}, {_times(m.high)}], "
            f"P(better) = {self.probability_better:.2f}"
        ) + (f", {self.crossing_words()}" if self.crossing else "")

    def _repr_html_(self) -> str:
        facts = {
            "loss against the base": self.delta.signed(),
            "pairs": f"{self.pairs} at {self.rungs} rungs",
            "target": in_words(self.target),
        }
        title = f"Verdict on {self.idea}" if self.idea else "Verdict"
        return card(title, says=self.summary, caveats=self.caveats, facts=facts)

    def crossing_words(self) -> str:
        """Where the gap is expected to change sign, in words; empty where no size can be named."""
        c = self.crossing
        if c is None:
            return ""
        return (
            f"expected to cross zero at {compact(c.median)} {self.crossing_axis} [{compact(c.low)}, {compact(c.high)}]"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads."""
        stated = {f.name: getattr(self, f.name) for f in fields(self)}
        stated |= {name: None if stated[name] is None else stated[name].to_json() for name in _INTERVALS}
        return stated | {"caveats": list(self.caveats), "target": dict(self.target)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        """The verdict that `to_json` wrote, now or before it knew crossings and single pairs."""
        with shape_of("This verdict", "give what to_json returned."):
            read: dict[str, Any] = {**data, "caveats": tuple(data["caveats"])}
            for name in _INTERVALS:
                read[name] = None if data.get(name) is None else Interval.from_json(data[name])
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
    base_fit: Fit | None = None,
) -> Verdict:
    """The idea's worth at the target, from runs of both at the same rungs and seeds.

    `size` is the base model's Size where the target is a rung. `base_fit` is the base's own fit where it is at hand.
    Raises InputError where fewer than two rungs have pairs, or where the base alone cannot be fitted (3 distinct
    sizes).
    """
    if not 0 < level < 1:
        raise InputError(f"level is {level!r}; it is the probability that the interval holds the truth, as in 0.9.")
    base_runs, idea_runs = _observations(base), _observations(idea)
    base_fit = base_fit or fit(base_runs, seed=seed)
    pairs = paired(base_runs, idea_runs)
    place = located(base_fit.observations, target, size, base_fit.reads, base_fit.unread)
    law = fit_gap(pairs, pace_of(base_fit.laws, base_fit.weights))
    gap, ladder = law.at(place.sizes), law.on_ladder()
    expected = float(np.exp(base_fit.predict(place.sizes, noise=False).quantile(0.5)))
    relative = gap.interval(level)
    better, bill = float(gap.cdf(0.0)), _bill_of(base, idea, base_runs, pairs)
    dearer = 1.0 if bill is None else bill.at(_working(base_runs, place)) or float(bill.ratio[-1])
    worth = multiplier(base_fit, place.sizes, gap, level, seed)

    def halved() -> bool:
        on_ladder = multiplier(base_fit, _middle(pairs.sizes), ladder, level, seed)
        return np.log(worth.median) <= 0.5 * np.log(on_ladder.median)

    return Verdict(
        verdict=_decide(gap, ladder, level, halved),
        delta=_mapped(relative, lambda share: expected * np.expm1(share)),
        relative=_mapped(relative, np.expm1),
        compute_multiplier=worth if abs(dearer - 1) < ALIKE else _mapped(worth, lambda times: times / dearer),
        probability_better=better,
        ladder=_mapped(ladder.interval(level), np.expm1),
        pairs=len(pairs),
        rungs=pairs.rungs,
        caveats=_caveats(pairs, base_runs, idea_runs, base_fit, place) + _billed(bill, _working(base_runs, place)),
        target=place.stated(),
        idea=name,
        study=study,
        crossing=crossing(law, pairs.sizes, place.sizes, level, seed),
        crossing_axis=axis_of(place.sizes),
        one_pair=_mapped(law.at(place.sizes, noise=True).interval(level), lambda share: expected * np.expm1(share)),
    )


def difference(
    base: Observations | Sequence[Run],
    idea: Observations | Sequence[Run],
    targets: Sequence[Target],
    level: float = 0.9,
) -> list[Interval]:
    """The expected loss of the idea minus the base's along a path of sizes: the curve behind a verdict's `delta`."""
    base_runs, idea_runs = _observations(base), _observations(idea)
    base_fit = fit(base_runs)
    law = fit_gap(paired(base_runs, idea_runs), pace_of(base_fit.laws, base_fit.weights))
    found = []
    for target in targets:
        sizes = located(base_fit.observations, target, None, base_fit.reads).sizes
        expected = float(np.exp(base_fit.predict(sizes, noise=False).quantile(0.5)))
        gap = law.at(sizes).interval(level)
        found.append(_mapped(gap, lambda share, expected=expected: expected * np.expm1(share)))
    return found


def _observations(runs: Observations | Sequence[Run]) -> Observations:
    o = runs if isinstance(runs, Observations) else Observations.from_runs(runs)
    o = o.to_fit()
    check_numbers(o)
    return with_flops(with_tokens_of_flops(o)).ordered()


def _bill_of(
    base: Observations | Sequence[Run], idea: Observations | Sequence[Run], base_runs: Observations, pairs: Pairs
) -> Bill | None:
    """The idea's FLOPs over the base's, told by what runs cost, and of a table by the FLOPs it states."""
    if isinstance(base, Observations) or isinstance(idea, Observations) or base_runs.rung is None:
        return pairs.bill
    return Bill.of(_bills(base), _bills(idea), params_by_rung(base_runs, base_runs.rung.tolist()))


def _working(base: Observations, place: Place) -> float | None:
    """The target's params that a token meets, as the base's runs state theirs."""
    return place.stated().get("params" if base.active_params is None else "active_params")


def _bills(runs: Sequence[Run]) -> dict[str, float]:
    """Mean FLOPs of a finished run at each rung."""
    found: dict[str, list[float]] = {}
    for run in runs:
        if run.finished and run.cost.flops > 0:
            found.setdefault(str(run.spec.rung), []).append(run.cost.flops)
    return {rung: sum(flops) / len(flops) for rung, flops in found.items()}


def _billed(bill: Bill | None, params: float | None) -> tuple[str, ...]:
    if bill is None or np.all(np.abs(bill.ratio - 1) < ALIKE):
        return ()
    first, last = float(bill.ratio[0]), float(bill.ratio[-1])
    counted = "the gap is at equal size and tokens, the compute multiplier counts them."
    if not bill.changes:
        return (f"The idea takes {last:.2f} times the base's FLOPs at one size; {counted}",)
    said = f"The idea takes {first:.3g} times the base's FLOPs at the smallest rung and {last:.3g} at the largest"
    found = bill.at(params)
    if found is None:
        return (f"{said}, by no rule that could be carried on: at the target as at the largest; {counted}",)
    return (f"{said}, {found:.3g} at the target if that goes on; {counted}",)


def _decide(gap: Mixture, ladder: Mixture, level: float, halved: Callable[[], bool]) -> str:
    """The label, as `Verdict` defines it; whether the worth has halved is asked only where it decides."""
    sure, better = 0.5 + level / 2, float(gap.cdf(0.0))
    if better >= sure:
        return "helps"
    if better <= 1 - sure:
        return "hurts"
    return "fades" if float(ladder.cdf(0.0)) >= sure and halved() else "cannot tell"


def _middle(sizes: Sizes) -> Sizes:
    """The geometric mean of sizes, one entry."""
    columns = {each.name: getattr(sizes, each.name) for each in fields(sizes)}
    known = {name: column for name, column in columns.items() if column is not None}
    return Sizes(**{name: np.exp([np.mean(np.log(column))]) for name, column in known.items()})


def _beyond_pairs(pairs: Pairs, fitted: Fit, place: Place) -> float:
    """Times the target lies beyond the largest pair, where the base alone was trained beyond it; else 0."""
    axis = fitted.observations.axis
    largest = getattr(pairs.sizes, axis)
    if largest is None or np.max(fitted.observations.size) <= SAME * np.max(largest):
        return 0.0
    return place.stated()[axis] / float(np.max(largest))


def _times(multiple: float) -> str:
    """A compute multiplier in words; at its bounds nothing more is known than that it is beyond them."""
    if multiple > 0.99 * MOST:
        return f">{MOST:g}"
    return f"<{1 / MOST:g}" if multiple < 1.01 / MOST else f"{multiple:.2f}"


def _mapped(interval: Interval, change: Callable[[float], float]) -> Interval:
    median, low, high = (float(change(value)) for value in (interval.median, interval.low, interval.high))
    return Interval(median, low, high, interval.level)


def _caveats(pairs: Pairs, base: Observations, idea: Observations, fitted: Fit, place: Place) -> tuple[str, ...]:
    found = list(place.caveats)
    if not pairs.seeded:
        found.append(
            "Runs are not paired by seed, which leaves the seeds' noise in the gap; train both with the same seeds."
        )
    elif any(pairs.alone):
        both = (("base", base, pairs.alone[0]), ("idea", idea, pairs.alone[1]))
        alone = [f"{lone} of {len(o)} {side} runs" for side, o, lone in both if lone]
        found.append(f"{len(pairs)} pairs; {' and '.join(alone)} have no partner of the same rung and seed.")
    if max(pairs.tried) >= 2 * min(pairs.tried):
        ours, theirs = pairs.tried
        found.append(
            f"At a rung the base was tried with {ours:g} values of lr and batch, the idea with {theirs:g}: the "
            f"side that was searched more looks better than it is."
        )
    if pairs.within()[1] == 0:
        found.append("One pair at each rung: the noise of a gap is guessed from its scatter about a line. Add seeds.")
    beyond = _beyond_pairs(pairs, fitted, place)
    if beyond:
        found.append(
            f"The target is {beyond:.3g}x the {fitted.observations.axis} of the largest pair; pairs tell the worth."
        )
    if pairs.rungs < 4:
        found.append("Fewer than 4 rungs have pairs; whether the gap fades with size can hardly be told.")
    if not fitted.reliable:
        found.append(f"The base's forecast is not reliable, so the compute multiplier is rough ({fitted.backtest}).")
    return tuple(found)
