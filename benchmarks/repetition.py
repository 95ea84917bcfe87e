"""C10 on bytes: what repeating few tokens costs as models grow, which law foretells it, and what dropout gives back.

    python -m benchmarks.repetition train      # 18 cells of three seeds, and the dropout arms: half an hour of one core
    python -m benchmarks.repetition told       # writes benchmarks/results/repetition.json

Byte transformers of depth 2 on the standard library's source; every cell at the learning rate that was best for width
16 on fresh tokens, carried by muP. The law is fitted on the two smaller widths and judged on the largest. A newcomer
would compare repeated with fresh tokens at one width: the question is how the gap grows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

import windtunnel as wt
from benchmarks.common import interval, runs_of, train_or_tell, write
from windtunnel.laws import Chinchilla, EffectiveTokens, Overfitted, Sizes, fit_law
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.optimizers import AdamW
from windtunnel.parts.transforms import Dropout
from windtunnel.recipe import Judge, Recipe
from windtunnel.runs import Run

STORE = os.environ.get("WINDTUNNEL_REPETITION", "runs/repetition")
CONTEXT, BATCH, SEEDS = 64, 4, (0, 1, 2)
WIDTHS = (16, 32, 64)  # the laws are fitted on the first two
FEW, MORE, TOTAL = 20_000, 100_000, 400_000
CELLS = ((FEW, 20_000), (FEW, 80_000), (FEW, TOTAL), (MORE, MORE), (MORE, TOTAL), (TOTAL, TOTAL))  # unique, tokens
RATES = tuple(2.0**k for k in range(-9, -3))
TUNING_SEED = 900
DROPPED = (0.1, 0.2)


def recipe(rate: float = 0.0) -> Recipe:
    """The stock transformer on the standard library's source, with so much dropout."""
    base = wt.recipes.transformer_mup_adamw(data=wt.data.text(context=CONTEXT)).but(
        optimizer=AdamW(lr=wt.tuned(1e-4, 1.0)), batch=FixedBatch(examples=BATCH)
    )
    return base.but(transforms=(Dropout(rate=rate),)) if rate else base


