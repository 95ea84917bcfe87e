"""Where learned optimizers hold: width x depth x horizon x task, foretold by windtunnel and scored.

The cells are studies (studies/learned/generalisation.py): every rule is trained on widths 16 to 64, the loss at the
target's width and the verdict of each learned rule against the best rival are written down, then the target is trained.
Learned rules were meta-trained on digits at width 32, two hidden layers (benchmarks/learned_quality.py makes them).
Two accounts of what tuning costs: rivals `at home` were searched there over four numbers each, with as many inner steps
as one meta-training took, and go everywhere with what was found, as the learned rules do; rivals `here` are tuned at
each cell's own base, which the learned rules, whose training is paid for, are spared; but Celo2's rate is its user's,
so `celo2_here` is tuned as they are. `search`, then `run`, then `told`; each goes on where it stopped.

A newcomer would look at the loss alone. There are two, each with forecasts and verdicts: the judge's, on held-out
examples, and the mean training loss, for which the rules were meta-trained and searched.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import windtunnel as wt
from benchmarks.common import interval, write
from benchmarks.learned_quality import SHORTER, meta_trained
from studies.learned import generalisation as asked
from windtunnel.forecasts import Forecast, Verdict, compare, fit, score
from windtunnel.launch.here import Here
from windtunnel.laws.observations import Observations
from windtunnel.parts.learned.weights import Weights
from windtunnel.parts.optimizers import AdamW, Muon
from windtunnel.recipe import Judge, Tuned
from windtunnel.runs import Run, RunSpec
from windtunnel.searches.space import Space
from windtunnel.study.answer import Result
from windtunnel.study.stages import Stages
from windtunnel.train.loop import train
from windtunnel.train.pack import Pack

FOLDER = Path(os.environ.get("WINDTUNNEL_GENERALISATION", "runs/generalisation"))
HOME_DEPTH, HOME_STEPS, META_STEPS = 2, 200, 800_000  # META_STEPS: inner steps of one meta-training
# Settings and seeds of each round of a search: all, then the best of them with seeds of their own. 4,000 runs in all.
ROUNDS = ((2976, 1), (64, 8), (8, 64))
MEMBERS = 62
RATE, FORGET, SLOWLY, DECAY = Tuned(2**-10, 1.0), Tuned(0.01, 0.5), Tuned(5e-4, 0.3), Tuned(1e-4, 1.0)
SEARCHED = {
    "adamw_at_home": {"lr": RATE, "1 - beta1": FORGET, "1 - beta2": SLOWLY, "weight_decay": DECAY},
    "muadam_at_home": {"lr": RATE, "1 - beta1": FORGET, "1 - beta2": SLOWLY, "weight_decay": DECAY},
    "muon_at_home": {"lr": RATE, "others_lr": RATE, "1 - momentum": FORGET, "weight_decay": DECAY},
}
LEARNED = {  # arms of benchmarks/learned_quality.py and their seeds
    "mulo": ("mup", 0),
    "mulo_cosine": ("mup cosine", 0),
    "mulo_validation": ("mup cosine validation", 0),
    "celo2": ("celo2 cosine", 0),  # at the rate of its meta-training
    "celo2_here": ("celo2 cosine", 0),  # at a rate tuned in every cell, as rivals' are: it is the user's
    "no_width_rule": ("standard", 0),
}
HERE = {"base": asked.ADAMW, "muadam_here": asked.MUADAM, "muon_here": asked.MUON}  # base: AdamW tuned here
RIVALS = (*HERE, *SEARCHED)
METRICS = ("held-out", "training")
LEVELS = (0.8, 0.95)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A task, a depth and a number of steps."""

    task: str
    depth: int
    steps: int

    def __str__(self) -> str:
        return f"{self.task} depth {self.depth} {self.steps} steps"


CELLS = (
    Cell(task="digits", depth=2, steps=200),
    Cell(task="photographs", depth=2, steps=200),
    Cell(task="text", depth=2, steps=100),
    Cell(task="digits", depth=4, steps=200),
    Cell(task="digits", depth=2, steps=1000),
)


def task_of(cell: Cell) -> asked.Task:
    """The cell's model and data."""
    if cell.task == "photographs":
        return asked.photographs(FOLDER)
    return {"digits": asked.digits, "text": asked.text}[cell.task]()


# the search at home


def named(point: Mapping[str, float]) -> dict[str, float]:
    """A point of a search as values of the part's fields."""
    return {n.removeprefix("1 - "): 1 - value if n.startswith("1 - ") else value for n, value in point.items()}


def rule(name: str, values: Mapping[str, Any]) -> asked.Rule:
    """A searched rival with these values, or with open fields."""
    part: Any = Muon if name.startswith("muon") else AdamW
    parametrization = asked.PLAIN if name.startswith("adamw") else asked.MUP
    return asked.Rule(optimizer=part(**values), parametrization=parametrization)


