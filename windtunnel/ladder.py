"""Sizes and horizons: Rung, Ladder, Target, and the arithmetic of parameters and FLOPs.

Standard library only. A Rung says how large and how long, never on what hardware. How many parameters a rung has
depends on the model, so a model part returns a `Size`; what a newcomer gets wrong is N: `Size.params` counts the
parameters that work on every token, so a lookup-only embedding table is left out (and a tied one, being also the
readout, is counted).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

from windtunnel.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a model weighs and costs at one rung.

    `embedding` and `non_embedding` partition all parameters; `tied` says the embedding table is also the readout;
    `idle` counts those of `non_embedding` that a token does not meet (experts it is not sent to). `flops_per_token` is
    one forward and backward pass: 6 per working parameter plus attention (multiply and add are two operations; the
    causal half is not discounted, as in PaLM, 2204.02311, appendix B).
    """

    embedding: int
    non_embedding: int
    flops_per_token: float
    tied: bool = False
    idle: int = 0

    @property
    def total(self) -> int:
        """All parameters."""
        return self.embedding + self.non_embedding

    @property
    def params(self) -> int:
        """Parameters that work on a token: the N of the laws."""
        return (self.total if self.tied else self.non_embedding) - self.idle

    def training_flops(self, tokens: float) -> float:
        """FLOPs to train on `tokens` tokens."""
        return self.flops_per_token * tokens


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One size and horizon.

    `tokens` is the training horizon (examples, where an example is one prediction, as in image classification).
    `batch` is examples per step; None leaves it to the recipe's batch rule. `unique_tokens` are the distinct training
    tokens that it may see, again and again where they are fewer than `tokens`; None leaves it to the data.
    """

    width: int
    depth: int
    tokens: int
    heads: int = 1
    batch: int | None = None
    unique_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("width", "depth", "tokens", "heads"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"Rung {name} is {value!r}; it must be a whole number of at least 1.")
        if self.batch is not None and (not isinstance(self.batch, int) or self.batch < 1):
            raise InputError(f"Rung batch is {self.batch!r}; give examples per step as a whole number, or None.")
        if self.unique_tokens is not None and (not isinstance(self.unique_tokens, int) or self.unique_tokens < 1):
            raise InputError(
                f"Rung unique_tokens is {self.unique_tokens!r}; give distinct training tokens as a whole number, or "
                f"None for all that the data have."
            )
        if self.width % self.heads:
            raise InputError(
                f"Rung width {self.width} cannot be split over {self.heads} heads; choose heads that divide the width."
            )

    def but(self, **changes: Any) -> Rung:
        """This rung with some fields changed."""
        return replace(self, **_known(self, changes))

    def to_json(self) -> dict[str, Any]:
        """Plain data that `Rung(**data)` turns back into this rung."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in held.items() if name != "unique_tokens" or value is not None}

    def __str__(self) -> str:
        few = "" if self.unique_tokens is None else f" of {compact(self.unique_tokens)} unique"
        return f"width {self.width} x depth {self.depth}, {compact(self.tokens)} tokens{few}"


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Ordered rungs, each trained with `seeds` seeds; the first rung is where hyperparameters are tuned."""

    rungs: tuple[Rung, ...]
    seeds: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "rungs", _several(self.rungs))
        for rung in self.rungs:
            if not isinstance(rung, Rung):
                raise InputError(
                    f"The ladder holds {rung!r}, which is no Rung; give Rung(width=..., depth=..., tokens=...), or "
                    f"widths alone to Ladder.widths((64, 128, 256), depth=..., tokens=...)."
                )
        if len(self.rungs) < 3:
            raise InputError(
                f"The ladder has {len(self.rungs)} rung(s); a law with a floor needs at least 3, and 5 or more for a "
                f"backtest that means something. Add rungs."
            )
        if not isinstance(self.seeds, int) or self.seeds < 1:
            raise InputError(f"Ladder seeds is {self.seeds!r}; give a whole number of at least 1 (3 shows the noise).")
        for small, large in pairwise(self.rungs):
            if small.batch != large.batch and small.but(batch=None) == large.but(batch=None):
                raise InputError(
                    f"Two rungs of {small} differ in batch alone ({small.batch} and {large.batch}); to the laws, which "
                    f"read params and tokens, they are one size. Let width, depth or tokens grow as well, or give the "
                    f"rungs to compare_parametrizations(rungs=...), which compares batches too."
                )
            if not _cost_order(small) < _cost_order(large):
                raise InputError(f"Rungs must grow: {large} follows {small}. Order the rungs from small to large.")

    @property
    def base(self) -> Rung:
        """The smallest rung: hyperparameters are tuned here and transferred up."""
        return self.rungs[0]

    @property
    def top(self) -> Rung:
        """The largest rung that is trained before the forecast."""
        return self.rungs[-1]

    @classmethod
    def widths(
        cls,
        widths: tuple[int, ...],
        *,
        depth: int,
        tokens: int | tuple[int, ...],
        head_width: int = 16,
        seeds: int = 3,
        batch: int | None = None,
        unique_tokens: tuple[int | None, ...] = (None,),
    ) -> Ladder:
        """A ladder in width at one depth and one horizon (the protocol of Mu-scaling, 2304.06875), or several horizons.

        Several, each at every width, cost little more than the longest where the schedule lets a decay branch off,
        as WSD(warmup_tokens=...) and Constant do, and the batch is the same at all (FixedBatch). With several
        `unique_tokens` every width and horizon is trained on each of them, repeated (None: all that the data have).
        """
        asked, horizons = _several(widths), _several(tokens)
        if not (isinstance(widths, Iterable) and asked and all(isinstance(w, Integral) for w in asked)):
            raise InputError(
                f"Ladder.widths is given {widths!r}; it takes whole numbers in a tuple, as in Ladder.widths((64, 128, "
                f"256), depth=..., tokens=...)."
            )
        if not (horizons and all(isinstance(t, Real) for t in horizons)):
            raise InputError(
                f"Ladder.widths tokens is {tokens!r}; give the tokens to train on, as 10**6, or several horizons in a "
                f"tuple."
            )
        if not isinstance(head_width, int) or head_width < 1:
            raise InputError(f"Ladder.widths head_width is {head_width!r}; give a whole number of at least 1.")
        rungs = [
            Rung(
                width=width,
                depth=depth,
                heads=max(1, width // head_width),
                tokens=int(t),
                batch=batch,
                unique_tokens=u,
            )
            for width in map(int, asked)
            for t in horizons
            for u in _several(unique_tokens)
        ]
        several = len(rungs) > len(asked)
        return cls(rungs=tuple(sorted(rungs, key=_cost_order) if several else rungs), seeds=seeds)

    @classmethod
    def geometric(
        cls,
        *,
        params: tuple[float, float],
        rungs: int,
        tokens_per_param: float | None = None,
        tokens: float | None = None,
        depth: int | None = None,
        head_width: int = 64,
        seeds: int = 3,
    ) -> Ladder:
        """Rungs spaced evenly in the logarithm of `params`, from the first to the second value.

        `params` are non-embedding parameters of the standard decoder block, 12 x depth x width^2; widths round to whole
        heads, so the plan prints the exact counts. Give either `tokens_per_param` (of the rounded size) or one `tokens`
        for all. With `depth` None the depth follows a width of 64 x depth (guess: the usual 50 to 100).
        """
        if (tokens is None) == (tokens_per_param is None):
            raise InputError("Ladder.geometric needs exactly one of tokens_per_param and tokens.")
        low, high = params
        if not 0 < low < high:
            raise InputError(f"Ladder.geometric params is {params}; give (smallest, largest), both positive.")
        if not isinstance(rungs, int) or rungs < 3:
            raise InputError(f"Ladder.geometric rungs is {rungs}; at least 3 are needed.")
        sizes = [low * (high / low) ** (i / (rungs - 1)) for i in range(rungs)]
        shapes = [_shaped(size, depth, head_width) for size in sizes]
        for small, large in pairwise(shapes):
            if not _block_params(small) < _block_params(large):
                raise InputError(
                    f"Ladder.geometric(params={params}, rungs={rungs}): widths round to whole heads of {head_width}, "
                    f"so width {small.width} x depth {small.depth} is followed by width {large.width} x depth "
                    f"{large.depth}, which is no larger. Give a smaller head_width, fewer rungs or a wider range."
                )
        trained = [tokens or (tokens_per_param or 0) * _block_params(shape) for shape in shapes]
        return cls(rungs=tuple(s.but(tokens=int(t)) for s, t in zip(shapes, trained, strict=True)), seeds=seeds)

    def but(self, **changes: Any) -> Ladder:
        """This ladder with some fields changed."""
        return replace(self, **_known(self, changes))


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is to be foretold: a shape that can be trained (`rung`), or sizes alone (`params` and `tokens`, or `flops`).

    The other sizes matter where the runs vary in them: `active_params` of a mixture of experts, `unique_tokens` where
    data repeat, `width`, `steps`, `batch_tokens`, `lr`. Only a target with a rung can be trained and scored by
    `windtunnel run`.
    """

    rung: Rung | None = None
    params: float | None = None
    tokens: float | None = None
    flops: float | None = None
    active_params: float | None = None
    unique_tokens: float | None = None
    width: float | None = None
    steps: float | None = None
    batch_tokens: float | None = None
    lr: float | None = None

    def __post_init__(self) -> None:
        stated = self.stated()
        if self.rung is not None:
            if not isinstance(self.rung, Rung):
                raise InputError(f"Target rung is {self.rung!r}; give Rung(width=..., depth=..., tokens=...).")
            if stated:
                raise InputError("Target takes a rung, or sizes such as params=, not both: the rung's are counted.")
            return
        if not stated:
            raise InputError("Target is empty; give rung=..., or params= and tokens=, or flops=.")
        for name, value in stated.items():
            if not (isinstance(value, Real) and math.isfinite(value) and value > 0):
                raise InputError(f"Target {name} is {value!r}; it must be a positive number.")

    def stated(self) -> dict[str, float]:
        """The sizes that are given, by name."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rung"}
        return {name: value for name, value in named.items() if value is not None}

    def but(self, **changes: Any) -> Target:
        """This target with some fields changed."""
        return replace(self, **_known(self, changes))

    def __str__(self) -> str:
        if self.rung is not None:
            return str(self.rung)
        return in_words(self.stated())


def in_words(sizes: Mapping[str, float]) -> str:
    """Sizes by name as a reader says them: '1.23M params, 24.6M tokens'."""
    return ", ".join(f"{compact(value)} {name}" for name, value in sizes.items())


def compact(number: float) -> str:
    """A count in three digits with its SI letter: 1_234_567 -> '1.23M'."""
    if number == 0 or not math.isfinite(number):
        return f"{number:g}"
    for scale, letter in (
        (1e24, "Y"),
        (1e21, "Z"),
        (1e18, "E"),
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
    ):
        if abs(number) >= scale * 0.9995:
            return f"{number / scale:.3g}{letter}"
    return f"{number:.3g}"


def four_decimals(value: float, sign: str = "") -> str:
    """A loss in four decimals, or in four digits where those say too little or too much; `sign` "+" for differences."""
    usual = value == 0 or (0.001 if sign else 0.1) <= abs(value) < 1000
    return f"{value:{sign}.4f}" if usual else f"{value:{sign}.4g}"


def _shaped(params: float, depth: int | None, head_width: int) -> Rung:
    """The rung of about so many parameters, its horizon still open."""
    # 12 L d^2 = params with d = 64 L gives L = (params / 49152)^(1/3)
    layers = depth or max(1, round((params / 49152) ** (1 / 3)))
    heads = max(1, round(math.sqrt(params / (12 * layers)) / head_width))
    return Rung(width=heads * head_width, depth=layers, heads=heads, tokens=1)


def _block_params(rung: Rung) -> int:
    """Non-embedding parameters of the standard decoder block."""
    return 12 * rung.depth * rung.width**2


def _several(given: Any) -> tuple[Any, ...]:
    """What stands in a tuple or a list, or the one thing alone."""
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)


def _cost_order(rung: Rung) -> tuple[float, float, float]:
    """By FLOPs, then width, then distinct tokens."""
    return rung.width**2 * rung.depth * rung.tokens, rung.width, rung.unique_tokens or math.inf


def _known(thing: Any, changes: dict[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(thing)}
    unknown = sorted(set(changes) - names)
    if unknown:
        raise InputError(f"{type(thing).__name__} has no {', '.join(unknown)}; it has {', '.join(sorted(names))}.")
    return changes
