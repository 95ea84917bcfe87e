"""A scale table as text: like tensors of different blocks on one line, what differs from 1 alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from windtunnel.recipe import Site
from windtunnel.scaling.table import Scale, ScaleTable

FACTORS = ("lr", "eps", "decay")


def told(table: ScaleTable) -> str:
    """Caveats first, then a line for each kind of tensor: role, shape, initial size, factors that are not 1."""
    rows: dict[tuple[str, Site, Scale], int] = {}
    for name, scale in table.scales.items():
        key = re.sub(r"(^|\.)\d+(?=\.)", r"\1*", name), table.sites[name], scale
        rows[key] = rows.get(key, 0) + 1
    lines = [_line(*key, count) for key, count in rows.items()]
    at = [f"{place} x {by:.4g}: {', '.join(modules)}" for place, by, modules in _multipliers(table)]
    return "\n".join([*table.caveats, *columns(lines), *at])


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of words as lines whose words stand in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _line(name: str, site: Site, scale: Scale, count: int) -> tuple[str, ...]:
    shape = " x ".join(map(str, site.shape)) or "scalar"
    start = f"mean {scale.init_mean:g}" if not scale.init_std else f"std {scale.init_std:.3g}"
    factors = [f"{name} x {value:.4g}" for name in FACTORS if (value := getattr(scale, name)) != 1.0]
    return name + (f" ({count})" if count > 1 else ""), site.role, shape, start, ", ".join(factors)


def _multipliers(table: ScaleTable) -> list[tuple[str, float, list[str]]]:
    found = []
    for place, by_module in (("input", table.forward), ("output", table.residual)):
        for by in dict.fromkeys(by_module.values()):
            found.append((place, by, _patterns(by_module, by)))
    return found


def _patterns(by_module: Mapping[str, float], by: float) -> list[str]:
    return list(dict.fromkeys(re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name) for name, v in by_module.items() if v == by))
