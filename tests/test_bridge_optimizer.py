"""An optimizer part in a loop of one's own: as the engine trains, as torch expects, and sharded over two processes."""

from __future__ import annotations

import copy
import io
import os
import pickle

import pytest
import tiny
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_adopt import BASE, TARGET, Plain, adopted, tokens, train
from torch import nn
from torch.nn import functional as F

import windtunnel as wt
from windtunnel.bridge import TorchOptimizer
from windtunnel.errors import InputError
from windtunnel.ideas.critical_momenta import CriticalMomentaAdam
from windtunnel.ideas.half_fine_tuning import HalfAdamW
from windtunnel.ideas.hypergradient_rate import HypergradientSGD
from windtunnel.ideas.sharpness_aware import SharpnessAware
from windtunnel.parts.learned.small_fc import SmallFC
from windtunnel.parts.learned.weights import bundled
from windtunnel.parts.optimizers import LAMB, SGD, AdamW, Lion, Muon, Shampoo
from windtunnel.parts.schedules import Constant
from windtunnel.scaling.adopt import Adopted
from windtunnel.train.pack import build_model, groups_of, initial_params, table_of
from windtunnel.train.ranks import leave

PARTS = {
    "AdamW": AdamW(lr=3e-3, weight_decay=0.1),
    "Lion": Lion(lr=1e-3),
    "LAMB": LAMB(lr=1e-2),
    "Muon": Muon(lr=2e-2, others_lr=3e-3),
    "SGD": SGD(lr=0.1),
    "Shampoo": Shampoo(lr=2e-2, others_lr=3e-3),
    "SharpnessAware": SharpnessAware(lr=3e-3),
    "HypergradientSGD": HypergradientSGD(lr=0.1),
    "CriticalMomentaAdam": CriticalMomentaAdam(lr=3e-3),
    "HalfAdamW": HalfAdamW(lr=3e-3),
}
OF_ITS_OWN_RULE = {"SmallFC": SmallFC(weights=bundled("small-fc-digits"))}  # not of the one in these tests' recipe


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny.write_corpus(tmp_path_factory.mktemp("corpus"))


def at_rung(corpus, part):
    """A one-member pack of a wider rung than its base."""
    recipe = tiny.recipe(corpus, optimizer=part, schedule=Constant())
    return tiny.pack(recipe, [{}], rung=tiny.RUNG.but(width=16), base=tiny.RUNG)


def by_hand(pack):
    """The same run in a loop of one's own: training losses, one a step."""
    recipe, spec = pack.recipe, pack.specs[0]
    scales = Adopted(table=table_of(recipe, spec.rung, spec.base_rung))
    model, groups = build_model(recipe, spec.rung), groups_of(scales.table)
    params = dict(model.named_parameters())
    for group, stack in zip(groups, initial_params(groups, [spec.seed], tiny.CPU), strict=True):
        for name, value in zip(group.names, stack[0], strict=True):
            params[name].data.copy_(value)
    optimizer = TorchOptimizer(recipe.optimizer, scales.attach(model), scales, seed=spec.seed)
    losses = []
    for step in range(tiny.STEPS):
        x, y = (torch.as_tensor(a) for a in recipe.data.batch(seed=spec.seed, step=step, size=tiny.BATCH))

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = recipe.objective(model(x), y).mean()
            loss.backward()
            return loss.detach()

        losses.append(float(optimizer.step(closure)))
    return losses


@pytest.mark.parametrize("name", PARTS)
def test_a_loop_of_ones_own_trains_as_the_engine_does(name, corpus):
    pack = at_rung(corpus, PARTS[name])
    engine = tiny.alone(pack, 0, packed=False).curve["train_loss"].tolist()
    assert by_hand(pack) == pytest.approx(engine, rel=1e-5)
    assert engine[-1] != engine[0]


# as torch's own


def ready(part, seed=0, dtype=torch.float32):
    scales, model = adopted(part), Plain(TARGET)
    scales.initialize(model, seed=seed)
    scales.attach(model.to(dtype))
    return model, scales, TorchOptimizer(part, model, scales, pretrained=dtype != torch.float32)


