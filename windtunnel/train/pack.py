"""A pack: runs of one shape trained together on one device, and the stacked tensors they are trained in.

Members share a shape, a batch size and every part of the recipe but its hyperparameters; learning rates, schedules,
seeds, data orders and horizons differ. Tensors of equal site and scale are stacked too, so an optimizer written for one
tensor is called once for all of them. A newcomer would expect members to influence each other: no operation crosses the
member axis, so a pack's row is the run trained alone.

Legend: m members, g tensors of a group; a group's parameters are one tensor (m, g, *shape).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from windtunnel.errors import InputError
from windtunnel.ladder import Rung, Size
from windtunnel.recipe import Judge, Recipe, Site, is_rate
from windtunnel.runs import RunSpec
from windtunnel.scaling.meta import on_meta
from windtunnel.scaling.normed import ROLE as MAGNITUDE
from windtunnel.scaling.sizes import scale_table
from windtunnel.scaling.table import Scale, ScaleTable, check_suits, geometry_of
from windtunnel.scaling.wrapped import check_plain
from windtunnel.train.precision import check_precision
from windtunnel.train.rows import trained_tokens
from windtunnel.train.stretches import trained_tokens_of, training_flops_of

NUMBERS = ("float", "int", float, int)  # annotations of number fields


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Runs to be trained together: a live recipe whose tuned fields the specs fill, and the judge.

    `precision` is that of matrix products, "float32" or "bfloat16". A step's examples are taken in `pieces`, one after
    the other, where memory cannot hold them at once. Raises InputError for another precision.
    """

    recipe: Recipe
    specs: tuple[RunSpec, ...]
    judge: Judge
    labels: tuple[Mapping[str, str], ...] = ()
    precision: str = "float32"
    pieces: int = 1

    def __post_init__(self) -> None:
        check_precision(self.precision)

    @cached_property
    def key(self) -> str:
        """Identifies the membership, for checkpoints."""
        return hashlib.sha256("".join(spec.key for spec in self.specs).encode()).hexdigest()[:20]

    @property
    def rung(self) -> Rung:
        """The rung all members share, with the longest of their horizons."""
        return self.specs[0].rung.but(tokens=max(spec.rung.tokens for spec in self.specs))

    def recipe_of(self, member: int) -> Recipe:
        """The recipe of one member, its hyperparameters filled in."""
        return self._recipes[member]

    @cached_property
    def _recipes(self) -> list[Recipe]:
        return [self._filled(spec) for spec in self.specs]

    def _filled(self, spec: RunSpec) -> Recipe:
        filled = self.recipe.fill({name: spec.hyperparameters[name] for name in self.recipe.tuned_fields()})
        return carried(filled, spec.rung, spec.base_rung)

    def part(self, members: Iterable[int]) -> Pack:
        """A pack of some of its members, in this order."""
        chosen = list(members)
        labels = tuple(self.labels[m] for m in chosen) if self.labels else ()
        return replace(self, specs=tuple(self.specs[m] for m in chosen), labels=labels)

    def alike(self) -> list[Hashable]:
        """What two members must have in common to be one run but for their horizons: seed and numbers.

        And the horizon itself where the objective, the network or the optimizer follows it.
        """
        parts = (self.recipe.objective, self.recipe.model, *self.recipe.transforms)
        follows = any("done" in getattr(part, "needs", ()) for part in parts)
        follows = follows or "horizon" in getattr(self.recipe.optimizer, "needs", ())
        return [
            (spec.seed, tuple(sorted(numbers_of(recipe.optimizer).items())), spec.rung.tokens if follows else 0)
            for spec, recipe in zip(self.specs, self._recipes, strict=True)
        ]

    def tokens_per_step(self) -> int:
        """Tokens of a batch."""
        batch = self.specs[0].rung.batch
        assert batch is not None, "a planned rung has its batch settled"
        return batch * self.recipe.data.shape().tokens_per_example

    def training_flops(self) -> float:
        """FLOPs that training it takes, what members share counted once."""
        if self.recipe.phases is not None:
            return training_flops_of(self)
        return self.size().training_flops(self.trained_tokens)

    @cached_property
    def trained_tokens(self) -> int:
        """Tokens it trains on, what members share counted once; stepping through their schedules takes a while."""
        return trained_tokens(self) if self.recipe.phases is None else trained_tokens_of(self)

    def size(self) -> Size:
        """Parameters and FLOPs of one member."""
        return self.recipe.size(self.rung)


