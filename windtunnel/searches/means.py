"""Prior means for a search: what a law says before a surrogate is fitted to what is left over.

Mixture laws are fitted to what has been told of one size, the one with the most runs; only their shape over the shares
counts, for levels are learned by size. A newcomer would fit one law to the loss on a mixture: the law says that more of
the best source is always better, which holds for each part that is judged and not for their sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import special

from windtunnel.errors import InputError
from windtunnel.laws.mixture import MixtureFit, fit_mixture
from windtunnel.searches.bayes import Told
from windtunnel.searches.space import Space
from windtunnel.searches.trend import Mean

LEVEL = 0.9  # of the interval from which a law's standard deviation is read
SPARE = 2  # runs beyond one for each source before a law is trusted as a mean (guess)


@dataclass(frozen=True, kw_only=True)
class MixtureMean:
    """The log of the loss over the shares: the mixture laws (`laws.mixture`) of all parts, added up by `weights`.

    `weights` are the parts' shares of what is judged, by the names in `Told.parts`; empty: what is judged is one part,
    and the law is fitted to the loss itself. Nothing is said while too few runs of one size are there.
    """

    weights: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, space: Space, told: Sequence[Told]) -> Mean | None:
        """The mean, or None. Raises InputError for a space without shares, or where a run was not told a part."""
        count = len(space.shares)
        if not count:
            raise InputError("MixtureMean is a mean over shares, and this space has none; leave mean out.")
        most = _most(told)
        shares = space.rows([each.point.values for each in most])[:, :count]
        if len(most) < max(5, count + SPARE) or len(np.unique(shares, axis=0)) < count + 1:
            return None
        laws = [(weight, fit_mixture(shares, losses)) for weight, losses in self._losses(most)]
        return lambda rows: _total(laws, rows[:, :count])

    def _losses(self, told: Sequence[Told]) -> list[tuple[float, list[float]]]:
        if not self.weights:
            return [(1.0, [each.loss or 0.0 for each in told])]
        missing = [name for name in self.weights for each in told if name not in each.parts]
        if missing:
            raise InputError(
                f"A run was told without its loss on {missing[0]!r}; tell Told(point, loss, parts={{name: loss}}) for "
                f"{', '.join(self.weights)}, as the judge's probes LossOn measure them."
            )
        return [(weight, [each.parts[name] for each in told]) for name, weight in self.weights.items()]


def _most(told: Sequence[Told]) -> list[Told]:
    """What was told of the size with the most runs that finished."""
    by_size: dict[int, list[Told]] = {}
    for each in told:
        if each.loss is not None:
            by_size.setdefault(each.point.fidelity, []).append(each)
    return max(by_size.values(), key=len, default=[])


def _total(laws: Sequence[tuple[float, MixtureFit]], shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log of the laws' weighted sum, and its doubt: the parts are fitted to the same runs, so that doubts add up."""
    losses = np.array([weight * law(shares) for weight, law in laws])
    doubts = np.array([_doubt(law, shares) for _, law in laws])
    return np.log(losses.sum(axis=0)), np.sum(losses * doubts, axis=0) / losses.sum(axis=0)


def _doubt(law: MixtureFit, shares: np.ndarray) -> np.ndarray:
    """Standard deviation of a law's expected log loss: that of a new run, less the noise of one."""
    found = law.predict(shares, LEVEL)
    spread = np.log(found.high / found.low) / 2 / special.stdtrit(law.df, 0.5 + LEVEL / 2)
    return np.sqrt(np.maximum(spread**2 - law.noise**2, 0.0))
