"""Where a target lies: the params, tokens and FLOPs the laws need, and how far that is from any run.

Sizes the target does not state follow from the ladder where the ladder leaves no choice (one horizon for all, or tokens
in step with parameters), with a caveat. What does not follow is asked for, never guessed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.forecasts.price import ROUGH, price_of
from windtunnel.ladder import Size, Target, compact
from windtunnel.laws.law import Sizes
from windtunnel.laws.observations import ALL_SIZES, OFF_LINE, SIZE_COLUMNS, Observations, at_work
from windtunnel.laws.prepare import VARIES
from windtunnel.laws.unread import usual

REACH = {"params": 1e5, "active_params": 1e5, "tokens": 1e5, "flops": 1e9}  # no honest target lies further (guess)
FAR = 30.0  # times the top rung's compute from which a forecast is called far (guess)
OFF_PATH = 1.25  # a horizon this factor from the ladder's own earns a caveat
EPOCHS = 4.0  # passes up to which repeated tokens are worth nearly as much as new ones (2305.16264)
UNSUPPORTED = 2.0  # and from this factor no run of the ladder supports it
OFF_RATIO = 4.0  # times the runs' tokens a param, or below them, from which a caveat is due (guess)


@dataclass(frozen=True, eq=False)
class Place:
    """Sizes of one entry, caveats about the target, and whether the ladder says anything about such a target."""

    sizes: Sizes
    caveats: tuple[str, ...]
    supported: bool

    def stated(self) -> dict[str, float]:
        """The sizes that are known, by name."""
        found = {name: getattr(self.sizes, name) for name in ALL_SIZES}
        return {name: float(value[0]) for name, value in found.items() if value is not None}


def runs_of(fit: Any) -> Observations:
    """The runs behind a Fit. Raises InputError for anything else."""
    found = getattr(fit, "observations", None)
    if not isinstance(found, Observations):
        raise InputError(
            f"A Fit is needed first, as wt.fit(runs) gives; a {type(fit).__name__} was given. A table or a "
            f"DataFrame is read by wt.read_runs."
        )
    return found


def located(
    o: Observations,
    target: Target,
    size: Size | None = None,
    reads: Collection[str] = (),
    unread: Collection[str] = (),
) -> Place:
    """The place of a target relative to the runs. Raises InputError where a needed size is missing.

    `reads` are the columns that the laws use, and `unread` those that change the loss without being read; params,
    tokens and flops are always needed where the runs state them.
    """
    if not isinstance(target, Target):
        raise InputError(f"The target is {target!r}; give a Target, as in wt.Target(params=7e9, tokens=1.4e11).")
    known = _known(target, size)
    caveats: list[str] = []
    stated = ", ".join(known) or "nothing"
    _complete_others(o, known, caveats)
    _complete(o, known, caveats)
    _complete_others(o, known, caveats)  # of what has just been found
    _price(o, known, caveats if "flops" in reads else [])
    wanted = [name for name in ALL_SIZES if getattr(o, name) is not None and (name in SIZE_COLUMNS or name in reads)]
    missing = [name for name in wanted if name not in known]
    if {"params", "tokens"} <= set(wanted) and {"params", "tokens"} & set(missing):
        missing = [name for name in missing if name != "flops"]  # they follow
    if missing:
        raise InputError(
            f"The target states {stated}, but the laws of these runs read {', '.join(missing)} "
            f"too; add {' and '.join(f'{name}=' for name in missing)} to the target"
            + (f', or read more of the table: --columns "{o.unnamed}".' if o.unnamed else ".")
        )
    if known.get("active_params", 0.0) > 1.02 * known.get("params", np.inf):
        raise InputError(
            f"The target has {compact(known['active_params'])} active_params of {compact(known['params'])} params; "
            f"those that a token meets are never more than all."
        )
    _check_reach(o, target)
    sizes = Sizes(**{n: np.array([value]) for n, value in known.items()})
    supported = all(
        [
            _check_path(o, known, caveats),
            _check_sparsity(o, reads, known, caveats),
            *(_check_unread(o, reads, name, known, caveats) for name in unread),
        ]
    )
    _check_distance(o, known, caveats)
    _check_price(o, target.stated(), caveats)
    _check_repeats(o, known, caveats)
    unused = [name for name in ("params", "tokens") if name in known and getattr(o, name) is None]
    if unused:
        caveats.append(f"The runs do not state {' and '.join(unused)}, so the target's cannot be used.")
    return Place(sizes, tuple(caveats), supported)


def _known(target: Target, size: Size | None) -> dict[str, float]:
    if target.rung is None:
        return {name: float(value) for name, value in target.stated().items()}
    if size is None:
        raise InputError(
            f"The target is a rung ({target.rung}); its parameters depend on the model. Pass "
            f"size=model.size(rung, data), or give the target as params= and tokens=."
        )
    tokens = float(target.rung.tokens)
    known = {"params": float(size.params), "tokens": tokens, "flops": float(size.training_flops(tokens))}
    unique = target.rung.unique_tokens
    return known if unique is None else known | {"unique_tokens": min(tokens, float(unique))}


def _complete(o: Observations, known: dict[str, float], caveats: list[str]) -> None:
    """Fill sizes that follow from the others and the ladder's own path."""
    _from_price(o, known, caveats)
    alone = _one_value(o)
    if known and alone is not None and alone[0] not in known:
        known[alone[0]] = alone[1]
        caveats.append(f"{alone[0]} were not stated; all runs have {compact(alone[1])}.")
        _from_price(o, known, caveats)
        (other,) = {"params", "tokens"} - {alone[0]}
        if "flops" in known and other not in known and o.flops is not None:
            known[other] = _from_line(o.flops, getattr(o, other), known["flops"])
            caveats.append(f"{other} were not stated; the ladder's own path gives {compact(known[other])}.")
    if o.params is not None and o.tokens is not None:
        path = _path(o)
        if path is not None and "flops" in known and not {"params", "tokens"} & set(known):
            known["params"] = _from_line(o.size, o.params, known["flops"])
            caveats.append(f"params were not stated; the ladder's own path gives {compact(known['params'])}.")
        if path is not None and "tokens" not in known and "params" in known:
            known["tokens"] = _from_line(o.params, o.tokens, known["params"])
            caveats.append(f"tokens were not stated; the ladder's own path gives {compact(known['tokens'])}.")
        if path is not None and "params" not in known and "tokens" in known and np.ptp(np.log(o.tokens)) > VARIES:
            known["params"] = _from_line(o.tokens, o.params, known["tokens"])
            caveats.append(f"params were not stated; the ladder's own path gives {compact(known['params'])}.")


