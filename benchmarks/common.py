"""What benchmarks share: the machine and versions in every result file, and writing it."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """What ran the benchmark: processor, cores, versions, date."""
    from windtunnel.train.record import versions

    model = next((line.split(":", 1)[1].strip() for line in _cpu_info() if line.startswith("model name")), "unknown")
    cores = len(os.sched_getaffinity(0))
    return {
        "processor": model, "cores": cores, "system": platform.platform(terse=True), "versions": versions(),
        "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip


def write(name: str, result: dict[str, Any]) -> Path:
    """Write benchmarks/results/<name>.json with the machine it was measured on."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine()} | result, indent=1) + "\n")
    return path


def _cpu_info() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
