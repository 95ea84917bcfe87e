"""Find the role of every tensor of an unmodified model by building it at two widths and comparing shapes.

What grows with width decides: both sides, hidden; the input side alone, readout; the output side alone, input. Models
are built on the meta device, so nothing is allocated. A newcomer would read roles off names; names lie. Where shapes
cannot tell (two readouts, because key heads do not grow) the tensors are named and a role must be stated. Widths are
compared at the target's depth; how many blocks a tensor stands among follows from the stacks that grow (branches.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from math import prod
from typing import Any

from torch import nn

from windtunnel.errors import InputError
from windtunnel.recipe import Site
from windtunnel.scaling.branches import layers_of

ROLES = (
    "embedding", "tied", "input", "hidden", "router", "expert_up", "expert_down", "readout", "gain", "bias", "vector",
    "fixed",
)  # fmt: skip
READING = ("readout", "tied", "router")  # few outputs of many inputs: they start small, and only growth is a fault
Roles = Mapping[str, str | tuple[str, str]]  # by tensor name or pattern: a role, or a role and the meaning of the axes
LOOKUPS = nn.Embedding | nn.EmbeddingBag
TRANSPOSED = ("Conv1D",)  # linear layers whose weight is (in, out): transformers.pytorch_utils


def compared(
    here: nn.Module,
    there: nn.Module,
    wider: nn.Module,
    called: tuple[str, str],
    roles: Roles | None = None,
    growing: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, tuple[Site, Site]]:
    """Parameter name to (site in `here`, site in `there`), roles told by how `wider` differs from `there`.

    All three have one depth; `growing` holds the stacks that have fewer blocks at the base (`branches.grown`). `called`
    names the two models in errors; `roles` states roles by a tensor's name or a pattern of names, with axes where they
    are not (out, in, ...): ("hidden", "-io") is stacked copies, in, out. Raises InputError for tensors without a
    counterpart, patterns that match nothing, and roles that shapes cannot tell.
    """
    shapes = {name: tuple(p.shape) for name, p in wider.named_parameters()}
    at_base, owners, stated = dict(there.named_parameters()), _owners(there), dict(roles or {})
    _check_patterns(stated, at_base)
    found, told, untold = {}, {}, {}
    for name, param in here.named_parameters():
        if name not in at_base or name not in shapes or at_base[name].ndim != param.ndim:
            raise InputError(
                f"Tensor {name} of shape {tuple(param.shape)} at {called[0]} has no counterpart at {called[1]}; a "
                f"model must have the same tensors at every width."
            )
        base_shape = tuple(at_base[name].shape)
        known = _stated(name, stated) or _told(name, base_shape, shapes[name], owners[name])
        if known is None:
            where = f"{name} (shape {base_shape}, in a {type(owners[name][0]).__name__})"
            untold[name] = (where, _guess(name, base_shape, shapes[name]))
            continue
        told[name], (role, axes) = known[0], known
        _check_input(name, role, axes, base_shape, shapes[name])
        pair = _site(role, tuple(param.shape), axes, name), _site(role, base_shape, axes, name)
        many, few = layers_of(name, growing or {})
        found[name] = replace(pair[0], layers=many), replace(pair[1], layers=few)
    guessed = {name: role for name, role in told.items() if _stated(name, stated) is None}
    if asked := ([_asked(untold, list(at_base))] if untold else []) + _several_readouts(guessed, told, list(at_base)):
        raise RoleUntold(" ".join(asked))
    gone = sorted(set(at_base) - set(found))
    if gone:
        raise InputError(f"Tensor {gone[0]} at {called[1]} has no counterpart at {called[0]}; build the same model.")
    _check_read_out(guessed, told)
    return found


class RoleUntold(InputError):
    """Tensors whose roles must be stated."""


def _check_patterns(stated: Roles, names: Mapping[str, Any]) -> None:
    for pattern, given in stated.items():
        if not isinstance(given, str) and len(given) != 2:
            raise InputError(
                f"roles states {given!r} for {pattern!r}; give a role, or a role and axes: ('hidden', '-oi')."
            )
        role = given if isinstance(given, str) else given[0]
        if role not in ROLES:
            raise InputError(f"roles states {role!r} for {pattern!r}; roles are {', '.join(ROLES)}.")
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(f"roles names {pattern!r}, which no tensor matches; tensors are called like {min(names)}.")


def _check_input(name: str, role: str, axes: str, base: tuple[int, ...], wider: tuple[int, ...]) -> None:
    """Raise InputError for an input whose fan-in grows with width: it would be drawn and trained ever more weakly."""
    few, many = (_site(role, shape, axes, name).fan_in for shape in (base, wider))
    if role != "input" or few == many:
        return
    guess = f"{_grown(base, wider)!r}".replace("'", '"') if len(base) == 2 else _guess(name, base, wider)
    fits = 'one of them, or a role with axes, ("input", "-io")' if "?" in guess else guess
    raise InputError(
        f'roles states "input" for {name} of shape {base}: read as (out, in, ...) its fan-in, {few}, grows with width '
        f"(to {many} at shape {wider}), and an input's does not. By its shape it is {fits}; roles are "
        f"{', '.join(ROLES)}."
    )


def _stated(name: str, stated: Roles) -> tuple[str, str] | None:
    """Role and axes ("": as usual) as stated, or None."""
    given = next((given for pattern, given in stated.items() if fnmatchcase(name, pattern)), None)
    return (given, "") if isinstance(given, str) else given


def _told(name: str, base: tuple[int, ...], wider: tuple[int, ...], owners: list[nn.Module]) -> tuple[str, str] | None:
    """Role and axes as shapes and module types tell them; None where they cannot."""
    layer = owners[0]
    linear = len(base) == 2 and type(layer).__name__ in TRANSPOSED
    image = isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d) and layer.groups == 1
    if (linear or image) and name.endswith(".weight"):
        return _grown((base[1], base[0]), (wider[1], wider[0])), "io" + "i" * (len(base) - 2)
    role = _role(name, base, wider, owners)
    return None if role is None else (role, "")


def _asked(untold: Mapping[str, tuple[str, str]], names: Sequence[str]) -> str:
    """What to say of tensors whose roles must be stated: by name what they are, and a guess."""
    first: dict[str, tuple[str, str]] = {}
    for name, (where, guess) in untold.items():
        alike = {other for other, (_, same) in untold.items() if same == guess}
        first.setdefault(_pattern(name, alike, names), (where, guess))
    named = ", ".join(where for where, _ in first.values())
    guessed = ", ".join(f'"{pattern}": {guess}' for pattern, (_, guess) in first.items())
    return (
        f"The role of tensor {named} cannot be told from its shape, and a wrong role would scale it wrongly. Use "
        f"Linear, Conv, Embedding and norm layers, whose tensors are called weight and bias, or state it. A guess by "
        f"shape and name, for you to confirm (?? to fill): roles={{{guessed}}}. A vector grows with width and has "
        f'no inputs, a hidden matrix is (out, in), the axes of stacks are "-oi" (copies, out, in) or "-io"; one of '
        f"{', '.join(ROLES)}."
    )


def _guess(name: str, base: tuple[int, ...], wider: tuple[int, ...]) -> str:
    """A role to propose, as code; ?? where a tensor may as well be another."""
    grows = [a != b for a, b in zip(base, wider, strict=True)]
    if not any(grows):
        return '"fixed"'
    if grows == [False, True, True]:
        return '("hidden", "-??")'  # copies first; what is in and what out, no shape says
    if len(grows) > 1 and all(grows[:2]) and not any(grows[2:]):  # a matrix, or a kernel of matrices
        return '"hidden"'
    if len(grows) == 1 or base[0] == 1 or name.endswith("bias"):
        return '"gain"' if any(word in name.rpartition(".")[2] for word in ("gamma", "gain", "scale")) else '"vector"'
    return '"router"' if grows == [False, True] and _likely(name) == "router" else '"??"'


def _pattern(name: str, alike: set[str], names: Sequence[str]) -> str:
    """A pattern of the tensor and those like it in other blocks; its name, if others match that are not alike."""
    found = _like(name)
    return found if all(other in alike for other in names if fnmatchcase(other, found)) else name


def _likely(pattern: str) -> str:
    """The role to propose for a matrix that only shrinks, going by its name; a gate of a gated MLP keeps its width."""
    return "router" if any(word in pattern for word in ("router", "gate")) else "hidden"


def _several_readouts(guessed: Mapping[str, str], told: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """A network is mostly read out once: of several matrices that only shrink, shapes cannot tell which ones do it."""
    shrink, others = _readouts(guessed, told)
    if len(shrink) + bool(others) < 2:
        return []
    numbered = [re.sub(r"\d+", "*", name) for name in shrink]
    alone = [name for name, same in zip(shrink, numbered, strict=True) if numbered.count(same) == 1]  # of no block
    once = [name for name in alone if _likely(name) != "router"]  # any of these may read out
    inside = shrink if others or len(once) > 1 else [name for name in shrink if name not in once] or shrink[:-1]
    patterns = dict.fromkeys(_pattern(name, set(inside), names) for name in inside)
    unclear = {name for name in once if not others}
    stated = ", ".join(f'"{pattern}": "{"??" if pattern in unclear else _likely(pattern)}"' for pattern in patterns)
    fill = " (?? is for you to fill)" if "??" in stated else ""
    return [
        f"{', '.join(shrink[:4])}{' and more' if len(shrink) > 4 else ''}: the fan-in grows with width and the "
        f"fan-out does not{f', and {others[0]} already reads out' if others else ''}. The one that gives the "
        f'logits is the "readout" (of several heads each may be one: say "readout" of all); inside the network, '
        f'one that chooses experts is a "router", others (keys and values of a fixed number of heads, the first '
        f'matrices of adapters) are "hidden". Say so, as in roles={{{stated}}}{fill}.'
    ]


def _readouts(guessed: Mapping[str, str], told: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Tensors that read out by their shapes, and the others that do."""
    shrink = [name for name, role in guessed.items() if role == "readout"]
    return shrink, [name for name, role in told.items() if role in ("readout", "tied") and name not in shrink]


