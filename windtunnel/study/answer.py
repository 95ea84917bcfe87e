"""Result: what a study's stored runs say, recomputed from the store and never trained for.

Forecasts are taken as they were written; a newcomer would refit them after the truth came, which is what the store's
seal forbids.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from windtunnel.errors import InputError
from windtunnel.forecasts import Fit, Forecast, Interval, Score, Verdict, compare, score
from windtunnel.forecasts.forecast import moment
from windtunnel.ladder import Rung, four_decimals
from windtunnel.likeness import differing
from windtunnel.notebook import card, marked
from windtunnel.places import Local
from windtunnel.recipe import Recipe
from windtunnel.runs import Run, canonical
from windtunnel.store import Store
from windtunnel.study.buying import bought, told
from windtunnel.study.fits import fitted, foretold
from windtunnel.study.question import Study
from windtunnel.study.soundness import beyond_horizon
from windtunnel.study.stages import Stages, TuningState
from windtunnel.tune import Basin, Transfer

BEYOND = 0.01  # share of its horizon that a run may train beyond it without a caveat (guess)
LEARNED_NOTHING = 0.995  # of the loss of guessing: a run that ends above it has learned nothing (guess)


@dataclass(frozen=True, kw_only=True)
class Result:
    """The answer to a study: everything by recipe name ('base' or the idea's); what is not known yet is absent."""

    study: Study
    store: Store
    forecasts: Mapping[str, Forecast]
    verdicts: Mapping[str, Verdict]
    scores: Mapping[str, tuple[Score, ...]]
    basins: Mapping[str, Mapping[str, Basin]]
    rechecks: Mapping[str, Mapping[str, Basin]]
    transfers: Mapping[str, Mapping[str, Transfer]]
    ladder: Mapping[str, tuple[Run, ...]]
    targets: Mapping[str, tuple[Run, ...]]
    tried: Mapping[str, tuple[Run, ...]]  # tuning and re-check
    fits: Mapping[str, Fit] = field(repr=False)
    coordinates: Mapping[str, Mapping[str, Any]] = field(repr=False)
    unfitted: Mapping[str, str] = field(default_factory=dict)  # recipe to why no law describes its ladder

    @property
    def reliable(self) -> bool:
        """Whether every recipe has a forecast, and each passed its own backtest."""
        asked = self.study.recipes()
        return all(name in self.forecasts and self.forecasts[name].reliable for name in asked)

    def ladder_flops(self) -> float:
        """FLOPs of everything trained before the forecast: tuning, re-check and ladder, each run once."""
        runs = {r.key: r for kind in (self.tried, self.ladder) for found in kind.values() for r in found}
        return sum(run.cost.spent for run in runs.values())

    @property
    def optimism(self) -> Mapping[str, Mapping[str, Interval]]:
        """By recipe and field: the share of the loss by which tuning on the judged data would flatter a recipe.

        It is what the value tuned elsewhere costs at the re-check rung, size included where that is larger than the
        base (`Tuning(recheck_rung=0)`: the data alone). Empty without `tuned_on`.
        """
        if self.study.tuned_on is None:
            return {}
        return {name: {f: t.cost for f, t in found.items()} for name, found in self.transfers.items() if found}

    def __repr__(self) -> str:
        from windtunnel.study.words import caveat_lines

        return "\n".join([*marked(caveat_lines(self)), *self.lines()])

    def _repr_html_(self) -> str:
        from windtunnel.study.words import caveat_lines

        rows = [(line,) for line in self.lines()]
        return card(f"Answer to {self.study.name}", caveats=caveat_lines(self), head=("answer",), rows=rows)

    def lines(self) -> list[str]:
        """The answer in lines: caveats are the forecast's own and come first."""
        from windtunnel.study.words import answer_lines

        return answer_lines(self)

    def to_json(self) -> dict[str, Any]:
        """Plain data, what `--json` prints."""
        return {
            "study": self.study.name,
            "forecasts": {name: forecast.to_json() for name, forecast in self.forecasts.items()},
            "verdicts": {name: verdict.to_json() for name, verdict in self.verdicts.items()},
            "scores": {name: [s.to_json() for s in scores] for name, scores in self.scores.items()},
            "tuned": {n: {f: b.optimum.to_json() for f, b in basins.items()} for n, basins in self.basins.items()},
            "transfers": {n: {f: str(t) for f, t in found.items()} for n, found in self.transfers.items()},
            "transfer_checks": {n: {f: t.to_json() for f, t in found.items()} for n, found in self.transfers.items()},
            "ladder_flops": self.ladder_flops(),
            "target_flops": self.study.target_flops(),
            "reliable": self.reliable,
            "unfitted": dict(self.unfitted),
        }

    def report(self, path: str | os.PathLike[str], *, command: str = "", study_file: str | None = None) -> Path:
        """Write the one-file HTML report and return its path; `command` and `study_file` say how to repeat it."""
        from windtunnel.report.page import write
        from windtunnel.study.page import page_data

        home = self.store.place.path() if isinstance(self.store.place, Local) else None
        beside = home is not None and Path(path).resolve().parent == home.resolve()
        data = page_data(self, command=command, study_file=study_file)
        return Path(write(data, path, records="runs/" if beside else None))

    def figures(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write every figure of the report into a folder: SVG, CSV and, where matplotlib is there, PNG. The paths."""
        from windtunnel.report.figures import save
        from windtunnel.study.page import page_data

        return save(page_data(self), folder)


def answer(study: Study, store: Store) -> Result:
    """Read the answer off a store."""
    return answered(Stages(study, store))


def answered(stages: Stages) -> Result:
    """The answer from stages whose runs and fits are already at hand."""
    study, store = stages.study, stages.store
    states = {name: stages.tuning(name) for name in stages.recipes}
    tuned = {name: state for name, state in states.items() if state.done}
    rungs = bought(stages).rungs
    ladder = {n: tuple(stages.runs(stages.ladder(n, s.values, rungs))) for n, s in tuned.items()}
    targets = {n: tuple(stages.runs(stages.target(n, s.values))) for n, s in tuned.items()}
    now = {n: f for n in tuned if (f := forecast_of(stages, n)) is not None}
    told = {n: f for n in now if (f := _stored(stages, now[n], _came(targets[n]))) is not None}
    forecasts = {n: Forecast.from_json(f) for n, f in told.items()}
    return Result(
        study=study,
        store=store,
        forecasts=forecasts,
        verdicts={n: _beside(_doubted(v, stages, n), n, forecasts) for n, v in _verdicts(study, ladder).items()},
        scores={n: tuple(score(f, r) for r in targets[n] if r.finished) for n, f in forecasts.items()},
        basins={n: state.basins for n, state in states.items()},
        rechecks={n: stages.recheck_basins(n, s) for n, s in tuned.items()},
        transfers={n: stages.transfers(n, s) for n, s in tuned.items()},
        ladder=ladder,
        targets=targets,
        tried={n: tuple(stages.runs(_tried(stages, n, s))) for n, s in states.items()},
        fits={n: f for n in tuned if (f := fitted(stages, n, tuned[n], rungs)) is not None},
        coordinates={n: c for n, s in tuned.items() if (c := _coordinates(stages, n, s)) is not None},
        unfitted=dict(stages.unfitted),
    )


def seal(stages: Stages, name: str) -> dict[str, Any] | None:
    """Write a recipe's forecast into the store, once; what is stored, or None where there is no fit.

    Once the target is trained, a forecast from the same runs that was made before stands, whatever would be said today.
    """
    forecast = forecast_of(stages, name)
    if forecast is None:
        return None
    came = _came(stages.runs(stages.target(name, stages.tuning(name).values)))
    told = _stored(stages, forecast, came)
    if came and told is not None and _before(told, came):
        return told
    known = _known_truth(stages, name)  # no part of the key: what is asked stays the same when the truth comes
    return stages.store.add_forecast(replace(forecast, caveats=(*known, *forecast.caveats)).to_json())


def forecast_of(stages: Stages, name: str, draws: int = 200) -> Forecast | None:
    """A recipe's forecast from its ladder, with the tuned hyperparameters and what the transfer check found."""
    state = stages.tuning(name)
    rungs = bought(stages).rungs
    found = fitted(stages, name, state, rungs, draws) if state.done else None
    if found is None:
        return None
    forecast = foretold(stages, name, found, hyperparameters=_hyperparameters(stages, name, state))
    caveats = _caveats(stages, name, state, rungs)
    hyperparameters = {f: i.to_json() for f, i in forecast.hyperparameters.items()}
    origin = canonical([forecast.key, caveats, hyperparameters])  # what it says rests on more than the fitted runs
    return replace(
        forecast,
        key=hashlib.sha256(origin.encode()).hexdigest()[:20],
        caveats=(*caveats, *forecast.caveats),
    )


def _stored(stages: Stages, now: Forecast, came: Sequence[datetime]) -> dict[str, Any] | None:
    """What the store holds of this question from the runs that are there now, as it was written.

    Made before the target was trained, rather than after; as it would be made now, rather than by another version or in
    other words; and then the newest.
    """
    told = [f for f in stages.store.forecasts() if _question(f) == now.question]
    return max(told, key=lambda f: (_before(f, came), f["key"] == now.key, f["created"]), default=None)


def _came(targets: Sequence[Run]) -> list[datetime]:
    """When this study's own runs of the target were recorded."""
    return [moment(run.created) for run in targets if run.finished]


def _before(stored: Mapping[str, Any], came: Sequence[datetime]) -> bool:
    return all(moment(stored["created"]) < each for each in came)


def _question(stored: Mapping[str, Any]) -> tuple[Any, ...] | None:
    with suppress(InputError):
        return Forecast.from_json(stored).question
    return None  # sealed by another program


def _hyperparameters(stages: Stages, name: str, state: TuningState) -> dict[str, Interval]:
    """The transferred optimum of each field; its interval also covers where the re-check found the optimum."""
    larger = stages.recheck_basins(name, state)
    found = {}
    for f, basin in state.basins.items():
        both = [basin.optimum] + ([larger[f].optimum] if f in larger else [])
        low, high = min(i.low for i in both), max(i.high for i in both)
        found[f] = Interval(state.values[f], min(low, state.values[f]), max(high, state.values[f]), both[0].level)
    return found


def _caveats(stages: Stages, name: str, state: TuningState, rungs: Sequence[Rung]) -> list[str]:
    found = _shape(stages) + _unchecked(stages, name, state)
    found += _batch(stages.recipes[name].fill(state.values), stages.study.target.rung, rungs)
    elsewhere = "" if stages.study.tuned_on is None else "; it was tuned on other data, which may have moved it too"
    found += [f"{t}{elsewhere}" for t in stages.transfers(name, state).values() if t.transfers is False]
    found += [
        f"The best {f} lies at the edge of what was tried ({basin.optimum}); widen its tuned range."
        for f, basin in state.basins.items()
        if basin.at_edge
    ]
    together = [f for f in state.values if f not in state.basins] if stages.study.tuning.search is not None else []
    if together:
        found.append(f"{', '.join(together)} were searched together: no interval, and their transfer is not judged.")
    if state.basins and not stages.study.tuning.recheck:
        found.append("No transfer check was made: that the tuned values hold at larger sizes is assumed.")
    found += _mixed(stages, name, rungs)
    found += stages.doubts[name]
    found += _beyond(stages.recipes[name].fill(state.values), stages.study.target.rung, rungs)
    found += [said] if (said := told(stages, name, rungs)) else []
    runs = stages.runs(stages.ladder(name, state.values, rungs))
    found += _guessing(stages, runs)
    lost = [r for r in runs if not r.finished]
    found += [f"{len(lost)} ladder run(s) are left out: {lost[0].message}"] if lost else []
    return found


def _guessing(stages: Stages, ladder: Sequence[Run]) -> list[str]:
    """A sentence where runs of the ladder ended as a network does that was never trained."""
    if stages.judge.loss is not None:
        return []
    classes = stages.judge.data.shape().classes
    runs = [run for run in ladder if run.loss is not None]
    losses = [run.loss for run in runs if run.loss and run.loss > LEARNED_NOTHING * math.log(classes)]
    if not losses:
        return []
    level, least = math.log(classes), min(losses)
    return [
        f"{len(losses)} of the {len(runs)} ladder runs learned nothing: their loss, {least:.3f} or more, is no better "
        f"than guessing among {classes} outcomes ({level:.3f}). The learning rate may be far off, or the tokens far "
        f"too few; a law of such runs says nothing of others."
    ]


def _mixed(stages: Stages, name: str, rungs: Sequence[Rung]) -> list[str]:
    """A sentence where the runs that are compared were not all computed in one precision."""
    values = {each: stages.tuning(each).values for each in {name, "base"} & set(stages.recipes)}
    runs = [run for each, at in values.items() for run in stages.runs(stages.ladder(each, at, rungs)) if run.finished]
    low = sum(run.cost.precision != "float32" for run in runs)
    if low in (0, len(runs)):
        return []
    return [
        f"{low} of the {len(runs)} ladder runs were trained in bfloat16, the others in float32; the difference is part "
        f"of what is forecast."
    ]


def _beyond(recipe: Recipe, target: Rung | None, rungs: Sequence[Rung]) -> list[str]:
    """A sentence where a last step, being a whole batch, goes well beyond the tokens that a size says."""
    most = max(beyond_horizon(recipe, rung) for rung in (*rungs, *([target] if target else [])))
    if most < BEYOND:
        return []
    return [
        f"A batch does not divide the tokens of a rung: with the last step, runs see up to {100 * most:.1f} % more "
        f"data than is counted."
    ]


def _unchecked(stages: Stages, name: str, state: TuningState) -> list[str]:
    """A sentence for each tuned field whose transfer could not be judged."""
    checked, found = stages.transfers(name, state), []
    for f, asks in stages.recheck(name, state.values).items():
        lost = [r for r in stages.runs(asks) if not r.finished]
        if f not in checked and lost:
            values = ", ".join(f"{r.spec.hyperparameters[f]:g}" for r in lost)
            found.append(
                f"Whether {f} transfers could not be judged: at the larger rung {values} did not finish "
                f"({lost[0].message}). The tuned value may lie close to where training diverges."
            )
    return found


def _shape(stages: Stages) -> list[str]:
    """What the target changes that the ladder did not vary."""
    target, rungs = stages.study.target.rung, stages.study.ladder.rungs
    depths = sorted({r.depth for r in rungs})
    if target is None:
        return []
    most = max(rung.depth / rung.width for rung in rungs)
    if min(depths) <= target.depth <= max(depths):
        if target.depth / target.width <= most:
            return []
        return [
            f"The target is {target.depth / target.width / most:.2g} times as deep for its width as any rung; what a "
            f"finite width does at the start of training grows in proportion (benchmarks/ground_truth.py)."
        ]
    if len(depths) > 1:
        return [f"The target has depth {target.depth}, the ladder {depths}: what depth does is carried beyond these."]
    return [f"The target has depth {target.depth}, the ladder only {depths}: nothing here tells what depth does."]


def _batch(recipe: Recipe, target: Rung | None, rungs: Sequence[Rung]) -> list[str]:
    """A sentence where the target's batch is none that the ladder had, nor one by a rule that the ladder followed."""
    if target is None:
        return []
    asked, had = recipe.settled(target).batch or 1, sorted({recipe.settled(rung).batch or 1 for rung in rungs})
    if had[0] <= asked <= had[-1] or (len(had) > 1 and target.batch is None):
        return []
    if len(had) > 1:
        return [f"The target trains {asked} examples a step, the ladder {had}: what the batch does is carried beyond."]
    return [
        f"The target trains {asked} examples a step, the ladder only {had}: nothing here tells what the batch does, "
        f"and the learning rate was tuned for another."
    ]


def _known_truth(stages: Stages, name: str) -> list[str]:
    """A caveat if any run of this recipe at the target's size is already in the store, however it was tuned."""
    rung = stages.study.target.rung
    if rung is None:
        return []
    own = stages.target(name, stages.tuning(name).values)[0].spec
    size = (rung.width, rung.depth, rung.tokens, own.rung.batch)
    known = [
        r
        for r in stages.store.rows()
        if (r["width"], r["depth"], r["tokens"], r["batch"]) == size
        and r["outcome"] == "finished"
        and set(differing(stages.store.get(r["key"], later=True).spec, own)) <= {"judge"}
    ]
    if not known:
        return []
    return [
        f"Not a forecast made blind: {len(known)} finished run(s) of {name} at the target's size were already there."
    ]


def _beside(verdict: Verdict, name: str, forecasts: Mapping[str, Forecast]) -> Verdict:
    """The verdict, with a caveat where the forecasts of idea and base say something else."""
    if not {name, "base"} <= set(forecasts):
        return verdict
    apart = forecasts[name].loss.median - forecasts["base"].loss.median
    if verdict.delta.holds(apart):
        return verdict
    said = (
        f"The two forecasts lie {four_decimals(apart, '+')} apart, outside the verdict's {verdict.delta.signed()}. "
        f"Each is of one ladder; the verdict compares runs of one seed, whose noise cancels."
    )
    return replace(verdict, caveats=(*verdict.caveats, said))


def _doubted(verdict: Verdict, stages: Stages, name: str) -> Verdict:
    """The verdict, with what must be said of the data of both sides."""
    said = dict.fromkeys((*stages.doubts["base"], *stages.doubts[name]))
    return replace(verdict, caveats=(*verdict.caveats, *said))


def _verdicts(study: Study, ladder: Mapping[str, tuple[Run, ...]]) -> dict[str, Verdict]:
    found = {}
    for name, runs in ladder.items():
        if name == "base" or "base" not in ladder:
            continue
        size = study.size(study.base, study.target.rung) if study.target.rung else None
        try:
            found[name] = compare(
                ladder["base"], runs, study.target, study.level, size=size, name=name, study=study.name
            )
        except InputError:
            continue  # too few paired rungs so far; the verdict is absent until there are
        found[name] = replace(found[name], caveats=(*found[name].caveats, *_tuned_here(study)))
    return found


def _tuned_here(study: Study) -> list[str]:
    """What must be said of a verdict whose sides were tuned on the data that judge them (2403.09066)."""
    if study.tuned_on is not None or not any(recipe.tuned_fields() for recipe in study.recipes().values()):
        return []
    return [
        "Both sides were tuned at the base rung on the very data that judge them; what that flatters is not known. "
        "Study(tuned_on=other data) tunes elsewhere."
    ]


def _tried(stages: Stages, name: str, state: TuningState) -> list[Any]:
    asked = list(state.asked)
    if state.done:
        asked += [a for asks in stages.recheck(name, state.values).values() for a in asks]
    return asked


def _coordinates(stages: Stages, name: str, state: TuningState) -> Mapping[str, Any] | None:
    return stages.store.check("coordinates", stages.spec(name, stages.study.ladder.base, state.values, 0).key)
