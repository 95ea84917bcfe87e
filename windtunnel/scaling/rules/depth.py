"""Depth: the outputs of residual branches are multiplied by m^-alpha, m the growth of the stack; rates follow.

L branches add up to one another's moves, so each may move its output by 1/L of what one would: the rate is m^(alpha-1)
over the width's. Alpha 1 is CompleteP (2505.01618), whose layers keep learning non-linearly at any depth; alpha 1/2 is
Depth-muP (2310.02244), whose layers become linear in their weights. CompleteP's paper finds that alpha 1/2 does not
transfer, Complete(d)P (2512.22382) that both do: `compare_parametrizations` tells on your ladder. A newcomer would
scale the learning rate alone. Made for pre-norm residual networks; after-norm ones renormalise the stream.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from windtunnel.recipe import Parametrization, Site
from windtunnel.scaling.rules.mup import MuP
from windtunnel.scaling.table import Scale


@dataclass(frozen=True, kw_only=True)
class Depth:
    """A rule for width, `width`, extended to depth with the residual exponent `alpha`.

    Embedding, final norm and readout have no depth factor. Epsilon follows the gradients, which shrink by the
    multiplier; decay keeps lr x decay as the width's rule has it. At the base's depth it is the width's rule.
    """

    width: Parametrization = field(default_factory=MuP)
    alpha: float = 1.0

    def scale(self, site: Site, base: Site, geometry: str) -> Scale:
        """The scale of a site; raises InputError as the width's rule does."""
        scale = self.width.scale(site, base, geometry)
        grown = site.layers / base.layers
        multiplier = grown**-self.alpha
        lr = grown ** (self.alpha - 1)
        if geometry == "gradient":  # such a step shrinks by the multiplier once more
            lr /= multiplier
        return replace(
            scale,
            lr=scale.lr * lr,
            eps=scale.eps * multiplier,
            decay=scale.decay / lr,
            coupled=scale.coupled / lr if geometry == "gradient" else scale.coupled * multiplier,
            residual=scale.residual * multiplier,
        )


def complete_p(width: Parametrization | None = None) -> Depth:
    """CompleteP (2505.01618): residual multiplier 1/m; the learning rate of Adam, Muon and kin does not change."""
    return Depth(width=width or MuP(), alpha=1.0)


def depth_mup(width: Parametrization | None = None) -> Depth:
    """Depth-muP (2310.02244): residual multiplier and learning rates of Adam and kin go as 1/sqrt(m)."""
    return Depth(width=width or MuP(), alpha=0.5)
