"""How many rows a pack has where there is work for more: what one device trains best at once.

A newcomer would look for a setting: the width of a pack changes numbers by rounding at most, and `fitting` cuts what
memory cannot hold.
"""

from __future__ import annotations

import math

# On one CPU core throughput hardly rises past 8 rows: 16 have 1.1 to 1.2 times the rate at 14 thousand parameters and
# 1.0 at 130 thousand and a million, 32 have 0.75 to 1.2 (measured, docs/engine.md). So 16 are for models of fewer than
# SMALL parameters (the middle of the two sizes measured), where every core has as many.
A_CORE, OF_SMALL, SMALL = 8, 16, 50_000


def most_rows(asked: int, gpus: int) -> int:
    """Most rows of a pack where so many runs of one shape are asked: an even share for each GPU, or (0) a core's.

    A GPU that trains small models gains with every row until its memory is full (not measured: no GPU was at hand). A
    share is of what is asked, not of what is missing, so that what is left is packed as it was when some is done.
    """
    return max(A_CORE, math.ceil(asked / gpus)) if gpus else A_CORE


def most_on_cores(asked: int, cores: int, params: int) -> int:
    """Most rows of a pack on so many CPU cores of one machine, of models of so many parameters."""
    return min(max(A_CORE, math.ceil(asked / cores)), OF_SMALL if params < SMALL else A_CORE)
