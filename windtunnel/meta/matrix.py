"""Where a learned optimizer holds: every rule over widths, depths, horizons and tasks, beside rules tuned at home.

The runs are ordinary ones, from the store or trained now, so a matrix goes on where it stopped. A newcomer would tune
the others in every cell; a learned optimizer is tuned nowhere, so each has the rate that was best at the first cell of
the first task, found with seeds of its own, and what that took is said beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from windtunnel.errors import InputError
from windtunnel.ladder import Rung
from windtunnel.launch.one import execute
from windtunnel.meta.task import Task
from windtunnel.recipe import Judge, Tuned
from windtunnel.runs import Outcome, Run, RunSpec
from windtunnel.store import Store
from windtunnel.train.pack import Pack, numbers_of

LAST = 10  # steps whose mean is the final training loss
TUNING_SEED = 900


@dataclass(frozen=True, kw_only=True)
class Rule:
    """An optimizer part and the parametrization and schedule it is used with.

    A part whose `lr` is `wt.tuned(low, high)` is tuned at the first cell, on `rates` values of it, `seeds` runs each.
    """

    optimizer: Any
    parametrization: Any
    schedule: Any
    rates: int = 8
    seeds: int = 4


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Which cells: `widths`, `depths` and `steps` of each task, all with all, `seeds` runs in each.

    Raises InputError for an empty one.
    """

    tasks: tuple[Task, ...]
    widths: tuple[int, ...]
    steps: tuple[int, ...]
    depths: tuple[int, ...] = (1,)
    seeds: int = 4

    def __post_init__(self) -> None:
        if not (self.tasks and self.widths and self.steps and self.depths and self.seeds >= 1):
            raise InputError("A Matrix needs one task, width, number of steps, depth and seed or more.")

    def cells(self) -> list[tuple[Task, Rung]]:
        """Task and rung of every cell, the first of them home."""
        return [
            (task, replace(task.at_width(w), depth=d, tokens=s * task.tokens_per_step, batch=task.batch))
            for task in self.tasks for d in self.depths for s in self.steps for w in self.widths
        ]  # fmt: skip

    def run(self, store: Store, rules: Mapping[str, Rule], *, device: torch.device | str = "cpu") -> Filled:
        """Train what the store lacks, tune what is open, and tell."""
        held, spent = torch.device(device), dict[str, int]()
        rows, rates = list[dict[str, Any]](), dict[str, float | None]()
        for name, rule in rules.items():
            rates[name], spent[name] = self._tuned(store, rule, held)
            for task, rung in self.cells():
                seeds = range(self.seeds)
                asked = [(_filled(rule, rates[name]), seed) for seed in seeds]
                runs = _runs(store, rule, task, rung, asked, held)
                rows.append({
                    "rule": name, "task": task.name, "width": rung.width, "depth": rung.depth,
                    "steps": rung.tokens // task.tokens_per_step, **figures(runs),
                })  # fmt: skip
        return Filled(rows=tuple(rows), rates=rates, tuning_runs=spent)

    def _tuned(self, store: Store, rule: Rule, device: torch.device) -> tuple[float | None, int]:
        """The rate with the lowest mean loss at home, and how many runs that took; None where nothing is open."""
        open_rate = rule.optimizer.lr
        if not isinstance(open_rate, Tuned):
            return None, 0
        rates = np.geomspace(open_rate.low, open_rate.high, rule.rates).tolist()
        task, rung = self.cells()[0]
        asked = [(_filled(rule, rate), TUNING_SEED + s) for rate in rates for s in range(rule.seeds)]
        runs = _runs(store, rule, task, rung, asked, device)
        parts = [runs[i * rule.seeds : (i + 1) * rule.seeds] for i in range(len(rates))]
        means = [figures(part)["mean"] for part in parts]
        return rates[int(np.argmin(means))], len(runs)


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A matrix that was run: a row for each rule and cell, with mean, final and test loss in nats and their count."""

    rows: tuple[Mapping[str, Any], ...]
    rates: Mapping[str, float | None]
    tuning_runs: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"rows": [dict(row) for row in self.rows], "rates": dict(self.rates), "tuning": dict(self.tuning_runs)}

    def __str__(self) -> str:
        """Mean training losses, a line for each rule, task, depth and number of steps, widths across."""
        widths = sorted({row["width"] for row in self.rows})
        lines = ["mean training loss, nats; columns are widths"]
        head = f"{'rule':<24}{'task':<12}{'depth':>6}{'steps':>7}"
        lines.append(head + "".join(f"{w:>10}" for w in widths))
        keys = list(dict.fromkeys((r["rule"], r["task"], r["depth"], r["steps"]) for r in self.rows))
        for key in keys:
            by = {r["width"]: r["mean"] for r in self.rows if (r["rule"], r["task"], r["depth"], r["steps"]) == key}
            cells = "".join(f"{by[w]:>10.4f}" if w in by else f"{'':>10}" for w in widths)
            lines.append(f"{key[0]:<24}{key[1]:<12}{key[2]:>6}{key[3]:>7}" + cells)
        tuned = [f"{n}: lr {r:.3g} of {self.tuning_runs[n]} runs" for n, r in self.rates.items() if r is not None]
        return "\n".join([*lines, *(["tuned at the first cell: " + "; ".join(tuned)] if tuned else [])])


def losses_of(runs: Sequence[Run]) -> dict[str, list[float]]:
    """By run: its mean training loss, that of its last steps, and its judged loss; infinite where it diverged.

    Raises InputError for a run that crashed.
    """
    found: dict[str, list[float]] = {"mean": [], "final": [], "test": []}
    for run in runs:
        if run.outcome is Outcome.CRASHED:
            raise InputError(f"The run {run.key[:12]} crashed, so there is no loss to tell: {run.message}")
        losses = np.asarray(run.curve["train_loss"], dtype=float)
        whole = run.loss is not None and bool(np.isfinite(losses).all())
        values = (losses.mean(), losses[-LAST:].mean(), run.loss) if whole else (np.inf,) * 3
        for name, value in zip(found, values, strict=True):
            found[name].append(float(np.inf if value is None else value))
    return found


def figures(runs: Sequence[Run]) -> dict[str, Any]:
    """Means of `losses_of`, their 90 % half widths where all are finite, n."""
    said: dict[str, Any] = {"n": len(runs)}
    for name, values in losses_of(runs).items():
        said[name] = float(np.mean(values))
        if len(values) > 1 and np.isfinite(values).all():
            spread = np.std(values, ddof=1) / len(values) ** 0.5
            said[f"{name}_half"] = float(student.ppf(0.95, len(values) - 1) * spread)
    return said


def _filled(rule: Rule, rate: float | None) -> Any:
    return rule.optimizer if rate is None else replace(rule.optimizer, lr=rate)


def _runs(
    store: Store, rule: Rule, task: Task, rung: Rung, asked: Sequence[tuple[Any, int]], device: torch.device
) -> list[Run]:
    """Runs of filled optimizers and seeds; those that differ in their rate alone are one pack."""
    plain = task.recipe.but(parametrization=rule.parametrization, schedule=rule.schedule, phases=None)
    judge = Judge(data=plain.data, tokens=min(4096, 4 * rung.tokens), evaluations=1)
    base = replace(rung, width=2 * rung.width)
    lowest, highest = (f(numbers_of(o)["lr"] for o, _ in asked) for f in (min, max))
    # one recipe for all rates, as a study has it: the range is only what the engine fills from
    made = plain.but(optimizer=replace(asked[0][0], lr=Tuned(lowest / 2, highest * 2)))
    specs = [
        RunSpec(
            recipe=made.describe(), rung=rung, hyperparameters={"lr": numbers_of(o)["lr"]}, seed=seed,
            judge=judge.describe(), base_rung=base,
        )
        for o, seed in asked
    ]  # fmt: skip
    label = {"study": "matrix", "idea": "", "stage": ""}
    pack = Pack(recipe=made, specs=tuple(specs), judge=judge, labels=(label,) * len(specs))
    execute(pack, store, device=device)
    return [store.get(spec.key) for spec in specs]
