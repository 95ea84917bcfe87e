"""Observations: what the laws are fitted to, one entry a finished run, as equally long columns.

They come from Runs or from anyone's table (`reading/`). Columns that nobody stated are None, never filled. A newcomer
would expect a DataFrame; plain arrays keep pandas out of the import and the columns known by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.ladder import Rung, compact
from windtunnel.likeness import pooled
from windtunnel.notebook import marked, printed
from windtunnel.runs import Run, canonical

SIZE_COLUMNS = ("params", "tokens", "flops")
OTHER_SIZES = ("active_params", "unique_tokens", "width", "steps", "batch_tokens", "lr")  # some laws read these too
ALL_SIZES = (*SIZE_COLUMNS, *OTHER_SIZES)
NUMBER_COLUMNS = ("loss", *ALL_SIZES)
TEXT_COLUMNS = ("seed", "series", "idea", "split", "key", "rung")
SIX_N_D = "FLOPs were not stated; they are taken as 6 x params x tokens."
OVER_SIX_N = "Tokens were not stated; they are taken as FLOPs / (6 x params)."
RARE = 1e-3  # tokens a param below which FLOPs are hardly those of training (guess; frontiers have 1 to 1000)
OFF_LINE = 0.15  # guess: less scatter about a line in log-log cannot carry a second exponent


@dataclass(frozen=True, eq=False, kw_only=True)
class Observations:
    """Losses (nats per token, or any positive loss) beside sizes; None for a column that was not stated.

    `split` says "fit" or "predict" for each run; losses of "predict" rows may be NaN and are never fitted.
    `active_params` are those a token meets in a mixture of experts; `unique_tokens` are distinct.
    `rung` names the rung a run was trained at, so that an idea which adds parameters still pairs with its base.
    `dropped` lists runs left out, with the reason. `caveats` are remarks on the data that every forecast repeats.
    `unnamed` is what --columns would have to say for sizes of the table that nobody named, as "params=n_params".
    """

    loss: np.ndarray
    params: np.ndarray | None = None
    tokens: np.ndarray | None = None
    flops: np.ndarray | None = None
    active_params: np.ndarray | None = None
    unique_tokens: np.ndarray | None = None
    width: np.ndarray | None = None
    steps: np.ndarray | None = None
    batch_tokens: np.ndarray | None = None
    lr: np.ndarray | None = None
    seed: np.ndarray | None = None
    series: np.ndarray | None = None
    idea: np.ndarray | None = None
    split: np.ndarray | None = None
    key: np.ndarray | None = None
    rung: np.ndarray | None = None
    source: str = "runs"
    dropped: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    unnamed: str = ""

    def __post_init__(self) -> None:
        for f in fields(self):
            column = getattr(self, f.name)
            if column is not None and f.name not in ("source", "dropped", "caveats", "unnamed"):
                object.__setattr__(self, f.name, _column(f.name, column))
        lengths = {f.name: len(column) for f in fields(self) if isinstance(column := getattr(self, f.name), np.ndarray)}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise InputError(f"Columns must be equally long, an entry a run; given: {listed}.")

    def __len__(self) -> int:
        return len(self.loss)

    _repr_pretty_ = printed

    def __str__(self) -> str:
        spans = [_span(name, getattr(self, name)) for name in NUMBER_COLUMNS if getattr(self, name) is not None]
        origin = "" if self.source == "runs" else f" of {self.source}"
        series, foretold = len(set(self.labels())), int(np.sum(~self.fitted))
        what = (f", {series} series or ideas" if series > 1 else "") + (f", {foretold} to foretell" if foretold else "")
        return "\n".join([*marked(self.caveats), f"{len(self)} run(s){origin}{what}", *spans])

    @classmethod
    def from_runs(cls, runs: Sequence[Run], metric: str | None = None) -> Observations:
        """The finished runs; the others are listed in `dropped`. `series` is left None: all runs are one series.

        `metric` names one of the runs' metrics that takes the place of the loss, such as a probe's `loss_on_english`.
        """
        given, runs = runs, list(runs) if isinstance(runs, Iterable) else [runs]
        if any(not isinstance(run, Run) for run in runs):
            raise InputError(
                f"What was given is a {type(given).__name__} and no runs of a store; give store.runs(), or columns of "
                f"numbers: wt.Observations(loss=..., params=..., tokens=...). `wt.read_runs` reads tables, DataFrames."
            )
        finished = [run for run in runs if _usable(run)]
        lacking = [run.key[:8] for run in finished if metric is not None and metric not in run.metrics]
        if lacking:
            raise InputError(
                f"{len(lacking)} runs have no metric {metric!r} ({', '.join(lacking[:3])}); theirs are "
                f"{', '.join(sorted({name for run in finished for name in run.metrics}))}."
            )
        dropped = tuple(f"{run.key[:8]} {run.outcome}: {run.message or 'no loss'}" for run in runs if not _usable(run))
        if not finished:
            raise InputError(
                f"None of {len(runs)} runs finished with a loss, so there is nothing to fit"
                + (f" ({'; '.join(dropped[:3])})." if dropped else ". Train the ladder first: `windtunnel run`.")
            )
        caveats = [f"{len(dropped)} of {len(runs)} runs did not finish and are left out."] if dropped else []
        if apart := pooled([run.spec for run in finished]):
            caveats.append(
                f"These {len(finished)} runs are of several recipes ({', '.join(apart)} differ) and are fitted as one; "
                f"fit those of one recipe, which `Store.table` marks."
            )
        searched = _searched(finished)
        if unread := [name for name in searched if name != "lr"]:
            caveats.append(
                f"Runs of one size differ in {', '.join(unread)}, which no law reads; what it does is taken for noise. "
                f'Fit the ladder alone: [run for run in runs if run.labels["stage"] == "ladder"].'
            )
        return cls(
            loss=np.array([run.loss if metric is None else run.metrics[metric] for run in finished], float),
            params=np.array([run.size.params for run in finished], float),
            tokens=np.array([run.spec.rung.tokens for run in finished], float),
            flops=np.array([run.size.training_flops(run.spec.rung.tokens) for run in finished], float),
            unique_tokens=_unique([run.spec.rung for run in finished]),
            width=np.array([run.spec.rung.width for run in finished], float),
            lr=searched.get("lr"),
            seed=np.array([str(run.spec.seed) for run in finished]),
            key=np.array([run.key for run in finished]),
            rung=np.array([str(run.spec.rung) for run in finished]),
            source="store",
            dropped=dropped,
            caveats=tuple(caveats),
        )

    def where(self, mask: np.ndarray) -> Observations:
        """The runs picked by a boolean mask or an index array."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), np.ndarray)}
        return replace(self, **{name: values[mask] for name, values in arrays.items()})

    @property
    def fitted(self) -> np.ndarray:
        """Whether each row is evidence: all but those whose split is "predict"."""
        return np.ones(len(self), bool) if self.split is None else self.split != "predict"

    def to_fit(self) -> Observations:
        """Without the rows whose split is "predict"."""
        return self if self.split is None else self.where(self.fitted)

    def to_predict(self) -> Observations:
        """Only the rows whose split is "predict"."""
        return self.where(~self.fitted)

    def by_series(self) -> Iterator[tuple[str, Observations]]:
        """Each series (and, within it, each idea) by name, in order of first appearance."""
        names, first, label = np.unique(np.array(self.labels()), return_index=True, return_inverse=True)
        places = np.split(np.argsort(label, kind="stable"), np.cumsum(np.bincount(label))[:-1])
        for index in np.argsort(first):
            yield str(names[index]), self.where(places[index])

    def labels(self) -> list[str]:
        """Series and idea of each run as one text; empty where neither is stated."""
        parts = [column for column in (self.series, self.idea) if column is not None]
        return [" / ".join(str(part) for part in row if str(part)) for row in zip(*parts, strict=True)] or (
            [""] * len(self)
        )

    def ordered(self) -> Observations:
        """In order of size, seed and loss: a fit does not depend on the order of the rows."""
        columns = [self.loss, self.seed, self.params, self.tokens, self.size]
        return self.where(np.lexsort([column for column in columns if column is not None]))

    @property
    def axis(self) -> str:
        """The column that orders the runs by cost: flops, else params, tokens, active_params, width, steps.

        Raises InputError where none of them is stated.
        """
        for name in ("flops", "params", "tokens", "active_params", "width", "steps"):
            if getattr(self, name) is not None:
                return name
        raise InputError(f"{self.source} states no size; give params, tokens, flops, active_params, width or steps.")

    @property
    def size(self) -> np.ndarray:
        """The values of `axis`."""
        return getattr(self, self.axis)

    def keys(self) -> tuple[str, ...]:
        """Stated keys, or for runs without one a hash of their numbers."""
        if self.key is not None:
            return tuple(str(key) for key in self.key)
        return tuple(hashlib.sha256(canonical(row).encode()).hexdigest()[:20] for row in self.rows())

    def rows(self) -> list[dict[str, float | str]]:
        """The stated numbers of each run as plain data; unknown losses are left out."""
        names = [name for name in (*NUMBER_COLUMNS, "seed") if getattr(self, name) is not None]
        records = [{name: getattr(self, name)[i].item() for name in names} for i in range(len(self))]
        return [{name: value for name, value in record.items() if value == value} for record in records]


