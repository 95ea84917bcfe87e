"""What a study still has to train, as a function of what the store holds: tuning, ladder with its re-check, target.

Nothing here trains or writes. Because every stage is recomputed from the store, resuming, adding a seed, a rung or an
idea are all the same call.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from windtunnel.errors import InputError
from windtunnel.ladder import Rung
from windtunnel.launch.width import A_CORE
from windtunnel.recipe import Recipe, Tuned
from windtunnel.runs import Outcome, Run, RunSpec
from windtunnel.store import Store
from windtunnel.study.buying import Bought, bought
from windtunnel.study.question import Study
from windtunnel.study.soundness import doubts
from windtunnel.train.checkpoint import interrupted
from windtunnel.train.overlap import Known
from windtunnel.train.pack import Pack
from windtunnel.train.rows import apart_tokens
from windtunnel.tune import (
    Basin,
    Heard,
    Scale,
    Search,
    Transfer,
    Tried,
    basin,
    coarse_values,
    fine_values,
    recheck_values,
    scale_of,
    transfer,
)

DIGITS = 3  # of a tuned value
MOST_HEARD = 10_000  # sets of values after which a search that goes on asking is taken for one that never ends


@dataclass(frozen=True)
class Ask:
    """One run that a study wants, and why."""

    name: str  # of the recipe: base or the idea
    stage: str  # tune, re-check, ladder or target
    spec: RunSpec


@dataclass
class TuningState:
    """State of one recipe's tuning: values so far, basins found, and what is missing (empty: tuned)."""

    values: dict[str, float]
    basins: dict[str, Basin] = field(default_factory=dict)
    asked: list[Ask] = field(default_factory=list)
    done: bool = True


