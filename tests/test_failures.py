"""Where other tools fail (mup 1.0.0 and unit-scaling 0.3.5 on torch 2.13, measured), ours does the right thing.

Each row of that list and the test that covers it; rows without a file are here, silent failures first.

- tied embedding: initial size constant -> test_adopt::test_a_tied_table_keeps_its_size_at_every_width
- lr=torch.tensor(...) -> test_adopt::test_a_learning_rate_that_is_a_tensor_scales_every_group_by_its_own_factor
- OneCycleLR, CosineAnnealingLR(eta_min) -> test_adopt::test_schedulers_that_erase_the_factors_are_found
- fixed-std initial values -> test_initial_values_of_one_size_at_every_width_are_replaced
- stacked experts with SGD -> test_stacked_experts_take_the_growth_of_their_own_axes
- names saved from DDP -> test_names_made_of_the_letters_of_a_wrapper_stay_whole
- mup.Adam is torch's -> test_a_plain_adam_has_the_tables_rates_and_one_without_them_is_found
- ours, found here: attach after a compiled call, attach twice, shards drawn one by one, frozen tensors drawn anew,
  padding rows drawn, a lookup table that reads out in F.linear, scales for misspelt tensors
  -> below, test_wrong_use
- more schedulers: SWALR, CyclicLR, ReduceLROnPlateau(min_lr) -> test_more_schedulers_that_erase_the_factors_are_found
- pip install brings torchvision -> test_installing_us_brings_no_torchvision
- tests or checks not packaged -> test_cli (windtunnel check)
- deepcopy, AveragedModel, functional_call -> test_adopt::test_multipliers_survive_deepcopy_average_...
- torch.export, compile -> test_adopt::test_multipliers_survive_export_and_compile
- FSDP2, DDP -> test_sharded
- FSDP1, ZeroRedundancyOptimizer, meta -> fully_shard -> to_empty -> test_two_processes_train_as_one
- meta -> to_empty -> test_adopt::test_a_model_begun_on_meta_is_initialised_like_any_other
- load_state_dict(assign=True) -> test_adopt::test_loading_a_state_by_assignment_keeps_the_scales
- swap_module_params -> test_a_conversion_that_swaps_parameters_keeps_the_scales
- weight_norm -> test_weight_norm
- torch.load default, weights_only -> test_what_is_saved_loads_by_torchs_default
- base shapes on a compiled model -> test_adopt::test_a_compiled_model_has_the_same_groups, and below
- GQA, fixed KV heads -> test_adopt::test_a_fixed_number_of_key_heads_must_be_told_from_the_readout, test_hf (mistral)
- router as nn.Linear, expert count scaling with width -> below
- LoRA, tensors added later -> test_finetuning, test_adopt::test_adapters_that_were_added_later_need_a_scale
- named_parameters() -> test_wrong_use::test_what_is_no_model_is_refused
- plain nn.Linear rejected; 12 groups -> test_adopt::test_groups_hold_the_rules_factors_and_are_few
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import tomllib
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_adopt import BASE, TARGET, M, Plain, adopted, ready, tokens, train
from test_sharded import sharded
from torch import nn
from torch.optim import lr_scheduler as schedulers

from windtunnel.errors import InputError
from windtunnel.scaling.adopt import adopt
from windtunnel.scaling.table import ScaleTable
from windtunnel.train.ranks import leave


class Experts(nn.Module):
    """Stacked experts behind a linear router; `experts` None: their number grows with width."""

    def __init__(self, width, experts):
        super().__init__()
        count = experts or width // 4
        self.embedding, self.router = nn.Embedding(32, width), nn.Linear(width, count, bias=False)
        self.up = nn.Parameter(torch.randn(count, width, 4 * width))
        self.down = nn.Parameter(torch.randn(count, 4 * width, width))
        self.head = nn.Linear(width, 32)

    def forward(self, ids):
        x = self.embedding(ids)
        each = torch.einsum("...i,eij,ejk->...ek", x, self.up, self.down)
        return self.head(x + (self.router(x).softmax(-1)[..., None] * each).sum(-2))


def padded(width):
    """A decoder whose token 3 stands for nothing."""
    model = Plain(width)
    model.embedding = nn.Embedding(32, width, padding_idx=3)
    return model


STACKED = {"up": ("hidden", "-io"), "down": ("hidden", "-io")}


def experts(count, optimizer=torch.optim.AdamW, **roles):
    build = lambda width: Experts(width, count)  # noqa: E731
    return adopt(build, base=BASE, target=TARGET, optimizer=optimizer, roles=STACKED | roles)


# silent elsewhere


def test_initial_values_of_one_size_at_every_width_are_replaced():
    class Small(Plain):
        def __init__(self, width):
            super().__init__(width)
            for param in self.parameters():
                nn.init.normal_(param, std=0.02)

    def std(width, drawn):
        model = Small(width)
        if drawn:
            adopt(Small, base=BASE, target=width, optimizer=torch.optim.AdamW).initialize(model, seed=0)
        return [float(w.detach().std()) for w in (model.blocks[0].up.weight, model.head.weight)]

    (hidden, readout), (wide_hidden, wide_readout) = std(64, drawn=True), std(256, drawn=True)
    assert wide_hidden / hidden == pytest.approx(0.5, rel=0.05) and wide_readout / readout == pytest.approx(1, rel=0.05)
    assert std(256, drawn=False)[0] / std(64, drawn=False)[0] == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("optimizer, lr", [(torch.optim.SGD, 1.0), (torch.optim.Adam, 1 / M)])
def test_stacked_experts_take_the_growth_of_their_own_axes(optimizer, lr):
    scales = experts(4, optimizer, **{"router.weight": "hidden"})
    assert scales.table.scales["up"].lr == scales.table.scales["down"].lr == pytest.approx(lr)
    assert (scales.table.sites["up"].fan_in, scales.table.sites["down"].fan_in) == (TARGET, 4 * TARGET)


def test_a_constructors_own_values_are_not_left_unnoticed():
    """As in transformers' models, which draw 0.02 at every width."""
    model, scales = Plain(TARGET), adopted()
    for param in model.parameters():
        nn.init.normal_(param, std=0.02)
    with pytest.warns(UserWarning, match=r"has standard deviation 0\.0\d+ and the table starts it at .*: call initial"):
        scales.groups(model, 1e-2)
    assert scales.groups(model, 1e-2, pretrained=True)
    scales.initialize(model, seed=0)
    scales.groups(model, 1e-2)  # warnings are errors here


