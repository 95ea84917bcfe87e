"""Names of tensors and modules as `build` made them, in a model that others have wrapped since.

DistributedDataParallel, FSDP1, activation checkpointing and torch.compile put a module around the model or around its
parts, and each adds a word to the names. A newcomer would strip the word from the front as characters (`str.strip`),
which eats letters of short names: emb.weight becomes b.weight. Here whole words are left out, and only those that
wrappers own.
"""

from __future__ import annotations

from torch import nn

from windtunnel.errors import InputError

OUTER = ("module",)  # DistributedDataParallel, DataParallel, AveragedModel: around the whole model only
INNER = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # around any part of it
FLAT = "_fsdp_wrapped_module"  # FSDP1 keeps a shard of every tensor, without its shape


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside wrappers that hold the whole model; InputError for what is no module."""
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise InputError(
            f"A scale table is applied to a model, by its tensors' names, and was given {what}; pass the nn.Module "
            f"itself, as in groups(model, lr), not its class, its parameters or its names."
        )
    inside = list(model.named_children())
    alone = len(inside) == 1 and not list(model.parameters(recurse=False))
    return unwrapped(inside[0][1]) if alone and inside[0][0] in (*OUTER, *INNER) else model


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by the names that they had before the model was wrapped."""
    return {_bare(name): param for name, param in unwrapped(model).named_parameters()}


def modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules by the names that they had before the model was wrapped, wrappers left out."""
    return {_bare(name): module for name, module in unwrapped(model).named_modules()}  # the innermost comes last


def flattened(model: nn.Module) -> bool:
    """Whether FSDP1 holds the model's tensors as flat shards."""
    return any(FLAT in name.split(".") for name, _ in model.named_modules())


def _bare(name: str) -> str:
    return ".".join(word for word in name.split(".") if word not in INNER)
