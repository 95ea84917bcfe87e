"""What a scaling law is: a frozen form with named, bounded parameters that turns sizes into a loss.

Every form here is linear in its first parameters once the others (its shape: exponents, breaks, shifts) are fixed, so
a law states its `terms` and the solver finds the linear parameters exactly (variable projection). A newcomer would
look for the fitted numbers here: they live in `LawFit`; a law holds none.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True, eq=False)
class Sizes:
    """Where a law is evaluated, one entry a run; None where unknown. Units: parameters, tokens, FLOPs, steps."""

    params: np.ndarray | None = None
    tokens: np.ndarray | None = None
    flops: np.ndarray | None = None
    active_params: np.ndarray | None = None
    unique_tokens: np.ndarray | None = None
    width: np.ndarray | None = None
    steps: np.ndarray | None = None
    batch_tokens: np.ndarray | None = None
    lr: np.ndarray | None = None

    @classmethod
    def of(cls, sizes: Any, index: Any = slice(None)) -> Sizes:
        """The size columns of anything that has them, at an index."""
        found = {f.name: getattr(sizes, f.name, None) for f in fields(cls)}
        return cls(**{name: None if v is None else np.atleast_1d(v[index]) for name, v in found.items()})


class Law(Protocol):
    """A functional form. `names` and `bounds` list the linear parameters first, then the shape.

    `linear` counts the linear parameters (all non-negative); the others are positive and searched in their logarithm.
    `columns` are the sizes it reads. `typical` is a weak belief about each shape parameter, as (median, spread of its
    logarithm), or None where the data always settle it. `belief` is what the law's weight is multiplied by before any
    backtest. `source` cites, `applies` says when.
    """

    @property
    def name(self) -> str: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def bounds(self) -> tuple[tuple[float, float], ...]: ...
    @property
    def linear(self) -> int: ...
    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def typical(self) -> tuple[tuple[float, float] | None, ...]: ...
    @property
    def belief(self) -> float: ...
    @property
    def source(self) -> str: ...
    @property
    def applies(self) -> str: ...

    def terms(self, shape: np.ndarray, sizes: Any) -> np.ndarray:
        """The factors of the linear parameters: shape (..., shape parameters) to (..., runs, linear)."""
        ...

    def __call__(self, theta: np.ndarray, observations: Any) -> np.ndarray:
        """Loss at the observations' sizes: theta (..., parameters) to (..., runs)."""
        ...


def evaluate(law: Law, theta: np.ndarray, sizes: Any) -> np.ndarray:
    """Terms times linear parameters: what `__call__` of every law here does."""
    theta = np.asarray(theta, float)
    terms = law.terms(theta[..., law.linear :], sizes)
    return (terms @ theta[..., : law.linear, None])[..., 0]


def own_rows(value: Any, rows: Any) -> Any:
    """A law or sizes for some replicates: arrays (R, ...) that differ by replicate are cut, all else is shared."""
    if not is_dataclass(value):
        return value
    own = {f.name: _cut(getattr(value, f.name), rows) for f in fields(value) if _differs(getattr(value, f.name))}
    return replace(value, **own) if own else value  # type: ignore[type-var]


def _differs(value: Any) -> bool:
    return any(map(_differs, value)) if isinstance(value, tuple) else isinstance(value, np.ndarray) and value.ndim > 1


def _cut(value: Any, rows: Any) -> Any:
    return tuple(_cut(each, rows) for each in value) if isinstance(value, tuple) else value[rows]


def power(column: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """column ** -exponent for every exponent: (...) to (..., runs)."""
    return np.exp(-exponent[..., None] * np.log(column))


def log_sum(a: Any, b: Any) -> np.ndarray:
    """log(e^a + e^b), as `np.logaddexp`, in a sixth of its time (measured): exp and log1p are vectorised."""
    apart = np.abs(a - b)
    return np.log1p(np.exp(np.negative(apart, out=apart), out=apart), out=apart) + np.maximum(a, b)


def side_by_side(*terms: np.ndarray | float) -> np.ndarray:
    """Terms (..., runs) as the last axis: `np.stack` without its overhead; a number fills its place."""
    found = np.empty((*np.shape(terms[-1]), len(terms)))
    for index, term in enumerate(terms):
        found[..., index] = term
    return found


def column(sizes: Any, variable: str) -> np.ndarray:
    """The named column of sizes; a law is only offered data that has it."""
    values = getattr(sizes, variable)
    if values is None:
        raise ValueError(f"a law in {variable} was given sizes without {variable}")
    return np.asarray(values, float)
