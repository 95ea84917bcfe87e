"""Embedding tables of large vocabularies: their rate falls as width^-1/2 instead of staying constant (2506.15025).

muP takes an embedding row for a vector that every step moves; where the vocabulary is much larger than the width, rows
are rare and the best ratio of the embedding's rate to the hidden layers' grows as sqrt(width), not as width. A newcomer
would take it for settled: 2605.21486 credits muP's success to its larger embedding rate. Compare both on your ladder.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from windtunnel.recipe import Parametrization, Site
from windtunnel.scaling.rules.mup import MuP
from windtunnel.scaling.rules.reach import growth
from windtunnel.scaling.table import Scale


@dataclass(frozen=True, kw_only=True)
class LargeVocabulary:
    """`rule` with the rate of untied embeddings multiplied by (growth of the width)^-exponent, lr x decay kept."""

    rule: Parametrization = field(default_factory=MuP)
    exponent: float = 0.5

    def scale(self, site: Site, base: Site, geometry: str) -> Scale:
        """The scale of a site; raises InputError as `rule` does."""
        scale = self.rule.scale(site, base, geometry)
        if site.role != "embedding":
            return scale
        factor = growth(site, base)[1] ** -self.exponent
        return replace(scale, lr=scale.lr * factor, decay=scale.decay / factor)
