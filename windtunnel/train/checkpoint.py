"""Checkpoints of a pack in flight: safetensors and JSON, never pickle.

One folder a checkpoint, written under a temporary name, flushed and renamed; a checksum in the JSON guards the tensors.
The newest good one is used, a damaged one is skipped. When a pack's runs are recorded its checkpoints are removed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, contiguous_format

from windtunnel.store import publish

KEPT = 2


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write the checkpoint of a step and drop all but the newest two."""
    from safetensors.torch import save as to_bytes

    # a copy of each, for safetensors refuses tensors that share memory, and a state may name one tensor twice
    data = to_bytes({name: tensor.clone(memory_format=contiguous_format) for name, tensor in tensors.items()})
    record = dict(facts) | {"step": step, "sha256": hashlib.sha256(data).hexdigest()}
    publish(folder / f"step-{step:09d}", {"state.safetensors": data, "state.json": json.dumps(record).encode()})
    for old in _steps(folder)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def newest(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Facts and tensors of the newest checkpoint whose checksum holds, or None."""
    from safetensors.torch import load

    for path in _steps(folder):
        try:
            facts = json.loads((path / "state.json").read_text("utf-8"))
            data = (path / "state.safetensors").read_bytes()
        except (OSError, ValueError):
            continue
        if hashlib.sha256(data).hexdigest() == facts.get("sha256"):
            return facts, load(data)
    return None


def interrupted(packs: Path) -> list[list[str]]:
    """The members, by run key, of every pack that has a checkpoint under `packs`."""
    found = [state for folder in sorted(packs.glob("*/")) if (state := newest(folder)) is not None]
    return [facts["members"] for facts, _ in found]


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True) if folder.is_dir() else []
