"""Which tensors a learned optimizer's weights hold, and of which shapes: one small network, or VeLO's bank of them.

Which of both it is, the names say. A newcomer would fix 512 units and 256 networks: any numbers will do, so long as all
tensors have the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from windtunnel.errors import InputError
from windtunnel.parts.learned.features import Features
from windtunnel.parts.learned.lstm import INPUTS

NETWORK = ("w0", "b0", "w1", "b1", "w2", "b2")

Shapes = dict[str, tuple[int, ...]]


def shapes_of(features: Features, held: Mapping[str, Tensor]) -> Shapes:
    """What the shapes of these tensors should be, by name. Raises InputError for names that belong to neither kind."""
    if "bank.w0" in held:
        return _bank(features, held)
    _check_names(held, NETWORK)
    return _network(features, (), _last(held, "w1"), _last(held, "w2"))


def _network(features: Features, lead: tuple[int, ...], hidden: int, said: int, before: str = "") -> Shapes:
    shapes = (features.count, hidden), (hidden,), (hidden, hidden), (hidden,), (hidden, said), (said,)
    return {before + name: (*lead, *shape) for name, shape in zip(NETWORK, shapes, strict=True)}


def _bank(features: Features, held: Mapping[str, Tensor]) -> Shapes:
    """`bank.*` with the member first; every Linear is (inputs, outputs)."""
    members, units = held["bank.w0"].shape[0] if held["bank.w0"].ndim else 0, _last(held, "mix.b")
    linear = {
        "mix": (INPUTS, units), "into": (INPUTS, units), "lstm": (2 * units, 4 * units), "controls": (units, members),
        "rate": (units, 1),
    }  # fmt: skip
    wanted: Shapes = {"start.hidden": (1, units), "start.cell": (1, units)}
    for name, (inputs, outputs) in linear.items():
        wanted |= {f"{name}.w": (inputs, outputs), f"{name}.b": (outputs,)}
    wanted |= _network(features, (members,), _last(held, "bank.w1"), _last(held, "bank.w2"), "bank.")
    _check_names(held, wanted)
    return wanted


def _check_names(held: Mapping[str, Tensor], wanted: Mapping[str, object] | tuple[str, ...]) -> None:
    if set(held) != set(wanted):
        raise InputError(f"A learned optimizer has the tensors {', '.join(wanted)}; these are {sorted(held)}.")


def _last(held: Mapping[str, Tensor], name: str) -> int:
    return held[name].shape[-1] if name in held and held[name].ndim else 0
