"""How many examples fit at a time, found out when memory runs out and kept in the store.

A process that is out of memory has left the others inside a collective, so it cannot try again by itself: it notes a
smaller piece and ends, and all are started again. A newcomer would make the batch smaller; the step, and so the loss,
would be another.
"""

from __future__ import annotations

import hashlib
import json
import os

from windtunnel.errors import InputError
from windtunnel.runs import canonical
from windtunnel.store import Store
from windtunnel.train.pack import Pack
from windtunnel.train.ranks import Ranks
from windtunnel.train.record import device_name


class Pieces:
    """Into how many pieces a process cuts its share of a batch; the store remembers it from when memory ran out."""

    def __init__(self, store: Store, pack: Pack, ranks: Ranks) -> None:
        spec, device = pack.specs[0], ranks.device
        name = device_name(device)
        asked = [spec.to_json()["recipe"], spec.to_json()["rung"], ranks.world, name]
        digest = hashlib.sha256(canonical(asked).encode()).hexdigest()[:20]
        self.path = store.packs() / f"pieces-{digest}" / "pieces.json"  # all that lies in packs/ is a folder
        self.share = (pack.rung.batch or 1) // ranks.world

    def known(self, least: int) -> int:
        """What was found before, at least `least`."""
        try:
            found = json.loads(self.path.read_text("utf-8"))["pieces"]
        except (OSError, ValueError, KeyError, TypeError):
            return least
        return max(least, min(found, self.share)) if isinstance(found, int) else least

    def more(self, tried: int) -> InputError:
        """Remember twice as many pieces; what to say now."""
        if tried >= self.share:
            return InputError(
                "Memory ran out with one example at a time on each process; train over more devices, or make the "
                "model or its examples smaller."
            )
        self.path.parent.mkdir(exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        temporary.write_text(json.dumps({"pieces": min(2 * tried, self.share)}), "utf-8")
        os.replace(temporary, self.path)
        return InputError(
            f"Memory ran out with {-(-self.share // tried)} examples at a time on each process; half as many are taken "
            f"from now on, for the same step. torchrun with --max-restarts goes on by itself; else run again."
        )
