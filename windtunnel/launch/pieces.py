"""How many examples fit at a time, found out when memory runs out and kept in the store.

A newcomer would make the batch smaller; the step, and so the loss, would be another.
"""

from __future__ import annotations

import hashlib
import json
import os

import torch

from windtunnel.errors import InputError
from windtunnel.runs import canonical
from windtunnel.store import Store
from windtunnel.train.pack import Pack
from windtunnel.train.record import device_name


class Pieces:
    """Into how many pieces a process cuts its share of a step; the store remembers it from when memory ran out."""

    def __init__(self, store: Store, pack: Pack, device: torch.device, processes: int = 1) -> None:
        spec = pack.specs[0]
        asked = [spec.to_json()["recipe"], spec.rung.but(tokens=1).to_json(), processes, device_name(device)]
        digest = hashlib.sha256(canonical(asked).encode()).hexdigest()[:20]
        self.path = store.packs() / f"pieces-{digest}" / "pieces.json"  # all that lies in packs/ is a folder
        self.rung, self.share = pack.rung, (pack.rung.batch or 1) // processes

    def known(self) -> int:
        """What was found before, 1 where nothing was."""
        try:
            found = json.loads(self.path.read_text("utf-8"))["pieces"]
        except (OSError, ValueError, KeyError, TypeError):
            return 1
        return max(1, min(found, self.share)) if isinstance(found, int) else 1

    def more(self, tried: int) -> int:
        """Twice as many. Raises InputError where an example at a time did not fit."""
        if tried >= self.share:
            raise InputError(
                f"Memory ran out at {self.rung} with one example at a time on each device; train over more devices "
                f"(--on torchrun), or make the model or its examples smaller."
            )
        return min(2 * tried, self.share)

    def remember(self, found: int) -> int:
        """Begin with so many from now on."""
        self.path.parent.mkdir(exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        temporary.write_text(json.dumps({"pieces": found}), "utf-8")
        os.replace(temporary, self.path)
        return found
