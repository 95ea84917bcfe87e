"""NTK and mean-field parametrizations: constant initial values, all of the width in multipliers.

In the NTK's each layer's rate is here the largest stable one, so hidden layers do learn; with one rate for all they
would not (the lazy limit). Mean field is muP for networks of one hidden layer; in deeper ones it is muP too, written
with other exponents (2011.14522: only a, b, c up to a common shift count).
"""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.recipe import Site
from windtunnel.scaling.rules.width import Exponents, width_scale
from windtunnel.scaling.table import Scale

NTK_EXPONENTS = Exponents(hidden=(0.5, 0.0), readout=(0.5, 0.0))
MEAN_FIELD_EXPONENTS = Exponents(hidden=(0.5, 0.0), readout=(1.0, 0.0))


@dataclass(frozen=True, kw_only=True)
class NTK:
    """Jacot et al. 1806.07572, with per-layer rates (2407.05872).

    `embedding_std` as in MuP, `alignment` as in `reach`.
    """

    embedding_std: float = 1.0
    alignment: float = 1.0

    def scale(self, site: Site, base: Site, geometry: str) -> Scale:
        """The scale of a site; raises InputError for an unknown geometry."""
        return width_scale(
            site, base, geometry, NTK_EXPONENTS, embedding_std=self.embedding_std, alignment=self.alignment
        )


@dataclass(frozen=True, kw_only=True)
class MeanField:
    """Mei et al. 1804.06561; as parametrized in 2407.05872. Fields as in NTK."""

    embedding_std: float = 1.0
    alignment: float = 1.0

    def scale(self, site: Site, base: Site, geometry: str) -> Scale:
        """The scale of a site; raises InputError for an unknown geometry."""
        return width_scale(
            site, base, geometry, MEAN_FIELD_EXPONENTS, embedding_std=self.embedding_std, alignment=self.alignment
        )
