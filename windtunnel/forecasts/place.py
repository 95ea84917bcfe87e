"""Where a target lies: the params, tokens and FLOPs the laws need, and how far that is from any run.

Sizes the target does not state follow from the ladder where the ladder leaves no choice (one horizon for all, or tokens
in step with parameters), with a caveat. What does not follow is asked for, never guessed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from windtunnel.errors import InputError
from windtunnel.ladder import Size, Target, compact
from windtunnel.laws.law import Sizes
from windtunnel.laws.observations import ALL_SIZES, SIZE_COLUMNS, Observations

FAR = 30.0  # times the top rung's compute from which a forecast is called far (guess)
OFF_PATH = 1.25  # a horizon this factor from the ladder's own earns a caveat
EPOCHS = 4.0  # passes up to which repeated tokens are worth nearly as much as new ones (2305.16264)
UNSUPPORTED = 2.0  # and from this factor no run of the ladder supports it


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


def located(o: Observations, target: Target, size: Size | None = None, reads: Collection[str] = ()) -> Place:
    """The place of a target relative to the runs. Raises InputError where a needed size is missing.

    `reads` are the columns that the laws use; params, tokens and flops are always needed where the runs state them.
    """
    known = _known(target, size)
    caveats: list[str] = []
    _complete(o, known, caveats)
    _complete_others(o, known, caveats)
    wanted = [name for name in ALL_SIZES if getattr(o, name) is not None and (name in SIZE_COLUMNS or name in reads)]
    missing = [name for name in wanted if name not in known]
    if missing:
        raise InputError(
            f"The target states {', '.join(known) or 'nothing'}, but the runs vary in {', '.join(missing)} too; add "
            f"{' and '.join(f'{name}=' for name in missing)} to the target."
        )
    sizes = Sizes(**{n: np.array([value]) for n, value in known.items()})
    supported = _check_path(o, known, caveats)
    _check_distance(o, known, caveats)
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
    if o.params is not None and o.tokens is not None:
        path = _path(o)
        if path is not None and "flops" in known and not {"params", "tokens"} & set(known):
            known["params"] = _from_line(o.size, o.params, known["flops"])
            caveats.append(f"params were not stated; the ladder's own path gives {compact(known['params'])}.")
        if path is not None and "tokens" not in known and "params" in known:
            known["tokens"] = _from_line(o.params, o.tokens, known["params"])
            caveats.append(f"tokens were not stated; the ladder's own path gives {compact(known['tokens'])}.")
        if path is not None and "params" not in known and "tokens" in known and np.ptp(np.log(o.tokens)) > 0.05:
            known["params"] = _from_line(o.tokens, o.params, known["tokens"])
            caveats.append(f"params were not stated; the ladder's own path gives {compact(known['params'])}.")
    if o.flops is not None and "flops" not in known and {"params", "tokens"} <= set(known):
        known["flops"] = _flops_per_6nd(o) * 6 * known["params"] * known["tokens"]


def _complete_others(o: Observations, known: dict[str, float], caveats: list[str]) -> None:
    """Unique tokens are all tokens, and active parameters all parameters, where the target does not say otherwise."""
    for name, whole in (("unique_tokens", "tokens"), ("active_params", "params")):
        column = getattr(o, name)
        if column is not None and name not in known and whole in known:
            if getattr(o, whole) is not None and np.any(column < 0.95 * getattr(o, whole)):
                caveats.append(f"The target does not state {name}; they are taken as all its {whole}.")
            known[name] = known[whole]
    if o.batch_tokens is not None and "batch_tokens" not in known and {"steps", "tokens"} <= set(known):
        known["batch_tokens"] = known["tokens"] / known["steps"]


def _flops_per_6nd(o: Observations) -> float:
    """How the runs' FLOPs relate to 6 N D, at their top."""
    if o.flops is None or o.params is None or o.tokens is None:
        return 1.0
    top = int(np.argmax(o.flops))
    return float(o.flops[top] / (6 * o.params[top] * o.tokens[top]))


def _path(o: Observations) -> tuple[float, float] | None:
    """Slope and start of log tokens over log params where the runs lie on one line, else None."""
    if o.params is None or o.tokens is None:
        return None
    x, y = np.log(o.params), np.log(o.tokens)
    if np.ptp(x) < 0.05:
        return None
    slope, start = np.polyfit(x, y, 1)
    return (float(slope), float(start)) if np.std(y - slope * x - start) < 0.15 else None


def _from_line(x: np.ndarray, y: np.ndarray, at: float) -> float:
    slope, start = np.polyfit(np.log(x), np.log(y), 1)
    return float(np.exp(slope * np.log(at) + start))


def _check_path(o: Observations, known: dict[str, float], caveats: list[str]) -> bool:
    """Whether the target's horizon is one the laws know; only ladders along one line can fail."""
    path = _path(o)
    if path is None or not {"params", "tokens"} <= set(known):
        return True
    expected = float(np.exp(path[0] * np.log(known["params"]) + path[1]))
    factor = known["tokens"] / expected
    if max(factor, 1 / factor) > OFF_PATH:
        caveats.append(
            f"The target trains on {compact(known['tokens'])} tokens; the ladder's path gives {compact(expected)}. "
            f"No run tells parameters and tokens apart, so the law cannot either. Vary tokens at one size."
        )
    return max(factor, 1 / factor) <= UNSUPPORTED


def _check_repeats(o: Observations, known: dict[str, float], caveats: list[str]) -> None:
    """Beyond what any run has seen again, and beyond where repeated tokens are known to be worth nearly as much."""
    if "unique_tokens" not in known or "tokens" not in known:
        return
    epochs, seen = known["tokens"] / known["unique_tokens"], 1.0
    if o.tokens is not None and o.unique_tokens is not None:
        seen = float(np.max(o.tokens / o.unique_tokens))
    if epochs > max(EPOCHS, seen):
        caveats.append(
            f"The target sees its tokens {epochs:.3g} times, the runs at most {seen:.3g}; past {EPOCHS:g} passes "
            f"repeated tokens are worth less and less (2305.16264), and large models may overfit. Train rungs with as "
            f"many passes."
        )


def _check_distance(o: Observations, known: dict[str, float], caveats: list[str]) -> None:
    times = known[o.axis] / float(np.max(o.size))
    noun = "compute" if o.axis == "flops" else o.axis
    if times > 1.0:
        far = " That is far: treat the interval as a lower bound of the doubt." if times > FAR else ""
        caveats.append(f"The target is {times:.3g}x the top rung's {noun}.{far}")
    elif times < float(np.min(o.size) / np.max(o.size)):
        caveats.append(f"The target is below the smallest rung's {noun}.")
