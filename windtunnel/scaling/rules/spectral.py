"""Spectral condition (Yang et al. 2310.17813): every matrix and every step has spectral norm sqrt(fan_out / fan_in).

muP without multipliers, in absolute numbers: initial standard deviation min(1, sqrt(fan_out / fan_in)) / sqrt(fan_in),
which differs from the fan-in rule where a layer narrows. Rates follow from reach as everywhere: fan_out / fan_in for
SGD, 1 / fan_in for Adam. A newcomer would use SGD's with Adam; two public ports did, and their square layers kept one
rate at every width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from windtunnel.errors import InputError
from windtunnel.recipe import Site
from windtunnel.scaling.rules.width import HIDDEN, Exponents, width_scale
from windtunnel.scaling.table import Scale

EXPONENTS = Exponents(readout=(0.0, 1.0))


@dataclass(frozen=True, kw_only=True)
class Spectral:
    """Initial values of the spectral condition, rates for any geometry. `embedding_std` as in MuP."""

    embedding_std: float = 1.0

    def scale(self, site: Site, base: Site, geometry: str) -> Scale:
        """The scale of a site; InputError for an unknown geometry, or a tied table."""
        if site.role == "tied":
            raise InputError(
                "A tied table is an embedding and a readout, for which the spectral condition asks two sizes; use "
                "MuP(), or untie the readout."
            )
        matrix = site.role in (*HIDDEN, "readout", "input")
        weights = spectral_std(site) / spectral_std(base) if matrix else None
        scale = width_scale(site, base, geometry, EXPONENTS, embedding_std=self.embedding_std, weights=weights)
        return replace(scale, init_std=spectral_std(site)) if matrix else scale


def spectral_std(site: Site) -> float:
    """Standard deviation of normal entries that gives a matrix about the spectral norm sqrt(fan_out / fan_in)."""
    return site.fan_in**-0.5 * min(1.0, (site.fan_out / site.fan_in) ** 0.5)
