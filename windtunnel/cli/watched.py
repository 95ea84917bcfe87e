"""How a look at a run in flight is shown: one line, one warning, or a panel that redraws itself on a terminal."""

from __future__ import annotations

from typing import Any

from windtunnel.forecasts.interval import digits
from windtunnel.forecasts.watch import Foretold, Look


def line(look: Look) -> str:
    """A look in one line."""
    if look.done:
        held = "inside" if look.inside else "OUTSIDE"
        return f"done: final loss {digits(look.final.median)}, foretold {look.foretold}: {held}"
    return "  ".join([f"{100 * look.share:5.1f} %", *(f"{name} {text}" for name, text in _parts(look).items())])


def warning(look: Look, foretold: Foretold) -> str:
    """The sentence of a warning."""
    side = "above" if look.final.median > foretold.loss.median else "below"
    return (
        f"WARNING at {100 * look.share:.0f} %: heading for {look.final}, {side} the foretold {foretold.loss}; the "
        f"probability of landing inside is {look.inside:.2f}"
    )


def _parts(look: Look) -> dict[str, str]:
    found = {"loss": digits(look.loss) if look.loss is not None else "-"}
    if look.expected is not None:
        found["expected"] = (
            f"{digits(look.expected.median)} [{digits(look.expected.low)}, {digits(look.expected.high)}]"
        )
    found |= {"heading for": str(look.final), "P(inside)": f"{look.inside:.2f}"}
    return found


class Panel:
    """A few lines at the bottom of a terminal that are drawn anew at each look."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self.console = Console(highlight=False)
        self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self.live.start()

    def draw(self, look: Look, standing: bool) -> None:
        """Show a look; `standing` colours it as a warning."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        rows = Table.grid(padding=(0, 2))
        rows.add_row("done", ProgressBar(total=1.0, completed=min(1.0, look.share), width=40))
        shown: dict[str, Any] = _parts(look) | {"foretold": str(look.foretold)}
        for name, text in shown.items():
            rows.add_row(name, Text(text, style="bold red" if standing and name == "P(inside)" else ""))
        self.live.update(Group(rows), refresh=True)

    def say(self, text: str) -> None:
        """A sentence that stays."""
        self.console.print(text, style="red", markup=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.live.stop()
