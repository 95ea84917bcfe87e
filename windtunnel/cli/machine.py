"""The `machine` line of `windtunnel check`: what will train here, and a warning for each thing that will hurt.

A warning fails nothing: a laptop of one core can check an idea. Looking at devices imports torch, which `--version`
never does; a torch that is installed and cannot be imported is a warning here, not a traceback.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from windtunnel.cli.about import environment, installed
from windtunnel.cli.progress import cores
from windtunnel.places import free_bytes, size_in_words

TRAINS = {"torch": "torch", "safetensors": "safetensors", "cloudpickle": "cloudpickle", "scikit-learn": "sklearn"}
LITTLE_DISK = 2e9  # bytes; guess: records are small, the checkpoints of what is in flight are not
LITTLE_MEMORY = 2e9  # bytes; measured: the demo's largest process holds 1.3 GB
WORTH = 1.2  # times as fast: from here on it is said (guess)
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of CPU a period, and the period; what a container may use


@dataclass(frozen=True)
class Machine:
    """What is here. Bytes of memory and of free disk are None where nothing says them; so is `quota`, in cores."""

    versions: dict[str, str]
    missing: tuple[str, ...]
    devices: tuple[str, ...]
    trouble: str  # why torch, or a device, cannot be used; empty where it can
    cores: int
    quota: float | None
    memory: int | None
    store: str
    disk: int | None
    writable: bool
    bfloat16: float | None = None  # matrix products a second of the first device, over those in float32

    def __str__(self) -> str:
        quota = f" (a quota of {self.quota:g})" if self.quota is not None and self.quota < self.cores else ""
        size = "" if self.memory is None else f", {size_in_words(self.memory)} of memory"
        gains = self.bfloat16 is not None and self.bfloat16 > WORTH
        low = f", matrix products {self.bfloat16:.2g} times as fast in bfloat16 (--precision)" if gains else ""
        disk = "free disk unknown" if self.disk is None else f"{size_in_words(self.disk)} free"
        return (
            f"Python {self.versions['python'].split()[0]}, torch {self.versions['torch']}, "
            f"{', '.join(self.devices) or 'CPU only'}, {self.cores} core{'s' * (self.cores > 1)}{quota}{size}{low}, "
            f"{disk} at {self.store}"
        )

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data, with the warnings."""
        return asdict(self) | {"warnings": list(warned(self))}


def look(store: str) -> Machine:
    """Ask this machine. `store` is a folder or URL as --store takes it, and need not exist."""
    devices, trouble = _devices()
    local = "://" not in store
    return Machine(
        versions=environment(),
        missing=tuple(name for name in TRAINS if installed(name) == "not installed"),
        devices=devices,
        trouble=trouble,
        cores=cores(),
        quota=_quota(),
        memory=_memory(),
        store=store,
        disk=free_bytes(store) if local else None,
        writable=_writable(store) if local else True,
        bfloat16=_gain("cuda:0" if devices else "cpu"),
    )


def warned(machine: Machine) -> Iterator[str]:
    """One sentence for each thing that will hurt, with the remedy."""
    if machine.missing:
        yield (
            f"{', '.join(machine.missing)} missing: nothing can be trained here, laws can be fitted. "
            "pip install 'windtunnel[train]'"
        )
    if machine.trouble:
        yield machine.trouble
    if not machine.devices and "CUDA" not in machine.versions["torch"] and Path("/dev/nvidia0").exists():
        yield f"an NVIDIA GPU is here and torch {machine.versions['torch']} cannot use it: install torch built for CUDA"
    usable = min(machine.cores, machine.quota or machine.cores)
    if not machine.devices and usable <= 1:
        yield "one core: packs are trained one after another; give --on ray or --on slurm where there is a cluster"
    elif not machine.devices and usable < machine.cores:
        yield f"{machine.cores} cores are seen and {machine.quota:g} may be used: give --devices {max(1, int(usable))}"
    if machine.memory is not None and machine.memory < LITTLE_MEMORY:
        yield f"{size_in_words(machine.memory)} of memory: the demo takes 1.3 GB in a process; give --devices 1"
    if not machine.writable:
        yield f"{machine.store} cannot be written: name another place with --store"
    if machine.disk is not None and machine.disk < LITTLE_DISK:
        free = size_in_words(machine.disk)
        yield f"{free} free at {machine.store}: a study pauses when the disk is full; make room, or --store"


def _devices() -> tuple[tuple[str, ...], str]:
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            import torch

            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    except ModuleNotFoundError:
        return (), ""
    except (ImportError, OSError) as error:  # a library that torch needs is missing, or was built for another machine
        return (), f"torch is installed and cannot be imported: {error}"
    found = [torch.cuda.get_device_properties(at) for at in range(count)]
    named = tuple(f"{one.name} ({size_in_words(one.total_memory)})" for one in found)
    said = next((str(one.message).splitlines()[0] for one in heard if "CUDA" in str(one.message)), "")
    return named, said


def _gain(device: str) -> float | None:
    """By how much products in bfloat16 are faster there; None where torch cannot say."""
    try:
        import torch

        from windtunnel.train.peak import bfloat16_gain

        return bfloat16_gain(torch.device(device))
    except (ImportError, OSError, RuntimeError):  # `trouble` says why
        return None


def _quota() -> float | None:
    with suppress(OSError, ValueError):
        most, period = QUOTA.read_text().split()
        return int(most) / int(period)  # "max" is no number: no quota
    return None


def _memory() -> int | None:
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _writable(store: str) -> bool:
    """Whether the store's folder, or the first folder above it that exists, takes files."""
    near = next((path for path in (Path(store), *Path(store).absolute().parents) if path.exists()), Path())
    return os.access(near, os.W_OK)
