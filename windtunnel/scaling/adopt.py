"""adopt(): the rule table for a torch model of your own, in a training loop of your own.

The model stays as it is: its sizes are compared on the meta device, and what follows is a table by tensor name. Nothing
is written on Parameters, so deepcopy, EMA, sharding, meta initialisation and export keep it. A newcomer's trap is the
learning rate's scheduler: one that sets an absolute rate erases the groups' factors, which `check` finds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from windtunnel.errors import InputError
from windtunnel.recipe import Parametrization
from windtunnel.scaling.rules.depth import complete_p
from windtunnel.scaling.sites import Roles
from windtunnel.scaling.sizes import Size, scale_table
from windtunnel.scaling.table import Scale, ScaleTable, geometry_of

# Geometry of torch's own optimizers, by class name; subclasses count. Others are asked for.
GEOMETRY_OF = {
    "SGD": "gradient", "Adam": "entrywise", "AdamW": "entrywise", "NAdam": "entrywise", "RAdam": "entrywise",
    "RMSprop": "entrywise", "Adagrad": "entrywise", "Adamax": "entrywise", "SparseAdam": "entrywise",
    "Adafactor": "relative", "Muon": "spectral",
}  # fmt: skip
WRAPPED = ("module", "_orig_mod")  # what DistributedDataParallel and torch.compile call the model they hold
FLATTENED = "_fsdp_wrapped_module."  # in names once FSDP1 has cut the tensors into flat shards
_SAME = 1e-6  # relative: rates that differ by less are one


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """The scale table of one model size. `table` is plain data (`to_json`)."""

    table: ScaleTable

    def initialize(self, model: nn.Module, seed: int | None = None) -> None:
        """Draw every tensor anew with the table's mean and standard deviation, in place; a `vector` stays as built.

        Without a seed torch's own generator draws. Not for a pretrained model: there the values are the point.
        """
        for number, (name, param) in enumerate(self._matched(model).items()):
            scale = self.table.scales[name]
            if self.table.sites[name].role == "vector":
                continue
            generator = None if seed is None else torch.Generator(param.device).manual_seed(seed + number)
            with torch.no_grad():
                nn.init.normal_(param, scale.init_mean, scale.init_std, generator=generator)

    def groups(
        self,
        model: nn.Module,
        lr: float | Tensor,
        *,
        weight_decay: float = 0.0,
        eps: float | None = None,
        extra: Mapping[str, Scale] | None = None,
    ) -> list[dict[str, Any]]:
        """Parameter groups for a torch optimizer, tensors of equal factors together; each group holds its `lr_mult`.

        `weight_decay` is PyTorch's (times lr). Tensors that were added to the model later (adapters) need a Scale in
        `extra`, by name. Frozen tensors are left out. Raises InputError for tensors of another model.
        """
        scales = {**self.table.scales, **(extra or {})}
        found: dict[tuple[float, float, float], dict[str, Any]] = {}
        for name, param in self._matched(model, extra or {}, shards=True).items():
            if not param.requires_grad:
                continue
            s = scales[name]
            alike = s.lr, s.eps if eps is not None else 1.0, s.decay
            if alike not in found:
                values = {"lr": lr * s.lr, "lr_mult": s.lr, "weight_decay": weight_decay * s.decay}
                found[alike] = {"params": [], "names": [], **values, **({} if eps is None else {"eps": eps * s.eps})}
            found[alike]["params"].append(param)
            found[alike]["names"].append(name)
        return list(found.values())

    def attach(self, model: nn.Module) -> nn.Module:
        """Hook the multipliers onto the model and return it; deepcopy and compile keep the hooks."""
        self.table.attach(unwrapped(model))
        return model

    def fold(self, model: nn.Module) -> nn.Module:
        """Multiply the forward multipliers into the weights instead, for export; refuses a tied table.

        A folded model gives the same outputs without hooks, and must not be trained on with this table. Raises
        InputError for a branch that ends in a module without a weight of its own.
        """
        bare = unwrapped(model)
        modules = dict(bare.named_modules())
        owners = [name for name, site in self.table.sites.items() if site.role == "tied"]
        if owners and self.table.forward:
            raise InputError(f"{owners[0]} is embedding and readout at once; folding would change both. Untie it.")
        with torch.no_grad():
            for name, value in self.table.forward.items():
                modules[name].get_parameter("weight").mul_(value)
            for name, value in self.table.residual.items():
                for param in _last(name, modules[name]):
                    param.mul_(value)
        return model

    def check(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise InputError where the groups' rates no longer stand in the table's ratios; call it after a few steps."""
        base = [float(g["lr"]) / g["lr_mult"] for g in optimizer.param_groups if "lr_mult" in g]
        if len(base) < len(optimizer.param_groups):
            raise InputError(
                "A parameter group has no lr_mult; make the optimizer from adopted.groups(model, lr), and give later "
                "tensors a Scale in `extra`."
            )
        highest = max(base)
        if highest > 0 and min(base) < highest * (1 - _SAME):
            rates = ", ".join(f"{float(g['lr']):.3g} (factor {g['lr_mult']:.3g})" for g in optimizer.param_groups)
            raise InputError(
                f"The learning rates {rates} are not in the table's ratios: a scheduler set them. OneCycleLR needs "
                f"max_lr=adopted.rates(optimizer, max_lr); CosineAnnealingLR needs eta_min=0 (a floor is the same for "
                f"all groups); LambdaLR, or torch's warm-up and cosine without a floor, keep the ratios."
            )

    def rates(self, optimizer: torch.optim.Optimizer, lr: float) -> list[float]:
        """`lr` times each group's factor: what schedulers that take a list (OneCycleLR's max_lr) are given."""
        return [lr * float(group["lr_mult"]) for group in optimizer.param_groups]

    def _matched(
        self, model: nn.Module, extra: Mapping[str, Scale] | None = None, shards: bool = False
    ) -> dict[str, nn.Parameter]:
        """The model's parameters by the table's names; InputError where they are not the table's.

        `shards` allows FSDP1's, which keep names (use_orig_params=True) and not shapes.
        """
        found = dict(unwrapped(model).named_parameters())
        params = {name.replace(FLATTENED, ""): param for name, param in found.items()}
        shards = shards and params.keys() != found.keys()
        missing = sorted(set(self.table.scales) - set(params))
        unknown = sorted(set(params) - set(self.table.scales) - set(extra or {}))
        if missing or unknown:
            said = f"the model lacks {_few(missing)}" if missing else ""
            said += (" and " if missing and unknown else "") + (f"the table lacks {_few(unknown)}" if unknown else "")
            raise InputError(
                f"The scale table is of another model: {said}. Adopt this model; tensors added later (adapters) are "
                f"given by name: groups(model, lr, extra={{name: Scale(...)}})."
            )
        for name, site in self.table.sites.items():
            if tuple(params[name].shape) != site.shape and not shards:
                raise InputError(
                    f"The scale table is for {name} of shape {site.shape}, the model's is {tuple(params[name].shape)}; "
                    f"adopt the size that you train."
                )
        return params