def _check_read_out(guessed: Mapping[str, str], told: Mapping[str, str]) -> None:
    shrink, others = _readouts(guessed, told)
    lookups = [name for name, role in guessed.items() if role == "embedding"]
    stated_lookup = any(role == "embedding" and name not in guessed for name, role in told.items())
    if lookups and not shrink and not others and not stated_lookup:
        raise InputError(
            f"No tensor reads the network out, though {lookups[0]} is a lookup table. If the forward pass uses the "
            f"table for that too, as in F.linear(x, table), give the model a Linear layer that shares it (head.weight "
            f"= embedding.weight), so that there is a module to multiply. If the model gives out hidden states, say "
            f'that the table is a lookup alone: roles={{"{lookups[0]}": "embedding"}}.'
        )


def _like(name: str) -> str:
    """A pattern of the tensor and those like it in other blocks."""
    words = ["*" if word.isdigit() else word for word in name.split(".")]
    if "lora_A" in words:  # peft; only a hint in an error, roles are never read off names
        return "*.lora_A.*"
    return ".".join(words) if len(words) < 3 or words[-2] in ("*", "weight") else "*." + ".".join(words[-2:])


def readout_modules(model: nn.Module) -> dict[str, str]:
    """Parameter name to the module whose input a forward multiplier of that tensor scales: its non-lookup user."""
    names = {id(p): name for name, p in model.named_parameters()}
    found: dict[str, str] = {}
    for module_name, module in model.named_modules():
        for param in module.parameters(recurse=False):
            if not isinstance(module, LOOKUPS):
                found[names[id(param)]] = module_name
    return found


