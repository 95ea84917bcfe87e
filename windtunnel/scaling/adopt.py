"""adopt(): the rule table for a torch model of your own, in a training loop of your own.

The model stays as it is: its sizes are compared on the meta device, and what follows is a table by tensor name. Nothing
is written on Parameters, so deepcopy, EMA, sharding, meta initialisation and export keep it. A newcomer's trap is the
learning rate's scheduler: one that sets an absolute rate erases the groups' factors, which `check` finds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from math import isclose
from numbers import Real
from typing import Any, cast

import torch
from torch import Tensor, nn

from windtunnel.errors import InputError
from windtunnel.notebook import printed
from windtunnel.recipe import Parametrization
from windtunnel.scaling.initial import blank_rows, draw, warn_of_other_values
from windtunnel.scaling.normed import PARTS, held_size, set_magnitudes
from windtunnel.scaling.normed import ROLE as MAGNITUDE
from windtunnel.scaling.rules.depth import complete_p
from windtunnel.scaling.sites import Roles
from windtunnel.scaling.sizes import Size, scale_table
from windtunnel.scaling.table import Scale, ScaleTable, check_suits, geometry_of
from windtunnel.scaling.words import told
from windtunnel.scaling.wrapped import flattened, modules, parameters, unwrapped

# Geometry of torch's own optimizers, by class name; subclasses count. Others are asked for.
GEOMETRY_OF = {
    "SGD": "gradient", "Adam": "entrywise", "AdamW": "entrywise", "NAdam": "entrywise", "RAdam": "entrywise",
    "RMSprop": "entrywise", "Adagrad": "entrywise", "Adamax": "entrywise", "SparseAdam": "entrywise",
    "Adafactor": "relative", "Muon": "spectral",
}  # fmt: skip
DECAYS = ("decoupled", "independent", "coupled")
UNTIED = " Tied tensors come apart in to_empty: tie them again before."
AS_BUILT = ("vector", MAGNITUDE)  # roles whose values are not drawn
SEEDS_APART = 1_000_003  # more than a model has tensors, so that two seeds share no tensor's values
_SAME = 1e-6  # relative: rates that differ by less are one


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """The scale table of one model size. `table` is plain data (`to_json`); as text, caveats first, then a line for
    each kind of tensor. `made_for` is the torch optimizer class that it was asked for, if it was one."""

    table: ScaleTable
    made_for: type | None = None

    _repr_pretty_ = printed

    def __str__(self) -> str:
        return told(self.table)

    def initialize(self, model: nn.Module, seed: int | None = None) -> None:
        """Draw every tensor anew with the table's mean and standard deviation, in place.

        Gains and biases get the number with which the constructor fills them, or else one and zero. A `vector` and a
        frozen tensor (sinusoids) stay as built, so a model begun on meta must fill those, and its buffers, itself.
        Without a seed torch's own generator draws. Not for a pretrained model: there the values are the point. Raises
        InputError for a model with peft's adapters and for one whose tensors FSDP1 has flattened.
        """
        params, blank = self._matched(model), blank_rows(model)
        _check_may_draw(model)
        for number, (name, param) in enumerate(params.items()):
            scale = self.table.scales[name]
            if param.requires_grad and self.table.sites[name].role not in AS_BUILT:
                own = None if seed is None else seed * SEEDS_APART + number
                draw(param, scale.init_mean, scale.init_std, own, blank.get(id(param)))
        set_magnitudes(params, self.table.sites)

    def groups(
        self,
        model: nn.Module,
        lr: float | Tensor,
        *,
        weight_decay: float = 0.0,
        decay_is: str = "decoupled",
        eps: float | None = None,
        extra: Mapping[str, Scale] | None = None,
        pretrained: bool = False,
    ) -> list[dict[str, Any]]:
        """Parameter groups for a torch optimizer, tensors of equal factors together; each group holds its factors.

        `weight_decay` and `eps` are the base's values; the groups overrule the weight decay of the optimizer's
        constructor, AdamW's own 0.01 too, and without `eps` its eps is the same for all. `decay_is` says what weight
        decay means: "decoupled" (torch's AdamW: a step shrinks a weight by lr x decay), "independent" (by decay
        alone at the peak rate; the groups get decay / lr) or "coupled" (an L2 penalty in the gradient, as torch's Adam
        and RMSprop have it). Tensors that were added to the model later (adapters) need a Scale in `extra`, by name.
        Frozen tensors are left out. `pretrained` says that values are not initial ones; without it, a weight far from
        the table's initial size draws a warning. Raises InputError for tensors of another model, for an lr that is no
        number, and for another word.
        """
        if isinstance(lr, bool) or not isinstance(lr, Real | Tensor):
            raise InputError(
                f"lr is {lr!r}; give one number (or a tensor of one), the rate at the base. Each group gets it times "
                f"its own factor."
            )
        if decay_is not in DECAYS:
            raise InputError(
                f"decay_is={decay_is!r}: what weight decay means is one of {', '.join(map(repr, DECAYS))}."
            )
        if decay_is == "independent" and not float(lr):
            raise InputError("Independent decay is a share at the peak rate, and lr is 0; give the peak rate.")
        if decay_is == "independent":
            weight_decay = weight_decay / float(lr)
        params = self._matched(model, extra or {})
        if not pretrained:
            warn_of_other_values(params, self.table)
        scales = {**self.table.scales, **(extra or {})}
        found: dict[tuple[float, float, float], dict[str, Any]] = {}
        for name, param in params.items():
            if not param.requires_grad:
                continue
            s = scales[name]
            decay = s.coupled if decay_is == "coupled" else s.decay
            alike = s.lr, s.eps if eps is not None else 1.0, decay
            if alike not in found:
                values = {"lr": lr * s.lr, "lr_mult": s.lr, "weight_decay": weight_decay * decay, "decay_mult": decay}
                values |= {} if eps is None else {"eps": eps * s.eps, "eps_mult": s.eps}
                found[alike] = {"params": [], "names": [], **values}
            found[alike]["params"].append(param)
            found[alike]["names"].append(name)
        return list(found.values())

    def attach(self, model: nn.Module) -> nn.Module:
        """Hook the multipliers onto the model and return it; deepcopy and compile keep the hooks."""
        import torch._dynamo  # noqa: F401  it takes a second, and making an optimizer loads it anyway

        self.table.attach(unwrapped(model))
        return model

    def fold(self, model: nn.Module) -> nn.Module:
        """Multiply the forward multipliers into the weights instead, for export; refuses a tied table.

        A folded model gives the same outputs without hooks, and must not be trained on with this table. Raises
        InputError for a branch that ends in a module without a weight of its own.
        """
        held = modules(model)
        owners = [name for name, site in self.table.sites.items() if site.role == "tied"]
        if owners and self.table.forward:
            raise InputError(f"{owners[0]} is embedding and readout at once; folding would change both. Untie it.")
        with torch.no_grad():
            for name, value in self.table.forward.items():
                held_size(held[name]).mul_(value)
            for name, value in self.table.residual.items():
                for param in _last(name, held[name]):
                    param.mul_(value)
        return model

    def check(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise InputError for an optimizer whose steps grow otherwise than the table's, where the groups' rates no
        longer stand in its ratios, and where weight decay or eps given to the constructor are not what it trains with;
        call it after a few steps."""
        _check_kind(optimizer, self.made_for)
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
        _check_constructor(optimizer, self.table.scales)

    def rates(self, optimizer: torch.optim.Optimizer, lr: float) -> list[float]:
        """`lr` times each group's factor: what schedulers that take a list (OneCycleLR's max_lr) are given."""
        return [lr * float(group["lr_mult"]) for group in optimizer.param_groups]

    def _matched(self, model: nn.Module, extra: Mapping[str, Scale] | None = None) -> dict[str, nn.Parameter]:
        """The model's parameters by the table's names; InputError where they are not the table's."""
        params = parameters(model)
        strangers = sorted(set(extra or {}) - set(params))
        if strangers:
            raise InputError(f"extra names {_few(strangers)}, which the model lacks; names are like {min(params)}.")
        missing = sorted(set(self.table.scales) - set(params))
        unknown = sorted(set(params) - set(self.table.scales) - set(extra or {}))
        if missing or unknown:
            said = f"the model lacks {_few(missing)}" if missing else ""
            said += (" and " if missing and unknown else "") + (f"the table lacks {_few(unknown)}" if unknown else "")
            tied = any(site.role == "tied" for site in self.table.sites.values())
            raise InputError(
                f"The scale table is of another model: {said}. Adopt this model; tensors added later (adapters) are "
                f"given by name: groups(model, lr, extra={{name: Scale(...)}}).{UNTIED if tied and unknown else ''}"
            )
        for name, site in self.table.sites.items():
            if tuple(params[name].shape) != site.shape and not flattened(model):
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
    if isinstance(build, nn.Module):
        raise InputError(
            f"adopt needs a function that builds the model of a width, and was given a {type(build).__name__} that is "
            f"built already; pass lambda width: {type(build).__name__}(width)."
        )
    if isinstance(rule, type):
        raise InputError(f"rule is the class {rule.__name__}; give an object of it, {rule.__name__}().")
    if rule is not None and not callable(getattr(rule, "scale", None)):
        raise InputError(
            f"rule is {rule!r}; give an object with scale(site, base site, geometry), as in "
            f"rule=windtunnel.scaling.rules.MuP(), or none: that is muP in width and CompleteP in depth."
        )
    if roles is not None and not isinstance(roles, Mapping):
        raise InputError(
            f"roles is {roles!r}; give roles by a tensor's name or a pattern of names, as in "
            f'roles={{"head.weight": "readout"}}.'
        )
    own: Parametrization | None = getattr(optimizer, "parametrization", None)
    chosen = rule or own or complete_p()
    check_suits(optimizer, chosen)
    table = scale_table(
        _unwrapped(build),
        target,
        base,
        chosen,
        declared_geometry(optimizer),
        roles=roles,
        branches=branches,
        example=example,
    )
    kind = optimizer if isinstance(optimizer, type) else type(optimizer)
    return Adopted(table=table.unwrapped(), made_for=kind if issubclass(kind, torch.optim.Optimizer) else None)


