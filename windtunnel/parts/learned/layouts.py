"""Which arrays a published learned optimizer consists of: a list of places for each publisher, and how it is filled.

A place is a published name, the plain name it becomes, its shape. A file must hold exactly its list, so that weights of
another rule, or with another number of layers or features, are refused by name. Plain matrices are (inputs, outputs),
as JAX stores them; torch's Linear is the other way round, and is turned here. A newcomer would look for one matrix
where VeLO, Celo and Celo2 store their first layer in fourteen pieces, one a group of features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from windtunnel.errors import InputError, printable

_SPLIT = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)  # features of each piece of that first layer, in order


@dataclass(frozen=True)
class Place:
    """Where a published array goes. A letter in `shape` is any size, the same wherever it stands."""

    name: str
    plain: str
    shape: tuple[int | str, ...]
    turned: bool = False  # its last two axes, as torch's Linear has them


def small_fc_of_google() -> list[Place]:
    layers = _layers("nn/~/", "", (), "F", 2)
    offsets = ("momentum_decays", "momentum", 3), ("rms_decays", "rms", 1), ("adafactor_decays", "factored", 3)
    return [*layers, *(Place(name, plain, (size,)) for name, plain, size in offsets)]


def small_fc_of_pylo() -> list[Place]:
    shapes: tuple[tuple[str, int | str, int | str], ...] = (
        ("input", "F", "H"),
        ("linear_0", "H", "H"),
        ("output", "H", 2),
    )
    return [p for i, (name, a, b) in enumerate(shapes) for p in _linear(f"network.{name}", f"w{i}", f"b{i}", a, b)]


def celo2_of_pylo() -> list[Place]:
    first = [Place(f"w0.{i}", "w0", (size, "H")) for i, size in enumerate(_SPLIT)]
    dense = [("dense_w.0", "w1", ("H", "H")), ("dense_w.1", "w2", ("H", 3)), ("b0", "b0", ("H",))]
    rest = [("dense_b.0", "b1", ("H",)), ("dense_b.1", "b2", (3,))]
    return [*first, *(Place(*each) for each in (*dense, *rest))]


def bank_of_pylo() -> list[Place]:
    shapes: tuple[tuple[str, str, int | str, int | str], ...] = (
        ("input_weights_", "input_bias_", 30, "H"),
        ("hidden_weights_.0", "hidden_bias_.0", "H", "H"),
        ("output_weights_", "output_bias_", "H", 3),
    )
    return [
        place
        for i, (weight, bias, a, b) in enumerate(shapes)
        for place in (Place(weight, f"bank.w{i}", ("P", b, a), True), Place(bias, f"bank.b{i}", ("P", b)))
    ]


def recurrent_of_pylo() -> list[Place]:
    named = (("mix_layer1", "unused", "I", "L"), ("mix_layer2", "mix", "I", "L"), ("final_mix_layer", "into", "I", "L"))
    linear = (*named, ("lstm.linear", "lstm", "L+L", "4L"), ("rnn_to_controls", "controls", "L", "P"))
    places = [p for name, plain, a, b in linear for p in _linear(name, f"{plain}.w", f"{plain}.b", a, b)]
    start = [Place(f"lstm_init_state.{i}", f"start.{what}", (1, "L")) for i, what in enumerate(("hidden", "cell"))]
    return [*places, *_linear("step_size", "rate.w", "rate.b", "L", 1), *start]


def recurrent_of_haiku() -> list[Place]:
    named = (("linear", "unused", "I", "L"), ("linear_1", "mix", "I", "L"), ("linear_2", "into", "I", "L"))
    linear: tuple[tuple[str, str, int | str, int | str], ...] = (
        *named,
        ("rnn/linear", "lstm", "L+L", "4L"),
        ("rnn_to_controls", "controls", "L", "P"),
        ("step_size", "rate", "L", 1),
    )
    places = [
        place
        for name, plain, a, b in linear
        for place in (
            Place(f"rnn_params/{name}/w", f"{plain}.w", (a, b)),
            Place(f"rnn_params/{name}/b", f"{plain}.b", (b,)),
        )
    ]
    return [*places, *(Place(f"lstm_init_state/{what}", f"start.{what}", (1, "L")) for what in ("hidden", "cell"))]


def _layers(before: str, plain: str, lead: tuple[str, ...], inputs: int | str, outputs: int) -> list[Place]:
    sizes: tuple[int | str, ...] = (inputs, "H", "H", outputs)
    return [
        place
        for i in range(3)
        for place in (
            Place(f"{before}w{i}", f"{plain}w{i}", (*lead, sizes[i], sizes[i + 1])),
            Place(f"{before}b{i}", f"{plain}b{i}", (*lead, sizes[i + 1])),
        )
    ]


def split_layers(before: str, plain: str, lead: tuple[str, ...]) -> Iterable[Place]:
    """Three layers of which the first is stored one group of features at a time."""
    for i, size in enumerate(_SPLIT):
        yield Place(f"{before}w0__{i}", f"{plain}w0", (*lead, size, "H"))
    yield from (place for place in _layers(before, plain, lead, 30, 3) if place.plain != f"{plain}w0")


def _linear(name: str, weight: str, bias: str, inputs: int | str, outputs: int | str) -> list[Place]:
    """A torch Linear: its weight is (outputs, inputs)."""
    return [Place(f"{name}.weight", weight, (outputs, inputs), True), Place(f"{name}.bias", bias, (outputs,))]


# filling them


def placed(
    arrays: Mapping[str, np.ndarray], places: list[Place], named: str
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Every array at its place, and the sizes that the letters turned out to be. Raises InputError by name."""
    wanted = {place.name for place in places}
    for what, names in (("lacks", wanted - arrays.keys()), ("also holds", arrays.keys() - wanted)):
        if names:
            listed = ", ".join(printable(name) for name in sorted(names)[:6])
            more = f" and {len(names) - 6} more" if len(names) > 6 else ""
            raise InputError(f"{named} {what} {listed}{more}: it is not of the layout that this reader knows.")
    sizes: dict[str, int] = {}
    parts: dict[str, list[np.ndarray]] = {}
    for place in places:
        array = arrays[place.name]
        _measure(array.shape, place, sizes, named)
        if not np.isfinite(array).all():
            raise InputError(f"{named}: {printable(place.name)} holds numbers that are not finite.")
        parts.setdefault(place.plain, []).append(array.swapaxes(-1, -2) if place.turned else array)
    whole = {plain: np.concatenate(each, axis=-2) if len(each) > 1 else each[0] for plain, each in parts.items()}
    return {plain: torch.from_numpy(np.array(array, order="C", copy=True)) for plain, array in whole.items()}, sizes


_MULTIPLES: dict[str, Callable[[int], tuple[int, int]]] = {"L+L": lambda n: divmod(n, 2), "4L": lambda n: divmod(n, 4)}


def _measure(shape: tuple[int, ...], place: Place, sizes: dict[str, int], named: str) -> None:
    """Hold a shape against its place; letters that are new are learned."""
    fits = len(shape) == len(place.shape)
    for given, asked in zip(shape, place.shape, strict=False):
        if isinstance(asked, int):
            fits = fits and given == asked
            continue
        share, rest = _MULTIPLES[asked](given) if asked in _MULTIPLES else (given, 0)
        letter = asked.strip("4")[0]
        fits = fits and rest == 0 and share > 0 and sizes.setdefault(letter, share) == share
    if not fits:
        known = ", ".join(f"{letter} = {size}" for letter, size in sizes.items())
        asked = "(" + ", ".join(str(s) for s in place.shape) + ")"
        said = f" with {known} from other arrays" if known else ""
        raise InputError(f"{named}: {printable(place.name)} is of shape {tuple(shape)}, where {asked} belongs{said}.")
