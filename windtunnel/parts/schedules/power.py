"""Power schedule (2408.13359): the rate falls as a power of the tokens seen, and knows no horizon until its decay.

eta(n) = min(eta_max, beta a n^b), beta the batch. A schedule here multiplies the optimizer's peak, eta_max, so it is
stated by the knee: the tokens at which the power meets the peak, (eta_max / (beta a))^(1 / b). A newcomer would keep
the knee when the batch grows; it moves as batch^(-1 / b), four times the batch to about sixteen times the knee, and
`at_batch` does that. Read: abstract and introduction (arxiv.org/html/2408.13359v2, as far as stored), and one public
implementation's defaults (a = 4, b = -0.51, eta_max = 0.02); the shape of the decay is ours to choose.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from windtunnel.errors import InputError
from windtunnel.parts.schedules.constant import warmed
from windtunnel.parts.schedules.cooldown import check_decay, check_warmup, decay_start
from windtunnel.parts.schedules.shapes import Linear, check_shape, fallen
from windtunnel.recipe import is_open


@dataclass(frozen=True, kw_only=True)
class Power:
    """Linear warm-up over `warmup_tokens`, the peak up to `knee_tokens`, then peak x (tokens / knee)^exponent; over the
    last `decay` share of the horizon `shape` brings it down to `floor` x peak.

    `batch_tokens` is the batch, in tokens a step, at which `knee_tokens` holds: at another the engine asks `at_batch`.
    None keeps the knee at any batch. `Power.of(a=, b=, peak=, batch_tokens=)` says it in the paper's letters, and
    `windtunnel.laws.fit_power_schedule` fits those from small sweeps.
    """

    knee_tokens: float
    exponent: float = -0.51
    batch_tokens: float | None = None
    warmup_tokens: int = 0
    decay: float = 0.1
    floor: float = 0.0
    shape: Any = Linear()  # noqa: RUF009  (frozen, so all may share it)

    def __post_init__(self) -> None:
        if is_open(self):
            return
        check_warmup("Power", self.warmup_tokens)
        check_decay("Power", self.decay, self.floor)
        check_shape("Power", self.shape)
        if not (0 < self.knee_tokens < float("inf") and -2 <= self.exponent < 0):
            raise InputError(
                f"Power(knee_tokens={self.knee_tokens}, exponent={self.exponent}): the knee is a count of tokens above "
                f"0 at which the power meets the peak, the exponent lies in [-2, 0), near -0.5 (no fall: use Cooldown)."
            )
        if self.batch_tokens is not None and not self.batch_tokens > 0:
            raise InputError(f"Power batch_tokens is {self.batch_tokens}; it is the tokens of a step, or None.")

    @classmethod
    def of(cls, *, a: float, b: float, peak: float, batch_tokens: float, **fields: Any) -> Power:
        """eta(n) = min(peak, batch_tokens x a x n^b), for an optimizer whose learning rate is `peak`.

        The paper counts a batch in sequences: divide its a by the context length. Raises InputError where a power does
        not fall through the peak.
        """
        if not (a > 0 and b < 0 and peak > 0 and batch_tokens > 0):
            raise InputError(
                f"Power.of(a={a}, b={b}, peak={peak}, batch_tokens={batch_tokens}): a, peak and batch are positive, b "
                f"is negative."
            )
        knee = (peak / (batch_tokens * a)) ** (1 / b)
        return cls(knee_tokens=knee, exponent=b, batch_tokens=batch_tokens, **fields)

    def at_batch(self, batch_tokens: float) -> Power:
        """The same power law for runs of another batch, in tokens a step: the knee moves as batch^(-1 / exponent)."""
        if self.batch_tokens is None or batch_tokens == self.batch_tokens:
            return self
        moved = (batch_tokens / self.batch_tokens) ** (-1 / self.exponent)
        return replace(self, knee_tokens=self.knee_tokens * moved, batch_tokens=batch_tokens)

    def __call__(self, tokens: float, horizon: float) -> float:
        """Multiplier of the peak learning rate after `tokens` of `horizon` tokens."""
        start = decay_start(horizon, self.decay, self.warmup_tokens)
        if tokens <= start:
            return self._horizon_free(tokens)
        return fallen(self.shape, (tokens - start) / (horizon - start), self._horizon_free(start), self.floor)

    def _horizon_free(self, tokens: float) -> float:
        return min(warmed(tokens, self.warmup_tokens), max(1.0, tokens / self.knee_tokens) ** self.exponent)
