"""One run's loss log, as far as it is written: where in the run each row lies, and its loss.

A log of a run in flight is not a finished table: its last line may be half written, a resumed run writes some steps
again, metrics other than the loss leave the loss empty, and a diverging loss is NaN. None of these is an error here;
each is left out and said. A newcomer would sort by step: then a resumed run keeps rows of the pass it threw away.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.laws.reading.choosing import as_mapping, find, listed
from windtunnel.laws.reading.events import read_series
from windtunnel.laws.reading.exports import is_json, recognised
from windtunnel.laws.reading.folders import EVENTS
from windtunnel.laws.reading.naming import hint
from windtunnel.laws.reading.records import read_json
from windtunnel.laws.reading.tables import Table, read_csv, read_parquet, text_of

STATE = "trainer_state.json"  # where a Hugging Face Trainer keeps its log, at the end of a run and in each checkpoint
LARGEST = 512 * 2**20  # bytes of a log that is read (guess: a million steps with twenty metrics is 200 MB)
WANTED = ("tokens", "steps", "loss", "lr", "batch_tokens")
NO_VALUE = {"none", "null", "na", "n/a", "-"}  # what programs write where there is no loss
PRINTED = re.compile(r"loss\W{0,3}\d", re.IGNORECASE)  # in the first line
FEWEST = 40  # rows of a first part, below which noise may look like going on (guess)
FALLEN = 0.1  # of log loss, from which a run's first part tells its beginning from its end (guess)
# In a log of one run these can mean nothing else; W&B's own `_step` can, and must be named with --columns.
_ALSO = {"steps": ("step", "global_step", "train/global_step"), "lr": ("learning_rate", "train/learning_rate")}


@dataclass(frozen=True, eq=False)
class Log:
    """Rows of one run in order: `at` (n,) rising, in `unit` ("tokens" or "steps"); `loss` (n,), NaN where not finite.

    `lr` (n,) is None where the log has no learning rate. `notes` say what was left out and why.
    """

    at: np.ndarray
    loss: np.ndarray
    unit: str
    lr: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    source: str = "log"

    def __len__(self) -> int:
        return len(self.at)

    @property
    def broken(self) -> int:
        """How many of the last rows have a loss that is not finite: the run has diverged, unless it comes back."""
        finite = np.flatnonzero(np.isfinite(self.loss))
        return len(self.loss) - (int(finite[-1]) + 1 if len(finite) else 0)


def read_log(
    path: Path, columns: Mapping[str, str] | str | None = None, *, tokens_per_step: float | None = None,
    whole: bool = False,
) -> Log:  # fmt: skip
    """The log at a path: CSV, JSON lines or an array, Parquet, TensorBoard, MLflow's run folder, a tracker's export, a
    Hugging Face Trainer's folder.

    Columns: loss, and tokens or steps; lr where there is one. `columns` maps them to the file's names.
    `tokens_per_step` turns steps to tokens. `whole` False leaves out a last line without its end, which may be half
    written. InputError for what is no log of one run; a log without rows yet is empty.
    """
    mapping = as_mapping(columns)
    table, torn = _table(path, whole)
    if not mapping and not {*WANTED, *_ALSO["steps"]} & {*table.columns, *table.known}:
        _check_printed(table)
    if not len(table.rows):
        return Log(np.zeros(0), np.zeros(0), "tokens" if tokens_per_step else "steps", source=str(path))
    also = {ours: next((name for name in names if name in table.columns), "") for ours, names in _ALSO.items()}
    chosen = {ours: theirs for ours, theirs in also.items() if theirs and ours not in mapping}
    chosen |= find(table, mapping, WANTED)
    _check(table, chosen, mapping)
    _one_run(table, mapping)
    place, unit = _place(table, chosen, tokens_per_step)
    loss, missing, strange = _losses(table, chosen["loss"])
    lr = _cells(table.columns[chosen["lr"]])[0] if "lr" in chosen else None
    kept = np.flatnonzero(np.isfinite(place) & ~missing & (place >= 0))
    last = kept[_not_repeated(place[kept])]
    wrong = np.isfinite(loss[last]) & (loss[last] <= 0)
    if wrong.any():
        raise InputError(
            f"{path} column {chosen['loss']} is zero or negative in {table.named(last[wrong])}; a loss is positive "
            f'(nats per token is usual). Name another column with --columns "loss=THEIR_NAME".'
        )
    notes = [*torn, *strange, *_said(len(kept) - len(last), int(np.sum(~np.isfinite(loss[last]))))]
    notes += _anew(place[kept], loss[kept])
    return Log(place[last], np.where(np.isfinite(loss[last]), loss[last], np.nan), unit,
               None if lr is None else lr[last], tuple(notes), str(path))  # fmt: skip


def _said(repeated: int, broken: int) -> list[str]:
    said = []
    if repeated:
        said.append(f"{repeated} row(s) were written again by a resumed run; the later ones count")
    if broken:
        said.append(f"{broken} row(s) have a loss that is NaN or infinite; they are left out")
    return said


def _anew(place: np.ndarray, loss: np.ndarray) -> list[str]:
    """A sentence where the counter began again and the loss did not: then no rows were written again, but the first
    part of the run is missing. Asked of the last pass that began where the log began."""
    starts = np.flatnonzero((place[1:] <= place[:-1]) & (place[1:] <= place[0])) + 1
    for start in starts[::-1].tolist():
        if start < FEWEST:
            continue
        few = max(3, min(10, start // 20))
        first, before, after = (np.median(loss[i : i + few]) for i in (0, start - few, start))
        if not np.isfinite([first, before, after]).all() or min(first, before, after) <= 0:
            continue
        if np.log(first / before) > FALLEN and np.log(after / before) < np.log(first / before) / 2:
            return [
                f"the counter begins again at {place[start]:.4g} after {place[start - 1]:.4g}, but the loss goes on "
                f"({after:.4g} after {before:.4g}; the first was {first:.4g}): where this is one run, resumed with a "
                f"new counter, its first {start} row(s) are missing here; add {place[start - 1]:.4g} to what follows"
            ]
    return []


def _table(path: Path, whole: bool) -> tuple[Table, list[str]]:
    if not path.exists():
        raise InputError(f"{path} does not exist; give the path of a log: CSV, JSON lines, TensorBoard or MLflow.")
    if path.is_dir():
        return _folder(path), []
    if EVENTS in path.name:
        return _series_table(path, read_series(path)), []
    if path.stat().st_size > LARGEST:
        raise InputError(f"{path} is larger than {LARGEST // 2**20} MB; log the loss less often, or thin the file.")
    if path.suffix.lower() == ".parquet":
        return recognised(read_parquet(path)), []
    text, dropped = _whole_lines(path, text_of(path, lenient=True), whole)
    if not text.strip():
        return Table(path, {}, []), []
    table = recognised(read_json(path, text) if is_json(path) else read_csv(path, text, None))
    return table, [f"{dropped} line(s) are not whole and are left out"] if dropped else []


def _whole_lines(path: Path, text: str, whole: bool) -> tuple[str, int]:
    """The text without broken lines, and how many there were; the last one is not counted, as it may still grow."""
    if (is_json(path) and text.lstrip()[:1] in ("[", "")) or (is_json(path) and _one_value(text)):
        return text, 0
    lines = text.splitlines(keepends=True)
    last = lines.pop() if lines and not lines[-1].endswith("\n") else ""
    right = _is_object if is_json(path) else _cells_as(lines[0] if lines else last, path)
    if last and (whole or not lines) and right(last):
        lines.append(last)
    good = [line for line in lines if not line.strip() or right(line)]
    if not is_json(path):
        good = [line for index, line in enumerate(good) if index == 0 or line.strip() != good[0].strip()]
    bad = sum(1 for line in lines if line.strip() and not right(line))
    if bad > max(3, len(lines) // 2):
        raise InputError(f"{path}: {bad} of {len(lines)} lines are not {'JSON objects' if is_json(path) else 'rows'}.")
    return "".join(good), bad


def _one_value(text: str) -> bool:
    """Whether the text is one JSON object over several lines, as a trainer's state is."""
    first = text.lstrip().split("\n", 1)[0]
    return first.rstrip() in ("{", "[") or not _is_object(first)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _cells_as(header: str, path: Path) -> Any:
    tab = ".tsv" in [suffix.lower() for suffix in path.suffixes] or ("," not in header and "\t" in header)
    mark = "\t" if tab else "," if "," in header else ";"
    count = len(next(csv.reader(io.StringIO(header), delimiter=mark), []))

    def right(line: str) -> bool:
        return len(next(csv.reader(io.StringIO(line), delimiter=mark), [])) == count

    return right


