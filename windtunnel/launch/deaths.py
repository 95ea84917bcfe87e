"""When to try a pack again whose worker died, when to stop, and the sentences for it.

A worker may die because its machine does: the pack goes on from its checkpoint, as often as that happens. Or the pack
kills every worker that trains it, for want of memory: then trying again for ever would hide it. The two differ in
whether a checkpoint was added since the last death, which Ray's own count of retries does not know.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from windtunnel.launch.errand import told

# Deaths in a row of one pack without a new checkpoint (guess: a machine that is lost takes a pack down once or twice).
MOST = 5


@dataclass
class Deaths:
    """Counts the deaths of each pack since it last got further."""

    store: Path
    counts: dict[str, tuple[list[str], int]] = field(default_factory=dict)
    total: int = 0

    def again(self, key: str) -> bool:
        """One more death of a pack; whether it is worth another worker."""
        now = self._checkpoints(key)
        before, count = self.counts.get(key, ([], 0))
        self.counts[key] = (now, 1 if now != before else count + 1)
        self.total += 1
        return self.counts[key][1] < MOST

    def _checkpoints(self, key: str) -> list[str]:
        """The checkpoints of a pack, or of the part of it that was trained last."""
        packs = self.store / "packs"
        part = str((told(self.store, key) or {}).get("pack", key))
        return sorted(str(p.relative_to(packs)) for name in {key, part} for p in (packs / name).glob("**/step-*"))


def gave_up(pack: str, how: str) -> str:
    """The sentence for a pack that no worker survives."""
    return (
        f"{MOST} workers in a row died while training {pack}, without getting any further ({how}). The usual cause is "
        f"lack of memory. Finished runs are kept; run again to go on."
    )


def not_connected(address: str | None, how: str) -> str:
    """The sentence for a Ray cluster that does not answer or cannot be started."""
    if address is None:
        return f"Ray could not start a cluster on this machine ({how}); run again, or train --on here, without Ray."
    return (
        f"No Ray cluster answers at {address} ({how}). RAY_ADDRESS names the cluster; if that asks for a token, "
        f"RAY_AUTH_TOKEN holds it. Without RAY_ADDRESS a cluster is started on this machine."
    )


def lost(log: Path) -> str:
    """The sentence for a Ray cluster that was there and is not."""
    return (
        f"The Ray cluster was lost: its head, or the connection to it, ended (Ray's own words are in {log}). Finished "
        f"runs and checkpoints are kept; run again to go on."
    )
