"""A pack that was stopped goes on with the same bits; a damaged checkpoint is passed over; nothing stays behind."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import tiny
from torch import zeros_like

import windtunnel as wt
from windtunnel.launch import one
from windtunnel.launch.here import Here
from windtunnel.parts.models import GELU, Transformer
from windtunnel.parts.optimizers import SGD, Lion, Muon
from windtunnel.places import Local
from windtunnel.runs import Outcome
from windtunnel.train import checkpoint
from windtunnel.train.loop import train

VALUES = [{"lr": 1e-3}, {"lr": 1e-2}, {"lr": 3e-2}]


@dataclass(frozen=True)
class Turned:
    """A user's optimizer whose states, and moves, are transposed views: sums over them are in another order."""

    lr: float = wt.tuned(1e-3, 1e-1)

    geometry = "spectral"

    def init(self, param, site):
        return {"mean": zeros_like(param.T)}

    def update(self, grad, state, param, hp, site):
        mean = (0.9 * state["mean"].T + grad).T
        move = mean.T if mean.ndim < 2 else (mean @ (mean.T @ mean) / (1e-9 + mean.norm() ** 2)).T
        return -hp["lr"] * move, {"mean": mean}


class Stopped(Exception):
    """The power failed."""


def stop_at(step):
    def report(progress):
        if progress.step == step:
            raise Stopped

    return report


def stopped(pack, folder, *steps, **options):
    """Train with a checkpoint after every step, stopped at each of `steps`, and then to the end."""
    for step in steps:
        with pytest.raises(Stopped):
            train(pack, device=tiny.CPU, folder=folder, checkpoint_seconds=-1.0, report=stop_at(step), **options)
    return train(pack, device=tiny.CPU, folder=folder, checkpoint_seconds=-1.0, **options)


def assert_same_bits(pack, folder, *steps, **options):
    whole = train(pack, device=tiny.CPU, **options)
    again = stopped(pack, folder, *steps, **options)
    assert [tiny.numbers(run) for run in again] == [tiny.numbers(run) for run in whole]


@pytest.mark.parametrize(
    "slots",
    [
        {},
        {"optimizer": SGD(weight_decay=0.1)},
        {"optimizer": Lion()},
        {"optimizer": Muon(others_lr=0.01)},
        {"optimizer": Turned()},
        {"model": Transformer(gains=True, mlp=GELU, tied=True)},
    ],
)
def test_a_stopped_pack_goes_on_with_the_same_bits(corpus, tmp_path, slots):
    assert_same_bits(tiny.pack(tiny.recipe(corpus, **slots), VALUES), tmp_path, 3, 10)


@pytest.mark.parametrize("step", [1, 8, tiny.STEPS])
def test_it_does_not_matter_where_it_stopped(corpus, tmp_path, step):
    """8 is the step of a judgement, the last is between the last step and the record."""
    assert_same_bits(tiny.pack(tiny.recipe(corpus), VALUES), tmp_path, step)


def test_a_resumed_pack_trains_only_what_was_left(corpus, tmp_path):
    pack, steps = tiny.pack(tiny.recipe(corpus), VALUES), []
    with pytest.raises(Stopped):
        train(pack, device=tiny.CPU, folder=tmp_path, checkpoint_seconds=-1.0, report=stop_at(10))
    train(pack, device=tiny.CPU, folder=tmp_path, report=lambda progress: steps.append(progress.step))
    # the checkpoint of step 9 is the newest: the tenth was reported, and failed, before it was saved
    assert steps == list(range(10, tiny.STEPS + 1))


def test_a_pack_with_a_diverged_member_resumes_with_the_same_bits(corpus, tmp_path):
    pack = tiny.pack(tiny.recipe(corpus, optimizer=SGD()), [{"lr": 1e-3}, {"lr": 1e30}, {"lr": 1e-2}])
    whole, again = train(pack, device=tiny.CPU), stopped(pack, tmp_path, 12)
    assert [run.outcome for run in again] == [Outcome.FINISHED, Outcome.DIVERGED, Outcome.FINISHED]
    assert again[1].message == whole[1].message
    assert repr([tiny.numbers(run) for run in again]) == repr([tiny.numbers(run) for run in whole])  # nan is not nan


