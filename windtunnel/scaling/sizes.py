"""What is compared: one model, built on the meta device at the target, at the base, and at twice the base's width.

A size is a width, a (width, depth), or a Rung; `build` is called with what was given. Width is compared at one depth;
where depth grows, a fourth model, the base itself, tells which stacks do. A newcomer would compare base and target
alone: what grows with both width and depth could not be told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from windtunnel.errors import InputError
from windtunnel.ladder import Rung
from windtunnel.recipe import Parametrization, Site
from windtunnel.scaling.branches import branch_ends, found_patterns, grown
from windtunnel.scaling.meta import filled_on_meta
from windtunnel.scaling.normed import plain, split
from windtunnel.scaling.proportion import check_proportions
from windtunnel.scaling.sites import Roles, compared
from windtunnel.scaling.table import Scale, ScaleTable, table_from

Size = int | tuple[int, int] | Rung
Build = Callable[..., nn.Module]


def scale_table(
    build: Build,
    target: Size,
    base: Size,
    rule: Parametrization,
    geometry: Callable[[Site], str],
    *,
    roles: Roles | None = None,
    branches: Sequence[str] | None = None,
    example: Any = None,
) -> ScaleTable:
    """The table of the model at `target`, for values tuned at `base`.

    Only shapes are looked at, on the meta device. `branches` (patterns of module names) or `example` (one input, or a
    function that makes it) are needed where depth grows and the rule has a residual multiplier; see
    `branches.found_patterns`. Raises InputError as `adopt` does.
    """
    found = sites(build, target, base, roles)
    table = split(table_from(found.pairs, rule, geometry, found.model), found.computed, found.pairs, rule, geometry)
    table = replace(table, scales=as_filled(table, found.filled), caveats=found.caveats)
    table = replace(table, scales=beside_tied(table))
    if all(scale.residual == 1.0 for scale in table.scales.values()):
        return table
    patterns = branches or found_patterns(
        lambda: _plain(make(build, base)), example() if callable(example) else example, found.growing, found.model
    )
    return table.with_branches(branch_ends(found.model, found.growing, patterns, called(target), stated=bool(branches)))


def as_filled(table: ScaleTable, filled: Mapping[str, float]) -> dict[str, Scale]:
    """The scales, where gains and biases that the constructor fills with one number start at it: it has no width.

    PReLU's slope is 0.25, the gain of a norm that adds 1 itself is 0 (Gemma's); both are vectors called weight.
    """
    vectors = {name for name, site in table.sites.items() if site.role in ("gain", "bias")}
    return {
        name: replace(scale, init_mean=filled[name]) if name in vectors and name in filled else scale
        for name, scale in table.scales.items()
    }


def beside_tied(table: ScaleTable) -> dict[str, Scale]:
    """The scales, where lookup tables as wide as a tied one start at its size: GPT-2's positions are added to tokens.

    In muP any size of a lookup is right that is the same at every width (2203.03466, Table 8). A tied table is small,
    for it reads out too; positions of size 1 beside it would drown the tokens at every width.
    """
    tied = {site.fan_out: table.scales[name].init_std for name, site in table.sites.items() if site.role == "tied"}
    beside = {name: site.fan_out for name, site in table.sites.items() if site.role == "embedding"}
    return {
        name: replace(scale, init_std=tied.get(beside.get(name, 0), scale.init_std))
        for name, scale in table.scales.items()
    }


@dataclass(frozen=True)
class Sites:
    """Parameter name to (site at the target, site at the base), the target's model, and its stacks that grow.

    Weights that weight_norm computes stand here as plain ones; `computed` holds where their tensors are. `filled` holds
    the number with which the constructor filled a tensor, by name.
    """

    pairs: dict[str, tuple[Site, Site]]
    model: nn.Module
    growing: dict[str, tuple[int, int]]
    computed: dict[str, str]
    filled: dict[str, float]
    caveats: tuple[str, ...]


def sites(build: Build, target: Size, base: Size, roles: Roles | None = None) -> Sites:
    """The sites of the model at `target` beside the base's; raises InputError as `adopt` does."""
    level = at_depth(base, target)
    (here, filled), there, wider = built_filled(build, target), built(build, level), built(build, widened(level))
    _check_differ(there, wider, level)
    computed, _, _ = (plain(model) for model in (here, there, wider))
    growing = grown(here, there if level == base else built(build, base))
    if depth_of(target) != depth_of(base) and not growing:
        raise InputError(
            f"{called(target)} and {called(base)} differ in depth, yet no list of numbered blocks grows between them. "
            f"Blocks must stand in an nn.ModuleList or nn.Sequential; blocks used several times have no rule here."
        )
    pairs = compared(here, there, wider, (called(target), called(level)), roles, growing)
    stated = [name for name in pairs if any(fnmatchcase(name, pattern) for pattern in roles or {})]
    caveats = check_proportions(_shapes(here), _shapes(there), _shapes(wider), stated)
    return Sites(pairs, here, growing, computed, filled, caveats)


def _plain(model: nn.Module) -> nn.Module:
    plain(model)  # the target stands here with plain weights too
    return model


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(param.shape) for name, param in model.named_parameters()}


def built(build: Build, size: Size) -> nn.Module:
    """The model of a size without storage; raises InputError where its constructor needs values."""
    return built_filled(build, size)[0]


def built_filled(build: Build, size: Size) -> tuple[nn.Module, dict[str, float]]:
    """The same, and the numbers with which the constructor filled tensors, by name."""
    try:
        return filled_on_meta(lambda: _module(make(build, size), size))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{called(size)} fails on the meta device, where shapes are read without memory: {type(error).__name__}: "
            f"{error}. If the constructor reads values of tensors, which have none there, move that behind the "
            f"construction; if it refuses this size, give one that it makes."
        ) from error


def _module(model: Any, size: Size) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise InputError(f"{called(size)} returned a {type(model).__name__}; it must return the model.")
    return model


def make(build: Build, size: Size) -> nn.Module:
    """Call `build` with a width, a width and a depth, or a rung."""
    return build(*size) if isinstance(size, tuple) else build(size)


def widened(size: Size) -> Size:
    """Twice as wide, with twice the heads."""
    if isinstance(size, Rung):
        return size.but(width=2 * size.width, heads=2 * size.heads)
    return (2 * size[0], size[1]) if isinstance(size, tuple) else 2 * size


def at_depth(size: Size, other: Size) -> Size:
    """The size at the depth of another one; raises InputError for sizes of two kinds."""
    if type(size) is not type(other):
        raise InputError(
            f"base is {size!r} and target {other!r}; give both as widths, both as (width, depth), or both as rungs."
        )
    if isinstance(size, tuple) and isinstance(other, tuple):
        return size[0], other[1]
    return size.but(depth=other.depth) if isinstance(size, Rung) and isinstance(other, Rung) else size


def depth_of(size: Size) -> int | None:
    """The depth of a size, None for a width alone."""
    return size.depth if isinstance(size, Rung) else size[1] if isinstance(size, tuple) else None


def called(size: Size) -> str:
    """How errors call the model of a size."""
    if isinstance(size, tuple):
        return f"build({size[0]}, {size[1]})"
    return f"build({size})" if isinstance(size, int) else f"the model at {size}"


def _check_differ(there: nn.Module, wider: nn.Module, level: Size) -> None:
    pairs = zip(there.parameters(), wider.parameters(), strict=False)
    if not any(p.shape != w.shape for p, w in pairs):
        raise InputError(
            f"{called(level)} and {called(widened(level))} have the same shapes; `build` must make the model of the "
            f"width that it is given, as in lambda width: MyModel(hidden_size=width)."
        )
