"""How far a model is from what a learned optimizer was trained on: width, depth, steps, and what its state looks like.

Said in sentences before money is spent (`strange`), and again of a running optimizer's state. A newcomer would trust a
low meta-loss: it says nothing of other widths, depths and horizons, where learned rules fail without a warning
(2406.00153: at width 2048, at depth 16, after 8,000 steps).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from windtunnel.parts.learned.features import WHOLE, Moments
from windtunnel.parts.learned.weights import Weights
from windtunnel.scaling.table import ScaleTable

WIDER = 16.0  # times the width of training, up to which the muP arm was measured to hold (benchmarks/learned_quality)
ROOM = 0.5  # powers of ten beside the range seen in training that are not worth a word (guess)


def sizes_of(moments: Moments) -> dict[str, Tensor]:
    """By name, (batch,): momenta over the root of the mean second moment, and how uneven the second moments are."""
    mean = moments.square.mean(WHOLE).clamp(min=1e-36)
    found = {f"momentum {k}": m.square().mean(WHOLE).sqrt() / mean.sqrt() for k, m in enumerate(moments.means)}
    return found | {"unevenness": moments.square.square().mean(WHOLE).sqrt() / mean}


def ranges_of(many: Iterable[Moments]) -> dict[str, list[float]]:
    """By name, the lowest and highest log10 of `sizes_of` over all tensors that have had a gradient."""
    found: dict[str, list[Tensor]] = {}
    for moments in many:
        used = moments.square.mean(WHOLE) > 0
        for name, values in sizes_of(moments).items():
            found.setdefault(name, []).append(torch.log10(values[used].clamp(min=1e-12)))
    whole = {name: torch.cat(values) for name, values in found.items()}
    return {name: [float(v.min()), float(v.max())] for name, v in whole.items() if v.numel()}


def strange(
    weights: Weights, table: ScaleTable, *, steps: int | None = None, states: Iterable[Mapping[str, Tensor]] = ()
) -> list[str]:
    """What about this model, horizon and state is outside of the weights' training; empty where nothing is.

    `table` is `adopted.table`. `steps` is the length of the planned training, `states` are a running optimizer's, as in
    `optimizer.state.values()`.
    """
    card, said = weights.card, list[str]()
    widths, depths = (card.made.get(name, []) for name in ("widths", "depths"))
    if not (widths and depths):
        said.append("The card of these weights does not tell the widths and depths of their training.")
    hidden = [site.fan_in for site in table.sites.values() if site.role == "hidden"]
    width = max(hidden, default=max((site.fan_in for site in table.sites.values()), default=0))
    if widths and card.parametrization.get("rule") == "standard" and width > max(widths):
        said.append(
            f"The model is {width} wide and the weights were trained at {max(widths)} without a width rule: expect the "
            f"loss to grow with the width (measured: see docs/learned-optimizers.md)."
        )
    elif widths and width > WIDER * max(widths):
        said.append(
            f"The model is {width} wide; the weights were trained at {max(widths)}, and held up to 16 times it."
        )
    layers = max((site.layers for site in table.sites.values()), default=1)
    if depths and layers > 2 * max(depths):
        said.append(
            f"The model has {layers} layers; the weights were trained with {max(depths)}, and no rule covers depth."
        )
    if steps is not None and steps > card.horizon:
        said.append(
            f"{steps:,} steps are planned; the weights were trained on up to {card.horizon:,}. Past that, time stands "
            f"still in their features; a schedule that falls to zero is what was measured to hold."
        )
    return said + _of_states(card.made.get("ranges", {}), states)


def _of_states(ranges: Mapping[str, Any], states: Iterable[Mapping[str, Tensor]]) -> list[str]:
    many = []
    for state in states:
        held = {n.removeprefix("learned_"): t for n, t in state.items()}
        if "mean_0" in held:
            as_seen = [held[n].reshape(1, 1, 1, -1).float() for n in ("mean_0", "mean_1", "mean_2", "square")]
            many.append(Moments(tuple(as_seen[:3]), as_seen[3], as_seen[3], as_seen[3]))
    if not ranges or not many:
        return []
    said = []
    for name, (low, high) in ranges_of(many).items():
        least, most = ranges.get(name, (low, high))
        if low < least - ROOM or high > most + ROOM:
            said.append(
                f"The {name} of some tensor is 10^{low:.1f} to 10^{high:.1f}, and was 10^{least:.1f} to 10^{most:.1f} "
                f"in the weights' training."
            )
    return said
