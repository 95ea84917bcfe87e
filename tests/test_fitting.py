"""A pack that memory cannot hold is trained in parts, which are the same runs; one run that does not fit is said."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import tiny
import torch

import windtunnel as wt
from windtunnel.errors import InputError, Paused
from windtunnel.ideas.early_learning import early_learning
from windtunnel.launch import fitting, one
from windtunnel.launch.fitting import free_bytes, in_parts
from windtunnel.launch.pieces import Pieces
from windtunnel.parts.models import Transformer
from windtunnel.parts.optimizers import AdamW
from windtunnel.parts.schedules import WSD
from windtunnel.parts.transforms import Dropout
from windtunnel.train.loop import train
from windtunnel.train.memory import is_out_of_memory, pack_bytes, row_bytes
from windtunnel.train.pack import Pack


@pytest.fixture(autouse=True)
def nothing_learned(monkeypatch):
    monkeypatch.setattr(fitting, "_most_rows", {})


class Known:
    """Pieces that nothing was found out about."""

    def known(self):
        return 1

    def more(self, tried):
        raise AssertionError("a step was cut")

    remember = more


@dataclass(frozen=True)
class Greedy(AdamW):
    """Runs out of memory, as torch says it on a CPU, whenever more than three members are trained together."""

    def update(self, grad, state, param, hp, site):
        members = torch._C._functorch.get_unwrapped(grad).shape[0] if torch._C._functorch.is_batchedtensor(grad) else 1
        if members > 3 * GROUP:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")
        return AdamW.update(self, grad, state, param, hp, site)


@dataclass(frozen=True)
class Looking(Transformer):
    """Cannot be run without values, for it looks at them."""

    def build(self, rung, data):
        built = Transformer.build(self, rung, data)
        built.register_forward_pre_hook(lambda module, inputs: print(float(inputs[0].sum())))
        return built


GROUP = 4  # tensors of the largest group of the tiny transformer: query, key, value and out


def sweep(corpus, members, **slots):
    return tiny.pack(tiny.recipe(corpus, **slots), [{"lr": 0.01}] * members)


def test_a_pack_that_runs_out_of_memory_is_halved_and_its_runs_are_the_same(corpus, tmp_path):
    store, pack = wt.Store(tmp_path / "store"), sweep(corpus, 7, optimizer=Greedy())
    one.execute(pack, store, device=tiny.CPU)
    together = [store.get(spec.key).cost.members for spec in pack.specs]
    assert max(together) <= 3 and len(set(spec.key for spec in pack.specs)) == 7
    for member, spec in enumerate(pack.specs):
        run = store.get(spec.key)
        assert run.finished and run.cost.alone_because is None
        assert tiny.numbers(run) == tiny.numbers(tiny.alone(pack, member))
    again = sweep(corpus, 7, optimizer=Greedy())
    assert max(len(part.specs) for part in parts_of(again)) <= 3, "what was learned is remembered"


def parts_of(pack, free=None):
    parts = []
    in_parts(pack, parts.append, free=free, pieces=Known())
    return parts


def test_a_pack_is_cut_before_it_starts_where_the_count_says_so(corpus):
    pack = sweep(corpus, 8)
    needed = pack_bytes(pack)
    assert [len(p.specs) for p in parts_of(pack, free=needed)] == [8]
    parts = parts_of(pack, free=0.4 * needed)
    assert max(len(p.specs) for p in parts) <= 3
    assert [spec for part in parts for spec in part.specs] == list(pack.specs)
    assert [len(p.specs) for p in parts_of(pack, free=1.0)] == [1] * 8, "a run is always tried"


def test_a_trunk_stays_whole_when_a_pack_is_cut(corpus):
    recipe = tiny.recipe(corpus, schedule=WSD(warmup_tokens=64))
    packs = [tiny.pack(recipe, [{"lr": 0.01}] * 2, rung=tiny.RUNG.but(tokens=t)) for t in (512, 1024)]
    pack = Pack(recipe=recipe, specs=packs[0].specs + packs[1].specs, judge=packs[0].judge)
    parts = parts_of(pack, free=0.6 * pack_bytes(pack))
    assert [{spec.seed for spec in part.specs} for part in parts] == [{0}, {1}]


@dataclass(frozen=True)
class Hungry:
    """A network holds `most` examples at a time, once it has been called `calls` times."""

    most: int
    calls: int = 0

    def __call__(self, model):
        left = [self.calls]

        def look(module, inputs):
            left[0] -= 1
            if left[0] < 0 and len(inputs[0]) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory")

        model.register_forward_pre_hook(look)
        return model


def store_of(tmp_path, pack):
    store = wt.Store(tmp_path / "store")
    one.execute(pack, store, device=tiny.CPU)
    return store


@pytest.mark.parametrize("precision,close", [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("batch,most,pieces", [(4, 2, 2), (4, 1, 4), (5, 2, 4), (7, 2, 4)])
def test_a_run_that_does_not_fit_takes_its_steps_in_pieces_to_the_same_loss(
    corpus, tmp_path, batch, most, pieces, precision, close
):
    rung = tiny.RUNG.but(batch=batch)
    pack = tiny.pack(tiny.recipe(corpus, transforms=(Hungry(most),)), [{"lr": 0.01}, {"lr": 0.02}], rung=rung)
    whole = tiny.pack(tiny.recipe(corpus), [{"lr": 0.01}, {"lr": 0.02}], rung=rung)
    store = store_of(tmp_path, replace(pack, precision=precision))
    for member, spec in enumerate(pack.specs):
        run, same = store.get(spec.key), tiny.alone(whole, member)
        assert run.finished and run.cost.pieces == pieces and run.cost.alone_because is None
        assert "pieces" in run.cost.eager_because
        assert run.loss == pytest.approx(same.loss, rel=close)
        assert run.curve["train_loss"] == pytest.approx(same.curve["train_loss"], rel=close)


def test_in_how_many_pieces_is_remembered_by_the_store(corpus, tmp_path):
    tried = []

    def until_two(part):
        tried.append(part.pieces)
        if part.pieces < 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    store, pack = wt.Store(tmp_path / "store"), sweep(corpus, 1)
    assert Pieces(store, pack, tiny.CPU).known() == 1
    for _ in range(2):
        in_parts(pack, until_two, free=None, pieces=Pieces(store, pack, tiny.CPU))
    longer = tiny.pack(tiny.recipe(corpus), [{"lr": 0.05}] * 2, rung=tiny.RUNG.but(tokens=2 * tiny.RUNG.tokens))
    in_parts(longer, until_two, free=None, pieces=Pieces(store, longer, tiny.CPU))
    assert tried == [1, 2, 2, 2, 2], "nor is a longer run, or a pack of them, tried whole again"
    wider = tiny.pack(tiny.recipe(corpus), [{"lr": 0.01}], rung=tiny.RUNG.but(width=16, heads=2))
    assert Pieces(store, wider, tiny.CPU).known() == 1


def test_memory_that_runs_out_in_the_middle_costs_no_step(corpus, tmp_path):
    """The checkpoint of a whole step's run is gone on with in pieces."""
    pack = tiny.pack(tiny.recipe(corpus, transforms=(Hungry(2, calls=12),)), [{"lr": 0.01}])
    run = store_of(tmp_path, pack).get(pack.specs[0].key)
    same = tiny.alone(tiny.pack(tiny.recipe(corpus), [{"lr": 0.01}]), 0)
    assert run.cost.pieces == 2 and run.curve["train_loss"] == pytest.approx(same.curve["train_loss"], rel=1e-5)


