"""The gallery's ladder of ideas about labels and examples: digits of which a fifth is labelled wrong, perceptrons.

The judge's labels are right. A newcomer would try such ideas on clean labels, where there is nothing to gain.
"""

import windtunnel as wt
from studies.gallery.checks import DIGITS, perceptron
from windtunnel.ideas.data_diet import data_diet
from windtunnel.ideas.early_learning import early_learning
from windtunnel.ideas.hard_batches import hard_batches
from windtunnel.ideas.progressive_self_distillation import progressive_self_distillation
from windtunnel.ideas.self_tuning import self_tuning
from windtunnel.parts.data.altered import NoisyLabels

WRONG, PASSES, EXAMPLES = 0.2, 20, 1438

study = wt.Study(
    name="gallery of labels",
    base=perceptron(NoisyLabels(DIGITS, WRONG, seed=0)),
    ideas=[early_learning, progressive_self_distillation, data_diet, hard_batches, self_tuning],
    ladder=wt.Ladder.widths((16, 32, 64, 128), depth=2, tokens=PASSES * EXAMPLES, batch=32, seeds=3),
    target=wt.Target(rung=wt.Rung(width=512, depth=2, heads=32, tokens=PASSES * EXAMPLES, batch=32)),
    judge=wt.Judge(data=DIGITS, tokens=359, evaluations=1),
    tuning=wt.Tuning(points=5, seeds=2),
)
