"""Reach: how far one step of learning rate 1 moves a layer's output, as the layer grows over the base.

The learning rate's width rule is one over it: nothing else about an optimizer matters to width. A newcomer would sort
optimizers by name ("Adam-like") and go wrong at LAMB or at Muon's other convention, whose steps grow as the square root
of width. All six words are measured in `tests/test_rules.py` on real updates of the optimizers named here.
"""

from __future__ import annotations

from windtunnel.errors import InputError
from windtunnel.recipe import Site

# word: (what the step is, optimizers, source)
GEOMETRIES = {
    "gradient": ("a multiple of the gradient", "SGD, momentum", "2203.03466"),
    "entrywise": ("entries of one size", "Adam, Lion, Sophia, Adafactor unscaled, muLO", "2203.03466, 2406.00153"),
    "spectral": ("orthogonal x sqrt(fan_out / fan_in)", "Muon (Jordan), Dion, Scion", "2310.17813, 2602.20937"),
    "orthogonal": ("orthogonal, nothing more", "Shampoo, SOAP, Muon without a factor", "2310.17813; SOAP: measured"),
    "matched": ("orthogonal x sqrt(larger fan), Adam's size", "Muon (Moonshot)", "2502.16982; exponent: measured"),
    "relative": ("as large as the weights", "LAMB, LARS, Adafactor with scaled steps", "2407.05872; LAMB: measured"),
}


def reach(geometry: str, site: Site, base: Site, *, gradient: float, weights: float, alignment: float) -> float:
    """Growth of a step's effect on the layer's output entries, before any forward multiplier.

    `gradient` and `weights` are the growths of a gradient entry and of a weight. `alignment` is 1 where the step lines
    up with the layer's input, so that its entries' effects add up (what training does), 0.5 where they add at random;
    it plays no part for orthogonal steps. Raises InputError for an unknown geometry.
    """
    if geometry not in GEOMETRIES:
        known = "; ".join(f"'{word}' ({optimizers})" for word, (_, optimizers, _) in GEOMETRIES.items())
        raise InputError(
            f"An optimizer declares geometry {geometry!r}; there are rules for {known}. Declare the one that says how "
            f'large its step is, as in geometry = "entrywise".'
        )
    m_in, m_out = growth(site, base)
    added_up = m_in**alignment
    return {
        "gradient": added_up * gradient,
        "entrywise": added_up,
        "spectral": 1.0,
        "orthogonal": (m_in / m_out) ** 0.5,
        "matched": (m_in / m_out * max(site.fan_in, site.fan_out) / max(base.fan_in, base.fan_out)) ** 0.5,
        "relative": added_up * weights,
    }[geometry]


def growth(site: Site, base: Site) -> tuple[float, float]:
    """Growth of the fan-in and of the fan-out over the base."""
    return site.fan_in / base.fan_in, site.fan_out / base.fan_out
