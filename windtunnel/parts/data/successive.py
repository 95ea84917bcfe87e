"""One data plan after another: a model is trained on the first text, then goes on with the next.

What each stage reads is the plan's own order from its beginning, whatever the batch size, and `replay` mixes examples
of the earlier plans into the later stages, read again from their beginning. A newcomer would draw which examples are
old; here every k-th one is, so that a run can be resumed at any step and small batches are not all old or all new.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.parts.data.order import check_alike
from windtunnel.recipe import DataShape


@dataclass(frozen=True)
class Successive:
    """A DataPlan over several; see `successive` for what the fields mean."""

    plans: tuple[Any, ...]
    tokens: tuple[int, ...]
    replay: float = 0.0

    def __post_init__(self) -> None:
        counts_fit = len(self.tokens) == len(self.plans) - 1 and all(t > 0 for t in self.tokens)
        if len(self.plans) < 2 or not counts_fit or not 0 <= self.replay < 1:
            raise InputError(
                f"successive was given {len(self.plans)} plans, tokens={self.tokens} and replay={self.replay}; give "
                f"two plans or more, the tokens of every stage but the last, and replay as a share in [0, 1)."
            )
        check_alike(self.plans)
        for number, (plan, tokens) in enumerate(zip(self.plans, self.tokens, strict=False), 1):
            if tokens > plan.shape().train_tokens and not plan.repeat:
                raise InputError(
                    f"Stage {number} is to last {tokens:,} tokens, but its plan has {plan.shape().train_tokens:,}; "
                    f"give it more text, allow more than one pass with repeat=True, or make the stage shorter."
                )

    @property
    def repeat(self) -> bool:
        """Whether the last stage, which has no end, may be read more than once."""
        return bool(self.plans[-1].repeat)

    def shape(self) -> DataShape:
        """That of the plans; the tokens of all stages, the last with all it has."""
        own = self.plans[-1].shape()
        last = int(own.train_tokens / (1 - self.replay))
        return DataShape(
            classes=own.classes,
            tokens_per_example=own.tokens_per_example,
            train_tokens=sum(self.tokens) + last,
            example_shape=own.example_shape,
        )

    def fingerprint(self) -> str:
        """Hash of what the plans are, how long their stages and how much is replayed."""
        said = f"successive {[p.fingerprint() for p in self.plans]} {self.tokens} {self.replay!r}"
        return hashlib.sha256(said.encode()).hexdigest()[:20]

    def batch(self, *, seed: int, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of a step; a step belongs to the stage in which it begins."""
        stage, first = self._stage(step, size)
        if not stage or not self.replay:
            return self.plans[stage].batch(seed=seed, step=step - first, size=size)
        numbers = range((step - first) * size, (step - first + 1) * size)
        pairs = [self._example(stage, n, seed) for n in numbers]
        inputs, targets = (np.concatenate([pair[i] for pair in pairs]) for i in (0, 1))
        return inputs, targets

    def held_out(self, *, size: int, tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """An equal share of every plan's validation examples: its mean is the mean over what has been trained on."""
        for plan in self.plans:
            yield from plan.held_out(size=size, tokens=tokens // len(self.plans))

    def _stage(self, step: int, size: int) -> tuple[int, int]:
        """The stage of a step, and the stage's first step."""
        a_step = size * self.plans[0].shape().tokens_per_example
        firsts = [0, *(-(-total // a_step) for total in accumulate(self.tokens))]
        stage = max(i for i, first in enumerate(firsts) if first <= step)
        return stage, firsts[stage]

    def _example(self, stage: int, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The `number`-th example of a stage: old where the replayed share passes a whole number there."""
        old = int(number * self.replay)
        if int((number + 1) * self.replay) == old:
            return self.plans[stage].batch(seed=seed, step=number - old, size=1)
        turn, which = divmod(old, stage)
        shape = self.plans[which].shape()
        count = shape.train_tokens // shape.tokens_per_example
        return self.plans[which].batch(seed=seed, step=turn % count, size=1)  # a small plan is replayed again and again


def successive(*plans: Any, tokens: Any, replay: float = 0.0) -> Successive:
    """`plans` one after another: `tokens` is how many the stages but the last are trained on, a count or one for each.

    `replay` is the share of a later stage's examples that come from the earlier plans, in turns (2403.08763 needed 1 to
    5 % for a weak shift and up to 50 % for another language). Raises InputError where the plans do not fit together.
    """
    counts = tuple(tokens) if isinstance(tokens, tuple | list) else (tokens,) * (len(plans) - 1)
    return Successive(tuple(plans), tuple(int(t) for t in counts), float(replay))