def reading_modules(model: nn.Module, sites: Mapping[str, Site], roles: Sequence[str] = READING) -> set[str]:
    """Names of the modules that hold tensors of these roles: by default those that read out, or choose experts."""
    users = readout_modules(model)
    return {users[name] for name, site in sites.items() if site.role in roles and name in users}


def _owners(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Canonical parameter name to the modules that hold it; more than one when tied."""
    names = {id(p): name for name, p in model.named_parameters()}
    owners: dict[str, list[nn.Module]] = {}
    for module in model.modules():
        for param in module.parameters(recurse=False):
            owners.setdefault(names[id(param)], []).append(module)
    return owners


def _role(name: str, base: tuple[int, ...], wider: tuple[int, ...], owners: list[nn.Module]) -> str | None:
    if any(isinstance(module, LOOKUPS) for module in owners):
        return "tied" if len(owners) > 1 else "embedding"
    if (kind := _called_otherwise(name.rpartition(".")[2], owners[0])) is not None:
        return _grown(base, wider) if kind == "matrix" else kind
    plain = isinstance(owners[0], nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    if name.rpartition(".")[2] not in ("weight", "bias") or (len(base) > 1 and not plain):
        return None
    if len(base) < 2:
        return "bias" if name.endswith("bias") else "gain"
    return _grown(base, wider)


def _called_otherwise(tensor: str, layer: nn.Module) -> str | None:
    """Of tensors that torch's layers call otherwise than weight and bias: "matrix" (out, in), "bias" or "vector".

    Queries, keys and values, or the gates of a cell, are stacked in the fan-out of one matrix.
    """
    if isinstance(layer, nn.MultiheadAttention):
        kinds = dict.fromkeys(("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"), "matrix")
        return (kinds | {"in_proj_bias": "bias", "bias_k": "vector", "bias_v": "vector"}).get(tensor)
    if isinstance(layer, nn.RNNBase | nn.RNNCellBase):
        of = {"weight_ih": "matrix", "weight_hh": "matrix", "weight_hr": "matrix", "bias_ih": "bias", "bias_hh": "bias"}
        return of.get("_".join(tensor.split("_")[:2]))
    return None


def _grown(base: tuple[int, ...], wider: tuple[int, ...]) -> str:
    """Role of a matrix (out, in, ...) by which side grows."""
    grows_out, grows_in = base[0] != wider[0], base[1] != wider[1]
    if grows_out and grows_in:
        return "hidden"
    return "input" if grows_out else "readout" if grows_in else "fixed"


def _site(role: str, shape: tuple[int, ...], axes: str = "", name: str = "") -> Site:
    if axes:
        if len(axes) != len(shape) or not set(axes) <= set("io-"):
            raise InputError(
                f"The axes {axes!r} of {name} do not fit its shape {shape}; write one letter an axis: i (in), o (out), "
                f'- (stacked copies, as experts), like ("hidden", "-io").'
            )
        fan_in, fan_out = (prod(n for n, axis in zip(shape, axes, strict=True) if axis == side) for side in "io")
        return Site(role=role, shape=shape, fan_in=fan_in, fan_out=fan_out, axes=axes)
    if role == "vector":
        return Site(role=role, shape=shape, fan_in=1, fan_out=prod(shape))
    if len(shape) < 2:
        count = shape[0] if shape else 1
        return Site(role=role, shape=shape, fan_in=1, fan_out=count)
    if role in ("embedding", "tied"):  # stored as (vocabulary, width): a lookup maps the first to the second
        return Site(role=role, shape=shape, fan_in=shape[0], fan_out=shape[1])
    return Site(role=role, shape=shape, fan_in=prod(shape[1:]), fan_out=shape[0])
