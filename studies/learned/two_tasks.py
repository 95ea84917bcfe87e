"""A learned optimizer meta-trained on two tasks at once: digits in a perceptron, bytes of text in a transformer.

The gradients of both are averaged; the text is the running Python's standard library. A fifth of each task's training
examples is set aside, and the loss on it is the meta-loss.

windtunnel run studies/learned/two_tasks.py --store runs/two-tasks
"""

import windtunnel as wt
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.models import MLP, Transformer
from windtunnel.parts.objectives import CrossEntropy
from windtunnel.parts.optimizers import AdamW
from windtunnel.parts.schedules import Cosine
from windtunnel.recipe import Recipe
from windtunnel.scaling.rules.at_base import AtBase

WIDTH, CONTEXT = 32, 32
mup = AtBase(width=WIDTH, zero_readout=True)
falling = Cosine(warmup=0.0, floor=0.0)


def task(name: str, model: object, data: object, *, depth: int, examples: int) -> wt.meta.Task:
    """At width 32, so many examples a step."""
    recipe = Recipe(
        model=model, parametrization=mup, optimizer=AdamW(lr=1.0), schedule=falling,
        batch=FixedBatch(examples=examples), data=data, objective=CrossEntropy(),
    )  # fmt: skip
    tokens = examples * recipe.data.shape().tokens_per_example
    sizes = [wt.Rung(width=w, depth=depth, heads=w // 16, tokens=tokens, batch=examples) for w in (WIDTH, 2 * WIDTH)]
    return wt.meta.Task(name=name, recipe=recipe, rung=sizes[0], base=sizes[1])


digits = task("digits", MLP(), wt.data.digits(), depth=2, examples=64)
text = task("text", Transformer(), wt.data.text(context=CONTEXT, repeat=True), depth=1, examples=8)

study = wt.meta.MetaTraining(
    tasks=(digits, text),
    step_size=0.008,  # a quarter of tuned Adam's rate on digits
    outer_steps=1000,
    pairs=4,
    horizons=wt.meta.Horizons(low=100, high=500),
    validation=0.2,
    matrix=wt.meta.Matrix(tasks=(digits, text), widths=(32, 64), depths=(1,), steps=(200,)),
    beside={
        "Adam, tuned on digits": wt.meta.Rule(
            optimizer=AdamW(lr=wt.tuned(0.002, 0.5), beta2=0.99), parametrization=mup, schedule=falling
        )
    },
)
