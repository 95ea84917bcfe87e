"""Mixed units: rows whose params, tokens or FLOPs are in thousands, millions or billions among others that are not.

Real ladders span a factor of 1000, so a large size alone proves nothing. What does: FLOPs that disagree with
6 x params x tokens, or a wide gap whose far side fits the rest, in sizes and in losses, once multiplied by 10^3, 10^6
or 10^9. Where that is sure the table is refused; where the losses cannot tell, a caveat names the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from windtunnel.errors import InputError
from windtunnel.laws.observations import Observations, at_work
from windtunnel.laws.reading.naming import unit_of
from windtunnel.laws.reading.tables import Table

COLUMNS = (("params",), ("tokens",), ("params", "tokens"), ("flops",))  # what may be written in another unit together
GAP = np.log10(300.0)  # neighbours in size this far apart need an explanation (guess; usual rungs are 2 to 10 apart)
FACTORS = (3.0, 6.0, 9.0)
_WORD = {3.0: "thousands", 6.0: "millions", 9.0: "billions"}
NEAR = 1.0  # corrected sizes may lie this far (10 times) outside the others' range: a top rung is its own neighbour
BETTER = 0.5  # a correction that halves the losses' distance from the others' trend is sure (guess)
MAYBE = 0.7  # and one that leaves less than this of it is worth a caveat (guess)
PART = 1e-3  # of the smallest: a part of a number that is no rounding
COUNTS = ("params", "tokens", "flops", "active_params", "unique_tokens", "batch_tokens")
PLAIN = (1e6, 1e9)  # plain counts, and plain FLOPs, are hardly smaller (guesses)
PER_PARAM, PRICE = (1e-3, 1e6), (1e-2, 1e5)  # tokens to a parameter, FLOPs over 6 N D: beyond, it is a unit (guesses)


def check_units(runs: Observations, table: Table) -> tuple[str, ...]:
    """Caveats about units that may be mixed. Raises InputError where they surely are. Each series by itself."""
    caveats: list[str] = []
    for places in _series(runs):
        logs = {name: np.log10(values[places]) for name, values in _sizes(runs).items()}
        if {"params", "tokens", "flops"} <= set(logs):
            _check_flops(table, places, logs)
            logs.pop("flops")
        known = np.isfinite(runs.loss[places])
        stated = {name: values[known] for name, values in logs.items()}
        caveats += _check_gaps(table, places[known], stated, runs.loss[places][known])
    return tuple(caveats)


def odd_units(runs: Observations, chosen: Mapping[str, str]) -> tuple[str, ...]:
    """A caveat where the columns of a series as a whole look written in another unit: laws may hold, prices do not."""
    sizes = _sizes(runs)
    found = list(_headings(runs, chosen))
    for places in _series(runs):
        found = found or list(_oddities({name: values[places] for name, values in sizes.items()}))
    if not found:
        return ()
    return (f"Sizes may be in other units than parameters, tokens and FLOPs: {'; '.join(found)}. Prices, "
            f"budgets and what is believed of laws need plain numbers, as 7e9.",)  # fmt: skip


def _headings(runs: Observations, chosen: Mapping[str, str]) -> Iterator[str]:
    """Columns whose own name states a unit that their numbers look written in."""
    for ours, theirs in chosen.items():
        unit = unit_of(theirs) if ours in COUNTS and getattr(runs, ours) is not None else 1.0
        known = _known(getattr(runs, ours)) if unit > 1 else np.zeros(0)
        if len(known) and np.median(known) < min(unit, PLAIN[ours == "flops"]):
            yield f"{theirs!r}, {np.min(known):.4g} to {np.max(known):.4g}, is read as plain {ours}"


def _oddities(sizes: dict[str, np.ndarray]) -> Iterator[str]:
    for name, values in sizes.items():
        known = _known(values)
        if name != "flops" and len(known) and np.max(np.abs(known - np.round(known))) > PART * np.min(known):
            yield f"{name}, {np.min(known):.4g} to {np.max(known):.4g}, are no whole numbers"
    if {"params", "tokens"} <= set(sizes):
        n_times_d = 6 * sizes["params"] * sizes["tokens"]
        each = _middle(sizes["tokens"] / sizes["params"])
        if not PER_PARAM[0] < each < PER_PARAM[1]:
            yield f"there are {each:.2g} tokens to a parameter"
        times = _middle(sizes["flops"] / n_times_d) if "flops" in sizes else 1.0
        if not PRICE[0] < times < PRICE[1]:
            yield f"flops are {times:.2g} of 6 x params x tokens"
    elif {"params", "flops"} <= set(sizes):
        each = _middle(sizes["flops"] / (6 * sizes["params"] ** 2))
        if not PER_PARAM[0] < each < PER_PARAM[1]:
            few = ", too few to be taken as tokens, so that laws may read flops alone" if each < 1 else ""
            yield f"flops are those of {each:.2g} tokens to a parameter{few}"


def _known(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _middle(values: np.ndarray) -> float:
    """The median of what is known, 1 if nothing is."""
    known = _known(values)
    return float(np.median(known)) if len(known) else 1.0


def _series(runs: Observations) -> Iterator[np.ndarray]:
    if runs.series is None:
        yield np.arange(len(runs))
        return
    numbers = np.unique(runs.series, return_inverse=True)[1]
    order = np.argsort(numbers, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)


def _sizes(runs: Observations) -> dict[str, np.ndarray]:
    """Params (those at work on a token), tokens and FLOPs, where stated."""
    return {
        n: v for n, v in (("params", at_work(runs)), ("tokens", runs.tokens), ("flops", runs.flops)) if v is not None
    }


def _check_flops(table: Table, places: np.ndarray, logs: dict[str, np.ndarray]) -> None:
    odd = _beyond_gap(logs["flops"] - logs["params"] - logs["tokens"])
    if odd is None:
        return
    ratio = logs["flops"] - np.log10(6) - logs["params"] - logs["tokens"]
    off = float(np.median(ratio[odd]) - np.median(ratio[~odd]))
    moves = (("params", off), ("tokens", off), ("flops", -off))
    likely = [name for name, move in moves if _lands(logs[name], odd, move) and not _lands(logs[name], odd, 0.0)]
    raise InputError(
        f"{table.file} mixes units: in {table.named(places[odd])} flops over 6 x params x tokens is {_times(off)} that "
        f"of the other rows; look at {' and '.join(likely) or 'params, tokens and flops'} there. Write every row in "
        f'parameters, tokens and FLOPs, or ignore the FLOPs with --columns "flops=".'
    )


def _check_gaps(table: Table, places: np.ndarray, logs: dict[str, np.ndarray], loss: np.ndarray) -> list[str]:
    found = [each for names in COLUMNS if set(names) <= set(logs) for each in _corrections(logs, loss, names)]
    if not found:
        return []
    speaks, names, odd, factor = min(found, key=lambda each: each[0])
    message = _message(table, places, names, odd, factor)
    if speaks < BETTER:
        raise InputError(f"{table.file} mixes units: {message}. Write every row in plain numbers, as 7e9.")
    return [f"Units may be mixed, which would ruin the forecast: {message}. Check the table."]


def _corrections(
    logs: dict[str, np.ndarray], loss: np.ndarray, names: Sequence[str]
) -> list[tuple[float, Sequence[str], np.ndarray, float]]:
    """Corrections of a gap that the losses do not speak against: how far off the losses stay, and what is corrected."""
    odd, found = _beyond_gap(logs[names[0]]), []
    for factor in (sign * size for size in FACTORS for sign in (1, -1)):
        if odd is None:
            break
        moved = {name: values + factor * odd if name in names else values for name, values in logs.items()}
        if all(_lands(moved[name], odd, 0.0) for name in names) and _plausible(logs, moved, odd):
            few = np.sum(~odd) < len(logs) + 2  # then the losses cannot tell, and the nearest correction is named
            off = _distance(moved[names[0]], odd) if few else 0.0
            speaks = MAYBE - 0.01 / (1 + off) if few else _speaks(logs, moved, loss, odd)
            found += [(speaks, names, odd, factor)] if speaks < MAYBE else []
    return found


def _speaks(logs: dict[str, np.ndarray], moved: dict[str, np.ndarray], loss: np.ndarray, odd: np.ndarray) -> float:
    return _deviation(moved, loss, odd) / max(_deviation(logs, loss, odd), 1e-12)


def _distance(values: np.ndarray, odd: np.ndarray) -> float:
    return abs(float(np.median(values[odd]) - np.median(values[~odd])))


def _beyond_gap(values: np.ndarray) -> np.ndarray | None:
    """The smaller side of the widest gap between sorted neighbours, where that gap is beyond GAP."""
    if len(values) < 3:
        return None
    ordered = np.sort(values)
    gaps = np.diff(ordered)
    widest = int(np.argmax(gaps))
    if gaps[widest] < GAP:
        return None
    low = values <= ordered[widest]
    return low if 2 * low.sum() <= len(values) else ~low


def _lands(values: np.ndarray, odd: np.ndarray, move: float) -> bool:
    """Whether the odd rows lie within the range of the others once moved."""
    rest, moved = values[~odd], values[odd] + move
    return bool(moved.min() >= rest.min() - NEAR and moved.max() <= rest.max() + NEAR)


def _ratio(logs: dict[str, np.ndarray]) -> np.ndarray | None:
    return logs["tokens"] - logs["params"] if {"tokens", "params"} <= set(logs) else None


def _plausible(logs: dict[str, np.ndarray], moved: dict[str, np.ndarray], odd: np.ndarray) -> bool:
    """Whether the odd rows' tokens per parameter are like the others' once corrected, and were not before."""
    before, after = _ratio(logs), _ratio(moved)
    if before is None or after is None:
        return True
    return _lands(after, odd, 0.0) and (np.array_equal(before, after) or not _lands(before, odd, 0.0))


def _deviation(logs: dict[str, np.ndarray], loss: np.ndarray, odd: np.ndarray) -> float:
    """How far the odd rows' log losses are from a plane in log sizes through the others."""
    centred = np.stack([values - values[~odd].mean() for values in logs.values()], axis=1)
    y = np.log(loss) - np.log(loss[~odd]).mean()
    slopes = np.linalg.lstsq(centred[~odd], y[~odd], rcond=1e-6)[0]
    return float(np.sqrt(np.mean((y[odd] - centred[odd] @ slopes) ** 2)))


def _message(table: Table, places: np.ndarray, names: Sequence[str], odd: np.ndarray, factor: float) -> str:
    small = odd if factor > 0 else ~odd
    return (
        f"{' and '.join(names)} in {table.named(places[small])} look written in {_WORD[abs(factor)]}, "
        f"unlike those of the other {table.noun}s"
    )


def _times(log_factor: float) -> str:
    return f"about {10**log_factor:.0e} times"
