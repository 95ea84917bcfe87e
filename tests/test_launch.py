"""Where a pack is trained changes nothing; a worker that dies loses nothing and says what happened."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny

import windtunnel as wt
from windtunnel.errors import InputError, Stopped
from windtunnel.launch.here import Here
from windtunnel.launch.one import execute
from windtunnel.parts.optimizers import AdamW
from windtunnel.runs import Outcome


@dataclass(frozen=True)
class HomeMade(AdamW):
    """An optimizer of this module, which a worker must import from here, and which prints what looks like an event."""

    def init(self, param, site):
        print('{"finished": "not an event"}')
        return AdamW.init(self, param, site)

    def update(self, grad, state, param, hp, site):
        step, state = AdamW.update(self, grad, state, param, hp, site)
        return 2 * step, state


@dataclass(frozen=True)
class Deadly(AdamW):
    """Kills the process that trains it, as the system does when memory runs out."""

    def update(self, grad, state, param, hp, site):
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Slow(AdamW):
    """Takes its time, so that a signal finds it at work."""

    def update(self, grad, state, param, hp, site):
        time.sleep(0.06)
        return AdamW.update(self, grad, state, param, hp, site)


@dataclass(frozen=True)
class Forgetful(AdamW):
    """Cannot be used, and says so as an InputError."""

    def init(self, param, site):
        raise InputError("Forgetful forgot its state; remind it.")


def packs(corpus, optimizer=None, seeds=((0, 1), (2, 3), (4,))):
    recipe = tiny.recipe(corpus, optimizer=optimizer or HomeMade())
    return [tiny.pack(recipe, [{"lr": 0.01}] * len(some), seeds=some) for some in seeds]


def launchers():
    """Every launcher, by a name: what holds for one must hold for all."""
    from windtunnel.launch.ray import Ray
    from windtunnel.launch.slurm import Slurm

    return {
        "here": Here(devices=1),
        "two workers": Here(devices=2),
        "ray": Ray(devices=2),
        "slurm": Slurm(devices=2, settings={"cluster": "local"}),
    }


@pytest.fixture(scope="module", params=["here", "two workers", "ray", "slurm"])
def trained(request, corpus, tmp_path_factory):
    """The store of the same packs trained by each launcher, and what was heard meanwhile."""
    if request.param in ("ray", "slurm"):
        pytest.importorskip({"ray": "ray", "slurm": "submitit"}[request.param])
    store, heard = wt.Store(tmp_path_factory.mktemp("launch") / "store"), Heard()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        try:
            launchers()[request.param](packs(corpus), store, heard.progress, heard.pack)
        except InputError as error:
            if "could not start a cluster" not in str(error):
                raise
            pytest.skip(f"Ray cannot start here: {error}")  # test_ray.py fails if Ray alone can
    return store, heard


@pytest.fixture(scope="module")
def alone(corpus):
    """The runs of the same packs, each trained by itself."""
    return [tiny.alone(pack, member) for pack in packs(corpus) for member in range(len(pack.specs))]


class Heard:
    """What a launcher said, and on which thread."""

    def __init__(self):
        self.finished, self.progressed, self.threads = [], [], set()

    def progress(self, progress):
        self.progressed.append(progress)
        self.threads.add(threading.current_thread())

    def pack(self, pack):
        self.finished.append(pack.key)
        self.threads.add(threading.current_thread())


def test_every_launcher_records_the_bits_of_a_run_trained_alone(trained, alone):
    store, _ = trained
    assert {run.key: tiny.numbers(run) for run in store.runs()} == {run.key: tiny.numbers(run) for run in alone}
    assert {run.outcome for run in alone} == {Outcome.FINISHED}


def test_a_part_of_the_callers_module_keeps_its_key_wherever_it_is_trained(corpus, trained):
    assert {spec.key for pack in packs(corpus) for spec in pack.specs} == set(trained[0].keys())
    assert all("class HomeMade" in run.source["test_launch.py"] for run in trained[0].runs())


def test_every_pack_is_heard_of_once_on_the_callers_thread(corpus, trained):
    _, heard = trained
    assert sorted(heard.finished) == sorted(pack.key for pack in packs(corpus))
    assert heard.threads == {threading.main_thread()}
    assert {p.pack for p in heard.progressed} <= set(heard.finished)


def test_a_run_says_on_what_it_was_trained(trained):
    assert {(run.cost.device, run.cost.threads) for run in trained[0].runs()} == {("cpu", 1)}


def test_nothing_is_left_behind(trained):
    store, _ = trained
    assert list((store.path / "packs").iterdir()) == []
    assert not list(store.path.rglob(".*"))


def test_runs_that_are_recorded_are_asked_of_no_cluster_again(corpus, trained, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    for launcher in launchers().values():
        launcher([], trained[0])


def children() -> set[str]:
    """Processes of this one, zombies too."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            if int(path.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(path.parent.name)
    return found


@pytest.fixture
def no_new_children():
    """No process, open pipe or thread outlives the test."""
    threads, before = set(threading.enumerate()), children()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
        gc.collect()  # a ResourceWarning in a destructor becomes pytest's PytestUnraisableExceptionWarning, an error
    for thread in set(threading.enumerate()) - threads:
        thread.join(5)
        assert not thread.is_alive()
    assert children() <= before