def test_names_made_of_the_letters_of_a_wrapper_stay_whole():
    def build(width):
        parts = {"emb": nn.Embedding(8, width), "mod": nn.Linear(width, width), "module": nn.Linear(width, 8)}
        return nn.ModuleDict(parts)

    scales = adopt(build, base=BASE, target=TARGET, optimizer=torch.optim.Adam)
    model = build(TARGET)
    scales.initialize(model, seed=0)
    names = [group["names"] for group in scales.groups(nn.DataParallel(model), 1e-2)]
    assert names == [group["names"] for group in scales.groups(model, 1e-2)]
    assert {"emb.weight", "module.weight"} <= {name for each in names for name in each}


def test_a_plain_adam_has_the_tables_rates_and_one_without_them_is_found():
    model, scales = ready()
    optimizer = torch.optim.Adam(scales.groups(model, 1e-2))
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [1e-2 / M, 1e-2]
    train(model, optimizer)
    scales.check(optimizer)
    with pytest.raises(InputError, match=r"has no lr_mult; make the optimizer from adopted\.groups"):
        scales.check(torch.optim.Adam(model.parameters(), lr=1e-2))


# silent in ours before


def test_multipliers_act_on_a_model_that_was_compiled_and_called_before():
    expected, scales = ready()
    model = Plain(TARGET)
    scales.initialize(model, seed=0)
    compiled = torch.compile(model, backend="eager")
    before = compiled(tokens())
    scales.attach(model)
    torch.testing.assert_close(compiled(tokens()), expected(tokens()))
    assert not torch.allclose(before, expected(tokens()))