def rung(width: int, unique: int, tokens: int) -> wt.Rung:
    """Heads 8 wide, depth 2."""
    return wt.Rung(width=width, depth=2, heads=width // 8, tokens=tokens, batch=BATCH, unique_tokens=unique)


def runs(arm: Recipe, size: wt.Rung, asked: Sequence[tuple[float, int]], *, stored: bool = False) -> list[Run]:
    """Runs by learning rate and seed, trained if the store lacks them; with `stored`, only those that are there."""
    judge = Judge(data=arm.data, tokens=65_536, evaluations=4)
    base = rung(16, TOTAL, TOTAL)
    return runs_of(STORE, arm, size, judge, asked, base=base, study="repetition", stored=stored)


def best_rate(*, stored: bool = False) -> float:
    """Of the smallest width on fresh tokens."""
    found = runs(recipe(), rung(16, TOTAL, 100_000).but(unique_tokens=100_000), [(lr, TUNING_SEED) for lr in RATES],
                 stored=stored)  # fmt: skip
    return min((run.loss or np.inf, run.spec.hyperparameters["lr"]) for run in found)[1]


def cell(width: int, unique: int, tokens: int, dropout: float = 0.0, *, stored: bool = False) -> list[Run]:
    """Three seeds."""
    lr = best_rate(stored=stored)
    return runs(recipe(dropout), rung(width, unique, tokens), [(lr, seed) for seed in SEEDS], stored=stored)


def losses(width: int, unique: int, tokens: int, dropout: float = 0.0) -> np.ndarray:
    """By seed."""
    return np.array([run.loss for run in cell(width, unique, tokens, dropout, stored=True)], float)


def told() -> dict[str, Any]:
    """The gap by width, the laws side by side, where passes stop helping, and what dropout gives back."""
    return {
        "rate": best_rate(stored=True),
        "loss": {f"width {w}, {u:,} unique, {t:,} tokens": interval(losses(w, u, t)) for w in WIDTHS for u, t in CELLS},
        "gap of 20 passes over 20,000 to 400,000 fresh": {
            **{f"width {w}": interval(losses(w, FEW, TOTAL) - losses(w, TOTAL, TOTAL)) for w in WIDTHS},
            "largest less smallest": interval(
                losses(WIDTHS[-1], FEW, TOTAL) - losses(WIDTHS[-1], TOTAL, TOTAL)
                - losses(WIDTHS[0], FEW, TOTAL) + losses(WIDTHS[0], TOTAL, TOTAL)
            ),
        },
        "laws": laws(),
        "dropout": {f"width {w}": dropout(w) for w in WIDTHS[1:]},
    }  # fmt: skip


def dropout(width: int) -> dict[str, Any]:
    """The share of the gap that dropout gives back, by its rate, and what it costs on fresh tokens."""
    gap = losses(width, FEW, TOTAL) - losses(width, TOTAL, TOTAL)
    found: dict[str, Any] = {}
    for rate in DROPPED:
        back = losses(width, FEW, TOTAL) - losses(width, FEW, TOTAL, rate)
        found[f"rate {rate:g}, share of the gap given back"] = interval(back / gap.mean())
    return found | {"bar": ">= 1/3 at the better rate"}


def laws() -> dict[str, Any]:
    """Each law fitted to all cells (AIC), and to the two smaller widths and judged on the largest."""
    everything = [run for w in WIDTHS for u, t in CELLS for run in cell(w, u, t, stored=True)]
    whole, wide = wt.Observations.from_runs(everything), wt.Observations.from_runs(_of(everything, WIDTHS[-1:]))
    below = wt.Observations.from_runs(_of(everything, WIDTHS[:-1]))
    found = {}
    forms = {
        "all tokens": Chinchilla(), "effective tokens": EffectiveTokens(), "effective tokens and parameters":
        EffectiveTokens(excess=True), "overfitted": Overfitted(),
    }  # fmt: skip
    for name, law in forms.items():
        fitted, before = fit_law(law, whole, draws=20, seed=0), fit_law(law, below, draws=20, seed=0)
        squares, count = float(np.sum(fitted.residuals**2)), len(fitted.theta)
        errors = np.log(wide.loss) - before.centre(_sizes(wide))
        found[name] = {
            "AIC": len(whole) * np.log(squares / len(whole)) + 2 * count, "parameters": count, "runs": len(whole),
            "error at the largest width, %": float(100 * np.sqrt(np.mean(errors**2))),
            "best passes over 20,000 at the largest width, foretold": _best_passes(before, wide),
        }  # fmt: skip
    measured = {t // FEW: float(losses(WIDTHS[-1], FEW, t).mean()) for u, t in CELLS if u == FEW}
    return found | {"measured at the largest width, by passes over 20,000": measured}


def _best_passes(fitted: Any, wide: wt.Observations) -> int:
    """Of those that were measured, the passes with the lowest foretold loss."""
    assert wide.params is not None
    horizons = np.array([t for u, t in CELLS if u == FEW], float)
    at = Sizes(
        params=np.full(len(horizons), wide.params[0]), tokens=horizons, unique_tokens=np.full(len(horizons), FEW)
    )
    return int(horizons[int(np.argmin(fitted.centre(at)))] // FEW)


def _sizes(o: wt.Observations) -> Sizes:
    return Sizes(params=o.params, tokens=o.tokens, unique_tokens=o.unique_tokens)


def _of(found: Sequence[Run], widths: Sequence[int]) -> list[Run]:
    return [run for run in found if run.spec.rung.width in widths]


def main() -> None:
    """Train what the store lacks, or tell what it has."""
    if train_or_tell(__doc__) == "told":
        print(write("repetition", told()))
        return
    print(f"learning rate {best_rate():.3g}", flush=True)
    for width in WIDTHS:
        for unique, tokens in CELLS:
            found = [run.loss for run in cell(width, unique, tokens)]
            print(f"width {width}, {unique:,} unique, {tokens:,} tokens: {np.round(np.array(found), 4)}", flush=True)
        for rate in DROPPED if width in WIDTHS[1:] else ():
            found = [run.loss for run in cell(width, FEW, TOTAL, rate)]
            print(f"width {width}, dropout {rate:g}: {np.round(np.array(found), 4)}", flush=True)


if __name__ == "__main__":
    main()
