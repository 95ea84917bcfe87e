"""Maximal update parametrization (2203.03466): every layer learns as much at any width.

Two published forms. "multiplier" is the paper's Table 8 (and microsoft/mup): the readout's initial values stay as they
are and its input is multiplied by 1/m, m the growth of the width. "initial" is Table 3: no multiplier, readout values
start as 1/m and learn at 1/m. They differ in the readout alone; a newcomer who mixes them divides by the width twice.
Which to take: a tied table needs the multiplier; exporting or sharding is easier without.
"""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.errors import InputError
from windtunnel.recipe import Site
from windtunnel.scaling.rules.width import Exponents, width_scale
from windtunnel.scaling.table import Scale

FORMS = {"multiplier": Exponents(readout=(1.0, 0.0)), "initial": Exponents(readout=(0.0, 1.0))}


@dataclass(frozen=True, kw_only=True)
class MuP:
    """muP in width, for any geometry of `reach.GEOMETRIES`.

    `embedding_std` is the initial standard deviation of an untied lookup table, the same at every width. Raises
    InputError for an unknown form.
    """

    embedding_std: float = 1.0
    form: str = "multiplier"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise InputError(f"MuP(form={self.form!r}): the forms are {', '.join(map(repr, FORMS))}.")

    def scale(self, site: Site, base: Site, geometry: str) -> Scale:
        """The scale of a site; InputError for an unknown geometry, or a tied table in the form without multipliers."""
        if site.role == "tied" and self.form == "initial":
            raise InputError(
                "A tied table cannot be small as a readout and of constant size as an embedding, which muP without "
                'multipliers asks of it; use MuP(form="multiplier"), or untie the readout.'
            )
        return width_scale(site, base, geometry, FORMS[self.form], embedding_std=self.embedding_std)
