"""What runs took in energy, estimated: seconds on a device times the power its maker states. Nothing is measured here.

A newcomer would quote it as measured: cooling and the rest of the machine come on top, and a device that waits for data
draws less, so it is told as an estimate, and is missing where a device is not known.
"""

from __future__ import annotations

from collections.abc import Iterable

JOULES = 3.6e6  # of a kWh
CPU_THREAD_WATTS = 10.0  # guess: servers draw 4 to 8 W a thread at full load, small machines more
# board power by data sheet, in watts; the longer name first where one begins another
BOARD_WATTS = {
    "B200": 1000.0, "H200": 700.0, "H100 PCIe": 350.0, "H100": 700.0, "A100-PCIE": 250.0, "A100": 400.0,
    "V100": 300.0, "L40": 300.0, "L4": 72.0, "T4": 70.0, "A10G": 150.0, "RTX 4090": 450.0, "RTX 3090": 350.0,
}  # fmt: skip


def watts(device: str, threads: int) -> float | None:
    """Power of a device as a run's cost names it; None for one whose power is not known here."""
    if device.lower().startswith("cpu"):
        return CPU_THREAD_WATTS * max(1, threads)
    return next((power for name, power in BOARD_WATTS.items() if name.lower() in device.lower()), None)


def kilowatt_hours(costs: Iterable[tuple[str, int, int, float]]) -> float | None:
    """Energy of runs given as (device, threads, processes, seconds); None where any device is not known."""
    total = 0.0
    for device, threads, processes, seconds in costs:
        power = watts(device, threads)
        if power is None:
            return None
        total += power * processes * seconds / JOULES
    return total