def _complete_others(o: Observations, known: dict[str, float], caveats: list[str]) -> None:
    """Unique tokens are what all runs have, or else all tokens, and active parameters all parameters, where the target
    does not say otherwise."""
    if "unique_tokens" not in known and "tokens" in known and (unique := _same_data(o)) is not None:
        known["unique_tokens"] = min(known["tokens"], unique)
        caveats.append(f"unique_tokens were not stated; all runs have {compact(unique)}.")
    for name, whole in (("unique_tokens", "tokens"), ("active_params", "params")):
        column = getattr(o, name)
        if column is not None and name not in known and whole in known:
            if getattr(o, whole) is not None and np.any(column < 0.95 * getattr(o, whole)):
                caveats.append(f"The target does not state {name}; they are taken as all its {whole}.")
            known[name] = known[whole]
    if o.batch_tokens is not None and "batch_tokens" not in known and {"steps", "tokens"} <= set(known):
        known["batch_tokens"] = known["tokens"] / known["steps"]


def _same_data(o: Observations) -> float | None:
    """The unique tokens of all runs where they have as many, and one of them repeats its data."""
    if o.unique_tokens is None or o.tokens is None:
        return None
    again = o.unique_tokens < 0.95 * o.tokens  # the others' are no more than their tokens
    if not again.any() or np.ptp(np.log(o.unique_tokens[again])) >= VARIES:
        return None
    found = float(np.exp(np.mean(np.log(o.unique_tokens[again]))))
    return found if np.all(o.unique_tokens < found * (1 + VARIES)) else None


