"""compare_parametrizations(): which rule carries a hyperparameter up this ladder, by training, with evidence.

Every rule is tuned over the same values at every rung, with the same seeds and data, so that what the base's optimum
costs further up is measured and not assumed. At the base's size all rules are one and the same. A newcomer would stop
at a flat coordinate check; that catches a wrong exponent, while a transfer can also fail through decay, epsilon, gains
or the horizon. Too few seeds or a coarse grid end in "cannot tell", which is an answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.ladder import Rung
from windtunnel.launch.here import Here
from windtunnel.launch.one import spoken
from windtunnel.recipe import Judge, Parametrization, Recipe
from windtunnel.runs import Outcome, RunSpec
from windtunnel.store import Store
from windtunnel.train.data import check_held_out
from windtunnel.train.pack import Pack
from windtunnel.transfers.carried import Comparison, compared
from windtunnel.tune import Tried


def compare_parametrizations(
    recipe: Recipe,
    rules: Mapping[str, Parametrization],
    *,
    rungs: Sequence[Rung],
    store: Store,
    judge: Judge | None = None,
    values: Sequence[float] | None = None,
    seeds: int = 3,
    at_growth: float | None = None,
    launcher: Any = None,
    watch: Any = None,
) -> Comparison:
    """Train every rule at every rung over the tuned field's values, and say which one transfers.

    `recipe` leaves one field open, `tuned(low, high)`; `values` None are powers of 2 over its range. `rungs[0]` is the
    base; batch and horizon may grow too (then the batch part's `carry` acts). `at_growth` is how far the penalty is
    carried (None: twice the last rung's growth); growth is that of width times depth, of tokens where neither grows.
    Runs that the store holds are not trained again; `watch` follows as in `study.job`. Raises InputError for a recipe
    without exactly one open field, for fewer than two rungs, and for fewer than 3 values.
    """
    field, values = _asked(recipe, rungs, values)
    judge = judge or Judge(data=recipe.data, evaluations=1)
    check_held_out(judge)
    settled = [recipe.settled(rung) for rung in rungs]
    packs = {name: _packs(recipe.but(parametrization=r), settled, judge, field, values, seeds, name)
             for name, r in rules.items()}  # fmt: skip
    _train([pack for each in packs.values() for at in each for pack in at], store, launcher, watch)
    tried = {name: [tried_in(store, at, field) for at in each] for name, each in packs.items()}
    return compared(field, settled, tried, at_growth)


def _asked(recipe: Recipe, rungs: Sequence[Rung], values: Sequence[float] | None) -> tuple[str, list[float]]:
    ranges = recipe.tuned_fields()
    if len(ranges) != 1:
        raise InputError(
            f"compare_parametrizations varies one field; the recipe leaves {sorted(ranges) or 'none'} open. Fix the "
            f"others at the values tuned at the base, as in but(optimizer=AdamW(lr=tuned(1e-4, 1e-1)))."
        )
    if len(rungs) < 2:
        raise InputError(f"{len(rungs)} rung(s) given; a transfer needs the base and at least one larger rung.")
    (field, range_), *_ = ranges.items()
    powers = 2.0 ** np.arange(math.ceil(math.log2(range_.low)), math.floor(math.log2(range_.high)) + 1)
    chosen = powers if values is None else values
    if len(chosen) < 3:
        raise InputError(f"{len(chosen)} values of {field} to try; a basin needs 3. Widen tuned({range_.low:g}, ...).")
    return field, [float(v) for v in chosen]


def _packs(
    recipe: Recipe, rungs: Sequence[Rung], judge: Judge, field: str, values: Sequence[float], seeds: int, name: str
) -> list[list[Pack]]:
    """For every rung a pack a seed, with all values."""
    described, judged_by = recipe.describe(), judge.describe()

    def pack(rung: Rung, seed: int) -> Pack:
        asked = {"recipe": described, "rung": rung, "seed": seed, "judge": judged_by, "base_rung": rungs[0]}
        specs = tuple(RunSpec(hyperparameters={field: value}, **asked) for value in values)
        label = {"study": "parametrizations", "idea": name, "stage": "transfer"}
        return Pack(recipe=recipe, judge=judge, specs=specs, labels=tuple(label for _ in specs))

    return [[pack(rung, seed) for seed in range(seeds)] for rung in rungs]


def _train(packs: Sequence[Pack], store: Store, launcher: Any, watch: Any) -> None:
    left = [pack for pack in packs if any(store.find(spec) is None for spec in pack.specs)]
    left.sort(key=Pack.training_flops, reverse=True)
    if left and watch is not None:
        watch.stage("transfer", left)
    follow: dict[str, Any] = {} if watch is None else {"report": spoken(watch), "finished": watch.finished}
    if left:
        (launcher or Here())(left, store, **follow)


def tried_in(store: Store, packs: Sequence[Pack], field: str) -> tuple[Tried, ...]:
    """What the recorded runs of packs came to."""
    runs = [(spec, store.get(store.find(spec) or spec.key)) for pack in packs for spec in pack.specs]
    crashed = Outcome.CRASHED
    return tuple(
        Tried(spec.hyperparameters[field], spec.seed, r.loss, r.message, r.outcome is crashed) for spec, r in runs
    )