def _folder(folder: Path) -> Table:
    """A TensorBoard run's folder, an MLflow run's, or a Trainer's: one run, or InputError.

    A Trainer's state holds the whole run up to its checkpoint; of event files each time it is resumed makes others.
    """
    runs = sorted({path.parent for path in folder.rglob(f"*{EVENTS}*") if path.is_file()})
    state = _newest_state(folder)
    if state is not None and len(runs) != 1:
        return recognised(read_json(state, text_of(state)))
    if runs:
        run = _only(folder, runs)
        series: dict[str, list[tuple[int, float]]] = {}
        for file in sorted(run.glob(f"*{EVENTS}*"), key=_begun):
            for tag, values in read_series(file).items():
                series.setdefault(tag, []).extend(values)
        return _series_table(run, series)
    stores = sorted(path.parent for path in folder.rglob("metrics") if path.is_dir())
    if not stores:
        raise InputError(
            f"{folder} holds neither TensorBoard event files, nor an MLflow run, nor a Trainer's {STATE}; give the "
            f"path of a log."
        )
    metrics = _only(folder, stores) / "metrics"
    files = sorted(path for path in metrics.rglob("*") if path.is_file())
    return _series_table(folder, {path.relative_to(metrics).as_posix(): _metric(path) for path in files})