def _unwrapped(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """`build` without wrappers around the whole model (torch.compile): a table is applied by the names inside."""

    def made(*size: Any) -> nn.Module:
        model = build(*size)
        return unwrapped(model) if isinstance(model, nn.Module) else model

    return made


def _check_kind(optimizer: torch.optim.Optimizer, made_for: type | None) -> None:
    found, wanted = (None if kind is None else _of_torch(kind) for kind in (type(optimizer), made_for))
    if made_for is not None and found is not None and wanted is not None and found != wanted:
        name = type(optimizer).__name__
        raise InputError(
            f"The table was made for {made_for.__name__} and its rates are not those of {name}, whose steps are "
            f"{found} and not {wanted}; adopt(..., optimizer={name})."
        )


def _check_constructor(optimizer: torch.optim.Optimizer, scales: Mapping[str, Scale]) -> None:
    """Groups overrule a constructor, and its eps has no factors, so a value given there may not be the one in use."""
    known = signature(type(optimizer)).parameters
    groups = [group for group in optimizer.param_groups if "decay_mult" in group]
    for name, factor in (("weight_decay", "decay_mult"), ("eps", "eps_mult")):
        value = getattr(optimizer, "defaults", {}).get(name)
        if not isinstance(value, Real) or name not in known or value == known[name].default:
            continue
        used = [float(group[name]) / group.get(factor, 1.0) for group in groups if group.get(factor, 1.0)]
        lacks = name == "eps" and any(s.eps != 1 for s in scales.values()) and not any(factor in g for g in groups)
        if lacks or not any(isclose(float(value), each, rel_tol=_SAME) for each in used):
            raise InputError(
                f"{name}={value!r} was given to the constructor of {type(optimizer).__name__}, where groups overrule "
                f"it or it lacks their factors. Give the base's value to groups(model, lr, {name}={value!r})."
            )


def _last(name: str, module: nn.Module) -> list[nn.Parameter]:
    """Weight and bias of a module whose output is proportional to them together."""
    held = {called for called, _ in module.named_parameters()}
    if held - {"bias"} not in ({"weight"}, {f"parametrizations.weight.{part}" for part in PARTS}):
        raise InputError(
            f"The branch that ends in {name} has no last weight to fold into (it is a {type(module).__name__}); keep "
            f"the hooks, or state another end: adopt(..., branches=...)."
        )
    return [held_size(module), *([module.get_parameter("bias")] if "bias" in held else [])]


def _check_may_draw(model: nn.Module) -> None:
    if getattr(unwrapped(model), "peft_config", None):
        raise InputError(
            "The model has peft's adapters, which start at zero effect on purpose; initialize the model before they "
            "are added, or load it pretrained, and leave the adapters as peft made them."
        )
    if flattened(model):
        raise InputError(
            "FullyShardedDataParallel has flattened the tensors, so they cannot be drawn by their shapes; call "
            "initialize before wrapping, or use fully_shard, which keeps shapes."
        )


def declared_geometry(optimizer: Any) -> Callable[[Any], str]:
    """What `adopt` is given as optimizer, as the geometry of a site; InputError for one that is not known."""
    if getattr(optimizer, "geometry", None) is not None:
        return geometry_of(optimizer)
    if isinstance(optimizer, torch.optim.Optimizer):
        optimizer = type(optimizer)
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
