"""Stock transforms of a built network, for `Recipe.transforms`."""

from windtunnel.parts.transforms.dropout import Dropout
from windtunnel.parts.transforms.low_rank import LowRank
from windtunnel.parts.transforms.mapped import Mapped

__all__ = ["Dropout", "LowRank", "Mapped"]
