"""The ladder of benchmarks/peers.py: where a tool's best learning rate lies at every width, and what carrying it costs.

All tools see the same batches in the same order and are judged on the same held-out text. Each is searched by one rule:
three powers of two around the best of the width before, widened until the best has a neighbour on either side; the two
around the base's optimum are always tried. The basin is fitted to the best value and its two neighbours at every width:
a wider reach, being lopsided, would move the optimum where more values happened to be tried. For the same reason the
gap of the base's value is read off the tried losses and not off the parabola, which flatters values that are too high.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor
from torch.nn import functional as F

import windtunnel as wt
from benchmarks.peers_models import BASE, CONTEXT, Tool
from windtunnel.tune import Basin, Tried, basin, transfer

WIDTHS, BATCH, JUDGED = (32, 64, 128, 256), 16, 32_768  # tokens to judge by
REACH = 1.2  # octaves: the best value and its two neighbours
WIDENINGS = 8  # a search that moves further than this is reported as it stands


@dataclass(frozen=True)
class Plan:
    """How long and how often a value is tried; losses are kept in `file`, one JSON line each, and read again."""

    steps: int
    seeds: int
    file: Path
    widths: tuple[int, ...] = WIDTHS


def trained(tool: Tool, width: int, lr: float, seed: int, steps: int) -> float | None:
    """Held-out loss in nats a token after `steps` of AdamW with linear decay; None where it diverged."""
    data = wt.data.text(context=CONTEXT)
    model, beside = tool.made(width, seed)
    optimizer = tool.adamw(model, beside, lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for step in range(steps):
        tokens, targets = _tensors(data.batch(seed=seed, step=step, size=BATCH))
        optimizer.zero_grad()
        loss = tool.layers.loss(model(tokens).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        batches = [_tensors(each) for each in data.held_out(size=64, tokens=JUDGED)]
        total = sum(float(F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum")) for x, y in batches)
    judged = total / sum(y.numel() for _, y in batches)
    return judged if math.isfinite(judged) else None


def losses(tool: Tool, width: int, places: Iterable[int], plan: Plan) -> list[Tried]:
    """What was tried at a width, for places in log2 of the learning rate."""
    known = {tuple(row[:5]): row[5] for row in map(json.loads, _lines(plan.file))}
    found = []
    for place in sorted(places):
        for seed in range(plan.seeds):
            key = (tool.name, width, place, seed, plan.steps)
            if key not in known:
                known[key] = trained(tool, width, 2.0**place, seed, plan.steps)
                with plan.file.open("a") as out:
                    out.write(json.dumps([*key, known[key]]) + "\n")
            found.append(Tried(2.0**place, seed, known[key]))
    return found


def searched(tool: Tool, width: int, start: int, also: set[int], plan: Plan) -> list[Tried]:
    """The values around the best, beginning around `start`; those of `also` are tried in any case."""
    places = {start - 1, start, start + 1} | also
    for _ in range(WIDENINGS):
        tried = losses(tool, width, places, plan)
        best = best_place(tried)
        wanted = {best - 1, best, best + 1}
        if wanted <= places:
            break
        places |= wanted
    return losses(tool, width, places, plan)


def best_place(tried: list[Tried]) -> int:
    """log2 of the value of the lowest mean loss; a diverged run counts as the worst."""
    means = {t.value: np.mean([math.inf if s.loss is None else s.loss for s in tried if s.value == t.value])
             for t in tried}  # fmt: skip
    return round(math.log2(min(means, key=lambda value: means[value])))


def climbed(tool: Tool, plan: Plan) -> list[dict[str, Any]]:
    """Print and return what every width found, compared with the base width."""
    rows, start, also, base = [], tool.start, set[int](), None
    for width in plan.widths:
        tried = searched(tool, width, start, also, plan)
        start, there = best_place(tried), basin("lr", tried, reach=REACH)
        base = base or there
        used = math.log2(base.optimum.median)
        also = {math.floor(used), math.ceil(used)}
        rows.append(_row(tool, width, base, there))
        print(f"{tool.name:<13} {told(rows[-1])}", flush=True)
    return rows


def gaps(tried: tuple[Tried, ...], used: float) -> list[float | None]:
    """Loss at the place `used` over the lowest tried, minus one, for every seed; between tried places interpolated
    without overshoot, None beyond them or where a neighbour diverged."""
    found = []
    for seed in sorted({t.seed for t in tried}):
        there = sorted((math.log2(t.value), t.loss) for t in tried if t.seed == seed and t.loss is not None)
        places, values = (np.array(column) for column in zip(*there, strict=True))
        inside = places[0] <= used <= places[-1]
        found.append(float(PchipInterpolator(places, values)(used) / values.min() - 1) if inside else None)
    return found


def _row(tool: Tool, width: int, base: Basin, there: Basin) -> dict[str, Any]:
    moved = transfer(base, there, from_width=BASE, to_width=width)
    best = [math.log2(v) for v in (there.optimum.median, there.optimum.low, there.optimum.high)]
    return {
        "tool": tool.name, "width": width, "log2_lr": best, "at_edge": there.at_edge, "loss": there.parabola[0],
        "drift_log2": moved.moved.to_json(), "cost": moved.cost.to_json(),
        "gap_by_seed": gaps(there.tried, math.log2(base.optimum.median)),
        "tried": [[math.log2(t.value), t.seed, t.loss] for t in there.tried],
    }  # fmt: skip


def told(row: dict[str, Any]) -> str:
    """One line of a row."""
    best, drift, cost = row["log2_lr"], row["drift_log2"], row["cost"]
    by_seed = ", ".join("-" if gap is None else f"{100 * gap:.2f}" for gap in row["gap_by_seed"])
    return (
        f"width {row['width']:>4}: best log2 lr {best[0]:+.2f} [{best[1]:+.2f}, {best[2]:+.2f}], "
        f"loss {row['loss']:.3f}, drift {drift['median']:+.2f} [{drift['low']:+.2f}, {drift['high']:+.2f}], the base's "
        f"value costs {100 * cost['median']:.2f} % [{100 * cost['low']:.2f}, {100 * cost['high']:.2f}] by the "
        f"parabola, by seed {by_seed} %"
    )


def _tensors(pair: Any) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(pair[0]), torch.from_numpy(pair[1])


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []
