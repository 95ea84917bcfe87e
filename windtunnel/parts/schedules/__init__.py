"""Stock learning-rate schedules: tokens seen and horizon to a multiplier of the peak.

Those with `warmup_tokens` branch: runs of several horizons share their trunk up to the first decay.
"""

from windtunnel.parts.schedules.constant import Constant
from windtunnel.parts.schedules.cooldown import Cooldown, cosine_to, linear_to_zero
from windtunnel.parts.schedules.cosine import Cosine
from windtunnel.parts.schedules.infinite import Infinite
from windtunnel.parts.schedules.power import Power
from windtunnel.parts.schedules.rewarmed import Rewarmed
from windtunnel.parts.schedules.shapes import Exponential, HalfCosine, Linear, OneMinusSqrt, Shape
from windtunnel.parts.schedules.steps import Steps
from windtunnel.parts.schedules.wsd import WSD

__all__ = ["WSD", "Constant", "Cooldown", "Cosine", "Exponential", "HalfCosine", "Infinite", "Linear", "OneMinusSqrt"]
__all__ += ["Power", "Rewarmed", "Shape", "Steps", "cosine_to", "linear_to_zero"]
