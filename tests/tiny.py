"""Small real things that the tests of the making half share: a corpus, recipes, packs and a quick study.

Everything is a stock part or is written as a user would write it, at the top level of a module; nothing is mocked.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import zeros_like

import windtunnel as wt
from windtunnel.parts.batch import FixedBatch
from windtunnel.recipe import Judge, Recipe, tuned
from windtunnel.runs import Run, RunSpec
from windtunnel.train.loop import train
from windtunnel.train.pack import Pack

CONTEXT, BATCH, STEPS = 16, 4, 16
TOKENS = CONTEXT * BATCH * STEPS
RUNG = wt.Rung(width=8, depth=1, tokens=TOKENS, batch=BATCH)
CPU = torch.device("cpu")


def write_corpus(folder: Path, documents: int = 60, words: int = 300, seed: int = 0) -> Path:
    """Documents over a few words that follow one another with preference, so that there is something to learn."""
    draw = random.Random(seed)
    vocabulary = ["wind", "tunnel", "rung", "ladder", "loss", "width", "token", "law"]
    follows = {word: draw.sample(vocabulary, 3) for word in vocabulary}
    for number in range(documents):
        said = [draw.choice(vocabulary)]
        while len(said) < words:
            said.append(draw.choice(follows[said[-1]]))
        (folder / f"{number:03}.txt").write_text(f"{number} " + " ".join(said))
    return folder


def text(corpus: Path, **options: Any) -> Any:
    """The corpus as a data plan."""
    return wt.data.text(corpus, **{"context": CONTEXT, "validation": 0.2} | options)


def recipe(corpus: Path, **slots: Any) -> Recipe:
    """The stock transformer recipe on the corpus, four examples a step."""
    base = wt.recipes.transformer_mup_adamw(data=text(corpus))
    return base.but(**{"batch": FixedBatch(examples=BATCH)} | slots)


def judge(data: Any) -> Judge:
    """Two evaluations on a few held-out examples."""
    return Judge(data=data, tokens=8 * data.shape().tokens_per_example, evaluations=2)


def pack(
    recipe: Recipe,
    values: Sequence[dict[str, float]],
    *,
    rung: wt.Rung = RUNG,
    base: wt.Rung | None = None,
    seeds: Sequence[int] | None = None,
) -> Pack:
    """A pack with one member for each set of hyperparameters, seeds counting up unless given."""
    judged = judge(recipe.data)
    described = recipe.describe()
    specs = tuple(
        RunSpec(
            recipe=described,
            rung=rung,
            hyperparameters=member,
            seed=seed,
            judge=judged.describe(),
            base_rung=base or rung,
        )
        for member, seed in zip(values, seeds or range(len(values)), strict=True)
    )
    labels = tuple({"study": "test", "idea": "base", "stage": "ladder"} for _ in specs)
    return Pack(recipe=recipe, specs=specs, judge=judged, labels=labels)


def alone(whole: Pack, member: int, **options: Any) -> Run:
    """One member of a pack, trained by itself."""
    single = Pack(recipe=whole.recipe, specs=(whole.specs[member],), judge=whole.judge)
    return train(single, device=CPU, **options)[0]


def numbers(run: Run) -> dict[str, Any]:
    """All that a run's training decided, and nothing of when and where: two runs are the same if these are equal."""
    curve = {name: np.asarray(values).tolist() for name, values in run.curve.items()}
    return {"outcome": str(run.outcome), "loss": run.loss, "metrics": dict(run.metrics), "curve": curve}


@dataclass(frozen=True)
class SignMomentum:
    """The optimizer of the architecture page: a step along the sign of the running mean gradient."""

    lr: float = tuned(1e-3, 1e-1)
    beta: float = 0.95

    geometry = "entrywise"

    def init(self, param, site):
        return {"mean": zeros_like(param)}

    def update(self, grad, state, param, hp, site):
        mean = hp["beta"] * state["mean"] + (1 - hp["beta"]) * grad
        return -hp["lr"] * mean.sign(), {"mean": mean}


def sign_momentum(base: Recipe) -> Recipe:
    """Sign steps need fewer tokens than AdamW at equal compute."""
    return base.but(optimizer=SignMomentum())


def study(corpus: Path | str, **changes: Any) -> wt.Study:
    """Four rungs, one idea, two seeds and a target; about ten seconds of one core."""
    data = text(Path(corpus))
    asked: dict[str, Any] = {
        "name": "tiny",
        "base": recipe(Path(corpus)),
        "ideas": [sign_momentum],
        "ladder": wt.Ladder.widths((8, 12, 16, 24), depth=1, tokens=TOKENS, head_width=8, seeds=2),
        "target": wt.Target(rung=wt.Rung(width=48, depth=1, heads=6, tokens=TOKENS)),
        "tuning": wt.Tuning(points=3, seeds=1),
        "judge": judge(data),
        "train_target": True,
    }
    return wt.Study(**asked | changes)
