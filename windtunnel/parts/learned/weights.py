"""The trained weights of a learned optimizer: a few hundred numbers, and the card that says what they are good for.

A file is safetensors with the card as JSON in its metadata; nothing in it is code, and nothing is fetched. A newcomer
would take weights as interchangeable: they belong to one feature specification, one parametrization and the horizons
they were trained on, so all of that is in the card, and the hash of both enters run keys and optimizer states.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from windtunnel.errors import InputError
from windtunnel.files import check_tensors, json_of, misfit, sha256
from windtunnel.parts.learned.features import Features
from windtunnel.parts.learned.shapes import shapes_of
from windtunnel.recipe import Parametrization
from windtunnel.runs import canonical
from windtunnel.scaling.rules.at_base import AtBase
from windtunnel.scaling.rules.mup import MuP
from windtunnel.scaling.rules.standard import Standard

SPEC = 1  # raised when the same weights would mean another update
MOST_BYTES = 1 << 26  # a file of VeLO's size has 9 MB
FROM_PATH = "give the path of a file that Weights.save wrote."
_CARD = {"spec": int, "rule": str, "features": dict, "step_size": (int, float), "parametrization": dict}


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is said of weights, besides the numbers.

    `rule` is the part they belong to. A step is `step_size` x d x exp(`magnitude` x m) at rate 1. `parametrization` is
    {"rule": "mup" or "standard", "width": units at which the rates hold, ...}. `horizon` is the longest training they
    were trained on, in steps. `made` says where they come from: tasks, widths, seeds, cost, source, licence.
    """

    rule: str
    features: Features
    step_size: float
    magnitude: float
    parametrization: Mapping[str, Any]
    horizon: int
    decays: Mapping[str, tuple[float, ...]]  # of momentum (3), rms (1) and factored (3)
    made: Mapping[str, Any] = field(default_factory=dict)
    outer: Mapping[str, Any] = field(default_factory=dict)  # of a rule around local training; see parts/learned/outer
    spec: int = SPEC

    def to_json(self) -> dict[str, Any]:
        """Plain data; what was added to cards later is left out where it is as before, so that hashes stay."""
        held = asdict(self) | {"decays": {n: list(v) for n, v in self.decays.items()}}
        held["features"] = {n: v for n, v in held["features"].items() if n != "more" or v}
        return json.loads(json.dumps({n: v for n, v in held.items() if n != "outer" or v}))

    @classmethod
    def from_json(cls, data: Mapping[str, Any], named: str = "The card") -> Card:
        """What `to_json` gave. Raises InputError for anything else, and for another version of the specification."""
        wrong = misfit(data, _CARD, "the card")
        if not wrong and data["spec"] != SPEC:
            raise InputError(
                f"{named} is of version {data['spec']} of the learned optimizers' specification; this windtunnel has "
                f"version {SPEC}. Train the weights anew, or install the windtunnel that made them."
            )
        known = {f.name for f in fields(cls)}
        if wrong or set(data) - known:
            raise InputError(f"{named} is not that of a learned optimizer ({wrong or sorted(set(data) - known)}).")
        try:
            held = dict(data)
            features = held["features"] | {"times": tuple(map(float, held["features"]["times"]))}
            decays = {str(n): tuple(map(float, v)) for n, v in held["decays"].items()}
            return cls(**held | {"features": Features(**features), "decays": decays})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{named} does not have the shape of a learned optimizer's ({error}).") from None


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A learned optimizer's numbers. Equal where their `hash`, over the card and the numbers, is equal."""

    hash: str
    card: Card = field(compare=False, repr=False)
    tensors: Mapping[str, Tensor] = field(compare=False, repr=False)

    @classmethod
    def of(cls, card: Card, tensors: Mapping[str, Tensor]) -> Weights:
        """Weights of these numbers, float32. Raises InputError where their shapes do not fit the card."""
        held = {name: value.detach().to(torch.float32).cpu().contiguous() for name, value in tensors.items()}
        _check(card, held)
        told = canonical(card.to_json()).encode()
        data = b"".join(name.encode() + held[name].numpy().tobytes() for name in sorted(held))
        return cls(hash=sha256(told + data)[:16], card=card, tensors=held)

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file with the card in its metadata."""
        from safetensors.torch import save

        place = Path(path)
        data = save(dict(self.tensors), metadata={"card": json.dumps(self.card.to_json()), "hash": self.hash})
        place.write_bytes(data)
        return place

    @classmethod
    def load(cls, path: str | Path) -> Weights:
        """What `save` wrote. Raises InputError for another file, one cut short, or one changed since."""
        from safetensors import safe_open
        from safetensors.torch import load

        place, named = Path(path), f"The learned optimizer's weights {path}"
        try:
            if place.stat().st_size > MOST_BYTES:
                raise InputError(f"{named} have {place.stat().st_size:,} bytes; {FROM_PATH}")
            data = place.read_bytes()
            check_tensors(data)
            tensors = load(data)
            with safe_open(str(place), "pt") as held:
                told = held.metadata() or {}
        except OSError as error:
            raise InputError(f"{named} cannot be read ({error.strerror or error}); {FROM_PATH}") from None
        except InputError as error:
            raise InputError(f"{named} are damaged ({error}); {FROM_PATH}") from None
        except Exception as error:  # safetensors has its own errors
            raise InputError(f"{named} are damaged ({error}); {FROM_PATH}") from None
        if "card" not in told:
            raise InputError(f"{named} have no card, so what they mean is not known; {FROM_PATH}")
        found = cls.of(Card.from_json(json_of(told["card"].encode(), named, FROM_PATH), named), tensors)
        if found.hash != told.get("hash"):
            raise InputError(f"{named} were changed after they were written: their hash differs; {FROM_PATH}")
        return found

    def network(self, device: torch.device, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """The small network on a device, with the leading axis that `network.moved` takes."""
        return {name: value.to(device, dtype)[None] for name, value in self.tensors.items()}

    def parametrization(self) -> Parametrization:
        """The width rule under which they were trained, for a recipe or `wt.adopt(rule=...)`."""
        said = self.card.parametrization
        if said.get("rule") == "mup":
            return AtBase(width=int(said["width"]), rule=MuP(), zero_readout=bool(said.get("zero_readout", False)))
        return Standard()

    def check(self, parametrization: Any) -> None:
        """Raise InputError for another parametrization than that of their training."""
        wanted = self.parametrization()
        if isinstance(wanted, AtBase):
            same = isinstance(parametrization, AtBase) and isinstance(parametrization.rule, MuP)
            same = same and parametrization.width == wanted.width
        else:
            same = isinstance(parametrization, Standard) and not parametrization.per_layer
        if not same:
            raise InputError(
                f"These weights ({self.hash}) were trained under {wanted}, and the model has {parametrization}: their "
                f"steps would have another size at every width. Take weights.parametrization()."
            )


def _check(card: Card, held: Mapping[str, Tensor]) -> None:
    wanted = shapes_of(card.features, held)
    wrong = [f"{n} {tuple(held[n].shape)} for {shape}" for n, shape in wanted.items() if tuple(held[n].shape) != shape]
    if wrong:
        raise InputError(f"The network does not have the shapes of its card's features: {'; '.join(wrong)}.")
    if not all(bool(torch.isfinite(t).all()) for t in held.values()):
        raise InputError("The network has values that are not finite.")
    counts = {name: len(values) for name, values in card.decays.items()}
    if counts != {"momentum": 3, "rms": 1, "factored": 3} or not all(
        0 <= b < 1 for values in card.decays.values() for b in values
    ):
        raise InputError(
            f"The card's decays are {dict(card.decays)}; there are 3 momenta, 1 rms and 3 factored in [0, 1)."
        )


@cache
def bundled(name: str) -> Weights:
    """Weights that come with windtunnel, by name. Raises InputError for a name there is not, with those there are."""
    folder = files("windtunnel.parts.learned") / "trained"
    names = sorted(f.name.removesuffix(".safetensors") for f in folder.iterdir() if f.name.endswith(".safetensors"))
    if name not in names:
        raise InputError(f"There are no bundled weights {name!r}; there are {', '.join(names)}.")
    return Weights.load(str(folder / f"{name}.safetensors"))