def _newest_state(folder: Path) -> Path | None:
    """The Trainer's state with most steps, in a checkpoint's folder or a run's with its checkpoints; None if none."""
    found = [path for path in (folder / STATE, *folder.glob(f"checkpoint-*/{STATE}")) if path.is_file()]
    return max(found, key=_steps_of, default=None)


def _steps_of(state: Path) -> float:
    try:
        return float(json.loads(text_of(state))["global_step"])
    except (ValueError, KeyError, TypeError, InputError):
        return -1.0


def _begun(file: Path) -> tuple[list[int], str]:
    """What orders event files by when each was begun: the numbers behind `tfevents.`, a time in seconds first."""
    return [int(number) for number in re.findall(r"\d+", file.name.partition(EVENTS)[2])], file.name


def _only(folder: Path, runs: Sequence[Path]) -> Path:
    if len(runs) > 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path in runs[:6])
        raise InputError(f"{folder} holds {len(runs)} runs ({names}); give the folder of one of them.")
    return runs[0]


def _metric(path: Path) -> list[tuple[int, float]]:
    """(step, value) of MLflow's lines `timestamp value step`, as written; a half-written last line is left out."""
    found: list[tuple[int, float]] = []
    text = path.read_text("utf-8", "replace")
    for line in text[: text.rfind("\n") + 1].splitlines():
        parts = line.split()
        try:
            found.append((int(parts[2]), float(parts[1])))
        except (IndexError, ValueError):
            continue
    return found


def _series_table(path: Path, series: Mapping[str, Sequence[tuple[int, float]]]) -> Table:
    """Series (step, value) as written, beside each other: first the steps that were written again, then what stands.

    Series are logged at steps of their own, so what a resumed run wrote again is told within each.
    """
    passes: tuple[dict[int, dict[str, float]], ...] = ({}, {})
    for tag, values in series.items():
        stands = _not_repeated(np.array([step for step, _ in values], float))
        for (step, value), good in zip(values, stands.tolist(), strict=True):
            passes[good].setdefault(step, {})[tag] = value
    rows = [(step, found[step]) for found in passes for step in sorted(found)]
    steps = [step for step, _ in rows]
    columns = {tag: [row.get(tag, "") for _, row in rows] for tag in series}
    return Table(path, {"step": steps, **columns} if steps else {}, steps, {"steps": "step"}, noun="step")