def test_adamw_is_torchs_adamw_with_the_tables_groups():
    ours, scales, optimizer = ready(AdamW(lr=1e-2, beta2=0.95, weight_decay=0.1))
    theirs = scales.attach(Plain(TARGET))
    theirs.load_state_dict(ours.state_dict())
    groups = scales.groups(theirs, 1e-2, weight_decay=0.1, eps=1e-8, pretrained=True)
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    torch.testing.assert_close(train(ours, optimizer), train(theirs, reference), rtol=1e-4, atol=1e-5)


def test_torchs_schedulers_move_every_rate_of_a_part_and_keep_the_tables_ratios():
    model, scales, optimizer = ready(Muon(lr=2e-2, others_lr=4e-3))
    hidden = next(i for i, site in enumerate(optimizer.sites) if site.role == "hidden")
    others = next(i for i, site in enumerate(optimizer.sites) if site.role == "readout")
    before = [float(optimizer._hp(i, tiny.CPU)["others_lr"]) for i in range(len(optimizer.sites))]
    halved = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    train(model, optimizer, steps=2, after=halved.step)
    after = [float(optimizer._hp(i, tiny.CPU)["others_lr"]) for i in range(len(optimizer.sites))]
    assert after == pytest.approx([each / 4 for each in before])
    assert optimizer.param_groups[hidden]["lr"] == pytest.approx(2e-2 / 4)
    assert before[others] == pytest.approx(4e-3 * optimizer.param_groups[others]["lr_mult"])
    scales.check(optimizer)


def test_a_scheduler_that_sets_a_rate_is_found_and_takes_the_tables_list():
    _, scales, optimizer = ready(AdamW(lr=1e-2))
    torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=10, cycle_momentum=False)
    with pytest.raises(InputError, match="not in the table's ratios"):
        scales.check(optimizer)
    rates = scales.rates(optimizer, 1e-2)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=10, cycle_momentum=False)
    scales.check(optimizer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["AdamW", "Muon", "CriticalMomentaAdam"])