@pytest.mark.usefixtures("no_new_children")
def test_a_killed_worker_is_named_and_what_was_finished_is_kept(corpus, tmp_path):
    store = wt.Store(tmp_path / "store")
    good, deadly = packs(corpus, seeds=((0, 1),)), packs(corpus, Deadly(), seeds=((5,), (6,)))
    Here(devices=1)(good, store)
    said: list[str] = []
    with pytest.raises(
        InputError, match=r"killed by signal SIGKILL while training 1 runs.*3 times.*lack of memory.*run again"
    ):
        Here(devices=2)([*good, *deadly], store, lambda progress: said.extend(progress.said))
    assert sum("another goes on from the pack's last checkpoint" in sentence for sentence in said) >= 2
    assert set(store.keys()) == {spec.key for spec in good[0].specs}
    assert not list((store.path / "runs").glob(".*"))


@dataclass(frozen=True)
class DeadlyOnce(AdamW):
    """Kills the process that trains it at its first step, once: a file remembers."""

    mark: str = ""

    def update(self, grad, state, param, hp, site):
        if not Path(self.mark).exists():
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return AdamW.update(self, grad, state, param, hp, site)


@pytest.mark.usefixtures("no_new_children")
def test_a_worker_that_dies_once_is_replaced_and_the_runs_are_the_same(corpus, tmp_path):
    some, said = packs(corpus, DeadlyOnce(mark=str(tmp_path / "mark")), seeds=((0, 1), (2,))), []
    Here(devices=2)(some, wt.Store(tmp_path / "once"), lambda progress: said.extend(progress.said))
    Here(devices=1)(some, wt.Store(tmp_path / "never"))
    assert len(said) == 1 and "killed by signal SIGKILL" in said[0]
    once, never = (wt.Store(tmp_path / name).runs() for name in ("once", "never"))
    assert [tiny.numbers(run) for run in once] == [tiny.numbers(run) for run in never] and len(once) == 3


@pytest.mark.usefixtures("no_new_children")
def test_an_input_error_of_a_worker_comes_back_as_one(corpus, tmp_path):
    with pytest.raises(InputError, match="Forgetful forgot its state; remind it"):
        Here(devices=2)(packs(corpus, Forgetful(), seeds=((0,), (1,))), wt.Store(tmp_path / "store"))


@pytest.mark.usefixtures("no_new_children")
def test_an_interrupt_stops_the_workers(corpus, tmp_path):
    def interrupt(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Here(devices=2)(packs(corpus), wt.Store(tmp_path / "store"), interrupt)


@pytest.mark.usefixtures("no_new_children")
@pytest.mark.parametrize("devices", [1, 2])
def test_sigterm_checkpoints_what_is_in_flight_and_run_again_goes_on_with_the_same_bits(
    corpus, tmp_path, capfd, devices
):
    store, handler = wt.Store(tmp_path / "store"), signal.getsignal(signal.SIGTERM)
    some = packs(corpus, Slow(), seeds=((0,), (1,)))

    def ask_to_leave(progress):
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        Here(devices=devices)(some, store, ask_to_leave)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert capfd.readouterr().err == ""  # a worker that aborts on its way out is taken for dead, and replaced
    saved = {p.parent.name: int(p.name[-9:]) for p in (store.path / "packs").glob("*/step-*")}
    assert saved and all(0 < step < tiny.STEPS for step in saved.values())
    steps: list[tuple[str, int]] = []
    Here(devices=1)(some, store, lambda progress: steps.append((progress.pack, progress.step)))
    for pack in some:
        first = min(step for key, step in steps if key == pack.key)
        assert first == saved.get(pack.key, 0) + 1
        assert tiny.numbers(store.get(pack.specs[0].key)) == tiny.numbers(tiny.alone(pack, 0))


def test_no_packs_start_no_worker(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    Here(devices=2)([], wt.Store(tmp_path / "store"))


def test_a_worker_whose_study_is_gone_leaves_at_once():
    worker = subprocess.Popen(
        [sys.executable, "-m", "windtunnel.launch.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    out, _ = worker.communicate(timeout=60)  # closes the pipe
    assert worker.returncode == 0 and out == b""


def test_a_pack_that_another_process_is_training_is_waited_for_and_not_trained_twice(corpus, tmp_path):
    store, (pack,) = wt.Store(tmp_path / "store"), packs(corpus, seeds=((0,),))
    steps: list[int] = []
    other = threading.Thread(
        target=execute, args=(pack, store), kwargs={"device": tiny.CPU, "report": lambda p: steps.append(p.step)}
    )
    started = []

    def second(progress):
        steps.append(progress.step)
        if not started:  # the first step: start a rival for the same pack
            started.append(True)
            other.start()

    execute(pack, store, device=tiny.CPU, report=second)
    other.join(60)
    assert not other.is_alive()
    assert steps == list(range(1, tiny.STEPS + 1))


def test_recorded_runs_are_not_trained_again(corpus, tmp_path):
    store, steps = wt.Store(tmp_path / "store"), []
    some = packs(corpus, seeds=((0,),))
    Here(devices=1)(some, store)
    Here(devices=1)(some, store, lambda progress: steps.append(progress.step))
    assert steps == []
