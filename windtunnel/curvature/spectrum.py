"""Eigenvalues of an Operator: the largest by Lanczos or power iteration, all of them as a density (quadrature).

Every answer carries its own doubt: a Ritz value lies within its residual of a true eigenvalue, a density's moment has
the standard error of its probes. A newcomer would trust a dozen power iterations: they converge as the ratio of the two
largest eigenvalues, which in a network is near one; `converged` says whether they did.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from windtunnel.curvature.products import Operator
from windtunnel.errors import InputError
from windtunnel.notebook import printed

CHUNK = 20  # a network's top eigenvalue rarely takes more products to 2 % (measured on the digits' perceptron)
EXHAUSTED = 1e-6  # a next Lanczos vector this short, against the largest so far, is rounding: the space is exhausted


@dataclass(frozen=True, eq=False)
class Ritz:
    """What Lanczos knows after `steps` products: `values` (ascending), `weights` (sum 1; share of the start vector that
    each holds), `errors` (a true eigenvalue lies within each), and the `basis` (steps, size) if it was kept."""

    values: np.ndarray
    weights: np.ndarray
    errors: np.ndarray
    vectors: np.ndarray
    basis: Tensor

    @property
    def steps(self) -> int:
        """Products taken; fewer than asked where the start vector's space was exhausted."""
        return len(self.values)


@dataclass(frozen=True, eq=False)
class Eigenvalue:
    """One eigenvalue: some true one lies within `error` of `value`; `vector` (size,) has length 1.

    `converged` is False where `products` ran out before the relative tolerance was met.
    """

    value: float
    error: float
    products: int
    converged: bool
    vector: Tensor

    _repr_pretty_ = printed

    def __str__(self) -> str:
        doubt = "" if self.converged else ", not converged"
        return f"{self.value:.4g} (residual {self.error:.1g}, {self.products} products{doubt})"


@dataclass(frozen=True, eq=False)
class Density:
    """The spectrum as `probes` quadratures: `nodes` and `weights` (probes, steps), weights of a probe sum to 1.

    Exact for polynomials up to degree 2 steps - 1 along each probe; what is random is the probes. `size` is how many
    eigenvalues there are.
    """

    nodes: np.ndarray
    weights: np.ndarray
    size: int

    def moment(self, power: int) -> tuple[float, float]:
        """Trace of the matrix to a power over its size, and the standard error over probes (NaN for one probe)."""
        each = (self.weights * self.nodes**power).sum(axis=1)
        error = float(np.std(each, ddof=1)) / sqrt(len(each)) if len(each) > 1 else float("nan")
        return float(each.mean()), error

    @property
    def trace(self) -> float:
        """The sum of all eigenvalues."""
        return self.size * self.moment(1)[0]

    @property
    def largest(self) -> float:
        """The largest node: a lower bound of the largest eigenvalue, tight after some tens of steps."""
        return float(self.nodes[self.weights > 0].max())

    @property
    def smallest(self) -> float:
        """The smallest node: an upper bound of the smallest eigenvalue."""
        return float(self.nodes[self.weights > 0].min())

    def at(self, grid: np.ndarray, width: float) -> np.ndarray:
        """The density at `grid`, each eigenvalue a Gaussian of standard deviation `width`; integrates to 1."""
        away = (np.asarray(grid, float)[:, None] - self.nodes.ravel()) / width
        return np.exp(-0.5 * away**2) @ self.weights.ravel() / (len(self.nodes) * width * sqrt(2 * np.pi))

    def share_beyond(self, value: float) -> float:
        """The share of eigenvalues above `value`; below 1 / size it says nothing."""
        return float((self.weights * (self.nodes > value)).sum() / len(self.nodes))

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"size": self.size, "nodes": self.nodes.tolist(), "weights": self.weights.tolist()}


