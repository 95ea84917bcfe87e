"""A scale table as text: like tensors of different blocks on one line, what differs from 1 alone.

Blocks go by a star; where tensors of one pattern differ in their values, their lines go by the blocks' numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from windtunnel.recipe import Site
from windtunnel.scaling.table import Scale, ScaleTable

FACTORS = ("lr", "eps", "decay")
SHOWN = 4  # numbers of blocks in one name


def told(table: ScaleTable) -> str:
    """Caveats first, then a line for each kind of tensor: role, shape, initial size, factors that are not 1."""
    rows: dict[tuple[str, Site, Scale], list[str]] = {}
    for name, scale in table.scales.items():
        rows.setdefault((_pattern(name), table.sites[name], scale), []).append(name)
    called = _told_apart(list(rows.values()))
    lines = [_line(name, key[1], key[2], len(names)) for name, (key, names) in zip(called, rows.items(), strict=True)]
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
        rows: dict[tuple[float, str], list[str]] = {}
        for name, by in by_module.items():
            rows.setdefault((by, _pattern(name)), []).append(name)
        called = dict(zip(rows, _told_apart(list(rows.values())), strict=True))
        for by in dict.fromkeys(by_module.values()):
            found.append((place, by, [name for (value, _), name in called.items() if value == by]))
    return found


def _pattern(name: str) -> str:
    return ".".join("*" if word.isdigit() else word for word in name.split("."))


def _told_apart(rows: Sequence[Sequence[str]]) -> list[str]:
    """What to call each row of names that have one pattern: the pattern, unless another row has the same or it is one
    name; then the numbers themselves, as in blocks.{0,2}.up.weight."""
    patterns = [_pattern(names[0]) for names in rows]
    return [
        pattern if len(names) > 1 and patterns.count(pattern) == 1 else _numbered(names)
        for names, pattern in zip(rows, patterns, strict=True)
    ]


def _numbered(names: Sequence[str]) -> str:
    words = [list(dict.fromkeys(each)) for each in zip(*(name.split(".") for name in names), strict=True)]
    return ".".join(each[0] if len(each) == 1 else f"{{{_few(each)}}}" for each in words)


def _few(numbers: Sequence[str]) -> str:
    return ",".join(numbers) if len(numbers) <= SHOWN else f"{','.join(numbers[: SHOWN - 1])},..,{numbers[-1]}"
