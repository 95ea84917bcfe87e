"""What single papers claim, each checked where it can be: wrong labels, few labels, half the data, collapsing features.

Each check returns lines for the table: what was measured, the figure with its interval, the bar, and whether it holds.
A threshold is the facts' proposal and is not moved; a miss is a line like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

import windtunnel as wt
from studies.gallery.arms import Difference, arm, paired, train
from windtunnel.ideas.data_diet import data_diet
from windtunnel.ideas.early_learning import early_learning
from windtunnel.ideas.progressive_self_distillation import progressive_self_distillation
from windtunnel.parts.data.altered import Drawn, NoisyLabels, Subset
from windtunnel.parts.objectives import CrossEntropy
from windtunnel.parts.optimizers import AdamW
from windtunnel.parts.probes import Calibration, NeuralCollapse
from windtunnel.recipe import Judge, Recipe
from windtunnel.runs import Run

SEEDS = (0, 1, 2, 3, 4)
RATES = (0.001, 0.003, 0.01, 0.03)
DIGITS = wt.data.digits()
JUDGE = Judge(data=DIGITS, tokens=359, evaluations=4, probes=(Calibration(), NeuralCollapse()))


@dataclass(frozen=True)
class Line:
    """One figure of a check. `holds` None: there is no bar, the figure is told."""

    idea: str
    claim: str
    measured: str
    value: Difference
    bar: str
    holds: bool | None


def perceptron(data) -> Recipe:
    """A perceptron on images, AdamW under muP."""
    base = wt.recipes.mlp_mup_sgd(data=data)
    return base.but(optimizer=AdamW(lr=wt.tuned(1e-4, 1e-1)))


def rung(examples: int, passes: int) -> wt.Rung:
    """Width 64, two layers, so many passes."""
    return wt.Rung(width=64, depth=2, tokens=examples * passes, batch=32)


def error(run: Run) -> float:
    """Share of held-out examples that are wrong."""
    return 1 - run.metrics["accuracy"]


def _points(one: Sequence[Run], other: Sequence[Run]) -> Difference:
    """Accuracy of an arm over another's, in points of a hundred."""
    return paired([100 * r.metrics["accuracy"] for r in one], [100 * r.metrics["accuracy"] for r in other])


def wrong_labels(store: wt.Store) -> list[Line]:
    """C11: 40 % of the labels wrong; plain cross-entropy memorises them, early-learning regularization does not."""
    noisy = perceptron(NoisyLabels(DIGITS, 0.4, seed=0))
    size, arms = rung(1438, 40), {}
    for name, recipe in (("plain", noisy), ("idea", early_learning(noisy))):
        arms[name] = arm(store, recipe, size, JUDGE, SEEDS, RATES, error)
    gain = _points(arms["idea"], arms["plain"])
    claim = "held-out accuracy with 40 % of the labels wrong, points over cross-entropy"
    return [Line("early_learning", early_learning.__doc__ or "", claim, gain, ">= 10", gain.low >= 10)]


def few_labels(store: wt.Store) -> list[Line]:
    """C28: 1,000 labels; against hard labels and against label smoothing."""
    base = perceptron(Subset(DIGITS, Drawn(1000)))
    size, lines, claim = rung(1000, 40), [], progressive_self_distillation.__doc__ or ""
    idea = arm(store, progressive_self_distillation(base), size, JUDGE, SEEDS, RATES, error)
    for name, objective in (("hard labels", CrossEntropy()), ("label smoothing 0.1", CrossEntropy(smoothing=0.1))):
        other = arm(store, base.but(objective=objective), size, JUDGE, SEEDS, RATES, error)
        points = _points(idea, other)
        found = [[r.metrics["calibration_error"] for r in runs] for runs in (idea, other)]
        share = paired([100 * a / mean(found[1]) for a in found[0]], [100 * b / mean(found[1]) for b in found[1]])
        who = "progressive_self_distillation"
        told = f"accuracy with 1,000 labels, points over {name}"
        lines.append(Line(who, claim, told, points, ">= 0.3", points.low >= 0.3))
        told = f"calibration error, % over that of {name}"
        lines.append(Line(who, claim, told, share, "<= -30", share.high <= -30))
    return lines


def half_the_data(store: wt.Store) -> list[Line]:
    """C46: the hardest half against all, and against a random half, at equal steps."""
    whole, size = perceptron(DIGITS), rung(1438, 30)
    arms = {
        "hard": data_diet(whole),
        "all": whole,
        "random": whole.but(data=Subset(DIGITS, Drawn(719))),
    }
    found = {name: arm(store, recipe, size, JUDGE, SEEDS, RATES, error) for name, recipe in arms.items()}
    claim, who, hard = data_diet.__doc__ or "", "data_diet", found["hard"]
    told = "accuracy on the hardest half, points over "
    whole_, random = _points(hard, found["all"]), _points(hard, found["random"])
    return [
        Line(who, claim, f"{told}all data", whole_, ">= -0.3", whole_.low >= -0.3),
        Line(who, claim, f"{told}a random half", random, ">= 0.5", random.low >= 0.5),
    ]


def collapse(store: wt.Store) -> list[Line]:
    """C40: within-class variability before the readout falls as training goes on, and with weight decay."""
    base, claim = perceptron(DIGITS), "Features of one class draw together towards the end of training."
    rates = [({"lr": 0.01}, seed) for seed in SEEDS]
    short, long = (train(store, base, rung(1438, passes), JUDGE, rates) for passes in (5, 80))
    decayed = base.but(optimizer=AdamW(lr=wt.tuned(1e-4, 1e-1), weight_decay=1.0))
    held = train(store, decayed, rung(1438, 80), JUDGE, rates)
    nc1 = {n: [r.metrics["within_class_variability"] for r in runs] for n, runs in
           (("short", short), ("long", long), ("decayed", held))}  # fmt: skip
    later = paired([100 * b / a for a, b in zip(nc1["short"], nc1["long"], strict=True)], [100.0] * len(SEEDS))
    decay = paired([100 * b / a for a, b in zip(nc1["long"], nc1["decayed"], strict=True)], [100.0] * len(SEEDS))
    return [
        Line("NeuralCollapse (probe)", claim, "within-class variability after 80 passes, % over that after 5", later,
             "< 0", later.high < 0),
        Line("NeuralCollapse (probe)", claim, "with weight decay 1, % over that without", decay, "< 0", decay.high < 0),
    ]  # fmt: skip


CHECKS: dict[str, Callable[[wt.Store], list[Line]]] = {
    "wrong labels": wrong_labels,
    "few labels": few_labels,
    "half the data": half_the_data,
    "collapse": collapse,
}
