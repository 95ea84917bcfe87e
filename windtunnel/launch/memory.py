"""How much of a node's memory a pack is promised: what its tensors take, and the process around them."""

from __future__ import annotations

from windtunnel.train.memory import pack_bytes
from windtunnel.train.pack import Pack

# An interpreter with torch imported and its threads started (measured: 0.45 GiB on CPU).
PROCESS_BYTES = 512 * 2**20


def estimated_bytes(pack: Pack) -> int:
    """Host memory of a process that trains a pack on a CPU, in bytes."""
    return PROCESS_BYTES + int(pack_bytes(pack) or 0)
