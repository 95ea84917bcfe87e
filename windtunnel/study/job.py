"""The main job: tune, train the ladder, write the forecasts, then (if asked) train the target and score.

Each round asks the stages what is missing and hands it to the launcher; killing the job anywhere loses at most the
seconds since the last checkpoint. The order is the point: a forecast is in the store before its target is asked for.
Given a budget, an estimate is said before anything is trained, and the launcher is wrapped in a meter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from windtunnel.errors import InputError
from windtunnel.forecasts import Forecast
from windtunnel.ladder import compact
from windtunnel.launch.one import NOT_THE_RUNS, spoken, where_it_failed
from windtunnel.store import Store
from windtunnel.study.answer import Result, answered, forecast_of, seal
from windtunnel.study.budget import Budget, Meter, Metered
from windtunnel.study.buying import bought, bought_words
from windtunnel.study.fits import lost_in
from windtunnel.study.plan import plan
from windtunnel.study.question import Study
from windtunnel.study.soundness import check
from windtunnel.study.stages import Ask, Stages
from windtunnel.train.loop import Progress
from windtunnel.train.memory import is_out_of_memory
from windtunnel.train.pack import Pack


class Watch(Protocol):
    """Who follows a job: told of stages, steps, finished packs and sentences."""

    def stage(self, name: str, packs: Sequence[Pack]) -> None: ...
    def progress(self, progress: Progress) -> None: ...
    def finished(self, pack: Pack) -> None: ...
    def say(self, sentence: str) -> None: ...


class Silent:
    """Follows a job without a word."""

    def stage(self, name: str, packs: Sequence[Pack]) -> None: ...
    def progress(self, progress: Progress) -> None: ...
    def finished(self, pack: Pack) -> None: ...
    def say(self, sentence: str) -> None: ...


def run(
    study: Study,
    store: Store,
    *,
    launcher: Any = None,
    watch: Watch | None = None,
    budget: Budget | None = None,
    precision: str = "float32",
) -> Result:
    """Train what the store misses and return the answer. Raises Paused when the budget is spent."""
    from windtunnel.launch.here import Here

    watch, launch = watch or Silent(), launcher or Here()
    if precision == "bfloat16" and isinstance(launch, Here):
        _say_if_slow(watch)
    stages = Stages(study, store, precision, launch)
    check(stages)
    if budget is not None:
        launch = _metered(study, store, launch, budget, watch, precision)
    _tune(stages, launch, watch)
    _climb(stages, launch, watch)
    _check_coordinates(stages, watch)
    foretold = [name for name in stages.recipes if _foretell(stages, name, watch)]
    if study.train_target:
        _train_target(stages, foretold, launch, watch)
    return answered(stages)


def _say_if_slow(watch: Watch) -> None:
    from windtunnel.launch.here import device_of
    from windtunnel.train.peak import bfloat16_gain

    if (device := device_of(0)).type != "cpu":  # every GPU of these years gains; its memory is the workers'
        return
    if (gain := bfloat16_gain(device)) < 1:
        watch.say(
            f"bfloat16: this device multiplies matrices in it at {gain:.2g} times the rate of float32, so it gains "
            f"nothing here"
        )


def _metered(study: Study, store: Store, launch: Any, budget: Budget, watch: Watch, precision: str) -> Metered:
    """The launcher within a budget, after a sentence on what the study will take. Raises Paused if it is spent."""
    from windtunnel.launch.here import Here

    meter = Meter(budget, study.name, store)
    devices, here = getattr(launch, "devices", None), isinstance(launch, Here)
    planned = plan(study, store, devices, measure=here, precision=precision, launcher=launch)
    left = planned.seconds if budget.seconds else planned.flops
    watch.say(
        f"estimate: {planned.missing} runs to train, {compact(planned.flops)}FLOPs, about {planned.minutes:.3g} "
        f"minutes on {planned.devices} device(s) ({planned.speed_source})"
    )
    short, about = ("not enough", "about") if study.half_width is None else ("perhaps not enough", "at most about")
    enough = "enough" if meter.recorded + left <= budget.amount else short
    watch.say(
        f"budget: {budget} in all, {budget.says(meter.recorded)} of it spent on finished runs; {about} "
        f"{budget.says(left)} for those that are missing, so it is {enough}"
    )
    return Metered(launch, meter)


def _tune(stages: Stages, launch: Any, watch: Watch) -> None:
    while True:
        asked = [ask for name in stages.recipes for ask in stages.tuning(name).asked]
        if not _train(stages, "tune", asked, launch, watch):
            break
    for name in stages.recipes:
        for field, basin in stages.tuning(name).basins.items():
            watch.say(f"{name}: best {field} at the base rung {basin.optimum}")


def _climb(stages: Stages, launch: Any, watch: Watch) -> None:
    soon = _ForecastSoon(stages, watch)
    while _train(stages, "ladder", _climbed(stages), launch, watch, soon):
        pass  # with a half-width, what was trained says what to buy next
    if said := bought_words(stages):
        watch.say(f"ladder: {said}")
    for name in stages.recipes:
        if lost := lost_in(stages.runs(stages.ladder(name, stages.tuning(name).values))):
            watch.say(f"{name}, ladder: {lost}")
        for transfer in stages.transfers(name, stages.tuning(name)).values():
            watch.say(f"{name}: {transfer}")


def _climbed(stages: Stages) -> list[Ask]:
    rungs = bought(stages).rungs
    return [ask for name in stages.recipes for ask in stages.climb(name, stages.tuning(name).values, rungs)]


def _foretell(stages: Stages, name: str, watch: Watch) -> bool:
    """Seal a recipe's forecast in the store; False if it cannot be made."""
    stored = seal(stages, name)
    if stored is None:
        watch.say(f"{name}: no forecast; {stages.unfitted.get(name, 'too few rungs have a finished run')}")
        return False
    watch.say(f"{name}: forecast for {stages.study.target} written {stored['created']}, hash {stored['hash'][:12]}")
    for line in str(Forecast.from_json(stored)).splitlines():
        watch.say(f"  {line}")
    return True


