"""Checks with numbers and intervals for a training loop of your own: one a file, each able to fail.

`Setup` says what the loop is. Every check returns a frozen dataclass with `ok` (True, False, or None where intervals
cannot tell), `verdict`, a table as its text and `to_json()`. A newcomer would take a passed check as proof that the
learning rate transfers; docs/flat-but-no-transfer.md lists what each does not see.
"""

from windtunnel.scaling.checks.coordinates import Coordinates, coordinates
from windtunnel.scaling.checks.epsilon import EpsilonFloor, epsilon_floor
from windtunnel.scaling.checks.linear import Linearisation, linearisation_distance
from windtunnel.scaling.checks.setup import Progress, Setup
from windtunnel.scaling.checks.timescale import DecayTimescale, decay_timescale, groups_at
from windtunnel.scaling.checks.updates import Updates, updates
from windtunnel.scaling.checks.wider import WiderIsBetter, wider_is_better

__all__ = [
    "Coordinates", "DecayTimescale", "EpsilonFloor", "Linearisation", "Progress", "Setup", "Updates", "WiderIsBetter",
    "coordinates", "decay_timescale", "epsilon_floor", "groups_at", "linearisation_distance", "updates",
    "wider_is_better",
]  # fmt: skip
