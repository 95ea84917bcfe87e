"""The constants of a forecast: how far laws have been wrong, and how far a ladder's own past is believed.

One set for all tables. Learned on 2026-11-22 by `benchmarks/constants.py` from the public tables and the exact worlds
that it names; the same script scores every table with constants learned without it. A newcomer would expect them to be
theory: they are measurements of how real ladders behave, and will be learned again when there are more of them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Constants:
    """First the stacking of members (stack.py), then what each doubt adds to the interval (combine.py).

    Stacking: `prior_weight` draws the weights to the laws' beliefs, in squared standard errors; a cut counts `forget`
    of the next later one; `stack_error` and `stack_noise` are the standard error, as a share of the fall and at least.

    Width, as standard deviations: `noise` of the scatter of runs, `law_error` of the fall in log loss from the top rung
    to the target (and `law_error_far` more, growing with the root of the distance in log size up to FARTHEST),
    `parameters` of the parameters' own, `disagreement` of the members' spread. `prior_cuts` is how many backtests all
    this is worth against a ladder's own, which may move the width between `narrowest` and `widest`; `df` are the
    degrees of freedom of the interval's Student-t: how much rarer than usual a bad surprise is.
    """

    prior_weight: float = 4.0
    forget: float = 1.0
    stack_error: float = 0.08
    stack_noise: float = 0.002

    noise: float = 0.89
    law_error: float = 0.030
    law_error_far: float = 0.022
    parameters: float = 0.75
    disagreement: float = 0.45
    prior_cuts: float = 2.8
    narrowest: float = 0.5
    widest: float = 6.0
    df: float = 3.4

    def widths(self) -> tuple[float, ...]:
        """What each doubt is multiplied by, in the order of `combine.pieces`."""
        return self.noise, self.law_error, self.law_error_far, self.parameters, self.disagreement


LEARNED = Constants()
KEEPS = (1.0, 0.7, 0.5)  # shares of the runs, lowest losses first, that each law is fitted to (members.py)
# How much wider an interval must be that decides that no more of its ladder is trained: it was the first that looked
# narrow, and holds less often than it says. Learned on 2026-11-23 by benchmarks/stopping.py.
ENDS_LADDER = 1.5
FARTHEST = 3.0  # e-folds of size from which distance adds no more
