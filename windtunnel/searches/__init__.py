"""Searches: which runs to train next, pure functions of what has been told; above the laws, which may be their means.

`Bayes` chooses settings and sizes for a target, `BayesTuning` the tuned fields of a study's recipes. BoTorch is read
when one of them is asked, not before: pip install 'windtunnel[bayes]'.
"""

from windtunnel.searches.bayes import Bayes, Point, Told
from windtunnel.searches.means import MixtureMean
from windtunnel.searches.space import Space
from windtunnel.searches.tuning import BayesTuning

__all__ = ["Bayes", "BayesTuning", "MixtureMean", "Point", "Space", "Told"]
