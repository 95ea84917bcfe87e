"""Step directions of published optimizers at learning rate 1, in their plainest form: what a geometry is measured on.

Each takes the state of one tensor (a dict, changed), its gradient and the tensor. Second moments decay by 0.95, first
ones by 0.9, with bias correction; preconditioners are recomputed at every step.
"""

from __future__ import annotations

import torch
from torch import Tensor


def moments(state: dict, grad: Tensor) -> tuple[Tensor, Tensor]:
    state["count"] = state.get("count", 0) + 1
    state["mean"] = 0.9 * state.get("mean", 0) + 0.1 * grad
    state["square"] = 0.95 * state.get("square", 0) + 0.05 * grad * grad
    return state["mean"] / (1 - 0.9 ** state["count"]), state["square"] / (1 - 0.95 ** state["count"])


def sgd(state, grad, param):
    return moments(state, grad)[0]


def adam(state, grad, param):
    mean, square = moments(state, grad)
    return mean / (square.sqrt() + 1e-20)


def adam_atan2(state, grad, param):
    mean, square = moments(state, grad)
    return torch.atan2(mean, square.sqrt())


def lion(state, grad, param):
    return torch.sign(moments(state, grad)[0])


def sophia(state, grad, param):
    mean, square = moments(state, grad)
    return (mean / (0.05 * square.sqrt() + 1e-20)).clamp(-1, 1)


def factored(state, grad, param):
    """Adafactor without scaling by the parameter."""
    mean, _ = moments(state, grad)
    rows, columns = (grad.square().mean(dim, keepdim=True) + 1e-20 for dim in (1, 0))
    return mean / (rows * columns / rows.mean()).sqrt()


def adafactor(state, grad, param):
    """Adafactor with steps scaled by the parameter's root mean square."""
    return factored(state, grad, param) * param.square().mean().sqrt()


def lamb(state, grad, param):
    step = adam(state, grad, param)
    return step * param.norm() / step.norm()


def lars(state, grad, param):
    step = sgd(state, grad, param)
    return step * param.norm() / step.norm()


def orthogonal(state, grad, param):
    left, _, right = torch.linalg.svd(moments(state, grad)[0], full_matrices=False)
    return left @ right


def muon(state, grad, param):
    """Jordan's convention."""
    return orthogonal(state, grad, param) * (grad.shape[0] / grad.shape[1]) ** 0.5


def muon_matched(state, grad, param):
    """Moonshot's convention (2502.16982)."""
    return orthogonal(state, grad, param) * 0.2 * max(grad.shape) ** 0.5


def shampoo(state, grad, param):
    mean, _ = moments(state, grad)
    left, right = gram(state, grad)
    return inverse_root(left) @ mean @ inverse_root(right)


def soap(state, grad, param):
    """Adam in Shampoo's eigenbasis. Directions without gradient take no step (in practice eps sees to that)."""
    mean, _ = moments(state, grad)
    left, right = (torch.linalg.eigh(each)[1] for each in gram(state, grad))
    turned = left.mT @ grad @ right
    state["turned"] = 0.95 * state.get("turned", 0) + 0.05 * turned.square()
    root = (state["turned"] / (1 - 0.95 ** state["count"])).sqrt()
    return left @ (left.mT @ mean @ right / (root + 0.1 * root.max())) @ right.mT


def gram(state, grad):
    state["left"] = 0.95 * state.get("left", 0) + 0.05 * grad @ grad.mT
    state["right"] = 0.95 * state.get("right", 0) + 0.05 * grad.mT @ grad
    return state["left"], state["right"]


def inverse_root(matrix, power=-0.25):
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp_min(0) + 1e-10 * values.max()
    return vectors @ torch.diag(values**power) @ vectors.mT


BY_GEOMETRY = {
    "gradient": (sgd,),
    "entrywise": (adam, adam_atan2, lion, sophia, factored),
    "spectral": (muon,),
    "orthogonal": (orthogonal, shampoo, soap),
    "matched": (muon_matched,),
    "relative": (lamb, lars, adafactor),
}
