"""A run of your own loop while it trains: its losses recorded, and set beside a forecast with a warning.

What `windtunnel score --follow` does from outside, a loop does here: `row` takes a loss, now and then the curve so far
is looked at (`forecasts.watch`), and `end` leaves a foreign run in the store. A newcomer would stop a run whose loss
stands above the forecast's; early in a run every loss does, so the warning is of where it is heading.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.bridge.foreign import ForeignRun, foreign_run, keep
from windtunnel.errors import InputError
from windtunnel.forecasts.band import Past, final_loss, pasts_of, shape_of, typical_shapes
from windtunnel.forecasts.forecast import Forecast
from windtunnel.forecasts.heading import Shapes
from windtunnel.forecasts.watch import WARN_BELOW, Foretold, Look, look_at, unit_doubt, warned
from windtunnel.store import Store

EVERY = 0.01  # of the horizon between two looks, each of which takes some milliseconds
log = logging.getLogger("windtunnel")


class Following:
    """One run, row by row. `horizon` is its length in the unit of `row`'s `at` (steps or tokens).

    `forecast` is a Forecast, the path of a stored one, or its data; None only records. `ladder` are finished smaller
    runs, from which the shape of the curve is learned; a forecast of `store` knows its own. `standing` says whether a
    warning stands, `looks` holds every look. Warnings are logged to the logger "windtunnel". Raises InputError.
    """

    def __init__(
        self,
        horizon: float,
        *,
        forecast: Forecast | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        ladder: Sequence[ForeignRun | Past] = (),
        store: Store | None = None,
        name: str = "run",
        warn_below: float = WARN_BELOW,
    ) -> None:
        if not horizon > 0:
            raise InputError(f"The run's horizon is {horizon}; give its length in steps or tokens, above zero.")
        self.horizon, self.store, self.name, self.warn_below = float(horizon), store, name, warn_below
        self.foretold = None if forecast is None else foretold_of(forecast)
        self.shapes = _shapes(self.foretold, ladder, store)
        self.share: list[float] = []
        self.loss: list[float] = []
        self.looks: list[Look] = []
        self.standing = False

    def row(self, at: float, loss: float) -> Look | None:
        """Take the loss after `at` steps or tokens; the look that was due, if one was."""
        while self.share and at / self.horizon <= self.share[-1]:  # a resumed run writes rows again
            self.share.pop()
            self.loss.pop()
        self.share.append(at / self.horizon)
        self.loss.append(float(loss))
        last = self.looks[-1].share if self.looks else 0.0
        return self._look() if self.foretold is not None and self.share[-1] >= last + EVERY else None

    def end(
        self, loss: float | None = None, *, texts: Mapping[str, str] | None = None, tool: str = "", **numbers: float
    ) -> ForeignRun | None:
        """Record the finished run in the store; `loss` None takes where its rows ended. None for one that diverged.

        `numbers` are params, tokens, flops, lr and so on, where they are known.
        """
        share, rows = np.array(self.share), np.array(self.loss)
        if loss is None and np.isfinite(rows[-20:]).any():
            loss = final_loss(share, rows)
        if loss is None or not np.isfinite(loss) or loss <= 0:
            log.warning("%s ended without a finite loss; it is not recorded", self.name)
            return None
        if self.foretold is not None:
            self.looks.append(look_at(self.foretold, np.minimum(share, 1.0), rows, self.shapes, loss))
        provenance = {"tool": tool or "a loop of one's own", "rows": str(len(rows))}
        if self.foretold is not None and self.foretold.key:
            provenance["forecast"] = self.foretold.key
        run = foreign_run(
            self.name, {"loss": loss, **numbers}, share=share, curve=rows, texts=texts or {}, provenance=provenance
        )
        if self.store is not None:
            keep(self.store, [run])
        return run

    def _look(self) -> Look | None:
        share, loss = np.minimum(np.array(self.share), 1.0), np.array(self.loss)
        if not np.isfinite(loss).any() or self.foretold is None:
            return None
        look = look_at(self.foretold, share, loss, self.shapes)
        before, self.standing = self.standing, warned(self.standing, look.inside, self.warn_below)
        doubt = unit_doubt(look)
        if self.standing and not before:
            log.warning(
                "%s at %.0f %%: heading for %s, foretold %s; the probability of landing inside is %.2f%s",
                self.name, 100 * look.share, look.final, look.foretold, look.inside, f"; {doubt}" if doubt else "",
            )  # fmt: skip
        self.looks.append(look)
        return look


def never_logged(following: Following, metric: str, logged: Iterable[str]) -> None:
    """Say that a trainer logged other names than the metric that was to be followed, where that is so."""
    if not following.loss:
        names = ", ".join(sorted(logged)) or "nothing"
        log.warning("%s: no log had %r, so there is no curve; logged were %s", following.name, metric, names)


def foretold_of(forecast: Forecast | Mapping[str, Any] | str | os.PathLike[str]) -> Foretold:
    """A forecast in any of its forms as the watch reads it. Raises InputError."""
    if isinstance(forecast, Forecast):
        return Foretold.from_json(forecast.to_json())
    if isinstance(forecast, Mapping):
        return Foretold.from_json(forecast)
    try:
        data = json.loads(Path(forecast).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{forecast} cannot be read as a forecast: {error}.") from None
    return Foretold.from_json(data if isinstance(data, dict) else {})


def _shapes(foretold: Foretold | None, ladder: Sequence[ForeignRun | Past], store: Store | None) -> Shapes:
    """The shape of the ladder's curves, or the typical ones where none is known."""
    given = [each.past() if isinstance(each, ForeignRun) else each for each in ladder]
    pasts = [past for past in given if past is not None]
    if not pasts and foretold is not None and store is not None:
        pasts = pasts_of([store.get(key) for key in foretold.runs if key in store])
    if not pasts or foretold is None:
        return typical_shapes()
    return ((1.0, shape_of(pasts, foretold.loss.median)),)
