"""What papers claim of the data's shape and order: short contexts first, coresets of a batch, hard batches.

Byte transformers on the standard library's source unless a check says otherwise; lines are those of `checks.py`. A
newcomer would compare at equal tokens; where an idea makes tokens cheaper, FLOPs to the base's loss are what counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import windtunnel as wt
from studies.gallery.arms import TUNING_SEEDS, arm, paired, train, tuned
from studies.gallery.checks import SEEDS, Line
from studies.gallery.domains import CONTEXT, domain, rung, stage, there
from studies.gallery.domains import decoder as continual_decoder
from windtunnel.ideas.coreset import coreset
from windtunnel.ideas.multigrid import multigrid
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.data.mixed import mixed
from windtunnel.parts.optimizers import AdamW
from windtunnel.parts.probes import LossByPosition, LossOn
from windtunnel.recipe import Judge, Recipe
from windtunnel.runs import Run

SHARES = (0.8, 0.15, 0.05)  # of English, German and Python
ADAPTING = 40  # steps
RATES = tuple(2.0**-k for k in (8, 7, 6, 5))


def decoder(data, examples: int) -> Recipe:
    """The stock decoder, AdamW under muP, on a text."""
    base = wt.recipes.transformer_mup_adamw(data=data)
    return base.but(optimizer=AdamW(lr=wt.tuned(2**-9, 2**-3)), batch=FixedBatch(examples=examples))


def loss(run: Run) -> float:
    """The judged loss; a run that did not finish has none and is worst."""
    return math.inf if run.loss is None else run.loss


def percent(one: Sequence[float], other: Sequence[float]):
    """Paired differences in percent of the other."""
    return paired([100 * a / b for a, b in zip(one, other, strict=True)], [100.0] * len(one))


def short_contexts(store: wt.Store) -> list[Line]:
    """B9: contexts 32, 64, 128, 256; FLOPs to the fixed context's loss, and the loss far back."""
    text, tokens = wt.data.text(context=256), 204_800
    base, claim = decoder(text, 2), multigrid.__doc__ or ""
    judge = Judge(data=text, tokens=32_768, evaluations=1, probes=(LossByPosition(first=200, last=256),))
    rungs = [wt.Rung(width=16, depth=4, heads=2, tokens=int(tokens * more)) for more in (1.0, 1.5)]
    fixed = arm(store, base, rungs[0], judge, SEEDS, RATES, loss)
    lr = tuned(store, multigrid(base), rungs[0], judge, RATES, loss)
    short, longer = (train(store, multigrid(base), r, judge, [({"lr": lr}, seed) for seed in SEEDS]) for r in rungs)
    shares = [100 * _flops_to(loss(f), s, more) / f.cost.flops for f, s, more in zip(fixed, short, longer, strict=True)]
    flops = paired(shares, [0.0] * len(shares))
    equal = percent([loss(r) for r in short], [loss(r) for r in fixed])
    back = percent(*([r.metrics["loss_at_200_to_256"] for r in runs] for runs in (short, fixed)))
    said = f"at equal tokens and {100 * short[0].cost.flops / fixed[0].cost.flops:.0f} % of the FLOPs, % over fixed"
    return [
        Line("multigrid", claim, "FLOPs to the fixed context's final loss, % of its", flops, "<= 70", flops.high <= 70),
        Line("multigrid", claim, f"loss at positions 200 to 256 {said}", back, "<= 0.5", back.high <= 0.5),
        Line("multigrid", claim, f"loss {said}", equal, "", None),
    ]


def coresets(store: wt.Store) -> list[Line]:
    """B4: English, German and Python 80/15/5; 32 chosen of 64 beside all 64, 32 drawn and 32 chosen source-blind."""
    data = three_sources(context=32)
    if data is None:
        return []
    full, rare = decoder(data, 64), LossOn(name="rare", data=data.plans[-1], tokens=16_384)
    judge = Judge(data=data, tokens=32_768, evaluations=1, probes=(rare,))
    whole, drawn = (_at_coresets(store, recipe, judge) for recipe in (full, decoder(data, 32)))
    return [
        line
        for weighted, name in ((False, "as they are"), (True, "weighted by their clusters"))
        for line in _chosen(store, full, judge, weighted, name, {"all 64": whole, "32 drawn": drawn})
    ]


