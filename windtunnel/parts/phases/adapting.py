"""Pre-train the whole network on one text, then adapt it on the recipe's: all of it, or what a few tensors can do.

The pre-training's learning rate is the part's own, so that what is adapted does not depend on how; the recipe's is the
adaptation's. A newcomer would compare adapters whose pre-training had been tuned with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from windtunnel.errors import InputError
from windtunnel.ladder import Rung
from windtunnel.parts.optimizers.adamw_on import AdamWOn
from windtunnel.parts.schedules import Constant
from windtunnel.recipe import Recipe, Stretch, Weights


@dataclass(frozen=True, kw_only=True)
class Adapting:
    """`share` of the tokens on `first` (None: the recipe's data) with the whole network, the rest on the recipe's.

    Then the network has `transforms` besides, and of its tensors those are trained by AdamW whose name matches
    `trained` (patterns with commas between). `begin(ended)`, a part, gives new tensors their first values: from the
    weights after "pretrained" and, where `step_of` is not 0, after "one step", a step of full fine-tuning on so many
    examples. `share` 0: no pre-training.
    """

    first: Any = field(default=None, compare=False, repr=False)
    share: float = 0.5
    transforms: tuple[Any, ...] = ()
    trained: str = "*"
    begin: Any = None
    step_of: int = 0
    pretrain_lr: float = 0.016  # measured: the best of doublings for AdamW under muP on bytes, widths 16 to 32, 2 seeds
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise InputError(
                f"Adapting(share={self.share}): it is the pre-training's share of the tokens, 0 to below 1."
            )
        if self.share == 0 and (self.begin is not None or self.step_of):
            raise InputError(
                "Adapting with share=0 has nothing to begin from; give a share, or leave begin and step_of."
            )
        if self.first is not None:
            object.__setattr__(self, "fingerprint", self.first.fingerprint())

    def stretches(self, recipe: Recipe, rung: Rung) -> Sequence[Stretch]:
        """Pre-training, one step to look at where it is asked for, adaptation; the tokens together are the rung's."""
        if not hasattr(recipe.optimizer, "lr"):
            raise InputError(
                f"Adapting pre-trains at a learning rate of its own; {type(recipe.optimizer).__name__} has no field "
                f"lr; take an optimizer that has."
            )
        before, context = round(self.share * rung.tokens), recipe.data.shape().tokens_per_example
        found, left = [], rung.tokens - before - self.step_of * context
        if before:
            plain = replace(recipe.optimizer, lr=self.pretrain_lr)
            on = recipe.but(optimizer=plain, data=self.first or recipe.data)
            found.append(Stretch(name="pretrained", recipe=on, rung=rung.but(tokens=before)))
        if self.step_of:
            one = rung.but(tokens=self.step_of * context, batch=self.step_of)
            still = recipe.but(schedule=Constant(warmup=0.0))
            found.append(Stretch(name="one step", recipe=still, rung=one, start=_pretrained))
        adapted = recipe.but(transforms=(*recipe.transforms, *self.transforms), optimizer=self._optimizer(recipe))
        start = partial(_begun, begin=self.begin) if before else None
        return [*found, Stretch(name="adapted", recipe=adapted, rung=rung.but(tokens=left), start=start)]

    def _optimizer(self, recipe: Recipe) -> Any:
        if self.trained == "*":
            return recipe.optimizer
        same = ("lr", "beta1", "beta2", "eps", "weight_decay")
        return AdamWOn(
            where=self.trained,
            **{name: getattr(recipe.optimizer, name) for name in same if hasattr(recipe.optimizer, name)},
        )


def _pretrained(ended: Mapping[str, Weights]) -> Weights:
    return ended["pretrained"]


def _begun(ended: Mapping[str, Weights], *, begin: Any) -> Weights:
    return {**ended["pretrained"], **(begin(ended) if begin is not None else {})}
