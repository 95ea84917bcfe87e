"""Checkpoints of a pack in flight: safetensors and JSON, never pickle.

One folder a checkpoint, whole or not there (`windtunnel.places`); the JSON carries a seal over itself and the checksum
of the tensors, for safetensors accepts a flipped byte without a word. The newest good one is used; a damaged one is
named, set aside and never used. Generators are not in it because there are none: data, initial values and noise are
functions of seed and step. When a pack's runs are recorded its checkpoints are removed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, contiguous_format

from windtunnel.errors import InputError
from windtunnel.files import RECORD_BYTES, check_tensors, json_of, misfit, seal_of, sealed, sha256, shape_of
from windtunnel.places import Local, Place
from windtunnel.records import upgrade

FORMAT = 2  # 1, written by 0.1.0, has no seal over its JSON and is not gone on from
KEPT = 2
TENSOR_BYTES = 1 << 40
T = TypeVar("T")
Take = Callable[[dict[str, Any], dict[str, Tensor]], T]
_STEP = re.compile(r"step-\d{9}")
_SHAPE = {"step": int, "sha256": str, "bytes": int, "members": [str]}


def place_of(folder: Path | Place) -> Place:
    """A folder of checkpoints as a place."""
    return Local(folder) if isinstance(folder, Path) else folder


def save(folder: Path | Place, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> int:
    """Write the checkpoint of a step and drop all but the newest two; returns the bytes written.

    Raises OSError where it cannot be written: then nothing of it is seen, and older ones stay.
    """
    place, files = place_of(folder), written(step, tensors, facts)
    place.create(f"step-{step:09d}", files)
    for old in _steps(place)[KEPT:]:
        place.remove(old)
    return sum(map(len, files.values()))


def written(step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of a checkpoint; state.json comes last."""
    from safetensors.torch import save as to_bytes

    # a copy of each, for safetensors refuses tensors that share memory, and a state may name one tensor twice
    data = to_bytes({name: tensor.clone(memory_format=contiguous_format) for name, tensor in tensors.items()})
    said = {"format": FORMAT, "step": step, "sha256": sha256(data), "bytes": len(data)}
    return {"state.safetensors": data, "state.json": json.dumps(sealed(dict(facts) | said)).encode()}


def newest(folder: Path | Place) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Facts and tensors of the newest good checkpoint, or None."""
    return search(folder, lambda facts, tensors: (facts, tensors))[0]


def search(
    folder: Path | Place, take: Callable[[dict[str, Any], dict[str, Tensor]], T]
) -> tuple[T | None, dict[str, str]]:
    """What `take` makes of the newest good checkpoint, and by name why each newer one is not good.

    `take` raises InputError for one that it cannot use. Raises InputError for a checkpoint of a newer version.
    """
    place, damaged = place_of(folder), {}
    for name in _steps(place):
        try:
            facts, tensors = _read(place, name)
            with shape_of("state.json", "it is not used."):
                return take(facts, tensors), damaged
        except Newer:
            raise
        except (_Damaged, InputError) as error:
            damaged[name] = str(error)
    return None, damaged


def members(folder: Path | Place) -> list[str]:
    """The run keys of the pack whose checkpoints these are, without reading tensors; none where nothing tells."""
    return newest_facts(folder).get("members", [])


def newest_facts(folder: Path | Place) -> dict[str, Any]:
    """What the newest checkpoint that can be read says of itself, without its tensors; nothing where none can."""
    place = place_of(folder)
    for name in _steps(place):
        try:
            return _facts(place, name)
        except (_Damaged, InputError):
            continue
    return {}


def spent(folder: Path | Place) -> tuple[float, float]:
    """Steps, those of members that share a row counted once, and seconds that the newest checkpoint has behind it."""
    facts = newest_facts(folder)
    with suppress(KeyError, TypeError, ValueError):
        return float(sum(facts["spent"])), float(facts["seconds"])
    return 0.0, 0.0


def interrupted(packs: Path | Place) -> list[list[str]]:
    """The members, by run key, of every pack that has a checkpoint under `packs`."""
    place = place_of(packs)
    folders = [name for name in place.names() if re.fullmatch(r"[0-9a-f]{8,64}", name)]
    return [found for name in folders if (found := members(place.below(name)))]


class Newer(InputError):
    """A checkpoint of a newer windtunnel: training over it would lose what it holds."""


class _Damaged(Exception):
    """Why a checkpoint cannot be used."""


def _read(place: Place, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors.torch import load

    facts = _facts(place, name)
    try:
        data = place.read(f"{name}/state.safetensors", min(facts["bytes"], TENSOR_BYTES))
        if sha256(data) != facts["sha256"]:
            raise _Damaged("sha256 differs in state.safetensors")
        check_tensors(data)
        return facts, load(data)
    except InputError as error:
        raise _Damaged(str(error)) from None
    except (_Damaged, MemoryError):
        raise
    except Exception as error:
        raise _Damaged(f"state.safetensors cannot be read: {error}") from None  # safetensors has its own errors


def _facts(place: Place, name: str) -> dict[str, Any]:
    try:
        named = f"{place.where}/{name}/state.json"
        facts = json_of(place.read(f"{name}/state.json", RECORD_BYTES), named, "it is not used.")
    except InputError as error:
        raise _Damaged(str(error)) from None
    if isinstance(facts.get("format"), int) and facts["format"] > FORMAT:
        raise Newer(f"{named} is of format {facts['format']}; {upgrade(FORMAT, facts)}")
    if facts.get("seal") != seal_of(facts):
        raise _Damaged("state.json does not match its own checksum")
    wrong = misfit(facts, _SHAPE, "state.json")
    if wrong or name != f"step-{facts['step']:09d}":
        raise _Damaged(wrong or f"it says that it is of step {facts['step']}")
    return facts


def _steps(place: Place) -> list[str]:
    return sorted((name for name in place.whole("", "state.json") if _STEP.fullmatch(name)), reverse=True)
