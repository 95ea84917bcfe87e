"""Coordinate slopes of every stock optimizer on every kind of model, widths 64 to 1024, as one matrix.

    python -m benchmarks.coordinates                # goes on where it stopped, in --kept FILE

For each cell and each module but the readout: the slope, over log width, of the log of its mean |output| after a few
steps on one batch ("size"), and of its mean |change of that output since the start| ("move"). A size can be flat
because nothing is learnt, so moves stand beside it. The rate is set beforehand, at the base: the smallest power of two
that goes half as far down on that batch, in those steps, as the best one (other seeds); the best itself learns one
batch by heart, and seeds then scatter too much to tell a slope. A newcomer would choose rates, steps or modules by
the slopes. A router's few outputs are no more hidden activations than a readout's are: they start small and grow, so
theirs are listed apart.

A seed has one batch at all widths, so every width has the same seeds and each seed has its own slope: what a batch does
to all widths is no scatter. Experts of one block are alike but for chance, so their modules are averaged.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import special
from torch import Tensor
from torch.func import functional_call

import windtunnel as wt
from benchmarks.common import write
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.models import CNN, GELU, MLP, Experts, SwiGLU, Transformer
from windtunnel.parts.optimizers import LAMB, SGD, AdamW, Lion, Muon, Shampoo
from windtunnel.recipe import Recipe, Tuned
from windtunnel.scaling.checks.listen import outputs_of
from windtunnel.scaling.rules import MuP, Standard
from windtunnel.scaling.sites import reading_modules
from windtunnel.train.data import pack_batch
from windtunnel.train.pack import build_model, groups_of, initial_params, stacked_hyperparameters, table_of
from windtunnel.train.steps import first_states, gradient, update

WIDTHS, SEEDS = (64, 128, 256, 512, 1024), 8
TIMES = {"experts": 4, "CNN": 3, "MLP": 8}  # so many times the seeds: these scatter more, and an MLP costs little
CONTRAST = (64, 128, 256), 4  # the standard parametrization needs no more to fail
FIRST_SEED = 1000  # lower ones were seen before the numbers of seeds were chosen
DEPTH, STEPS, HEAD_WIDTH, CONTEXT = 2, 3, 16, 32
BAR, LEVEL = 0.05, 0.9
SEARCH_SEEDS = (100, 101)
CPU = torch.device("cpu")

MODELS: dict[str, tuple[Any, int]] = {  # model part, examples in the batch
    "decoder": (Transformer(mlp=GELU), 8),
    "tied": (Transformer(mlp=GELU, tied=True), 8),
    "grouped": (Transformer(mlp=GELU, kv_groups=2), 8),
    "gated": (Transformer(mlp=SwiGLU), 8),
    "experts": (Transformer(mlp=Experts(count=4, active=2, share=0.5)), 8),
    "CNN": (CNN(), 16),
    "MLP": (MLP(), 32),
}
OPTIMIZERS: dict[str, Any] = {
    "AdamW": AdamW(), "SGD": SGD(), "Lion": Lion(), "LAMB": LAMB(), "Muon": Muon(), "Shampoo": Shampoo(),
}  # fmt: skip
RULES: dict[str, Any] = {"muP": MuP(), "standard": Standard()}  # standard: one rate for all tensors
Plan = tuple[Sequence[int], int]  # widths, and seeds at each


def main(
    kept: Path,
    plans: Mapping[str, Plan],
    models: Sequence[str] = tuple(MODELS),
    optimizers: Sequence[str] = tuple(OPTIMIZERS),
    measure: bool = True,
) -> dict[str, Any]:
    """Measure what is missing in `kept` (or go by what is there), print the matrix, and return all slopes."""
    torch.set_num_threads(1)
    found = Kept(kept)
    base = min(min(widths) for widths, _ in plans.values())
    rates = {(o, m): rate(o, m, found, base) for o in optimizers for m in models}
    for width, seed, rule, o, m in _runs(plans, models, optimizers) if measure else ():
        found.get(f"{rule} {o} {m} {width} {seed}", measured, recipe_of(o, m, rates[o, m], rule), width, base, seed)
    cells = {}
    for rule, (widths, seeds) in plans.items():
        for o, m in rates:
            keys = [{w: f"{rule} {o} {m} {w} {seed}" for w in widths} for seed in seeds_of(m, seeds)]
            whole = [at for at in keys if all(key in found.values for key in at.values())]
            runs = {w: [found.values[at[w]] for at in whole] for w in widths}
            cells[f"{rule} {o} {m}"] = {"rates": rates[o, m]} | slopes_of(runs)
    print(*matrix(cells, plans, models, optimizers), sep="\n")
    setting = {"depth": DEPTH, "steps": STEPS, "widths and seeds": plans, "times the seeds": TIMES}
    setting |= {"first seed": FIRST_SEED, "bar": BAR, "level": LEVEL}
    return {"setting": setting, "cpu_seconds": round(sum(found.seconds.values())), "cells": cells}


def _runs(plans: Mapping[str, Plan], models: Sequence[str], optimizers: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Width, seed, rule, optimizer and model of every run: muP first, one seed of every cell, then further seeds."""
    for rule, (widths, seeds) in plans.items():
        for seed in range(FIRST_SEED, FIRST_SEED + max(TIMES.values()) * seeds):
            cells = [(o, m) for o in optimizers for m in models if seed in seeds_of(m, seeds)]
            yield from ((width, seed, rule, o, m) for width in widths for o, m in cells)


