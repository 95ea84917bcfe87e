"""What `score --follow` reads: anyone's log, or one of our own runs through its pack's checkpoints and then its record.

Both give rows so far, the share of the horizon each lies at, the shape the curve should have, and the final loss once
it is known. A newcomer would end our own run at its last step: its final loss is the judge's, which only the record
holds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from windtunnel.cli.score import check_size
from windtunnel.cli.shared import DEFAULT_STORE, existing_store
from windtunnel.errors import InputError
from windtunnel.forecasts.band import Past, final_loss, pasts_of, shape_of, typical_shapes
from windtunnel.forecasts.heading import Shapes
from windtunnel.forecasts.watch import Foretold
from windtunnel.laws.reading.choosing import NoColumn
from windtunnel.laws.reading.flight import flying, in_flight
from windtunnel.laws.reading.logs import Log, read_log
from windtunnel.laws.reading.tail import Tail
from windtunnel.runs import Run
from windtunnel.store import Store

END = 1.0005  # share of the horizon up to which a row is at it, but for rounding
NEAR = 0.01  # of the horizon: so near its end a run may have logged its last row (guess)
ROWS, MOST_ROWS = 10, 1e7  # so many rows tell how many a whole run would have, and no run has so many (guesses)
FALLEN, HELD = 0.95, 0.999  # of its peak: below the first a rate has fallen, down to the second it was held
WARM, LASTS, OTHER = 0.1, 0.05, 0.15  # of the run: rates warm up, a difference lasts; of a peak: rates differ (guesses)
OFTEN = 20  # times a log has a rate, from which its schedule is known (guess)
ABSURD = 20  # times the horizon: no run goes on so long, so steps and tokens are mixed up (guess)
ENOUGH_JUDGED = 10  # evaluations from which the judge's losses of a ladder make a curve
TYPICAL = (
    "no curves of smaller runs are known, so the curve is taken to go as published ones do, and the probability moves "
    "late; give finished smaller runs' logs with --ladder LOG"
)


class FollowedLog:
    """A log in the making: `remarks` are to be said, `truth` is the final loss once the log is complete."""

    def __init__(self, args: argparse.Namespace, foretold: Foretold, store: Store | None) -> None:
        self.args, self.foretold = args, foretold
        self.tail = Tail(Path(args.follow), args.columns, args.tokens_per_step)
        self.remarks = self.tail.said
        self.pasts = _pasts(args, foretold, store, self.remarks, train="train" in (args.columns or ""))
        self.shape = _shape(self.pasts, foretold)
        self.truth: float | None = None
        self.ended, self.asked = False, False

    def read(self) -> Log | None:
        """The log if it has changed."""
        log = self.tail.read(whole=self.args.once)
        if log is not None and len(log):
            log = self._until_horizon(log)
            share = self.shares(log)
            if not self.asked and (doubt := _other_schedule(log, share, self.pasts)):
                self.remarks.append(doubt)
                self.asked = True
            self.ended = _complete(share)
            self.truth = final_loss(share, log.loss) if self.ended and np.isfinite(log.loss).any() else None
        return log

    def _until_horizon(self, log: Log) -> Log:
        """The rows up to the horizon; a log that goes on is said, and refused where it cannot be in the same unit."""
        share = self.shares(log)
        within = share <= (END if _complete(share[share <= END]) else 1 + NEAR)
        if within.all():
            if self.args.horizon is None and (doubt := _unit_doubt(log, float(share[-1]))):
                self.remarks.append(doubt)
            return log
        times, horizon = float(share[-1]), log.at[-1] / share[-1]
        if times > ABSURD or not within.any():
            raise InputError(
                f"{log.source} goes from {log.at[0]:.4g} to {log.at[-1]:.4g} {log.unit}, {times:.3g} times the horizon "
                f"of {horizon:.4g}; both must be in {log.unit}: see --horizon and --tokens-per-step, and which columns "
                f"are read (--columns)."
            )
        if times > 1 + NEAR:
            self.remarks.append(
                f"the log goes on to {times:.3g} times the horizon of {horizon:.4g} {log.unit}; the rows up to the "
                f"horizon count"
            )
        lr = None if log.lr is None else log.lr[within]
        return replace(log, at=log.at[within], loss=log.loss[within], lr=lr)

    def shares(self, log: Log) -> np.ndarray:
        """Share of the horizon at each row (n,)."""
        return log.at / (self.args.horizon or _horizon(self.foretold, log))

    def shapes(self, log: Log) -> Shapes:
        """The ladder's shape, or the typical ones."""
        return self.shape or typical_shapes(_falling(log, self.shares(log)))


