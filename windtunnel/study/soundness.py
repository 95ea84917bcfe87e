"""What is refused of a study before anything is trained, and what must be said of its data beside every number.

Networks are built by shapes alone and a few examples are drawn, so that hours of training do not end at a rung that
cannot be built. A newcomer would let the runs tell; they do, after the tuning has been paid for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from windtunnel.errors import InputError
from windtunnel.ladder import Rung, compact
from windtunnel.parts.objectives import CrossEntropy
from windtunnel.recipe import Judge, Recipe
from windtunnel.train.data import check_examples, check_held_out, held_out_tokens
from windtunnel.train.judging import check_taken
from windtunnel.train.overlap import Known, drawn
from windtunnel.train.pack import check_builds
from windtunnel.train.rows import beyond
from windtunnel.train.stretches import stretches_of

if TYPE_CHECKING:
    from windtunnel.study.stages import Stages

MOST_BEYOND = 0.1  # share of its horizon that a run may train beyond it (guess: a few per cent of the loss's fall)


def check(stages: Stages) -> None:
    """Raise InputError for a recipe that cannot be trained at some rung, or at the target, for runs that cannot be
    judged, and for tuning on what judges."""
    study = stages.study
    check_held_out(stages.judge)
    if study.tuned_on is not None:
        check_held_out(study.tuning_judged_by())
        for recipe in study.tuned_recipes().values():
            _check_data(recipe)
        _check_tuned_on(stages.known, study.tuning_judged_by())
    target = [study.target.rung] if study.target.rung is not None else []
    rungs = [*study.ladder.rungs, *target]
    trained = rungs if study.train_target else study.ladder.rungs
    for name, recipe in stages.recipes.items():
        values = {field: tuned.low for field, tuned in recipe.tuned_fields().items()}
        filled = recipe.fill(values)
        try:
            _check_data(filled)
            _check_horizons(filled, trained)
            check_builds(filled, [filled.settled(rung) for rung in rungs], filled.settled(study.ladder.base))
            for rung in trained if recipe.phases is not None else ():
                stretches_of(stages.packed(stages.ladder(name, values, [rung])[:1]))
        except InputError as error:
            raise InputError(f"{name} cannot be trained everywhere. {error}") from error
        try:
            check_taken(filled, filled.settled(study.ladder.base), stages.judge)
        except InputError as error:
            raise InputError(f"{name} cannot be trained and judged. {error}") from error
    _ = stages.doubts  # reads data that would else be read first when all is trained


def doubts(recipes: Mapping[str, Recipe], known: Known) -> dict[str, tuple[str, ...]]:
    """By recipe, sentences on the data: fewer held out than the judge was told to use, or trained on as well."""
    few, seen = _lacking(known.judge), _seen(recipes, known)
    return {name: (*few, *seen.get(name, ())) for name in recipes}


def _lacking(judge: Judge) -> list[str]:
    """By default a judge takes all that are held out, and nothing is lacking."""
    if judge.tokens == Judge.tokens:
        return []
    there, name = held_out_tokens(judge), type(judge.data).__name__
    if there + judge.data.shape().tokens_per_example > judge.tokens:
        return []
    return [f"The judge asks for {judge.tokens:,} tokens, and {name} holds out {there:,}; those judge all runs."]


def _seen(recipes: Mapping[str, Recipe], known: Known) -> dict[str, list[str]]:
    held = known.judge.data.fingerprint()
    others = {name: recipe for name, recipe in recipes.items() if recipe.data.fingerprint() != held}
    seen = {name: known.overlap(drawn(recipe.data)) for name, recipe in others.items()}
    return {
        name: [
            f"{found.share:.0%} of the training examples of {name} are among those that judge all runs (by chance "
            f"{found.chance:.1%}): its loss there says little of examples that it has not seen."
        ]
        for name, found in seen.items()
        if found.leaked
    }


def _check_tuned_on(known: Known, tuning_judge: Judge) -> None:
    for examples in (drawn(tuning_judge.data), [Known(tuning_judge).held_out]):
        if (found := known.overlap(examples)).leaked:
            raise InputError(
                f"{found.share:.0%} of the examples of tuned_on are among those by which the study is judged (by "
                f"chance {found.chance:.1%}): values would be chosen on what they are judged by. Give other data, or "
                f"leave tuned_on out and have the verdict say so."
            )


def _check_data(recipe: Recipe) -> None:
    check_examples(recipe.data, own_targets=not isinstance(recipe.objective, CrossEntropy))


def beyond_horizon(recipe: Recipe, rung: Rung) -> float:
    """The share of a rung's tokens that a run goes beyond them with its last step; 0 for one in stretches."""
    step = _step_tokens(recipe, rung)
    return beyond(rung.tokens, step) if step and recipe.phases is None else 0.0


def _step_tokens(recipe: Recipe, rung: Rung) -> int:
    """Tokens of a step, 0 where no batch is settled."""
    return (recipe.settled(rung).batch or 0) * recipe.data.shape().tokens_per_example


def _check_horizons(recipe: Recipe, rungs: Sequence[Rung]) -> None:
    for rung in rungs:
        over = beyond_horizon(recipe, rung)
        if over > MOST_BEYOND:
            step = _step_tokens(recipe, rung)
            fewer = rung.tokens // step * step
            raise InputError(
                f"A step takes {compact(step)} tokens, and a run at {rung} has {compact(rung.tokens)}: with its last "
                f"step it would see {1 + over:.3g} times as many. Give a smaller batch, or tokens that it divides "
                f"({f'{fewer} or ' if fewer else ''}{fewer + step})."
            )
