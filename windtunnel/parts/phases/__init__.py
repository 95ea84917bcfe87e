"""Stock courses of training in several stretches, for `Recipe.phases`."""

from windtunnel.parts.phases.adapting import Adapting

__all__ = ["Adapting"]