class Batched(torch.nn.Module):
    """Centres an output over the batch: an example's loss is not its own."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, inputs):
        outputs = self.inner(inputs)
        return outputs - outputs.mean(dim=0, keepdim=True)


@dataclass(frozen=True)
class Worst:
    """The largest of the losses: not a mean over examples."""

    def __call__(self, outputs, targets):
        losses = torch.nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
        return losses.amax().reshape(1)


def test_a_step_that_cannot_be_cut_is_refused_with_the_reason(corpus, tmp_path):
    remembers = early_learning(wt.recipes.mlp_mup_sgd(data=wt.data.digits())).but(transforms=(Hungry(2),))
    slots = {"transforms": (Hungry(2),)}
    for recipe, reason in (
        (tiny.recipe(corpus, transforms=(Hungry(2), Batched)), "depends on the others"),
        (tiny.recipe(corpus, objective=Worst(), **slots), "Worst is not a mean over examples"),
        (remembers, "needs all of a step's examples at once"),
    ):
        rung = tiny.RUNG if recipe is not remembers else wt.Rung(width=8, depth=2, tokens=256, batch=8)
        with pytest.raises(InputError, match=rf"does not fit in memory, and a step .*: .*{reason}"):
            store_of(tmp_path, tiny.pack(recipe, [{"lr": 0.01}], rung=rung))
        assert Pieces(wt.Store(tmp_path / "store"), tiny.pack(recipe, [{"lr": 0.01}], rung=rung), tiny.CPU).known() == 1
    assert not list(wt.Store(tmp_path / "store").runs())


@dataclass(frozen=True)
class ForCuda:
    """A network that this device cannot run, once memory has run out."""

    def __call__(self, model):
        left = [1]

        def look(module, inputs):
            if len(inputs[0]) > 2:
                left[0] -= 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            raise RuntimeError("expected a CUDA tensor")

        model.register_forward_pre_hook(look)
        return model


@pytest.mark.parametrize(
    "transforms,reason", [((ForCuda(),), "could not be seen"), ((Hungry(2), Dropout(rate=0.1)), "draws by the place")]
)
def test_a_step_of_which_it_cannot_be_said_is_not_cut_and_nothing_is_recorded(corpus, tmp_path, transforms, reason):
    with pytest.raises(InputError, match=reason):
        store_of(tmp_path, tiny.pack(tiny.recipe(corpus, transforms=transforms), [{"lr": 0.01}]))
    assert not list(wt.Store(tmp_path / "store").runs())


def test_a_run_that_was_compiled_so_far_goes_on_in_pieces_as_written(corpus, tmp_path):
    pack = tiny.pack(tiny.recipe(corpus), [{"lr": 0.01}])

    def after_four(progress):
        if progress.step == 4:
            raise Paused

    with pytest.raises(Paused):
        train(pack, device=tiny.CPU, folder=tmp_path, compile=True, report=after_four)
    (run,) = train(replace(pack, pieces=2), device=tiny.CPU, folder=tmp_path)
    assert run.cost.compiled_steps == 4 and run.cost.pieces == 2


def test_one_run_that_does_not_fit_stops_the_study_with_a_sentence(corpus, tmp_path):
    with pytest.raises(InputError, match=r"Memory ran out at width 8 .* with one example at a time"):
        store_of(tmp_path, tiny.pack(tiny.recipe(corpus, transforms=(Hungry(0),)), [{"lr": 0.01}] * 2))


def test_other_errors_are_not_taken_for_lack_of_memory(corpus):
    def wrong(part):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        in_parts(sweep(corpus, 2), wrong, free=None, pieces=Known())
    assert is_out_of_memory(MemoryError()) and not is_out_of_memory(OSError())


def test_the_count_grows_with_rows_batch_and_width(corpus):
    pack = sweep(corpus, 2)
    assert pack_bytes(sweep(corpus, 4)) == 2 * pack_bytes(pack)
    wider = tiny.pack(tiny.recipe(corpus), [{"lr": 0.01}], rung=tiny.RUNG.but(width=16, heads=2))
    assert row_bytes(wider) > row_bytes(pack)
    by_batch = [
        row_bytes(tiny.pack(tiny.recipe(corpus), [{"lr": 0.01}], rung=tiny.RUNG.but(batch=b))) for b in (4, 8, 16)
    ]
    assert 0 < by_batch[2] - by_batch[1] == pytest.approx(2 * (by_batch[1] - by_batch[0]), rel=0.01)


def test_a_model_that_looks_at_values_is_not_counted_and_still_trained(corpus):
    pack = sweep(corpus, 2, model=Looking())
    assert row_bytes(pack) is None and [len(p.specs) for p in parts_of(pack, free=1.0)] == [2]


def test_the_host_says_how_much_is_free_and_packs_share_it():
    alone, shared = free_bytes(tiny.CPU), free_bytes(tiny.CPU, 4)
    assert alone is None or 0 < shared < alone


def test_what_an_objective_remembers_of_examples_is_counted():
    base = wt.recipes.mlp_mup_sgd(data=wt.data.digits())
    counted = [
        row_bytes(tiny.pack(early_learning(base), [{"lr": 0.01}], rung=tiny.RUNG.but(tokens=tokens)))
        for tokens in (100, 300, 1438, 14380)
    ]
    one = 10 * 4  # a distribution over ten classes, float32
    assert counted[1] - counted[0] == 200 * one and counted[3] == counted[2]  # never more than there are
