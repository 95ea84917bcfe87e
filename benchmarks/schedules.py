"""The checks of B16 (WSD trunk and branches), B21 (Power schedule) and B58 (infinite schedule) on real text.

    python -m benchmarks.schedules horizons    # one trunk with four branches beside four cosine runs
    python -m benchmarks.schedules power       # (a, b) from small sweeps, then 2x width, 4x batch, 4x tokens
    python -m benchmarks.schedules power256    # the same from width 64 to 256, as B21's check says; an hour of one core
    python -m benchmarks.schedules anneals     # anneals of 10 and 15 % of the infinite schedule
    python -m benchmarks.schedules domains     # three texts one after another
    python -m benchmarks.schedules choose      # the laws of curves pick a schedule, beside what was measured

Each writes its part of benchmarks/results/schedules.json; runs are kept in a store, so a part goes on where it stopped.
Byte transformers of depth 2, three seeds; the rest takes about 40 minutes of one core. A newcomer would compare
schedules at one learning rate without asking: WSD's and cosine's were swept, five values, three seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

import windtunnel as wt
from benchmarks.common import RESULTS, write
from benchmarks.schedules_runs import BATCH, CONTEXT, RATES, SEEDS, STEP, WARMUP, grid, pack_steps, runs, three_domains
from windtunnel.forecasts.schedules import choose_schedule, curve_of
from windtunnel.laws import Observations, PowerLaw, fit_law, fit_power_schedule
from windtunnel.parts.schedules import (
    Cooldown,
    Infinite,
    OneMinusSqrt,
    Power,
    Rewarmed,
    cosine_to,
    linear_to_zero,
)
from windtunnel.runs import Run

HORIZONS = (400, 800, 1600, 3200)  # steps of 256 tokens
RATE = 2.0**-7  # the best of RATES at 800 steps, for WSD and for the cosine
WSD10 = Cooldown(warmup_tokens=WARMUP, decay=0.1)
COSINES = {"to 0.1": cosine_to(0.1, warmup_tokens=WARMUP), "to 0": cosine_to(0.0, warmup_tokens=WARMUP)}
LENGTHS = {"to 0.1": HORIZONS, "to 0": HORIZONS[1:3]}  # the second only to say what the floor does
HELD = Infinite(warmup_tokens=WARMUP, cooldown_tokens=200 * STEP, hold=0.5, decay=wt.tuned(0.05, 0.5), floor=0.01)
ANNEALS = (0.1, 0.15)
OTHERS = {
    "linear to zero": linear_to_zero(warmup_tokens=WARMUP),
    "1-sqrt over 20 %": Cooldown(warmup_tokens=WARMUP, decay=0.2, shape=OneMinusSqrt()),
}
BASE_STEPS = (200, 400, 800)
TARGET_RATES = (2.0**-7, 2.0**-6, 2.0**-5)
PEAK = 2.0**-5  # eta_max of the Power schedule: the top of the swept rates, all of which train
STAGE = 800  # steps on each of three domains


def at(found: Sequence[Run], steps: int, **numbers: float) -> list[Run]:
    """The runs of a horizon, in steps of their own batch, with these numbers."""
    return [
        r for r in found
        if r.spec.rung.tokens == steps * (r.spec.rung.batch or 1) * CONTEXT
        and all(r.spec.hyperparameters[n] == v for n, v in numbers.items())
    ]  # fmt: skip


def mean(found: Sequence[Run]) -> float:
    """Mean final loss over seeds; NaN where one diverged."""
    return float(np.mean([np.nan if run.loss is None else run.loss for run in found]))


def paired(ours: Sequence[Run], theirs: Sequence[Run]) -> dict[str, Any]:
    """Relative difference of final losses in percent, seed by seed: mean, standard error, n."""
    one, other = ({r.spec.seed: r.loss or np.nan for r in side} for side in (ours, theirs))
    return told([100 * (one[seed] / other[seed] - 1) for seed in sorted(one)])


def told(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Mean, standard error and n."""
    array = np.asarray(values, float)
    return {"mean": float(array.mean()), "error": float(array.std(ddof=1) / np.sqrt(len(array))), "n": len(array)}


