"""Products of a model's curvature with vectors: Hessian, generalised Gauss-Newton, and both preconditioned.

Nothing larger than the weights is ever held. A matrix is that of the mean loss over the batches given, at the weights
the model has when it is multiplied: train on, and the same Operator speaks of the new weights. A newcomer would leave
dropout on; the products are then of another matrix each time, which is refused.

Own code on torch.autograd instead of curvlinops (3.0.1, well kept): that one takes its own list of losses, while a
training loop has a closure, and a kernel without a second derivative is met by `differences`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from windtunnel.errors import InputError

# Of a central difference, over the weights' norm. The cube root of float32's rounding balances its two errors; products
# of float32 weights are then right to about 1e-3, of float64 to 1e-6 (measured in tests/test_curvature.py).
STEP = {torch.float32: 5e-3, torch.float64: 6e-6}

Loss = Callable[[nn.Module, Any], Tensor]
Outputs = Callable[[nn.Module, Any], Tensor]
OutputLoss = Callable[[Tensor, Any], Tensor]


@dataclass(frozen=True, eq=False)
class Operator:
    """A symmetric matrix of `size` rows, known by `multiply`: a vector (size,) to a vector (size,)."""

    size: int
    multiply: Callable[[Tensor], Tensor]
    device: torch.device
    dtype: torch.dtype

    def dense(self) -> Tensor:
        """The whole matrix, column by column: for a few thousand rows at most."""
        identity = torch.eye(self.size, dtype=self.dtype, device=self.device)
        return torch.stack([self.multiply(column) for column in identity], dim=1)


def hessian(model: nn.Module, loss: Loss, batches: Sequence[Any], *, differences: bool = False) -> Operator:
    """The Hessian of the mean over `batches` of `loss(model, batch)`, a scalar, in the weights that require a gradient.

    One batch gives the mini-batch Hessian. Batches weigh alike, so give them equal numbers of examples. Raises
    InputError without batches or weights, and for a loss that is no scalar or differs between two calls (dropout).

    By differentiating twice (Pearlmutter 1994); with `differences`, by central differences of gradients, for models
    with a layer that has no second derivative, as fused attention. Weights are moved and put back, bit for bit.
    """
    weights = _weights(model)
    _check(model, loss, batches)

    def slope() -> Tensor:
        return sum((gradient(model, loss, batch) for batch in batches), torch.zeros((), device=weights[0].device))

    def by_differences(vector: Tensor) -> Tensor:
        return _along(weights, vector, slope) / len(batches)

    def multiply(vector: Tensor) -> Tensor:
        total = torch.zeros_like(vector)
        for batch in batches:
            with _twice_differentiable():
                slopes = torch.autograd.grad(loss(model, batch), weights, create_graph=True, materialize_grads=True)
                total += _vector_product(slopes, weights, _parts(vector, weights))
        return total / len(batches)

    return _operator(weights, by_differences if differences else multiply)


def gauss_newton(
    model: nn.Module, outputs: Outputs, loss: OutputLoss, batches: Sequence[Any], *, differences: bool = False
) -> Operator:
    """The generalised Gauss-Newton matrix, J' H J, of the mean over `batches` of `loss(outputs(model, batch), batch)`.

    `outputs` gives a tensor, `loss` a scalar. J is the outputs' derivative in the weights, H the loss's Hessian in the
    outputs. It has no negative eigenvalue where the loss is convex in the outputs, and is the Hessian where they are
    linear in the weights. For cross-entropy it is the Fisher matrix. With `differences` J v is a central difference of
    outputs. Raises InputError as `hessian` does. Source: Schraudolph 2002.
    """
    weights = _weights(model)
    _check(model, lambda m, batch: loss(outputs(m, batch), batch), batches)

    def multiply(vector: Tensor) -> Tensor:
        total = torch.zeros_like(vector)
        for batch in batches:
            with _twice_differentiable():
                moved = _along(weights, vector, lambda batch=batch: outputs(model, batch)) if differences else None
                out = outputs(model, batch)
                if moved is None:
                    moved = _forward(out, weights, _parts(vector, weights))
                bent = _bent(out, moved, loss, batch)
                total += _flat(torch.autograd.grad(out, weights, bent, materialize_grads=True))
        return total / len(batches)

    return _operator(weights, multiply)


def preconditioned(operator: Operator, diagonal: Tensor) -> Operator:
    """D^-1/2 M D^-1/2 for a positive `diagonal` (size,): symmetric, with the eigenvalues of D^-1 M.

    For Adam D is sqrt(second moment) + epsilon, bias-corrected, flattened in the order of `model.parameters()`; its
    largest eigenvalue is what bounds Adam's learning rate (Cohen et al. 2207.14484). Raises InputError for a diagonal
    of another length or with entries that are not positive.
    """
    if diagonal.shape != (operator.size,) or not bool((diagonal > 0).all()):
        raise InputError(
            f"The diagonal is {tuple(diagonal.shape)} with least entry {float(diagonal.min()):g}; it needs "
            f"{operator.size} positive entries, one a weight: second_moment.sqrt() + eps of every tensor, flattened."
        )
    root = diagonal.to(operator.dtype).rsqrt()
    return Operator(operator.size, lambda v: root * operator.multiply(root * v), operator.device, operator.dtype)


def gradient(model: nn.Module, loss: Loss, batch: Any) -> Tensor:
    """The gradient of one batch as a vector, in the order of `model.parameters()` that require one."""
    weights = _weights(model)
    return _flat(torch.autograd.grad(_scalar(loss(model, batch)), weights, materialize_grads=True))


def batch_sharpness(model: nn.Module, loss: Loss, batches: Sequence[Any]) -> float:
    """Mean over batches of g' H g / g' g, gradient and Hessian of the same batch: what SGD at `lr` holds near 2 / lr.

    One product a batch. Source: "edge of stochastic stability", Andreyev and Beneventano 2412.20553 (abstract read).
    """
    _check(model, loss, batches)
    found = []
    for batch in batches:
        slope = gradient(model, loss, batch)
        bent = hessian(model, loss, [batch]).multiply(slope)
        found.append(float(slope @ bent / (slope @ slope)))
    return sum(found) / len(found)


def _forward(out: Tensor, weights: Sequence[Tensor], vectors: Sequence[Tensor]) -> Tensor:
    """J v: J'u is linear in u, so its derivative along u times v is J v, without forward-mode rules."""
    dummy = torch.zeros_like(out, requires_grad=True)
    pulled = torch.autograd.grad(out, weights, dummy, create_graph=True, materialize_grads=True)
    return torch.autograd.grad(pulled, dummy, vectors, retain_graph=True, materialize_grads=True)[0]


