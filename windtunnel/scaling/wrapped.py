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
COMPILED = "_orig_mod"  # torch.compile
FLAT = "_fsdp_wrapped_module"  # FSDP1 keeps a shard of every tensor, without its shape
INNER = (COMPILED, FLAT, "_checkpoint_wrapped_module")  # around any part of it


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
    return {bare(name): param for name, param in unwrapped(model).named_parameters()}


def modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules by the names that they had before the model was wrapped, wrappers left out."""
    return {bare(name): module for name, module in unwrapped(model).named_modules()}  # the innermost comes last


def flattened(model: nn.Module) -> bool:
    """Whether FSDP1 holds the model's tensors as flat shards."""
    return any(FLAT in name.split(".") for name, _ in model.named_modules())


def check_plain(model: nn.Module) -> None:
    """Raise InputError for a module that runs of a study cannot be packed from: compiled, or of complex parameters."""
    if any(COMPILED in name.split(".") for name, _ in model.named_modules()):
        raise InputError(
            "The model is compiled (torch.compile), and runs are packed by looking into it; return it uncompiled. "
            "Where a pack is long enough to pay for it, all of it is compiled."
        )
    held = [name for name, param in model.named_parameters() if param.is_complex()]
    if held:
        raise InputError(
            f"The model has complex parameters ({', '.join(held[:3])}); values are drawn and trained as float32. Hold "
            f"the real and the imaginary part as two tensors, or train it in a loop of your own with wt.adopt."
        )


def bare(name: str) -> str:
    """A tensor's or module's name without the words that wrappers of parts of a model add."""
    return ".".join(word for word in name.split(".") if word not in INNER)