def horizons() -> dict[str, Any]:
    """B16: the loss of four branches beside four separate runs, the cost, the drop of the decay, the exponent."""
    asked = grid(steps=HORIZONS, rates=(RATE,))
    branches = runs(WSD10, asked)
    found: dict[str, Any] = {"branches": {s: mean(at(branches, s)) for s in HORIZONS}}
    for name, schedule in COSINES.items():
        cosines = runs(schedule, grid(steps=LENGTHS[name], rates=(RATE,)))
        found[f"cosine {name}"] = {s: mean(at(cosines, s)) for s in LENGTHS[name]}
        found[f"branch over cosine {name}, %"] = {s: paired(at(branches, s), at(cosines, s)) for s in LENGTHS[name]}
        if LENGTHS[name] == HORIZONS:
            found["exponent"] = {"branches": exponent(branches), "cosines": exponent(cosines)}
    found["steps"] = {"trunk and branches": pack_steps(WSD10, asked), "separate": len(SEEDS) * sum(HORIZONS)}
    found["steps"]["share"] = found["steps"]["trunk and branches"] / found["steps"]["separate"]
    found["decay"] = {s: drop(at(branches, s)) for s in HORIZONS}
    found["rates at 800 steps"] = rates()
    return found


def rates() -> dict[str, dict[str, float]]:
    """The sweep that RATE was chosen by."""
    swept = {"WSD": WSD10, "cosine to 0.1": COSINES["to 0.1"]}
    return {
        n: {f"2^{np.log2(r):.0f}": mean(at(runs(s, grid(steps=(800,), rates=RATES)), 800, lr=r)) for r in RATES}
        for n, s in swept.items()
    }


def drop(found: Sequence[Run]) -> dict[str, Any]:
    """Fall of the judged loss over the last tenth, the decay, beside its fall a tenth from half-way to there.

    Over one tenth before, seeds' noise can make the slope nothing or negative, and a ratio of it anything.
    """
    falls = np.array([r.curve["judged_loss"][[4, 8, 9]] for r in found])
    before, last = (falls[:, 0] - falls[:, 1]) / 4, falls[:, 1] - falls[:, 2]
    ratio = float(last.mean() / before.mean())
    return {"fall a tenth before": told(before), "fall in the decay": told(last), "ratio of means": ratio}


def exponent(found: Sequence[Run]) -> dict[str, float]:
    """Exponent of L = E + B D^-beta over the horizons, with a 90 % interval from refitted draws."""
    fit = fit_law(PowerLaw("tokens"), Observations.from_runs(found), draws=200, seed=0)
    low, high = np.quantile(fit.draws[:, 2], (0.05, 0.95))
    return {"beta": float(fit.theta[2]), "low": float(low), "high": float(high)}


def power(base: int = 32, target: int = 64, lengths: Sequence[int] = (200, 400, 800)) -> dict[str, Any]:
    """B21: (a, b) at one width, then the schedule at another, four times the batch and tokens, and at its prefixes.

    `lengths` are the target's, in steps of four times the base's tokens.
    """
    there: dict[str, Any] = {"width": target, "batch": 4 * BATCH}
    fit = fit_power_schedule(runs(WSD10, grid(width=base, steps=BASE_STEPS, rates=RATES)))
    schedule = Power.of(a=round(fit.a, 6), b=round(fit.b, 3), peak=PEAK, batch_tokens=STEP, warmup_tokens=WARMUP)
    ours = runs(schedule, grid(steps=lengths, rates=(PEAK,), **there))
    swept = runs(WSD10, grid(steps=lengths, rates=TARGET_RATES, seeds=SEEDS[:1], **there))
    found: dict[str, Any] = {
        "widths": [base, target], "a": fit.a, "b": fit.b, "b_error": fit.b_error, "caveats": fit.caveats, "peak": PEAK,
        "knee in steps": {b: schedule.at_batch(b * STEP).knee_tokens / (b * STEP) for b in (1, 4)},
        "target sweep": {r: {s: mean(at(swept, s, lr=r)) for s in lengths} for r in TARGET_RATES},
        "rate foretold at the target": {s: fit.rate(4 * s * STEP, 4 * STEP) for s in lengths},
        "target": {},
    }  # fmt: skip
    best = {s: min(TARGET_RATES, key=lambda r, s=s: np.nan_to_num(mean(at(swept, s, lr=r)), nan=9)) for s in lengths}
    for rate in dict.fromkeys(best.values()):
        at_rate = [s for s in lengths if best[s] == rate]
        tuned = runs(WSD10, grid(steps=at_rate, rates=(rate,), **there))
        for s in at_rate:
            row = {"best swept rate": rate, "power": mean(at(ours, s)), "re-tuned WSD": mean(at(tuned, s))}
            found["target"][s] = row | {"power over re-tuned, %": paired(at(ours, s), at(tuned, s))}
    still = runs(replace(schedule, batch_tokens=None), grid(steps=lengths[:2], rates=(PEAK,), **there))
    found["target, knee of the base's batch"] = {
        s: paired(at(still, s), at(runs(WSD10, grid(steps=(s,), rates=(best[s],), **there)), s)) for s in lengths[:2]
    }
    found["base"] = at_base(schedule, base)
    return found


