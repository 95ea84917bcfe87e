"""A callback of Lightning's Trainer: its losses recorded, the scale table's rates kept, a forecast beside them.

The table is applied where a LightningModule applies such things, in its __init__ and configure_optimizers
(docs/bridges.md). A newcomer would read the loss at every step: on a device that waits for it each time, so losses are
summed there and read a thousand times a run.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning import __version__ as version

from windtunnel.bridge.following import Following, log, never_logged
from windtunnel.bridge.foreign import ForeignRun
from windtunnel.errors import InputError

ROWS = 1000  # of a whole run


class FollowLightning(pl.Callback):
    """Follow a Lightning run. Arguments as of `Following`.

    `horizon` is the run's length in steps, None the Trainer's own count, which there is not where neither max_steps nor
    the dataset says it (an IterableDataset, max_epochs=-1); that is an InputError. A run that ends before its horizon
    is not recorded.
    `metric` None follows the training loss; a name follows what the module logged so in validation ("val_loss"), which
    is of the kind that most forecasts are of. `scales` is checked against the optimizers' rates. `stop` True ends the
    training when a warning is raised. `tokens_per_step` is recorded as tokens. `following` and `run` hold what was seen
    and recorded.
    """

    def __init__(
        self, *, metric: str | None = None, horizon: int | None = None, scales: Any = None, stop: bool = False,
        tokens_per_step: float | None = None, **following: Any,
    ) -> None:  # fmt: skip
        self.metric, self.scales, self.stop = metric, scales, stop
        self.tokens_per_step, self.arguments = tokens_per_step, following
        self.following: Following | None = None
        self.run: ForeignRun | None = None
        self.given, self.horizon, self.stride, self.row_at = horizon, 0, 1, 0
        self.sum: Any = None
        self.count = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Check the optimizers, and begin."""
        self._check(trainer)
        steps = trainer.estimated_stepping_batches if self.given is None else self.given
        if not 0 < steps < np.inf:
            raise InputError(
                f"The Trainer does not know the run's length in steps (it says {steps}), so no share of it can be "
                f"followed; give Trainer(max_steps=...) or FollowLightning(horizon=...)."
            )
        self.horizon = int(steps)
        self.stride = max(1, self.horizon // ROWS)
        if trainer.is_global_zero:
            self.following = Following(self.horizon, **self.arguments)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Sum the losses; a row each `stride` steps."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if self.following is None or self.metric is not None or loss is None:
            return
        value = torch.as_tensor(loss).detach()
        self.sum, self.count = value if self.sum is None else self.sum + value, self.count + 1
        if trainer.global_step >= self.row_at + self.stride:
            self._row(trainer, float(self.sum / self.count))
            self.sum, self.count = None, 0

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Take the metric, where one is followed."""
        if self.following is not None and self.metric in trainer.callback_metrics and not trainer.sanity_checking:
            self._row(trainer, float(trainer.callback_metrics[self.metric]))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Record the run, unless it was stopped early."""
        if self.following is None:
            return
        if trainer.global_step < self.horizon:
            if self.given is not None:
                log.warning(
                    "%s ended at step %d of its horizon of %d; it is not recorded",
                    self.following.name, trainer.global_step, self.horizon,
                )  # fmt: skip
            return
        never_logged(self.following, self.metric or "loss", trainer.callback_metrics)
        known: dict[str, Any] = {
            "steps": float(trainer.global_step),
            "params": float(sum(p.numel() for p in pl_module.parameters())),
        }
        known |= {"tokens": self.tokens_per_step * trainer.global_step} if self.tokens_per_step else {}
        known |= {"lr": float(trainer.optimizers[0].defaults["lr"])} if trainer.optimizers else {}
        judged = trainer.callback_metrics.get(self.metric or "val_loss")
        loss = None if judged is None or not np.isfinite(float(judged)) else float(judged)
        self.run = self.following.end(loss, tool=f"lightning {version}", **known)

    def _row(self, trainer: Any, loss: float) -> None:
        assert self.following is not None
        if trainer.global_step > self.row_at:
            self.row_at = trainer.global_step
            self._check(trainer)
            self.following.row(trainer.global_step, loss)
        if self.stop and self.following.standing:
            trainer.should_stop = True

    def _check(self, trainer: Any) -> None:
        if self.scales is not None:
            for optimizer in trainer.optimizers:
                self.scales.check(optimizer)