class FollowedRun:
    """A run of ours, in flight or recorded; its rows are training losses, one a step."""

    def __init__(self, args: argparse.Namespace, foretold: Foretold, store: Store) -> None:
        self.args, self.foretold, self.store, self.key = args, foretold, store, args.run or ""
        self.remarks: list[str] = []
        self.shape = _shape(_pasts(args, foretold, store, self.remarks, train=True), foretold)
        self.truth: float | None = None
        self.ended = False
        self.steps, self.rows = 1.0, -1

    def read(self) -> Log | None:
        """The run's rows if there are more. Raises InputError where no run, or more than one, begins with the key."""
        recorded = [known for known in list(self.store.keys()) if self.key and known.startswith(self.key)]
        if recorded:
            return self._recorded(self.store.get(self.key))
        flight = in_flight(self.store.path / "packs", self.key)
        if flight is None and self.rows < 0 and not self.key:
            raise InputError(
                f"No run is in flight in {self.store.where}; name a finished one: windtunnel score FORECAST RUN "
                f"--follow (`windtunnel runs` lists them)."
            )
        if flight is None and self.rows < 0:
            flights = ", ".join(each[:12] for each in flying(self.store.path / "packs")) or "none"
            raise InputError(
                f"No run in {self.store.path} begins with {self.key!r}, finished or in flight (in flight, by their "
                f"checkpoints: {flights}); a run can be followed from its first checkpoint on."
            )
        if flight is None or len(flight.train_loss) == self.rows:
            return None
        self.key, self.rows = flight.key, len(flight.train_loss)
        self.steps = self.args.horizon or flight.horizon or _steps(self.args, self.foretold, self.store)
        return _log_of(flight.train_loss, flight.key)

    def _recorded(self, run: Run) -> Log:
        check_size(self.foretold.target, run)
        self.ended, self.truth = True, run.loss if run.finished else None
        if not run.finished:
            self.remarks.append(f"the run {run.outcome}: {run.message}")
        train = np.asarray(run.curve.get("train_loss", ()), float)
        self.steps = max(1.0, len(train)) if run.finished else self.steps
        return _log_of(train, run.key)

    def shares(self, log: Log) -> np.ndarray:
        """Share of the horizon at each row (n,)."""
        return log.at / self.steps

    def shapes(self, log: Log) -> Shapes:
        """The ladder's shape, or the typical ones."""
        return self.shape or typical_shapes()


def _log_of(train: np.ndarray, key: str) -> Log:
    return Log(np.arange(1.0, len(train) + 1), train, "steps", source=key)


def _unit_doubt(log: Log, share: float) -> str:
    """What makes it likely that the log counts in another unit than the forecast; empty if nothing does."""
    horizon = f"and the horizon is {log.at[-1] / share:.4g}: where they are in millions, give --horizon in millions too"
    if log.unit == "tokens" and np.any(np.abs(log.at - np.round(log.at)) > np.maximum(1e-3, 1e-9 * log.at)):
        return f"tokens of the log are no whole numbers (the first is {log.at[0]:g}), {horizon}"
    if len(log) >= ROWS and share * MOST_ROWS < len(log):
        return f"{log.unit} of the log are few for so many rows (the first is {log.at[0]:g}), {horizon}"
    return ""


def _complete(share: np.ndarray) -> bool:
    """Whether the rows reach the horizon, or are close to it and no further one fits before it."""
    spacing = float(np.median(np.diff(share))) if len(share) > 1 else 0.0
    return bool(len(share)) and bool(share[-1] >= 1 / END or (share[-1] >= 1 - NEAR and share[-1] + spacing > END))


def _horizon(foretold: Foretold, log: Log) -> float:
    """Where the run ends, in the log's unit."""
    found = foretold.target.get(log.unit)
    if found is None and log.unit == "steps" and "tokens" in foretold.target:
        raise InputError(
            f"{log.source} counts steps and the forecast counts tokens ({foretold.target['tokens']:.4g}); say how many "
            f"tokens a step is with --tokens-per-step N, or at which step the run ends with --horizon N."
        )
    if found is None:
        raise InputError(f"The forecast does not say how many {log.unit} the run takes; give --horizon N in them.")
    return found


def _steps(args: argparse.Namespace, foretold: Foretold, store: Store) -> float:
    """Steps of the target: its tokens over those of a step, which the ladder's runs agree on."""
    tokens, each = foretold.target.get("tokens"), args.tokens_per_step
    if each is None:
        runs = [store.get(key) for key in foretold.runs if key in store]
        found = {float(run.curve["tokens"][0]) for run in runs if len(run.curve.get("tokens", ())) > 1}
        each = found.pop() if len(found) == 1 else None
    if tokens is None or each is None:
        raise InputError(
            "The checkpoint does not say how many steps the run takes; give --tokens-per-step N, or --horizon STEPS."
        )
    return float(np.ceil(tokens / each))


