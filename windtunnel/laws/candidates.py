"""Which laws these runs can tell anything about, by what varies in them.

Parameters alone: laws in N. Parameters and tokens along one line in log-log: laws in C. Both independently: laws in
(N, D), or those that also read unique tokens, active parameters or batch size where these vary by themselves. Nobody
chooses a law by name: what is offered here is weighted by backtest. Laws with a bend are offered where enough sizes
could show one.
"""

from __future__ import annotations

import numpy as np

from windtunnel.laws.batch import BatchTerms, CriticalBatch
from windtunnel.laws.broken import BrokenPowerLaw
from windtunnel.laws.chinchilla import Chinchilla
from windtunnel.laws.experts import EffectiveExperts, JointExperts, SparseExperts
from windtunnel.laws.kaplan import Kaplan
from windtunnel.laws.law import Law
from windtunnel.laws.noise import repeats
from windtunnel.laws.observations import OFF_LINE, Observations, off_line
from windtunnel.laws.plain import PlainPowerLaw
from windtunnel.laws.power import PowerLaw
from windtunnel.laws.prepare import VARIES
from windtunnel.laws.repeated import EffectiveTokens, Overfitted, repeating
from windtunnel.laws.shifted import ShiftedPowerLaw

FREE = 0.3  # guess: less spread of log batch beside params and tokens tells nothing of a critical batch
ENOUGH = 8  # distinct sizes from which a bend can be told from noise (guess)


def candidates(observations: Observations) -> tuple[Law, ...]:
    """The laws that are offered for these runs; data with only one size column get laws in that column."""
    o = observations
    if o.params is None or o.tokens is None:
        return one_variable(o, o.axis)
    params, tokens = np.log(o.params), np.log(o.tokens)
    if repeating(o) and (np.ptp(tokens) >= VARIES or _settled_by_unique(o, params)):
        unit = float(np.exp(np.mean(np.log(_unique(o)))))
        return Overfitted(unit=unit), EffectiveTokens(), Overfitted(bounded=True, unit=unit)
    fixed = np.ptp(params) < VARIES, np.ptp(tokens) < VARIES
    if all(fixed):  # FLOPs were stated and vary for a reason of their own
        return one_variable(o, o.axis)
    if any(fixed):
        return one_variable(o, "params" if fixed[1] else "tokens")
    on_line = off_line(params, tokens) < OFF_LINE
    centre = float(np.exp(params.mean())), float(np.exp(tokens.mean()))
    if o.active_params is not None and np.ptp(np.log(o.params / o.active_params)) > VARIES:
        return SparseExperts(), EffectiveExperts(), JointExperts(*centre)
    if on_line:
        return one_variable(o, "flops")
    if o.batch_tokens is not None and _free(np.log(o.batch_tokens), params, tokens) > FREE:
        return CriticalBatch(), CriticalBatch(interacting=True), BatchTerms()
    return Chinchilla(tied=True), Chinchilla(), Kaplan(centre), Chinchilla(floor=False)


def _settled_by_unique(o: Observations, params: np.ndarray) -> bool:
    """Whether unique tokens vary beside params in runs enough for a law that reads both, all having as many tokens."""
    return _free(np.log(_unique(o)), params) > FREE and len(np.unique(repeats(o))) > len(Overfitted().names)


def _unique(o: Observations) -> np.ndarray:
    assert o.unique_tokens is not None
    return o.unique_tokens


def _free(column: np.ndarray, *others: np.ndarray) -> float:
    """Spread of a column's logarithm that the others do not explain: 0 where it only grows with them."""
    if not np.all(np.isfinite(column)):
        return 0.0
    design = np.stack([np.ones_like(column), *others], axis=1)
    return float(np.std(column - design @ np.linalg.lstsq(design, column, rcond=None)[0]))


def one_variable(o: Observations, variable: str) -> tuple[Law, ...]:
    """Laws in one column; those with a shift or a bend where many sizes are known."""
    x = getattr(o, variable)
    laws: tuple[Law, ...] = (PowerLaw(variable), PlainPowerLaw(variable))
    if len(np.unique(np.round(np.log(x), 2))) < ENOUGH:
        return laws
    middle = float(np.exp(np.mean(np.log(x))))
    return *laws, ShiftedPowerLaw(variable, float(x.min())), BrokenPowerLaw(variable, middle)
