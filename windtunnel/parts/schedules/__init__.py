"""Stock learning-rate schedules: tokens seen and horizon to a multiplier of the peak."""

from windtunnel.parts.schedules.constant import Constant
from windtunnel.parts.schedules.cosine import Cosine
from windtunnel.parts.schedules.wsd import WSD

__all__ = ["WSD", "Constant", "Cosine"]
