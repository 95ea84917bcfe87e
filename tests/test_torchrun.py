"""One run over several processes is the run of one process; what it saves can be read by any number of them."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import spread
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import windtunnel as wt
from windtunnel.errors import InputError, Stopped
from windtunnel.launch.own_torchrun import WORD, Again, heard_of
from windtunnel.launch.torchrun import Torchrun, _serve
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.learned.small_fc import SmallFC
from windtunnel.parts.learned.weights import bundled
from windtunnel.parts.models import Own, Transformer
from windtunnel.parts.objectives import CrossEntropy
from windtunnel.parts.optimizers import LAMB, LARS, SGD, AdamAtan2, AdamW, Lion, Muon, Shampoo
from windtunnel.recipe import Site
from windtunnel.runs import Outcome, Run
from windtunnel.scaling.table import Scale
from windtunnel.train import sharded_checkpoint as checkpoint
from windtunnel.train.data import share
from windtunnel.train.pack import Group, groups_of, initial_params, stacked_hyperparameters, table_of
from windtunnel.train.ranks import Ranks, joined
from windtunnel.train.sharded import ShardedEngine, check_division, train_sharded
from windtunnel.train.sharded_checkpoint import Saver
from windtunnel.train.sharded_record import How
from windtunnel.train.sharded_update import acts_by_entry

RUNG = wt.Rung(width=16, depth=2, heads=2, tokens=8 * tiny.CONTEXT * tiny.BATCH, batch=tiny.BATCH)
BASE = wt.Rung(width=8, depth=1, heads=2, tokens=RUNG.tokens, batch=tiny.BATCH)
LEARNED = SmallFC(weights=bundled("mulo-digits"))
RESUMED = ("AdamW", "Shampoo", "SmallFC", "own loss")
STOPPED = 5  # steps after which a checkpoint is written, of 8


@dataclass(frozen=True, kw_only=True)
class Clipped(AdamW):
    """Says of itself what it inherits, entrywise, but its gradient is clipped by the norm of the whole tensor."""

    def update(self, grad, state, param, hp, site):
        return AdamW.update(self, grad / torch.linalg.vector_norm(grad), state, param, hp, site)


@dataclass(frozen=True, kw_only=True)
class Broken(AdamW):
    """An optimizer whose code is wrong."""

    def update(self, grad, state, param, hp, site):
        raise ArithmeticError("the author slept")


OPTIMIZERS = {
    "AdamW": AdamW(lr=0.01, weight_decay=0.1),
    "Muon": Muon(lr=0.02, others_lr=0.01),
    "Shampoo": Shampoo(lr=0.01, others_lr=0.01),
    "LARS": LARS(lr=0.02),
    "Clipped": Clipped(lr=0.01),
}


class Told:
    """As an answer of `transformers` has its logits."""

    def __init__(self, logits):
        self.logits = logits


class Layers(torch.nn.Module):
    """A network of one's own."""

    def __init__(self, width, depth, classes):
        super().__init__()
        self.table, self.head = torch.nn.Embedding(classes, width), torch.nn.Linear(width, classes, bias=False)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(depth))

    def forward(self, tokens):
        x = self.table(tokens)
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return Told(self.head(x))


def layers(rung, data):
    return Layers(rung.width, rung.depth, data.classes)


def one(corpus, optimizer=None, rung=RUNG, **slots):
    recipe = tiny.recipe(corpus, optimizer=optimizer or AdamW(lr=0.01), **slots)
    return tiny.pack(recipe, [{}], rung=rung, base=BASE)


@pytest.fixture(scope="module")
def asked(corpus):
    """The runs that two processes train, by what is looked at."""
    plain = one(corpus)
    tied = Transformer(tied=True, gains=True, norm=torch.nn.LayerNorm, kv_groups=2)
    return {name: one(corpus, optimizer) for name, optimizer in OPTIMIZERS.items()} | {
        "tied": one(corpus, model=tied),
        "five examples": one(corpus, rung=RUNG.but(batch=5), batch=FixedBatch(examples=5)),
        "diverging": one(corpus, SGD(lr=1e30)),
        "images": images(),
        "SmallFC": one(corpus, LEARNED, parametrization=LEARNED.parametrization),
        "own": one(corpus, model=Own(layers)),
        "own loss": replace(plain, judge=replace(plain.judge, loss=CrossEntropy(smoothing=0.1))),
    }


