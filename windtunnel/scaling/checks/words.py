"""How checks speak: a headline, a short table of the worst rows, what the check does not show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from windtunnel.scaling.slopes import Line, worst_first
from windtunnel.scaling.words import columns

SHOWN = 6  # rows of a table; `to_json` has them all


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words as columns, indented."""
    return "\n".join(f"  {line}" for line in columns(rows))


def lines_table(lines: Sequence[Line]) -> str:
    """The judged lines that are not right, worst first; where all are, the two farthest from what was expected."""
    order = worst_first([line for line in lines if line.judged])
    rows = [
        (line.name, line.quantity, str(line.slope), _expected(line.expected), line.verdict)
        for line in [line for line in order if line.right is not True][:SHOWN] or order[:2]
    ]
    return table(rows)


def counted(lines: Sequence[Line], what: str) -> str:
    """How many judged lines are right, in words."""
    judged = [line for line in lines if line.judged]
    return f"{sum(line.right is True for line in judged)} of {len(judged)} slopes {what}"


def record(check: str, result: Any, source: str, limits: str, **more: Any) -> dict[str, Any]:
    """What the JSON of all checks that train has in common, and `more`."""
    return {
        "check": check,
        "axis": result.axis,
        "sizes": [size if isinstance(size, int | tuple) else str(size) for size in result.sizes],
        "seeds": list(result.seeds),
        "ok": result.ok,
        "verdict": result.verdict,
        "source": source,
        "limits": limits,
        "lost": [str(each) for each in result.lost],
        **more,
    }


def loss_of(lost: Sequence[Any]) -> str:
    """A sentence about runs that were lost; empty where none was."""
    if not lost:
        return ""
    return f"{len(lost)} run(s) were lost ({lost[0]}): that size does not train at this lr; lower it to see more."


def told(*parts: Any) -> str:
    """The parts that say something, a line each."""
    return "\n".join(str(part) for part in parts if part)


def listed(sizes: Sequence[Any]) -> str:
    """Sizes in a row."""
    return ", ".join(map(str, sizes))


def _expected(value: float) -> str:
    return f"expected {value:+.2f}" if abs(value) > 0.005 else ""
