"""Stock transforms of a built network, for `Recipe.transforms`."""

from windtunnel.parts.transforms.mapped import Mapped

__all__ = ["Mapped"]