class Stages:
    """A study beside a store. A record is read once and kept: records never change.

    What is missing is trained in `precision` and in packs of at most `launcher.pack_rows(asked, store, params)` rows,
    which change nothing of what is asked.
    """

    def __init__(self, study: Study, store: Store, precision: str = "float32", launcher: Any = None) -> None:
        self.study, self.store, self.precision, self._launcher = study, store, precision, launcher
        self.recipes = study.recipes()
        self.judge = study.judged_by()
        self._judge = self.judge.describe()
        self._elsewhere = study.tuned_on is not None  # the search has data, recipes and a judge of its own
        self._tuned = study.tuned_recipes() if self._elsewhere else {}
        self._tuning_judge = study.tuning_judged_by()
        self._described = {(name, False): recipe.describe() for name, recipe in self.recipes.items()}
        self._described |= {(name, True): recipe.describe() for name, recipe in self._tuned.items()}
        self._runs: dict[str, Run] = {}
        self._specs: dict[Any, RunSpec] = {}
        self._settled: dict[Any, Rung] = {}
        self._asked: dict[Any, list[dict[str, float]]] = {}  # by a search, given what it had heard
        # of runs, by their keys, or why there is none: the same fit serves forecast, answer and page
        self.fits: dict[Any, Any] = {}
        self.bought: dict[tuple[Rung, ...], Bought] = {}  # by the rungs, once they are trained
        self.unfitted: dict[str, str] = {}  # recipe to why no law describes its ladder

    # what is asked

    def spec(self, name: str, rung: Rung, values: Mapping[str, float], seed: int, stage: str = "ladder") -> RunSpec:
        """The spec of one run of a recipe; made once, for the same are asked for at every stage."""
        elsewhere = self._is_elsewhere(stage)
        shape = (name, rung, tuple(sorted(values.items())), elsewhere)
        if (*shape, seed) not in self._specs:
            recipe = self.recipe(name, stage)
            if shape not in self._settled:
                self._settled[shape] = recipe.fill(values).settled(rung)
            self._specs[*shape, seed] = RunSpec(
                recipe=self._described[name, elsewhere],
                rung=self._settled[shape],
                hyperparameters=dict(values),
                seed=seed,
                judge=self._tuning_judge.describe() if elsewhere else self._judge,
                base_rung=self.study.ladder.base,
            )
        return self._specs[*shape, seed]

    def recipe(self, name: str, stage: str) -> Recipe:
        """A recipe as it is trained in a stage: the search may have data of its own."""
        return (self._tuned if self._is_elsewhere(stage) else self.recipes)[name]

    def _is_elsewhere(self, stage: str) -> bool:
        return self._elsewhere and stage == "tune"

    def tuning(self, name: str) -> TuningState:
        """How far a recipe's tuning is; one field after the other, the others at their best so far."""
        ranges = self.recipes[name].tuned_fields()
        scales = {f: self._scale(name, f) for f in ranges}
        state = TuningState(values={f: scales[f].rounded(scales[f].middle(r), DIGITS) for f, r in ranges.items()})
        if self.study.tuning.search is not None and ranges:
            return self._searched(name, ranges, state, self.study.tuning.search)
        for field_name, range_ in ranges.items():
            found = self._sweep(name, field_name, range_, state)
            if found is None:
                state.done = False
                return state
            state.basins[field_name] = found
            state.values[field_name] = scales[field_name].rounded(found.optimum.median, DIGITS)
        return state

    def _sweep(self, name: str, field_name: str, range_: Tuned, state: TuningState) -> Basin | None:
        tuning, base = self.study.tuning, self.study.ladder.base
        scale = self._scale(name, field_name)
        coarse = self._asks(
            name, "tune", base, state.values, field_name, coarse_values(range_, tuning.points, scale), 1
        )
        state.asked += coarse
        if self.missing(coarse):
            return None
        tried = self._tried(coarse, field_name)
        fine = self._asks(
            name, "tune", base, state.values, field_name, fine_values(range_, tuning.points, tried, scale), tuning.seeds
        )
        state.asked += fine
        return None if self.missing(fine) else basin(field_name, self._tried(coarse + fine, field_name), scale=scale)

    def _searched(self, name: str, ranges: Mapping[str, Tuned], state: TuningState, search: Search) -> TuningState:
        """As far as a search of all fields together has come; what it asks is remembered, for asking may be slow."""
        heard: list[Heard] = []
        while wanted := self._wanted(name, ranges, heard, search):
            for values in wanted:
                asks = [
                    Ask(name, "tune", self.spec(name, self.study.ladder.base, values, seed, "tune"))
                    for seed in self.study.seeds(self.study.tuning.seeds)
                ]
                state.asked += asks
                heard.append(Heard(values, self._mean_loss(asks)))
            if self.missing(state.asked):
                state.done = False
                return state
        if not any(h.loss is not None for h in heard):
            raise InputError(
                f"All {len(heard)} sets of values that the search tried for {name} diverged; lower the tuned ranges."
            )
        best = search.best(ranges, heard)
        state.values = {f: self._scale(name, f).rounded(value, DIGITS) for f, value in best.items()}
        if len(ranges) == 1:
            (only,) = ranges
            state.basins[only] = basin(only, self._tried(state.asked, only), scale=self._scale(name, only))
        return state

    def _scale(self, name: str, field_name: str) -> Scale:
        """What a tuned field of a recipe is searched in."""
        return scale_of(field_name, self.recipes[name].tuned_fields()[field_name])

    def _wanted(
        self, name: str, ranges: Mapping[str, Tuned], heard: Sequence[Heard], search: Search
    ) -> list[dict[str, float]]:
        told = (name, tuple((tuple(sorted(h.values.items())), h.loss) for h in heard))
        if told not in self._asked:
            if len(heard) >= MOST_HEARD:
                raise InputError(f"The search has asked for {len(heard)} sets of values of {name} and is not done.")
            self._asked[told] = [dict(values) for values in search.ask(ranges, heard)]
        return self._asked[told]

    def _mean_loss(self, asks: Sequence[Ask]) -> float | None:
        losses = [run.loss for run in self.runs(asks)]
        known = [loss for loss in losses if loss is not None]
        return sum(known) / len(known) if known and len(known) == len(losses) else None

    def ladder(self, name: str, values: Mapping[str, float], rungs: Sequence[Rung] | None = None) -> list[Ask]:
        """Every seed of some rungs; None: of those that are wanted by now, all unless the study has a half-width."""
        return [
            Ask(name, "ladder", self.spec(name, rung, values, seed))
            for rung in (bought(self).rungs if rungs is None else rungs)
            for seed in self.study.seeds(self.study.ladder.seeds)
        ]

    def recheck(self, name: str, values: Mapping[str, float]) -> dict[str, list[Ask]]:
        """For each tuned field, the values tried again at a larger rung; the transferred one is a ladder run."""
        tuning, fields = self.study.tuning, self.recipes[name].tuned_fields()
        if not tuning.recheck or (tuning.search is not None and len(fields) > 1):  # these have no basin to compare with
            return {}
        rung = self.study.ladder.rungs[self.study.recheck_index()]
        seeds = min(tuning.seeds, self.study.ladder.seeds)
        return {
            f: self._asks(
                name, "re-check", rung, values, f, recheck_values(values[f], tuning, self._scale(name, f)), seeds
            )
            for f in fields
        }

    def climb(self, name: str, values: Mapping[str, float], rungs: Sequence[Rung] | None = None) -> list[Ask]:
        """Of a recipe, the runs of the ladder at some rungs, as in `ladder`, and of the transfer check."""
        again = [ask for asks in self.recheck(name, values).values() for ask in asks]
        return [*self.ladder(name, values, rungs), *again]

    def target(self, name: str, values: Mapping[str, float]) -> list[Ask]:
        """The target's runs, none if the target has no rung."""
        rung = self.study.target.rung
        seeds = self.study.seeds(self.study.target_seeds)
        return [Ask(name, "target", self.spec(name, rung, values, seed)) for seed in seeds] if rung else []

    # what there is

    def missing(self, asks: Sequence[Ask]) -> list[Ask]:
        """Asks whose run is not in the store, each once."""
        return list(_once(a for a in asks if self._recorded(a.spec) is None).values())

    def runs(self, asks: Sequence[Ask]) -> list[Run]:
        """The recorded runs of asks, in order, each once, as they were asked: a record says which fields were open when
        it was made."""
        return [self._run(ask.spec) for ask in _once(asks).values() if self._recorded(ask.spec) is not None]

    def transfers(self, name: str, state: TuningState) -> dict[str, Transfer]:
        """The transfer check of each field whose runs are all there and could be fitted."""
        found = {}
        ladder, index = self.study.ladder, self.study.recheck_index()
        for f, larger in self.recheck_basins(name, state).items():
            if f not in state.basins:  # several fields searched together have no basin of their own
                continue
            small, rung, last = ladder.base, ladder.rungs[index], self.study.target.rung or ladder.top
            axis = "depth" if rung.width == small.width and rung.depth != small.depth else "width"
            found[f] = transfer(
                state.basins[f],
                larger,
                from_width=getattr(small, axis),
                to_width=getattr(rung, axis),
                at_width=getattr(last, axis),
                axis=axis,
            )
        return found

    def recheck_basins(self, name: str, state: TuningState) -> dict[str, Basin]:
        """Field to the basin at the re-check rung, where at least three values finished."""
        found = {}
        for f, asks in self.recheck(name, state.values).items():
            tried = self._tried(asks, f)
            if not self.missing(asks) and len({t.value for t in tried if t.loss is not None}) >= 3:
                # drawn by itself, not as the base's
                found[f] = basin(f, tried, reach=6.0, seed=1, scale=self._scale(name, f))
        return found

    @cached_property
    def known(self) -> Known:
        """What the judge's data hold out, to be looked for in other data; read when first asked."""
        return Known(self.judge)

    @cached_property
    def doubts(self) -> Mapping[str, tuple[str, ...]]:
        """By recipe what must be said of the data that train and judge it; read once."""
        return doubts(self.recipes, self.known)

    # packs

    def pack_rows(self, asked: int, params: int) -> int:
        """Most rows of a pack, of so many of one shape that are asked and so many parameters each: what the launcher
        says, else a CPU core's."""
        of_launcher = getattr(self._launcher, "pack_rows", None)
        return A_CORE if of_launcher is None else of_launcher(asked, self.store, params)

    def packs(self, asks: Sequence[Ask]) -> list[Pack]:
        """Missing runs as packs, dearest first. Runs of a recipe at a rung share a pack, up to as many rows as the
        launcher says; with them go runs of other horizons that begin as they do, which are trained as one trunk with
        branches.

        A pack that was interrupted is formed again with the members it had: its checkpoint goes by them. The others are
        formed so that what is left of a group is packed as it was, or two processes would train one run twice.
        """
        asked = _once(asks)
        packs, left = [], _once(self.missing(asks))
        for members in interrupted(self.store.place.below("packs")):
            known = [asked.get(key) for key in members]
            of_one = len({ask and ask.name for ask in known}) == 1  # a run may be asked for by several recipes
            if any(key in left for key in members) and all(known) and of_one:
                packs.append(self.packed([asked[key] for key in members]))
                left = {key: ask for key, ask in left.items() if key not in members}
        alike = self._alike(asks) if left else {}
        together: dict[Any, list[list[Ask]]] = {}
        for trunk in self._trunks(list(left.values())):
            first = trunk[0]
            shape = self.recipe(first.name, first.stage).shaped(first.spec.hyperparameters)
            kind = (first.name, self._is_elsewhere(first.stage), *(ask.spec.rung for ask in trunk), repr(shape))
            together.setdefault(kind, []).append(trunk)
        for group in together.values():
            first = group[0][0]
            size = self.study.size(self.recipe(first.name, first.stage), first.spec.rung)
            most = self.pack_rows(alike[self._begins(first)[0]], size.total)
            packs += [self.packed([ask for trunk in chunk for ask in trunk]) for chunk in _evenly(group, most)]
        return sorted(packs, key=Pack.training_flops, reverse=True)

    def saved_flops(self, asks: Sequence[Ask]) -> float:
        """FLOPs that the missing runs of asks do not take because runs of several horizons have one trunk."""
        packs = [pack for pack in self.packs(asks) if pack.recipe.phases is None]
        return sum(pack.size().training_flops(apart_tokens(pack) - pack.trained_tokens) for pack in packs)

    def _trunks(self, asks: Sequence[Ask]) -> list[list[Ask]]:
        """Asks that begin as one run together, by rising horizon; all others by themselves."""
        alike: dict[Any, list[Ask]] = {}
        for ask in sorted(asks, key=lambda a: a.spec.rung.tokens):
            alike.setdefault(self._begins(ask), []).append(ask)
        found: list[list[Ask]] = []
        for group in alike.values():
            found += [group] if len(group) > 1 and self._shares(group) else [[ask] for ask in group]
        return found

    def _begins(self, ask: Ask) -> tuple[Any, Any]:
        """All but the horizon: the recipe at its rung, and what tells its runs apart."""
        at = (ask.name, self._is_elsewhere(ask.stage), ask.spec.rung.but(tokens=1))
        return at, (ask.spec.seed, tuple(sorted(ask.spec.hyperparameters.items())))

    def _alike(self, asks: Sequence[Ask]) -> Mapping[Any, int]:
        """How many runs of a recipe are asked at a rung, those that differ in their horizon alone counted once."""
        return Counter(at for at, _ in {self._begins(ask) for ask in asks})

    def _shares(self, asks: Sequence[Ask]) -> bool:
        pack = self.packed(asks)
        return pack.trained_tokens < apart_tokens(pack)

    def packed(self, asks: Sequence[Ask]) -> Pack:
        """These runs, of one recipe, as one pack."""
        first = asks[0]
        recipe = self.recipe(first.name, first.stage).shaped(first.spec.hyperparameters)
        judge = self._tuning_judge if self._is_elsewhere(first.stage) else self.judge
        labels = tuple({"study": self.study.name, "idea": a.name, "stage": a.stage} for a in asks)
        specs = tuple(ask.spec for ask in asks)
        return Pack(recipe=recipe, specs=specs, judge=judge, labels=labels, precision=self.precision)

    def _asks(
        self,
        name: str,
        stage: str,
        rung: Rung,
        values: Mapping[str, float],
        field_name: str,
        tried: Sequence[float],
        seeds: int,
    ) -> list[Ask]:
        return [
            Ask(name, stage, self.spec(name, rung, dict(values) | {field_name: value}, seed, stage))
            for value in tried
            for seed in self.study.seeds(seeds)
        ]

    def _tried(self, asks: Sequence[Ask], field_name: str) -> list[Tried]:
        return [
            Tried(r.spec.hyperparameters[field_name], r.spec.seed, r.loss, r.message, r.outcome is Outcome.CRASHED)
            for r in self.runs(asks)
        ]

    def _run(self, spec: RunSpec) -> Run:
        if spec.key not in self._runs:
            run = self.store.get(self._recorded(spec) or spec.key, later=True)
            same = run.spec.hyperparameters.keys() == spec.hyperparameters.keys()
            self._runs[spec.key] = run if same else replace(run, spec=spec)
        return self._runs[spec.key]

    def _recorded(self, spec: RunSpec) -> str | None:
        """The key under which the store holds a run, if it does."""
        known = self._runs.get(spec.key)
        return self.store.find(spec) if known is None else known.key


def _once(asks: Iterable[Ask]) -> dict[str, Ask]:
    """Asks by their keys; of those for one run the first, whose stage it is then labelled with."""
    found: dict[str, Ask] = {}
    for ask in asks:
        found.setdefault(ask.spec.key, ask)
    return found


def _evenly(trunks: Sequence[list[Ask]], most: int) -> list[list[list[Ask]]]:
    """Chunks of nearly equal length, none over `most`, the longer ones first: without one of them, the others stay."""
    count = math.ceil(len(trunks) / most)
    each, over = divmod(len(trunks), count)
    edges = [i * each + min(i, over) for i in range(count + 1)]
    return [list(trunks[a:b]) for a, b in pairwise(edges)]