def test_a_run_trained_alone_resumes_with_the_same_bits(corpus, tmp_path):
    assert_same_bits(tiny.pack(tiny.recipe(corpus), VALUES[:1]), tmp_path, 6, packed=False)


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_newest_checkpoint_is_passed_over(corpus, tmp_path, name, damage):
    pack = tiny.pack(tiny.recipe(corpus), VALUES[:2])
    with pytest.raises(Stopped):
        train(pack, device=tiny.CPU, folder=tmp_path, checkpoint_seconds=-1.0, report=stop_at(9))
    newest = max(tmp_path.glob("step-*")) / name
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 0xFF
    newest.unlink()
    if damage != "gone":
        newest.write_bytes(bytes(data[: len(data) // 2]) if damage == "cut" else bytes(data))
    found = checkpoint.newest(tmp_path)
    assert found is not None and found[0]["step"] == 7
    again = train(pack, device=tiny.CPU, folder=tmp_path)
    assert [tiny.numbers(r) for r in again] == [tiny.numbers(r) for r in train(pack, device=tiny.CPU)]


def test_without_a_good_checkpoint_a_pack_begins_again(corpus, tmp_path):
    pack = tiny.pack(tiny.recipe(corpus), VALUES[:2])
    with pytest.raises(Stopped):
        train(pack, device=tiny.CPU, folder=tmp_path, checkpoint_seconds=-1.0, report=stop_at(9))
    for path in tmp_path.glob("*/state.safetensors"):
        path.write_bytes(b"")
    assert checkpoint.newest(tmp_path) is None
    again = train(pack, device=tiny.CPU, folder=tmp_path)
    assert [tiny.numbers(r) for r in again] == [tiny.numbers(r) for r in train(pack, device=tiny.CPU)]


def test_the_checkpoint_of_another_pack_is_not_taken(corpus, tmp_path):
    one_pack, other = (tiny.pack(tiny.recipe(corpus), VALUES[:2], seeds=seeds) for seeds in ((0, 1), (2, 3)))
    train(one_pack, device=tiny.CPU, folder=tmp_path, checkpoint_seconds=-1.0)
    found = train(other, device=tiny.CPU, folder=tmp_path)
    assert [tiny.numbers(r) for r in found] == [tiny.numbers(r) for r in train(other, device=tiny.CPU)]


def test_no_more_than_two_checkpoints_are_kept(corpus, tmp_path):
    counts = []
    train(
        tiny.pack(tiny.recipe(corpus), VALUES[:1]),
        device=tiny.CPU,
        folder=tmp_path,
        checkpoint_seconds=-1.0,
        report=lambda progress: counts.append(len(list(tmp_path.iterdir()))),
    )
    assert max(counts) == len(list(tmp_path.iterdir())) == 2


def test_checkpoints_hold_no_pickle(corpus, tmp_path):
    train(tiny.pack(tiny.recipe(corpus), VALUES[:1]), device=tiny.CPU, folder=tmp_path, checkpoint_seconds=-1.0)
    assert {path.name for path in tmp_path.glob("*/*")} == {"state.safetensors", "state.json"}


def test_checkpoints_are_removed_once_the_runs_are_recorded(corpus, tmp_path):
    store, pack = wt.Store(tmp_path / "store"), tiny.pack(tiny.recipe(corpus), VALUES[:2])
    seen = []
    one.execute(pack, store, device=tiny.CPU, report=lambda p: seen.append((store.path / "packs").is_dir()))
    assert len(list(store.keys())) == 2 and all(seen)
    assert list((store.path / "packs").iterdir()) == []


def test_checkpoints_left_by_a_death_after_recording_are_swept(corpus, tmp_path, monkeypatch):
    store, pack = wt.Store(tmp_path / "store"), tiny.pack(tiny.recipe(corpus), VALUES[:2])
    with monkeypatch.context() as patch:
        patch.setattr(Local, "remove", lambda *args, **options: None)  # dies before it can remove them
        patch.setitem(train.__kwdefaults__, "checkpoint_seconds", -1.0)
        one.execute(pack, store, device=tiny.CPU)
    assert list((store.path / "packs").glob("*/step-*"))
    Here(devices=1)([], store)
    assert list((store.path / "packs").iterdir()) == []


def test_a_pack_stopped_between_two_records_keeps_the_first_and_adds_the_second(corpus, tmp_path, monkeypatch):
    store, pack = wt.Store(tmp_path / "store"), tiny.pack(tiny.recipe(corpus), VALUES[:2])
    whole = train(pack, device=tiny.CPU)
    add, added = wt.Store.add, []

    def once(self, run):
        if added:
            raise Stopped
        added.append(run.key)
        return add(self, run)

    with monkeypatch.context() as patch:
        patch.setattr(wt.Store, "add", once)
        with pytest.raises(Stopped):
            one.execute(pack, store, device=tiny.CPU)
    assert list(store.keys()) == added
    one.execute(pack, store, device=tiny.CPU)
    assert [tiny.numbers(store.get(spec.key)) for spec in pack.specs] == [tiny.numbers(run) for run in whole]
