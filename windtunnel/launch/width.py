"""How many rows a pack has where there is work for more: what one device trains best at once.

A newcomer would look for a setting: the width of a pack changes numbers by rounding at most, and `fitting` cuts what
memory cannot hold.
"""

from __future__ import annotations

import math

# On one CPU core throughput hardly rises past 8 rows: 16 have 1.1 to 1.2 times the rate at 14 thousand parameters and
# 1.0 at 130 thousand and a million, 32 have 0.75 to 1.2 (measured, docs/engine.md).
A_CORE = 8


def on_cores(rows: int) -> int:
    """Most rows of a pack that a CPU core trains, of so many that are asked."""
    return A_CORE


def on_gpus(rows: int, gpus: int) -> int:
    """Most rows of a pack where so many rows of one shape are asked: an even share for each GPU.

    A GPU that trains small models gains with every row until its memory is full (not measured: no GPU was at hand). A
    share is of what is asked, not of what is missing, so that what is left is packed as it was when some is done.
    """
    return max(A_CORE, math.ceil(rows / gpus))
