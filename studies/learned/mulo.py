"""muLO from scratch on digits: meta-trained at width 32 in some minutes, then judged at other widths and horizons.

windtunnel run studies/learned/mulo.py --store runs/mulo
"""

import windtunnel as wt
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.models import MLP
from windtunnel.parts.objectives import CrossEntropy
from windtunnel.parts.optimizers import AdamW
from windtunnel.parts.schedules import Cosine
from windtunnel.recipe import Recipe
from windtunnel.scaling.rules.at_base import AtBase

WIDTH = 32
mup = AtBase(width=WIDTH, zero_readout=True)
falling = Cosine(warmup=0.0, floor=0.0)
recipe = Recipe(
    model=MLP(), parametrization=mup, optimizer=AdamW(lr=1.0), schedule=falling, batch=FixedBatch(examples=64),
    data=wt.data.digits(), objective=CrossEntropy(),
)  # fmt: skip
sizes = [wt.Rung(width=width, depth=2, heads=1, tokens=64, batch=64) for width in (WIDTH, 2 * WIDTH)]
digits = wt.meta.Task(name="digits", recipe=recipe, rung=sizes[0], base=sizes[1])

study = wt.meta.MetaTraining(
    tasks=(digits,),
    step_size=0.008,  # a quarter of tuned Adam's rate on this task
    outer_steps=1000,
    matrix=wt.meta.Matrix(tasks=(digits,), widths=(32, 128), depths=(2,), steps=(200, 1000)),
    beside={
        "Adam, tuned at width 32": wt.meta.Rule(
            optimizer=AdamW(lr=wt.tuned(0.002, 0.5), beta2=0.99), parametrization=mup, schedule=falling
        )
    },
)
