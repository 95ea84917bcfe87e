"""Published learned optimizers, from their publishers' files to this package's plain tensors; nothing is computed.

A newcomer would take the decays from the file: PyLO's files have none, its constructor does, and those of Celo, Celo2
and VeLO are fixed. `layouts.py` says which arrays a file must hold.

`as_weights` makes of small_fc and Celo2 what their part takes. The tensors of a bank (Celo, VeLO): `bank.*` with the
member first, `mix.*` the LSTM's 30 (Celo: 18) inputs mixed over tensors by a maximum, `into.*` those passed on,
`unused.*` made and never read, `lstm.*` (input above state; gates i, g, f, o; +1 on f), `controls.*`, `rate.*`, and
`start.*`, the first state.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from windtunnel.errors import InputError, printable
from windtunnel.parts.learned import layouts
from windtunnel.parts.learned.features import Features
from windtunnel.parts.learned.foreign import leaves_of, read_bytes, tensors_of
from windtunnel.parts.learned.layouts import placed
from windtunnel.parts.learned.weights import Card, Weights

DECAYS = {"momentum": (0.9, 0.99, 0.999), "rms": (0.999,), "factored": (0.9, 0.99, 0.999)}  # where training began
CELO2_DECAYS = DECAYS | {"rms": (0.95,)}  # Celo2 learns none (2602.19142, and PyLO's defaults)
# Learned offsets of the muLO weights that PyLO applies by default (its AdafacLO; they are in no file of weights).
MULO_OFFSETS = {
    "momentum": (0.15216392, 0.14245212, 0.06812963),
    "rms": (0.01079706,),
    "factored": (0.18621896, -0.10864615, -0.06185547),
}
FEATURES = {
    "small_fc": Features(),
    "celo2": Features(clipped=True, times=(), second_eps=1e-8, normaliser_eps=1e-9),
    "velo": Features(clipped=True, times=()),
}
MAGNITUDE = {"small_fc": 0.001, "celo2": 0.0, "velo": 0.001}  # Celo2 uses its direction alone


@dataclass(frozen=True)
class Imported:
    """Tensors by plain name (float32, (inputs, outputs)), the seven decays, and where they come from.

    `facts`: `rule` (small_fc, celo2, celo, velo), `inputs` and `hidden` of the MLP that runs for every parameter,
    `source` (which layout), `sha256` of the file or files. small_fc and celo2 have w0, b0, w1, b1, w2, b2 alone.
    """

    tensors: dict[str, Tensor]
    decays: dict[str, tuple[float, ...]]
    facts: dict[str, Any]


def from_google(path: str | Path, *, sha256: str | None = None) -> Imported:
    """Weights of google/learned_optimization: small_fc (AdafacMLPLOpt) or VeLO (HyperV2), flax msgpack or an .npz.

    A checkpoint of parameters (`params` beside `gen_id` and `step`) and the bare tree are both read. An .npz has the
    tree's names joined by slashes. Raises InputError.
    """
    named, leaves, found = _leaves(path, sha256)
    if any(name.startswith("nn/") for name in leaves):
        tensors, sizes = placed(leaves, layouts.small_fc_of_google(), named)
        offsets = {name: tensors.pop(name) for name in DECAYS}
        return Imported(tensors, learned_decays(offsets), _facts("small_fc", sizes, "google", found))
    return _banked(leaves, named, "velo", "google", found)


def from_celo(path: str | Path, *, sha256: str | None = None) -> Imported:
    """Weights of amoudgl/celo, a `theta.state` (flax msgpack): Celo with its scheduler, or Celo2. Raises InputError."""
    named, leaves, found = _leaves(path, sha256)
    if any(name.startswith("rnn_params/") for name in leaves):
        return _banked(leaves, named, "celo", "celo", found)
    tensors, sizes = placed(leaves, list(layouts.split_layers("ff_mod_stack/~/", "", ())), named)
    return Imported(tensors, dict(CELO2_DECAYS), _facts("celo2", sizes, "celo", found))


def from_pylo(
    path: str | Path, *, sha256: str | None = None, offsets: Mapping[str, Iterable[float]] | None = None
) -> Imported:
    """Weights of PyLO's `save_pretrained`, a model.safetensors: MetaMLP (AdafacLO, muLO) or CELO2MLP.

    `offsets` are those of the decays of a MetaMLP, as given to PyLO's constructor (`momentum_decays`, `rms_decays`,
    `adafactor_decays`, here momentum, rms, factored); None means PyLO's defaults, which belong to its muLO weights.
    Raises InputError.
    """
    named, arrays, found = _arrays(path, sha256)
    if any(name.startswith("network.") for name in arrays):
        tensors, sizes = placed(arrays, layouts.small_fc_of_pylo(), named)
        decays = learned_decays(MULO_OFFSETS if offsets is None else offsets)
        return Imported(tensors, decays, _facts("small_fc", sizes, "pylo", found))
    if offsets is not None:
        raise InputError(f"{named} is no MetaMLP: Celo2's decays are fixed, leave offsets out.")
    tensors, sizes = placed(arrays, layouts.celo2_of_pylo(), named)
    return Imported(tensors, dict(CELO2_DECAYS), _facts("celo2", sizes, "pylo", found))


def from_pylo_velo(
    mlp: str | Path, rnn: str | Path, *, sha256_mlp: str | None = None, sha256_rnn: str | None = None
) -> Imported:
    """VeLO's weights as PyLO saves them: two files, VeLOMLP and VeLORNN. Raises InputError."""
    named, bank, first = _arrays(mlp, sha256_mlp)
    named_rnn, recurrent, second = _arrays(rnn, sha256_rnn)
    stored = {name: a for name, a in bank.items() if name.split(".")[0].endswith("_")}  # the rest was mixed from it
    tensors, sizes = placed(stored, layouts.bank_of_pylo(), named)
    rest, more = placed(recurrent, layouts.recurrent_of_pylo(), named_rnn)
    if more["P"] != sizes["P"]:
        raise InputError(
            f"{named} is a bank of {sizes['P']} networks, and {named_rnn} has controls for {more['P']}; "
            f"give the two files of one model."
        )
    return Imported(tensors | rest, dict(DECAYS), _facts("velo", sizes, "pylo", f"{first} {second}"))


