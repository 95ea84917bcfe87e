"""Weight decay: how PyTorch's factor (a step shrinks a weight by lr x decay) follows when the rate of a tensor changes.

Published rules disagree, so each is a function, and a wrapper puts one in place of what a rule says; stock rules use
`independent`. A newcomer would leave decay at 0.1 everywhere: with rates that fall with width that is less and less
decay, the one significant failure of muP in Lingle 2404.05728.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from windtunnel.recipe import Parametrization, Site
from windtunnel.scaling.rules.mup import MuP
from windtunnel.scaling.rules.reach import growth
from windtunnel.scaling.rules.width import HIDDEN
from windtunnel.scaling.table import Scale

Follows = Callable[[Scale, Site, Site], float]


def independent(scale: Scale, site: Site, base: Site) -> float:
    """lr x decay is the same at every size (mup's and CompleteP's default; u-muP; 2510.19093 finds it decisive)."""
    return 1 / scale.lr


def unchanged(scale: Scale, site: Site, base: Site) -> float:
    """PyTorch's factor as it was tuned: the shrinking falls with the rate."""
    return 1.0


def square_root(scale: Scale, site: Site, base: Site) -> float:
    """Hidden matrices sqrt(width), made for Adam's rate of 1/width: a layer's gain stays in its steady state
    (2510.15262). Of other optimizers the paper says nothing."""
    return growth(site, base)[0] ** 0.5 if site.role in HIDDEN else 1.0


def inverse_width(scale: Scale, site: Site, base: Site) -> float:
    """lr x decay falls as 1/width on hidden matrices: near the best for Muon, Shampoo and SOAP at compute-optimal
    lengths (2512.05620)."""
    return 1 / (scale.lr * growth(site, base)[0]) if site.role in HIDDEN else 1 / scale.lr


@dataclass(frozen=True, kw_only=True)
class Decay:
    """`rule` with another rule for decay, one of this file's functions or your own. What does not decay stays so."""

    follows: Follows
    rule: Parametrization = field(default_factory=MuP)

    def scale(self, site: Site, base: Site, geometry: str) -> Scale:
        """The scale of a site; raises InputError as `rule` does."""
        scale = self.rule.scale(site, base, geometry)
        return replace(scale, decay=self.follows(scale, site, base)) if scale.decay else scale
