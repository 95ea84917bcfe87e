"""Going on with new data: replay and re-warming (D2, D4) and half fine-tuning (C9), on real shifts.

Forgetting is the first domain's loss at the end less what it was when its own stage ended, in nats per token. A
newcomer would compare it at one learning rate; each arm here has its own, chosen by the mean over all its domains on
seeds that are judged nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from statistics import mean
from typing import Any

import numpy as np

import windtunnel as wt
from studies.gallery.arms import TUNING_SEEDS, Difference, arm, paired, train
from studies.gallery.checks import SEEDS, Line
from studies.gallery.checks_data import loss
from studies.gallery.domains import JUDGED, STEP, Stage, decoder, domain, rung, stage, there
from windtunnel.ideas.half_fine_tuning import HalfAdamW, half_fine_tuning
from windtunnel.ideas.replay import replay
from windtunnel.parts.probes import LossOn
from windtunnel.parts.schedules import Rewarmed, cosine_to
from windtunnel.recipe import Judge, Site
from windtunnel.runs import Run

RATES = (2.0**-8, 2.0**-7, 2.0**-6)
WIDTH, STEPS = 24, 200  # steps a stage
WARMUP = 20 * STEP
SHARES = (0.0, 0.01, 0.05, 0.25)
SHIFTS = {"prose to code": ("english", "python"), "prose to plays": ("english", "shakespeare")}


def replaying(store: wt.Store) -> list[Line]:
    """D2: re-warmed and re-decayed, with 5 % replay and without, beside training on both from the start."""
    if not there("english", "shakespeare"):
        return []
    strong, weak = (shifted(store, *SHIFTS[name]) for name in SHIFTS)
    claim, forgot = replay.__doc__ or "", {share: strong[share]["forgotten"] for share in SHARES}
    over = _over(strong[0.05]["mean"], strong["joint"]["mean"])
    times = _pairs([a / b for a, b in zip(forgot[0.0], forgot[0.05], strict=True)])
    lines = [
        Line("replay", claim, "English to Python, 5 % replay: mean of both losses, % over joint training", over, "<= 1",
             over.high <= 1),
        Line("replay", claim, "English to Python: forgetting without replay over that with 5 %", times, ">= 3",
             times.low >= 3),
    ]  # fmt: skip
    needed = [
        [_needed([found[s]["forgotten"][i] for s in SHARES]) for i in range(len(SEEDS))] for found in (strong, weak)
    ]
    more = paired(needed[0], needed[1])
    told = "replay share that leaves 0.1 nats of forgetting, %: English to Python less English to Shakespeare"
    lines.append(Line("replay", claim, told, more, "> 0", more.low > 0))
    for share in SHARES:
        told = f"English to Python: forgetting with {share:.0%} replay, nats"
        lines.append(Line("replay", claim, told, _pairs(forgot[share]), "", None))
    return lines


def shifted(store: wt.Store, old: str, new: str) -> dict[Any, dict[str, list[float]]]:
    """Share of replay, or "joint", to the mean of both losses and the forgetting, by seed."""
    cosine = cosine_to(0.1, warmup_tokens=WARMUP)
    again = Rewarmed(each=cosine, at_tokens=(STEPS * STEP,), warmup_tokens=WARMUP)
    plans, judge = (domain(old), domain(new)), _judging(old, new)
    staged = wt.data.successive(*plans, tokens=STEPS * STEP)
    mixes: dict[Any, Any] = {share: wt.data.successive(*plans, tokens=STEPS * STEP, replay=share) for share in SHARES}
    mixes[0.05] = replay(decoder(staged)).data
    arms = {share: decoder(data, schedule=again) for share, data in mixes.items()}
    arms["joint"] = decoder(wt.data.successive(*plans, tokens=STEP, replay=0.5), schedule=cosine)
    found = {}
    for name, recipe in arms.items():
        runs = arm(store, recipe, rung(WIDTH, 2 * STEPS), judge, SEEDS, RATES, _both)
        rate = runs[0].spec.hyperparameters["lr"]
        first = train(
            store,
            decoder(plans[0], schedule=cosine),
            rung(WIDTH, STEPS),
            judge,
            [({"lr": rate}, seed) for seed in SEEDS],
        )
        found[name] = {
            "mean": [_both(run) for run in runs],
            "forgotten": [
                a.metrics["loss_on_old"] - b.metrics["loss_on_old"] for a, b in zip(runs, first, strict=True)
            ],
        }
    return found


def rewarming(store: wt.Store) -> list[Line]:
    """D4: English to Shakespeare; losses just after re-warming, the end beside the lowest rate and a new network."""
    if not there("english", "shakespeare"):
        return []
    old, new = SHIFTS["prose to plays"]
    cosine, plans = cosine_to(0.1, warmup_tokens=WARMUP), (domain(old), domain(new))
    staged, at = wt.data.successive(*plans, tokens=STEPS * STEP), (STEPS * STEP,)
    arms = {
        f"{share:.0%}": Rewarmed(each=cosine_to(0.1, warmup_tokens=int(share * STEPS * STEP)), at_tokens=at,
                                 warmup_tokens=int(share * STEPS * STEP))
        for share in (0.0, 0.01, 0.05)
    }  # fmt: skip
    arms["lowest rate"] = Rewarmed(each=cosine, at_tokens=at, warmup_tokens=0, again=0.1)
    return _rewarmed(store, staged, arms, plans, cosine)


def _rewarmed(store: wt.Store, staged: Any, arms: Mapping[str, Any], plans: Any, cosine: Any) -> list[Line]:
    asked, claim = [({"lr": 2.0**-7}, seed) for seed in SEEDS], "Re-warming costs at first and pays at the end."
    curves = {}
    for name in ("old", "new"):
        judge = Judge(data=plans[name == "new"], tokens=JUDGED, evaluations=20)
        curves[name] = {n: train(store, decoder(staged, schedule=s), rung(WIDTH, 2 * STEPS), judge, asked)
                        for n, s in arms.items()}  # fmt: skip
    scratch = train(store, decoder(plans[1], schedule=cosine), rung(WIDTH, STEPS), judge, asked)
    ends = {n: [loss(r) for r in runs] for n, runs in curves["new"].items()} | {"scratch": [loss(r) for r in scratch]}
    lines, who = [], "Rewarmed (schedule)"
    for name, text in (("old", "English"), ("new", "Shakespeare")):
        # judged every 20 steps: the tenth is where the first stage ends, the eleventh where the warm-up of 5 % is over
        rise = [float(r.curve["judged_loss"][10] - r.curve["judged_loss"][9]) for r in curves[name]["5%"]]
        value = _pairs(rise)
        lines.append(
            Line(
                who, claim, f"{text}: loss after 20 steps of re-warming less before, nats", value, "> 0", value.low > 0
            )
        )
    for other in ("lowest rate", "scratch"):
        value = _over(ends["5%"], ends[other])
        lines.append(Line(who, claim, f"Shakespeare at the end, % over {other}", value, "< 0", value.high < 0))
    for share in ("0%", "1%"):
        value = _over(ends[share], ends["5%"])
        holds = value.low > -0.5 and value.high < 0.5
        lines.append(
            Line(
                who,
                claim,
                f"Shakespeare at the end, warm-up of {share}, % over that of 5 %",
                value,
                "within 0.5",
                holds,
            )
        )
    return lines


@dataclass(frozen=True, kw_only=True)
class HalfOfBlocks(HalfAdamW):
    """Half of the tensors within blocks; embedding and readout are always trained."""

    def numbers(self, tensors: Mapping[str, Site], seed: int, stretch: int) -> dict[str, dict[str, float]]:
        """Which tensors are trained."""
        half = super().numbers(tensors, seed, stretch)
        return {name: own if name.startswith("blocks.") else {"trained": 1.0} for name, own in half.items()}


def halves(store: wt.Store) -> list[Line]:
    """C9: English, then German, then Python; half of the weights in each later stage, against all of them."""
    return _halves(half_fine_tuning, "")


def halves_of_blocks(store: wt.Store) -> list[Line]:
    """C9 read otherwise: the paper halves within every layer, and bytes of a new domain need their embedding."""
    return _halves(lambda base: base.but(optimizer=HalfOfBlocks(lr=base.optimizer.lr)), "blocks only, ")


def _halves(change: Callable[[Any], Any], which: str) -> list[Line]:
    if not there("english", "german"):
        return []
    lines, claim, gains = [], half_fine_tuning.__doc__ or "", {}
    for width in (16, 48):
        full, half = (three_rounds(width, way) for way in (_as_it_is, change))
        gains[width] = full["mean"] - half["mean"]
        average, newest = _pairs(gains[width]), _over(half["newest"], full["newest"])
        less = _pairs(100 * (1 - half["forgotten"] / full["forgotten"]))
        for told, value, bar, holds in (
            ("mean loss of three domains, full less half, nats", average, "> 0", average.low > 0),
            ("forgetting of the first domain, % less than full", less, ">= 30", less.low >= 30),
            ("loss on the newest domain, % over full", newest, "<= 1", newest.high <= 1),
        ):
            lines.append(Line("half_fine_tuning", claim, f"{which}width {width}: {told}", value, bar, holds))
    shrinks = _pairs(gains[48] - gains[16])
    told = f"{which}gain in mean loss at width 48 less that at 16, nats"
    return [*lines, Line("half_fine_tuning", claim, told, shrinks, "< 0", shrinks.high < 0)]


def _as_it_is(base: Any) -> Any:
    return base


@cache
def three_rounds(width: int, change: Callable[[Any], Any]) -> dict[str, np.ndarray]:
    """Mean loss over the domains, forgetting of the first and loss on the newest, by seed, at the best of the rates."""
    best = min(RATES, key=lambda rate: _rounds(width, change, rate, TUNING_SEEDS)["mean"].mean())
    return _rounds(width, change, best, SEEDS)


def _rounds(width: int, change: Callable[[Any], Any], rate: float, seeds: tuple[int, ...]) -> dict[str, np.ndarray]:
    names = ("english", "german", "python")
    first = last = _learned(width, seeds)
    for number, name in enumerate(names[1:], 1):
        recipe = change(decoder(domain(name)))
        last = stage(recipe, rung(width, STEPS), rate, seeds, names, start=last.weights, number=number)
    return {
        "mean": np.mean([last.losses[name] for name in names], axis=0),
        "forgotten": last.losses["english"] - first.losses["english"],
        "newest": last.losses["python"],
    }


@cache
def _learned(width: int, seeds: tuple[int, ...]) -> Stage:
    """English, for twice as many steps: what there is to forget."""
    return stage(decoder(domain("english")), rung(width, 2 * STEPS), 2.0**-7, seeds, ("english",))


def _judging(old: str, new: str) -> Judge:
    return Judge(data=domain(new), tokens=JUDGED, evaluations=1,
                 probes=(LossOn(name="old", data=domain(old), tokens=JUDGED),))  # fmt: skip


def _both(run: Run) -> float:
    return mean((loss(run), run.metrics["loss_on_old"]))


def _needed(forgotten: Sequence[float], bar: float = 0.1) -> float:
    """The share, in percent, at which forgetting falls to `bar` nats, linear between shares; 25 if it does not."""
    if forgotten[0] <= bar:
        return 0.0
    for (low, a), (high, b) in pairwise(zip(SHARES, forgotten, strict=True)):
        if b <= bar:
            return 100 * (low + (high - low) * (a - bar) / (a - b))
    return 100 * SHARES[-1]


def _over(one: Any, other: Any) -> Difference:
    return _pairs([100 * (a / b - 1) for a, b in zip(one, other, strict=True)])


def _pairs(values: Any) -> Difference:
    """The mean of differences by seed."""
    return paired([float(value) for value in values], [0.0] * len(values))


CHECKS: dict[str, Callable[[wt.Store], list[Line]]] = {
    "replay": replaying,
    "re-warming": rewarming,
    "half": halves,
    "half of blocks": halves_of_blocks,
}
