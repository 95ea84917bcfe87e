"""Packs as jobs of SLURM, tried with submitit's local jobs: there is no SLURM where this suite runs.

What is submitit's own (writing a script, reading sacct) is trusted; what is ours is that a job asked to leave has
checkpointed its pack before it is requeued, that a job which dies is replaced, that a study which died is joined again,
and that nothing is lost. The last needs commands with SLURM's names, which fake_slurm.py stands in for.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import fake_slurm
import pytest
import tiny

import windtunnel as wt
from windtunnel.errors import InputError, Stopped
from windtunnel.launch.slurm import Slurm, _worded
from windtunnel.parts.optimizers import AdamW

pytest.importorskip("submitit", reason="needs pip install 'windtunnel[slurm]'")
LOCAL = Slurm(devices=1, settings={"cluster": "local"})
STEPS = 100


@dataclass(frozen=True)
class Slow(AdamW):
    """Takes its time, so that a signal finds it at work; saved only when asked to, as 20 s do not pass."""

    def update(self, grad, state, param, hp, site):
        time.sleep(0.01)
        return AdamW.update(self, grad, state, param, hp, site)


@dataclass(frozen=True)
class Forgetful(AdamW):
    """Cannot be used, and says so as an InputError."""

    def init(self, param, site):
        raise InputError("Forgetful forgot its state; remind it.")


def pack(corpus, optimizer):
    rung = wt.Rung(width=8, depth=1, tokens=STEPS * tiny.CONTEXT * tiny.BATCH, batch=tiny.BATCH)
    return tiny.pack(tiny.recipe(corpus, optimizer=optimizer), [{"lr": 0.01}], rung=rung)


def tasks() -> list[int]:
    """Processes of submitit's local jobs that this process has started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):  # it ended meanwhile
            words = (entry / "cmdline").read_text().split("\0")
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            grandparent = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1]
            if "submitit.core._submit" in words and int(grandparent) == os.getpid():
                found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGUSR2, signal.SIGKILL])
def test_a_job_that_is_preempted_goes_on_and_one_that_is_killed_is_replaced(corpus, tmp_path, sent):
    """Four interpreters with torch: buys that submitit's own handler of signals meets ours as it does on a node."""
    store, asked = wt.Store(tmp_path / "store"), pack(corpus, Slow())
    signalled: list[int] = []

    def preempt(progress):
        if not signalled:
            signalled.append(progress.step)
            os.kill(tasks()[0], sent)

    LOCAL([asked], store, preempt)
    assert signalled and signalled[0] < STEPS
    assert tiny.numbers(store.get(asked.specs[0].key)) == tiny.numbers(tiny.alone(asked, 0))
    jobs = [folder.name for folder in (store.path / "logs/slurm").iterdir() if folder.name.isdigit()]
    said = "".join(file.read_text() for file in (store.path / "logs/slurm").glob("*/*_log.*"))
    if sent == signal.SIGUSR2:  # the same id, from a checkpoint made on demand
        assert len(jobs) == 1 and "Requeued job" in said
    else:
        assert len(jobs) == 2 and "Requeued job" not in said
    assert list((store.path / "packs").iterdir()) == []


@pytest.fixture
def state(tmp_path, monkeypatch):
    """What stands in for SLURM: a folder with a file for each of its jobs."""
    folder, commands = tmp_path / "slurm", tmp_path / "bin"
    folder.mkdir(), commands.mkdir()
    fake_slurm.install(commands)
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    return folder


def test_one_pack_is_a_plain_job_and_no_array_and_is_requeued_as_such(corpus, tmp_path, state):
    store, asked, preempted = wt.Store(tmp_path / "store"), pack(corpus, Slow()), []

    def preempt(progress):
        if not preempted:
            (file,) = state.glob("*.pid")
            preempted.append(file.stem)
            os.kill(int(file.read_text()), signal.SIGUSR2)

    Slurm()([asked], store, preempt)
    assert preempted[0].isdecimal() and (state / f"{preempted[0]}.requeued").exists()
    assert tiny.numbers(store.get(asked.specs[0].key)) == tiny.numbers(tiny.alone(asked, 0))


def test_jobs_outlive_their_study_are_requeued_under_their_id_and_joined_by_the_next(corpus, tmp_path, state):
    store, some = wt.Store(tmp_path / "store"), [pack(corpus, Slow()), pack(corpus, Slow(beta1=0.8))]

    with pytest.raises(Stopped):
        Slurm()(some, store, lambda progress: os.kill(os.getpid(), signal.SIGTERM))
    assert not list(store.keys()) and list((store.path / "logs/slurm/jobs").iterdir())
    preempted = next(state.glob("*_0.pid"))
    os.kill(int(preempted.read_text()), signal.SIGUSR2)
    finished: list[str] = []
    Slurm()(some, store, None, lambda pack: finished.append(pack.key))
    assert sorted(finished) == sorted(pack.key for pack in some)
    assert len((state / "submissions").read_text().splitlines()) == 1
    assert (state / f"{preempted.stem}.requeued").exists()
    for one in some:
        assert tiny.numbers(store.get(one.specs[0].key)) == tiny.numbers(tiny.alone(one, 0))


def test_a_preempted_pack_is_on_disk_before_its_job_is_requeued(corpus, tmp_path):
    from windtunnel.launch.errand import errands, told
    from windtunnel.launch.slurm_job import Job, _Training

    store, asked = wt.Store(tmp_path / "store"), pack(corpus, Slow())
    (sent,), at = errands([asked], store), store.packs() / asked.key  # made here, before the thread makes it too
    job = Job([], sent, str(tmp_path / "answer"))
    training = _Training(sent)
    while not told(store.path, asked.key):
        assert training.thread.is_alive(), training.answers
        time.sleep(0.02)
    again = job.checkpoint()  # what submitit's handler of the signal calls
    assert again.function is job
    assert training.answers == [{"stopped": True}]
    assert len(list(at.glob("step-*"))) == 1


def test_an_input_error_of_a_job_comes_back_as_one(corpus, tmp_path):
    with pytest.raises(InputError, match="Forgetful forgot its state; remind it"):
        LOCAL([pack(corpus, Forgetful())], wt.Store(tmp_path / "store"))


def test_an_interrupt_cancels_the_jobs(corpus, tmp_path):
    before: list[int] = []

    def interrupt(progress):
        before.extend(tasks())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LOCAL([pack(corpus, Slow())], wt.Store(tmp_path / "store"), interrupt)
    assert before
    deadline = time.monotonic() + 60
    while tasks() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not tasks()


def test_without_slurm_or_with_a_wrong_setting_one_sentence_says_what_to_do(corpus, tmp_path, monkeypatch):
    store = wt.Store(tmp_path / "store")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"`srun` was not found.*cluster=local"):
        Slurm()([pack(corpus, Slow())], store)
    for settings, says in (
        ({"cluster": "lokal"}, "it is slurm .the default. or local"),
        ({"cluster": "local", "nodes": "2"}, "one process on one node"),
        ({"cluster": "local", "time": "02:00:00"}, "time in minutes"),
        ({"cluster": "local", "partitoin": "learn"}, "Unknown argument 'partitoin'"),
    ):
        with pytest.raises(InputError, match=says):
            Slurm(settings=settings)([pack(corpus, Slow())], store)


def test_settings_reach_sbatch_under_its_own_names():
    assert _worded({"partition": "learn", "time": "90", "gpus_per_node": "1"}) == {
        "slurm_partition": "learn",
        "timeout_min": 90,
        "gpus_per_node": 1,
    }
