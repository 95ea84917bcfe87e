"""The report's data, gathered from a Result: what to say, nothing of how it looks (see `report/`)."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.forecasts import difference, next_runs
from windtunnel.ladder import Target
from windtunnel.laws.law import Sizes
from windtunnel.report.energy import kilowatt_hours
from windtunnel.report.record import past_forecasts
from windtunnel.report.stored import forecast_of
from windtunnel.runs import Run
from windtunnel.study.words import caveat_lines, three_lines, truth_delta

if TYPE_CHECKING:
    from windtunnel.study.answer import Result

BAND_POINTS = 25
ADVISED = 2  # recipes that are told what to run next: the base and the first idea


def page_data(result: Result, *, command: str = "", study_file: str | None = None) -> dict[str, Any]:
    """Plain data for `report.page.render`; `command` and `study_file` say how to repeat the study."""
    study = result.study
    bands = {name: _band(result, name) for name in study.recipes()}
    ideas = ", ".join(name for name in study.recipes() if name != "base")
    return {
        "study": study.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "question": f"What loss will {study.target} reach{f', and is it worth using {ideas}' if ideas else ''}?",
        "unit": study.judged_by().unit,
        "answer": three_lines(result),
        "caveats": caveat_lines(result),
        "recipes": [_recipe(result, name, bands[name]) for name in study.recipes()],
        "basins": [b for name in result.basins for b in _basins(result, name)],
        "transfer": [t for name in result.transfers for t in _transfers(result, name)],
        "coordinates": [{"recipe": name} | dict(check) for name, check in result.coordinates.items()],
        "verdicts": [_verdict(result, name, bands["base"]) for name in result.verdicts],
        "past": past_forecasts(result.store),
        "next": [row for name in result.study.recipes() for row in _next(result, name)],
        "runs": _runs(result),
        "cost": _cost(result),
        "repeat": _repeat(result, command, study_file),
    }


def _recipe(result: Result, name: str, band: list[dict[str, Any]]) -> dict[str, Any]:
    forecast, scores = result.forecasts.get(name), result.scores.get(name, ())
    return {
        "name": name,
        "claim": result.study.claims()[name],
        "points": [_point(run) for run in result.ladder.get(name, ())],
        "truth": [_point(run) for run in result.targets.get(name, ())],
        "band": band,
        "residuals": _residuals(result, name),
        "forecast": None if forecast is None else _forecast(result, name),
        "score": _score(scores[0]) if scores else None,
    }


def _point(run: Run) -> dict[str, Any]:
    rung = run.spec.rung
    return {
        "key": run.key, "params": run.size.params, "flops": run.size.training_flops(rung.tokens),
        "tokens": rung.tokens, "width": rung.width, "depth": rung.depth, "seed": run.spec.seed, "loss": run.loss,
        "outcome": str(run.outcome),
    }  # fmt: skip


def _forecast(result: Result, name: str) -> dict[str, Any]:
    key = result.forecasts[name].key
    return forecast_of(next(sealed for sealed in result.store.forecasts() if sealed["key"] == key))


def _score(score: Any) -> dict[str, Any]:
    return {
        "truth": score.truth, "error": score.error, "relative_error": score.relative,
        "inside": score.predicted.holds(score.truth), "made_before": score.made_before,
    }  # fmt: skip


def _band(result: Result, name: str) -> list[dict[str, Any]]:
    """The forecast's curve from the smallest rung to the target, along the line between top rung and target."""
    fit, points = result.fits.get(name), [_point(run) for run in result.ladder.get(name, ())]
    if fit is None or name not in result.forecasts or not points:
        return []
    low, end = min(points, key=lambda p: p["flops"]), result.forecasts[name].target
    if not all(end.get(axis) for axis in ("params", "tokens")):
        return []
    flops = end.get("flops") or 6.0 * end["params"] * end["tokens"]
    band = []
    for share in np.linspace(0.0, 1.0, BAND_POINTS):
        at = {axis: float(low[axis] ** (1 - share) * end[axis] ** share) for axis in ("params", "tokens")}
        at["flops"] = float(low["flops"] ** (1 - share) * flops**share)
        target = Target(params=at["params"], tokens=at["tokens"], flops=at["flops"])
        loss = fit.forecast(target, result.study.level).loss
        band.append(at | {"median": loss.median, "low": loss.low, "high": loss.high})
    return band


def _residuals(result: Result, name: str) -> list[dict[str, Any]]:
    """Each fitted run's loss and what the averaged laws expect at its size."""
    fit = result.fits.get(name)
    if fit is None or fit.observations.flops is None:
        return []
    o, expected = fit.observations, {}
    for index, size in enumerate(o.size):
        if size not in expected:
            expected[size] = float(np.exp(fit.predict(Sizes.of(o, np.array([index])), noise=False).quantile(0.5)))
    return [
        {"flops": float(flops), "loss": float(loss), "expected": expected[size]}
        for flops, loss, size in zip(fit.observations.flops, o.loss, o.size, strict=True)
    ]


def _basins(result: Result, name: str) -> list[dict[str, Any]]:
    ladder = result.study.ladder
    index = result.study.recheck_index()
    found = [("tune", ladder.base.width, b) for b in result.basins[name].values()]
    found += [("re-check", ladder.rungs[index].width, b) for b in result.rechecks.get(name, {}).values()]
    return [
        {
            "recipe": name, "hyperparameter": b.field, "width": width, "stage": stage,
            "points": [
                {"value": t.value, "loss": t.loss, "seed": t.seed,
                 "outcome": "finished" if t.loss is not None else "diverged"}
                for t in b.tried
            ],
            "fit": [{"value": value, "loss": loss} for value, loss in b.curve()],
            "optimum": b.optimum.to_json(),
        }
        for stage, width, b in found
    ]  # fmt: skip


