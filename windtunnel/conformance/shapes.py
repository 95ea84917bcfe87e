"""What an idea's parts besides the optimizer give: whole batches, the examples asked for, a network of the size said.

Asked before anything is trained, so that a fault is not blamed on the part that meets it first.
"""

from __future__ import annotations

from windtunnel.conformance.finding import Trouble
from windtunnel.conformance.places import place_of
from windtunnel.conformance.remedies import OTHER_DATA
from windtunnel.conformance.subject import BATCH, CONTEXT, STEPS, WIDTH, Subject, at, rung_of
from windtunnel.errors import InputError
from windtunnel.ladder import Rung
from windtunnel.parts.objectives import CrossEntropy
from windtunnel.train.data import check_examples
from windtunnel.train.pack import check_builds

WIDTHS = (1, 2, 4)  # times the bench's: a formula that is right at one width may be wrong at others


def drawn_trouble(subject: Subject) -> Trouble | None:
    """What is wrong with the batch rule or the data plan, if anything."""
    recipe = subject.recipe
    rung = Rung(width=WIDTH, depth=1, tokens=STEPS * BATCH * CONTEXT)
    batch = recipe.batch(rung, recipe.data.shape())
    if not isinstance(batch, int) or batch < 1:
        return (
            f"the batch rule gives {batch!r} examples a step",
            place_of(recipe.batch),
            "Return a plain whole number of at least 1: max(1, round(...)).",
        )
    try:
        check_examples(recipe.data, own_targets=not isinstance(recipe.objective, CrossEntropy))
    except InputError as error:
        return (
            str(error),
            place_of(recipe.data.batch),
            "batch(seed=..., step=..., size=...) gives as many examples as asked, of the shape that shape() states.",
        )
    return None


def network_trouble(subject: Subject) -> Trouble | None:
    """What is wrong with the network or its size at some width, if anything."""
    recipe = subject.recipe.fill(at(subject.recipe, 0.5))
    base = rung_of(recipe, 1)
    rungs = [base.but(width=base.width * times, heads=base.heads * times) for times in WIDTHS]
    try:
        check_builds(recipe, rungs, base)
    except InputError as error:
        mend = "Mend the formula or the network; the laws are fitted to what size says."
        return (
            str(error),
            subject.network,
            f"{mend} {OTHER_DATA}" if subject.recipe.model != subject.base.model else mend,
        )
    return None