def _price(o: Observations, known: dict[str, float], caveats: list[str]) -> None:
    """FLOPs at the runs' price, by which the top run's are carried to the params (those at work) and tokens."""
    column, working = at_work(o), _working(o)
    price = price_of(column, o)
    if price is None or "flops" in known or not {working, "tokens"} <= set(known):
        return
    assert o.flops is not None and o.tokens is not None and column is not None
    top = int(np.argmax(o.flops))
    ratio = price.flops(known[working], known["tokens"]) / price.flops(column[top], o.tokens[top])
    known["flops"] = float(o.flops[top] * ratio)
    if price.sure and price.per_token:
        caveats.append(f"FLOPs were not stated; at the runs' {price} they are {compact(known['flops'])}.")
    elif price.off > ROUGH:
        rates = o.flops / (column * o.tokens)
        caveats.append(
            f"FLOPs were not stated; the runs' are {np.min(rates):.3g} to {np.max(rates):.3g} x {working} x tokens. "
            f"{compact(known['flops'])} are taken, as of the top rung: state the target's flops."
        )


def _from_price(o: Observations, known: dict[str, float], caveats: list[str]) -> None:
    """Params (those at work) or tokens that follow from the other and FLOPs, where all runs have one price."""
    price, working = price_of(at_work(o), o), _working(o)
    if price is None or not price.sure or "flops" not in known:
        return
    if "tokens" not in known and working in known:
        known["tokens"] = known["flops"] / price.flops(known[working], 1.0)
        caveats.append(f"tokens were not stated; FLOPs and {working} give {compact(known['tokens'])}.")
    elif working not in known and "tokens" in known and price.params(known["flops"], known["tokens"]) > 0:
        known[working] = price.params(known["flops"], known["tokens"])
        caveats.append(f"{working} were not stated; FLOPs and tokens give {compact(known[working])}.")


def _working(o: Observations) -> str:
    return "params" if o.active_params is None else "active_params"


def _check_price(o: Observations, stated: dict[str, float], caveats: list[str]) -> None:
    """Sizes that somebody stated may contradict each other."""
    price, working = price_of(at_work(o), o), _working(o)
    if price is None or not price.sure or not {working, "tokens", "flops"} <= set(stated):
        return
    factor = stated["flops"] / price.flops(stated[working], stated["tokens"])
    if max(factor, 1 / factor) > OFF_PATH:
        caveats.append(
            f"The target's FLOPs are {factor:.3g} times what its {working} and tokens cost at the runs' price; is one "
            f"of the three mistaken?"
        )


def _one_value(o: Observations) -> tuple[str, float] | None:
    """Params or tokens, and their value, where all runs have the same and only the other one varies."""
    for name, other in (("params", o.tokens), ("tokens", o.params)):
        column = getattr(o, name)
        if column is not None and other is not None and np.ptp(np.log(column)) < VARIES <= np.ptp(np.log(other)):
            return name, float(np.exp(np.mean(np.log(column))))
    return None


def _path(o: Observations) -> tuple[float, float] | None:
    """Slope and start of log tokens over log params where the runs lie on one line, else None."""
    if o.params is None or o.tokens is None:
        return None
    x, y = np.log(o.params), np.log(o.tokens)
    if np.ptp(x) < VARIES:
        return None
    slope, start = np.polyfit(x, y, 1)
    return (float(slope), float(start)) if np.std(y - slope * x - start) < OFF_LINE else None


def _from_line(x: np.ndarray, y: np.ndarray, at: float) -> float:
    slope, start = np.polyfit(np.log(x), np.log(y), 1)
    return float(np.exp(slope * np.log(at) + start))


def _check_path(o: Observations, known: dict[str, float], caveats: list[str]) -> bool:
    """Whether the target's horizon is one the laws know; only ladders along one line can fail."""
    alone = _one_value(o)
    if alone is not None and alone[0] in known:
        name, value = alone
        factor = max(known[name] / value, value / known[name])
        if factor > OFF_PATH:
            caveats.append(
                f"The target has {compact(known[name])} {name}, all runs have {compact(value)}: nothing here tells "
                f"what {name} do. Vary them at one size."
            )
        return factor <= UNSUPPORTED
    if o.params is None or o.tokens is None or not {"params", "tokens"} <= set(known):
        return True
    path = _path(o)
    if path is None:
        working = _working(o) if _working(o) in known else "params"
        _check_ratio(o.tokens / getattr(o, working), known["tokens"] / known[working], caveats)
        return True
    expected = float(np.exp(path[0] * np.log(known["params"]) + path[1]))
    factor = known["tokens"] / expected
    if max(factor, 1 / factor) > OFF_PATH:
        caveats.append(
            f"The target trains on {compact(known['tokens'])} tokens; the ladder's path gives {compact(expected)}. "
            f"No run tells parameters and tokens apart, so the law cannot either. Vary tokens at one size."
        )
    return max(factor, 1 / factor) <= UNSUPPORTED