def seeds_of(model: str, planned: int) -> range:
    """Seeds of a model where so many are planned."""
    return range(FIRST_SEED, FIRST_SEED + planned * TIMES.get(model, 1))


class Kept:
    """Values by key in a file of lines (key, CPU seconds, value): what was measured is not measured again."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.values: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        for line in file.read_text().splitlines() if file.exists() else ():
            key, seconds, value = json.loads(line)
            self.values[key], self.seconds[key] = value, seconds

    def get(self, key: str, measure: Any, *args: Any) -> Any:
        """The value, measured if it is new."""
        if key not in self.values:
            begin = time.process_time()
            self.values[key] = measure(*args)
            self.seconds[key] = round(time.process_time() - begin, 2)
            with self.file.open("a") as file:
                file.write(json.dumps([key, self.seconds[key], self.values[key]]) + "\n")
        return self.values[key]


def recipe_of(optimizer: str, model: str, rates: Mapping[str, float], rule: str) -> Recipe:
    """The cell's recipe; text of the standard library for decoders, digits for the others."""
    part, examples = MODELS[model]
    data = wt.data.stdlib(context=CONTEXT) if isinstance(part, Transformer) else wt.data.digits()
    base = wt.recipes.transformer_mup_adamw(data=data)
    filled = replace(OPTIMIZERS[optimizer], **rates)
    return base.but(model=part, optimizer=filled, parametrization=RULES[rule], batch=FixedBatch(examples=examples))


def rate(optimizer: str, model: str, found: Kept, width: int) -> dict[str, float]:
    """The smallest power of two within the tuned range that goes half of the best one's way down, mean of two seeds.

    Tensors that an optimizer hands to AdamW take AdamW's own such rate for the model.
    """
    part = OPTIMIZERS[optimizer]
    others = {"others_lr": rate("AdamW", model, found, width)["lr"]} if hasattr(part, "others_lr") else {}
    tuned: Tuned = part.lr
    powers = range(math.ceil(math.log2(tuned.low)), math.floor(math.log2(tuned.high)) + 1)

    def falls() -> dict[str, float]:
        recipes = {str(p): recipe_of(optimizer, model, {"lr": 2.0**p} | others, "muP") for p in powers}
        return {
            power: statistics.mean(_fall(recipe, width, seed) for seed in SEARCH_SEEDS)
            for power, recipe in recipes.items()
        }

    fell = found.get(f"rate {optimizer} {model} {width}", falls)
    return {"lr": 2.0 ** min(int(power) for power, fall in fell.items() if fall >= max(fell.values()) / 2)} | others


def _fall(recipe: Recipe, width: int, seed: int) -> float:
    before, after = measured(recipe, width, width, seed)["loss"]
    return before - after if math.isfinite(after) else -1e9