def images():
    """Convolutions and biases, and inputs that are no tokens."""
    rung = wt.Rung(width=8, depth=2, tokens=8 * 6, batch=6)
    recipe = wt.recipes.cnn_mup_adamw(data=wt.data.digits()).but(optimizer=AdamW(lr=0.01), batch=FixedBatch(examples=6))
    return tiny.pack(recipe, [{}], rung=rung, base=rung.but(width=4))


def in_two(ranks: Ranks, asked, folder, launched):
    """All that two processes do for these tests, in one go, for starting them takes longer."""
    found = {name: train_sharded(pack, ranks, How()) for name, pack in asked.items()}
    found["bfloat16"] = train_sharded(replace(asked["images"], precision="bfloat16"), ranks, How())
    found["in pieces"] = train_sharded(replace(asked["AdamW"], pieces=2), ranks, How())
    found["first values"] = first_values(ranks, asked["AdamW"])
    for name in RESUMED:
        stop(ranks, asked[name], folder / name)
        shutil.copytree(folder / name, folder / f"{name}-kept", dirs_exist_ok=True) if ranks.rank == 0 else None
        ranks.told()
        found[f"{name} resumed"] = train_sharded(asked[name], ranks, How(), folder=folder / name)
    found["left"] = left(ranks, asked["AdamW"], folder / "left")
    found["came back"] = train_sharded(asked["AdamW"], ranks, How(), folder=folder / "left")
    launch(ranks, launched, folder / "store")
    return found


def left(ranks: Ranks, pack, folder: Path) -> list[str]:
    """Checkpoints there are when the second process alone was asked to leave after some steps."""
    asked = iter([False] * (STOPPED - 1) + [ranks.rank == 1])
    with pytest.raises(Stopped):
        train_sharded(pack, ranks, How(), folder=folder, stop=lambda: next(asked))
    ranks.told()
    return [path.parent.name[:17] for path in folder.glob("sharded-*/manifest.json")]


def stop(ranks: Ranks, pack, folder: Path) -> None:
    """Train some steps, write a checkpoint, forget everything."""
    engine = ShardedEngine(pack, ranks, How())
    curves, saver = engine.resumed(None), Saver(folder, ranks, 0.0)
    for _ in range(STOPPED):
        engine.advance(curves)
    saver.start(curves.step, engine.update.tensors(), engine.facts(curves))
    engine.advance(curves)  # while it is written
    saver.finish()


def first_values(ranks: Ranks, pack):
    engine = ShardedEngine(pack, ranks, How())
    return {name: param.full_tensor().tolist() for name, param in engine.model.named_parameters()}


def launch(ranks: Ranks, packs, store: Path) -> None:
    if ranks.rank:
        return _serve(ranks)
    launcher = Torchrun(ranks=ranks)
    launcher(packs, wt.Store(store))
    launcher._say("stop")


def resume(ranks: Ranks, asked, folder: Path):
    """The checkpoints of two processes, read by these."""
    return {name: train_sharded(asked[name], ranks, How(), folder=folder / f"{name}-kept") for name in RESUMED}


@pytest.fixture(scope="module")
def to_launch(corpus):
    """Packs as a study asks for them: two small ones, a target of two seeds, and a target that cannot be trained."""
    small = [replace(p, labels=({"study": "s", "idea": "base", "stage": "ladder"},)) for p in
             (one(corpus, AdamW(lr=0.02)), one(corpus, AdamW(lr=0.03)))]  # fmt: skip
    seeds = tiny.pack(tiny.recipe(corpus, optimizer=AdamW(lr=0.04)), [{}, {}], rung=RUNG, base=BASE)
    targets = [replace(p, labels=({"study": "s", "idea": "base", "stage": "target"},) * len(p.specs)) for p in
               (seeds, one(corpus, Broken(lr=0.01)))]  # fmt: skip
    return [*small, *targets]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("spread")


@pytest.fixture(scope="module")
def two(asked, folder, to_launch):
    """What each of two processes found."""
    return spread.over(2, in_two, folder, asked, folder, to_launch)


@pytest.fixture(scope="module")
def alone(asked):
    """The same runs trained by the engine, in this process."""
    torch.set_num_threads(1)
    return {name: tiny.alone(pack, 0) for name, pack in asked.items()}


