"""Which mixture run to buy (B56): multi-fidelity against single-fidelity Bayesian optimisation, replayed on a grid.

    python -m benchmarks.mixtures STORE train     # once: every mixture of the grid at every width and seed
    python -m benchmarks.mixtures STORE replay    # the searches, on the stored runs
    python -m benchmarks.mixtures STORE replay averaged    # the same, told the mean of three seeds at every point

Three byte sources: English, German, Python. The target is the held-out text of all three in equal parts. Horizons rise
with width, as on a ladder. Bars: a mixture within 1 % of the best of the grid at half the cost of single-fidelity
search or less; 90 % intervals that cover at least 80 % of runs the search never saw.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import special

import windtunnel as wt
from benchmarks.common import write
from benchmarks.mixtures_data import BySeed
from windtunnel import searches
from windtunnel.launch.one import execute
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.probes import LossOn
from windtunnel.recipe import Judge, Recipe
from windtunnel.runs import RunSpec
from windtunnel.searches import Bayes, MixtureMean, Point, Space, Told
from windtunnel.train.pack import Pack

TEXTS = Path(os.environ.get("WINDTUNNEL_TEXTS", "../shared/data/text"))
SOURCES = ("english", "german", "code")
WIDTHS, SEEDS, PARTS = (32, 64, 128), (0, 1, 2), 6
TOKENS_PER_WIDTH, RATE = 1280, 1e-2
BUDGET, FIRST, REPEATS = 10.0, 6, 12  # budget of single-fidelity search in runs of the target; half for the other
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


def asked(plans: Sequence[Any], width: int) -> tuple[Recipe, Judge, list[list[RunSpec]]]:
    """The runs of every mixture at one width, a seed each."""
    data = BySeed(tuple(plans), tuple(GRID), PARTS)
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
            execute(pack, store, device=torch.device("cpu"))
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


def replayed(
    search: Bayes, losses: np.ndarray, seed: int, widths: Sequence[int], known: dict[str, Any], keep: Any
) -> list[dict[str, Any]]:  # fmt: skip
    """A search told from the grid: after every run, what was spent (in target runs) and how far its best is off.

    What it has been told is kept: a search is a function of that alone, and goes on from there.
    """
    truth = losses[:, -1, :, 0].mean(axis=1)
    places = {tuple(np.round(shares, 4)): i for i, shares in enumerate(GRID)}

    def at(point: Point) -> int:
        return places[tuple(round(point.values[name], 4) for name in SOURCES)]

    def heard(place: int, fidelity: int, again: int) -> Told:
        """A point that is bought again has the next seed."""
        assert again < len(SEEDS)
        whole, *parts = losses[place, widths[fidelity], (seed + again) % len(SEEDS)].tolist()
        named: dict[str, float] = dict(zip(SOURCES, parts, strict=True))
        return Told(Point(dict(zip(SOURCES, GRID[place], strict=True)), fidelity), whole, named)

    asked, steps = known.setdefault("asked", []), known.setdefault("steps", [])
    told = [heard(i, f, asked[:n].count([i, f])) for n, (i, f) in enumerate(asked)]
    while wanted := search.ask(told):
        for point in wanted:
            place = at(point)
            told.append(heard(place, point.fidelity, asked.count([place, point.fidelity])))
            asked.append([place, point.fidelity])
        if len(told) >= FIRST // 2:
            regret = float(truth[at(search.best(told))] / truth.min() - 1)
            steps.append({"spent": search.spent(told) / search.costs[-1], "regret": regret})
        keep()
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


def of_code() -> str:
    """Names what a search depends on besides its runs: its code and this script's."""
    files = [Path(__file__), *sorted(Path(searches.__file__).parent.glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def main() -> None:
    """Train the grid or replay the searches on it."""
    store = wt.Store(sys.argv[1])
    if sys.argv[2] == "train":
        return train_grid(store)
    losses, costs = table(store)
    truth = losses[:, -1, :, 0].mean(axis=1)
    averaged = sys.argv[3:] == ["averaged"]
    if averaged:  # what is told of a point is the mean of its seeds, which fill a pack: a third of the noise's square
        losses = np.repeat(losses.mean(axis=2, keepdims=True), len(SEEDS), axis=2)
    space = Space(shares=SOURCES)
    candidates: Any = tuple(dict(zip(SOURCES, shares, strict=True)) for shares in GRID)
    result: dict[str, Any] = {
        "grid": GRID, "widths": WIDTHS, "losses": losses.round(5).tolist(), "costs": costs,
        "best": GRID[int(truth.argmin())], "within": float(np.mean(truth <= truth.min() * (1 + WITHIN))),
    }  # fmt: skip
    arms: dict[str, dict[str, Any]] = {
        "single": {"costs": costs[-1:]}, "single, law as mean": {"costs": costs[-1:], "mean": MEAN},
        "multi": {"costs": costs}, "multi, law as mean": {"costs": costs, "mean": MEAN},
    }  # fmt: skip
    done = Path(f"{sys.argv[1]}-replay{'-averaged' if averaged else ''}-{of_code()}.json")  # goes on where it stopped
    known: dict[str, Any] = json.loads(done.read_text()) if done.exists() else {}

    def keep() -> None:
        done.write_text(json.dumps(known))

    for seed, (name, options) in product(range(REPEATS), arms.items()):
        here = known.setdefault(f"{name} {seed}", {})
        if "found" not in here:
            widths = range(len(WIDTHS))[-len(options["costs"]) :]
            search = Bayes(
                space=space, candidates=candidates, repeats=1 if averaged else len(SEEDS), first=FIRST, seed=seed,
                costs=tuple(options["costs"]), mean=options.get("mean"),
                budget=BUDGET * costs[-1] / (1 if len(options["costs"]) == 1 else 2),
            )  # fmt: skip
            here["found"] = replayed(search, losses, seed, widths, here, keep)
            keep()
            print(name, seed, cost_to(here["found"], WITHIN), here["found"][-1], flush=True)
    for name in arms:
        runs = [known[f"{name} {seed}"]["found"] for seed in range(REPEATS)]
        spent = [cost_to(run, WITHIN) for run in runs]
        covered = np.array([run[-1]["coverage"] for run in runs])
        result[name] = {"cost_to_1_percent": spent, "coverage": covered.mean(axis=0).tolist(), "runs": runs}
        print(name, np.round(spent, 2), "median", np.median(spent), "covered", covered.mean(axis=0), flush=True)
    print(write("mixtures_averaged" if averaged else "mixtures", result | {"repeats": REPEATS}))


if __name__ == "__main__":
    main()
