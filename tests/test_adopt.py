"""adopt() in real code: what other tools lose on the way (facts: failures of tags on Parameters) stays here."""

from __future__ import annotations

import ast
import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from windtunnel.errors import InputError
from windtunnel.scaling.adopt import adopt
from windtunnel.scaling.meta import filled_on_meta
from windtunnel.scaling.rules import MuP, Standard
from windtunnel.scaling.table import Scale, ScaleTable

BASE, TARGET = 16, 64
M = TARGET / BASE


class Block(nn.Module):
    """Attention with `kv` key heads of 8 (None: as many as query heads) and a plain MLP."""

    def __init__(self, width, kv):
        super().__init__()
        self.norm, self.heads = nn.LayerNorm(width), width // 8
        self.kv = kv or self.heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(width, 8 * self.kv), nn.Linear(width, 8 * self.kv)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        b, t, d = x.shape
        y = self.norm(x)
        q = self.query(y).view(b, t, self.heads, 8).transpose(1, 2)
        k, v = (f(y).view(b, t, self.kv, 8).transpose(1, 2) for f in (self.key, self.value))
        k, v = (each.repeat_interleave(self.heads // self.kv, dim=1) for each in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, d)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(x)))


class Plain(nn.Module):
    """An ordinary decoder that knows nothing of us."""

    def __init__(self, width, tied=False, kv=None):
        super().__init__()
        self.embedding = nn.Embedding(32, width)
        self.blocks = nn.ModuleList(Block(width, kv) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 32, bias=not tied)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def adopted(optimizer=torch.optim.AdamW, build=Plain, **more):
    return adopt(build, base=BASE, target=TARGET, optimizer=optimizer, **more)


def ready(build=Plain, **more):
    """An initialised target model with its multipliers, and its scales."""
    scales, model = adopted(build=build, **more), build(TARGET)
    scales.initialize(model, seed=0)
    return scales.attach(model), scales


def tokens():
    return torch.randint(32, (4, 12), generator=torch.Generator().manual_seed(1))


def train(model, optimizer, steps=3, after=lambda: None):
    for _ in range(steps):
        optimizer.zero_grad()
        logits = model(tokens())
        F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens()[:, 1:].flatten()).backward()
        optimizer.step()
        after()
    return model(tokens()).detach()


# what it says


def test_groups_hold_the_rules_factors_and_are_few():
    scales = adopted()
    groups = scales.groups(ready()[0], 1e-2, weight_decay=0.1, eps=1e-8)
    by_name = {name: group for group in groups for name in group["names"]}
    assert len(by_name) == len(list(Plain(TARGET).parameters())) and len(groups) == 4
    hidden, table, gain = (by_name[n] for n in ("blocks.0.up.weight", "embedding.weight", "norm.weight"))
    assert (hidden["lr"], hidden["lr_mult"], hidden["eps"]) == (1e-2 / M, 1 / M, 1e-8 / M)
    assert hidden["weight_decay"] == pytest.approx(0.1 * M) and gain["weight_decay"] == 0
    assert table["lr"] == gain["lr"] == 1e-2


@pytest.mark.parametrize("held, given, said", [
    ({"weight_decay": 0.3}, {"weight_decay": 0.1}, r"weight_decay=0\.1 was given to the constructor of AdamW"),
    ({"eps": 1e-6}, {"eps": 1e-7}, r"Give the base's value to groups\(model, lr, eps=1e-07\)"),
    ({}, {"eps": 1e-7}, "eps=1e-07 was given"),
])  # fmt: skip
def test_values_of_a_constructor_that_are_not_in_use_are_found(held, given, said):
    model, scales = ready()
    with pytest.raises(InputError, match=said):
        scales.check(torch.optim.AdamW(scales.groups(model, 1e-2, **held), **given))
    scales.check(torch.optim.AdamW(scales.groups(model, 1e-2, **given), **given))


def test_an_optimizer_of_another_kind_than_the_tables_is_found():
    model, scales = ready()
    with pytest.raises(InputError, match="made for AdamW and its rates are not those of SGD, whose steps are gradient"):
        scales.check(torch.optim.SGD(scales.groups(model, 1e-2)))
    scales.check(torch.optim.Adam(scales.groups(model, 1e-2)))
    stated = adopted("entrywise")  # whoever states how steps grow has said so of any optimizer
    stated.check(torch.optim.SGD(stated.groups(model, 1e-2)))


def test_what_the_constructor_brings_by_itself_and_what_is_in_use_all_the_same_pass():
    model, scales = ready()
    scales.check(torch.optim.AdamW(scales.groups(model, 1e-2)))  # AdamW's own 0.01 is overruled, as documented
    excluded = torch.optim.AdamW(scales.groups(model, 1e-2, weight_decay=0.1), weight_decay=0.1)
    excluded.param_groups[-1]["weight_decay"] = 0.0
    scales.check(excluded)
    base, small = adopt(Plain, base=BASE, target=BASE, optimizer=torch.optim.AdamW), Plain(BASE)
    base.initialize(small, seed=0)
    base.check(torch.optim.AdamW(base.groups(small, 1e-2), eps=1e-7))  # at the base all factors are 1

    class Wrapper:
        param_groups = excluded.param_groups

    scales.check(Wrapper())


@pytest.mark.parametrize("optimizer, factor", [("matched", M**-0.5), (torch.optim.SGD, 1), (torch.optim.NAdam, 1 / M)])
def test_the_optimizer_decides_the_column(optimizer, factor):
    assert adopted(optimizer).table.scales["blocks.0.query.weight"].lr == pytest.approx(factor)


def test_a_subclass_of_a_torch_optimizer_is_known_and_another_one_is_asked_for():
    class Mine(torch.optim.AdamW):
        pass

    class Other(torch.optim.Optimizer):
        pass

    assert adopted(Mine).table == adopted().table
    with pytest.raises(InputError, match="How the steps of Other grow is not known; say it"):
        adopted(Other)
    with pytest.raises(InputError, match="How the steps of LBFGS grow"):
        adopted(torch.optim.LBFGS)


def test_a_fixed_number_of_key_heads_must_be_told_from_the_readout():
    build = lambda width: Plain(width, kv=1)  # noqa: E731
    with pytest.raises(InputError, match=r'roles=\{"\*\.key\.weight": "hidden", "\*\.value\.weight": "hidden"\}'):
        adopted(build=build)
    scales = adopted(build=build, roles={"*.key.weight": "hidden", "*.value.weight": "hidden"}).table.scales
    assert scales["blocks.1.key.weight"].lr == 1 / M and scales["blocks.1.key.weight"].forward == 1
    assert scales["head.weight"].forward == 1 / M


def test_two_seeds_share_no_tensors_values():
    scales, values = adopted(), {}
    for seed in range(3):
        model = Plain(TARGET)
        scales.initialize(model, seed=seed)
        values |= {(seed, name): float(p.detach().flatten()[0]) for name, p in model.named_parameters() if p.ndim > 1}
    assert len(set(values.values())) == len(values)


def test_a_tied_table_keeps_its_size_at_every_width():
    build = lambda width: Plain(width, tied=True)  # noqa: E731
    stds = []
    for target in (16, 64, 256):
        model = build(target)
        adopt(build, base=16, target=target, optimizer=torch.optim.AdamW).initialize(model, seed=0)
        stds.append(float(model.embedding.weight.detach().std()))
    assert max(stds) / min(stds) < 1.1


def test_positions_that_are_added_to_a_tied_table_start_at_its_size():
    class Placed(Plain):
        def __init__(self, width, tied):
            super().__init__(width, tied=tied)
            self.places, self.buckets = nn.Embedding(9, width), nn.Embedding(9, width // 8)

    for tied, size in ((True, BASE**-0.5), (False, 1.0)):
        build = lambda width, tied=tied: Placed(width, tied)  # noqa: E731
        for target in (BASE, TARGET):
            scales = adopt(build, base=BASE, target=target, optimizer=torch.optim.AdamW).table.scales
            found = [scales[f"{name}.weight"].init_std for name in ("embedding", "places", "buckets")]
            assert found == [size, size, 1.0]


class PlusOne(nn.Module):
    """A norm that adds 1 to its weight, as Gemma's."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:]) * (1 + self.weight)


class LayerScale(nn.Module):
    """As timm writes it."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(1e-4 * torch.ones(width))

    def forward(self, x):
        return self.weight * x


@pytest.mark.parametrize("begun", ["here", "on meta"])
def test_vectors_keep_the_number_that_their_constructor_fills_them_with(begun):
    def build(width):
        return nn.Sequential(
            nn.Linear(8, width), nn.PReLU(), PlusOne(width), nn.Linear(width, width), nn.PReLU(width, init=0.1),
            nn.LayerNorm(width), LayerScale(width), nn.Linear(width, 4),
        ).requires_grad_(True)  # fmt: skip

    scales = adopt(build, base=BASE, target=TARGET, optimizer=torch.optim.AdamW)
    if begun == "here":
        model = build(TARGET)
    else:
        with torch.device("meta"):
            model = build(TARGET)
        model.to_empty(device="cpu")
        for param in model.parameters():
            nn.init.constant_(param, 7.0)
    scales.initialize(model, seed=0)
    found = {name: set(param.tolist()) for name, param in model.named_parameters() if param.ndim == 1}
    slope, share = (torch.tensor(number).item() for number in (0.1, 1e-4))
    assert found == {"0.bias": {0}, "1.weight": {0.25}, "2.weight": {0}, "3.bias": {0}, "4.weight": {slope},
                     "5.weight": {1}, "5.bias": {0}, "6.weight": {share}, "7.bias": {0}}  # fmt: skip


def test_what_fills_a_part_or_is_drawn_later_is_no_number_of_the_whole():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            kinds = {"part": torch.zeros(4), "drawn": torch.ones(4), "times": torch.ones(4), "set": torch.zeros(4),
                     "whole": torch.full((4,), 0.3), "filled": torch.empty(4)}  # fmt: skip
            for name, value in kinds.items():
                self.register_parameter(name, nn.Parameter(value))
            self.part.data[1:2].fill_(1.0)
            nn.init.normal_(self.drawn)
            self.times.data.mul_(3)
            with torch.no_grad():
                self.set[0] = 2
            nn.init.constant_(self.filled, -2)

    assert filled_on_meta(Odd)[1] == {"whole": 0.3, "filled": -2.0}


def test_the_table_round_trips_and_notices_a_change():
    table = adopted().table
    data = json.loads(json.dumps(table.to_json()))
    assert ScaleTable.from_json(data) == table
    data["scales"]["head.weight"]["lr"] = 2.0
    with pytest.raises(InputError, match="its hash differs"):
        ScaleTable.from_json(data)


# what it survives


def test_multipliers_survive_deepcopy_average_and_a_functional_call():
    model, _ = ready()
    expected = model(tokens())
    averaged = AveragedModel(model)
    called = torch.func.functional_call(model, dict(model.named_parameters()), (tokens(),))
    for found in (copy.deepcopy(model)(tokens()), averaged(tokens()), called):
        torch.testing.assert_close(found, expected)
    assert not torch.allclose(Plain(TARGET).eval()(tokens()), expected)


def test_multipliers_survive_export_and_compile():
    model, _ = ready()
    expected = model(tokens())
    exported = torch.export.export(model, (tokens(),)).module()
    torch.testing.assert_close(exported(tokens()), expected)
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(tokens()), expected)


def test_a_graph_compiled_without_multipliers_is_not_used_with_them():
    bare = Plain(TARGET)
    torch.compile(bare, backend="eager")(tokens())
    model, scales = ready()
    torch.testing.assert_close(torch.compile(model, backend="eager")(tokens()), model(tokens()))
    late = torch.compile(bare, backend="eager")
    late(tokens())
    scales.attach(late)
    torch.testing.assert_close(late(tokens()), bare(tokens()))
    other = adopt(Plain, base=8, target=TARGET, optimizer=torch.optim.AdamW).attach(Plain(TARGET))
    torch.testing.assert_close(torch.compile(other, backend="eager")(tokens()), other(tokens()))


def test_a_whole_adopted_model_is_saved_and_loaded(tmp_path):
    model, _ = ready()
    torch.save(model, tmp_path / "model.pt")
    torch.testing.assert_close(torch.load(tmp_path / "model.pt", weights_only=False)(tokens()), model(tokens()))


def test_a_model_begun_on_meta_is_initialised_like_any_other():
    expected, scales = ready()
    with torch.device("meta"):
        model = Plain(TARGET)
    model = model.to_empty(device="cpu")
    scales.initialize(model, seed=0)
    torch.testing.assert_close(scales.attach(model)(tokens()), expected(tokens()))


def test_loading_a_state_by_assignment_keeps_the_scales():
    model, scales = ready()
    other = scales.attach(Plain(TARGET))
    other.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    torch.testing.assert_close(other(tokens()), model(tokens()))
    assert len(scales.groups(other, 1e-2)) == 3


def test_a_compiled_model_has_the_same_groups():
    model, scales = ready()
    compiled = torch.compile(model, backend="eager")
    names = [[group["names"] for group in scales.groups(m, 1e-2)] for m in (model, compiled)]
    assert names[0] == names[1]


def test_a_folded_model_gives_the_same_logits_without_hooks():
    model, scales = ready()
    bare = Plain(TARGET)
    bare.load_state_dict(model.state_dict())
    torch.testing.assert_close(scales.fold(bare)(tokens()), model(tokens()))
    tied = lambda width: Plain(width, tied=True)  # noqa: E731
    with pytest.raises(InputError, match="embedding and readout at once; folding would change both"):
        adopted(build=tied).fold(tied(TARGET))


def test_a_learning_rate_that_is_a_tensor_scales_every_group_by_its_own_factor():
    model, scales = ready()
    lr = torch.tensor(1e-2)
    groups = scales.groups(model, lr)
    assert sorted({float(group["lr"]) for group in groups}) == pytest.approx([1e-2 / M, 1e-2])
    assert float(lr) == pytest.approx(1e-2)


def test_groups_train_as_the_same_rates_by_hand():
    model, scales = ready()
    other = copy.deepcopy(model)
    by_hand = [{"params": [p], "lr": 1e-2 * scales.table.scales[n].lr} for n, p in other.named_parameters()]
    found = train(model, torch.optim.AdamW(scales.groups(model, 1e-2), weight_decay=0.0))
    torch.testing.assert_close(found, train(other, torch.optim.AdamW(by_hand, weight_decay=0.0)))


def test_adapters_that_were_added_later_need_a_scale():
    model, scales = ready()
    model.blocks[0].up.adapter = nn.Linear(TARGET, 4, bias=False)
    name = "blocks.0.up.adapter.weight"
    with pytest.raises(InputError, match=r"the table lacks blocks\.0\.up\.adapter\.weight.*extra="):
        scales.groups(model, 1e-2)
    groups = scales.groups(model, 1e-2, extra={name: Scale(init_std=0.0, lr=2.0)})
    assert [group["lr"] for group in groups if name in group["names"]] == [2e-2]


def test_a_weight_that_is_computed_from_others_is_asked_for():
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    def build(width):
        model = Plain(width)
        torch.nn.utils.parametrize.register_parametrization(model.head, "weight", Doubled())
        return model

    with pytest.raises(InputError, match=r"head\.parametrizations\.weight\.original.*state it"):
        adopted(build=build)


class Odd(nn.Module):
    """A block with tensors that no layer of torch holds."""

    def __init__(self, width):
        super().__init__()
        self.scale, self.mix = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width, 2 * width))
        self.router, self.pads = nn.Parameter(torch.ones(4, width)), nn.Parameter(torch.ones(3, width))
        self.kernel = nn.Parameter(torch.ones(width, width, 3))
        self.gate_bias, self.flag = nn.Parameter(torch.ones(4, width)), nn.Parameter(torch.ones(5))
        self.experts, self.few = nn.Parameter(torch.ones(4, 2 * width, width)), nn.Linear(width, 8)


