"""Standard parametrization: 1/sqrt(fan-in) initial values and one learning rate for all tensors, at every width."""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.recipe import Site
from windtunnel.scaling.table import Scale


@dataclass(frozen=True, kw_only=True)
class Standard:
    """The contrast to muP: equal to it at the base width. `embedding_std` as in MuP."""

    embedding_std: float = 1.0

    def scale(self, site: Site, base: Site, geometry: str) -> Scale:
        """The scale of a site; the base plays no part except for a tied table's initial size."""
        if site.role in ("gain", "bias"):
            return vector(site)
        return Scale(init_std=initial_std(site, self.embedding_std))


def initial_std(site: Site, embedding_std: float) -> float:
    """1/sqrt(fan-in) for matrices, `embedding_std` for a lookup table, 1/sqrt(width) for a tied one."""
    if site.role == "embedding":
        return embedding_std
    return site.fan_out**-0.5 if site.role == "tied" else site.fan_in**-0.5


def vector(site: Site, **factors: float) -> Scale:
    """Gains start at one, biases at zero; none decays."""
    return Scale(init_std=0.0, init_mean=1.0 if site.role == "gain" else 0.0, decay=0.0, **factors)
