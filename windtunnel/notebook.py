"""How a thing shows itself in a notebook, and its caveats in print: a title, caveats before numbers, facts, a table.

Text is always text. Each class says what is shown (`_repr_html_`), this file how. Colours are the notebook's own, so
that light and dark both read well; a notebook that is shared runs no script of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

ROWS = 40  # rows of a table that are shown; a notebook is no place for a thousand
LETTERS = 300  # of one text
_CELL = "text-align:left;padding:2px 14px 2px 0;vertical-align:top"


def card(
    title: str,
    *,
    says: str = "",
    caveats: Sequence[str] = (),
    facts: Mapping[str, Any] | None = None,
    head: Sequence[str] = (),
    rows: Iterable[Sequence[Any]] = (),
) -> str:
    """HTML of one thing: caveats come before what it says. Every text is escaped and cut at 300 letters."""
    parts = [f'<div style="font-weight:600;font-size:1.1em">{_text(title)}</div>']
    if caveats:
        said = "".join(f"<li>{_text(caveat)}</li>" for caveat in caveats)
        parts.append(f'<ul style="margin:6px 0;padding-left:1.2em;border-left:3px solid #b8860b">{said}</ul>')
    if says:
        parts.append(f'<p style="margin:6px 0;font-weight:600">{_text(says)}</p>')
    if facts:
        found = "".join(_row(("th", name), ("td", value)) for name, value in facts.items() if value not in ("", None))
        parts.append(_table(found))
    if head:
        parts.append(_table(*_rows(head, list(rows))))
    return f'<div class="windtunnel" style="max-width:60em;overflow-x:auto">{"".join(parts)}</div>'


def marked(caveats: Iterable[str]) -> list[str]:
    """Each caveat as a line of its own, as `print` shows them before the numbers."""
    return [f"caveat: {caveat}" for caveat in caveats]


def printed(thing: Any, printer: Any, cycle: bool) -> None:
    """`_repr_pretty_` of what prints itself: where there is no card, a notebook shows that text and not every field."""
    printer.text(str(thing))


def _rows(head: Sequence[str], rows: list[Sequence[Any]]) -> tuple[str, str]:
    shown = "".join(_row(*(("td", cell) for cell in row)) for row in rows[:ROWS])
    if len(rows) > ROWS:
        shown += f'<tr><td colspan="{len(head)}" style="{_CELL}">and {len(rows) - ROWS} more</td></tr>'
    titles = "".join(f'<th scope="col" style="{_CELL}">{_text(name)}</th>' for name in head)
    return shown, f"<thead><tr>{titles}</tr></thead>"


def _table(body: str, head: str = "") -> str:
    return f'<table style="border-collapse:collapse;margin:6px 0">{head}<tbody>{body}</tbody></table>'


def _row(*cells: tuple[str, Any]) -> str:
    opened = {"th": f'<th scope="row" style="{_CELL}">', "td": f'<td style="{_CELL}">'}
    return f"<tr>{''.join(f'{opened[tag]}{_text(cell)}</{tag}>' for tag, cell in cells)}</tr>"


def _text(value: Any) -> str:
    text = "-" if value is None else str(value)
    return escape(text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…")
