"""Do the shapes at the target grow as width alone would make them? What does not is refused, or said.

A dimension that stays when the base is made twice as wide, and differs at the target, changed for another reason than
width: another vocabulary, context or number of experts. No width rule speaks of that, so it is refused unless the
tensor's role is stated. A dimension that grows, but not as the others do (an MLP of another ratio, rounding at tiny
widths), has its rule and is said. A newcomer would compare base and target alone, where both look like growth.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping

from windtunnel.errors import InputError

Shapes = Mapping[str, tuple[int, ...]]
TOLERANCE = 1.25  # dimensions are rounded to multiples of 8 or 64; at the smallest widths that is a tenth (guess)


def check_proportions(here: Shapes, base: Shapes, wider: Shapes, stated: Collection[str]) -> tuple[str, ...]:
    """Sentences about dimensions that grow otherwise than most; names in `stated` may change for another reason.

    `here` is the target, `wider` the base at twice its width. Raises InputError for a dimension that changes without
    growing with width.
    """
    for name, shape in here.items():
        for axis, (target, small, twice) in enumerate(zip(shape, base[name], wider[name], strict=True)):
            if small == twice != target and name not in stated:
                raise InputError(
                    f"Dimension {axis} of {name} is {small} at the base, the same at twice its width, and {target} at "
                    f"the target: it changes for another reason than width (vocabulary, context, number of experts or "
                    f"heads), of which a rule for width says nothing. Keep it, or state the tensor's role to go on: "
                    f'roles={{"{name}": ...}}.'
                )
    grown = {n: _growths(shape, base[n], wider[n]) for n, shape in here.items()}
    counts = Counter(round(growth, 2) for growths in grown.values() for growth in growths)
    if not counts:
        return ()
    usual = counts.most_common(1)[0][0]
    odd: dict[str, float] = {}
    for name, growths in grown.items():
        for growth in growths:
            if not usual / TOLERANCE <= growth <= usual * TOLERANCE:
                odd.setdefault(re.sub(r"\.\d+\.", ".*.", name), growth)
    return tuple(
        f"{name} grows {growth:.3g} times where most dimensions grow {usual:.3g} times; its own fans are followed, but "
        f"transfer between models of different proportions is not claimed by any paper"
        for name, growth in odd.items()
    )


def _growths(here: tuple[int, ...], base: tuple[int, ...], wider: tuple[int, ...]) -> list[float]:
    return [n / small for n, small, twice in zip(here, base, wider, strict=True) if twice != small]