def _bent(out: Tensor, moved: Tensor, loss: OutputLoss, batch: Any) -> Tensor:
    """The loss's Hessian in the outputs, times `moved`."""
    leaf = out.detach().requires_grad_()
    slopes = torch.autograd.grad(loss(leaf, batch), [leaf], create_graph=True, materialize_grads=True)
    return _vector_product(slopes, [leaf], [moved]).view_as(out)


def _along(weights: Sequence[Tensor], vector: Tensor, value: Callable[[], Tensor]) -> Tensor:
    """The central difference of `value()` along `vector`; the weights are back as they were afterwards."""
    kept = [weight.detach().clone() for weight in weights]
    size, length = float(_flat(kept).norm()), float(vector.norm())
    if length == 0:
        return torch.zeros_like(value().detach())
    step = STEP.get(vector.dtype, STEP[torch.float32]) * max(size, 1.0) / length
    found = []
    try:
        for share in (step, -step):
            with torch.no_grad():
                for weight, before, part in zip(weights, kept, _parts(vector, weights), strict=True):
                    weight.copy_(before + share * part)
            found.append(value().detach())
    finally:
        with torch.no_grad():
            for weight, before in zip(weights, kept, strict=True):
                weight.copy_(before)
    return (found[0] - found[1]) / (2 * step)


def _vector_product(slopes: Sequence[Tensor], weights: Sequence[Tensor], vectors: Sequence[Tensor]) -> Tensor:
    """The derivative of slopes . vectors; zero where the slopes do not depend on the weights."""
    along = sum((slope * vector).sum() for slope, vector in zip(slopes, vectors, strict=True))
    if not isinstance(along, Tensor) or not along.requires_grad:
        return torch.zeros_like(_flat(vectors))
    return _flat(torch.autograd.grad(along, weights, materialize_grads=True))


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Attention in the form that has a second derivative; what still has none is named."""
    try:
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    except RuntimeError as error:
        if isinstance(error, NotImplementedError) or "derivative for" in str(error):
            raise InputError(
                f"A layer has no second derivative ({str(error).splitlines()[0]}). Measure by differences of first "
                f"ones: differences=True."
            ) from error
        raise


def _check(model: nn.Module, loss: Loss, batches: Sequence[Any]) -> None:
    if not isinstance(batches, Sequence) or not len(batches):
        raise InputError(
            f"batches is {type(batches).__name__}{'' if isinstance(batches, Sequence) else ' (read only once)'}; "
            f"give a list with at least one batch: every product goes over all of them."
        )
    with torch.no_grad():
        first, second = (_scalar(loss(model, batches[0])) for _ in range(2))
    if not torch.equal(first, second) and bool(torch.isfinite(first)):
        raise InputError(
            f"The loss of one batch was {float(first):.6g}, then {float(second):.6g}: it is random, so it has no "
            f"Hessian. Switch dropout off (model.eval()), or fix what the closure draws."
        )


def _scalar(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise InputError(f"loss returned {what}; it must return one number as a tensor, as cross_entropy does.")
    return value


def _weights(model: nn.Module) -> list[Tensor]:
    weights: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    if not weights:
        raise InputError("No weight of the model requires a gradient, so there is no curvature; unfreeze some.")
    return weights


def _operator(weights: Sequence[Tensor], multiply: Callable[[Tensor], Tensor]) -> Operator:
    return Operator(sum(w.numel() for w in weights), multiply, weights[0].device, weights[0].dtype)


def _parts(vector: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    return [part.view_as(w) for part, w in zip(vector.split([w.numel() for w in weights]), weights, strict=True)]


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
