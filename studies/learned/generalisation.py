"""Where learned optimizers hold: width, depth, horizon and task, beside AdamW, muAdam and Muon.

The question is a study: every rule is trained on the widths 16 to 64, the loss at the target's width is written down
with its interval before it is trained, and a verdict says which rule is better there. The rivals' rates are tuned at
the study's base rung; learned rules are tuned nowhere. `question` asks it of any cell (task, depth, steps) and any
rules: benchmarks/learned_generalisation.py does, with weights of its own and rivals that were also searched as long as
a meta-training takes. A newcomer would compare at the size of the meta-training: there they are best.

windtunnel run studies/learned/generalisation.py --store runs/generalisation
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import windtunnel as wt
from windtunnel.meta.rules import part_of
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.learned.weights import Weights, bundled
from windtunnel.parts.models import MLP, Transformer
from windtunnel.parts.objectives import CrossEntropy
from windtunnel.parts.optimizers import AdamW, Muon
from windtunnel.parts.schedules import Constant, Cosine
from windtunnel.recipe import Recipe
from windtunnel.scaling.rules.at_base import AtBase
from windtunnel.scaling.rules.standard import Standard

HOME, LADDER, HEAD = 32, (16, 24, 32, 48, 64), 8  # HOME: the width of the meta-training; HEAD: that of attention heads
MUP, PLAIN = AtBase(width=HOME, zero_readout=True), Standard()
FLAT, FALLING = Constant(warmup=0.0), Cosine(warmup=0.0, floor=0.0)
PATCH, CLASSES = 9, 10  # pixels a side, shades


@dataclass(frozen=True, kw_only=True)
class Task:
    """A model and its data: `examples` of a step, `judged` held-out tokens, the width of the `target`."""

    model: Any
    data: Any
    examples: int = 64
    judged: int
    target: int = 256

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.examples * self.data.shape().tokens_per_example


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a recipe's weights move."""

    optimizer: Any
    parametrization: Any
    schedule: Any = FALLING

    @classmethod
    def learned(cls, weights: Weights) -> "Rule":
        """Weights as they were trained: their width rule, and the schedule that was in the loop."""
        falling = weights.card.made["schedule"] == "cosine"
        schedule = FALLING if falling else FLAT
        return cls(optimizer=part_of(weights), parametrization=weights.parametrization(), schedule=schedule)


def digits() -> Task:
    """The task of the meta-training: scikit-learn's digits, perceptron, 64 images a step."""
    return Task(model=MLP(), data=wt.data.digits(), judged=359)


def photographs(folder: Path) -> Task:
    """The shade of a 9 x 9 patch's middle pixel, which is hidden, in ten equally frequent classes; scikit-learn's two
    photographs, whose patches do not overlap, go into a file in `folder`."""
    place = folder / "photographs.npz"
    if not place.exists():
        import numpy as np
        from sklearn.datasets import load_sample_images

        grey = [image.mean(axis=2) for image in load_sample_images().images]
        cut = [g[: len(g) // PATCH * PATCH, : g.shape[1] // PATCH * PATCH] for g in grey]
        tall = [g.reshape(len(g) // PATCH, PATCH, -1, PATCH).swapaxes(1, 2).reshape(-1, PATCH, PATCH) for g in cut]
        patches = np.concatenate(tall).round().astype(np.uint8)
        middle = patches[:, PATCH // 2, PATCH // 2].copy()
        edges = np.quantile(middle, np.arange(1, CLASSES) / CLASSES)
        patches[:, PATCH // 2, PATCH // 2] = 0
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(place, images=patches, labels=np.searchsorted(edges, middle, side="right"))
    return Task(model=MLP(), data=wt.data.images(str(place), held_out=0.2), judged=2048)


def text() -> Task:
    """Bytes of the standard library, a transformer, 8 windows of 32 a step; a wider target would take an hour."""
    return Task(model=Transformer(), data=wt.data.text(context=32), examples=8, judged=32_768, target=128)


def rung(task: Task, width: int, depth: int, steps: int) -> wt.Rung:
    """A size of a task's model, trained for so many steps."""
    heads = width // HEAD if isinstance(task.model, Transformer) else 1
    return wt.Rung(width=width, depth=depth, heads=heads, tokens=steps * task.tokens, batch=task.examples)


def recipe(task: Task, rule: Rule) -> Recipe:
    """A task trained by a rule."""
    return Recipe(
        model=task.model, parametrization=rule.parametrization, optimizer=rule.optimizer, schedule=rule.schedule,
        batch=FixedBatch(examples=task.examples), data=task.data, objective=CrossEntropy(),
    )  # fmt: skip


def question(
    name: str, task: Task, *, depth: int, steps: int, base: Rule, rules: Mapping[str, Rule], **more: Any
) -> wt.Study:
    """Which rule is best at the task's target, at this depth and for so many steps?"""
    return wt.Study(
        name=name,
        base=recipe(task, base),
        ideas=tuple(_idea(each, rule) for each, rule in rules.items()),
        ladder=wt.Ladder(rungs=tuple(rung(task, width, depth, steps) for width in LADDER), seeds=3),
        target=wt.Target(rung=rung(task, task.target, depth, steps)),
        judge=wt.Judge(data=task.data, tokens=task.judged, evaluations=1),
        train_target=True,
        target_seeds=4,
        **more,
    )


def _idea(name: str, rule: Rule) -> Any:
    def idea(base: Recipe) -> Recipe:
        return base.but(optimizer=rule.optimizer, parametrization=rule.parametrization, schedule=rule.schedule)

    idea.__name__, idea.__doc__ = name, f"{name.replace('_', ' ')} is better than AdamW at this size."
    return idea


ADAMW = Rule(optimizer=AdamW(lr=wt.tuned(2**-9, 2**-1), beta2=0.99), parametrization=PLAIN)
MUADAM = Rule(optimizer=AdamW(lr=wt.tuned(2**-9, 2**-1), beta2=0.99), parametrization=MUP)
MUON = Rule(optimizer=Muon(lr=wt.tuned(2**-9, 2**-1), others_lr=2**-5), parametrization=MUP)

study = question(
    "learned optimizers on digits", digits(), depth=2, steps=200, base=ADAMW,
    rules={
        "muadam": MUADAM, "muon": MUON, "mulo": Rule.learned(bundled("mulo-digits")),
        "no_width_rule": Rule.learned(bundled("small-fc-digits")),
    },
)  # fmt: skip
