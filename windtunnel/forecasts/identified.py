"""What the runs do not settle: parameters whose draws spread as widely as belief alone, and the run that would help.

What a newcomer would get wrong: a parameter that is not settled need not matter. On a short ladder the floor and the
exponent trade against each other and the forecast nearby stays sharp; the sentences are about the parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from windtunnel.errors import InputError
from windtunnel.forecasts.design import beyond, by_law, design, places, priced, row
from windtunnel.forecasts.place import runs_of
from windtunnel.ladder import compact
from windtunnel.laws.fitting import LawFit, fit_law
from windtunnel.laws.law import Sizes
from windtunnel.notebook import printed

if TYPE_CHECKING:
    from windtunnel.forecasts.fit import Fit

UNSETTLED = 0.5  # spread of the draws over the spread of the belief from which runs have told too little (guess)
TOGETHER = 0.9  # absolute correlation from which two parameters are said not to be told apart (guess)
DRAWS = 200
HELPS = 0.05  # a run must narrow the parameter's spread by this share to be named (guess)


@dataclass(frozen=True, kw_only=True)
class Unsettled:
    """A parameter that the runs do not settle: `share` is the draws' spread over the belief's.

    `partner` is the parameter it cannot be told apart from, with their `correlation`. `run` is the place whose one run
    narrows it most for at most the ladder's own price, to `after` times its spread; None where none helps.
    """

    law: str
    parameter: str
    share: float
    partner: str | None
    correlation: float
    run: Sizes | None
    after: float

    _repr_pretty_ = printed

    def __str__(self) -> str:
        name = _said(self.parameter)
        start = f"{name[0].upper()}{name[1:]} ({self.law}) is not settled by these runs"
        if self.partner is not None:
            start = (
                f"{name[0].upper()}{name[1:]} and {_said(self.partner)} ({self.law}) cannot be told apart "
                f"(correlation {self.correlation:.2f})"
            )
        if self.run is None:
            return f"{start}; no single run for the ladder's own price would change that."
        return f"{start}; add a rung at {_place(self.run)} (its spread falls by {100 * (1 - self.after):.0f} %)."


def unsettled(fit: Fit, budget_flops: float | None = None) -> tuple[Unsettled, ...]:
    """Parameters of the likeliest law that the runs do not settle, least settled first, one for each such direction.

    `budget_flops` is what a run may cost; None takes the ladder's own price.
    """
    runs = runs_of(fit)
    likeliest = by_law(fit)[0][0]
    law = fit_law(likeliest, runs, draws=DRAWS, seed=0)
    shares = {name: share for name, share in _shares(fit, law).items() if share > UNSETTLED}
    found: list[Unsettled] = []
    for name in sorted(shares, key=lambda name: -shares[name]):
        if name not in [each.partner for each in found]:
            found.append(_described(fit, law, name, shares[name], budget_flops))
    return tuple(found)


def unidentified(fit: Fit, budget_flops: float | None = None) -> tuple[str, ...]:
    """`unsettled` as sentences for a reader."""
    return tuple(str(each) for each in unsettled(fit, budget_flops))


def _columns(law: LawFit) -> dict[str, np.ndarray]:
    """Draws by name: the logarithm of each parameter, but the floor as it is, because it may be zero."""
    names = zip(law.law.names, law.draws.T, strict=True)
    return {name: draws if name == "E" else np.log(np.maximum(draws, 1e-300)) for name, draws in names}


def _shares(fit: Fit, law: LawFit) -> dict[str, float]:
    """Spread of the draws over what was believed before any run, for the shape parameters and the floor."""
    columns, form = _columns(law), law.law
    found = {}
    for index, name in enumerate(form.names[form.linear :]):
        low, high = form.bounds[form.linear + index]
        typical = form.typical[index]
        believed = np.log(high / low) / np.sqrt(12) if typical is None else typical[1]
        found[name] = float(np.std(columns[name]) / believed)
    if "E" in columns:  # before any run the floor may lie anywhere below the lowest loss
        found["E"] = float(np.std(columns["E"]) / (fit.observations.loss.min() / np.sqrt(12)))
    return found


def _described(fit: Fit, law: LawFit, name: str, share: float, budget: float | None) -> Unsettled:
    columns = _columns(law)
    moving = {other: draws for other, draws in columns.items() if other != name and np.std(draws) > 0}
    pairs = {other: float(np.corrcoef(columns[name], draws)[0, 1]) for other, draws in moving.items()}
    shape = [other for other in law.law.names[law.law.linear :] if other in pairs] + ["E"] * ("E" in pairs)
    partner = max(shape, key=lambda other: abs(pairs[other]), default=None)
    if partner is not None and abs(pairs[partner]) < TOGETHER:
        partner = None
    run, after = _remedy(fit, law, columns[name], budget)
    correlation = 0.0 if partner is None else pairs[partner]
    return Unsettled(
        law=law.law.name, parameter=name, share=share, partner=partner, correlation=correlation, run=run, after=after
    )


def _remedy(fit: Fit, law: LawFit, quantity: np.ndarray, budget: float | None) -> tuple[Sizes | None, float]:
    """The run that leaves the quantity least spread, and the share of its spread that it leaves."""
    try:
        o = priced(fit.observations)
    except InputError:  # without prices no run can be weighed against another
        return None, 1.0
    assert o.flops is not None
    at = places(o, Sizes(), float(o.flops.sum()) if budget is None else budget)
    found = design(replace(fit, laws=(law,), weights=(1.0,)), at, beyond(o), quantity)
    left = np.array([found.left(one) for one in np.eye(len(found.price), dtype=int)])
    best = int(np.argmin(left))
    after = float(np.sqrt(left[best]))
    return (None, 1.0) if after > 1 - HELPS else (row(at, best), after)


def _said(name: str) -> str:
    spoken = {"E": "the floor E", "alpha": "the exponent alpha", "beta": "the exponent beta"}
    return spoken.get(name, f"the parameter {name}")


def _place(sizes: Sizes) -> str:
    named = [(name, getattr(sizes, name)) for name in ("params", "tokens")]
    stated = [f"{compact(float(value[0]))} {name}" for name, value in named if value is not None]
    return " and ".join(stated) if stated or sizes.flops is None else f"{compact(float(sizes.flops[0]))} FLOPs"