def mean_losses(name: str, points: Sequence[Mapping[str, float]], seeds: Sequence[int]) -> list[float]:
    """At home, the mean training loss of each point over its seeds; infinite where one diverged."""
    task = asked.digits()
    recipe = asked.recipe(task, rule(name, dict.fromkeys(named(points[0]), Tuned(1e-6, 2.0))))
    judge = Judge(data=task.data, tokens=1, evaluations=1)  # the judge has no say here
    rungs = [asked.rung(task, width, HOME_DEPTH, HOME_STEPS) for width in (asked.HOME, 2 * asked.HOME)]
    described = {
        "recipe": recipe.describe(), "rung": rungs[0], "judge": judge.describe(), "base_rung": rungs[1],
    }  # fmt: skip
    specs = [RunSpec(**described, hyperparameters=named(p), seed=seed) for p in points for seed in seeds]
    losses: list[float] = []
    for start in range(0, len(specs), MEMBERS):
        some = tuple(specs[start : start + MEMBERS])
        runs = train(Pack(recipe=recipe, specs=some, judge=judge, labels=({},) * len(some)), device=torch.device("cpu"))
        losses += [mean_training(run) for run in runs]
    return [float(np.mean(losses[i : i + len(seeds)])) for i in range(0, len(losses), len(seeds))]


def searched(name: str) -> dict[str, Any]:
    """What a rival's search at home found, and all it tried, round by round; kept after every round."""
    place = FOLDER / f"search-{name}.json"
    rounds: list[list[Any]] = json.loads(place.read_text()) if place.exists() else []
    space = Space(ranges=SEARCHED[name])
    for number in range(len(rounds), len(ROUNDS)):
        count, seeds = ROUNDS[number]
        before = sorted(rounds[-1], key=lambda each: each[1])[:count] if rounds else []
        points = [p for p, _ in before] if rounds else space.points(space.spread(count, seed=0))
        first = 10_000 * (number + 1)  # seeds of its own, or the lucky would be taken for the good
        losses = mean_losses(name, points, range(first, first + seeds))
        rounds.append([list(each) for each in zip(points, losses, strict=True)])
        place.write_text(json.dumps(rounds))
        print(name, "round", number, min(losses), flush=True)
    best, loss = min(rounds[-1], key=lambda each: each[1])
    return {"values": named(best), "loss": loss, "runs": sum(c * s for c, s in ROUNDS), "settings": ROUNDS[0][0]}


# the studies


def rules() -> dict[str, asked.Rule]:
    """Everything but the base, in the order of the tables: rivals, then learned rules."""
    at_home = {name: rule(name, searched(name)["values"]) for name in SEARCHED}
    learned = {name: asked.Rule.learned(weights_of(name)) for name in LEARNED}
    free = learned["celo2_here"]
    learned["celo2_here"] = replace(free, optimizer=replace(free.optimizer, lr=Tuned(2**-10, 2**-4)))
    return {n: r for n, r in HERE.items() if n != "base"} | at_home | learned


def weights_of(name: str) -> Weights:
    """A learned rule's weights, from their file or trained now."""
    return meta_trained(*LEARNED[name], SHORTER)


def study_of(cell: Cell) -> wt.Study:
    """The cell's question."""
    return asked.question(
        str(cell), task_of(cell), depth=cell.depth, steps=cell.steps, base=HERE["base"], rules=rules()
    )  # fmt: skip


def mean_training(run: Run) -> float:
    """Mean training loss over a run, infinite where it diverged."""
    losses = np.asarray(run.curve["train_loss"], dtype=float)
    return float(losses.mean()) if run.finished and np.isfinite(losses).all() else float("inf")


def observed(runs: Sequence[Run], metric: str) -> Observations:
    """Finished runs as observations of a metric."""
    finished = [run for run in runs if run.finished]
    found = Observations.from_runs(finished)
    return found if metric == METRICS[0] else replace(found, loss=np.array([mean_training(r) for r in finished]))


