"""Result: what a study's stored runs say, recomputed from the store and never trained for.

Forecasts are taken as they were written; a newcomer would refit them after the truth came, which is what the store's
seal forbids.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from windtunnel.errors import InputError
from windtunnel.forecasts import Fit, Forecast, Interval, Score, Verdict, compare, fit, score
from windtunnel.ladder import Target
from windtunnel.runs import Run
from windtunnel.store import Store
from windtunnel.study.question import Study
from windtunnel.study.stages import Stages, TuningState
from windtunnel.tune import Basin, Transfer


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

    @property
    def reliable(self) -> bool:
        """Whether every forecast passed its own backtest."""
        return all(forecast.reliable for forecast in self.forecasts.values())

    def ladder_flops(self) -> float:
        """FLOPs of everything trained before the forecast: tuning, re-check and ladder, each run once."""
        runs = {r.key: r for kind in (self.tried, self.ladder) for found in kind.values() for r in found}
        return sum(run.cost.flops for run in runs.values())

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
            "ladder_flops": self.ladder_flops(),
            "target_flops": self.study.target_flops(),
            "reliable": self.reliable,
        }

    def report(self, path: str | os.PathLike[str], *, command: str = "", study_file: str | None = None) -> Path:
        """Write the one-file HTML report and return its path; `command` and `study_file` say how to repeat it."""
        from windtunnel.report.page import write
        from windtunnel.study.page import page_data

        return Path(write(page_data(self, command=command, study_file=study_file), path))


def answer(study: Study, store: Store) -> Result:
    """Read the answer off a store."""
    stages = Stages(study, store)
    states = {name: stages.tuning(name) for name in stages.recipes}
    tuned = {name: state for name, state in states.items() if state.done}
    ladder = {n: tuple(stages.runs(stages.ladder(n, s.values))) for n, s in tuned.items()}
    targets = {n: tuple(stages.runs(stages.target(n, s.values))) for n, s in tuned.items()}
    forecasts = {n: f for n in tuned if (f := _stored(stages, n)) is not None}
    return Result(
        study=study,
        store=store,
        forecasts=forecasts,
        verdicts=_verdicts(study, ladder),
        scores={n: tuple(score(f, r) for r in targets[n] if r.finished) for n, f in forecasts.items()},
        basins={n: state.basins for n, state in states.items()},
        rechecks={n: stages.recheck_basins(n, s) for n, s in tuned.items()},
        transfers={n: stages.transfers(n, s) for n, s in tuned.items()},
        ladder=ladder,
        targets=targets,
        tried={n: tuple(stages.runs(_tried(stages, n, s))) for n, s in states.items()},
        fits={n: f for n in tuned if (f := fitted(stages, n, tuned[n])) is not None},
        coordinates={n: c for n, s in tuned.items() if (c := _coordinates(stages, n, s)) is not None},
    )


def fitted(stages: Stages, name: str, state: TuningState, draws: int = 200) -> Fit | None:
    """The laws fitted to a recipe's finished ladder runs, None while fewer than three rungs have one."""
    runs = [r for r in stages.runs(stages.ladder(name, state.values)) if r.finished]
    if len({run.spec.rung for run in runs}) < 3:
        return None
    return fit(runs, draws=draws)


def forecast_of(stages: Stages, name: str, draws: int = 200) -> Forecast | None:
    """A recipe's forecast from its ladder, with the tuned hyperparameters and what the transfer check found."""
    state = stages.tuning(name)
    found = fitted(stages, name, state, draws) if state.done else None
    if found is None:
        return None
    study = stages.study
    forecast = found.forecast(
        study.target, study.level, size=_target_size(stages, name), study=study.name, idea=name,
        hyperparameters=_hyperparameters(stages, name, state),
    )  # fmt: skip
    return replace(forecast, caveats=(*_caveats(stages, name, state), *forecast.caveats))


def target_of(stages: Stages, name: str) -> Target:
    """The target as sizes, for laws that know no shapes."""
    target, size = stages.study.target, _target_size(stages, name)
    if target.rung is None or size is None:
        return target
    tokens = float(target.rung.tokens)
    return Target(params=float(size.params), tokens=tokens, flops=size.training_flops(tokens))


def _target_size(stages: Stages, name: str) -> Any:
    rung = stages.study.target.rung
    return None if rung is None else stages.study.size(stages.recipes[name], rung)


def _stored(stages: Stages, name: str) -> Forecast | None:
    """The first forecast this question was given with the runs that are there now, as it was written."""
    now = forecast_of(stages, name)
    if now is None:
        return None
    return next((Forecast.from_json(f) for f in stages.store.forecasts() if f["key"] == now.key), None)


def _hyperparameters(stages: Stages, name: str, state: TuningState) -> dict[str, Interval]:
    """The transferred optimum of each field; its interval also covers where the re-check found the optimum."""
    larger = stages.recheck_basins(name, state)
    found = {}
    for f, basin in state.basins.items():
        both = [basin.optimum] + ([larger[f].optimum] if f in larger else [])
        low, high = min(i.low for i in both), max(i.high for i in both)
        found[f] = Interval(state.values[f], min(low, state.values[f]), max(high, state.values[f]), both[0].level)
    return found


def _caveats(stages: Stages, name: str, state: TuningState) -> list[str]:
    found = [str(t) for t in stages.transfers(name, state).values() if not t.transfers]
    found += [
        f"The best {f} lies at the edge of what was tried ({basin.optimum}); widen its tuned range."
        for f, basin in state.basins.items()
        if basin.at_edge
    ]
    if state.basins and not stages.study.tuning.recheck:
        found.append("No transfer check was made: that the tuned values hold at larger sizes is assumed.")
    lost = [r for r in stages.runs(stages.ladder(name, state.values)) if not r.finished]
    found += [f"{len(lost)} ladder run(s) are left out: {lost[0].message}"] if lost else []
    known = [r for r in stages.runs(stages.target(name, state.values)) if r.finished]
    if known:
        found.append(f"Not a forecast: {len(known)} run(s) of the target were already in the store when it was made.")
    return found


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
    return found


def _tried(stages: Stages, name: str, state: TuningState) -> list[Any]:
    asked = list(state.asked)
    if state.done:
        asked += [a for asks in stages.recheck(name, state.values).values() for a in asks]
    return asked


def _coordinates(stages: Stages, name: str, state: TuningState) -> Mapping[str, Any] | None:
    return stages.store.check("coordinates", stages.spec(name, stages.study.ladder.base, state.values, 0).key)