def adopt(
    build: Callable[..., nn.Module],
    *,
    base: Size,
    target: Size,
    optimizer: Any,
    rule: Parametrization | None = None,
    roles: Roles | None = None,
    branches: Sequence[str] | None = None,
    example: Any = None,
) -> Adopted:
    """The scale table of `build(target)`, for values tuned at `build(base)`.

    A size is a width (build(width)), a pair (build(width, depth)) or a Rung (build(rung)). `build` is called on the
    meta device for the base, the target and twice the base's width. `optimizer` is a torch optimizer class, an object
    with a `geometry`, or the geometry itself, a word or a function of the site (torch.optim.Muon with
    adjust_lr_fn="match_rms_adamw" is "matched"). `roles` states roles by name or pattern where shapes cannot tell, with
    the axes of stacked tensors: {"*.experts.up": ("hidden", "-oi")}. `rule` None is muP in width, CompleteP in depth.
    Where depth grows, residual branches are found in a forward pass of the base on `example` (a tensor, a tuple, or a
    dict of keyword arguments; transformers' models have one of their own), or stated: `branches` are patterns of the
    modules whose outputs are added to the stream. Raises InputError for sizes that do not differ, tensors without a
    counterpart, a build that fails on meta, branches that cannot be found, and unknown optimizers.
    """
    table = scale_table(
        build, target, base, rule or complete_p(), _geometry(optimizer), roles=roles, branches=branches, example=example
    )
    return Adopted(table=table)


def _last(name: str, module: nn.Module) -> list[nn.Parameter]:
    """Weight and bias of a module whose output is proportional to them together."""
    held = dict(module.named_parameters())
    if "weight" not in held or set(held) > {"weight", "bias"}:
        raise InputError(
            f"The branch that ends in {name} has no last weight to fold into (it is a {type(module).__name__}); keep "
            f"the hooks, or state another end: adopt(..., branches=...)."
        )
    return list(held.values())


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel and torch.compile."""
    inside = list(model.named_children())
    alone = len(inside) == 1 and not list(model.parameters(recurse=False))
    return unwrapped(inside[0][1]) if alone and inside[0][0] in WRAPPED else model


def _geometry(optimizer: Any) -> Callable[[Any], str]:
    if getattr(optimizer, "geometry", None) is not None:
        return geometry_of(optimizer)
    word = optimizer if isinstance(optimizer, str) else _of_torch(optimizer) if isinstance(optimizer, type) else None
    if word is not None:
        return lambda site: word
    if callable(optimizer) and not isinstance(optimizer, type):
        return cast(Callable[[Any], str], optimizer)
    name = optimizer.__name__ if isinstance(optimizer, type) else repr(optimizer)
    raise InputError(
        f'How the steps of {name} grow is not known; say it: adopt(..., optimizer="entrywise") if every entry of a '
        f'step is about lr (Adam), "gradient" (SGD), "spectral" (Muon), or another of '
        f"windtunnel.scaling.rules.reach.GEOMETRIES."
    )


def _of_torch(optimizer: type) -> str | None:
    """The geometry of a torch optimizer or a subclass of one, None for any other."""
    known = [kind.__name__ for kind in optimizer.__mro__ if kind.__module__.startswith("torch.optim")]
    return next((GEOMETRY_OF[name] for name in known if name in GEOMETRY_OF), None)


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