def carried(recipe: Recipe, rung: Rung, base: Rung) -> Recipe:
    """A filled recipe whose optimizer's numbers follow the batch and the horizon from `base` to `rung`.

    By its batch part's `carry`, one of `scaling.rules.carry`; without one they stay. Raises InputError where that rule
    does not reach.
    """
    rule = getattr(recipe.batch, "carry", None)
    if rule is None:
        return recipe
    batches = [recipe.settled(r).batch or 1 for r in (rung, base)]
    factors = rule(batches[0] / batches[1], rung.tokens / base.tokens)
    numbers = numbers_of(recipe.optimizer)
    changed = {name: value for name, value in factors.applied(numbers).items() if value != numbers[name]}
    return recipe.but(optimizer=replace(recipe.optimizer, **changed))


@dataclass(frozen=True)
class Group:
    """Tensors with equal site and scale, by name; with their first values where those are not drawn."""

    site: Site
    scale: Scale
    names: tuple[str, ...]
    built: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)


def build_model(recipe: Recipe, rung: Rung) -> nn.Module:
    """The recipe's module at a rung, transforms applied."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what is not drawn anew is alike in all runs and processes
        model = recipe.model.build(rung, recipe.data.shape())
        for transform in recipe.transforms:
            model = transform(model)
    return model


def table_of(recipe: Recipe, rung: Rung, base: Rung) -> ScaleTable:
    """The scale table of a recipe at a rung relative to the base rung."""
    check_suits(recipe.optimizer, recipe.parametrization)
    return scale_table(
        lambda r: build_model(recipe, r), rung, base, recipe.parametrization, geometry_of(recipe.optimizer),
        roles=recipe.roles(),
        example=lambda: torch.from_numpy(recipe.data.batch(seed=0, step=0, size=1)[0]),
    )  # fmt: skip


def check_builds(recipe: Recipe, rungs: Sequence[Rung], base: Rung) -> None:
    """Raise InputError where the network cannot be made at a rung, or is not what its part says, or has no table at the
    last of them; by shapes alone."""
    check_numbers(recipe)
    at, made = base, []
    try:
        for at in rungs:
            model = on_meta(lambda at=at: build_model(recipe, at))
            check_count(model, recipe.size(at), recipe.model)
            check_buffers(model)
            check_plain(model)
            made.append(at)
        groups_of(table_of(recipe, rungs[-1], base))
    except InputError as error:
        raise InputError(f"At {at}: {error}") from error
    except Exception as error:
        if not made or at in made:  # a part that looks at values, which there are none: its runs will tell
            return
        raise InputError(
            f"At {at}: {type(error).__name__}: {error}. At {made[-1]} the network can be made; leave out the sizes "
            f"where it cannot, or mend the part."
        ) from error


def check_count(model: nn.Module, size: Size, part: Any) -> None:
    """Raise InputError when a model part's formula disagrees with the tensors it builds."""
    counted = sum(p.numel() for p in model.parameters())
    if counted != size.total:
        raise InputError(
            f"{type(part).__name__}.size says {size.total:,} parameters but the built model has {counted:,}; the law "
            f"would be fitted on a wrong N. Correct the formula in size(); a transform that adds tensors "
            f"counts them in a method size(size, rung, data)."
        )


def check_buffers(model: nn.Module) -> None:
    """Raise InputError for a module with state outside its parameters: a pack and its checkpoints do not carry it."""
    kept = sorted(set(model.state_dict()) - {name for name, _ in model.named_parameters(remove_duplicate=False)})
    if kept:
        raise InputError(
            f"The model keeps state in buffers ({', '.join(kept[:3])}), which checkpoints do not carry; use a layer "
            f"without running statistics, or register constant tables with persistent=False."
        )


def groups_of(table: ScaleTable) -> list[Group]:
    """Names grouped by equal (site, scale), in the order they first appear.

    Raises InputError for magnitudes of torch's weight_norm, whose first values depend on those of other tensors.
    """
    found: dict[tuple[Site, Scale], list[str]] = {}
    for name, scale in table.scales.items():
        if table.sites[name].role == MAGNITUDE:
            raise InputError(
                f"{name} is a magnitude of weight_norm, which is not trained in packs; leave the weight plain, or "
                f"train the model in a loop of your own with wt.adopt."
            )
        found.setdefault((table.sites[name], scale), []).append(name)
    return [Group(site, scale, tuple(names)) for (site, scale), names in found.items()]