def _check_sparsity(o: Observations, reads: Collection[str], known: dict[str, float], caveats: list[str]) -> bool:
    """Whether as many params wait for each that a token meets as in some run, or laws say what that does."""
    if o.params is None or not {"params", "active_params"} <= set(known):
        return True
    runs = o.params / (o.params if o.active_params is None else o.active_params)
    low, high, asked = float(np.min(runs)), float(np.max(runs)), known["params"] / known["active_params"]
    room = OFF_RATIO if "active_params" in reads else OFF_PATH
    if low / room < asked < high * room:
        return True
    seen = compact(low) if high < OFF_PATH * low else f"{compact(low)} to {compact(high)}"
    caveats.append(
        f"The target has {compact(asked)} params for each active one, the runs {seen}: nothing here tells what so many "
        f"experts do. Vary them at one size."
    )
    return max(asked / high, low / asked) <= (OFF_RATIO if "active_params" in reads else UNSUPPORTED)


def _check_unread(
    o: Observations, reads: Collection[str], name: str, known: dict[str, float], caveats: list[str]
) -> bool:
    """Whether the target is what laws foretell that do not read a column: a run as the others of its size."""
    foretold = usual(o, reads, name, known)
    asked = known.get(name, foretold)
    if max(asked / foretold, foretold / asked) <= OFF_PATH:
        return True
    caveats.append(
        f"The target has {compact(asked)} {name}, which no law reads: what is foretold is a run of about "
        f"{compact(foretold)}."
    )
    return False


def _check_ratio(runs: np.ndarray, asked: float, caveats: list[str]) -> None:
    """A law of runs that vary both is a guess where their ratio is another one."""
    low, high = float(np.min(runs)), float(np.max(runs))
    if not low / OFF_RATIO < asked < high * OFF_RATIO:
        caveats.append(
            f"The target has {compact(asked)} tokens a param, the runs {compact(low)} to {compact(high)}: that far "
            f"off, how params and tokens go together is the law's own guess. Add a run there."
        )


def _check_reach(o: Observations, target: Target) -> None:
    """Raise InputError for a target so far from the runs that its unit must be another one."""
    for name, asked in target.stated().items():
        column = getattr(o, name) if name in REACH else None
        if column is None or not np.isfinite(column).any():
            continue
        low, high = float(np.nanmin(column)), float(np.nanmax(column))
        if asked > high * REACH[name] or asked < low / REACH[name]:
            raise InputError(
                f"The target has {asked:.4g} {name}, the runs {low:.4g} to {high:.4g}: are both in the same unit? "
                f"No forecast reaches {compact(max(asked / high, low / asked))} times beyond the runs. Write both in "
                f"plain numbers, as 7e9."
            )


def _check_repeats(o: Observations, known: dict[str, float], caveats: list[str]) -> None:
    """Beyond what any run has seen again, and beyond where repeated tokens are known to be worth nearly as much."""
    if "unique_tokens" not in known or "tokens" not in known:
        return
    past = past_repeats(known["tokens"] / known["unique_tokens"], o)
    caveats += [f"The target: {past}"] if past else []


def past_repeats(epochs: float, o: Observations) -> str:
    """What must be said of data that are seen more often than known to be worth it and than any run saw them."""
    seen = 1.0
    if o.tokens is not None and o.unique_tokens is not None:
        seen = float(np.max(o.tokens / o.unique_tokens))
    if epochs <= max(EPOCHS, seen):
        return ""
    return (
        f"unique tokens are seen {epochs:.3g} times, by the runs at most {seen:.3g}; past {EPOCHS:g} passes repeated "
        f"tokens are worth less and less (2305.16264), and large models may overfit. Train rungs with as many passes."
    )


def _check_distance(o: Observations, known: dict[str, float], caveats: list[str]) -> None:
    times = known[o.axis] / float(np.max(o.size))
    noun = "compute" if o.axis == "flops" else o.axis
    if times > 1.0:
        far = " That is far: treat the interval as a lower bound of the doubt." if times > FAR else ""
        caveats.append(f"The target is {times:.3g}x the top rung's {noun}.{far}")
    elif times < float(np.min(o.size) / np.max(o.size)):
        caveats.append(f"The target is below the smallest rung's {noun}.")
