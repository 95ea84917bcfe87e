"""Maximal update parametrization (2203.03466) in its Table 8 form: readout multiplied by 1/m, constant readout init.

m is the growth of a fan over the base rung, so that at the base width muP equals the standard parametrization. The
factors for Adam-like ("entrywise"), SGD-like ("gradient") and orthogonalised ("spectral", 2602.20937) updates are one
column each; mixing columns is the classic mistake. Epsilon follows the gradient's 1/m (their appendix B.3); weight
decay is raised where the learning rate is lowered, so that lr x decay is the same at every width.
"""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.errors import InputError
from windtunnel.recipe import Site
from windtunnel.scaling.rules.standard import initial_std, vector
from windtunnel.scaling.table import Scale


@dataclass(frozen=True, kw_only=True)
class MuP:
    """muP for Adam-like, SGD-like and spectral optimizers in width.

    `embedding_std` is the initial standard deviation of an untied lookup table, the same at every width.
    """

    embedding_std: float = 1.0

    def scale(self, site: Site, base: Site, geometry: str) -> Scale:
        """The scale of a site from its growth over the base; raises InputError for an unknown geometry."""
        if geometry not in ("entrywise", "gradient", "spectral"):
            raise InputError(
                f"An optimizer declares geometry {geometry!r}; muP has rules for 'entrywise' (Adam-like), 'gradient' "
                f"(SGD-like) and 'spectral' (Muon-like)."
            )
        m_in, m_out = site.fan_in / base.fan_in, site.fan_out / base.fan_out
        sgd = geometry == "gradient"
        if site.role in ("gain", "bias"):
            return vector(site, lr=m_out if sgd else 1.0, eps=1 / m_out)
        std = initial_std(site, self.embedding_std)
        if site.role == "fixed":
            return Scale(init_std=std)
        if site.role == "hidden":
            lr = {"entrywise": 1 / m_in, "gradient": m_out / m_in, "spectral": 1.0}[geometry]
            return Scale(init_std=std, lr=lr, eps=1 / m_in, decay=1 / lr)
        if site.role == "readout":
            lr = m_in if sgd else 1.0
            return Scale(init_std=base.fan_in**-0.5, lr=lr, eps=1 / m_in, decay=1 / lr, forward=1 / m_in)
        lr = m_out if sgd else 1.0  # embedding, tied and input: the fan-in does not grow
        tied = site.role == "tied"
        return Scale(
            init_std=base.fan_out**-0.5 if tied else std,
            lr=lr,
            eps=1 / m_out,
            decay=1 / lr,
            forward=1 / m_out if tied else 1.0,
        )