def test_attaching_twice_multiplies_once_and_another_table_is_refused():
    model, scales = ready()
    expected = model(tokens())
    torch.testing.assert_close(scales.attach(copy.deepcopy(model))(tokens()), expected)
    other = adopt(Plain, base=BASE // 2, target=TARGET, optimizer=torch.optim.AdamW)
    with pytest.raises(InputError, match=r"head has a multiplier of 0\.25 already and would get 0\.125 as well"):
        other.attach(model)


def test_frozen_tensors_and_padding_rows_keep_their_values():
    def build(width):
        model = padded(width)
        model.head.weight.requires_grad_(False)
        return model

    model, scales = build(TARGET), adopted(build=build)
    frozen, before = model.head.weight.clone(), model.embedding.weight.detach().clone()
    scales.initialize(model, seed=0)
    assert torch.equal(model.head.weight, frozen)
    assert float(model.embedding.weight[3].detach().abs().max()) == 0
    assert not torch.equal(model.embedding.weight, before)


KEEP = {
    "plateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=0),
    "restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 3),
    "warm-up, then cosine": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, total_iters=2), schedulers.CosineAnnealingLR(o, 5)], milestones=[2]
    ),
}
ERASE = {
    "averaging": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=1e-3, anneal_epochs=2),
    "cyclic": lambda o: schedulers.CyclicLR(o, base_lr=1e-4, max_lr=1e-2, cycle_momentum=False),
    "plateau with a floor": lambda o: schedulers.ReduceLROnPlateau(o, patience=0, min_lr=1e-3),
}


@pytest.mark.parametrize("kind", [*KEEP, *ERASE])
def test_more_schedulers_that_erase_the_factors_are_found(kind):
    model, scales = ready()
    optimizer = torch.optim.AdamW(scales.groups(model, 1e-2))
    schedule = (KEEP | ERASE)[kind](optimizer)

    def run():
        for _ in range(4):
            optimizer.step()
            schedule.step(*([1.0] if "plateau" in kind else []))
            scales.check(optimizer)

    if kind in KEEP:
        run()
        assert float(optimizer.param_groups[0]["lr"]) != 1e-2
        return
    with pytest.raises(InputError, match="not in the table's ratios"):
        run()


# loud elsewhere


def test_an_adopted_model_can_be_saved_whole_and_sent_to_other_processes():
    model, _ = ready()
    torch.testing.assert_close(pickle.loads(pickle.dumps(model))(tokens()), model(tokens()))


def test_installing_us_brings_no_torchvision():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    needed = project["dependencies"]
    assert needed and not [line for line in needed if line.startswith("torch")]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    assert extras and not [line for line in extras if line.startswith("torchvision")]


def test_a_conversion_that_swaps_parameters_keeps_the_scales():
    model, scales = ready()
    expected = [group["names"] for group in scales.groups(model, 1e-2)]
    logits = model(tokens()).detach()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model = model.to(torch.float64)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert [group["names"] for group in scales.groups(model, 1e-2)] == expected
    torch.testing.assert_close(model(tokens()).float(), logits)
    train(model, torch.optim.AdamW(scales.groups(model, 1e-2)))