def at_base(schedule: Power, width: int) -> dict[int, Any]:
    """Prefixes with a decay beside WSD runs at the best rate swept for each length, where it was fitted."""
    longer = (1600,) if width == 32 else ()  # with the rate that was best at 800
    ours = runs(schedule, grid(width=width, steps=(*BASE_STEPS, *longer), rates=(PEAK,)))
    found = {}
    for steps in (*BASE_STEPS, *longer):
        swept = RATES if steps in BASE_STEPS else (RATE,)
        theirs = runs(WSD10, grid(width=width, steps=BASE_STEPS if steps in BASE_STEPS else HORIZONS, rates=swept))
        best = min(swept, key=lambda r, s=steps, t=theirs: mean(at(t, s, lr=r)))
        found[steps] = {"rate": best, "power over WSD, %": paired(at(ours, steps), at(theirs, steps, lr=best))}
    return found


def anneals() -> dict[str, Any]:
    """B58: how much of the cosine's gain over the held rate an anneal recovers, and its loss beside the cosine's."""
    held = runs(HELD, [a for decay in ANNEALS for a in grid(steps=HORIZONS, rates=(RATE,), decay=decay)])
    found: dict[str, Any] = {}
    for name, schedule in COSINES.items():
        cosines = runs(schedule, grid(steps=LENGTHS[name], rates=(RATE,)))
        for decay in ANNEALS:
            row = found.setdefault(f"anneal over {decay:.0%} beside cosine {name}", {})
            for steps in LENGTHS[name]:
                ours, theirs = at(held, steps, decay=decay), at(cosines, steps)
                row[steps] = {"over cosine, %": paired(ours, theirs)}
                if 2 * steps in HORIZONS:  # the longer run's trunk was judged half-way, at the held rate
                    trunk = at(held, 2 * steps, decay=decay)
                    row[steps]["recovered, %"] = recovered(trunk, ours, theirs)
    return found


