"""The dry run: what a study would train, stage by stage, with FLOPs, minutes and memory. Nothing is trained.

Runs after the tuning depend on its outcome, so until it is done they are counted, not named. Minutes come from the
speed of runs already in the store at each size, else from a stated guess; within a budget, from steps done here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from windtunnel.ladder import Rung, Size, compact
from windtunnel.notebook import card, printed
from windtunnel.recipe import Recipe
from windtunnel.store import Store
from windtunnel.study.buying import FIRST, at_most
from windtunnel.study.question import Study
from windtunnel.study.soundness import check
from windtunnel.study.speed import by_size, stored, timed_here
from windtunnel.study.stages import Ask, Stages


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """Runs of one recipe at one rung in one stage."""

    stage: str
    recipe: str
    rung: Rung
    size: Size
    runs: int
    missing: int
    seconds: float = 0.0  # of device time for what is missing
    run_flops: float | None = None  # of one run, where it is not the size's at the rung: a run in stretches
    together: int = 1  # of what is missing, most runs in one pack

    @property
    def flops(self) -> float:
        """FLOPs still to be spent."""
        of_one = self.size.training_flops(self.rung.tokens) if self.run_flops is None else self.run_flops
        return self.missing * of_one


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study's rows, what a shared trunk saves of them, and where their seconds come from.

    With a `half_width` they are the most that may be trained: rungs are bought only until it is reached.
    """

    study: str
    rows: tuple[PlanRow, ...]
    speed_source: str
    devices: int
    saved_flops: float = 0.0
    half_width: float | None = None

    @property
    def missing(self) -> int:
        """Runs still to be trained."""
        return sum(row.missing for row in self.rows)

    @property
    def flops(self) -> float:
        """FLOPs still to be spent."""
        return sum(row.flops for row in self.rows) - self.saved_flops

    @property
    def seconds(self) -> float:
        """Seconds of device time still to be spent."""
        alone = self.flops + self.saved_flops
        return sum(row.seconds for row in self.rows) * (self.flops / alone if alone else 1.0)

    @property
    def speed(self) -> float:
        """FLOP/s of one device, over all that is missing."""
        return self.flops / self.seconds if self.seconds else 0.0

    @property
    def minutes(self) -> float:
        """Minutes on `devices` devices."""
        return self.seconds / self.devices / 60

    @property
    def memory_bytes(self) -> float:
        """Weights, gradients and two optimizer states of the largest packs, one a device; activations come on top."""
        packs = [16.0 * row.size.total * min(row.missing, row.together) for row in self.rows]
        return sum(sorted(packs, reverse=True)[: self.devices])

    def to_json(self) -> dict[str, Any]:
        """Plain data, what `--json` prints."""
        rows = [
            {"stage": r.stage, "recipe": r.recipe, "width": r.rung.width, "depth": r.rung.depth,
             "tokens": r.rung.tokens, "batch": r.rung.batch, "params": r.size.params, "runs": r.runs,
             "missing": r.missing, "flops": r.flops}
            for r in self.rows
        ]  # fmt: skip
        return {
            "study": self.study, "rows": rows, "missing": self.missing, "flops": self.flops,
            "saved_flops": self.saved_flops, "half_width": self.half_width,
            "minutes": self.minutes, "speed_flops_per_second": self.speed, "speed_source": self.speed_source,
            "memory_bytes": self.memory_bytes,
        }  # fmt: skip

    def _repr_html_(self) -> str:
        rows = [
            (r.stage, r.recipe, r.rung.width, r.rung.depth, compact(r.size.params), compact(r.rung.tokens), r.runs,
             r.missing, f"{compact(r.flops)}FLOPs")
            for r in self.rows
        ]  # fmt: skip
        says = str(self).splitlines()[-1]
        head = ("stage", "recipe", "width", "depth", "params", "tokens", "runs", "missing", "to spend")
        return card(f"Plan of {self.study}", says=says, head=head, rows=rows)

    _repr_pretty_ = printed

    def __str__(self) -> str:
        names = {"width": 6, "depth": 6, "params": 9, "tokens": 9, "batch": 7, "runs": 6, "missing": 9, "FLOPs": 9}
        head = f"{'stage':<10}{'recipe':<16}" + "".join(f"{name:>{columns}}" for name, columns in names.items())
        lines = [
            f"{r.stage:<10}{r.recipe:<16}{r.rung.width:>6}{r.rung.depth:>6}{compact(r.size.params):>9}"
            f"{compact(r.rung.tokens):>9} {r.rung.batch:>6}{r.runs:>6}{r.missing:>9}{compact(r.flops):>9}"
            for r in self.rows
        ]
        saved = self.saved_flops / (self.flops + self.saved_flops) if self.saved_flops else 0.0
        trunk = [f"one trunk for runs that begin alike saves {100 * saved:.0f} % of the FLOPs"] if saved else []
        return "\n".join([head, *lines, *trunk, *self._at_most(), self._total()])

    def _total(self) -> str:
        if not self.missing:
            return "nothing is left to train"
        return (
            f"{self.missing} runs to train, {compact(self.flops)}FLOPs, about {self.minutes:.1f} minutes on "
            f"{self.devices} device(s) at {compact(self.speed)}FLOP/s each ({self.speed_source}); weights and "
            f"optimizer state at most {self.memory_bytes / 2**20:.0f} MiB at once"
        )

    def _at_most(self) -> list[str]:
        """That not all of it may be needed."""
        if self.half_width is None or not self.missing:
            return []
        within = f"until the target is foretold within ± {100 * self.half_width:.3g} %"
        return [f"at most: beyond the {FIRST} smallest sizes rungs are trained only {within}"]