def _transfers(result: Result, name: str) -> list[dict[str, Any]]:
    return [
        {
            "recipe": name, "hyperparameter": t.field, "from_width": t.from_width, "to_width": t.to_width,
            "moved_log2": t.moved.to_json(), "cost_relative": t.cost.to_json(), "transfers": t.transfers,
            "sentence": f"{name}: {t}",
        }
        for t in result.transfers[name].values()
    ]  # fmt: skip


def _verdict(result: Result, name: str, band: list[dict[str, Any]]) -> dict[str, Any]:
    verdict = result.verdicts[name]
    base = {(r.spec.rung.but(batch=None), r.spec.seed): r for r in result.ladder["base"] if r.finished}
    pairs = []
    for run in result.ladder[name]:
        there = base.get((run.spec.rung.but(batch=None), run.spec.seed))
        if run.loss is not None and there is not None and there.loss is not None:
            point = _point(run)
            pairs.append({k: point[k] for k in ("params", "flops", "seed")} | {"delta": run.loss - there.loss})
    return {
        "idea": name, "verdict": verdict.verdict, "delta": verdict.delta.to_json(),
        "multiplier": verdict.compute_multiplier.to_json(), "probability_better": verdict.probability_better,
        "crossing": verdict.crossing_words(), "n": verdict.pairs, "caveats": list(verdict.caveats), "pairs": pairs,
        "band": _difference_band(result, name, band),
        "truth_delta": truth_delta(result, name),
    }  # fmt: skip


def _difference_band(result: Result, name: str, band: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The difference law from the smallest rung to the target, at the sizes of the base's band."""
    path = [{axis: point[axis] for axis in ("params", "tokens", "flops")} for point in band]
    base, idea = ([run for run in result.ladder[n] if run.finished] for n in ("base", name))
    found = difference(base, idea, [Target(**at) for at in path], result.study.level)
    return [
        {"params": at["params"], "flops": at["flops"], "median": i.median, "low": i.low, "high": i.high}
        for at, i in zip(path, found, strict=True)
    ]


def _runs(result: Result) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for kind, stage in ((result.ladder, "ladder"), (result.targets, "target"), (result.tried, "tune")):
        for name, runs in kind.items():
            for run in runs:
                found.setdefault(run.key, _run(run, name, run.labels.get("stage", stage)))
    return list(found.values())


def _run(run: Run, name: str, stage: str) -> dict[str, Any]:
    point = _point(run)
    del point["key"]
    return point | {
        "key": run.key, "recipe": name, "stage": stage, "message": run.message, "batch": run.spec.rung.batch,
        "hyperparameters": dict(run.spec.hyperparameters), "flops": run.cost.flops, "seconds": run.cost.seconds,
        "device": run.cost.device,
    }  # fmt: skip


def _next(result: Result, name: str) -> list[dict[str, Any]]:
    """What to train next for a recipe whose target waits, for what its ladder took; one recipe of many is enough."""
    fit, named = result.fits.get(name), list(result.study.recipes())
    if fit is None or result.targets.get(name) or named.index(name) >= ADVISED:
        return []
    rung = result.study.target.rung
    size = None if rung is None else result.study.size(result.study.recipes()[name], rung)
    try:
        advice = next_runs(fit, result.study.target, sum(r.cost.spent for r in result.ladder[name]), size=size)
    except InputError:
        return []  # runs without a price
    return [{"recipe": name, "place": each.place} | each.to_json() for each in advice]


def _cost(result: Result) -> dict[str, Any]:
    ladder = {r.key: r for runs in result.ladder.values() for r in runs}
    tried = {r.key: r for runs in result.tried.values() for r in runs if r.key not in ladder}
    targets = {r.key: r for runs in result.targets.values() for r in runs}
    everything = ladder | tried | targets
    outcomes = [str(r.outcome) for r in everything.values()]
    target, tuning = result.study.target_flops(), sum(r.cost.spent for r in tried.values())
    return {
        "ladder_flops": sum(r.cost.spent for r in ladder.values()),
        "tuning_flops": tuning,
        "target_flops": target,
        "share_of_target": result.ladder_flops() / target if target else None,
        "seconds": sum(r.cost.seconds for r in everything.values()),
        "kilowatt_hours": kilowatt_hours(
            (r.cost.device, r.cost.threads, r.cost.processes, r.cost.seconds) for r in everything.values()
        ),
        "tuning_runs": len(tried),
        "saved_flops": len(tried) * target - tuning if target and tried else None,
        "runs": len(everything),
        "finished": outcomes.count("finished"),
        "diverged": outcomes.count("diverged"),
        "crashed": outcomes.count("crashed"),
    }


def _repeat(result: Result, command: str, file: str | None) -> dict[str, Any]:
    runs = [r for runs in result.ladder.values() for r in runs]
    return {
        "command": command,
        "versions": dict(runs[0].versions) if runs else {},
        "study_file": file,
        "study_sha256": hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else None,
        "store": result.store.where,
        "data_fingerprint": result.study.base.data.fingerprint(),
    }
