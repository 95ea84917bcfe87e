"""Packs on a Ray cluster: a worker's death costs only time, and what goes wrong is said in one sentence.

One cluster of this machine serves all tests, since starting one takes seconds. That the bits are those of every other
launcher is in test_launch.py; a study with its head and its driver killed is benchmarks/kill_ray.py.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.launch.deaths import Deaths
from windtunnel.launch.ray import Ray
from windtunnel.parts.optimizers import AdamW

pytest.importorskip("ray", reason="needs pip install 'windtunnel[ray]'")
STEPS = 200


@dataclass(frozen=True)
class OftenSaved(AdamW):
    """Checkpoints at every tenth of a second, so that kills also land between checkpoints."""

    def init(self, param, site):
        from windtunnel.train import loop

        loop.train.__kwdefaults__["checkpoint_seconds"] = 0.1
        return AdamW.init(self, param, site)


@dataclass(frozen=True)
class Deadly(AdamW):
    """Kills whatever trains it, as the system does when memory runs out."""

    def update(self, grad, state, param, hp, site):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def launcher(tmp_path_factory, corpus):
    """A launcher whose cluster has trained a first pack; skips where Ray itself cannot start."""
    with pytest.MonkeyPatch.context() as patch, Ray() as ray:
        patch.delenv("RAY_ADDRESS", raising=False)
        try:
            ray(packs(corpus, seeds=((9,),), steps=1), wt.Store(tmp_path_factory.mktemp("first") / "store"))
        except InputError as error:
            if "could not start a cluster" in str(error) and not _ray_alone_starts():
                pytest.skip(f"Ray cannot start here: {error}")
            raise
        yield ray


def _ray_alone_starts() -> bool:
    plain = "import ray; ray.init(address='local', num_cpus=1)"
    return subprocess.run([sys.executable, "-c", plain], capture_output=True, timeout=120).returncode == 0


def packs(corpus, optimizer=None, seeds=((0, 1),), steps=STEPS):
    recipe = tiny.recipe(corpus, optimizer=optimizer or OftenSaved())
    rung = wt.Rung(width=8, depth=1, tokens=steps * tiny.CONTEXT * tiny.BATCH, batch=tiny.BATCH)
    return [tiny.pack(recipe, [{"lr": 0.01}] * len(some), seeds=some, rung=rung) for some in seeds]


def workers(launcher) -> list[int]:
    """Ray's worker processes that train for a launcher: what its driver has started, and that has started."""
    parents, names = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
    return [
        pid for pid, name in names.items() if name.startswith("ray::windtunnel") and _descends(pid, launcher, parents)
    ]


def _descends(pid: int, launcher, parents: dict[int, int]) -> bool:
    while pid in parents and pid != launcher._process.pid:
        pid = parents[pid]
    return pid == launcher._process.pid


def test_workers_killed_again_and_again_lose_nothing_and_change_no_bit(launcher, corpus, tmp_path):
    store, killed, finished = wt.Store(tmp_path / "store"), [], []
    (pack,) = packs(corpus)

    def kill_at_once(progress):
        if len(killed) < 3:
            for pid in workers(launcher)[:1]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    launcher([pack], store, kill_at_once, lambda pack: finished.append(pack.key))
    assert killed and finished == [pack.key]
    alone = [tiny.alone(pack, member) for member in range(len(pack.specs))]
    assert [tiny.numbers(store.get(run.key)) for run in alone] == [tiny.numbers(run) for run in alone]
    assert list((store.path / "packs").iterdir()) == []


def test_a_cluster_is_asked_for_its_gpus_before_packs_are_formed(launcher, tmp_path, monkeypatch):
    store = wt.Store(tmp_path / "store")
    assert (
        launcher.pack_rows(60, store, 10**6) == 8 and launcher._gpus == 0
    )  # it said so when it trained its first pack
    monkeypatch.setattr(launcher, "_gpus", 2)
    assert launcher.pack_rows(60, store, 10**6) == 30
    monkeypatch.setattr(launcher, "devices", 1)
    assert launcher.pack_rows(60, store, 10**6) == 60


def test_an_interrupt_cancels_the_tasks(launcher, corpus, tmp_path):
    def interrupt(progress):
        before.extend(workers(launcher))
        raise KeyboardInterrupt

    before: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        launcher(packs(corpus, steps=100_000), wt.Store(tmp_path / "store"), interrupt)
    assert before
    until = time.monotonic() + 30.0  # a process that was told to go takes its time on a busy machine
    while (left := [pid for pid in before if Path(f"/proc/{pid}").exists()]) and time.monotonic() < until:
        time.sleep(0.2)
    assert not left


@pytest.mark.slow
def test_a_pack_that_kills_every_worker_stops_the_study_with_one_sentence(launcher, corpus, tmp_path):
    """Five workers: buys that a pack too large for its machine ends a study instead of being tried for ever."""
    with pytest.raises(InputError, match=r"5 workers in a row died while training 1 runs at width 8.*run again"):
        launcher(packs(corpus, Deadly(), seeds=((0,),)), wt.Store(tmp_path / "store"))


@pytest.mark.slow
def test_an_address_where_no_cluster_answers_is_explained(corpus, tmp_path):
    """Ray's own patience: buys that a wrong RAY_ADDRESS is told from a cluster that was lost."""
    with pytest.raises(InputError, match=r"No Ray cluster answers at 127\.0\.0\.1:1 .*RAY_ADDRESS"):
        Ray(address="127.0.0.1:1")(packs(corpus), wt.Store(tmp_path / "store"))


def test_deaths_that_get_further_are_forgiven_and_five_in_a_row_that_do_not_are_not(tmp_path):
    deaths = Deaths(tmp_path)
    for step in range(20):
        (tmp_path / "packs" / "abc" / f"step-{step:09d}").mkdir(parents=True)
        assert deaths.again("abc")
    assert [deaths.again("abc") for _ in range(4)] == [True, True, True, False]
    assert [deaths.again("never saved") for _ in range(5)] == [True, True, True, True, False]


def test_without_ray_installed_the_line_that_installs_it_is_given(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs ray, which is not installed: pip install 'windtunnel\[ray\]'"):
        Ray()(packs(corpus), wt.Store(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
@pytest.mark.parametrize("width,members,batch", [(32, 2, 16), (64, 8, 64), (128, 8, 256)])
def test_the_estimate_of_a_packs_memory_is_neither_too_small_nor_wild(corpus, width, members, batch):
    """An interpreter for each, to know its peak: buys that packs are placed where they fit."""
    rung = wt.Rung(width=width, depth=2, tokens=2 * batch * tiny.CONTEXT, batch=batch)
    measure = MEASURE.format(corpus=str(corpus), tests=str(Path(__file__).parent), members=members, rung=rung)
    done = subprocess.run([sys.executable, "-c", measure], capture_output=True, text=True, check=True)
    peak, estimate = map(int, done.stdout.split()[-2:])
    assert peak <= estimate <= 3 * peak


MEASURE = """
import sys
sys.path.insert(0, {tests!r})
import tiny, torch
from pathlib import Path
from windtunnel import Rung
from windtunnel.train.memory import process_bytes
from windtunnel.train.loop import train
pack = tiny.pack(tiny.recipe(Path({corpus!r})), [dict(lr=0.01)] * {members}, rung={rung!r})
torch.set_num_threads(1)
estimate = process_bytes(pack)
train(pack, device=tiny.CPU)
status = Path('/proc/self/status').read_text()  # getrusage counts what the parent had before the exec
print(1024 * int(status.split('VmHWM:')[1].split()[0]), estimate)
"""