def plan(
    study: Study,
    store: Store,
    devices: int | None = None,
    *,
    measure: bool = False,
    precision: str = "float32",
    launcher: Any = None,
) -> Plan:
    """The rows of a study and what is missing from the store, packed as a launcher (None: this machine) will train it;
    `measure` times a few steps of every shape here. Raises InputError for what could not be trained."""
    from windtunnel.launch.here import Here, default_devices

    stages = Stages(study, store, precision, launcher or Here(devices=devices))
    check(stages)
    rungs = at_most(stages)
    rows = [row for name in stages.recipes for row in _rows(stages, name, rungs)]
    rows = [replace(row, together=stages.pack_rows(row.runs, row.size.total)) if row.missing else row for row in rows]
    rows, source = _timed(stages, rows, measure)
    return Plan(
        study=study.name,
        rows=tuple(rows),
        speed_source=source,
        devices=devices or default_devices(),
        saved_flops=sum(
            stages.saved_flops(stages.climb(name, stages.tuning(name).values, rungs)) for name in stages.recipes
        ),
        half_width=study.half_width,
    )


def _rows(stages: Stages, name: str, rungs: Sequence[Rung]) -> list[PlanRow]:
    state = stages.tuning(name)
    recipe = stages.recipes[name].fill(state.values)
    rows = _tuning_rows(stages, name, state)
    known = state.done
    asked = {"ladder": stages.ladder(name, state.values, rungs)}
    asked["re-check"] = [
        a for asks in stages.recheck(name, state.values).values() for a in asks
        if a.spec.key not in {x.spec.key for x in asked["ladder"]}
    ]  # fmt: skip
    if stages.study.train_target:
        asked["target"] = stages.target(name, state.values)
    for stage, asks in asked.items():
        rows += _grouped(stages, recipe, stage, asks, known)
    return rows


def _tuning_rows(stages: Stages, name: str, state: Any) -> list[PlanRow]:
    tuning, fields = stages.study.tuning, stages.recipes[name].tuned_fields()
    if not fields:
        return []
    # coarse values with one seed, then about five values around the best with every seed, three of them known
    expected = len(fields) * (tuning.points + 5 * tuning.seeds - 3)
    if tuning.search is not None:  # it may say how many sets of values it will ask for
        expected = getattr(tuning.search, "runs", 0) * tuning.seeds
    recipe = stages.recipe(name, "tune").fill(state.values)
    rung = recipe.settled(stages.study.ladder.base)
    there = len(stages.runs(state.asked))
    runs = len({a.spec.key for a in state.asked}) if state.done else max(expected, there)
    size, of_one = stages.study.size(recipe, rung), _in_stretches(stages, name, rung)
    return [PlanRow(stage="tune", recipe=name, rung=rung, size=size, runs=runs, missing=runs - there, run_flops=of_one)]


def _in_stretches(stages: Stages, name: str, rung: Rung) -> float | None:
    """FLOPs of one run of a recipe with phases; None without."""
    if stages.recipes[name].phases is None:
        return None
    spec = stages.spec(name, rung, stages.tuning(name).values, stages.study.seeds(1)[0])
    return stages.packed([Ask(name, "plan", spec)]).training_flops()


def _grouped(stages: Stages, recipe: Recipe, stage: str, asks: Sequence[Ask], known: bool) -> list[PlanRow]:
    by_rung: dict[Rung, list[Ask]] = {}
    for ask in asks:
        by_rung.setdefault(ask.spec.rung, []).append(ask)
    return [
        PlanRow(
            stage=stage,
            recipe=members[0].name,
            rung=rung,
            size=stages.study.size(recipe, rung),
            runs=len(members),
            missing=len(stages.missing(members)) if known else len(members),
            run_flops=_in_stretches(stages, members[0].name, rung),
        )
        for rung, members in by_rung.items()
    ]


def _timed(stages: Stages, rows: Sequence[PlanRow], measure: bool) -> tuple[list[PlanRow], str]:
    """The rows with their seconds, and where those come from."""
    seconds_of = timed_here(stages) if measure else lambda *asked: None
    timed = [seconds_of(r.recipe, r.rung, r.missing, r.together, r.size) if r.missing else None for r in rows]
    known = [(row.size.params, row.flops / s) for row, s in zip(rows, timed, strict=True) if s]
    speeds = by_size(known, "timed on a few steps of each size here") if known else stored(stages.store.rows())
    found = [
        replace(row, seconds=s if s else row.flops / speeds.at(row.size)) for row, s in zip(rows, timed, strict=True)
    ]
    return found, speeds.source
