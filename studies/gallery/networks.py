"""Ideas that change the network, each by the figure its facts propose: shared blocks, factors, prefixes, hypernetworks.

    python -m studies.gallery --only wider spectral nested hypernetworks

Bytes of the standard library, or digits for the hypernetwork; every arm has its own sweep of the learning rate. A
newcomer would give an arm the others' rate: the factors of a spectral step and experts want others than plain weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from statistics import mean

import numpy as np

import windtunnel as wt
from studies.gallery.arms import Difference, arm, paired, train
from studies.gallery.checks import Line, error, perceptron
from studies.gallery.strengths import LATE, Strengths
from windtunnel.ideas.invariant_hypernetwork import Hypernetwork, invariant_hypernetwork
from windtunnel.ideas.nested_widths import PrefixLoss, nested_widths
from windtunnel.ideas.sparse_spectral import sparse_spectral
from windtunnel.ideas.wider_not_deeper import shared_norms, wider_not_deeper
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.optimizers import AdamW, AdamWOn
from windtunnel.parts.transforms import LowRank
from windtunnel.recipe import Judge, Recipe
from windtunnel.runs import Run

SEEDS = (0, 1, 2, 3, 4)  # of digits; the first three of bytes
RATES = tuple(2.0**-n for n in range(7, 3, -1))
CONTEXT, TOKENS = 64, 51_200
BYTES = SEEDS[:3]


def judge(data: object, **options: object) -> Judge:
    """16,384 held-out tokens, once."""
    return Judge(data=data, tokens=16_384, evaluations=1, **options)  # type: ignore[arg-type]


def bytes_base() -> Recipe:
    """The gallery ladder's base: a byte transformer under muP, AdamW, four examples a step."""
    return wt.recipes.transformer_mup_adamw(data=wt.data.text(context=CONTEXT)).but(
        optimizer=AdamW(lr=wt.tuned(2**-12, 1)), batch=FixedBatch(examples=4)
    )


def loss(run: Run) -> float:
    """The judged loss."""
    return run.loss if run.loss is not None else float("inf")


def over(one: Sequence[Run], other: Sequence[Run]) -> Difference:
    """How much more an arm loses than another, in percent of it, seed by seed."""
    return paired([100 * loss(a) / loss(b) for a, b in zip(one, other, strict=True)], [100.0] * len(one))


def wider(store: wt.Store) -> list[Line]:
    """C58: one block of experts at six depths beside six blocks, and with the norms shared too; width 32."""
    base, size = bytes_base(), wt.Rung(width=32, depth=6, heads=4, tokens=TOKENS)
    arms = {"dense": base, "wide": wider_not_deeper(base), "tied": shared_norms(base)}
    rates = RATES[1:3]  # experts' range ends at 0.04, and each of these runs is six blocks deep
    runs = {n: arm(store, recipe, size, judge(base.data), BYTES, rates, loss) for n, recipe in arms.items()}
    wide, dense = (arms[name].size(arms[name].settled(size)) for name in ("wide", "dense"))
    claim, who = wider_not_deeper.__doc__ or "", "wider_not_deeper"
    parameters, active = wide.total / dense.total, (wide.total - wide.idle) / (dense.total - dense.idle)
    told = f"loss, % over six blocks of their own, at {parameters:.2f} of their parameters ({active:.2f} active) and "
    told += f"{wide.flops_per_token / dense.flops_per_token:.2f} of their FLOPs; bytes, width 32"
    first, norms = over(runs["wide"], runs["dense"]), over(runs["tied"], runs["wide"])
    return [
        Line(who, claim, told, first, "<= 1 at <= 0.5", first.high <= 1 and parameters <= 0.5),
        Line(who, claim, "loss with the norms shared too, % over norms of their own", norms, ">= 1", norms.low >= 1),
    ]


def spectral(store: wt.Store) -> list[Line]:
    """C26: what of the gap between LoRA from scratch and full training a rank of an eighth of the width closes."""
    base, size = bytes_base(), wt.Rung(width=32, depth=2, heads=4, tokens=TOKENS)
    thin = LowRank(of=base.model, rank=4, where="blocks.*")
    lora = base.but(transforms=(thin,), optimizer=AdamWOn(where="*.left,*.right,embedding*,readout*"))
    arms = {"full": base, "lora": lora, "spectral": sparse_spectral(base)}
    found = {n: arm(store, recipe, size, judge(base.data), BYTES, RATES, loss) for n, recipe in arms.items()}
    losses = {name: [loss(run) for run in runs] for name, runs in found.items()}
    rows = zip(losses["lora"], losses["spectral"], losses["full"], strict=True)
    closed = paired([100 * (low - mid) / (low - full) for low, mid, full in rows], [0.0] * len(BYTES))
    claim, who = sparse_spectral.__doc__ or "", "sparse_spectral"
    gap = over(found["lora"], found["full"])
    shares = {(32, 32): 4, (88, 32): 3}  # of a block's matrices; SwiGLU's hidden width at width 32 is 88
    trained = sum(n * (4 * (a + b) + min(a, b)) for (a, b), n in shares.items())
    share = trained / sum(n * a * b for (a, b), n in shares.items())
    told = f"gap between LoRA from scratch and full training closed, %, at {share:.0%} of the blocks' values a round"
    return [
        Line(who, claim, told + "; bytes, width 32", closed, ">= 50", closed.low >= 50 and share <= 0.35),
        Line(who, claim, "that gap: LoRA from scratch, % over full training", gap, "none", None),
    ]