def test_training_goes_on_from_a_saved_state_as_if_it_had_not_stopped(name, dtype):
    model, _, optimizer = ready(PARTS[name], dtype=dtype)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    train(model, optimizer, after=schedule.step)
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), schedule.state_dict()], file)
    through = train(model, optimizer, after=schedule.step)
    file.seek(0)
    other, _, again = ready(PARTS[name], seed=1, dtype=dtype)
    then = torch.optim.lr_scheduler.CosineAnnealingLR(again, 10)
    for part, saved in zip((other, again, then), torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(saved)
    assert torch.equal(train(other, again, after=then.step), through)
    kinds = {leaf.dtype for state in again.state.values() for leaf in state.values()}
    assert torch.bfloat16 not in kinds


def test_a_deep_copy_and_a_pickle_keep_the_part_and_the_sites():
    model, _, optimizer = ready(PARTS["Muon"])
    train(model, optimizer)
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert (again.part, again.sites) == (optimizer.part, optimizer.sites)
        for group in again.param_groups:
            for param in group["params"]:
                param.grad = torch.zeros_like(param)
        again.step()


def test_tensors_that_are_frozen_or_unused_stay_as_they_are():
    scales, model = adopted(AdamW(lr=1e-2)), Plain(TARGET)
    scales.initialize(model, seed=0)
    model.embedding.weight.requires_grad_(False)
    before = model.embedding.weight.clone(), model.head.bias.clone()
    optimizer = TorchOptimizer(AdamW(lr=1e-2), scales.attach(model), scales)
    F.cross_entropy(model(tokens()).flatten(0, 1), tokens().flatten()).backward()
    model.head.bias.grad = None
    optimizer.step()
    assert torch.equal(model.embedding.weight, before[0]) and torch.equal(model.head.bias, before[1])
    assert "embedding.weight" not in {name for group in optimizer.param_groups for name in group["param_names"]}


def test_the_weights_that_are_judged_are_there_within_judged_alone():
    class Averaged(AdamW):
        def init(self, param, site):
            return super().init(param, site) | {"sum": torch.zeros_like(param)}

        def update(self, grad, state, param, hp, site):
            step, new = super().update(grad, state, param, hp, site)
            return step, new | {"sum": state["sum"] + param + step}

        def readout(self, param, state, site):
            return state["sum"] / state["steps"]

    model, _, optimizer = ready(Averaged(lr=1e-2))
    seen = []
    train(model, optimizer, after=lambda: seen.append(model.head.weight.detach().clone()))
    with optimizer.judged():
        torch.testing.assert_close(model.head.weight.detach(), sum(seen) / 3)
    assert torch.equal(model.head.weight, seen[-1])


# what is refused


@pytest.mark.parametrize(
    "part, said",
    [(AdamW(), "leaves lr open"), (AdamW, "is the class AdamW"), (AdamW(lr=0.0), "above zero"), (7, "how its updates")],
)
def test_a_part_that_cannot_be_used_is_refused_in_a_sentence(part, said):
    scales, model = adopted(), Plain(TARGET)
    scales.initialize(model, seed=0)
    with pytest.raises(InputError, match=said):
        TorchOptimizer(part, model, scales)


def test_another_model_new_tensors_and_a_missing_closure_are_refused():
    model, scales, optimizer = ready(PARTS["SharpnessAware"])
    with pytest.raises(InputError, match="shape"):
        TorchOptimizer(AdamW(lr=1e-2), Plain(BASE), scales)
    with pytest.raises(InputError, match="scale table only"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    model(tokens()).sum().backward()
    with pytest.raises(InputError, match="closure"):
        optimizer.step()


@pytest.mark.parametrize("name", ["mulo-digits", "small-fc-digits"])
def test_a_learned_part_is_refused_a_table_with_another_rules_rates(name):
    scales, model = adopted(AdamW(lr=1e-2)), Plain(TARGET)
    scales.initialize(model, seed=0)
    with pytest.raises(InputError, match=r"SmallFC was trained under .* make the table for it"):
        TorchOptimizer(SmallFC(weights=bundled(name)), model, scales)


# sharded


def sharded_part(part, folder, again):
    """Logits after three steps of the sharded model, and, with `again`, of one that goes on from its checkpoint."""
    from torch.distributed.checkpoint import state_dict as saving
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def made():
        scales, model = adopted(part), Plain(TARGET)
        scales.initialize(model, seed=0)
        mesh = init_device_mesh("cpu", (2,))
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        model = fully_shard(scales.attach(model), mesh=mesh)
        return model, TorchOptimizer(part, model, scales)

    model, optimizer = made()
    first = train(model, optimizer)
    if not again:
        return first, first
    whole = saving.StateDictOptions(full_state_dict=True)
    kept = copy.deepcopy(saving.get_state_dict(model, optimizer, options=whole))
    kept = [kept]
    dist.broadcast_object_list(kept)
    through = train(model, optimizer)
    other, fresh = made()
    saving.set_state_dict(other, fresh, model_state_dict=kept[0][0], optim_state_dict=kept[0][1], options=whole)
    torch.testing.assert_close(train(other, fresh), through)
    shards = [leaf for state in fresh.state.values() for leaf in state.values() if hasattr(leaf, "device_mesh")]
    assert shards and all(leaf.to_local().numel() < leaf.numel() for leaf in shards if leaf.numel() > 1)
    return first, through


def in_a_process(rank, name, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        found = sharded_part((PARTS | OF_ITS_OWN_RULE)[name], folder, again=name != "HypergradientSGD")
        if rank == 0:
            torch.save(found, f"{folder}/{name}.pt")
    finally:
        leave()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["AdamW", "Muon", "HypergradientSGD", "SmallFC"])
def test_a_part_over_two_processes_trains_as_over_one_and_goes_on_from_its_checkpoint(name, tmp_path):
    """Slow: starts two processes. Rows alone, whole matrices and sums over the network; state sharded throughout."""
    port = 28500 + os.getpid() % 1000
    mp.spawn(in_a_process, (name, port, str(tmp_path)), nprocs=2)
    model, _, optimizer = ready((PARTS | OF_ITS_OWN_RULE)[name])
    first = train(model, optimizer)
    found = torch.load(tmp_path / f"{name}.pt")
    torch.testing.assert_close(found[0], first, rtol=1e-4, atol=1e-5)
    if name in ("AdamW", "Muon"):  # SmallFC's steps carry last bits further, also in one process: test_divided.py
        torch.testing.assert_close(found[1], train(model, optimizer), rtol=1e-4, atol=1e-5)


def test_the_public_room_names_it():
    assert wt.bridge.TorchOptimizer is TorchOptimizer