def _span(name: str, values: np.ndarray) -> str:
    """One column in words."""
    known = values[np.isfinite(values)]
    if not len(known):
        return f"{name}: none"
    low, high = (compact(float(v)) if v >= 1e3 else f"{v:.4g}" for v in (known.min(), known.max()))
    different = len(np.unique(known))
    return f"{name}: {low}" if different == 1 else f"{name}: {low} to {high}, {different} different"


def _column(name: str, values: Any) -> np.ndarray:
    """A column as an array of numbers or of text. Raises InputError for what is none."""
    try:
        found = np.asarray(values, float if name in NUMBER_COLUMNS else str)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"Observations {name} cannot be read as numbers ({error}); give one for each run.") from None
    if found.ndim != 1:
        raise InputError(f"Observations {name} has the shape {found.shape}; give one number for each run, as a list.")
    return found


def _unique(rungs: Sequence[Rung]) -> np.ndarray | None:
    """Distinct tokens of each run, None where no rung limits them."""
    if all(rung.unique_tokens is None for rung in rungs):
        return None
    return np.array([min(rung.tokens, rung.unique_tokens or rung.tokens) for rung in rungs], float)


def _searched(runs: Sequence[Run]) -> dict[str, np.ndarray]:
    """The values of hyperparameters of which several were tried at one rung; a ladder alone has none."""
    found = {}
    for name in sorted(set.intersection(*(set(run.spec.hyperparameters) for run in runs))):
        values = [run.spec.hyperparameters[name] for run in runs]
        rungs = [run.spec.rung for run in runs]
        if len(set(zip(rungs, values, strict=True))) > len(set(rungs)):
            found[name] = np.array(values, float)
    return found