def nested(store: wt.Store) -> list[Line]:
    """B11: each prefix of one network beside the network of that size alone, at the same steps; width 32."""
    base, shares = bytes_base(), (0.25, 0.5, 0.75, 1.0)
    sizes = {s: wt.Rung(width=int(32 * s), depth=2, heads=int(4 * s), tokens=TOKENS) for s in shares}
    alone = {s: arm(store, base, sizes[s], judge(base.data), BYTES, RATES, loss) for s in shares}
    probed = judge(base.data, probes=(PrefixLoss(shares),))
    one = arm(store, nested_widths(base), sizes[1.0], probed, BYTES, RATES, _mean_of_prefixes)
    claim, who, lines = nested_widths.__doc__ or "", "nested_widths", []
    for share in shares:
        pairs = zip(one, alone[share], strict=True)
        more = paired([100 * a.metrics[f"loss_at_{share:g}"] / loss(b) for a, b in pairs], [100.0] * 3)
        told = f"loss of the first {share:g} of the units, % over that network alone at the same steps; bytes, width 32"
        lines.append(Line(who, claim, told, more, "<= 3", more.high <= 3))
    params = [base.size(base.settled(sizes[s])).non_embedding for s in shares]
    slopes = {
        "nested": [_slope(params, [run.metrics[f"loss_at_{s:g}"] for s in shares]) for run in one],
        "alone": [_slope(params, [loss(alone[s][i]) for s in shares]) for i in range(3)],
    }
    ratio = paired([100 * a / b for a, b in zip(slopes["nested"], slopes["alone"], strict=True)], [100.0] * 3)
    told = "slope of log loss in log parameters read from one nested run, % over that of the separate ladder"
    return [*lines, Line(who, claim, told, ratio, "none", None)]


def _mean_of_prefixes(run: Run) -> float:
    return mean(value for name, value in run.metrics.items() if name.startswith("loss_at_"))


def _slope(sizes: Sequence[float], losses: Sequence[float]) -> float:
    return float(np.polyfit([log(n) for n in sizes], [log(value) for value in losses], 1)[0])


def hypernetworks(store: wt.Store) -> list[Line]:
    """B51: digits; what the hypernetwork gives out over strengths, gradients over strengths, and usable rates."""
    base = perceptron(wt.data.digits())
    idea = invariant_hypernetwork(base)
    arms = {"invariant": idea, "plain": idea.but(transforms=(Hypernetwork(of=base.model, invariant=False),))}
    probed = Judge(data=base.data, tokens=359, evaluations=1, probes=(Strengths(),))
    rates = [2.0**-n for n in range(11, 0, -1)]
    still = {n: train(store, r, rung(32, 1), probed, [({"lr": 1e-9}, s) for s in SEEDS]) for n, r in arms.items()}
    asked = [({"lr": lr}, seed) for seed in SEEDS for lr in rates]
    runs = {n: train(store, r, rung(1438, 4), probed, asked) for n, r in arms.items()}
    claim, who, lines = idea_claim(), "invariant_hypernetwork", []
    for name in ("invariant", "plain"):
        flat = paired([100 * run.metrics["spread_of_output"] for run in still[name]], [0.0] * len(SEEDS))
        bar, met = ("<= 10", flat.high <= 10) if name == "invariant" else ("none", None)
        told = f"spread over strengths of the norm of its output at the start, % of its mean, {name}; digits, width 32"
        lines.append(Line(who, claim, told, flat, bar, met))
    for when, of in (("at the start", still), (f"after training at a rate of {LATE:g}", _at(runs, rates, LATE))):
        both = zip(of["plain"], of["invariant"], strict=True)
        fold = paired([a.metrics["gradient_variance"] / b.metrics["gradient_variance"] for a, b in both], [0.0] * 5)
        told = f"variance of the gradient's norm over strengths {when}, plain over invariant"
        lines.append(Line(who, claim, told, fold, ">= 5", fold.low >= 5))
    usable = {
        n: [_usable(of[i * len(rates) : (i + 1) * len(rates)]) for i in range(len(SEEDS))] for n, of in runs.items()
    }
    wide = paired(usable["invariant"], usable["plain"])
    told = "doublings of the rate within 2 points of an arm's own best accuracy, more than the plain one's"
    lines.append(Line(who, claim, told, wide, ">= 2", wide.low >= 2))
    best = {
        n: [100 * (1 - min(map(error, of[i * len(rates) : (i + 1) * len(rates)]))) for i in range(5)]
        for n, of in runs.items()
    }
    told = "accuracy at the best rate, points over the plain one"
    return [*lines, Line(who, claim, told, paired(best["invariant"], best["plain"]), "none", None)]


def rung(examples: int, passes: int) -> wt.Rung:
    """Digits at width 32, two layers, so many passes."""
    return wt.Rung(width=32, depth=2, tokens=examples * passes, batch=32)


def idea_claim() -> str:
    """The hypernetwork's claim."""
    return invariant_hypernetwork.__doc__ or ""


def _at(runs: dict[str, list[Run]], rates: Sequence[float], rate: float) -> dict[str, list[Run]]:
    return {name: of[rates.index(rate) :: len(rates)] for name, of in runs.items()}


def _usable(runs: Sequence[Run]) -> float:
    """Doublings between neighbours in a row whose accuracy is near the best of all."""
    scores = [1 - error(run) if run.finished else 0.0 for run in runs]
    return float(sum(score >= max(scores) - 0.02 for score in scores))


NETWORKS: dict[str, Callable[[wt.Store], list[Line]]] = {
    "wider": wider,
    "spectral": spectral,
    "nested": nested,
    "hypernetworks": hypernetworks,
}
