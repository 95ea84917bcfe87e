"""A study that is stopped anywhere goes on with what is missing: no finished run takes another step."""

from __future__ import annotations

import random

import pytest
import tiny

import windtunnel as wt
from windtunnel.errors import Paused
from windtunnel.launch.here import Here
from windtunnel.launch.one import execute, sweep
from windtunnel.train.loop import train

VALUES = [{"lr": lr} for lr in (0.003, 0.01, 0.03)]


class Interrupt:
    """Notes which runs are trained, and interrupts after so many steps; None: never."""

    def __init__(self, after):
        self.after, self.steps, self.trained = after, 0, set()

    def stage(self, name, packs): ...
    def finished(self, pack): ...
    def say(self, sentence): ...

    def progress(self, progress):
        self.steps += 1
        if progress.step < progress.steps:  # after the last step nobody is alive
            self.trained |= set(progress.losses)
        if self.steps == self.after:
            raise KeyboardInterrupt


def test_members_that_are_recorded_take_no_step_and_change_no_other(corpus, tmp_path):
    pack, store = tiny.pack(tiny.recipe(corpus), VALUES), wt.Store(tmp_path / "store")
    truth = [tiny.alone(pack, member) for member in range(3)]
    store.add(truth[1])
    watch = Interrupt(None)
    execute(pack, store, device=tiny.CPU, report=watch.progress)
    assert watch.trained == {pack.specs[0].key, pack.specs[2].key}
    assert [tiny.numbers(store.get(run.key)) for run in truth] == [tiny.numbers(run) for run in truth]


@pytest.mark.parametrize("at", [1, 7, tiny.STEPS - 1])
def test_members_recorded_since_a_checkpoint_leave_it(corpus, tmp_path, at):
    pack, store = tiny.pack(tiny.recipe(corpus), VALUES), wt.Store(tmp_path / "store")
    truth = [tiny.alone(pack, member) for member in range(3)]
    store.packs()

    def paused(progress):
        if progress.step == at:
            raise Paused

    with pytest.raises(Paused):
        train(pack, device=tiny.CPU, folder=store.flight(pack.key), report=paused)
    store.add(truth[0])
    watch = Interrupt(None)
    execute(pack, store, device=tiny.CPU, report=watch.progress)
    assert watch.steps == tiny.STEPS - at and pack.specs[0].key not in watch.trained
    assert [tiny.numbers(store.get(run.key)) for run in truth] == [tiny.numbers(run) for run in truth]
    assert store.flight(pack.key).names() == []


def test_a_study_interrupted_again_and_again_redoes_no_finished_run(corpus, tmp_path, monkeypatch):
    monkeypatch.setitem(train.__kwdefaults__, "checkpoint_seconds", 0.0)
    ladder = wt.Ladder.widths((8, 12, 16), depth=1, tokens=tiny.TOKENS, head_width=8, seeds=2)
    study = tiny.study(corpus, ideas=[], train_target=False, ladder=ladder)
    draw, store, interrupts = random.Random(0), wt.Store(tmp_path / "store"), 0
    while True:
        recorded = set(store.keys())
        watch = Interrupt(draw.randint(1, 15))
        try:
            study.run(store, launcher=Here(devices=1), watch=watch)
        except KeyboardInterrupt:
            interrupts += 1
            assert not recorded & watch.trained
        else:
            assert not recorded & watch.trained
            break
    assert interrupts >= 3 and len(list(store.keys())) > 8


def test_a_pack_that_another_process_is_just_removing_is_left_to_it(tmp_path):
    store = wt.Store(tmp_path / "store")
    leaving = store.packs() / ".0fb4054b970adc26a87d.gone.18267.38474629074682"
    (leaving / "step-000000001").mkdir(parents=True)
    sweep(store)  # too young to be a dead process's
    assert leaving.is_dir()


@pytest.mark.slow
def test_a_killed_study_s_next_start_is_timed_to_its_first_step_and_redoes_nothing(corpus, tmp_path):
    """Four processes: buys that the counts of `benchmarks/restart.py` can be taken again."""
    from benchmarks.restart import torment

    counted = torment(tmp_path, kills=2, seed=0, tokens=64 * 40, corpus=str(corpus))
    assert counted["kills"] == 2 and counted["runs redone"] == 0 and counted["differences"] == []
    assert len(counted["recorded when killed"]) >= 2 and counted["seconds to the next step"]["median"] > 0