def recovered(trunk: Sequence[Run], annealed: Sequence[Run], cosine: Sequence[Run]) -> dict[str, Any]:
    """Share of the fall from the held rate to the cosine's end: of means over seeds, and by seed; in percent."""
    before = np.array([r.curve["judged_loss"][len(r.curve["judged_loss"]) // 2 - 1] for r in trunk])
    ours, theirs = (before - np.array([r.loss for r in side]) for side in (annealed, cosine))
    share = float(100 * ours.mean() / theirs.mean())
    return {"of means": share, "by seed": (100 * ours / theirs).tolist(), "cosine's gain": told(theirs)}


def domains() -> dict[str, Any]:
    """B58: English, German captions, Python, one after another under three schedules at equal tokens."""
    stops = tuple(k * STAGE * STEP for k in (1, 2))
    arms = {
        "repeated cosine": Rewarmed(each=COSINES["to 0.1"], at_tokens=stops, warmup_tokens=WARMUP),
        "infinite": Infinite(warmup_tokens=WARMUP, cooldown_tokens=200 * STEP, hold=0.5, decay=0.05, floor=0.01),
        "infinite, held at a quarter": Infinite(
            warmup_tokens=WARMUP, cooldown_tokens=200 * STEP, hold=0.25, decay=0.05, floor=0.01
        ),
    }
    found: dict[str, Any] = {}
    for name, schedule in arms.items():
        judged = three_domains(schedule, RATE, STAGE)  # (stages, seeds, domains)
        end, first = judged[-1], judged[0, :, 0]
        found[name] = {
            "end of each stage": judged.mean(axis=1).tolist(), "by seed": judged.tolist(),
            "mean over domains": told(end.mean(axis=1)), "domain 1 at the end": told(end[:, 0]),
            "forgotten of domain 1": told(end[:, 0] - first),
        }  # fmt: skip
    base = np.array(found["repeated cosine"]["by seed"])
    for name in list(arms)[1:]:
        other = np.array(found[name]["by seed"])
        found[name]["mean loss over cosine's, %"] = told(100 * (other[-1].mean(1) / base[-1].mean(1) - 1))
        own, theirs = other[-1, :, 0] - other[0, :, 0], base[-1, :, 0] - base[0, :, 0]
        found[name]["forgetting over cosine's, %"] = told(100 * (own / theirs - 1))
        # from the same place: what the cosine's first stage, which was annealed, had reached
        found[name]["forgetting from cosine's place, %"] = told(100 * ((other[-1, :, 0] - base[0, :, 0]) / theirs - 1))
    return found


def choose() -> dict[Any, Any]:
    """The laws, fitted to runs of 800 steps, foretell every candidate at 2 and 4 times the budget."""
    asked = grid(steps=HORIZONS, rates=(RATE,))
    wsd, cosine = runs(WSD10, asked), runs(COSINES["to 0.1"], asked)
    shown = [("WSD", WSD10, wsd), ("cosine", COSINES["to 0.1"], cosine)]
    curves = [
        curve_of(at(r, s), part, peak=RATE, name=f"{n} {s}", training=True)
        for n, part, r in shown
        for s in HORIZONS[:2]
    ]
    fit = wt.fit_curves(curves)
    every: dict[str, tuple[Any, Callable[[int], list[Run]]]] = {
        "WSD, linear over 10 %": (WSD10, lambda s: at(wsd, s)),
        "cosine to 0.1": (COSINES["to 0.1"], lambda s: at(cosine, s)),
        "infinite, anneal over 15 %": (
            Infinite(warmup_tokens=WARMUP, cooldown_tokens=200 * STEP, hold=0.5, decay=0.15, floor=0.01),
            lambda s: at(runs(HELD, grid(steps=HORIZONS, rates=(RATE,), decay=0.15)), s, decay=0.15),
        ),
    }  # fmt: skip
    to_zero = runs(COSINES["to 0"], grid(steps=LENGTHS["to 0"], rates=(RATE,)))
    longer = {"cosine to 0": (COSINES["to 0"], lambda s: at(to_zero, s))} | {
        n: (part, lambda s, part=part: at(runs(part, grid(steps=(1600,), rates=(RATE,))), s))
        for n, part in OTHERS.items()
    }
    return {
        steps: beside(fit, every | (longer if steps == 1600 else {}), steps) | {"fitted to": [c.name for c in curves]}
        for steps in (1600, 3200)
    }


def beside(fit: Any, every: dict[str, tuple[Any, Callable[[int], list[Run]]]], steps: int) -> dict[str, Any]:
    """The choice at a budget, what was measured there, and what following it costs."""
    parts = {name: part for name, (part, _) in every.items()}
    choice = choose_schedule(fit, parts, budget=steps * STEP, tokens_per_step=STEP, peak=RATE)
    measured = {name: mean(found(steps)) for name, (_, found) in every.items()}
    best = min(measured, key=measured.__getitem__)
    rows = {
        n: {"foretold": i.median, "low": i.low, "high": i.high, "measured": measured[n], "inside": i.holds(measured[n]),
            "error, %": 100 * (i.median / measured[n] - 1)}
        for n, i in choice.finals.items()
    }  # fmt: skip
    order = [list(choice.finals), sorted(measured, key=measured.__getitem__)]
    one, other = ([names.index(n) for n in every] for names in order)
    return {
        "chosen": choice.best, "undecided": list(choice.undecided), "best measured": best,
        "regret, %": 100 * (measured[choice.best] / measured[best] - 1), "rows": rows, "caveats": list(choice.caveats),
        "rank correlation": float(np.corrcoef(one, other)[0, 1]),
        "spread of measured, %": 100 * (max(measured.values()) / measured[best] - 1),
    }  # fmt: skip


PARTS = {
    "horizons": horizons, "power": power, "power256": partial(power, 64, 256, (400, 800)), "anneals": anneals,
    "domains": domains, "choose": choose,
}  # fmt: skip


def main() -> None:
    """Measure parts and write them beside the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=[*PARTS])
    torch.set_num_threads(1)
    path = RESULTS / "schedules.json"
    for part in parser.parse_args().parts:
        found = PARTS[part]()
        print(json.dumps(found, indent=1), flush=True)
        before = json.loads(path.read_text("utf-8")) if path.exists() else {}
        write("schedules", {name: before[name] for name in PARTS if name in before} | {part: found})


if __name__ == "__main__":
    main()
