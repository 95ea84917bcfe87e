"""What a reader must know before the number: sentences about the runs and about the target.

Each is found by a rule stated here. `steepens` also decides reliability: a curve whose log-log slope grows is not yet
in a law, and every form in `laws/` can only flatten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from windtunnel.forecasts.backtest import FEWEST_RUNGS, Backtest
from windtunnel.laws.noise import Noise, parabola, rung_means, rungs, seed_noise, two_ways
from windtunnel.laws.observations import Observations

if TYPE_CHECKING:
    from windtunnel.forecasts.fit import Fit

SURE = 0.995  # one-sided confidence for calling a curve steepening (about 1 false alarm in 200 ladders)
STEEPER_BY = 0.3  # and the slope must change by this share of itself over the ladder


ADVICE = {  # what lets a law read a column
    "steps": "Give tokens in their place: steps x batch_tokens, or the steps where all runs have one batch.",
    "unique_tokens": "Laws of repeated data read params too; one value will do.",
    "active_params": "Laws of experts read tokens too, none of them repeated.",
    "batch_tokens": "Laws of batches read params and tokens that vary apart, none of them repeated.",
}
OTHERWISE = "Keep it the same in all runs of a size."


def of_data(o: Observations, noise: Noise, backtest: Backtest, steep: bool, unread: Sequence[str]) -> tuple[str, ...]:
    """Caveats that hold for every target; `unread` are columns that change the loss and that no law reads."""
    count = int(rungs(o).max()) + 1
    found = list(o.caveats)
    if backtest.failed:
        found.append(
            f"The forecast FAILED its own backtest: hidden rungs missed by up to "
            f"{100 * max(abs(h.error) for h in backtest.hidden):.1f} %; do not rely on the number."
        )
    if steep:
        found.append(
            "The loss falls faster and faster with size in log-log (beyond noise): these runs are not yet in a law, "
            "and the target will probably be lower than any law says. Train longer or larger rungs."
        )
    if not backtest.hidden and count <= FEWEST_RUNGS:
        found.append(f"With {count} rungs none can be hidden, so there is no backtest. Add rungs.")
    elif not backtest.hidden:
        found.append(
            f"With {len(o)} runs too few are left for the laws' parameters once one of {count} rungs is hidden, so "
            f"there is no backtest. Add runs."
        )
    elif count < 5:
        found.append(f"Only {count} rungs; the floor and the exponent can hardly be told apart. Add rungs.")
    if noise.source == "residuals":
        found.append(
            "One run at each size: the noise between seeds is unknown and is guessed from residuals. Add seeds."
        )
    found += [
        f"The loss goes with {name} too, and no law of these runs reads {name}: that counts as noise. "
        + ADVICE.get(name, OTHERWISE)
        for name in unread
    ]
    rising = _rises(o, noise)
    if rising:
        found.append(f"The loss rises with size beyond noise at {rising}; check those runs.")
    return tuple(found)


def looked_at_closely(fit: Fit) -> tuple[str, ...]:
    """Further caveats that cost refits (about 0.2 s): runs and rungs out of line, parameters that are not settled."""
    from windtunnel.forecasts.identified import unidentified  # these read a Fit, which reads this file
    from windtunnel.forecasts.odd import odd_rungs
    from windtunnel.forecasts.outliers import odd_runs

    runs = odd_runs(fit)
    label = rungs(fit.observations)
    named = {int(label[run.index]) for run in runs}
    others = [odd for odd in odd_rungs(fit) if odd.rung not in named]
    return (*map(str, (*runs, *others)), *unidentified(fit))


def steepens(o: Observations) -> bool:
    """Whether log loss against log size bends downwards beyond noise (one size axis; needs 4 rungs)."""
    if rungs(o).max() < 3 or two_ways(o):
        return False
    bend = parabola(o)
    between, seeds_df = seed_noise(o)
    df = seeds_df + bend.df
    sd = np.sqrt((seeds_df * between**2 + bend.df * bend.scatter**2) / df)
    beyond_noise = bend.change / max(sd * bend.unit, 1e-12) < special.stdtrit(df, 1 - SURE)
    return bool(beyond_noise and bend.slope < 0 and bend.change < STEEPER_BY * bend.slope)


def _rises(o: Observations, noise: Noise) -> str:
    """The first rung whose mean loss is higher than the one below beyond 3 standard errors, else nothing."""
    x, y, runs = rung_means(o)
    if two_ways(o):
        return ""
    doubt = 3 * noise.relative * np.sqrt(1 / runs[1:] + 1 / runs[:-1])
    worse = np.flatnonzero(np.diff(y) > doubt)
    return f"{np.exp(x[worse[0] + 1]):.3g} {o.axis}" if len(worse) else ""
