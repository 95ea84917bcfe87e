"""A rule whose base width is its own: for learned optimizers, whose rates were trained at one width once and for all.

Ordinary rules compare a model with the ladder's base, where the user tunes. Weights of a learned optimizer were tuned
by their meta-training, at the width in their card; muLO's publication (2406.00153) has that width 1, a hidden matrix's
update over its fan-in. A newcomer would use the ladder's own base: at another width than the trained one every step is
then too large by their ratio, and nothing fails (PyLO with stock mup: 16 times at base 16, measured).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from windtunnel.errors import InputError
from windtunnel.recipe import Parametrization, Site
from windtunnel.scaling.rules.mup import MuP
from windtunnel.scaling.table import Scale

VECTORS = ("gain", "bias", "vector")
OUTWARD = ("embedding", "input", "gain", "bias", "vector")  # only the fan-out grows


@dataclass(frozen=True, kw_only=True)
class AtBase:
    """`rule`, with `width` units in place of the base's; for models whose hidden fans are multiples of it.

    `zero_readout` starts the readout at zero (Tensor Programs V, D.2: outputs and early gradients then are the same at
    every width).
    """

    width: int
    rule: Parametrization = MuP()  # noqa: RUF009  frozen
    zero_readout: bool = False

    def __post_init__(self) -> None:
        if self.width < 1:
            raise InputError(f"AtBase(width={self.width}): give the width, at least 1, at which the rates were found.")

    def scale(self, site: Site, base: Site, geometry: str) -> Scale:
        """The scale of a site beside one of that width; `base` tells only which sides grow."""
        found = self.rule.scale(site, self._at_width(site, base), geometry)
        return replace(found, init_std=0.0) if self.zero_readout and site.role == "readout" else found

    def _grows(self, site: Site, base: Site) -> bool:
        """Whether a vector is as long as the width; beside itself, at the ladder's base, its length must tell."""
        return site.fan_out != base.fan_out if site != base else site.fan_out % self.width == 0

    def _at_width(self, site: Site, base: Site) -> Site:
        if site.role == "fixed" or (site.role in VECTORS and not self._grows(site, base)):
            return site
        if site.role in OUTWARD:
            return replace(base, fan_in=site.fan_in, fan_out=self.width)
        if site.role == "readout":
            return replace(base, fan_in=self.width, fan_out=site.fan_out)
        return replace(base, fan_in=self.width, fan_out=self.width)