def test_what_is_saved_loads_by_torchs_default(tmp_path):
    model, scales = ready()
    optimizer = torch.optim.AdamW(scales.groups(model, 1e-2))
    logits = train(model, optimizer)
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "table": scales.table.to_json()}
    torch.save(saved, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt")  # weights_only=True: tensors and plain data
    assert ScaleTable.from_json(loaded["table"]) == ScaleTable.from_json(json.loads(json.dumps(saved["table"])))
    other = scales.attach(Plain(TARGET))
    other.load_state_dict(loaded["model"])
    again = torch.optim.AdamW(scales.groups(other, 1.0))
    again.load_state_dict(loaded["optimizer"])
    scales.check(again)
    torch.testing.assert_close(other(tokens()), logits)
    torch.testing.assert_close(train(other, again), train(model, optimizer))


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's own, where a part is compiled
def test_a_model_whose_parts_are_compiled_or_checkpointed_has_the_same_names():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    expected, scales = ready()
    model = Plain(TARGET)
    model.blocks[0] = torch.compile(model.blocks[0], backend="eager")
    model.blocks[1] = checkpoint_wrapper(model.blocks[1])
    model.head = torch.compile(model.head, backend="eager")
    scales.initialize(model, seed=0)
    torch.testing.assert_close(scales.attach(model)(tokens()), expected(tokens()))
    assert [g["names"] for g in scales.groups(model, 1e-2)] == [g["names"] for g in scales.groups(expected, 1e-2)]


def compiled_whole(width):
    return torch.compile(Plain(width), backend="eager")


def compiled_in_part(width):
    model = Plain(width)
    model.blocks[0], model.head = (torch.compile(part, backend="eager") for part in (model.blocks[0], model.head))
    return model


class Held(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.module = Plain(width)

    def forward(self, inputs):
        return self.module(inputs)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's own, where a part is compiled
@pytest.mark.parametrize("build", [compiled_whole, compiled_in_part, Held])
def test_a_model_that_its_builder_wraps_is_adopted_by_the_names_inside(build):
    plain, scales = adopted().table, adopted(build=build)
    assert scales.table.scales == plain.scales and scales.table.forward == plain.forward
    model = build(TARGET)
    scales.initialize(model, seed=0)
    torch.testing.assert_close(scales.attach(model)(tokens()), ready()[0](tokens()))


def test_a_linear_router_of_a_fixed_number_of_experts_is_asked_for():
    with pytest.raises(InputError, match=r'head\.weight: .*"router".*roles=\{"router\.weight": "router"'):
        experts(4)
    scales = experts(4, **{"router.weight": "router"}).table
    assert scales.scales["router.weight"].lr == 1 / M
    assert set(scales.forward) == {"head"}


def test_a_number_of_experts_that_grows_with_width_is_no_obstacle():
    scales = experts(None).table
    assert scales.sites["up"].shape == (TARGET // 4, TARGET, 4 * TARGET)
    assert scales.scales["up"].lr == scales.scales["down"].lr == scales.scales["router.weight"].lr == 1 / M
    assert scales.sites["router.weight"].role == "hidden"


# two processes


def trained(kind):
    """Logits after three steps of the adopted model, sharded in one of the ways that others do not survive."""
    scales, model = adopted(build=padded), padded(TARGET)
    if kind == "meta":  # begun without storage, sharded, then drawn
        with torch.device("meta"):
            model = sharded(padded(TARGET))
        model.to_empty(device="cpu")
    scales.initialize(model, seed=0)
    scales.attach(model)
    if kind == "fsdp1":
        from torch.distributed.fsdp import FullyShardedDataParallel

        model = FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
        with pytest.raises(InputError, match="has flattened the tensors"):
            scales.initialize(model, seed=0)
    groups = scales.groups(model, 1e-2, weight_decay=0.1)
    if kind == "zero":
        from torch.distributed.optim import ZeroRedundancyOptimizer

        return train(model, ZeroRedundancyOptimizer(groups, optimizer_class=torch.optim.AdamW, lr=1e-2))
    return train(model, torch.optim.AdamW(groups))


KINDS = ("zero", "fsdp1", "meta")


def in_a_process(rank, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        logits = {kind: trained(kind) for kind in KINDS}
        if rank == 0:
            torch.save(logits, f"{folder}/logits.pt")
    finally:
        leave()


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """Slow: starts two processes. Optimizer state in shards, FSDP1 with original parameters, and a model that was
    sharded before it had values all train as one process does."""
    mp.spawn(in_a_process, (32500 + os.getpid() % 1000, str(tmp_path)), nprocs=2)
    found, alone = torch.load(tmp_path / "logits.pt"), trained("alone")
    torch.testing.assert_close(found, {kind: alone for kind in KINDS}, rtol=1e-4, atol=1e-5)
