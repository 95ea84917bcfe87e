"""The ladder of `answer.py` and its runs: every run that either way of asking buys, trained once by windtunnel.

Learning rates on a grid at every width, then all horizons at the rate that each study found. A newcomer would give the
warm-up as a share of the horizon; then no horizons share a trunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

import windtunnel as wt
from benchmarks.answer_replay import Landscape
from windtunnel.launch.here import Here
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.optimizers import AdamW
from windtunnel.parts.schedules import WSD
from windtunnel.recipe import Judge, Recipe, Tuned
from windtunnel.runs import Run, RunSpec
from windtunnel.store import Store
from windtunnel.train.pack import Pack
from windtunnel.tune import coarse_values

CONTEXT, BATCH, DEPTH, HEAD = 64, 16, 2, 8  # runs differ by 0.8 % from seed to seed, with 4 by 1 % (measured)
WIDTHS = (16, 24, 32, 40, 48, 64, 80, 96)
HORIZONS = tuple(k * 163_840 for k in (1, 2, 3, 4))  # tokens; values are tuned at the first
RANGE = Tuned(2.0**-10, 2.0**-4)  # as in benchmarks/transfer.py, whose probe it comes from
POINTS = 9  # of them every second is windtunnel's coarse sweep, and its fine one lies on the grid too
STUDIES = 3
JUDGED, EVALUATIONS = 16_384, 6  # held-out tokens, and how often the pruner sees a loss


def seeds_of(study: int) -> tuple[int, int]:
    """The two seeds of a study; studies share none."""
    return study, study + STUDIES


def rung(width: int, tokens: int) -> wt.Rung:
    """A size of the ladder."""
    return wt.Rung(width=width, depth=DEPTH, heads=width // HEAD, tokens=tokens, batch=BATCH)


@cache
def recipe() -> Recipe:
    """Bytes of the standard library, AdamW under muP; the warm-up is the same for every horizon, so they share it."""
    base = wt.recipes.transformer_mup_adamw(data=wt.data.text(context=CONTEXT))
    schedule = WSD(warmup_tokens=HORIZONS[0] // 10)
    return base.but(
        optimizer=AdamW(lr=wt.tuned(RANGE.low, RANGE.high)), batch=FixedBatch(examples=BATCH), schedule=schedule
    )


def packed(asked: Sequence[tuple[int, int, float, int]], evaluations: int) -> Pack:
    """One pack of (width, tokens, learning rate, seed)."""
    judge = Judge(data=recipe().data, tokens=JUDGED, evaluations=evaluations)
    described, base = recipe().describe(), rung(WIDTHS[0], HORIZONS[0])
    specs = [
        RunSpec(
            recipe=described, rung=rung(width, tokens), hyperparameters={"lr": rate}, seed=seed,
            judge=judge.describe(), base_rung=base,
        )
        for width, tokens, rate, seed in asked
    ]  # fmt: skip
    return Pack(recipe=recipe(), specs=tuple(specs), judge=judge)


def grids() -> list[Pack]:
    """All learning rates at every width; both seeds of every study at the base, one elsewhere."""
    rates = coarse_values(RANGE, POINTS)
    return [
        packed([(width, HORIZONS[0], rate, seed) for rate in rates], EVALUATIONS)
        for width in WIDTHS
        for seed in range(2 * STUDIES if width == WIDTHS[0] else STUDIES)
    ]


def trunks(rates: Sequence[float]) -> list[Pack]:
    """All horizons at every width with both seeds of every study, at the rate that the study found."""
    return [
        packed([(width, tokens, rate, seed) for seed in seeds_of(study) for tokens in HORIZONS], 1)
        for width in reversed(WIDTHS)
        for study, rate in enumerate(rates)
    ]


def trained(packs: Sequence[Pack], store: Store, workers: int) -> list[list[Run]]:
    """The runs of every pack, trained where the store lacks them."""
    Here(devices=workers)(packs, store)
    return [[store.get(spec.key) for spec in pack.specs] for pack in packs]


def landscapes(packs: Sequence[Pack], runs: Sequence[Sequence[Run]]) -> dict[int, dict[int, Landscape]]:
    """Width to seed to the measured losses over learning rates."""
    found: dict[int, dict[int, Landscape]] = {width: {} for width in WIDTHS}
    for pack, group in zip(packs, runs, strict=True):
        flops = group[0].size.training_flops(HORIZONS[0])
        losses = np.array([run.curve["judged_loss"] for run in group])
        rates = tuple(run.spec.hyperparameters["lr"] for run in group)
        found[pack.rung.width][pack.specs[0].seed] = Landscape(rates, losses, flops)
    return found
