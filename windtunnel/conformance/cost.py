"""Whether an idea costs what its parts declare: the FLOPs of a training step counted, beside the base's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from windtunnel.conformance.finding import Finding, failed, noted, passed
from windtunnel.conformance.places import place_of
from windtunnel.conformance.subject import CPU, WIDTH, Subject, at, pack_of
from windtunnel.recipe import Recipe
from windtunnel.train.data import pack_batch
from windtunnel.train.engine import Engine

# Counted over declared, relative to the base's. Matrix products are counted exactly on both sides (measured: the stock
# parts agree within 2 %), so what is more than this is a product that nobody declared.
MORE = 1.1


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Of two products; the causal half is not discounted, as sizes do not."""
    return sdpa_flop_count(query, key, value)


def _attention_backward(_grad: Any, query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any):
    """Of four; what is computed again is no FLOP of the model."""
    return 2 * sdpa_flop_count(query, key, value)


FUSED = {  # torch counts the GPU's fused attention and not the CPU's
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def costs(subject: Subject) -> Finding:
    """A token's forward and backward pass takes no more FLOPs than the recipe's size says."""
    if subject.recipe.phases is not None:
        return noted("its stretches are billed one by one, each by its own recipe")
    for width in (WIDTH, 2 * WIDTH):  # a formula that is right at one may be wrong at others
        (idea, declared), (base, ordinary) = (_counted(subject, r, width) for r in (subject.recipe, subject.base))
        told = f"{idea / base:.2f} times the base's FLOPs a token, {declared / ordinary:.2f} declared"
        told += f" (width {width})"
        if idea / base > MORE * declared / ordinary:
            break
    else:
        return passed(told)
    mine = subject.recipe.optimizer != subject.base.optimizer
    return failed(
        f"it costs more than it declares: {told}",
        place_of(subject.recipe.optimizer) if mine else subject.network,
        "Say it: cost = 2.0 on a part whose step takes twice the FLOPs; size(size, rung, data) -> Size on a transform, "
        "or in the model part's own size. Laws and verdicts are at equal FLOPs.",
    )


def _counted(subject: Subject, recipe: Recipe, width: int) -> tuple[float, float]:
    """FLOPs a token of the gradients of one step, counted and declared; an update's own are not a token's."""
    pack = pack_of(recipe, subject.judge, [(at(recipe, 0.5), 0)], 1, width)
    engine = Engine(pack, CPU, False, False)
    state, size = engine.start(), pack.rung.batch or 1
    inputs, targets = pack_batch(recipe.data, [0], 0, size, CPU)
    places = engine.visits.places([0], 0, CPU) if state.memory else None
    given, hps = engine.given(state, places), engine.scheduled(state, {0: 1.0})
    with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
        engine.gradients(state.params, state.states, hps, inputs, targets, given)
    # experts that a token does not meet are computed here and multiplied by zero; what a token needs does not hold them
    declared = engine.size.flops_per_token + 6.0 * engine.size.idle
    return counter.get_total_flops() / pack.tokens_per_step(), declared
