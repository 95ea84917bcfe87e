"""A launcher that makes losses up: those of a law with noise, so that a study of hundreds of runs takes a second."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from test_store import run

import windtunnel as wt
from windtunnel.errors import Paused
from windtunnel.runs import Cost


class Inventing:
    """A launcher that records runs without training them; stops after `most` packs."""

    def __init__(self, noise: float = 0.002, most: int | None = None) -> None:
        self.noise, self.most, self.packs = noise, most, 0

    def pack_rows(self, asked: int, store: wt.Store, params: int) -> int:
        return 1

    def __call__(self, packs, store, report=None, finished=None):
        for pack in packs:
            if self.packs == self.most:
                raise Paused("enough for today")
            self.packs += 1
            for spec, labels in zip(pack.specs, pack.labels, strict=True):
                store.add(invented(pack, spec, labels, self.noise))
            if finished is not None:
                finished(pack)


def invented(pack, spec, labels, noise):
    size, drawn = pack.size(), np.random.default_rng(int(spec.key[:12], 16)).standard_normal()
    far = np.log(spec.hyperparameters.get("lr", 0.01) / 0.01)
    loss = (1.5 + 20 * size.params**-0.35 + 60 * spec.rung.tokens**-0.6 + 0.01 * far**2) * np.exp(noise * drawn)
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    cost = Cost(flops=size.training_flops(spec.rung.tokens), seconds=1.0, device="cpu", threads=1, members=2)
    return run(key=spec.key, spec=spec, loss=float(loss), size=size, cost=cost, labels=labels, source={}, created=now)
