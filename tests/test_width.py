"""How wide packs are: what the launcher says, of what is asked, and the same again when part of it is done."""

from __future__ import annotations

import pytest
import tiny
import torch

import windtunnel as wt
from windtunnel.launch import here
from windtunnel.launch.here import Here
from windtunnel.launch.slurm import Slurm
from windtunnel.launch.width import A_CORE, SMALL, most_rows
from windtunnel.study.plan import plan
from windtunnel.study.speed import timed_here
from windtunnel.study.stages import Stages, _evenly


class Wide:
    """A launcher that takes any width, and notes how many runs it was told of."""

    def __init__(self, most: int) -> None:
        self.most, self.asked = most, list[int]()

    def pack_rows(self, asked: int, store: wt.Store, params: int) -> int:
        self.asked.append(asked)
        return self.most


@pytest.mark.parametrize("most", [1, 2, 5, 8])
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 17, 25, 26, 33, 57, 100])
def test_what_is_left_of_a_group_is_packed_as_it_was(rows, most):
    whole = _evenly([[row] for row in range(rows)], most)
    sizes = [len(chunk) for chunk in whole]
    assert max(sizes) <= most and max(sizes) - min(sizes) <= 1 and sum(sizes) == rows
    for done in range(len(whole)):
        left = [chunk for i, chunk in enumerate(whole) if i != done]
        assert not left or _evenly([row for chunk in left for row in chunk], most) == left


def test_a_gpu_has_an_even_share_of_what_is_asked_and_never_less_than_a_core():
    assert [most_rows(100, gpus) for gpus in (1, 2, 3, 64)] == [100, 50, 34, A_CORE]


def test_packs_are_as_wide_as_the_launcher_says_of_all_that_is_asked(corpus, tmp_path):
    study, store = tiny.study(corpus), wt.Store(tmp_path / "store")
    for most in (1, 2, 100):
        launcher = Wide(most)
        stages = Stages(study, store, launcher=launcher)
        asks = [ask for name in stages.recipes for ask in stages.ladder(name, {"lr": 0.01})]
        packs = stages.packs(asks)
        alike = {(ask.name, ask.spec.rung): 0 for ask in asks}
        for ask in asks:
            alike[ask.name, ask.spec.rung] += 1
        assert max(len(pack.specs) for pack in packs) == min(most, max(alike.values()))
        assert sorted(launcher.asked) == sorted(alike.values())
        launcher.asked.clear()
        stages.packs(asks[1:])  # of what is asked; a run that is there and a run that is not asked are two things
        stages.packs([asks[0]])
        assert sum(launcher.asked) == len(asks)


def test_runs_that_are_there_still_count_among_those_asked(corpus, tmp_path):
    study, store = tiny.study(corpus), wt.Store(tmp_path / "store")
    launcher = Wide(1)
    stages = Stages(study, store, launcher=launcher)
    asks = stages.ladder("base", {"lr": 0.01})
    at_base = [ask for ask in asks if ask.spec.rung == asks[0].spec.rung]
    assert len(at_base) > 1
    Here(devices=1)(stages.packs(at_base[:1]), store)
    launcher.asked.clear()
    (pack, *_) = Stages(study, store, launcher=launcher).packs(at_base)
    assert launcher.asked == [len(at_base)] and len(pack.specs) == 1


def test_a_launcher_that_says_nothing_has_packs_for_cpu_cores(corpus, tmp_path):
    def launcher(packs, store, report=None, finished=None): ...

    stages = Stages(tiny.study(corpus), wt.Store(tmp_path / "store"), launcher=launcher)
    assert stages.pack_rows(1000, 10**6) == A_CORE == Here().pack_rows(1000, stages.store, 10**6)


def test_small_models_are_packed_wider_on_cores_that_have_enough_of_them(tmp_path):
    store = wt.Store(tmp_path / "store")
    asked = (1, 16, 20, 32, 40, 1000)
    assert [Here(devices=2).pack_rows(count, store, SMALL - 1) for count in asked] == [8, 8, 10, 16, 16, 16]
    assert [Here(devices=2).pack_rows(count, store, SMALL) for count in asked] == [8] * 6


def test_this_machine_and_its_local_jobs_go_by_its_gpus_and_sbatch_by_what_it_is_asked_for(tmp_path, monkeypatch):
    store = wt.Store(tmp_path / "store")
    assert Slurm(settings={"partition": "learn"}).pack_rows(60, store, 10**6) == A_CORE
    assert Slurm(settings={"gpus_per_node": "1"}).pack_rows(60, store, 10**6) == 60
    assert Slurm(devices=4, settings={"gres": "gpu:1"}).pack_rows(60, store, 10**6) == 15
    monkeypatch.setattr(here, "device_of", lambda worker: torch.device("cuda", worker))
    monkeypatch.setattr(here, "default_devices", lambda: 2)
    assert Here().pack_rows(60, store, 10**6) == 30 == Slurm(settings={"cluster": "local"}).pack_rows(60, store, 10**6)
    assert Here(devices=1).pack_rows(60, store, 10**6) == 60


def test_a_plan_counts_the_memory_of_the_packs_that_will_be_trained(corpus, tmp_path):
    study, store = tiny.study(corpus), wt.Store(tmp_path / "store")
    narrow, wide = (plan(study, store, 1, launcher=Wide(most)) for most in (1, 100))
    assert wide.memory_bytes == max(16.0 * row.size.total * row.missing for row in wide.rows)
    assert narrow.memory_bytes == max(16.0 * row.size.total for row in narrow.rows)


def test_a_pack_that_is_too_wide_to_time_is_timed_by_half(corpus, tmp_path, monkeypatch):
    from windtunnel.study import speed

    tried, real = [], speed.timed

    def short_of_memory(pack, device):
        tried.append(len(pack.specs))
        if len(pack.specs) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return real(pack, device)

    monkeypatch.setattr(speed, "timed", short_of_memory)
    stages = Stages(tiny.study(corpus), wt.Store(tmp_path / "store"), launcher=Wide(100))
    rung = stages.recipes["base"].settled(stages.study.ladder.base)
    size = stages.study.size(stages.recipes["base"].fill(stages.tuning("base").values), rung)
    assert timed_here(stages)("base", rung, 12, 100, size) > 0
    assert tried == [12, 6, 3]
