"""AlgoPerf's logs: submission / study_N / workload_framework / trial_M / measurements as CSV, read as data.

Layout and columns are those of the public logs of mlcommons/submissions_algorithms: `accumulated_submission_time`
(seconds, evaluations not counted), `global_step`, and metrics called `validation/...`; a row without a metric was no
evaluation. Files are bounded, and what is damaged is refused by name. A newcomer would take `total_duration` for time;
it counts evaluation and logging too.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from windtunnel.errors import InputError
from windtunnel.fair.timed import Goal, Timed

FILES = ("eval_measurements.csv", "measurements.csv")  # the first has evaluations alone
TIMES = {"accumulated_submission_time": "seconds", "global_step": "steps"}
CSV_BYTES = 64 << 20  # one run's table: the public ones take up to 1 MB (measured)
RUNS = 100_000  # runs in one folder
DEEP = 8  # folders below the one given
REMEDY = "get the file again, or move its folder out of the logs"

# Validation targets and limits of the fixed workloads, from AlgoPerf's documentation (read 2026-11; version 0.0.21 with
# the later limits). The language model's target is from the leaderboard's own tables, which state no limit beside it.
ALGOPERF_GOALS = {
    name: Goal(
        metric=f"validation/{metric}", value=value, lower_is_better=lower,
        limits={} if seconds is None else {"seconds": float(seconds)},
    )
    for name, metric, value, lower, seconds in (
        ("criteo1tb", "loss", 0.123735, True, 7703),
        ("fastmri", "ssim", 0.723653, False, 4430),
        ("finewebedu_lm", "ppl", 22.2995, True, None),
        ("imagenet_resnet", "accuracy", 0.77431, False, 66159),
        ("imagenet_vit", "accuracy", 0.77309, False, 69768),
        ("librispeech_conformer", "wer", 0.085884, True, 58015),
        ("librispeech_deepspeech", "wer", 0.119936, True, 44405),
        ("ogbg", "mean_average_precision", 0.28098, False, 12011),
        ("wmt", "bleu", 30.8491, False, 43336),
    )
}  # fmt: skip


def read_algoperf(folder: str | os.PathLike[str]) -> list[Timed]:
    """The runs below a folder of AlgoPerf logs, in the order of their names: a submission, or a folder of several.

    A workload's framework (_jax, _pytorch) is left out of its name. Raises InputError where there is no run, or where
    a file is too large, cut off, not a table, or holds what is no number.
    """
    top = Path(folder)
    if not top.is_dir():
        raise InputError(f"{top} is not a folder; give the folder of a submission, or one of several, with study_0 ...")
    found = [_run(top, path) for path in _runs(top)]
    if not found:
        raise InputError(
            f"{top} holds no AlgoPerf logs; needed is submission/study_0/workload_framework/trial_1/"
            f"eval_measurements.csv."
        )
    return found


def _runs(top: Path) -> Iterator[Path]:
    """Folders trial_M below study_N, sorted; links are not followed."""
    count = 0
    for here, folders, names in os.walk(top):
        path = Path(here)
        folders.sort()
        if len(path.relative_to(top).parts) >= DEEP:
            folders.clear()
        if re.fullmatch(r"trial_\d+", path.name) and path.parent.parent.name.startswith("study_"):
            folders.clear()
            count += 1
            if count > RUNS:
                raise InputError(f"{top} holds more than {RUNS:,} runs; give a folder of fewer submissions.")
            if set(FILES) & set(names):
                yield path


def _run(top: Path, folder: Path) -> Timed:
    study, workload = folder.parent.parent, folder.parent.name
    file = next(folder / name for name in FILES if (folder / name).is_file())
    table = _table(file)
    missing = [name for name in TIMES if name not in table]
    metrics = {name: values for name, values in table.items() if name.startswith(("validation/", "test/"))}
    if missing or not metrics:
        raise InputError(
            f"{file} is no table of AlgoPerf measurements: it lacks {', '.join(missing) or 'validation/... columns'}; "
            f"it has {', '.join(list(table)[:8])}. {REMEDY.capitalize()}."
        )
    kept = ~np.isnan(np.stack(list(metrics.values()))).all(axis=0)
    used = {unit: table[name][kept] for name, unit in TIMES.items()}
    if any(not np.isfinite(values).all() or (values < 0).any() for values in used.values()):
        raise InputError(f"{file} has a time or step that is missing or negative at an evaluation; {REMEDY}.")
    method = study.parent.relative_to(top).as_posix()
    return Timed(
        method=top.resolve().name if method == "." else method,
        workload=re.sub(r"_(jax|pytorch)$", "", workload), study=study.name, run=folder.name,
        used=used, measured={name: values[kept] for name, values in metrics.items()},
    )  # fmt: skip


def _table(file: Path) -> dict[str, np.ndarray]:
    """Columns of a CSV by name; an empty cell is NaN, and so is what a text column holds."""
    if file.stat().st_size > CSV_BYTES:
        raise InputError(f"{file} has {file.stat().st_size:,} bytes; a run's measurements take at most {CSV_BYTES:,}.")
    try:
        text = file.read_bytes().decode("utf-8")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} is no table ({error}); {REMEDY}.") from None
    if not text.endswith("\n"):
        raise InputError(f"{file} ends in the middle of a line: it was cut off; {REMEDY}.")
    rows = [row for row in rows if row]
    if len(rows) < 2 or len(set(rows[0])) != len(rows[0]):
        raise InputError(f"{file} has no rows, or columns of equal names; {REMEDY}.")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(rows[0]):
            raise InputError(f"{file}, line {number}: {len(row)} cells under {len(rows[0])} names; {REMEDY}.")
    return {name: _column(file, name, [row[i] for row in rows[1:]]) for i, name in enumerate(rows[0])}


def _column(file: Path, name: str, cells: list[str]) -> np.ndarray:
    if name not in TIMES and not name.startswith(("validation/", "test/")):
        return np.array([])
    return np.array([_number(file, name, number, cell) for number, cell in enumerate(cells, 2)], float)


def _number(file: Path, name: str, line: int, cell: str) -> float:
    try:
        return float(cell) if cell.strip() else math.nan
    except ValueError:
        raise InputError(f"{file}, line {line}: {name} is {cell[:40]!r}, not a number; {REMEDY}.") from None
