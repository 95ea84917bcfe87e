"""Unit-scaled muP (Blake et al. 2407.17465): values start at unit size, multipliers and rates are absolute numbers.

Every matrix starts with standard deviation 1 and has its input multiplied by 1/sqrt(fan_in), readout and routers by
1/fan_in: numbers stay near one in low precision and good hyperparameters are near one at every size. Rates are the
paper's, for Adam and kin: 1/sqrt(fan_in) for matrices, 1/sqrt(width) for embeddings (muP keeps them constant), 1 for
readout, routers and vectors. The paper's scaling of gradients and of non-linearities needs its operations (package
`unit-scaling`) and is not made here. A newcomer would carry a learning rate over from muP; here it means something else
and is tuned anew. For depth use `Depth(width=UnitMuP(), alpha=0.5)`: the paper's residual rule in a pre-norm network,
relative to the base's depth (its own is absolute).
"""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.errors import InputError
from windtunnel.recipe import Site
from windtunnel.scaling.rules.reach import growth
from windtunnel.scaling.rules.width import HIDDEN, vector
from windtunnel.scaling.table import Scale


@dataclass(frozen=True, kw_only=True)
class UnitMuP:
    """u-muP's weights, multipliers and rates for steps of one size in every entry (Adam, Lion)."""

    def scale(self, site: Site, base: Site, geometry: str) -> Scale:
        """The scale of a site; raises InputError for other geometries, which the paper has no absolute rates for."""
        if geometry != "entrywise":
            raise InputError(
                f'u-muP states absolute rates for "entrywise" optimizers (Adam) only, this one is {geometry!r}; '
                f"MeanField() has the same exponents for any optimizer."
            )
        m_in, m_out = growth(site, base)
        if site.role in ("gain", "bias", "vector"):
            return vector(site, eps=1 / m_out)
        if site.role in ("embedding", "tied"):
            forward = 1 / site.fan_out if site.role == "tied" else 1.0
            return Scale(init_std=1.0, lr=site.fan_out**-0.5, eps=1 / m_out, coupled=1 / m_out, forward=forward)
        if site.role in ("readout", "router"):
            return Scale(init_std=1.0, eps=1 / m_in, coupled=1 / m_in, forward=1 / site.fan_in)
        gradient = m_in**-0.5 / (m_out if site.role in (*HIDDEN, "input") else 1.0)
        std = site.fan_in**-0.5
        return Scale(init_std=1.0, lr=std, eps=gradient, decay=1 / std, coupled=gradient, forward=std)