def measured(recipe: Recipe, width: int, base: int, seed: int) -> dict[str, Any]:
    """Train on one batch for the steps; by hidden module (mean |output| before, after, mean |change|), and losses."""
    rung, there = (wt.Rung(width=w, depth=DEPTH, heads=max(1, w // HEAD_WIDTH), tokens=1) for w in (width, base))
    model, table = build_model(recipe, rung), table_of(recipe, rung, there)
    table.attach(model)
    groups = groups_of(table)
    params = initial_params(groups, [seed], CPU)
    states = first_states(groups, recipe.optimizer, params, packed=False)
    grads_of = gradient(model, groups, recipe.objective, packed=False)
    stepped = update(groups, recipe.optimizer, packed=False)
    hps = stacked_hyperparameters(groups, [recipe.optimizer], CPU)
    inputs, targets = pack_batch(recipe.data, [seed], 0, recipe.batch(rung, recipe.data.shape()), CPU)
    result, before = outputs(model, groups, params, inputs[0])
    losses = [float(recipe.objective(result, targets[0]).mean())]
    for _ in range(STEPS):
        params, states = stepped(params, grads_of(params, inputs, targets)[0], states, hps)
    result, after = outputs(model, groups, params, inputs[0])
    losses.append(float(recipe.objective(result, targets[0]).mean()))
    routers, reading = reading_modules(model, table.sites, ("router",)), reading_modules(model, table.sites)
    seen = {n: [_mean(before[n]), _mean(after[n]), _mean(after[n] - before[n])] for n in before}
    hidden = {n: at for n, at in seen.items() if n not in reading}
    return {"loss": losses, "seen": hidden} | ({"routers": {n: seen[n] for n in routers}} if routers else {})


def _mean(values: Tensor) -> float:
    return float(f"{float(values.abs().mean()):.5g}")


def outputs(model: torch.nn.Module, groups: Any, params: Sequence[Tensor], inputs: Tensor) -> tuple[Tensor, Any]:
    """The model's output, and every module's by name."""
    named = {n: t for g, stack in zip(groups, params, strict=True) for n, t in zip(g.names, stack[0], strict=True)}
    with torch.no_grad(), outputs_of(model) as seen:
        result = functional_call(model, named, (inputs,))
    return result, {name: each[-1] for name, each in seen.items()}


def slopes_of(runs: Mapping[int, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Slope and interval of each module's size at the start, size and move; the worst module and the median."""
    found: dict[str, Any] = {"seeds": len(next(iter(runs.values())))}
    found |= {"losses": {w: [round(run["loss"][-1], 3) for run in at] for w, at in runs.items()}}
    for index, quantity in enumerate(("start", "size", "move")):
        fits = _fits(runs, "seen", index)
        worst = max(fits, key=lambda name: abs(fits[name][0]))
        median = round(statistics.median(abs(value) for value, _ in fits.values()), 3)
        found[quantity] = {"worst": worst, "median": median, "modules": fits}
        if all("routers" in run for at in runs.values() for run in at):
            found[quantity]["routers"] = _fits(runs, "routers", index)
    return found


def _fits(runs: Mapping[int, Sequence[Mapping[str, Any]]], which: str, index: int) -> dict[str, list[float]]:
    logs = {w: [_logs(run[which]) for run in at] for w, at in runs.items()}
    names = next(iter(logs.values()))[0]
    fits = {n: slope({w: [run[n][index] for run in at] for w, at in logs.items()}) for n in names}
    return {n: [round(x, 3) for x in fit] for n, fit in fits.items() if all(map(math.isfinite, fit))}


def _logs(seen: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
    """Logarithms by module, those of one block's experts averaged."""
    pooled: dict[str, list[Any]] = {}
    for name, values in seen.items():
        pooled.setdefault(re.sub(r"experts\.\d+", "experts.*", name), []).append(values)
    with np.errstate(divide="ignore"):
        return {name: np.log(np.mean(values, axis=0)) for name, values in pooled.items()}


def slope(logs: Mapping[int, Sequence[float]]) -> tuple[float, float]:
    """Mean over seeds of the least-squares slope over log width, and half its interval by Student's t."""
    x = np.log(list(logs))
    weights = (x - x.mean()) / ((x - x.mean()) @ (x - x.mean()))
    slopes = weights @ np.array(list(logs.values()))
    half = special.stdtrit(len(slopes) - 1, 0.5 + LEVEL / 2) * np.std(slopes, ddof=1) / math.sqrt(len(slopes))
    return float(np.mean(slopes)), float(half)


def matrix(
    cells: Mapping[str, Any], rules: Sequence[str] | Mapping[str, Any], models: Sequence[str], optimizers: Sequence[str]
) -> list[str]:
    """A row an optimizer, a column a model: worst module's slope ± half its interval, median module's |slope|."""
    lines = []
    for quantity, means in (("size", "mean |output| after the steps"), ("move", "mean |change| since the start")):
        for rule in rules:
            lines += ["", f"{rule}, slope of {means}: worst hidden module ± half its interval | median of |slope|"]
            lines += [" " * 8 + "".join(f"{model:>21}" for model in models)]
            for o in optimizers:
                shown = (_shown(cells[f"{rule} {o} {m}"][quantity]) for m in models)
                lines += [f"{o:<8}" + "".join(f"{each:>21}" for each in shown)]
    return lines


def _shown(found: Mapping[str, Any]) -> str:
    value, half = found["modules"][found["worst"]]
    return f"{value:+.2f} ± {half:.2f} | {found['median']:.2f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kept", type=Path, default=Path(tempfile.gettempdir()) / "windtunnel-coordinates.jsonl")
    parser.add_argument("--print", action="store_true", help="measure nothing, go by what is there")
    chosen = parser.parse_args()
    planned = {"muP": (WIDTHS, SEEDS), "standard": CONTRAST}
    write("coordinates", main(chosen.kept, planned, measure=not chosen.print))