def test_all_kinds_of_tensors_that_shapes_cannot_tell_are_asked_for_at_once():
    """One round for the user, with a line to confirm; how a stack lies is not guessed, and the line itself says so."""

    def build(width):
        return nn.Sequential(nn.Embedding(32, width), Odd(width), Odd(width), nn.Linear(width, 32))

    with pytest.raises(InputError, match=r"tensor 1\.scale .*, 1\.mix .*1\.flag \(shape \(5,\), in a Odd\)") as refused:
        adopted(build=build)
    guess = (
        '{"*.scale": "gain", "*.mix": "hidden", "*.router": "router", "*.pads": "??", "*.kernel": "hidden", '
        '"*.gate_bias": "vector", "*.flag": "fixed", "*.experts": ("hidden", "-??")}'
    )
    assert f"roles={guess}." in str(refused.value) and 'roles={"*.few.weight": "hidden"}.' in str(refused.value)
    with pytest.raises(InputError, match=r"axes '-\?\?' of 1\.experts do not fit"):
        adopted(build=build, roles=ast.literal_eval(guess) | {"*.pads": "vector"})
    with pytest.raises(InputError, match=r"states '\?\?' for '\*\.pads'"):
        adopted(build=build, roles=ast.literal_eval(guess))
    told = {"*.experts": ("hidden", "-oi"), "*.few.weight": "hidden", "*.pads": "vector"}
    stated = adopted(build=build, roles=ast.literal_eval(guess) | told)
    assert stated.table.sites["2.experts"].fan_in == TARGET