def _train_target(stages: Stages, foretold: Sequence[str], launch: Any, watch: Watch) -> None:
    asked = {name: stages.target(name, stages.tuning(name).values) for name in foretold}
    _train(stages, "target", [ask for asks in asked.values() for ask in asks], launch, watch)
    for name, asks in asked.items():
        if lost := lost_in(stages.runs(asks)):
            watch.say(f"{name}, target: {lost}")


def _train(
    stages: Stages,
    stage: str,
    asked: Sequence[Ask],
    launch: Any,
    watch: Watch,
    finished: Callable[[Pack], None] | None = None,
) -> bool:
    """Train the missing runs of a stage; False if there were none."""
    packs = stages.packs(asked)
    if not packs:
        return False
    watch.stage(stage, packs)

    def done(pack: Pack) -> None:
        watch.finished(pack)
        if finished is not None:
            finished(pack)

    launch(packs, stages.store, spoken(watch), done)
    left = stages.missing(asked)
    if left:
        raise InputError(f"The launcher returned but {len(left)} runs of stage {stage} were not recorded; run again.")
    return True


class _ForecastSoon:
    """After each pack of the ladder, what the forecast says so far."""

    def __init__(self, stages: Stages, watch: Watch) -> None:
        self.stages, self.watch = stages, watch

    def __call__(self, pack: Pack) -> None:
        name = pack.labels[0]["idea"]
        forecast = forecast_of(self.stages, name, draws=60)
        if forecast is not None:
            self.watch.say(f"{name}: forecast so far {forecast.loss}")


def _check_coordinates(stages: Stages, watch: Watch) -> None:
    from windtunnel.train.coordinates import coordinate_check

    for name, recipe in stages.recipes.items():
        ladder, state = stages.study.ladder, stages.tuning(name)
        key = stages.spec(name, ladder.base, state.values, 0).key
        if stages.store.check("coordinates", key) is not None:
            continue
        filled = recipe.fill(state.values)
        try:
            found = coordinate_check(
                filled, base=filled.settled(ladder.base), widths=(1, 2, 4), seed=stages.study.seeds(1)[0]
            )
        except Exception as error:  # in a part's code, as in the runs that crashed, or want of memory
            if isinstance(error, NOT_THE_RUNS) and not is_out_of_memory(error):
                raise
            watch.say(f"{name}: no coordinate check; {where_it_failed(error)}")
            continue
        stages.store.add_check("coordinates", key, found.to_json())
        watch.say(f"{name}: {found}")
