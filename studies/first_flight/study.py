"""First flight: foretell the loss of a byte-level transformer ten times dearer than any trained so far, then train it.

Real text on every machine: the running Python's own standard library. AdamW under muP is the base, Muon the idea. How
horizon, batch, depth and ladder were chosen, by measurement, is in README.md beside this file.
"""

import windtunnel as wt
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.optimizers import AdamW, Muon

CONTEXT, TOKENS = 64, 200_000
data = wt.data.text(context=CONTEXT)


def muon(base: wt.Recipe) -> wt.Recipe:
    """Orthogonalised momentum steps for hidden matrices reach AdamW's loss with less compute (Jordan 2024)."""
    return base.but(optimizer=Muon(lr=wt.tuned(2**-9, 2**-4), others_lr=0.014))


study = wt.Study(
    name="first flight",
    base=wt.recipes.transformer_mup_adamw(data=data).but(
        optimizer=AdamW(lr=wt.tuned(2**-9, 2**-4)), batch=FixedBatch(examples=4)
    ),
    ideas=[muon],
    ladder=wt.Ladder.widths((16, 24, 32, 40, 48), depth=2, head_width=8, tokens=TOKENS, seeds=3),
    target=wt.Target(rung=wt.Rung(width=176, depth=2, heads=22, tokens=TOKENS)),
    judge=wt.Judge(data=data, tokens=131_072, evaluations=1),
    tuning=wt.Tuning(points=5, seeds=2),
    train_target=True,
)