class Apart(nn.Module):
    """A matrix of one's own, called weight as those of torch's layers are."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, width))


@pytest.mark.parametrize("own", [Apart, lambda w: nn.Sequential(nn.Linear(w, 8), nn.Linear(8, w))])
def test_a_proposed_line_says_nothing_of_tensors_that_are_told(own):
    def build(width):
        return nn.Sequential(nn.Embedding(32, width), own(width), nn.Linear(width, 32))

    with pytest.raises(InputError) as refused:
        adopted(build=build)
    roles = ast.literal_eval(str(refused.value).split("roles=")[1].split("}")[0] + "}")
    filled = {"1.0.weight": "hidden", "2.weight": "readout"}  # which of the two reads out, no shape tells
    found = adopted(
        build=build, roles={n: filled[n] if role == "??" else role for n, role in roles.items()}
    ).table.sites
    assert (found["0.weight"].role, found["2.weight"].role) == ("embedding", "readout")
    assert all(name.startswith("1.") or name in filled for name in roles)


def test_tensors_of_one_name_and_other_shapes_are_all_named():
    class Some(nn.Module):
        def __init__(self, *shape):
            super().__init__()
            self.mix = nn.Parameter(torch.ones(*shape))

    def build(width):
        return nn.Sequential(nn.Embedding(32, width), Some(width, width), Some(width), nn.Linear(width, 32))

    with pytest.raises(InputError, match=r'1\.mix .*2\.mix .*\{"1\.mix": "hidden", "2\.mix": "vector"\}'):
        adopted(build=build)


def test_multipliers_and_groups_survive_a_safetensors_round_trip(tmp_path):
    from safetensors.torch import load_file, save_file

    model, scales = ready()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = scales.attach(Plain(TARGET))
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    torch.testing.assert_close(other(tokens()), model(tokens()))


def test_a_pretrained_model_keeps_its_values_and_trains_at_the_tables_rates():
    model = Plain(TARGET)
    before, expected = copy.deepcopy(model.state_dict()), model(tokens())
    scales = adopted(rule=MuP(form="initial"))  # no multipliers: the outputs of the pretrained model stay
    torch.testing.assert_close(scales.attach(model)(tokens()), expected)
    groups = scales.groups(model, 1e-3, pretrained=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {group["lr_mult"] for group in groups} == {1.0, 1 / M}


def test_frozen_tensors_are_left_out():
    model, scales = ready()
    model.embedding.weight.requires_grad_(False)
    assert all("embedding.weight" not in group["names"] for group in scales.groups(model, 1e-2))


# schedulers

KEEP = {
    "linear warm-up": lambda o, r: torch.optim.lr_scheduler.LinearLR(o, 0.1, total_iters=5),
    "cosine to zero": lambda o, r: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
    "by lambda": lambda o, r: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "one cycle, scaled": lambda o, r: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=r, total_steps=10),
}
ERASE = {
    "one cycle": lambda o, r: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=1e-2, total_steps=10),
    "cosine to a floor": lambda o, r: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10, eta_min=1e-3),
}


@pytest.mark.parametrize("kind", [*KEEP, *ERASE])
def test_schedulers_that_erase_the_factors_are_found(kind):
    model, scales = ready()
    optimizer = torch.optim.AdamW(scales.groups(model, 1e-2))
    schedule = (KEEP | ERASE)[kind](optimizer, scales.rates(optimizer, 1e-2))
    if kind in KEEP:
        train(model, optimizer, after=lambda: (schedule.step(), scales.check(optimizer)))
        return
    with pytest.raises(InputError, match="not in the table's ratios: a scheduler set them"):
        train(model, optimizer, after=lambda: (schedule.step(), scales.check(optimizer)))


# errors


def test_a_dimension_that_changes_for_another_reason_than_width_is_refused():
    def build(width):
        model = Plain(width)
        model.head = nn.Linear(width, 32 if width <= 2 * BASE else 50)  # another vocabulary at the target
        return model

    with pytest.raises(InputError, match=r"Dimension 0 of head\.weight is 32 at the base, .* and 50 at the target"):
        adopted(build=build)
    stated = {"head.weight": "readout", "head.bias": "fixed"}
    assert adopted(build=build, roles=stated).table.forward == {"head": 1 / M}


def test_other_proportions_are_followed_and_said():
    def build(width):
        model = Plain(width)
        wide = 4 * width if width <= 2 * BASE else 8 * width
        for block in model.blocks:
            block.up, block.down = nn.Linear(width, wide), nn.Linear(wide, width)
        return model

    scales = adopted(build=build)
    assert scales.table.scales["blocks.0.down.weight"].lr == 1 / (2 * M)
    first = str(scales).splitlines()[0]
    assert first.startswith("blocks.*.up.weight grows 8 times where most dimensions grow 4 times")
    assert ScaleTable.from_json(scales.table.to_json()) == scales.table


def test_the_report_has_one_line_for_like_tensors_of_all_blocks():
    lines = str(adopted()).splitlines()
    up = "blocks.*.up.weight (2) hidden 256 x 64 std 0.125 lr x 0.25, eps x 0.25, decay x 4"
    assert any(line.split() == up.split() for line in lines)
    assert lines[-1] == "input x 0.25: head" and len(lines) < 25


def test_lines_and_multipliers_of_a_sequential_tell_its_layers_apart():
    def build(width):
        hidden = [nn.Linear(width, width, bias=False) for _ in range(7)]
        return nn.Sequential(nn.Linear(8, width, bias=False), *hidden, nn.Linear(width, 4, bias=False))

    told = str(adopt(build, base=BASE, target=TARGET, optimizer=torch.optim.AdamW)).splitlines()
    assert [line.split()[0] for line in told[:3]] == ["0.weight", "{1,2,3,..,7}.weight", "8.weight"]
    assert told[3:] == ["input x 0.25: 8"]


def test_sizes_that_do_not_differ_are_refused():
    with pytest.raises(InputError, match=r"build\(16\) and build\(32\) have the same shapes"):
        adopted(build=lambda width: Plain(48))


def test_a_model_that_fails_on_meta_says_why():
    def build(width):
        model = Plain(width)
        model.scale = float(model.head.weight.sum())
        return model

    with pytest.raises(InputError, match=r"build\(64\) fails on the meta device.*if it refuses this size"):
        adopted(build=build)


def test_a_layer_without_a_shape_is_named_with_what_to_do():
    def filled(width):
        model = nn.Sequential(nn.LazyLinear(width), nn.LazyLinear(10))
        model(torch.zeros(1, 7))
        return model

    with pytest.raises(InputError, match=r"0.weight, 0.bias of the model have no shape .*Linear\(in, out\)") as refused:
        adopted(build=lambda width: nn.Sequential(nn.LazyLinear(width), nn.Linear(width, 10)))
    assert "read values" not in str(refused.value)
    assert adopted(build=filled).table.sites["0.weight"].shape == (TARGET, 7)


def test_a_table_of_another_model_or_size_is_refused():
    scales = adopted()
    with pytest.raises(InputError, match=r"of another model: the model lacks .* and the table lacks weight"):
        scales.groups(nn.Linear(4, 4, bias=False), 1e-2)
    with pytest.raises(InputError, match=r"of shape \(32, 64\), the model's is \(32, 16\)"):
        scales.groups(Plain(BASE), 1e-2)


def test_a_wrong_role_is_refused():
    with pytest.raises(InputError, match="roles states 'wide'"):
        adopted(roles={"*": "wide"})
    with pytest.raises(InputError, match="roles names 'router', which no tensor matches"):
        adopted(roles={"router": "hidden"})


@pytest.mark.parametrize("given, said", [
    ({"rule": "mup"}, r"rule is 'mup'; give an object .*rules\.MuP\(\)"),
    ({"roles": ["a"]}, r"roles is \['a'\]; give roles by a tensor's name"),
])  # fmt: skip
def test_a_rule_and_roles_of_another_kind_are_refused(given, said):
    with pytest.raises(InputError, match=said):
        adopt(Plain, base=BASE, target=TARGET, optimizer=torch.optim.AdamW, **given)


def test_several_heads_may_each_be_a_readout():
    class TwoHeads(Plain):
        def __init__(self, width):
            super().__init__(width)
            self.cls = nn.Linear(width, 3)

    with pytest.raises(InputError, match='of several heads each may be one: say "readout" of all'):
        adopt(TwoHeads, base=BASE, target=TARGET, optimizer=torch.optim.AdamW)
    roles = {"head.weight": "readout", "cls.weight": "readout"}
    table = adopt(TwoHeads, base=BASE, target=TARGET, optimizer=torch.optim.AdamW, roles=roles).table
    assert table.forward == {"head": 1 / M, "cls": 1 / M}


def test_another_rule_may_be_taken():
    scales = adopted(rule=Standard()).table.scales
    assert {scale.lr for scale in scales.values()} == {1.0}
    assert adopted(rule=MuP(form="initial")).table.forward == {}


class Positioned(nn.Module):
    """Positions that are learned, and two heads at the end."""

    def __init__(self, width):
        super().__init__()
        self.patch, self.pos = nn.Conv2d(3, width, 4, 4), nn.Parameter(torch.zeros(1, 9, width))
        self.head, self.aux = nn.Linear(width, 10), nn.Linear(width, 5)


def test_an_input_whose_fan_in_grows_with_width_is_refused_with_what_fits():
    heads = {"head.weight": "readout", "aux.weight": "readout"}
    with pytest.raises(
        InputError, match=r'"input" for pos of shape \(1, 9, 16\): .* grows .* By its shape it is "vector"'
    ):
        adopted(build=Positioned, roles={"pos": "input"} | heads)
    with pytest.raises(InputError, match=r'"input" for head.weight .* By its shape it is "readout"'):
        adopted(build=Positioned, roles={"pos": "vector"} | heads | {"head.weight": "input"})
    assert adopted(build=Positioned, roles={"pos": "vector"} | heads).table.scales["pos"]


def test_of_several_heads_none_is_taken_for_the_readout_by_where_it_stands():
    with pytest.raises(InputError, match='say "readout" of all') as refused:
        adopted(build=Positioned, roles={"pos": "vector"})
    assert 'roles={"head.weight": "??", "aux.weight": "??"} (?? is for you to fill).' in str(refused.value)
