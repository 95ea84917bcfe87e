"""Which mixture run to buy (B56): multi-fidelity against single-fidelity Bayesian optimisation, replayed on a grid.

    python -m benchmarks.mixtures STORE train     # once: every mixture of the grid at every width and seed
    python -m benchmarks.mixtures STORE replay    # the searches, on the stored runs

Three byte sources: English, German, Python. The target is the held-out text of all three in equal parts. Horizons rise
with width, as on a ladder. Bars: a mixture within 1 % of the best of the grid at half the cost of single-fidelity
search or less; 90 % intervals that cover at least 80 % of runs the search never saw.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import special

import windtunnel as wt
from benchmarks.common import write
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.probes import LossOn
from windtunnel.recipe import DataShape, Judge, Recipe
from windtunnel.runs import RunSpec
from windtunnel.searches import Bayes, MixtureMean, Space, Told
from windtunnel.train.loop import train
from windtunnel.train.pack import Pack

TEXTS = Path(os.environ.get("WINDTUNNEL_TEXTS", "../shared/data/text"))
SOURCES = ("english", "german", "code")
WIDTHS, SEEDS, PARTS = (16, 24, 32), (0, 1, 2), 6
TOKENS_PER_WIDTH, RATE = 1280, 2e-2
BUDGET, FIRST, REPEATS = 16.0, 6, 6  # budget in runs of the target
WITHIN = 0.01
MEAN = MixtureMean(weights=dict.fromkeys(SOURCES, 1 / 3))
GRID = [(i / PARTS, j / PARTS, 1 - (i + j) / PARTS) for i in range(PARTS + 1) for j in range(PARTS + 1 - i)]


def sources() -> list[Any]:
    """The three corpora, cut alike."""
    return [
        wt.data.text(str(TEXTS / "wikitext2_valid_test.en.txt"), context=32),
        wt.data.text(str(TEXTS / "multi30k_captions.de.txt"), context=32),
        wt.data.stdlib(context=32),
    ]


def rung(width: int) -> wt.Rung:
    """One fidelity: its width, and a horizon that rises with it."""
    return wt.Rung(width=width, depth=1, heads=width // 8, tokens=TOKENS_PER_WIDTH * width, batch=16)


@dataclass(frozen=True)
class BySeed:
    """All mixtures of the grid as one plan: a seed is 1000 times a mixture's place, and one of its own, so that runs of
    different mixtures fill one pack."""

    plans: tuple[Any, ...]
    repeat: bool = False

    def mixture(self, seed: int) -> Any:
        """The mixture of a seed."""
        return wt.data.mixed(*self.plans, weights=GRID[seed // 1000])

    def shape(self) -> DataShape:
        """As the plans', as long as the shortest."""
        return replace(self.plans[0].shape(), train_tokens=min(plan.shape().train_tokens for plan in self.plans))

    def fingerprint(self) -> str:
        """Of the plans and the grid."""
        return "by seed " + wt.data.mixed(*self.plans, weights=[1 / 3] * 3).fingerprint() + f" {PARTS}"

    def batch(self, *, seed: int, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """A step of the seed's own mixture."""
        return self.mixture(seed).batch(seed=seed % 1000, step=step, size=size)

    def held_out(self, *, size: int, tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Equal parts of all."""
        return wt.data.mixed(*self.plans, weights=[1 / 3] * 3).held_out(size=size, tokens=tokens)


def asked(plans: Sequence[Any], width: int) -> tuple[Recipe, Judge, list[list[RunSpec]]]:
    """The runs of every mixture at one width, a seed each."""
    data = BySeed(tuple(plans))
    recipe = wt.recipes.transformer_mup_adamw(data=data).but(batch=FixedBatch(examples=16))
    probes = tuple(LossOn(name=name, data=plan, tokens=4096) for name, plan in zip(SOURCES, plans, strict=True))
    judge = Judge(data=data, tokens=12_288, evaluations=1, probes=probes)
    described = recipe.describe()
    specs = [
        [
            RunSpec(recipe=described, rung=rung(width), hyperparameters={"lr": RATE}, seed=1000 * place + seed,
                    judge=judge.describe(), base_rung=rung(WIDTHS[0]))
            for seed in SEEDS
        ]
        for place in range(len(GRID))
    ]  # fmt: skip
    return recipe, judge, specs


def train_grid(store: wt.Store) -> None:
    """Train what the store misses, as packs of eight."""
    plans = sources()
    for width in WIDTHS:
        recipe, judge, specs = asked(plans, width)
        missing = [spec for row in specs for spec in row if spec.key not in store]
        for first in range(0, len(missing), 8):
            pack = Pack(recipe=recipe, specs=tuple(missing[first : first + 8]), judge=judge)
            for run in train(pack, device=torch.device("cpu")):
                store.add(run)
            print(width, len(missing) - first, flush=True)


def table(store: wt.Store) -> tuple[np.ndarray, list[float]]:
    """Losses (mixtures, widths, seeds, of all and of each source) and the FLOPs of a run at each width."""
    plans = sources()
    losses = np.full((len(GRID), len(WIDTHS), len(SEEDS), 1 + len(SOURCES)), np.nan)
    costs = [0.0] * len(WIDTHS)
    for j, width in enumerate(WIDTHS):
        for i, row in enumerate(asked(plans, width)[2]):
            for k, spec in enumerate(row):
                run = store.get(spec.key, later=True)
                losses[i, j, k] = [run.loss, *(run.metrics[f"loss_on_{name}"] for name in SOURCES)]
                costs[j] = run.cost.flops
    return losses, costs


def replayed(search: Bayes, losses: np.ndarray, seed: int, widths: Sequence[int]) -> list[dict[str, Any]]:
    """A search told from the grid: after every run, what was spent (in target runs) and how far its best is off."""
    truth = losses[:, -1, :, 0].mean(axis=1)
    places = {tuple(np.round(shares, 4)): i for i, shares in enumerate(GRID)}
    told: list[Told] = []
    steps: list[dict[str, Any]] = []
    while wanted := search.ask(told):
        for point in wanted:
            i = places[tuple(round(point.values[name], 4) for name in SOURCES)]
            whole, *parts = losses[i, widths[point.fidelity], seed % len(SEEDS)].tolist()
            told.append(Told(point, whole, dict(zip(SOURCES, parts, strict=True))))
            if len(told) < 3:
                continue
            best = places[tuple(round(search.best(told).values[name], 4) for name in SOURCES)]
            regret = float(truth[best] / truth.min() - 1)
            steps.append({"spent": search.spent(told) / search.costs[-1], "regret": regret})
    return [*steps, {"coverage": coverage(search, told, losses, seed, widths)}]


def coverage(
    search: Bayes, told: Sequence[Told], losses: np.ndarray, seed: int, widths: Sequence[int]
) -> list[float]:  # fmt: skip
    """At each fidelity, the share of unseen mixtures whose run lies in the surrogate's 90 % interval."""
    surrogate, rows = search.surrogate(told), search.space.rows([dict(zip(SOURCES, w, strict=True)) for w in GRID])
    seen = {(tuple(round(t.point.values[n], 4) for n in SOURCES), t.point.fidelity) for t in told}
    found = []
    for fidelity, width in enumerate(widths):
        unseen = [i for i, w in enumerate(GRID) if (tuple(np.round(w, 4)), fidelity) not in seen]
        mean, spread = surrogate.predict(rows[unseen], fidelity)
        off = np.abs(np.log(losses[unseen, width, seed % len(SEEDS), 0]) - mean)
        found.append(float(np.mean(off <= special.ndtri(0.95) * spread)))
    return found


def cost_to(steps: Sequence[dict[str, Any]], within: float) -> float:
    """What had been spent when the best was within this much, and stayed so; infinite if it was not at the end."""
    measured = [step for step in steps if "regret" in step]
    cost = float("inf")
    for step in reversed(measured):
        if step["regret"] > within:
            break
        cost = step["spent"]
    return cost


def main() -> None:
    """Train the grid or replay the searches on it."""
    store = wt.Store(sys.argv[1])
    if sys.argv[2] == "train":
        return train_grid(store)
    losses, costs = table(store)
    truth = losses[:, -1, :, 0].mean(axis=1)
    space = Space(shares=SOURCES)
    candidates: Any = tuple(dict(zip(SOURCES, shares, strict=True)) for shares in GRID)
    result: dict[str, Any] = {
        "grid": GRID, "widths": WIDTHS, "losses": losses.round(5).tolist(), "costs": costs,
        "best": GRID[int(truth.argmin())], "within": float(np.mean(truth <= truth.min() * (1 + WITHIN))),
    }  # fmt: skip
    arms: dict[str, dict[str, Any]] = {
        "single": {"costs": costs[-1:]}, "single, law as mean": {"costs": costs[-1:], "mean": MEAN},
        "multi": {"costs": costs}, "multi, law as mean": {"costs": costs, "mean": MEAN},
        "multi, law as mean, q=4": {"costs": costs, "mean": MEAN, "q": 4},
    }  # fmt: skip
    for name, options in arms.items():
        widths = range(len(WIDTHS))[-len(options["costs"]) :]
        runs = []
        for seed in range(REPEATS):
            search = Bayes(
                space=space, candidates=candidates, budget=BUDGET * costs[-1], first=FIRST, seed=seed,
                costs=tuple(options["costs"]), mean=options.get("mean"), q=options.get("q", 1),
            )  # fmt: skip
            runs.append(replayed(search, losses, seed, widths))
        spent = [cost_to(run, WITHIN) for run in runs]
        covered = np.array([run[-1]["coverage"] for run in runs])
        result[name] = {"cost_to_1_percent": spent, "coverage": covered.mean(axis=0).tolist(), "runs": runs}
        print(name, np.round(spent, 2), "median", np.median(spent), "covered", covered.mean(axis=0), flush=True)
    print(write("mixtures", result | {"repeats": REPEATS}))


if __name__ == "__main__":
    main()
