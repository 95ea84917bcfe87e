"""Width: a parametrization is two exponents a place, multiplier n^-a and initial std n^-b; the learning rate follows.

n is the growth of the fan-in. The rate is the largest that moves every layer's output as much as at the base
(2011.14522, 2407.05872): one over the step's reach. So a new parametrization is four numbers, a new optimizer is one
word, and there are no columns to mix up. A newcomer would tabulate rates by optimizer; two public ports have such a
table with a wrong column, and nobody's tests noticed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from windtunnel.recipe import Site
from windtunnel.scaling.rules.reach import growth, reach
from windtunnel.scaling.table import Scale

# Matrices inside the network. Where the number of experts does not grow with the width, a router has few outputs and
# starts as a readout does: 2508.09752 and the measured growth of docs/scaling.md; 2601.20205, whose experts grow in
# number, finds its start unimportant.
HIDDEN = ("hidden", "router", "expert_up", "expert_down")


@dataclass(frozen=True, kw_only=True)
class Exponents:
    """(a, b) of hidden matrices and of the readout. Tensors whose fan-in does not grow have (0, 0)."""

    hidden: tuple[float, float] = (0.0, 0.5)
    readout: tuple[float, float]

    @property
    def backward(self) -> float:
        """Gradients of activations go as n^-backward, as the readout's entries do."""
        return sum(self.readout)


def width_scale(
    site: Site,
    base: Site,
    geometry: str,
    exponents: Exponents,
    *,
    embedding_std: float,
    alignment: float = 1.0,
    weights: float | None = None,
) -> Scale:
    """The scale of a site; at the base it is the standard parametrization, whatever the exponents.

    Epsilon follows the gradient's entries (2203.03466, B.3); decay is raised as the rate is lowered, so that lr x decay
    is the same at every width, and a coupled penalty keeps its share of the gradient (for steps that are the gradient's
    multiple the two are one). `alignment` as in `reach`; `weights` states the growth of the initial values where it is
    no power of the fan-in. Raises InputError for an unknown geometry.
    """
    if site.role == "fixed":
        return Scale(init_std=initial_std(site, embedding_std))
    m_in, m_out = growth(site, base)
    a, b = exponents.readout if site.role == "readout" else exponents.hidden if site.role in HIDDEN else (0.0, 0.0)
    narrows = {"expert_down": 0.5}  # their sum stays (2601.20205)
    if weights is None:
        narrows["router"] = exponents.backward - sum(exponents.hidden)
    narrowed = (m_out / m_in) ** narrows.get(site.role, 0.0)
    forward, grown = m_in**-a, (m_in**-b if weights is None else weights) * narrowed
    gradient = forward if site.role == "readout" else forward * m_out**-exponents.backward
    grows = {"gradient": gradient, "weights": grown, "alignment": alignment}
    moved = forward * reach(geometry, site, base, **grows)
    if site.role == "tied":  # entries of a lookup; all that a readout shrinks by goes into its multiplier
        forward = m_out**-exponents.backward
        moved = max(moved, forward * reach(geometry, _turned(site), _turned(base), **grows))
    lr = 1 / moved
    if geometry == "gradient" and site.role in ("readout", "tied"):
        lr = min(lr, grown / forward)  # more would swell the gradients of all layers below
    if site.role in ("gain", "bias", "vector"):
        return vector(site, lr=lr, eps=gradient)
    std = initial_std(base, embedding_std) * grown
    coupled = 1 / lr if geometry == "gradient" else gradient / grown
    return Scale(init_std=std, lr=lr, eps=gradient, decay=1 / lr, coupled=coupled, forward=forward)


def initial_std(site: Site, embedding_std: float) -> float:
    """1/sqrt(fan-in) for matrices, `embedding_std` for a lookup table, 1/sqrt(width) for a tied one."""
    if site.role == "embedding":
        return embedding_std
    return site.fan_out**-0.5 if site.role == "tied" else site.fan_in**-0.5


def vector(site: Site, **factors: float) -> Scale:
    """Gains start at one, biases at zero, where their constructor fills them with no other number; none decays."""
    return Scale(init_std=0.0, init_mean=1.0 if site.role == "gain" else 0.0, decay=0.0, coupled=0.0, **factors)


def _turned(site: Site) -> Site:
    return replace(site, fan_in=site.fan_out, fan_out=site.fan_in)