def foretold(cell: Cell, store: wt.Store) -> dict[str, Any]:
    """Forecasts of both metrics and verdicts, written before the target is trained; as they were written."""
    place = FOLDER / f"foretold-{cell}.json"
    weights = {name: weights_of(name).hash for name in LEARNED}
    if place.exists():
        told = json.loads(place.read_text())
        if told.get("weights") != weights:
            raise SystemExit(f"{place} foretells other weights' runs; give another WINDTUNNEL_GENERALISATION.")
        return told
    study = study_of(cell)
    result = replace(study, train_target=False).run(store, launcher=Here(devices=1))
    if any(result.targets.values()):
        raise SystemExit(f"{cell}: the target was trained already, so that this is no forecast; take a fresh folder.")
    size = study.size(study.base, study.target.rung) if study.target.rung else None
    found: dict[str, Any] = {"created": datetime.now(UTC).isoformat(), "weights": weights} | {
        what: {} for what in ("forecasts", "refused", "verdicts", "best")
    }
    for metric in METRICS:
        seen = {n: observed(runs, metric) for n, runs in result.ladder.items() if any(run.finished for run in runs)}
        forecasts, refused = dict(result.forecasts), dict(result.unfitted)  # the study's own, sealed in the store
        if metric != METRICS[0]:
            forecasts, refused = _forecasts(seen, study, size)
        best = min((n for n in RIVALS if n in forecasts), key=lambda n: forecasts[n].loss.median)
        verdicts = {
            n: compare(seen[best], seen[n], study.target, 0.9, size=size, name=n, study=study.name)
            for n in LEARNED if n in seen
        }  # fmt: skip
        found["best"][metric] = best
        found["forecasts"][metric] = {n: f.to_json() for n, f in forecasts.items()}
        found["refused"][metric] = refused
        found["verdicts"][metric] = {n: v.to_json() for n, v in verdicts.items()}
    place.write_text(json.dumps(found))
    return found


def _forecasts(
    seen: Mapping[str, Observations], study: wt.Study, size: Any
) -> tuple[dict[str, Forecast], dict[str, str]]:
    """By rule; of those that no law describes, why."""
    forecasts, refused = {}, {}
    for name, observations in seen.items():
        try:
            fitted = fit(observations)
        except wt.InputError as error:
            refused[name] = str(error)
            continue
        forecasts[name] = fitted.forecast(study.target, 0.9, size=size, study=study.name, idea=name)
    return forecasts, refused


def answered(cell: Cell) -> tuple[dict[str, Any], Result]:
    """What was foretold of a cell, and its study's answer with the target trained, also of rules without a forecast."""
    store, study, here = wt.Store(str(FOLDER / "store")), study_of(cell), Here(devices=1)
    before = foretold(cell, store)
    study.run(store, launcher=here)
    stages = Stages(study, store)
    here(stages.packs([a for n in stages.recipes for a in stages.target(n, stages.tuning(n).values)]), store)
    return before, study.answer(store)


# the result


def truths(runs: Sequence[Run], metric: str) -> dict[int, float]:
    """By seed."""
    if metric == METRICS[0]:
        return {r.spec.seed: float(r.loss) if r.finished and r.loss is not None else float("inf") for r in runs}
    return {run.spec.seed: mean_training(run) for run in runs}


def scored(before: Mapping[str, Any], result: Result, metric: str) -> dict[str, Any]:
    """Of each rule: the forecast, what came, and which intervals held it."""
    found = {}
    for name, told in before["forecasts"][metric].items():
        forecast, came = Forecast.from_json(told), list(truths(result.targets[name], metric).values())
        finite = [value for value in came if np.isfinite(value)]
        scores = [score(forecast, value) for value in finite]
        spans = {i.level: [i.low, i.high] for i in forecast.intervals if i.level in LEVELS}
        found[name] = {
            "foretold": forecast.loss.median, "came": interval(came), "reliable": forecast.reliable,
            "intervals": {f"{level:g}": span for level, span in spans.items()},
            "inside": {f"{level:g}": [s.inside[level] for s in scores] for level in LEVELS},
            "relative_error": float(forecast.loss.median / np.mean(came) - 1), "diverged": len(came) - len(finite),
            "made_before": all(score(forecast, run).made_before for run in result.targets[name] if run.finished),
        }  # fmt: skip
    return found


def judged(before: Mapping[str, Any], result: Result, metric: str) -> dict[str, Any]:
    """Of each learned rule: the verdict against the best rival, and what the pairs at the target show."""
    best, found = before["best"][metric], {}
    theirs = truths(result.targets[best], metric)
    for name, told in before["verdicts"][metric].items():
        verdict, ours = Verdict.from_json(told), truths(result.targets[name], metric)
        pairs = [ours[seed] - theirs[seed] for seed in sorted(ours)]
        one = verdict.one_pair
        found[name] = {
            "rival": best, "verdict": verdict.verdict, "probability_better": verdict.probability_better,
            "delta": verdict.delta.to_json(), "came": interval(pairs),
            "one_pair_held": [one.holds(p) for p in pairs] if one is not None else [],
        }  # fmt: skip
    return found


def beside(result: Result, metric: str) -> dict[str, Any]:
    """Of each learned rule: its loss at the target less each rival's, in pairs of seeds."""
    found: dict[str, Any] = {}
    for name in LEARNED:
        ours = truths(result.targets[name], metric)
        theirs = {rival: truths(result.targets[rival], metric) for rival in RIVALS}
        found[name] = {rival: interval([ours[seed] - t[seed] for seed in sorted(ours)]) for rival, t in theirs.items()}
    return found