def _check_printed(table: Table) -> None:
    """Raise InputError where the first line, which should name columns, tells a loss."""
    first = ", ".join(table.columns)
    if PRINTED.search(first):
        raise InputError(
            f"{table.file} holds lines that a program printed, not a table: the first is {first!r}. Write the loss as "
            f'CSV (a first line step,loss) or as JSON lines ({{"step": 1, "loss": 5.2}}), or give a folder of '
            f"TensorBoard events or of an MLflow run, or an export of W&B."
        )


def _check(table: Table, chosen: Mapping[str, str], mapping: Mapping[str, str]) -> None:
    present = list(table.columns)
    if "loss" not in chosen:
        named = hint(["loss"], table, chosen, mapping, WANTED)
        raise InputError(f"{table.file} has no column `loss`; {listed(present)}. {named}")
    if not {"tokens", "steps"} & set(chosen):
        raise InputError(
            f"{table.file} has neither tokens nor steps, so nothing says how far the run is; {listed(present)}. "
            f"{hint(['tokens', 'steps'], table, chosen, mapping, WANTED)}"
        )


def _one_run(table: Table, mapping: Mapping[str, str]) -> None:
    name = mapping.get("series") or table.known.get("series")
    names = sorted({str(value) for value in table.columns[name]}) if name and name in table.columns else []
    if len(names) > 1:
        raise InputError(
            f"{table.file} holds {len(names)} runs ({', '.join(names[:5])}); export the one to be watched."
        )


def _place(table: Table, chosen: Mapping[str, str], tokens_per_step: float | None) -> tuple[np.ndarray, str]:
    """How far each row is, in tokens where that is known."""
    if tokens_per_step is not None and "steps" in chosen:
        return _cells(table.columns[chosen["steps"]])[0] * tokens_per_step, "tokens"
    if "tokens" in chosen:
        return _cells(table.columns[chosen["tokens"]])[0], "tokens"
    steps = _cells(table.columns[chosen["steps"]])[0]
    if "batch_tokens" in chosen:
        return steps * _cells(table.columns[chosen["batch_tokens"]])[0], "tokens"
    return steps, "steps"


def _losses(table: Table, name: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The losses, which cells hold none, and a sentence on those that hold text instead (a loss of "nan" is NaN).

    Raises InputError where that is most of them: then the column is no loss, or its commas are decimal points.
    """
    values = table.columns[name]
    loss, missing = _cells(values)
    text = np.zeros(len(values), bool)
    for place in np.flatnonzero(np.isnan(loss) & ~missing).tolist():
        missing[place] = str(values[place]).strip().lower() in NO_VALUE
        text[place] = not missing[place] and not _is_number(values[place])
    if not text.any():
        return loss, missing, []
    places = np.flatnonzero(text)
    shown = ", ".join(dict.fromkeys(repr(str(values[place])[:20]) for place in places[:3].tolist()))
    found = f"{len(places)} cell(s) of column {name} hold text instead of a loss ({shown}, {table.named(places)})"
    if 2 * len(places) > np.sum(~missing):
        raise InputError(f'{table.file}: {found}; write numbers, with a decimal point, as in 3.5 (or "nan").')
    return loss, missing | text, [f"{found}; they are left out"]


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _cells(values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Numbers, NaN where there is none; and which cells are empty, so that nothing was logged there."""
    numbers, empty = np.full(len(values), np.nan), np.zeros(len(values), bool)
    for index, value in enumerate(values):
        if value is None or (isinstance(value, str) and not value.strip()):
            empty[index] = True
            continue
        try:
            numbers[index] = float(value)
        except (TypeError, ValueError):
            continue
    return numbers, empty


def _not_repeated(place: np.ndarray) -> np.ndarray:
    """Rows behind which no row lies as early or earlier: what a resumed run has not written again."""
    if not len(place):
        return np.zeros(0, bool)
    after = np.minimum.accumulate(np.append(place[1:], np.inf)[::-1])[::-1]
    return place < after