def as_built(groups: Sequence[Group], model: Callable[[], nn.Module]) -> list[Group]:
    """The groups, tensors whose role is `vector` with the values that the module gave them; it is made only for those.

    Such a tensor has no inputs from which an initial size would follow: a class token, a decay of a state-space layer.
    """
    if not any(group.site.role == "vector" for group in groups):
        return list(groups)
    params = dict(model().named_parameters())
    return [
        replace(group, built={name: params[name].detach().cpu().clone() for name in group.names})
        if group.site.role == "vector" else group
        for group in groups
    ]  # fmt: skip


def initial_params(groups: Sequence[Group], seeds: Sequence[int], device: torch.device) -> list[Tensor]:
    """Stacked initial values; each tensor's draw depends on its name and the member's seed alone."""
    return [
        torch.stack([torch.stack([_draw(name, group, seed) for name in group.names]) for seed in seeds]).to(device)
        for group in groups
    ]


def _draw(name: str, group: Group, seed: int) -> Tensor:
    if name in group.built:
        return group.built[name]
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    noise = torch.randn(group.site.shape, generator=generator, dtype=torch.float32)
    return noise * group.scale.init_std + group.scale.init_mean


def check_numbers(recipe: Recipe) -> None:
    """Raise InputError where a number field of a part holds text, or a rate no number, and for an optimizer's numbers
    beyond what they mean: rates, eps and decay below 0, Adam's betas outside 0 to 1."""
    for part in recipe.pieces():
        held = fields(part) if is_dataclass(part) and not isinstance(part, type) else ()
        for name, value in ((f.name, getattr(part, f.name)) for f in held if f.type in NUMBERS):
            if isinstance(value, str) or (is_rate(name) and not isinstance(value, Real)):
                raise InputError(f"{type(part).__name__} {name} is {value!r}; it takes a number, without quotes.")
    for name, value in numbers_of(recipe.optimizer).items():
        beta = name in ("beta1", "beta2")
        if (beta and not 0 <= value < 1) or ((is_rate(name) or name in ("eps", "weight_decay")) and not value >= 0):
            raise InputError(
                f"{type(recipe.optimizer).__name__} {name} is {value:g}; it must be at least 0"
                f"{', and below 1: the share of the mean that is kept' if beta else ''}."
            )


def numbers_of(part: Any) -> dict[str, float]:
    """The number fields of a filled part: what an optimizer's `hp` holds."""
    if not is_dataclass(part):
        raise InputError(f"{part!r} must be a frozen dataclass, so that its hyperparameters can be read.")
    held = {f.name: getattr(part, f.name) for f in fields(part)}
    return {n: float(v) for n, v in held.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def stacked_hyperparameters(
    groups: Sequence[Group],
    optimizers: Sequence[Any],
    device: torch.device,
    seeds: Sequence[int] = (),
    stretch: int = 0,
) -> list[Any]:
    """For each group, name to a (m * g) tensor of every number field, scaled for the group's site; lr unscheduled.

    With what the optimizer says of single tensors (`numbers`), for the member's seed and the stretch of its training.
    """
    numbers = [numbers_of(optimizer) for optimizer in optimizers]
    found = [_stacked(group, numbers, device) for group in groups]
    if not optimizers or not hasattr(optimizers[0], "numbers"):
        return found
    sites = {name: group.site for group in groups for name in group.names}
    own = [o.numbers(sites, seed, stretch) for o, seed in zip(optimizers, seeds, strict=True)]
    return [hp | _own(group, own, device) for hp, group in zip(found, groups, strict=True)]


def _own(group: Group, own: Sequence[Mapping[str, Mapping[str, float]]], device: torch.device) -> dict[str, Tensor]:
    called = own[0][group.names[0]]
    return {
        number: torch.tensor(
            [member[name][number] for member in own for name in group.names], dtype=torch.float64, device=device
        )
        for number in called
    }


def scaled(numbers: Mapping[str, float], scale: Scale) -> dict[str, float]:
    """An optimizer's numbers as the table has them at tensors of this scale; rates not scheduled yet."""
    factors = {"eps": scale.eps, "weight_decay": scale.decay} | {n: scale.lr for n in numbers if is_rate(n)}
    return {name: value * factors.get(name, 1.0) for name, value in numbers.items()}


def _stacked(group: Group, numbers: Sequence[Mapping[str, float]], device: torch.device) -> dict[str, Tensor]:
    members, repeated = [scaled(member, group.scale) for member in numbers], len(group.names)
    return {
        name: torch.tensor(
            [member[name] for member in members for _ in range(repeated)],
            dtype=torch.float64,  # a tensor without axes never promotes the weights it multiplies
            device=device,
        )
        for name in numbers[0]
    }
