"""`windtunnel fit` on tables of every kind of wrong: an answer or one sentence, never a traceback or a hang.

A table is a good ladder with things done to it: rows left out, doubled, emptied; cells that are NaN, infinite,
negative, huge, words; columns renamed, missing, constant; byte order marks, other line ends, separators and encodings,
quotes, wrong bytes. One has a million rows.

    python -m benchmarks.any_table --cases 10000
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.cli import main as windtunnel

CELLS = ["nan", "NaN", "", "inf", "-inf", "-1", "0", "1e300", "1e-300", "1e999", "null", "None", "x", "1,5", "0x10",
         "1_000", "\uff11\uff12", "--", "TRUE", "2.5 nats", "\ufeff1", "1e", " 7 ", "'3'", "9" * 400]  # fmt: skip
HEADS = ["params", "tokens", "loss", "flops", "seed", "lr", "width", "steps", "series", "idea", "split", "Loss ",
         "PARAMS", "val/loss", "n", "", "loss", "1", "params.1", "unique_tokens", "batch_tokens", "outcome",
         "key"]  # fmt: skip
HANG_SECONDS = 10.0


def table(draw: random.Random) -> bytes:
    """One table: a ladder of some rungs, then up to four things done to it."""
    count = draw.choice([0, 1, 2, 3, 4, 5, 6, 8, 12, 40])
    params = np.geomspace(1e5, 10 ** draw.uniform(5.2, 9), count) if count else np.array([])
    losses = 1.7 + 400 / np.maximum(params, 1) ** 0.35 * np.exp(0.01 * np.array([draw.gauss(0, 1) for _ in params]))
    rows = [[f"{p:.6g}", f"{20 * p:.6g}", f"{loss:.5f}"] for p, loss in zip(params, losses, strict=True)]
    head = ["params", "tokens", "loss"]
    for _ in range(draw.randint(0, 4)):
        head, rows = _spoilt(head, rows, draw)
    return _written(head, rows, draw)


def _spoilt(head: list[str], rows: list[list[str]], draw: random.Random) -> tuple[list[str], list[list[str]]]:
    ways = [
        "cell",
        "cells",
        "column",
        "double",
        "constant",
        "head",
        "drop",
        "add",
        "short",
        "shuffle",
        "scale",
        "ragged",
    ]
    way = draw.choice(ways)
    column = draw.randrange(len(head)) if head else 0
    if way == "head":
        return [draw.choice(HEADS) if i == column else h for i, h in enumerate(head)], rows
    if way == "add":
        return [*head, draw.choice(HEADS)], [
            [*row, draw.choice([draw.choice(CELLS), str(draw.randint(0, 3))])] for row in rows
        ]
    if way == "drop" and len(head) > 1:
        return head[:column] + head[column + 1 :], [row[:column] + row[column + 1 :] for row in rows]
    if not rows:
        return head, rows
    at = draw.randrange(len(rows))
    if way == "cell" and column < len(rows[at]):
        rows[at] = [*rows[at][:column], draw.choice(CELLS), *rows[at][column + 1 :]]
    elif way == "cells":
        rows = [[draw.choice(CELLS) if draw.random() < 0.2 else cell for cell in row] for row in rows]
    elif way == "column":
        rows = [[draw.choice(CELLS) if i == column else cell for i, cell in enumerate(row)] for row in rows]
    elif way == "double":
        rows = rows + draw.sample(rows, draw.randint(1, len(rows)))
    elif way == "constant":
        rows = [
            [rows[0][column] if i == column and column < len(rows[0]) else c for i, c in enumerate(r)] for r in rows
        ]
    elif way == "short":
        rows = rows[:at]
    elif way == "shuffle":
        draw.shuffle(rows)
    elif way == "scale":
        factor = draw.choice(["e300", "e-300", "e12", "e-12"])
        rows = [
            [f"{cell}{factor}" if i == column and "e" not in cell else cell for i, cell in enumerate(r)] for r in rows
        ]
    elif way == "ragged":
        rows[at] = rows[at] + ["1"] if draw.random() < 0.5 else rows[at][:-1]
    return head, rows


def _written(head: list[str], rows: list[list[str]], draw: random.Random) -> bytes:
    comma = draw.choices([",", "\t", ";", " ", "|"], [20, 2, 1, 1, 1])[0]
    end = draw.choices(["\n", "\r\n", "\r", "\n\n"], [20, 4, 1, 1])[0]
    quote = '"' if draw.random() < 0.05 else ""
    text = end.join(comma.join(f"{quote}{cell}{quote}" for cell in row) for row in [head, *rows])
    data = (text + end * draw.randint(0, 2)).encode(
        draw.choices(["utf-8", "utf-8-sig", "utf-16", "latin-1"], [20, 3, 1, 1])[0], "replace"
    )
    if draw.random() < 0.03 and data:
        at = draw.randrange(len(data))
        data = data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]
    return data


def tried(data: bytes, folder: Path) -> tuple[str, str, float]:
    """What became of a table: answered, doubted (3), refused (2) or wrong, with what was said; and how long it took."""
    file, out, err, started = folder / "runs.csv", io.StringIO(), io.StringIO(), time.process_time()
    file.write_bytes(data)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = windtunnel(["fit", str(file), "--target", "params=1e10,tokens=2e11", "--json"])
    except BaseException as error:  # whatever it is, it is what this looks for
        return "wrong", repr(error), time.process_time() - started
    took = time.process_time() - started
    return (*_judged(code, out.getvalue(), err.getvalue()), took)


def _judged(code: int, out: str, err: str) -> tuple[str, str]:
    if code not in (0, 2, 3) or "Traceback" in err:
        return "wrong", f"code {code}: {err[-300:]}"
    if code == 2:
        sound = out == "" and err.startswith("windtunnel: ") and len(err.strip()) > 30
        return ("refused", err) if sound else ("wrong", f"refused without a sentence: {err!r}")
    return ("answered" if code == 0 else "doubted"), _unsound(json.loads(out))


def _unsound(answer: dict[str, Any]) -> str:
    return json.dumps(answer)[:200]


def million(folder: Path) -> dict[str, Any]:
    """A table of a million rows."""
    params = np.geomspace(1e5, 1e8, 1_000_000)
    noise = np.random.default_rng(0).standard_normal(len(params))
    losses = 1.7 + 400 / params**0.35 * np.exp(0.01 * noise)
    lines = [f"{p:.6g},{20 * p:.6g},{loss:.5f}" for p, loss in zip(params, losses, strict=True)]
    what, said, seconds = tried("\n".join(["params,tokens,loss", *lines]).encode(), folder)
    return {"what": what, "said": said[:200], "processor seconds": round(seconds, 1)}


def main() -> int:
    from benchmarks.common import write

    parser = argparse.ArgumentParser(description="windtunnel fit on any table")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many")
    args = parser.parse_args()
    draw, counts, wrong, slow, deadline = (
        random.Random(args.seed),
        dict[str, int](),
        [],
        [],
        time.monotonic() + 60 * args.minutes,
    )
    with tempfile.TemporaryDirectory() as name:
        while sum(counts.values()) < args.cases and time.monotonic() < deadline:
            data = table(draw)
            what, said, seconds = tried(data, Path(name))
            counts[what] = counts.get(what, 0) + 1
            wrong += [{"table": data[:600].decode("latin-1"), "said": said}] if what == "wrong" else []
            slow += [round(seconds, 1)] if seconds > HANG_SECONDS else []
        whole = million(Path(name))
    result = {"seed": args.seed, "cases": sum(counts.values()), **counts, "over 10 processor seconds": slow,
              "wrong ones": wrong[:20], "a million rows": whole}  # fmt: skip
    print(json.dumps(result, indent=1))
    write("any_table", result)
    return 1 if wrong or slow else 0


if __name__ == "__main__":
    sys.exit(main())
