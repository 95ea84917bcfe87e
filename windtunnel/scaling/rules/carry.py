"""Carry: how an optimizer's own values follow when the batch and the horizon grow, one published rule a function.

Each takes `batch` and `tokens`, the growth of the tokens a step and of the tokens in all over the base, and returns
factors for the base's values. A newcomer would take one rule for granted. They disagree: at a fixed batch every study
has the learning rate fall with the horizon, the Step Law has it rise because its batch grows along. So none is applied
unasked, and a ladder that varies batch or horizon can tell which holds (`Transfer` in tune.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from windtunnel.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Carry:
    """Factors: on the learning rate, on 1 - beta1 and 1 - beta2, on epsilon, and on PyTorch's decay (times lr).

    `applied` gives the values at the new batch and horizon.
    """

    lr: float = 1.0
    forget1: float = 1.0
    forget2: float = 1.0
    eps: float = 1.0
    decay: float = 1.0

    def applied(self, values: Mapping[str, float]) -> dict[str, float]:
        """An optimizer's values by name (`lr` and `..._lr`, `beta1`, `momentum`, `beta2`, `eps`, `weight_decay`).

        Other names stay. Raises InputError where a beta would fall to zero or below: the rule does not reach so far.
        """
        return {name: self._applied(name, value) for name, value in values.items()}

    def _applied(self, name: str, value: float) -> float:
        if name == "lr" or name.endswith("_lr"):
            return value * self.lr
        if name in ("beta1", "momentum", "beta2"):
            grows = self.forget2 if name == "beta2" else self.forget1
            forget = (1 - value) * grows
            if forget >= 1 and grows != 1:
                raise InputError(
                    f"{name}={value:g} would become {1 - forget:g} at this batch and horizon; the rule needs memories "
                    f"of more than a step. Grow the batch less, or take a rule that leaves {name} alone."
                )
            return 1 - forget
        return value * {"eps": self.eps, "weight_decay": self.decay}.get(name, 1.0)


def unchanged(batch: float, tokens: float) -> Carry:
    """The base's values as they are: what happens when nobody decides."""
    return Carry()


def linear(batch: float, tokens: float) -> Carry:
    """SGD below the critical batch: lr in proportion (Goyal et al. 1706.02677)."""
    return Carry(lr=batch)


def square_root(batch: float, tokens: float) -> Carry:
    """Adam as a stochastic differential equation (Malladi et al. 2205.10287), where gradient noise dominates.

    The decay is ours: lr x decay per token stays what it was, as in the equation's own time.
    """
    return Carry(lr=batch**0.5, forget1=batch, forget2=batch, eps=batch**-0.5, decay=batch**0.5)


def constant_rate(batch: float, tokens: float) -> Carry:
    """AdamW with one learning rate for all batches (ArchScale's code): memory, epsilon and decay follow instead."""
    return Carry(forget2=batch**0.5, eps=batch**-0.5, decay=batch**0.5)


def complete(batch: float, tokens: float) -> Carry:
    """Complete(d)P (2512.22382): batch and duration together; its decay is PyTorch's."""
    each = batch / tokens
    return Carry(lr=each**0.5, forget1=each, forget2=each, eps=each**-0.5, decay=each**0.5)


def power_scheduler(batch: float, tokens: float) -> Carry:
    """lr in proportion to the batch and to tokens^-0.51 (Shen et al. 2408.13359; muP, warm-up, power decay)."""
    return Carry(lr=batch * tokens**-0.51)


def shorter_rate(batch: float, tokens: float) -> Carry:
    """lr as tokens^-0.32 at a fixed batch (Bjorck et al. 2409.19913; sizes differ between -0.3 and -0.7)."""
    return Carry(lr=tokens**-0.32)


def timescale(batch: float, tokens: float) -> Carry:
    """Decay so that the weights' memory, batch / (lr x decay), stays a share of all tokens (Bergsma et al. 2505.13738).

    lr stays; compose with a rule for it by giving its decay up.
    """
    return Carry(decay=batch / tokens)


def surge(batch: float, noise_batch: float) -> float:
    """Best learning rate of sign-like optimizers over its highest, at `batch` tokens (Li et al. 2405.14578).

    It rises as the square root below `noise_batch`, is 1 there, and falls again beyond. `noise_batch` is the critical
    batch of the gradient's noise, in the same unit.
    """
    ratio = (noise_batch / batch) ** 0.5
    return 2 / (ratio + 1 / ratio)


def critical_batch(tokens: float) -> float:
    """Growth of the batch beyond which more data parallelism wastes data: tokens^0.47, hardly moved by the model's size
    (Zhang et al. 2410.21676; 0.46 to 0.5 in 2505.13738)."""
    return tokens**0.47


def step_law(params: float, tokens: float) -> dict[str, float]:
    """Step Law (2503.04715): best peak lr and batch in tokens of dense decoders, `params` without embeddings.

    lr = 1.79 N^-0.713 D^0.307, batch = 0.58 D^0.571, fitted up to a billion parameters in the standard parametrization.
    An absolute law of one recipe: a place to begin a search.
    """
    return {"lr": 1.79 * params**-0.713 * tokens**0.307, "batch_tokens": 0.58 * tokens**0.571}


def deepseek_law(flops: float) -> dict[str, float]:
    """DeepSeek LLM (2401.02954): best peak lr and batch in tokens at a compute-optimal split of `flops`."""
    return {"lr": 0.3118 * flops**-0.125, "batch_tokens": 0.2920 * flops**0.327}


RULES = (unchanged, linear, square_root, constant_rate, complete, power_scheduler, shorter_rate, timescale)