def lanczos(operator: Operator, start: Tensor, steps: int) -> Ritz:
    """At most `steps` products from `start`, each new vector made orthogonal to all before it, twice.

    Holds steps x size numbers. Source: Lanczos 1950, Paige 1972 (why orthogonality must be kept by hand).
    """
    if steps < 1 or start.shape != (operator.size,) or float(start.norm()) == 0:
        raise InputError(f"Lanczos needs 1 step or more (got {steps}) and a start of {operator.size} entries, not 0.")
    basis = [start / start.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    scale = 0.0
    for step in range(min(steps, operator.size)):
        product = operator.multiply(basis[-1])
        diagonal.append(float(basis[-1].double() @ product.double()))
        held = torch.stack(basis)
        for _ in range(2):
            product = product - held.mT @ (held @ product)
        beside.append(float(product.norm()))
        scale = max(scale, abs(diagonal[-1]), beside[-1])
        if not np.isfinite(diagonal[-1] + beside[-1]):
            raise InputError(f"Product {step + 1} is not finite; look for NaN in the weights or an infinite loss.")
        if beside[-1] <= EXHAUSTED * scale or step + 1 == min(steps, operator.size):
            break
        basis.append(product / beside[-1])
    values, vectors = eigh_tridiagonal(np.array(diagonal), np.array(beside[:-1]))
    return Ritz(values, vectors[0] ** 2, beside[-1] * np.abs(vectors[-1]), vectors, torch.stack(basis))


def top_eigenvalue(
    operator: Operator, *, generator: torch.Generator, tolerance: float = 1e-2, products: int = 60
) -> Eigenvalue:
    """The largest (most positive) eigenvalue, by Lanczos from a random start, to a relative `tolerance`.

    Restarts from the best vector every CHUNK products, so that only CHUNK x size numbers are held. Raises InputError
    for bounds that are not positive.
    """
    _check(tolerance, products)
    vector, used = _random(operator, generator), 0
    while True:
        found = lanczos(operator, vector, min(CHUNK, products - used))
        used += found.steps
        value, error = float(found.values[-1]), float(found.errors[-1])
        vector = torch.from_numpy(found.vectors[:, -1]).to(found.basis) @ found.basis
        vector = vector / vector.norm()
        converged = error <= tolerance * abs(value) or found.steps == operator.size or found.values[-1] == 0
        if converged or used >= products:
            return Eigenvalue(value, error, used, converged, vector)


def power_iteration(
    operator: Operator, *, generator: torch.Generator, tolerance: float = 1e-2, products: int = 200
) -> Eigenvalue:
    """The eigenvalue largest in size, whatever its sign, by repeated multiplication; `tolerance` is relative.

    Holds two vectors. Lanczos needs fewer products; this needs less memory, and is the older reference.
    """
    _check(tolerance, products)
    vector, value, error = _random(operator, generator), 0.0, float("inf")
    for used in range(1, products + 1):
        product = operator.multiply(vector)
        value = float(vector.double() @ product.double())
        error = float((product - value * vector).norm())
        size = float(product.norm())
        if size == 0 or error <= tolerance * abs(value):
            return Eigenvalue(value, error, used, True, vector)
        vector = product / size
    return Eigenvalue(value, error, products, False, vector)


def spectral_density(operator: Operator, *, generator: torch.Generator, probes: int = 8, steps: int = 40) -> Density:
    """The density of eigenvalues by stochastic Lanczos quadrature: `probes` random starts of `steps` products each.

    Source: Ubaru, Chen, Saad 2017; for networks Ghorbani et al. 1901.10159. Raises InputError for less than one probe.
    """
    if probes < 1:
        raise InputError(f"probes is {probes}; a density needs at least one, and two for a standard error.")
    found = [lanczos(operator, _random(operator, generator), steps) for _ in range(probes)]
    nodes, weights = np.zeros((probes, max(r.steps for r in found))), np.zeros((probes, max(r.steps for r in found)))
    for row, ritz in enumerate(found):
        nodes[row, : ritz.steps], weights[row, : ritz.steps] = ritz.values, ritz.weights
    return Density(nodes, weights, operator.size)


def _random(operator: Operator, generator: torch.Generator) -> Tensor:
    """A random direction; drawn where the generator lives, so that a seed means the same on every device."""
    drawn = torch.randn(operator.size, generator=generator, device=generator.device, dtype=torch.float32)
    drawn = drawn.to(operator.device, operator.dtype)
    return drawn / drawn.norm()


def _check(tolerance: float, products: int) -> None:
    if tolerance <= 0 or products < 1:
        raise InputError(f"tolerance is {tolerance:g} and products {products}; both must be positive.")
