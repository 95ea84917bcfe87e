"""What runs have told, as a Gaussian process over settings and fidelity: loss foretold with its doubt, by BoTorch.

The process models log losses about a trend (`trend.py`): a small model's loss is higher everywhere, which says nothing
about which setting is best. A newcomer would give it raw losses; then nearly all it learns is that small models are
worse.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.searches.trend import LEAST, Mean, Trend, fit_trend

ROUNDS = (
    60  # of the search for the process's own numbers: later ones hardly move them, and are most of the time (guess)
)
FEWEST = 3  # runs without which nothing is fitted


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A fitted process about its trend; BoTorch's `model` speaks of log loss over `unit`."""

    model: Any
    trend: Trend
    unit: float

    def predict(self, settings: np.ndarray, fidelity: int, noisy: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the log loss of new runs; `noisy` False: of their expectation."""
        at = np.full(len(settings), self.trend.fidelities[fidelity])
        with torch_quiet(0):
            posterior = self.model.posterior(inputs(settings, at), observation_noise=noisy)
            mean, variance = (each.squeeze(-1).detach().numpy() for each in (posterior.mean, posterior.variance))
        return self.unit * mean, np.sqrt(self.unit**2 * variance + self.trend.variance(settings, at))


def fit_surrogate(
    settings: np.ndarray, fidelity: Sequence[int], losses: Sequence[float], fidelities: Sequence[float],
    mean: Mean | None = None, seed: int = 0,
) -> Surrogate:  # fmt: skip
    """Fit settings (runs, dimensions), all between 0 and 1, with the place of their fidelity and their losses.

    A loss that is not finite (a run that diverged) is taken for the worst that finished: a wall, not a hole. Raises
    InputError with fewer than 3 runs, or without one that finished.
    """
    if len(settings) < FEWEST:
        raise InputError(
            f"{len(settings)} runs were told; a surrogate needs {FEWEST}. Train what the search asks for first, and "
            f"give it a budget for more."
        )
    if not np.isfinite(losses).any():
        raise InputError(
            f"None of {len(settings)} runs told has a finite loss, so nothing says where to go on. Lower the upper end "
            f"of the ranges (of a learning rate first), or see why the runs failed."
        )
    least = np.min(np.asarray(losses)[np.isfinite(losses)])
    if not least > 0:
        raise InputError(
            f"A loss of {least:g} was told; the surrogate is of its logarithm, so losses must be above 0. Tell a "
            f"cross-entropy, an error, or 1 minus a score."
        )
    logs = np.log(np.where(np.isfinite(losses), losses, np.max(np.asarray(losses)[np.isfinite(losses)])))
    places = np.asarray(fidelity)
    trend = fit_trend(settings, places, logs, fidelities, mean)
    at = np.asarray(fidelities)[places]
    unit = max(float(np.std(logs - trend(settings, at))), LEAST)
    with torch_quiet(seed):
        model = _fitted(inputs(settings, at), logs, trend, unit)
    return Surrogate(model, trend, unit)


def _fitted(x: Any, logs: np.ndarray, trend: Trend, unit: float) -> Any:
    from botorch import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.models.kernels.linear_truncated_fidelity import LinearTruncatedFidelityKernel
    from gpytorch.kernels import ScaleKernel
    from gpytorch.means import Mean as ItsMean
    from gpytorch.mlls import ExactMarginalLogLikelihood
    from gpytorch.priors import GammaPrior
    from torch import from_numpy

    class TrendMean(ItsMean):
        """The trend as gpytorch wants a mean: of a tensor (..., points, dimensions + 1)."""

        def forward(self, x: Any) -> Any:
            table = x.detach().numpy().reshape(-1, x.shape[-1])
            return from_numpy(trend(table[:, :-1], table[:, -1]) / unit).reshape(x.shape[:-1])

    last, kernel = x.shape[1] - 1, None
    if len(trend.fidelities) > 1:  # else BoTorch's own choice, in which a constant column does nothing
        kernel = ScaleKernel(
            LinearTruncatedFidelityKernel(fidelity_dims=[last], dimension=last + 1),
            outputscale_prior=GammaPrior(2.0, 0.15),  # as in BoTorch's multi-fidelity model
        )
    y = from_numpy(logs / unit)[:, None]
    model = SingleTaskGP(x, y, covar_module=kernel, mean_module=TrendMean(), outcome_transform=None)
    likelihood = ExactMarginalLogLikelihood(model.likelihood, model)
    fit_gpytorch_mll(likelihood, optimizer_kwargs={"options": {"maxiter": ROUNDS}})
    return model


def inputs(settings: np.ndarray, fidelity: Any) -> Any:
    """Settings with their fidelity as a last column, a float64 tensor (points, dimensions + 1)."""
    from torch import from_numpy

    return from_numpy(np.column_stack([settings, np.broadcast_to(fidelity, len(settings))]))


@contextmanager
def torch_quiet(seed: int) -> Iterator[None]:
    """Torch with its own seed, whose generator is left as it was, and BoTorch without advice on scaling."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import botorch  # noqa: F401
            import torch
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"Bayesian searches need {error.name}: pip install 'windtunnel[bayes]'.", name=error.name
            ) from None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
