"""Standard parametrization: 1/sqrt(fan-in) initial values, and one learning rate for all tensors or one per layer.

With one rate at every width it is the contrast to muP. With `per_layer` each tensor has the largest rate that keeps its
layer stable (2407.05872, whose best results have it): features then learn at every width too, and what still differs
from muP is the readout's larger start. A tied table keeps the one rate.
"""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.recipe import Site
from windtunnel.scaling.rules.width import Exponents, initial_std, vector, width_scale
from windtunnel.scaling.table import Scale

EXPONENTS = Exponents(readout=(0.0, 0.5))


@dataclass(frozen=True, kw_only=True)
class Standard:
    """Equal to muP at the base width. `embedding_std` as in MuP; `alignment` as in `reach`, read where `per_layer`."""

    embedding_std: float = 1.0
    per_layer: bool = False
    alignment: float = 1.0

    def scale(self, site: Site, base: Site, geometry: str) -> Scale:
        """The scale of a site; raises InputError for an unknown geometry where `per_layer`."""
        if self.per_layer and site.role != "tied":
            return width_scale(
                site, base, geometry, EXPONENTS, embedding_std=self.embedding_std, alignment=self.alignment
            )
        if site.role in ("gain", "bias", "vector"):
            return vector(site)
        return Scale(init_std=initial_std(site, self.embedding_std))