def same(run: Run, other: Run, tolerance: float = 1e-5) -> None:
    """Everything that training decided, numbers to a relative tolerance."""
    assert (run.key, run.outcome, run.message, run.size) == (other.key, other.outcome, other.message, other.size)
    assert set(run.curve) == set(other.curve)
    for name, values in run.curve.items():
        np.testing.assert_allclose(values, other.curve[name], rtol=tolerance, err_msg=name)
    assert run.metrics == pytest.approx(other.metrics, abs=2e-2)  # a near tie may fall the other way


@pytest.mark.parametrize(
    "name", [*OPTIMIZERS, "tied", "five examples", "diverging", "images", "SmallFC", "own", "own loss"]
)
def test_two_processes_train_what_one_does(name, two, alone):
    same(two[0][name], alone[name])


def test_every_process_knows_the_same_run(two):
    assert tiny.numbers(two[0]["AdamW"]) == tiny.numbers(two[1]["AdamW"])


def test_a_share_taken_in_pieces_is_the_same_step(two, alone):
    same(two[0]["in pieces"], alone["AdamW"])


def test_bfloat16_is_close_and_the_record_says_it(two, alone):
    run = two[0]["bfloat16"]
    assert (run.cost.precision, two[0]["images"].cost.precision) == ("bfloat16", "float32")
    assert run.curve["train_loss"].tolist() != alone["images"].curve["train_loss"].tolist()
    assert run.loss == pytest.approx(alone["images"].loss, rel=0.02)  # 8 bits: a rounding of 0.4 % a product


def test_first_values_are_the_engines_to_the_bit(two, asked):
    pack = asked["AdamW"]
    groups = groups_of(table_of(pack.recipe, RUNG, BASE))
    drawn = initial_params(groups, [pack.specs[0].seed], tiny.CPU)
    whole = {
        n: t.tolist() for g, stack in zip(groups, drawn, strict=True) for n, t in zip(g.names, stack[0], strict=True)
    }
    assert two[0]["first values"] == whole


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_has_the_bits_of_one_that_was_not_stopped(name, two):
    assert tiny.numbers(two[0][f"{name} resumed"]) == tiny.numbers(two[0][name])


def test_one_process_that_is_asked_to_leave_takes_all_with_it_after_a_checkpoint(two):
    assert two[0]["left"] == [f"sharded-{STOPPED:09d}"]
    assert tiny.numbers(two[0]["came back"]) == tiny.numbers(two[0]["AdamW"])


@pytest.mark.parametrize("world", [1, 4])
def test_a_checkpoint_of_two_processes_is_read_by_another_number(world, two, asked, folder, tmp_path):
    there = tmp_path / "copy"
    shutil.copytree(folder, there, ignore=shutil.ignore_patterns("store", "gave-*"))
    for name, run in spread.over(world, resume, tmp_path, asked, there)[0].items():
        same(run, two[0][name])
        assert list(run.curve["train_loss"][:STOPPED]) == list(two[0][name].curve["train_loss"][:STOPPED])


def test_the_launcher_records_small_packs_whole_targets_and_crashes(two, to_launch, folder):
    store = wt.Store(folder / "store")
    small, other, target, broken = to_launch
    assert set(store.keys()) == {spec.key for pack in to_launch for spec in pack.specs}
    for pack in (small, other):
        assert tiny.numbers(store.get(pack.specs[0].key)) == tiny.numbers(tiny.alone(pack, 0))
        assert store.get(pack.specs[0].key).cost.processes == 1
    for i, spec in enumerate(target.specs):
        run = store.get(spec.key)
        same(run, tiny.alone(target, i))
        assert run.cost.processes == 2 and run.cost.flops_per_second > 0 and 0 < (run.cost.utilization or 0) < 1
        assert run.labels["stage"] == "target"
    crashed = store.get(broken.specs[0].key)
    assert crashed.outcome is Outcome.CRASHED and "the author slept" in crashed.message
    assert not list((store.path / "packs").glob("*/")), "checkpoints of recorded runs are gone"


@pytest.mark.parametrize("optimizer", [AdamW(lr=0.1), SGD(lr=0.1), Lion(lr=0.1), AdamAtan2(lr=0.1)])
@pytest.mark.parametrize("role", ["hidden", "bias"])
def test_entrywise_optimizers_are_found_to_be_so(optimizer, role):
    assert _by_entry(optimizer, role)


