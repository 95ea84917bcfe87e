"""Performance profiles: in which share of workloads is a method within a factor tau of the fastest?

They are Dolan and Moré's (cs/0102001), as AlgoPerf's documentation states them.
The benchmark score is the profile's integral from 1 to `most`, over its length. It is exact here: a workload of ratio r
adds (most - r) / (most - 1). A newcomer would average times, which one slow workload decides.
"""

from __future__ import annotations

import numpy as np

MOST = 4.0  # AlgoPerf: four times the fastest's time is worth as little as never


def ratios(times: np.ndarray) -> np.ndarray:
    """Times (..., methods, workloads) over the fastest method's; infinite where a method, or none, reached the goal."""
    fastest = np.min(times, axis=-2, keepdims=True)
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(times), times / fastest, np.inf)


def profile(ratio: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """The share of workloads within a factor tau of the fastest: ratios (workloads,), factors (points,)."""
    return np.mean(ratio[None, :] <= tau[:, None], axis=1)


def steps(ratio: np.ndarray, most: float = MOST) -> list[tuple[float, float]]:
    """Corners (tau, share) of a method's profile from 1 to `most`."""
    at = np.unique(np.r_[1.0, ratio[ratio <= most], most])
    shares, corners = profile(ratio, at), [(1.0, float(profile(ratio, np.ones(1))[0]))]
    for tau, before, share in zip(at[1:], shares, shares[1:], strict=False):
        corners += [(float(tau), float(before)), (float(tau), float(share))]
    return corners


def scores(times: np.ndarray, most: float = MOST) -> np.ndarray:
    """Integrals of the profiles, 0 to 1: times (..., methods, workloads) to (..., methods)."""
    return np.clip((most - ratios(times)) / (most - 1), 0.0, 1.0).mean(axis=-1)