def _pasts(
    args: argparse.Namespace, foretold: Foretold, store: Store | None, remarks: list[str], *, train: bool
) -> Sequence[Past]:
    """The runs of --ladder, or the forecast's own in the store; empty where there are none."""
    pasts: Sequence[Past] = [_past(Path(path), args, remarks) for path in args.ladder]
    if store is None and (args.store != DEFAULT_STORE or (foretold.runs and Store(args.store).exists())):
        store = existing_store(args)
    if not pasts and store is not None:
        runs = [store.get(key) for key in foretold.runs if key in store]
        judged = pasts_of(runs, "judged_loss")
        dense = bool(judged) and min(len(past.share) for past in judged) >= ENOUGH_JUDGED
        pasts = judged if dense and not train else pasts_of(runs)
        if pasts and not train and not dense:
            remarks.append(
                "the ladder's runs were judged too seldom for a curve, so their training losses are used; a log of "
                "training losses may end beside the held-out loss that was foretold: score the recorded run"
            )
    if not pasts:
        remarks.append(TYPICAL)
    return pasts


def _shape(pasts: Sequence[Past], foretold: Foretold) -> Shapes:
    return ((1.0, shape_of(pasts, foretold.loss.median)),) if pasts else ()


def _other_schedule(log: Log, share: np.ndarray, pasts: Sequence[Past]) -> str:
    """What says that the run's learning rate does not go as those of all finished runs did; empty where they agree.

    Rates are compared as shares of their peaks, once all have peaked: warm-ups may be as many steps at every size. Only
    a difference that lasts counts: where a rate jumps, rows of two logs lie on either side.
    """
    own, *others = (_over_peak(*each) for each in ((share, log.lr), *((past.share, past.lr) for past in pasts)))
    ladder = [rates for rates in others if len(rates[0]) >= OFTEN]
    if len(own[0]) < OFTEN or not ladder:
        return ""
    kept = own[0] >= max(WARM, *(_peaked(*rates) for rates in (own, *ladder)))
    at, mine = own[0][kept], own[1][kept]
    theirs = np.array([np.interp(at, *rates) for rates in ladder])
    apart = np.min(np.abs(theirs - mine), axis=0)
    for stretch in np.split(np.arange(len(at)), np.flatnonzero(np.diff(apart > OTHER)) + 1):
        if len(stretch) > 1 and apart[stretch[0]] > OTHER and at[stretch[-1]] - at[stretch[0]] > LASTS:
            most = stretch[int(np.argmax(apart[stretch]))]
            return (
                f"at {100 * at[most]:.0f} % of the run the learning rate was at {100 * mine[most]:.0f} % of its peak, "
                f"the ladder's at {100 * np.median(theirs[:, most]):.0f} %: under another schedule a curve has another "
                f"shape, so theirs do not tell where this one is heading; give --ladder logs of runs with its schedule"
            )
    return ""


def _over_peak(share: np.ndarray, lr: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Shares of a run at which its learning rate is known, and the rate there over its peak; empty where none."""
    known = np.isfinite(lr) if lr is not None else np.zeros(0, bool)
    if lr is None or not (lr[known] > 0).any():
        return np.zeros(0), np.zeros(0)
    return share[known], lr[known] / lr[known].max()


def _peaked(share: np.ndarray, rate: np.ndarray) -> float:
    """The share at which a rate first was at its peak."""
    return float(share[np.flatnonzero(rate >= HELD)[0]])


def _falling(log: Log, share: np.ndarray) -> float | None:
    """The share of the run from which the learning rate was seen to fall from its peak, or None."""
    at, rate = _over_peak(share, log.lr)
    return float(at[np.flatnonzero(rate >= HELD)[-1]]) if len(rate) and rate[-1] < FALLEN else None


def _past(path: Path, args: argparse.Namespace, remarks: list[str]) -> Past:
    """A ladder's log, by the columns that are named if it has them, else by its own."""
    read = partial(read_log, path, tokens_per_step=args.tokens_per_step, whole=True)
    try:
        log = read(args.columns)
    except NoColumn as error:
        try:
            log = read(None)
        except InputError:
            raise error from None
        remarks.append(f"{path.name} has not the columns that --columns names; it is read by its own")
    if len(log) < 2:
        raise InputError(f"{path} has {len(log)} row(s); a ladder's log is that of a finished run.")
    share = log.at / log.at[-1]
    return Past(share, log.loss, final_loss(share, log.loss), path.name, log.lr)