def matrix(result: Result) -> dict[str, Any]:
    """Mean over seeds of both metrics, by rule and width."""
    found: dict[str, Any] = {}
    for name in result.ladder:
        runs = [*result.ladder[name], *result.targets[name]]
        by = {w: [r for r in runs if r.spec.rung.width == w] for w in sorted({r.spec.rung.width for r in runs})}
        found[name] = {
            metric: {w: interval(list(truths(some, metric).values())) for w, some in by.items()} for metric in METRICS
        }
    return found


def charged(result: Result, names: Sequence[str]) -> dict[str, float]:
    """FLOPs that tuning in this cell took, by rule."""
    return {name: sum(run.cost.spent for run in result.tried[name]) for name in names}


def of_cell(cell: Cell) -> dict[str, Any]:
    """A cell's part of the result."""
    before, result = answered(cell)
    said: dict[str, Any] = {"foretold": before["created"], "target_width": task_of(cell).target}
    said |= {metric: {"scores": scored(before, result, metric), "verdicts": judged(before, result, metric),
                      "refused": before["refused"][metric], "pairs": beside(result, metric)}
             for metric in METRICS}  # fmt: skip
    tuned = [n for n in (*HERE, "celo2_here") if n in result.basins]
    said["tuning_flops_here"] = charged(result, tuned)
    said["tuned_here"] = {n: {f: b.optimum.median for f, b in result.basins[n].items()} for n in tuned}
    return said | {"matrix": matrix(result)}


def told() -> dict[str, Any]:
    """Everything, as plain data."""
    home = asked.rung(asked.digits(), asked.HOME, HOME_DEPTH, HOME_STEPS)
    recipe = asked.recipe(asked.digits(), asked.ADAMW)
    a_run = recipe.size(home).training_flops(home.tokens)
    result: dict[str, Any] = {
        "meta_training": {"inner_steps": META_STEPS, "flops": META_STEPS / HOME_STEPS * a_run},
        "weights": {name: weights_of(name).hash for name in LEARNED},
        "searches": {name: searched(name) | {"flops": searched(name)["runs"] * a_run} for name in SEARCHED},
        "cells": {str(cell): of_cell(cell) for cell in CELLS if (FOLDER / f"foretold-{cell}.json").exists()},
    }
    return result | {"coverage": {metric: coverage(result["cells"], metric) for metric in METRICS}}


def coverage(cells: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """Of learned rules and of rivals: forecasts, median error, and the share of target runs that intervals held."""
    found = {}
    for kind, names in (("learned", tuple(LEARNED)), ("rivals", RIVALS)):
        scores = [c[metric]["scores"][n] for c in cells.values() for n in names if n in c[metric]["scores"]]
        held = {f"{x:g}": [h for s in scores for h in s["inside"][f"{x:g}"]] for x in LEVELS}
        errors = [abs(s["relative_error"]) for s in scores if np.isfinite(s["relative_error"])]
        found[kind] = {
            "forecasts": len(scores), "runs": len(next(iter(held.values()))),
            "held": {level: float(np.mean(inside)) for level, inside in held.items()},
            "median_absolute_relative_error": float(np.median(errors)),
        }  # fmt: skip
    return found


def table(result: Mapping[str, Any]) -> str:
    """For each cell and metric, a line a rule: foretold, its 95 % interval, what came, and the verdict."""
    lines = []
    for name, cell in result["cells"].items():
        for metric in METRICS:
            lines.append(f"\n{name}, {metric} loss at width {cell['target_width']}")
            verdicts = cell[metric]["verdicts"]
            for rule_name, s in cell[metric]["scores"].items():
                low, high = s["intervals"]["0.95"]
                inside = f"{sum(s['inside']['0.95'])} of {len(s['inside']['0.95'])}"
                line = f"{rule_name:<20}{s['foretold']:>8.4f} [{low:.4f}, {high:.4f}]  came {s['came']['mean']:.4f}"
                if rule_name in verdicts:
                    v = verdicts[rule_name]
                    line += (
                        f"  {v['verdict']} ({v['rival']}): {v['delta']['median']:+.4f}, came {v['came']['mean']:+.4f}"
                    )
                lines.append(f"{line}  inside {inside}")
    return "\n".join([*lines, "", json.dumps(result["coverage"], indent=1)])


def main() -> None:
    """`search` tunes rivals at home, `run` makes the studies, `told` writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", choices=("search", "run", "told"))
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    act = parser.parse_args().act
    if act == "search":
        for name in SEARCHED:
            print(name, searched(name), flush=True)
    elif act == "run":
        for cell in CELLS:
            answered(cell)
            print(cell, "done", datetime.now(UTC).isoformat(), flush=True)
    else:
        result = told()
        print(table(result))
        print(write("learned_generalisation", result))


if __name__ == "__main__":
    main()
