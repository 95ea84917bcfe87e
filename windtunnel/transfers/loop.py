"""transfer_check(): the same question for a training loop of your own, as `wt.checks` runs it.

Trains every size at several learning rates and seeds, so it is the dearest check, and the only one that answers whether
the learning rate transfers. A newcomer would judge by the last batch's loss; give `evaluate`, a held-out loss, or many
steps: without one the loss is the mean over the last tenth of the training losses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import inf, isfinite

from torch import nn

from windtunnel.errors import InputError
from windtunnel.ladder import Rung
from windtunnel.recipe import Parametrization
from windtunnel.scaling.adopt import Adopted
from windtunnel.scaling.checks.setup import Report, Setup, Size, runs, start, train
from windtunnel.scaling.checks.wider import loss_at
from windtunnel.scaling.sizes import called
from windtunnel.transfers.carried import Comparison, compared
from windtunnel.tune import Tried


def transfer_check(
    setup: Setup,
    sizes: Sequence[Size],
    *,
    steps: int,
    rules: Mapping[str, Parametrization] | None = None,
    octaves: int = 2,
    seeds: Sequence[int] = (0, 1, 2),
    evaluate: Callable[[nn.Module], float] | None = None,
    at_growth: float | None = None,
    report: Report | None = None,
) -> Comparison:
    """Train every size with `setup.lr` times 2^-octaves to 2^octaves, and say whether the base's best rate transfers.

    `sizes[0]` is the base. `rules` None judges the setup's own; several are ranked by the loss at the carried rate.
    `evaluate` gives the loss to judge by, of a trained model. A run whose loss is not finite counts as diverged. Raises
    InputError for fewer than two sizes or sizes that do not grow, steps or octaves below 1, a seed given twice, losses
    that are not above 0, and as `wt.adopt` does.
    """
    if len(sizes) < 2 or steps < 1 or octaves < 1:
        raise InputError(
            f"transfer_check(sizes={list(sizes)}, steps={steps}, octaves={octaves}): it needs the base and a larger "
            f"size, at least a step, and at least an octave on either side of the rate."
        )
    rungs = [_rung(size, steps) for size in sizes]
    grown = [rung.width * rung.depth for rung in rungs]
    if any(large < small for small, large in pairwise(grown)) or not seeds or len(set(seeds)) < len(seeds):
        raise InputError(
            f"transfer_check(sizes={list(sizes)}, seeds={list(seeds)}): give sizes from small to large and each seed "
            f"once; the spread over seeds is the doubt."
        )
    setup = replace(setup, base=sizes[0])
    rates = [setup.lr * 2.0**k for k in range(-octaves, octaves + 1)]
    tried = {
        name: [_tried(replace(setup, rule=rule), name, size, rates, steps, seeds, evaluate, report) for size in sizes]
        for name, rule in (rules or {"as set up": setup.rule}).items()
    }
    return compared("lr", rungs, tried, at_growth, [f"{called(size)} after {steps} steps" for size in sizes])


def _tried(
    setup: Setup,
    name: str,
    size: Size,
    rates: Sequence[float],
    steps: int,
    seeds: Sequence[int],
    evaluate: Callable[[nn.Module], float] | None,
    report: Report | None,
) -> list[Tried]:
    found, scales = [], setup.scales(size)
    for rate in rates:
        for _, seed in runs(f"{name}, lr {rate:.3g}", [size], seeds, report):
            loss = _loss(replace(setup, lr=rate), scales, size, seed, steps, evaluate)
            found.append(Tried(rate, seed, loss if isfinite(loss) else None, f"the loss was {loss} at lr {rate:.3g}"))
    return found


def _loss(
    setup: Setup,
    scales: Adopted,
    size: Size,
    seed: int,
    steps: int,
    evaluate: Callable[[nn.Module], float] | None,
) -> float:
    run = start(setup, size, seed, scales)
    losses = list(train(setup, run, seed, steps))
    if not isfinite(losses[-1]):
        return inf
    loss = float(evaluate(run.model)) if evaluate else loss_at(losses, steps)
    if loss <= 0:
        raise InputError(
            f"A loss of {loss:g} at {called(size)}: rates are compared by shares of the loss, so it must be above 0. "
            f"Judge by an error or a cross-entropy; for an accuracy return 1 - accuracy."
        )
    return loss


def _rung(size: Size, steps: int) -> Rung:
    if isinstance(size, Rung):
        return size
    width, depth = size if isinstance(size, tuple) else (size, 1)
    return Rung(width=width, depth=depth, tokens=steps)
