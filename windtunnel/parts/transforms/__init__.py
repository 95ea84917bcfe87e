"""Stock transforms of a built network, for `Recipe.transforms`."""

from windtunnel.parts.transforms.dropout import Dropout
from windtunnel.parts.transforms.mapped import Mapped

__all__ = ["Dropout", "Mapped"]
