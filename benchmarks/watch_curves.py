"""The held-out curves of `benchmarks/watch.py`: ladders of published runs, and simulated ones, with a larger target.

A target's ladder is every run of its family that is smaller. Curves of one family, and of one table's several losses,
are not independent: the result file counts families too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from windtunnel.forecasts.band import Past, final_loss
from windtunnel.laws.observations import Observations
from windtunnel.worlds.powerlaw import draw_power_law
from windtunnel.worlds.world import columns, deviations, flops_of, sizes_at, with_target

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "runs"
ROWS = 600  # a simulated log


@dataclass(frozen=True, eq=False)
class Case:
    """A target's curve, its final loss, and the finished smaller runs; `runs` are those and the target."""

    family: str
    name: str
    share: np.ndarray
    loss: np.ndarray
    final: float
    pasts: tuple[Past, ...]
    runs: Observations | None


@dataclass(frozen=True, eq=False)
class _Curve:
    name: str
    params: float
    tokens: np.ndarray
    loss: np.ndarray

    @property
    def share(self) -> np.ndarray:
        return self.tokens / self.tokens.max()


def published() -> Iterator[Case]:
    """Every run larger than two smaller sizes of its family, in five published tables."""
    for family, group in _families():
        sizes = sorted({curve.params for curve in group})
        for size in sizes[2:] if len(sizes) < 8 else sizes[-6:]:
            for target in (curve for curve in group if curve.params == size):
                yield _case(family, target, [curve for curve in group if curve.params < 0.9 * size])


def simulated(count: int, seed: int) -> Iterator[Case]:
    """Power-law worlds whose runs log a loss that falls with their tokens and gains by annealing at the end.

    Schedule (cosine, late decay, constant), gain (2 to 6 %), row noise (0.05 to 1 %) and a slow wander are drawn.
    """
    generator = np.random.default_rng(seed)
    for number in range(count):
        world = draw_power_law(generator, runs=8, design=str(generator.choice(["path", "grid"])))
        sizes, rung, _, _ = with_target(world.ladder)
        luck = deviations(world.noise, flops_of(sizes), rung, generator)
        kind, gain = str(generator.choice(["cosine", "late", "constant"])), generator.uniform(0.02, 0.06)
        rough = float(np.exp(generator.uniform(np.log(0.0005), np.log(0.01))))
        share, group = np.linspace(1 / ROWS, 1, ROWS), []
        for index, (params, tokens) in enumerate(zip(*columns(sizes), strict=True)):
            mean = np.log(world.law(sizes_at(np.full(ROWS, params), tokens * share)))
            wander = np.cumsum(generator.standard_normal(ROWS)) * rough / 4 / np.sqrt(ROWS)
            noise = rough * generator.standard_normal(ROWS) + wander - wander[-1]
            logs = mean - gain * (_annealed(kind, share) - 1) + luck[index] + noise
            group.append(_Curve(f"{number}.{index}", float(params), tokens * share, np.exp(logs)))
        if max(abs(np.log(c.loss[len(c.loss) // 20] / c.loss[-1])) for c in group) < 3:  # some laws fall absurdly
            yield _case(f"world {number} {kind}", group[-1], group[:-1])


def _annealed(kind: str, share: np.ndarray) -> np.ndarray:
    """Share of the annealing gain that is reached."""
    late = np.clip((share - 0.8) / 0.2, 0, 1)
    return {"cosine": (1 - np.cos(np.pi * share)) / 2, "late": late, "constant": np.ones_like(share)}[kind]


def _case(family: str, target: _Curve, ladder: list[_Curve]) -> Case:
    pasts = tuple(Past(c.share, c.loss, final_loss(c.share, c.loss), c.name) for c in ladder)
    group = [*ladder, target]
    finals = np.array([final_loss(c.share, c.loss) for c in group])
    runs = None
    if len({round(np.log(c.params), 2) for c in ladder}) >= 3:
        runs = Observations(
            loss=finals, params=np.array([c.params for c in group]), tokens=np.array([c.tokens.max() for c in group]),
            flops=np.array([6 * c.params * c.tokens.max() for c in group]),
            split=np.array(["fit"] * len(ladder) + ["predict"]), source=family,
        )  # fmt: skip
    return Case(family, target.name, target.share, target.loss, float(finals[-1]), pasts, runs)


def _families() -> Iterator[tuple[str, list[_Curve]]]:
    table = pd.read_csv(DATA / "olmo_ladder.csv.gz")
    table = table[~table.run.str.contains("peteish")]
    for loss in ("ce_c4_en", "ce_pile", "ce_dolma_stack"):
        for multiple, rows in table.groupby("chinchilla_mult"):
            yield f"olmo {loss} {multiple:g}", _curves(rows, "run", "n_params_nonembed", loss)
    table = pd.read_csv(DATA / "gemstones.csv.gz")
    for series in ("hot_trapezoid", "half_lr_ablation_hot"):
        yield f"gemstones {series}", _curves(table[table.series == series], "run", "n_params", "loss")
    table = pd.read_csv(DATA / "datablations_curves.csv.gz")
    for (data, epochs), rows in table.groupby(["dataset", "epochs"]):
        yield f"datablations {data} {epochs}", _curves(rows, "model", "n_params", "loss")
    table = pd.read_csv(DATA / "colpret_curves.csv.gz")
    parts = table.curve.str.extract(r"^(c4_original|rpj|rw_original)-d=(\d+)_l=(\d+)_h=\d+-([\d.]+)$")
    table = table.assign(
        data=parts[0], params=12 * parts[1].astype(float) ** 2 * parts[2].astype(float), times=parts[3]
    )
    for (data, times), rows in table.dropna(subset=["data"]).groupby(["data", "times"]):
        yield f"gadre {data} {times}", _curves(rows, "curve", "params", "loss")
    table = pd.read_csv(DATA / "misfitting.csv.gz")
    table = table.assign(run=table.sweep + table.model + table.peak_lr.astype(str) + table.total_steps.astype(str))
    length = table.groupby("run").tokens.transform("max") / table.n_params_no_embed
    table = table.assign(each=np.round(np.log2(length) * 2) / 2)
    for (rate, each), rows in table.groupby(["peak_lr", "each"]):
        yield f"misfitting {rate:g} {each:g}", _curves(rows, "run", "n_params_no_embed", "loss_c4")


def _curves(rows: pd.DataFrame, run: str, params: str, loss: str) -> list[_Curve]:
    found = []
    for name, part in rows.groupby(run):
        part = part.dropna(subset=[loss]).drop_duplicates("tokens", keep="last").sort_values("tokens")
        if len(part) >= 12:
            found.append(
                _Curve(str(name), float(part[params].iloc[0]), part.tokens.to_numpy(float), part[loss].to_numpy(float))
            )
    return found
