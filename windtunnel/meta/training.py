"""Meta-training: the weights of a learned optimizer, moved by evolution strategies on the losses of what they train.

Persistent evolution strategies (2112.13835): each pair's draws add up over truncations, so that short truncations give
an unbiased gradient of whole trainings. Everything that is drawn is a function of the seed and of where in the work it
is drawn; so a checkpoint holds numbers alone, and a resumed meta-training ends with the same bits. A newcomer would
take the checkpoint with the lowest meta-loss: the meta-loss of a truncation is noise, the last weights are taken.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from windtunnel.errors import InputError
from windtunnel.files import sha256
from windtunnel.meaning import describe
from windtunnel.meta.local import Local, LocalInner
from windtunnel.meta.matrix import Filled, Matrix, Rule
from windtunnel.meta.rules import Direction, part_of
from windtunnel.meta.task import Inner, Task, generator_of
from windtunnel.meta.unroll import Horizons, Particles, Theta, Told, Unroll, decays_of
from windtunnel.parts.learned import native
from windtunnel.parts.learned.familiar import ranges_of
from windtunnel.parts.learned.features import Features, Moments
from windtunnel.parts.learned.outer import STATISTICS
from windtunnel.parts.learned.weights import Card, Weights
from windtunnel.recipe import Parametrization
from windtunnel.runs import canonical
from windtunnel.scaling.rules.at_base import AtBase
from windtunnel.scaling.rules.standard import Standard
from windtunnel.store import Store
from windtunnel.train import checkpoint

ESTIMATORS = ("pes", "es")
ADAM_TAKES = 2  # units of each layer, to pass on both signs
COMPILE_FROM = 20_000  # steps of a pack from which compiling pays (measured: 15 s against 0.9 ms a step)


@dataclass(frozen=True, kw_only=True)
class MetaTraining:
    """The frozen question: on which tasks, which network, how long, from which seed.

    `step_size` is the size of a step of the untrained network: a quarter of the learning rate of the tasks' tuned Adam
    (measured). `pairs` antithetic pairs of each task, draws of `std`, truncations of `truncation` steps. The outer
    AdamW warms up to `lr` and falls by a cosine to `final_lr`; its gradient is clipped to norm `clip`. With `local` the
    rule is an outer one, around the local steps of each task's own optimizer; a step is a round then.

    The meta-loss of a step is that of its training batch, before it. With `validation`, a share of each task's training
    examples, it is the loss after the step on a batch of that share, on which no particle is trained (2009.11243). The
    judge's held-out examples are in neither.

    With `direction` the rule is Celo2 in place of small_fc: `step_size` is then the rate of hidden matrices while it is
    trained, about a tenth of tuned Adam's (guess), and the weights are free of it. It takes `Features(clipped=True,
    times=(), scale_free=True)`.

    Raises InputError for tasks of different parametrizations and for numbers without sense.
    """

    tasks: tuple[Task, ...]
    step_size: float
    outer_steps: int
    seed: int = 0
    hidden: int = 8
    features: Features = Features(scale_free=True, square_axes="oi")  # noqa: RUF009  frozen
    magnitude: float = 0.001
    horizons: Horizons = Horizons()  # noqa: RUF009  frozen
    pairs: int = 8
    truncation: int = 20
    std: float = 0.01
    estimator: str = "pes"
    lr: float = 3e-3
    final_lr: float = 3e-4
    warmup: int = 100
    weight_decay: float = 0.0
    clip: float = 1.0
    validation: float = 0.0
    local: Local | None = None
    direction: Direction | None = None
    matrix: Matrix | None = None  # what the weights are judged on afterwards; the weights do not depend on it
    beside: Mapping[str, Rule] = field(default_factory=dict)  # further rules of the matrix

    def __post_init__(self) -> None:
        if not self.tasks or len({task.name for task in self.tasks}) < len(self.tasks):
            raise InputError("MetaTraining needs one task or more, each with a name of its own.")
        rules = {canonical(_said_of(task.recipe.parametrization)) for task in self.tasks}
        if len(rules) > 1:
            raise InputError(f"The tasks have different parametrizations, {sorted(rules)}; steps of one size need one.")
        if self.estimator not in ESTIMATORS:
            raise InputError(f"estimator={self.estimator!r}: it is one of {', '.join(map(repr, ESTIMATORS))}.")
        counts = {"outer_steps": self.outer_steps, "pairs": self.pairs, "truncation": self.truncation}
        wrong = [f"{n}={v}" for n, v in counts.items() if v < 1]
        sizes = {"step_size": self.step_size, "std": self.std, "lr": self.lr, "clip": self.clip}
        wrong += [f"{n}={v}" for n, v in sizes.items() if not 0 < v < math.inf]
        if not 0 <= self.validation < 1:
            raise InputError(
                f"validation={self.validation!r}: it is the share of the training examples whose loss is the "
                f"meta-loss, from 0 (none: the training loss) to below 1."
            )
        statistics = len(STATISTICS) if self.local is not None and self.local.statistics else 0
        if self.features.more != statistics:
            raise InputError(
                f"The features have more={self.features.more}; with this local training it is {statistics}."
            )
        if self.direction is not None and (self.features.times or not self.features.clipped or self.local is not None):
            raise InputError(
                f"Celo2 has no time in its features, looks at clipped gradients and is no outer rule, and this is "
                f"{self.features}, local={self.local}; give features=Features(clipped=True, times=(), "
                f"scale_free=True) and no local."
            )
        if wrong or not 1 <= self.hidden <= native.MOST_HIDDEN:
            raise InputError(f"MetaTraining has {', '.join(wrong) or f'hidden={self.hidden}'}; give positive numbers.")

    def describe(self) -> dict[str, Any]:
        """Plain data: everything that the result depends on."""
        apart = ("tasks", "features", "horizons", "local", "direction", "matrix", "beside")
        numbers = {n: getattr(self, n) for n in self.__dataclass_fields__ if n not in apart}
        if not self.validation:
            del numbers["validation"]  # as it was before there was any, so that keys stay
        tasks = [task.describe() for task in self.tasks]
        held = {**numbers, "features": asdict(self.features), "horizons": asdict(self.horizons), "tasks": tasks}
        held |= {"start": "adam" if self.hidden >= ADAM_TAKES else "random"}  # the first weights
        if self.direction is not None:
            held |= {"direction": asdict(self.direction)}
        if self.local is None:
            return held
        steps = [describe(task.recipe.optimizer) for task in self.tasks]
        return held | {"local": asdict(self.local), "local_optimizers": steps}

    @property
    def key(self) -> str:
        """Identifies the question: a folder of checkpoints belongs to one."""
        return sha256(canonical(self.describe()).encode())[:16]

    def inner_steps(self, outer_steps: int | None = None) -> int:
        """Steps of all particles in so many outer steps (all)."""
        done = self.outer_steps if outer_steps is None else outer_steps
        return done * self.truncation * 2 * self.pairs * len(self.tasks)

    def judged(self, weights: Weights, store: str | Path) -> Filled:
        """The matrix of these weights and the rules beside them, with the runs that `store` lacks trained now.

        Raises InputError where there is no matrix, and for an outer rule, which a matrix has no local training for.
        """
        if self.matrix is None or self.local is not None:
            raise InputError("There is no matrix to judge by: give MetaTraining(matrix=Matrix(...)), without local.")
        own = Rule(
            optimizer=part_of(weights), schedule=self.horizons.part(), parametrization=weights.parametrization()
        )  # fmt: skip
        return self.matrix.run(Store(str(store)), {"learned": own, **self.beside})

    def run(
        self, folder: str | Path | None = None, *, report: Callable[[Progress], None] | None = None,
        every_seconds: float = 60.0, device: torch.device | str = "cpu", stop_after: int | None = None,
    ) -> Weights | None:  # fmt: skip
        """The trained weights; goes on from the newest good checkpoint in `folder`, and writes one now and then.

        `report` is told of every outer step. With `stop_after`, at most that many outer steps are done now, and None is
        returned where more are left. Raises InputError for a folder of another meta-training.
        """
        work = _Work(self, torch.device(device))
        place = Path(folder) if folder is not None else None
        state = work.resumed(place) if place is not None else work.first()
        done, saved = 0, time.monotonic()
        while state.step < self.outer_steps:
            if stop_after is not None and done >= stop_after:
                break
            began = time.monotonic()
            work.advance(state)
            state.seconds += time.monotonic() - began
            done += 1
            if report is not None:
                report(work.progress(state))
            if place is not None and time.monotonic() - saved > every_seconds:
                work.save(place, state)
                saved = time.monotonic()
        if place is not None and done:
            work.save(place, state)
        return work.weights(state) if state.step >= self.outer_steps else None


@dataclass(frozen=True)
class Progress:
    """Of an outer step that is done: mean loss of its truncations, in nats, of all tasks and of each."""

    step: int
    steps: int
    loss: float
    losses: Mapping[str, float]
    inner_steps: int
    seconds: float


@dataclass
class State:
    """What changes: the network with its decays' offsets in a row, the outer optimizer's moments, particles, sums."""

    theta: Tensor
    mean: Tensor
    square: Tensor
    particles: list[Particles]
    sums: list[Tensor]  # of each task (pairs, weights): the draws since each pair began
    step: int = 0
    seconds: float = 0.0
    losses: list[list[float]] = field(default_factory=list)  # by outer step, by task


class _Work:
    """A meta-training on a device."""

    def __init__(self, asked: MetaTraining, device: torch.device) -> None:
        self.asked, self.device = asked, device
        self.shapes = _shapes(asked)
        compile = asked.outer_steps * asked.truncation * len(asked.tasks) >= COMPILE_FROM
        self.unrolls = [
            Unroll(
                _inner(asked, task, device), features=asked.features, step_size=asked.step_size,
                magnitude=asked.magnitude, horizons=asked.horizons, pairs=asked.pairs, seed=asked.seed, compile=compile,
                direction=asked.direction,
            )
            for task in asked.tasks
        ]  # fmt: skip
        idle = [u.inner.task.name for u in self.unrolls if not any(mover.learned for mover in u.movers)]
        if idle:
            raise InputError(
                f"Celo2's network moves hidden matrices, and {', '.join(idle)} has none; give a deeper model, or leave "
                f"direction out."
            )

    def first(self) -> State:
        theta = _first_theta(self.asked, self.shapes).to(self.device)
        sums = [torch.zeros(self.asked.pairs, len(theta), device=self.device) for _ in self.unrolls]
        return State(theta, torch.zeros_like(theta), torch.zeros_like(theta), [u.first() for u in self.unrolls], sums)

    def advance(self, state: State) -> None:
        """One truncation of every task, then one step of the outer optimizer."""
        gradients, losses = [], []
        for index, unroll in enumerate(self.unrolls):
            gradient, loss = self._estimate(state, index, unroll)
            gradients.append(gradient)
            losses.append(loss)
        gradient = torch.nan_to_num(torch.stack(gradients).mean(0), nan=0.0, posinf=0.0, neginf=0.0)
        gradient = gradient * (self.asked.clip / gradient.norm().clamp(min=self.asked.clip))
        self._move(state, gradient)
        state.losses.append(losses)
        state.step += 1

    def _estimate(self, state: State, index: int, unroll: Unroll) -> tuple[Tensor, float]:
        """A task's gradient and mean loss; its particles and sums move on."""
        asked, name = self.asked, unroll.inner.task.name
        shape, generator = (asked.pairs, len(state.theta)), generator_of(asked.seed, "draws", name, state.step)
        draws = (torch.randn(shape, generator=generator) * asked.std).to(self.device)
        both = torch.stack([state.theta + draws, state.theta - draws], dim=1).flatten(0, 1)
        particles = state.particles[index]
        told = unroll.truncation(self._tree(both), particles, state.step, asked.truncation)
        sums = state.sums[index] + draws if asked.estimator == "pes" else draws
        state.sums[index] = _after(sums, draws, told, particles)
        apart = told.plus - told.minus
        old = ((apart * (1 - told.fresh)).mean(0)[:, None] * sums).mean(0)
        new = ((apart * told.fresh).mean(0)[:, None] * draws).mean(0)
        return (old + new) / (2 * asked.std**2), float((told.plus + told.minus).mean() / 2)

    def _move(self, state: State, gradient: Tensor) -> None:
        """AdamW, betas 0.9 and 0.999."""
        step, lr = state.step + 1, self._rate(state.step)
        state.mean = torch.lerp(state.mean, gradient, 0.1)
        state.square = torch.lerp(state.square, gradient * gradient, 0.001)
        root = (state.square / (1 - 0.999**step)).sqrt() + 1e-8
        move = state.mean / (1 - 0.9**step) / root + self.asked.weight_decay * state.theta
        state.theta = state.theta - lr * move

    def _rate(self, step: int) -> float:
        asked = self.asked
        if step < asked.warmup:
            return asked.lr * (step + 1) / asked.warmup
        done = (step - asked.warmup) / max(1, asked.outer_steps - asked.warmup)
        return asked.final_lr + (asked.lr - asked.final_lr) * 0.5 * (1 + math.cos(math.pi * done))

    def _tree(self, rows: Tensor) -> Theta:
        """(particles, weights) as networks."""
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        cut = rows.split(sizes, dim=1)
        return {n: c.reshape(-1, *shape).contiguous() for (n, shape), c in zip(self.shapes.items(), cut, strict=True)}

    def progress(self, state: State) -> Progress:
        names = [unroll.inner.task.name for unroll in self.unrolls]
        last, done = dict(zip(names, state.losses[-1], strict=True)), self.asked.inner_steps(state.step)
        return Progress(
            state.step, self.asked.outer_steps, sum(last.values()) / len(last), last, done, state.seconds
        )  # fmt: skip

    def weights(self, state: State) -> Weights:
        """The weights as they are, with their card."""
        asked = self.asked
        tree = {name: value[0] for name, value in self._tree(state.theta[None]).items()}
        decays = decays_of(tree.pop("decays").cpu())
        tail = state.losses[-max(1, len(state.losses) // 10) :]
        made = {
            "by": "windtunnel.meta", "key": asked.key, "seed": asked.seed, "outer_steps": state.step,
            "inner_steps": asked.inner_steps(state.step), "tasks": [task.describe()["name"] for task in asked.tasks],
            "rungs": [str(task.rung) for task in asked.tasks], "widths": [task.rung.width for task in asked.tasks],
            "depths": [task.rung.depth for task in asked.tasks], "schedule": asked.horizons.schedule,
            "ranges": ranges_of(self._of_the_network(state)),
            "last_meta_loss": sum(map(sum, tail)) / sum(map(len, tail)) if tail else None, "licence": "Apache-2.0",
            "estimator": asked.estimator, "std": asked.std, "pairs": asked.pairs, "truncation": asked.truncation,
            **({"validation": asked.validation} if asked.validation else {}),
        }  # fmt: skip
        free = asked.direction is not None  # of the step size: the user's rate is all that a step is multiplied by
        if asked.direction is not None:
            made |= {"step_size": asked.step_size, **asdict(asked.direction)}
        card = Card(
            rule="celo2" if free else "small_fc", features=asked.features,
            step_size=1.0 if free else asked.step_size, magnitude=0.0 if free else asked.magnitude,
            parametrization=_said_of(asked.tasks[0].recipe.parametrization), horizon=asked.horizons.high,
            decays=decays, made=made, outer=asdict(asked.local) if asked.local is not None else {},
        )  # fmt: skip
        return Weights.of(card, tree)

    def _of_the_network(self, state: State) -> Iterator[Moments]:
        """The accumulators of tensors that the network moves."""
        for unroll, particles in zip(self.unrolls, state.particles, strict=True):
            yield from (m for m, mover in zip(particles.moments, unroll.movers, strict=True) if mover.learned)

    # checkpoints

    def save(self, folder: Path, state: State) -> None:
        tensors = {"theta": state.theta, "mean": state.mean, "square": state.square}
        tensors["losses"] = torch.tensor(state.losses, dtype=torch.float64).reshape(len(state.losses), -1)
        for index, (particles, sums) in enumerate(zip(state.particles, state.sums, strict=True)):
            tensors[f"sums.{index}"] = sums
            for group, (param, moments) in enumerate(zip(particles.params, particles.moments, strict=True)):
                leaves = enumerate(native.leaves(moments))
                tensors |= {f"param.{index}.{group}": param}
                tensors |= {f"moments.{index}.{group}.{leaf}": t for leaf, t in leaves}
        pairs = [{"steps": p.steps, "horizons": p.horizons, "lives": p.lives} for p in state.particles]
        facts = {"members": [self.asked.key], "pairs": pairs, "seconds": state.seconds, "spent": [state.step]}
        checkpoint.save(folder, state.step, tensors, facts)

    def resumed(self, folder: Path) -> State:
        """The newest good checkpoint's state, or the first."""
        there = checkpoint.members(folder)
        if there and there != [self.asked.key]:
            raise InputError(
                f"{folder} holds checkpoints of another meta-training ({there[0]}; this one is {self.asked.key}); give "
                f"another folder, or ask the same question."
            )
        found, _ = checkpoint.search(folder, self._taken)
        return found if found is not None else self.first()

    def _taken(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> State:
        on = {name: t.to(self.device) for name, t in tensors.items()}
        particles = []
        for index, (unroll, pairs) in enumerate(zip(self.unrolls, facts["pairs"], strict=True)):
            groups = range(len(unroll.inner.groups))
            moments = [_moments([on[f"moments.{index}.{g}.{leaf}"] for leaf in range(6)]) for g in groups]
            particles.append(Particles([on[f"param.{index}.{g}"] for g in groups], moments, **pairs))
        sums = [on[f"sums.{index}"] for index in range(len(self.unrolls))]
        state = State(on["theta"], on["mean"], on["square"], particles, sums, facts["step"], facts["seconds"])
        state.losses = tensors["losses"].tolist()
        return state


def _inner(asked: MetaTraining, task: Task, device: torch.device) -> Inner:
    if asked.local is None:
        return Inner(task, device, asked.validation)
    return LocalInner(task, device, asked.local, asked.validation)


def _moments(leaves: Sequence[Tensor]) -> Moments:
    return Moments(tuple(leaves[:3]), *leaves[3:])


def _after(sums: Tensor, draws: Tensor, told: Told, particles: Particles) -> Tensor:
    """The sums with which the next truncation begins: a pair that began anew has this truncation's draw, or nothing."""
    new = told.fresh[-1][:, None] > 0
    kept = torch.where(new, draws, sums)
    ended = torch.tensor([step == 0 for step in particles.steps], device=sums.device)[:, None]
    return torch.where(ended, torch.zeros_like(kept), kept)


def _shapes(asked: MetaTraining) -> dict[str, tuple[int, ...]]:
    inputs, hidden = asked.features.count, asked.hidden
    return {
        "w0": (inputs, hidden), "b0": (hidden,), "w1": (hidden, hidden), "b1": (hidden,), "w2": (hidden, 2),
        "b2": (2,), "decays": (7,),
    }  # fmt: skip


def _first_theta(asked: MetaTraining, shapes: Mapping[str, tuple[int, ...]]) -> Tensor:
    """Truncated normal weights of std 1 / sqrt(inputs), biases and offsets of decays zero (2203.11860), and Adam.

    Random networks kill what they train within a few steps, and some meta-trainings stay there (measured: one of seven
    never learned, the others needed 50 to 250 outer steps). So d begins as momentum over the root of the second moment,
    which two units of each layer pass on; the others are random, and silent until they are trained. One unit cannot.
    """
    generator, values = generator_of(asked.seed, "theta"), {n: torch.zeros(shape) for n, shape in shapes.items()}
    for name, shape in shapes.items():
        if len(shape) == 2:
            std = shape[0] ** -0.5
            torch.nn.init.trunc_normal_(values[name], std=std, a=-2 * std, b=2 * std, generator=generator)
    if asked.hidden >= ADAM_TAKES:
        signs = torch.tensor([1.0, -1.0])
        values["w0"][:, :2], values["w1"][:, :2], values["w2"][:, 0] = 0.0, 0.0, 0.0
        values["w0"][asked.features.adam, :2], values["w1"][:2, :2], values["w2"][:2, 0] = signs, torch.eye(2), signs
    return torch.cat([value.flatten() for value in values.values()])


def _said_of(rule: Parametrization) -> dict[str, Any]:
    """What a card says of a parametrization. Raises InputError for one that there is no word for."""
    if isinstance(rule, AtBase):
        return {"rule": "mup", "width": rule.width, "zero_readout": rule.zero_readout}
    if isinstance(rule, Standard) and not rule.per_layer:
        return {"rule": "standard"}
    raise InputError(
        f"A learned optimizer is trained under AtBase(width=...), muP from a width of its own, or Standard(); the task "
        f"has {rule}."
    )