def as_weights(
    found: Imported, *, step_size: float, parametrization: Mapping[str, Any], horizon: int, **made: Any
) -> Weights:
    """Weights of small_fc, Celo2 or VeLO for their part, with the published features.

    `step_size` is what a step is multiplied by (small_fc and VeLO 0.001, muLO 0.01, Celo2 1), `parametrization` and
    `horizon` what they were trained under (`Card`): the file says neither. `made` (licence, tasks) is added to the
    card. Raises InputError for Celo, which has no part here.
    """
    rule = found.facts["rule"]
    if rule not in FEATURES:
        raise InputError(f"There is no part for weights of {rule}; there is one for {', '.join(FEATURES)}.")
    card = Card(
        rule=rule, features=FEATURES[rule], step_size=step_size, magnitude=MAGNITUDE[rule], horizon=horizon,
        parametrization=parametrization, decays=found.decays, made={**found.facts, **made},
    )  # fmt: skip
    used = {name: tensor for name, tensor in found.tensors.items() if not name.startswith("unused.")}  # one of VeLO's
    return Weights.of(card, used)


def learned_decays(offsets: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """The seven decays from their learned offsets: 1 - (1 - b) exp(10 o); rms and factored are held in [0, 1]."""
    wanted = {name: len(values) for name, values in DECAYS.items()}
    given = {name: [float(v) for v in values] for name, values in offsets.items()}
    if {name: len(values) for name, values in given.items()} != wanted:
        raise InputError(f"offsets of decays are {wanted}; given were { {n: len(v) for n, v in given.items()} }.")
    found = {n: [1 - (1 - b) * math.exp(10 * o) for b, o in zip(DECAYS[n], given[n], strict=True)] for n in DECAYS}
    held = {n: [min(max(v, 0.0), 1.0) for v in values] if n != "momentum" else values for n, values in found.items()}
    return {name: tuple(values) for name, values in held.items()}


# inside


def _banked(leaves: Mapping[str, np.ndarray], named: str, rule: str, source: str, found: str) -> Imported:
    """Celo and VeLO share a tree: a bank of networks and the recurrent one that mixes them."""
    places = [*layouts.split_layers("ff_mod_stack/~/", "bank.", ("P",)), *layouts.recurrent_of_haiku()]
    tensors, sizes = placed(leaves, places, named)
    return Imported(tensors, dict(DECAYS), _facts(rule, sizes, source, found))


def _facts(rule: str, sizes: Mapping[str, int], source: str, found: str) -> dict[str, Any]:
    known = {"rule": rule, "inputs": sizes.get("F", 30), "hidden": sizes["H"], "source": source, "sha256": found}
    bank = {"members": sizes["P"]} if "P" in sizes else {}
    return known | bank


def _leaves(path: str | Path, expected: str | None) -> tuple[str, dict[str, np.ndarray], str]:
    data, found = read_bytes(path, expected)
    leaves = leaves_of(data, printable(path))
    inner = {name.removeprefix("params/"): a for name, a in leaves.items() if name.startswith("params/")}
    return printable(path), inner or leaves, found


def _arrays(path: str | Path, expected: str | None) -> tuple[str, dict[str, np.ndarray], str]:
    data, found = read_bytes(path, expected)
    return printable(path), tensors_of(data, printable(path)), found