def _chosen(store: wt.Store, full: Recipe, judge: Judge, weighted: bool, name: str, others: Any) -> list[Line]:
    claim, part = coreset.__doc__ or "", replace(coreset(full).objective, weighted=weighted)
    chosen, blind = (
        _at_coresets(store, full.but(objective=replace(part, keeps_small=keeps)), judge) for keeps in (True, False)
    )
    over = {who: percent([loss(r) for r in chosen], [loss(r) for r in runs]) for who, runs in others.items()}
    rare = percent(*([r.metrics["loss_on_rare"] for r in runs] for runs in (chosen, blind)))
    told, best = (
        f"from scratch, 32 of 64, medoids {name}: loss, % over ",
        {"all 64": ("<= 0.5", 0.5), "32 drawn": ("< 0", 0.0)},
    )
    lines = [
        Line("coreset", claim, told + who, over[who], bar, over[who].high <= at) for who, (bar, at) in best.items()
    ]
    told = f"from scratch, 32 of 64, medoids {name}: loss on the rarest source, % over choosing source-blind"
    return [*lines, Line("coreset", claim, told, rare, "<= -2", rare.high <= -2)]


def _at_coresets(store: wt.Store, recipe: Recipe, judge: Judge) -> list[Run]:
    size = wt.Rung(width=24, depth=2, heads=3, tokens=120 * recipe.batch.examples * 32)  # 120 steps of either batch
    return arm(store, recipe, size, judge, SEEDS, RATES[1:], loss)


def adapted_coresets(store: wt.Store) -> list[Line]:
    """B4 where the paper has it, going on: a network that has learned English, 40 steps on the mixture."""
    data = three_sources(context=CONTEXT)
    if data is None:
        return []
    full, claim = continual_decoder(data), coreset.__doc__ or ""
    chosen = coreset(full)
    arms = {
        "chosen": (chosen, 64), "all 64": (full, 64), "32 drawn": (full, 32),
        "blind": (full.but(objective=replace(chosen.objective, keeps_small=False)), 64),
    }  # fmt: skip
    found = {name: _adapted(recipe, examples) for name, (recipe, examples) in arms.items()}
    lines = []
    for who, bar, at in (("all 64", "<= 0.5", 0.5), ("32 drawn", "< 0", 0.0)):
        value = percent(found["chosen"][0], found[who][0])
        lines.append(Line("coreset", claim, f"adapting, 32 of 64: loss, % over {who}", value, bar, value.high <= at))
    rare = percent(found["chosen"][1], found["blind"][1])
    told = "adapting, 32 of 64: loss on the rarest source, % over choosing source-blind"
    return [*lines, Line("coreset", claim, told, rare, "<= -2", rare.high <= -2)]


def _adapted(recipe: Recipe, examples: int) -> tuple[Sequence[float], Sequence[float]]:
    """Loss on the mixture and on its rarest source, by seed, at the best of three rates."""

    def ended(rate: float, seeds: tuple[int, ...]) -> tuple[Any, Any]:
        start = stage(continual_decoder(domain("english")), rung(24, 400), 2.0**-7, seeds, ("english",)).weights
        size = rung(24, 1).but(batch=examples, tokens=ADAPTING * examples * CONTEXT)
        names = ("english", "german", "python")
        losses = stage(recipe, size, rate, seeds, names, start=start, number=1).losses
        return sum(share * losses[name] for share, name in zip(SHARES, names, strict=True)), losses["python"]

    best = min(RATES[:3], key=lambda rate: ended(rate, TUNING_SEEDS)[0].mean())
    mixture, rare = ended(best, SEEDS)
    return mixture.tolist(), rare.tolist()


def three_sources(context: int) -> Any:
    """English, German and Python mixed 80/15/5, or None where the texts are not there."""
    if not there("english", "german"):
        return None
    plans = (replace(domain(name), context=context, repeat=False) for name in ("english", "german", "python"))
    return mixed(*plans, weights=SHARES)


def _flops_to(target: float, short: Run, longer: Run) -> float:
    """FLOPs at which a line through two runs, log loss over log FLOPs, meets `target`; no less than the shorter's."""
    if loss(short) <= target:
        return short.cost.flops
    slope = math.log(loss(longer) / loss(short)) / math.log(longer.cost.flops / short.cost.flops)
    return short.cost.flops * math.exp(math.log(target / loss(short)) / slope) if slope < 0 else math.inf


CHECKS: dict[str, Callable[[wt.Store], list[Line]]] = {
    "short contexts": short_contexts,
    "coresets": coresets,
    "adapted coresets": adapted_coresets,
}
