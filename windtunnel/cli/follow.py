"""`windtunnel score FORECAST --follow`: look at a run again and again until it ends, and warn when it leaves the band.

What a look says is worked out in `forecasts/watch.py`; here it is asked for and shown: a panel on a terminal, else a
line for each look with news. Looks and warnings are the answer and go to standard output, remarks on the log to
standard error. Ctrl-C is a normal end: the last look is the answer.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from windtunnel.cli.followed import FollowedLog, FollowedRun
from windtunnel.cli.score import forecast_of
from windtunnel.cli.shared import existing_store
from windtunnel.cli.watched import Panel, line, warning
from windtunnel.errors import InputError
from windtunnel.forecasts.watch import Foretold, Look, history, look_at, unit_doubt, warned
from windtunnel.laws.reading.logs import Log

NEWS = 0.01  # of the horizon between two plain lines, unless something happened
DIVERGED = 20  # last rows without a finite loss that count as divergence (guess)


def follow(args: argparse.Namespace) -> int:
    """Watch until the run ends, --once, or ctrl-C. Returns 0 inside, 3 outside or diverged."""
    data, store = forecast_of(args)
    foretold = Foretold.from_json(data)
    if args.follow and args.run:
        raise InputError(f"Both a run ({args.run}) and a log ({args.follow}) were given to --follow; give one of them.")
    if args.follow:
        watch = Watching(args, foretold, FollowedLog(args, foretold, store))
    else:
        watch = Watching(args, foretold, FollowedRun(args, foretold, store or existing_store(args)))
    try:
        while not watch.look() and not args.once:
            time.sleep(args.every)
    except KeyboardInterrupt:
        print("windtunnel: stopped; the last look is where the run was heading", file=sys.stderr)
    finally:
        watch.close()
    return watch.verdict()


class Watching:
    """One watch: what was read, what stands, what was said."""

    def __init__(self, args: argparse.Namespace, foretold: Foretold, source: FollowedLog | FollowedRun) -> None:
        self.args, self.foretold, self.source = args, foretold, source
        self.panel = Panel() if sys.stdout.isatty() and not args.json and not args.once else None
        self.standing, self.waiting, self.diverged = False, False, False
        self.last: Look | None = None
        self.told: set[str] = set()
        self.lined = -1.0

    def look(self) -> bool:
        """Look once, show what is new, and return whether the run has ended."""
        log = self.source.read()
        for note in self.source.remarks:
            self._remark(note)
        if log is not None and len(log):
            self._news(log)
        elif self.last is None and not self.source.ended and not self.waiting:
            self.waiting = True
            self._remark("no rows yet")
        return self.source.ended

    def _news(self, log: Log) -> None:
        share, shapes, below = self.source.shares(log), self.source.shapes(log), self.args.warn_below
        raised: list[Look] = []
        if self.last is None:
            self.standing, raised = history(self.foretold, share, log.loss, shapes, below)
        look = look_at(self.foretold, share, log.loss, shapes, self.source.truth)
        before, self.standing = self.standing, warned(self.standing, look.inside, below)
        raised += [look] if self.standing and not before else []
        self.last, self.diverged = look, log.broken >= min(DIVERGED, max(1, len(log) // 2))
        for note in (*log.notes, unit_doubt(look)):
            self._remark(note)
        if self.diverged:
            self._remark(f"the loss of the last {log.broken} rows is NaN or infinite: the run has diverged")
        self._show(look, [warning(each, self.foretold) for each in raised], calm=before and not self.standing)

    def _show(self, look: Look, raised: list[str], calm: bool) -> None:
        if self.args.json:
            more = {"warning": self.standing, "raised": raised, "diverged": self.diverged}
            print(json.dumps(look.to_json() | more, allow_nan=False), flush=True)
            return
        for text in raised:
            self.panel.say(text) if self.panel else print(text, flush=True)
        if self.panel is not None:
            self.panel.draw(look, self.standing)
        elif raised or calm or look.done or self.args.once or look.share - self.lined >= NEWS:
            self.lined = look.share
            print(line(look), flush=True)

    def _remark(self, note: str) -> None:
        if note and note not in self.told:
            self.told.add(note)
            print(f"windtunnel: {note}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was, with the last look on it."""
        if self.panel is not None:
            self.panel.close()
            print(line(self.last) if self.last else "no rows were seen")

    def verdict(self) -> int:
        """0 where the run ended, or is heading, inside; 3 where it did not."""
        if self.last is None:
            return 0 if not self.source.ended else 3
        inside = self.foretold.loss.holds(self.last.final.median)
        return 0 if inside and not self.diverged and (self.source.truth or not self.source.ended) else 3
