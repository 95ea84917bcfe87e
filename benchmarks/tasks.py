"""B23 on tiny tasks: loss on answers to accuracy by a sigmoid, foretold at widths that were held out.

    python -m benchmarks.tasks train      # six widths of three seeds: half an hour of one core
    python -m benchmarks.tasks told       # writes benchmarks/results/tasks.json

Transformers of depth 2 on copying, sorting, closing brackets and adding, trained on answers, judged by the answers that
are right in every token. The two largest widths are foretold in two steps (width to answer loss by the laws, loss to
accuracy by the sigmoid) and, beside it, in one (a logistic curve in the logarithm of parameters). A newcomer would fit
the sigmoid to the judge's loss; prompts are chance and only add to it.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from scipy import optimize

import windtunnel as wt
from benchmarks.common import runs_of, train_or_tell, write
from windtunnel.laws import fit_task
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.data.tasks import KINDS
from windtunnel.parts.objectives import OnAnswers
from windtunnel.parts.optimizers import AdamW
from windtunnel.parts.probes import Answers
from windtunnel.recipe import Judge, Recipe
from windtunnel.runs import Run

STORE = os.environ.get("WINDTUNNEL_TASKS", "runs/tasks")
SEEDS, BATCH = (0, 1, 2), 32
SMALL, HELD_OUT = (8, 12, 16, 24), (32, 48)
STEPS = 2000
RATES = tuple(2.0**k for k in range(-9, -3))
TUNING_SEED = 900
DATA = wt.data.tasks()
TOKENS = STEPS * BATCH * DATA.shape().tokens_per_example
NAMES = ("", *(f"_{kind}" for kind in KINDS))
BAR = 0.03


def recipe() -> Recipe:
    """The stock transformer, graded on answers."""
    return wt.recipes.transformer_mup_adamw(data=DATA).but(
        optimizer=AdamW(lr=wt.tuned(1e-4, 1.0)), batch=FixedBatch(examples=BATCH), objective=OnAnswers()
    )


def rung(width: int) -> wt.Rung:
    """Two layers, heads 4 wide."""
    return wt.Rung(width=width, depth=2, heads=width // 4, tokens=TOKENS, batch=BATCH)


def runs(width: int, asked: list[tuple[float, int]], *, stored: bool = False) -> list[Run]:
    """Runs by learning rate and seed, trained if the store lacks them; with `stored`, only those that are there."""
    judge = Judge(data=DATA, tokens=2048 * DATA.shape().tokens_per_example, evaluations=1, probes=(Answers(),))
    return runs_of(STORE, recipe(), rung(width), judge, asked, base=rung(16), study="tasks", stored=stored)


def best_rate(*, stored: bool = False) -> float:
    """By answer loss, at width 16."""
    found = runs(16, [(lr, TUNING_SEED) for lr in RATES], stored=stored)
    return min((run.metrics.get("answer_loss", np.inf), run.spec.hyperparameters["lr"]) for run in found)[1]


def seeds(width: int, *, stored: bool = False) -> list[Run]:
    """Three seeds at the best rate."""
    lr = best_rate(stored=stored)
    return [run for run in runs(width, [(lr, seed) for seed in SEEDS], stored=stored) if run.finished]


def told() -> dict[str, Any]:
    """By kind of task: accuracy measured and foretold in two steps and in one, at each width held out."""
    small = [run for width in SMALL for run in seeds(width, stored=True)]
    found: dict[str, Any] = {"rate": best_rate(stored=True), "steps": STEPS, "runs fitted": len(small), "bar": BAR}
    for name in NAMES:
        found[name.strip("_") or "all kinds"] = of_kind(small, name)
    return found


def of_kind(small: list[Run], name: str) -> dict[str, Any]:
    """Errors of both ways at the widths held out, in accuracy."""
    losses, scores = (np.array([r.metrics[f"answer_{what}{name}"] for r in small]) for what in ("loss", "accuracy"))
    said: dict[str, Any] = {"accuracy of the small": [round(float(s), 3) for s in scores]}
    try:
        sigmoid = fit_task(losses, scores, 0.0)
        law = wt.fit(wt.Observations.from_runs(small, f"answer_loss{name}"))
    except wt.InputError as error:
        return said | {"refused": str(error)}
    params = np.array([run.size.params for run in small], float)
    direct = logistic(np.log(params), scores)
    for width in HELD_OUT:
        truth = seeds(width, stored=True)
        size = truth[0].size.params
        score = float(np.mean([r.metrics[f"answer_accuracy{name}"] for r in truth]))
        loss = law.forecast(wt.Target(params=size, tokens=TOKENS)).loss
        both, given = sigmoid.predict(loss), sigmoid(np.array([r.metrics[f"answer_loss{name}"] for r in truth]))
        two, one = both.median, float(direct(np.log(size)))
        said[f"width {width}"] = {
            "measured": score, "n": len(truth), "answer loss": float(np.mean([r.metrics[f"answer_loss{name}"]
            for r in truth])), "answer loss foretold": loss.to_json(), "from the measured loss": float(given.mean()),
            "in two steps": two, "interval": [both.low, both.high], "inside": both.low <= score <= both.high,
            "in one step": one, "error of the sigmoid": float(given.mean()) - score, "error in two": two - score,
            "error in one": one - score,
        }  # fmt: skip
    return said


def logistic(x: np.ndarray, y: np.ndarray) -> Any:
    """A logistic curve from 0 to 1, by least squares: what extrapolating accuracy itself would be."""
    centre = float(x.mean())

    def curve(theta: np.ndarray, at: Any) -> Any:
        return 1 / (1 + np.exp(-np.clip(theta[0] + theta[1] * (at - centre), -50, 50)))

    fitted = optimize.least_squares(lambda theta: curve(theta, x) - y, [0.0, 1.0])
    return lambda at: curve(fitted.x, at)


def main() -> None:
    """Train what the store lacks, or tell what it has."""
    if train_or_tell(__doc__) == "told":
        print(write("tasks", told()))
        return
    print(f"learning rate {best_rate():.3g}", flush=True)
    for width in (*SMALL, *HELD_OUT):
        for run in seeds(width):
            found = {name: round(value, 3) for name, value in run.metrics.items() if "answer" in name}
            print(f"width {width} seed {run.spec.seed}: {found}", flush=True)


if __name__ == "__main__":
    main()
