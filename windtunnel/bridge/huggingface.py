"""A callback of Hugging Face's Trainer: its losses recorded, the scale table's rates kept, a forecast beside them.

What it cannot do is adopt: the Trainer is given the optimizer, so the table is applied before it is made
(docs/bridges.md has the three lines). A newcomer would let the Trainer make its own optimizer; its groups know no
table, and `scales` here raises then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from transformers import TrainerCallback
from transformers import __version__ as version

from windtunnel.bridge.following import Following, never_logged
from windtunnel.bridge.foreign import ForeignRun


class FollowTrainer(TrainerCallback):
    """Follow a Trainer's run. Arguments as of `Following`, the horizon being the Trainer's own steps.

    `metric` is the logged number that is followed: "loss", the training loss since the last log, or "eval_loss", which
    is of the kind that most forecasts are of. `scales` is checked against the optimizer's rates at every log. `stop`
    True ends the training when a warning is raised. `tokens_per_step` is recorded as tokens where the Trainer counts
    none. `following` and `run` hold what was seen and recorded.
    """

    def __init__(
        self, *, metric: str = "loss", scales: Any = None, stop: bool = False, tokens_per_step: float | None = None,
        **following: Any,
    ) -> None:  # fmt: skip
        self.metric, self.scales, self.stop = metric, scales, stop
        self.tokens_per_step, self.arguments = tokens_per_step, following
        self.following: Following | None = None
        self.run: ForeignRun | None = None
        self.judged = float("nan")
        self.logged: set[str] = set()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check the optimizer, and begin."""
        self._check(kwargs)
        if state.is_world_process_zero:
            self.following = Following(state.max_steps, **self.arguments)
            for logs in state.log_history:  # those of before, where the run is resumed from a checkpoint
                self._take(logs["step"], logs)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Take the metric where the log has it."""
        self._check(kwargs)
        if self.following is None or not logs:
            return
        self._take(state.global_step, logs)
        if self.stop and self.following.standing:
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the run, unless it was stopped early."""
        if self.following is None or state.global_step < state.max_steps:
            return
        tokens = float(getattr(state, "num_input_tokens_seen", 0) or 0)
        tokens = tokens or (self.tokens_per_step or 0.0) * state.global_step
        known = {"lr": float(args.learning_rate), "steps": float(state.global_step)}
        known |= {"tokens": tokens} if tokens else {}
        model = kwargs.get("model")
        known |= {"params": float(sum(p.numel() for p in model.parameters()))} if model is not None else {}
        never_logged(self.following, self.metric, self.logged)
        loss = self.judged if np.isfinite(self.judged) else None
        texts = {"seed": str(args.seed)}
        self.run = self.following.end(loss, texts=texts, tool=f"transformers {version}", **known)

    def _take(self, step: int, logs: Mapping[str, Any]) -> None:
        assert self.following is not None
        self.logged |= logs.keys()
        self.judged = float(logs.get("eval_loss", self.judged))
        if self.metric in logs:
            self.following.row(step, float(logs[self.metric]))

    def _check(self, given: Any) -> None:
        if self.scales is not None and given.get("optimizer") is not None:
            self.scales.check(getattr(given["optimizer"], "optimizer", given["optimizer"]))  # inside accelerate's