@pytest.mark.parametrize(
    "optimizer", [Muon(lr=1.0, others_lr=1.0), Shampoo(lr=1.0, others_lr=1.0), LAMB(lr=1.0), LARS(lr=1.0)]
)
def test_optimizers_of_whole_matrices_are_found_to_be_so_and_of_vectors_not(optimizer):
    assert not _by_entry(optimizer, "hidden") and _by_entry(optimizer, "bias")


def test_a_rule_that_calls_itself_entrywise_is_not_believed():
    assert not _by_entry(Clipped(lr=0.1), "hidden") and not _by_entry(Clipped(lr=0.1), "bias")


def _by_entry(optimizer, role):
    shape = (6, 4) if role == "hidden" else (6,)
    site = Site(role=role, shape=shape, fan_in=shape[-1], fan_out=6)
    hp = stacked_hyperparameters([Group(site, Scale(init_std=1.0), ("w",))], [optimizer], tiny.CPU)[0]
    return acts_by_entry(optimizer, site, {name: value[0] for name, value in hp.items()})


@pytest.mark.parametrize("count,world", [(4, 2), (5, 2), (7, 3), (4, 4), (3, 4)])
def test_shares_are_the_whole_in_order_and_at_most_one_apart(count, world):
    taken = [list(range(count))[share(count, rank, world)] for rank in range(world)]
    assert [i for some in taken for i in some] == list(range(count))
    assert max(map(len, taken)) - min(map(len, taken)) <= 1


def test_a_batch_that_leaves_a_process_without_an_example_is_refused():
    with pytest.raises(InputError, match="batch of 3 examples cannot be divided over 4 processes"):
        check_division(3, 4, 1)
    with pytest.raises(InputError, match="cannot be taken in 3 pieces; each process has 2"):
        check_division(4, 2, 3)


def test_outside_torchrun_one_is_told_how_to_start(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match="torchrun --nproc-per-node"), joined():
        pass


def test_a_target_of_several_seeds_is_trained_run_by_run(to_launch):
    large = to_launch[2]
    assert [large.part([i]).specs for i in range(len(large.specs))] == [(spec,) for spec in large.specs]


# checkpoints as files


