"""Particles: copies of a task, trained by slightly different learned optimizers, in pairs, a truncation at a time.

A pair has the same initial values, batches and horizon; one member is trained by the weights plus a draw, the other by
the weights minus it. All pairs of a task are one pack. A newcomer would start every particle at step 0; pairs start
staggered, so that at any time all parts of a training are seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from windtunnel.meta.rules import Direction, mover
from windtunnel.meta.task import Inner, generator_of
from windtunnel.parts.learned import native
from windtunnel.parts.learned.features import Features, Moments
from windtunnel.parts.schedules import Constant, Cosine
from windtunnel.train.pack import Group, initial_params

Theta = dict[str, Tensor]  # a leading axis of particles; the network's tensors and "decays" (particles, 7)
# Decays before training: momenta, second moment, factored (2203.11860). What is trained is an offset o of each, so that
# b = 1 - (1 - b0) exp(10 o).
DECAYS = (0.9, 0.99, 0.999, 0.999, 0.9, 0.99, 0.999)


@dataclass(frozen=True, kw_only=True)
class Horizons:
    """How long a particle is trained: log-uniform from `low` to `high` steps, its steps scaled by `schedule`.

    "cosine" lets them fall to zero over the particle's own horizon, "constant" not. `staggered` is how many steps a
    pair may be ahead when meta-training begins.
    """

    low: int = 100
    high: int = 1000
    schedule: str = "cosine"
    staggered: bool = True

    def part(self) -> Cosine | Constant:
        """The schedule of a recipe that is trained as the particles are."""
        return Cosine(warmup=0.0, floor=0.0) if self.schedule == "cosine" else Constant(warmup=0.0)

    def share(self, step: int, horizon: int) -> float:
        """What `part` says at this step of a horizon, between 0 and 1."""
        return 0.5 * (1 + math.cos(math.pi * step / horizon)) if self.schedule == "cosine" else 1.0

    def draw(self, *what: int | str) -> int:
        """A horizon that depends on these words and numbers alone."""
        share = float(torch.rand((), generator=generator_of("horizon", *what)))
        return round(self.low * (self.high / self.low) ** share)


@dataclass
class Particles:
    """The state of a task's pairs between truncations: stacked as a pack, members +0, -0, +1, -1, ...

    `steps` and `horizons` are of pairs, `lives` counts the trainings that a pair has begun.
    """

    params: list[Tensor]
    moments: list[Moments]
    steps: list[int]
    horizons: list[int]
    lives: list[int]


@dataclass(frozen=True)
class Told:
    """What a truncation showed: (length, pairs) meta-losses of both members, capped, and where pairs began anew.

    `fresh[k, i]` says that at step k pair i was in a training that began within this truncation.
    """

    plus: Tensor
    minus: Tensor
    fresh: Tensor


class Unroll:
    """Trains particles of one task. `seed` makes everything that is drawn."""

    def __init__(
        self, inner: Inner, *, features: Features, step_size: float, magnitude: float, horizons: Horizons, pairs: int,
        seed: int, compile: bool, direction: Direction | None = None,
    ) -> None:  # fmt: skip
        self.inner = inner
        self.horizons, self.pairs, self.compile = horizons, pairs, compile
        self.local = getattr(inner, "local", None)
        self.seeds = [_mixed(seed, inner.task.name, pair) for pair in range(pairs)]
        self.movers = [mover(group.site, features, magnitude, direction) for group in inner.groups]
        self._made: tuple[Any, list[Tensor]] = (None, [])  # the last factors
        self.rates = [group.scale.lr * step_size for group in inner.groups]

    def first(self) -> Particles:
        """All pairs at their beginning, staggered."""
        params, moments = self._fresh([(pair, 0) for pair in range(self.pairs)])
        horizons = [self.horizons.draw(seed, 0) for seed in self.seeds]
        # ahead in time only, as in the original: the horizon of the first life is shorter by as much
        ahead = [self.horizons.draw("ahead", seed) - self.horizons.low for seed in self.seeds]
        steps = [a % h if self.horizons.staggered else 0 for a, h in zip(ahead, horizons, strict=True)]
        return Particles(params, moments, steps, horizons, [0] * self.pairs)

    @torch.no_grad()
    def truncation(self, theta: Theta, particles: Particles, number: int, length: int) -> Told:
        """Train all particles for `length` steps, each by its own theta; `particles` is changed.

        A step's meta-loss is that of its batch before it, or of a validation batch after it.
        """
        inputs, targets = self.inner.batches(self.seeds, number, length)
        judged = self.inner.validations(self.seeds, number, length) if self.inner.validation else None
        decays, nets = _decays(theta["decays"]), {n: v for n, v in theta.items() if n != "decays"}
        device, cap = self.inner.device, self.inner.task.cap
        losses, fresh = torch.empty(length, 2 * self.pairs, device=device), torch.zeros(length, self.pairs)
        new = [False] * self.pairs
        wide = [self._for_group(nets, group) for group in self.inner.groups]
        for k in range(length):
            batch = (inputs[k].repeat_interleave(2, 0), targets[k].repeat_interleave(2, 0))
            grads, losses[k] = self._look(particles, *batch)
            fresh[k] = torch.tensor(new, dtype=torch.float32)
            self._move(particles, grads, wide, decays)
            if judged is not None:
                losses[k] = self._judge(particles, *(t[k].repeat_interleave(2, 0) for t in judged))
            particles.steps = [s + 1 for s in particles.steps]
            ended = [i for i, (s, h) in enumerate(zip(particles.steps, particles.horizons, strict=True)) if s >= h]
            if ended:
                self._again(particles, ended)
                new = [n or i in ended for i, n in enumerate(new)]
        found = torch.nan_to_num(losses, nan=cap, posinf=cap, neginf=cap).clamp(0.0, cap).unflatten(1, (-1, 2))
        return Told(found[..., 0], found[..., 1], fresh.to(device))

    # inside

    def _look(self, particles: Particles, inputs: Tensor, targets: Tensor) -> tuple[list[Tensor], Tensor]:
        """Gradients and losses; of a rescaled task, those of weights that the network multiplies by its factors."""
        grads, losses = self.inner.gradient(self._held(particles), inputs, targets, self.compile)
        if self.inner.task.rescaled == 1:
            return grads, losses
        factors = self._factors(list(enumerate(particles.lives)))
        return [g * f for g, f in zip(grads, factors, strict=True)], losses

    def _judge(self, particles: Particles, inputs: Tensor, targets: Tensor) -> Tensor:
        """Losses on a batch that nothing is trained on."""
        return self.inner.loss(self._held(particles), inputs, targets, self.compile)

    def _held(self, particles: Particles) -> list[Tensor]:
        """Weights as the network has them: of a rescaled task, multiplied by its factors."""
        if self.inner.task.rescaled == 1:
            return particles.params
        factors = self._factors(list(enumerate(particles.lives)))
        return [p * f for p, f in zip(particles.params, factors, strict=True)]

    def _factors(self, lives: Sequence[tuple[int, int]]) -> list[Tensor]:
        """For each group (2 x lives, tensors, 1, ...): what the network multiplies weights by, of (pair, life)s."""
        key = tuple(lives)
        if self._made[0] != key:
            most, found = math.log(self.inner.task.rescaled), []
            for group in self.inner.groups:
                drawn = [
                    torch.rand(len(group.names), generator=generator_of(self.seeds[p], "factor", life, group.names[0]))
                    for p, life in lives
                ]
                factors = torch.exp((2 * torch.stack(drawn) - 1) * most).repeat_interleave(2, 0)
                found.append(factors.reshape(*factors.shape, *(1 for _ in group.site.shape)).to(self.inner.device))
            self._made = key, found
        return self._made[1]

    def _move(self, particles: Particles, grads: Sequence[Tensor], wide: Sequence[Theta], decays: Tensor) -> None:
        """One step of the rule, group by group."""
        device = self.inner.device
        steps = torch.tensor([float(s) for s in particles.steps], device=device).repeat_interleave(2)
        shares = [self.horizons.share(s, h) for s, h in zip(particles.steps, particles.horizons, strict=True)]
        share = torch.tensor(shares, device=device).repeat_interleave(2)
        for index, (group, moving) in enumerate(zip(self.inner.groups, self.movers, strict=True)):
            count = len(group.names)
            rows = decays if count == 1 else decays.repeat_interleave(count, 0)
            rates = (share if count == 1 else share.repeat_interleave(count)) * -self.rates[index]
            at = steps if count == 1 else steps.repeat_interleave(count)
            param, grad = particles.params[index], grads[index].flatten(0, 1)
            moved, particles.moments[index] = moving.moved(
                wide[index], grad, param.flatten(0, 1), particles.moments[index], rows, at, rates, self._told(index)
            )
            param.add_(moved.view_as(param))
            if self.local is not None and self.local.residual:
                param.sub_(grads[index])

    def _told(self, index: int) -> Mapping[str, Tensor]:
        """What the workers say besides their mean, where the rule looks at it."""
        if self.local is None or not self.local.statistics:
            return {}
        found = self.inner.statistics[index]  # pyright: ignore[reportAttributeAccessIssue]
        return {name: told.flatten(0, 1) for name, told in found.items()}

    def _for_group(self, nets: Mapping[str, Tensor], group: Group) -> Theta:
        count = len(group.names)
        return native.padded({n: v if count == 1 else v.repeat_interleave(count, 0) for n, v in nets.items()})

    def _again(self, particles: Particles, ended: Sequence[int]) -> None:
        """Pairs that have reached their horizon begin anew."""
        for pair in ended:
            particles.lives[pair] += 1
            particles.steps[pair] = 0
            particles.horizons[pair] = self.horizons.draw(self.seeds[pair], particles.lives[pair])
        params, moments = self._fresh([(pair, particles.lives[pair]) for pair in ended])
        rows = torch.tensor([2 * pair + side for pair in ended for side in (0, 1)], device=self.inner.device)
        for index in range(len(self.inner.groups)):
            particles.params[index][rows] = params[index]
            each = len(particles.moments[index].square) // len(particles.params[index])
            many = (rows[:, None] * each + torch.arange(each, device=rows.device)).flatten()
            for old, new in zip(native.leaves(particles.moments[index]), native.leaves(moments[index]), strict=True):
                old[many] = new

    def _fresh(self, lives: Sequence[tuple[int, int]]) -> tuple[list[Tensor], list[Moments]]:
        """Initial values and accumulators of these (pair, life), both members of each."""
        seeds = [_mixed(self.seeds[pair], "life", life) for pair, life in lives]
        drawn = initial_params(self.inner.groups, seeds, self.inner.device)
        params = [p.repeat_interleave(2, 0) for p in drawn]
        if self.inner.task.rescaled > 1:
            params = [p / f for p, f in zip(params, self._factors(lives), strict=True)]
        return params, [m.first(p.flatten(0, 1)) for p, m in zip(params, self.movers, strict=True)]


def _decays(offsets: Tensor) -> Tensor:
    """(particles, 7) decays of their offsets."""
    first = torch.tensor(DECAYS, dtype=torch.float32, device=offsets.device)
    return (1 - (1 - first) * torch.exp(10 * offsets)).clamp(0.0, 1.0)


def decays_of(offsets: Tensor) -> dict[str, tuple[float, ...]]:
    """What a card says of the decays with these (7,) offsets."""
    found = [float(b) for b in _decays(offsets[None])[0]]
    return {"momentum": tuple(found[:3]), "rms": (found[3],), "factored": tuple(found[4:])}


def _mixed(seed: int, *what: int | str) -> int:
    return int(torch.randint(1 << 48, (), generator=generator_of(seed, *what)))
