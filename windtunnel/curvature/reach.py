"""Where a rule that carries the learning rate over batch sizes stops being true, beside rates that were measured.

The rules themselves are `scaling.rules.carry` (linear, square_root, unchanged ...): growth of the batch to a factor on
the rate. A newcomer would ask which rule is right; each is, up to some batch, and that batch is the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.meaning import name_of
from windtunnel.notebook import printed
from windtunnel.scaling.rules.carry import Carry
from windtunnel.scaling.slopes import Slope, slope_of

Rule = Callable[[float, float], Carry]
FACTOR = 2**0.5  # half of an octave either way: about one step of the usual grid of learning rates


@dataclass(frozen=True)
class RuleReach:
    """`off` is carried over measured rate at each batch, `until` the last batch before they part by `factor`.

    `until` equal to the largest batch means that no end was seen.
    """

    rule: str
    batches: tuple[float, ...]
    off: tuple[float, ...]
    until: float
    factor: float
    measured: Slope

    @property
    def ended(self) -> bool:
        """Whether the rule failed within the batches measured."""
        return self.until < self.batches[-1]

    _repr_pretty_ = printed

    def __str__(self) -> str:
        said = f"holds to B = {self.until:g}" if self.ended else f"holds to the largest batch, {self.until:g}"
        return f"{self.rule} from B = {self.batches[0]:g}: {said} (within {self.factor:.2g}x)"


def rule_reach(rule: Rule, batches: Sequence[float], rates: Any, *, factor: float = FACTOR) -> RuleReach:
    """Carry the rate of the smallest batch upward by `rule` and see how far it stays within `factor` of the measured.

    `rates` are (batches,) or (batches, seeds), best or largest stable ones; seeds are averaged in the logarithm.
    Batches must grow. Raises InputError where they do not, or a rate is not positive.
    """
    table = np.asarray(rates, float).reshape(len(batches), -1)
    sizes = [float(batch) for batch in batches]
    if len(sizes) < 2 or sorted(set(sizes)) != sizes or not np.all(np.isfinite(table) & (table > 0)):
        raise InputError(
            f"batches {sizes} with rates from {np.min(table):g}: give growing batches, at least two, each with "
            f"positive rates."
        )
    means = np.exp(np.log(table).mean(axis=1))
    carried = means[0] * np.array([rule(size / sizes[0], 1.0).lr for size in sizes])
    off = carried / means
    inside = (off <= factor * (1 + 1e-9)) & (off >= (1 - 1e-9) / factor)
    end = len(sizes) if inside.all() else int(np.argmin(inside))
    measured = slope_of(sizes, table)
    return RuleReach(name_of(rule), tuple(sizes), tuple(float(o) for o in off), sizes[end - 1], factor, measured)