def _usable(run: Run) -> bool:
    return run.finished and run.loss is not None and run.loss > 0


def joint(*labels: np.ndarray) -> np.ndarray:
    """One label for each combination of labels that there is."""
    found = labels[0]
    for label in labels[1:]:
        found = np.unique(found * (label.max() + 1) + label, return_inverse=True)[1]
    return found


def at_work(sizes: Any) -> np.ndarray | None:
    """The params that a token meets, by which it is paid: all of them where not stated otherwise."""
    return sizes.params if sizes.active_params is None else sizes.active_params


def off_line(x: np.ndarray, y: np.ndarray) -> float:
    """Spread of y that a line in x does not explain."""
    slope, start = np.polyfit(x, y, 1)
    return float(np.std(y - slope * x - start))


def with_tokens_of_flops(observations: Observations) -> Observations:
    """Tokens that nobody stated filled in as C / 6 N where FLOPs vary apart from params, with a caveat saying so.

    For the runs of one series that are to be fitted; FLOPs of one example, as of images, are none of training.
    """
    o = observations
    params = at_work(o)
    if o.tokens is not None or o.flops is None or params is None or len(o) < 3:
        return o
    if not np.all((params > 0) & (o.flops > 0) & np.isfinite(params) & np.isfinite(o.flops)):
        return o
    tokens = o.flops / (6 * params)
    if (
        np.ptp(params) == 0
        or off_line(np.log(params), np.log(o.flops)) <= OFF_LINE
        or np.median(tokens / params) < RARE
    ):
        return o
    said = OVER_SIX_N if o.active_params is None else OVER_SIX_N.replace("params", "active_params")
    return replace(o, tokens=tokens, caveats=(*o.caveats, said))


def with_flops(observations: Observations) -> Observations:
    """FLOPs filled in as 6 N D (N the active parameters) where they are not stated, with a caveat saying so."""
    o = observations
    params = at_work(o)
    if o.flops is not None or params is None or o.tokens is None:
        return o
    said = SIX_N_D if o.active_params is None else SIX_N_D.replace("x params", "x active_params")
    return replace(o, flops=6 * params * o.tokens, caveats=(*o.caveats, said))


def check_numbers(observations: Observations) -> None:
    """Raise InputError for losses that are no positive number, and for experts larger than their model."""
    o = observations
    bad = np.flatnonzero(~(np.isfinite(o.loss) & (o.loss > 0)))
    if len(bad):
        raise InputError(
            f"{o.source} has {len(bad)} loss(es) that are not a positive number, the first {o.loss[bad[0]]} at entry "
            f"{bad[0]}; leave out runs that did not finish, or give their split as `predict`."
        )
    if o.active_params is not None and o.params is not None and np.any(o.active_params > 1.02 * o.params):
        at = int(np.nanargmax(o.active_params / o.params))
        raise InputError(
            f"{o.source} has a run of {compact(o.params[at])} params and {compact(o.active_params[at])} active_params; "
            f"those that a token meets are never more than all. Are the columns swapped?"
        )


def check_sizes(observations: Observations) -> None:
    """Raise InputError unless there are runs at three distinct sizes or more."""
    o = observations
    if len(o) == 0:
        raise InputError(f"{o.source} holds no runs to fit. Rows whose split is `predict` are targets, not evidence.")
    bad = np.flatnonzero(~(np.isfinite(o.size) & (o.size > 0)))
    if len(bad):
        raise InputError(
            f"{o.source} has {len(bad)} run(s) whose {o.axis} are not a positive number, the first {o.size[bad[0]]} at "
            f"entry {bad[0]}; every run needs them, for they order the runs."
        )
    distinct = np.unique(np.round(np.log(o.size), 3))
    if len(distinct) < 3:
        listed = ", ".join(compact(float(np.exp(size))) for size in distinct)
        raise InputError(
            f"{o.source} has runs at {len(distinct)} distinct size(s) ({listed} {o.axis}); a law needs at least 3, and "
            f"5 or more for a backtest that means something. Add rungs."
        )