def sealed(folder: Path, number: int, **changes) -> Path:
    """A whole checkpoint of `number` steps, but for some facts."""
    path = folder / f"sharded-{number:09d}-abcd1234"
    path.mkdir(parents=True)
    (path / "shard-00001-model-00001-of-00001.safetensors").write_bytes(os.urandom(256))
    facts = {"member": "m", "world": 2, "step": number, "seconds": 1.0, "created": "", "judged": []}
    checkpoint.seal(path, facts | {"train_loss": [1.0] * number} | changes)
    return path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage,said",
    [
        (lambda path: flip(next(path.glob("*.safetensors"))), "SHA-256 of shard-00001"),
        (lambda path: next(path.glob("*.safetensors")).unlink(), "files are missing"),
        (lambda path: (path / ".metadata").write_bytes(b"x"), "do not belong to it"),
        (lambda path: (path / "manifest.json").write_text("{"), "damaged"),
        (lambda path: (path / "manifest.json").write_text("[]"), "damaged"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(damage, said, tmp_path):
    older, newer = sealed(tmp_path, 3), sealed(tmp_path, 4)
    damage(newer)
    with pytest.warns(UserWarning, match=said) as heard:
        found = checkpoint.newest(tmp_path, "m")
    assert found is not None and found[0] == older
    assert str(newer) in str(heard[0].message)


@pytest.mark.parametrize(
    "changes", [{"train_loss": [1.0]}, {"train_loss": [float("nan")] * 3}, {"member": "other"}, {"judged": [[1]]}]
)
def test_facts_that_do_not_fit_are_not_used(changes, tmp_path):
    sealed(tmp_path, 3, **changes)
    with pytest.warns(UserWarning, match="was skipped"):
        assert checkpoint.newest(tmp_path, "m") is None


def test_a_folder_without_a_manifest_was_interrupted_and_is_passed_over(tmp_path):
    older, newer = sealed(tmp_path, 3), sealed(tmp_path, 4)
    (newer / checkpoint.MANIFEST).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = checkpoint.newest(tmp_path, "m")
    assert found is not None and found[0] == older


class Hostile:
    """Its pickle makes a folder when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_a_hostile_index_is_never_unpickled(two, asked, folder, tmp_path, monkeypatch):
    mark, there = tmp_path / "it-ran", tmp_path / "AdamW-kept"
    shutil.copytree(folder / "AdamW-kept", there)
    (step,) = there.glob("sharded-*")
    facts = json.loads((step / checkpoint.MANIFEST).read_text())
    (step / ".metadata").write_bytes(pickle.dumps(Hostile(mark)))
    (step / checkpoint.MANIFEST).unlink()
    checkpoint.seal(step, {name: value for name, value in facts.items() if name != "files"})  # by one who knows how
    run = spread.over(1, resume_one, tmp_path, asked["AdamW"], there)[0]
    same(run, two[0]["AdamW"])
    assert list(there.glob("sharded-*/.metadata")) and not mark.exists()


def test_a_disk_that_is_full_costs_the_checkpoint_and_not_the_run(two, asked, tmp_path):
    run, warned = spread.over(1, with_a_full_disk, tmp_path, asked["AdamW"], tmp_path / "pack")[0]
    same(run, two[0]["AdamW"])
    assert warned and all("was not written" in text and "training goes on" in text for text in warned)
    assert list((tmp_path / "pack").iterdir()) == []


def with_a_full_disk(ranks: Ranks, pack, folder: Path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # bytes a file may have: the error of a full disk
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            run = train_sharded(pack, ranks, How(checkpoint_seconds=0.0), folder=folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return run, [str(w.message) for w in heard if "checkpoint" in str(w.message)]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    facts=st.dictionaries(st.sampled_from(["member", "step", "seconds", "created", "train_loss", "judged"]), anything)
)
def test_no_manifest_stops_the_reader(facts, tmp_path):
    shutil.rmtree(tmp_path / "pack", ignore_errors=True)
    sealed(tmp_path / "pack", 2, **facts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = checkpoint.newest(tmp_path / "pack", "m")
    assert found is None or len(found[1]["train_loss"]) == found[1]["step"]


@pytest.mark.parametrize("text", ["", "[" * 100_000, '{"files": {"../x": 1}}', '{"files": null}', "1e999", "\x00"])
def test_no_text_in_place_of_a_manifest_stops_the_reader(text, tmp_path):
    (sealed(tmp_path, 2) / checkpoint.MANIFEST).write_text(text)
    with pytest.warns(UserWarning, match="was skipped"):
        assert checkpoint.newest(tmp_path, "m") is None


def resume_one(ranks: Ranks, pack, folder: Path):
    return train_sharded(pack, ranks, How(checkpoint_seconds=1e9), folder=folder)


# under torchrun itself

HUNGRY = '''\
import os
import torch
import windtunnel as wt
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.optimizers import AdamW


def hungry(model):
    """Memory for one example at a time, on the second of several processes."""

    def look(module, inputs):
        spread = type(module).__name__.startswith("FSDP") and os.environ.get("RANK") == "1"
        if spread and module.training and len(inputs[0]) > 1:
            raise torch.OutOfMemoryError("no room")

    model.register_forward_pre_hook(look)
    return model


data = wt.data.text({corpus!r}, context=16, validation=0.2)
study = wt.Study(
    name="hungry",
    base=wt.recipes.transformer_mup_adamw(data=data).but(
        batch=FixedBatch(examples=4), optimizer=AdamW(lr=0.01), transforms=(hungry,)
    ),
    ladder=wt.Ladder.widths((8, 12, 16), depth=1, tokens=512, head_width=8, seeds=1),
    target=wt.Target(rung=wt.Rung(width=32, depth=1, heads=4, tokens=512)),
    judge=wt.Judge(data=data, tokens=256, evaluations=2),
    train_target=True,
)
'''


@pytest.mark.slow
def test_memory_that_runs_out_on_one_process_halves_the_pieces_and_changes_no_number(corpus, tmp_path, capsys):
    """Starts torchrun, which starts all again: buys that the command of the docs works, and survives what it must."""
    from windtunnel.cli import main

    file = tmp_path / "hungry_study.py"
    file.write_text(HUNGRY.format(corpus=str(corpus)))
    spread_store, here = str(tmp_path / "spread"), str(tmp_path / "here")
    assert main(["run", str(file), "--on", "torchrun", "--devices", "2", "--store", spread_store]) in (0, 3)
    assert "truth" in capsys.readouterr().out
    assert main(["run", str(file), "--devices", "1", "--store", here]) in (0, 3)
    runs = {run.key: run for run in wt.Store(spread_store).runs()}
    assert runs and set(runs) == set(wt.Store(here).keys())
    for run in wt.Store(here).runs():
        if run.labels["stage"] == "target":
            same(runs[run.key], run)
            assert runs[run.key].cost.processes == 2
        else:
            assert tiny.numbers(runs[run.key]) == tiny.numbers(run)
    (pieces,) = Path(spread_store, "packs").glob("pieces-*/pieces.json")
    assert json.loads(pieces.read_text()) == {"pieces": 2}


@pytest.mark.slow
def test_a_rank_killed_twice_ends_with_the_bits_of_one_that_was_not(corpus, tmp_path):
    """Several starts of torchrun: buys that a dead process costs the steps since the newest checkpoint, and no more."""
    from benchmarks.kill_torchrun import torment

    tally = torment(tmp_path, kills=2, seed=1, corpus=str(corpus), tokens=64 * 150)
    assert tally.kills == 2 and tally.differences == []


LONG = (
    HUNGRY.replace(", transforms=(hungry,)", "")
    .replace("tokens=512", "tokens=64 * 5000")
    .replace("0.2)", "0.2, repeat=True)")
)
MISTAKEN = """
open({seen!r}, "a").write("x")
if "RANK" in os.environ:
    raise wt.InputError("Mend me.")
"""


def processes_of(store: Path) -> list[str]:
    """Command lines of living processes that name a store."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(file.read_text().replace("\0", " "))
    return [line for line in found if str(store) in line]


@pytest.mark.slow
@pytest.mark.parametrize("how,code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_command_ends_torchrun_and_its_workers_and_is_said_once(how, code, corpus, tmp_path):
    """Starts torchrun: buys that no process trains on unseen, and that SIGTERM costs no step."""
    file, store = tmp_path / "long_study.py", tmp_path / "store"
    file.write_text(LONG.format(corpus=str(corpus)))
    command = [sys.executable, "-m", "windtunnel", "run", str(file), "--on", "torchrun", "--devices", "2"]
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen([*command, "--store", str(store)], stderr=said, start_new_session=True)
    deadline = time.monotonic() + 120
    while "step" not in (tmp_path / "said").read_text():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, how)  # as a terminal and a cluster do, to the whole group
    assert process.wait(60) == code
    said = (tmp_path / "said").read_text()
    assert said.count("windtunnel: ") == 1 and "Traceback" not in said, said
    assert processes_of(store) == []
    if how == signal.SIGTERM:
        assert list(store.glob("packs/*/step-*"))


@pytest.mark.slow
def test_a_mistake_that_only_torchruns_processes_meet_is_said_once_and_not_tried_again(corpus, tmp_path):
    """Starts torchrun: buys that a wrong path on a node is one sentence and not four times two."""
    file, seen = tmp_path / "mistaken_study.py", tmp_path / "seen"
    file.write_text(LONG.format(corpus=str(corpus)) + MISTAKEN.format(seen=str(seen)))
    arguments = ["run", str(file), "--on", "torchrun", "--devices", "2", "--store", str(tmp_path / "store")]
    done = subprocess.run([sys.executable, "-m", "windtunnel", *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "windtunnel: Mend me.\n")
    assert len(seen.read_text()) <= 3  # this process and its two, once


def test_a_store_that_is_no_folder_is_refused_before_torchrun_is_started(corpus, tmp_path, capsys, monkeypatch):
    from windtunnel.cli import main
    from windtunnel.launch import own_torchrun

    pytest.importorskip("fsspec", reason="stores on URLs need fsspec")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(own_torchrun, "_started", lambda *asked: pytest.fail("torchrun was started"))
    file = tmp_path / "refused_study.py"
    file.write_text(LONG.format(corpus=str(corpus)))
    assert main(["run", str(file), "--on", "torchrun", "--store", f"local://{tmp_path}/store"]) == 2
    assert "is no folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "raised,ends,said",
    [
        (InputError("Mend me."), SystemExit, {"input error": "Mend me."}),
        (Again("Memory ran out."), Again, None),
        (Stopped(), SystemExit, None),
        (KeyboardInterrupt(), SystemExit, None),
        (RuntimeError("lost the others"), RuntimeError, None),
    ],
)
def test_only_what_starting_again_would_not_mend_is_told_to_the_command(raised, ends, said, tmp_path, monkeypatch):
    word = tmp_path / "word"
    monkeypatch.setenv(WORD, str(word))
    with pytest.raises(ends), heard_of():
        raise raised
    assert (json.loads(word.read_text()) if word.exists() else None) == said
