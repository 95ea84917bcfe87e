"""A learned optimizer on parts of tensors is the one on whole tensors: the mathematics here, then real processes."""

from __future__ import annotations

import copy
import weakref
from dataclasses import replace
from typing import Any

import pytest
import spread
import torch
import torch.distributed as dist
from test_adopt import TARGET, Plain, train
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import windtunnel as wt
from windtunnel.bridge import TorchOptimizer
from windtunnel.parts.learned.divided import DividedFC
from windtunnel.parts.learned.small_fc import SmallFC
from windtunnel.parts.learned.weights import Weights, bundled
from windtunnel.parts.optimizers import AdamW, Muon
from windtunnel.recipe import Site
from windtunnel.train.divided import Share
from windtunnel.train.divided import together as each_as_it_ends
from windtunnel.train.pack import groups_of, numbers_of, scaled
from windtunnel.train.ranks import Ranks
from windtunnel.train.sharded_update import ShardedUpdate

SHAPES = ((), (7,), (5, 9), (9, 5), (6, 6), (4, 3, 5, 2), (2, 8, 6), (3, 2, 5, 5))
HP = {"lr": torch.tensor(0.7, dtype=torch.float64), "weight_decay": torch.tensor(0.1, dtype=torch.float64)}


def parts_of(weights: Weights) -> list[SmallFC]:
    """The published form and the one that is free of scale, with the axes of JAX and of torch."""
    found = []
    for scale_free in (False, True):
        for square_axes in ("io", "oi"):
            features = replace(weights.card.features, scale_free=scale_free, square_axes=square_axes)
            card = replace(weights.card, features=features)
            found.append(SmallFC(weights=Weights.of(card, weights.tensors), weight_decay=0.1))
    return found


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
@pytest.mark.parametrize("world", [1, 2, 4])
def test_parts_of_a_tensor_move_as_the_whole_in_double_precision(shape: tuple[int, ...], world: int) -> None:
    """Every axis cut, parts of unequal length and empty ones: one exact rule, whatever the cut."""
    for part in parts_of(bundled("small-fc-digits")):
        for dim in range(len(shape)):
            if part.divided(site_of(shape), dim) is None:
                assert dim and len(shape) > 3  # behind another axis that is not one of the two largest
                continue
            whole, pieces, state, states = walked(part, shape, dim, world, torch.float64, steps=4)
            torch.testing.assert_close(torch.cat(pieces, dim), whole, rtol=1e-11, atol=1e-13)
            axes = part.divided(site_of(shape), dim).axes
            for leaf, value in state.items():
                if leaf in axes:
                    axis, length = axes[leaf]
                    assert value.shape[axis] == length
                    joined = torch.cat([each[leaf] for each in states], axis)
                    torch.testing.assert_close(joined, value, rtol=1e-11, atol=1e-30)
                else:
                    for each in states:
                        torch.testing.assert_close(each[leaf], value, rtol=1e-11, atol=1e-30)


def site_of(shape: tuple[int, ...]) -> Site:
    return Site(role="hidden", shape=shape, fan_in=shape[-1] if shape else 1, fan_out=1)


def walked(part: Any, shape: tuple[int, ...], dim: int, world: int, dtype: torch.dtype, steps: int) -> tuple:
    """A tensor moved whole, and cut as torch cuts it; (whole, pieces, state, states) at the end."""
    draw, site, divided = torch.Generator().manual_seed(3), site_of(shape), part.divided(site_of(shape), dim)
    whole = torch.randn(shape, generator=draw, dtype=dtype)
    pieces = cut(whole, dim, world)
    state, states = part.init(whole, site), [divided.init(piece) for piece in pieces]
    for step in range(steps):
        grad = torch.randn(shape, generator=draw, dtype=dtype) * 10.0 ** (step - 2)
        if len(shape) > 1:
            grad[-1] = 0.0  # a row that is not looked up
        move, state = part.update(grad, state, whole, HP, site)
        grads = cut(grad, dim, world)
        moves, states = in_steps([divided.update(g, s, p, HP) for g, s, p in zip(grads, states, pieces, strict=True)])
        whole = whole + move
        pieces = [piece + m for piece, m in zip(pieces, moves, strict=True)]
    return whole, pieces, state, states


def cut(tensor: Tensor, dim: int, world: int) -> list[Tensor]:
    """As torch.chunk, and empty parts for those who get none."""
    found = [piece.clone() for piece in tensor.chunk(world, dim)]
    return found + [tensor.narrow(dim, 0, 0).clone() for _ in range(world - len(found))]


def in_steps(updates: list[Any]) -> tuple[list[Tensor], list[Any]]:
    """The processes' generators, their sums made by hand."""
    given: list[Any] = [None] * len(updates)
    for _ in range(2):
        asked = [update.send(sums) for update, sums in zip(updates, given, strict=True)]
        given = [[torch.stack(same).sum(0) for same in zip(*asked, strict=True)]] * len(updates)
    done = []
    for update, sums in zip(updates, given, strict=True):
        with pytest.raises(StopIteration) as ended:
            update.send(sums)
        done.append(ended.value.value)
    return [move for move, _ in done], [state for _, state in done]


class Summed:
    """torch.distributed of two processes that have the same."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def all_reduce(self, row: Tensor, group: Any) -> None:
        self.order.append("sum")
        row.mul_(2)


def test_a_step_is_there_for_one_tensor_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tensors that sum once, twice or never; each ends in turn, before the sums of those that go on."""
    seen, made = Summed(), list[Any]()
    monkeypatch.setattr(dist, "all_reduce", seen.all_reduce)

    def update(sums: int) -> Any:
        total = 1.0
        for _ in range(sums):
            (given,) = yield [torch.tensor([total])]
            total = float(given)
        alive = [ref for ref in made if ref() is not None]
        assert not alive
        move = torch.full((5,), total)
        made.append(weakref.ref(move))
        return move, {}

    share = Share(0, 0, object(), 2)
    wanted = {0: 2, 1: 1, 2: 0, 3: 1, 4: 2, 5: 0}
    found = {}
    for index, result in each_as_it_ends([(update(sums), share) for sums in wanted.values()]):
        found[index] = float(result[0][0])
        seen.order.append(str(index))
        del result
    assert found == {index: 2.0**sums for index, sums in wanted.items()}
    assert seen.order == ["2", "5", "sum", "1", "3", "sum", "0", "4"]


# in real processes

STEPS = 20
OPTIMIZERS = {name: SmallFC(weights=bundled(name), weight_decay=0.01) for name in ("mulo-digits", "small-fc-digits")}


class Decoder(Plain):
    """With a matrix of one row and a vector of one entry, of which some processes have nothing."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.few = nn.Linear(width, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) * (1 + self.few.weight.mean() + self.few.bias)


def with_mesh(part: Any, mesh: Any) -> tuple[nn.Module, TorchOptimizer]:
    """A decoder of two blocks, whole or sharded, and its optimizer."""
    from torch.distributed.fsdp import fully_shard

    scales = wt.adopt(Decoder, base=32, target=TARGET, optimizer=part, roles={"few.weight": "hidden"})
    model: Any = Decoder(TARGET)
    scales.initialize(model, seed=0)
    scales.attach(model)
    if mesh is not None:
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model, TorchOptimizer(part, model, scales)


def values(model: nn.Module) -> dict[str, Tensor]:
    """All weights, whole."""
    return {n: (p.full_tensor() if isinstance(p, DTensor) else p).detach() for n, p in model.named_parameters()}


class Largest(TorchDispatchMode):
    """The most entries that a tensor had which was made meanwhile."""

    entries = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(found) if isinstance(t, Tensor) and not isinstance(t, DTensor)]
        self.entries = max([self.entries, *(t.numel() for t in made if t.device.type != "meta")])
        return found


class Wide(nn.Module):
    """One large matrix, larger than a block of features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inside, self.out = nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inside(x))


def sharded(ranks: Ranks) -> dict[str, Any]:
    """What the processes find, each for itself."""
    found: dict[str, Any] = {"largest": largest(ranks)}
    for name, part in OPTIMIZERS.items():
        model, optimizer = with_mesh(part, ranks.mesh)
        train(model, optimizer, steps=1)
        with CommDebugMode() as seen:
            optimizer.step()
        counted = {str(kind).rpartition(".")[2]: count for kind, count in seen.get_comm_counts().items()}
        model, optimizer = with_mesh(part, ranks.mesh)
        steps_with_drawn_gradients(model, optimizer)
        held = sum(leaf_bytes(leaf) for state in optimizer.state.values() for leaf in state.values())
        found[name] = {
            "weights": values(model), "comms": counted, "held": held, "again": again(part, ranks, model, optimizer),
        }  # fmt: skip
    with pytest.MonkeyPatch.context() as monkeypatch:
        found["gathered"] = gathered(ranks, monkeypatch)
        found["moves"] = moves(ranks, monkeypatch)
    return found | {name: otherwise(ranks, *cuts) for name, cuts in CUTS.items()}


def leaf_bytes(leaf: Any) -> int:
    return (leaf.to_local() if isinstance(leaf, DTensor) else leaf).nbytes


def largest(ranks: Ranks) -> tuple[int, int, int]:
    """Entries of the largest tensor that a step made, of this process's rows, and of the matrix."""
    from torch.distributed.fsdp import fully_shard

    part = OPTIMIZERS["small-fc-digits"]
    scales = wt.adopt(Wide, base=8, target=704, optimizer=part)
    model = Wide(704)
    scales.initialize(model, seed=0)
    fully_shard(model, mesh=ranks.mesh)
    optimizer = TorchOptimizer(part, model, scales)
    model(torch.ones(2, 704)).sum().backward()
    model.reshard()
    with Largest() as seen:
        optimizer.step()
    weight: Any = model.inside.weight
    return seen.entries, weight.to_local().numel(), weight.numel()


def again(part: SmallFC, ranks: Ranks, model: nn.Module, optimizer: TorchOptimizer) -> bool:
    """Whether another optimizer goes on from the whole state as torch saves it, as this one does."""
    from torch.distributed.checkpoint import state_dict as saving

    whole = saving.StateDictOptions(full_state_dict=True)
    kept = [copy.deepcopy(saving.get_state_dict(model, optimizer, options=whole))]
    dist.broadcast_object_list(kept)
    through = train(model, optimizer)
    other, fresh = with_mesh(part, ranks.mesh)
    saving.set_state_dict(other, fresh, model_state_dict=kept[0][0], optim_state_dict=kept[0][1], options=whole)
    return torch.equal(train(other, fresh), through)


CUTS = {
    "columns, as tensor parallelism cuts them": ((Replicate(), Shard(1)), (Replicate(), Replicate())),
    "copies of shards": ((Replicate(), Shard(0)), (Replicate(), Shard(0))),
    "two axes": ((Shard(0), Shard(1)), (Replicate(), Replicate())),
}


def otherwise(ranks: Ranks, of_matrices: Any, of_vectors: Any) -> dict[str, Tensor]:
    """The weights after steps, matrices and vectors being cut in ways that fully_shard has not."""
    mesh = init_device_mesh("cpu", (1, ranks.world))
    part = OPTIMIZERS["small-fc-digits"]
    scales, model = wt.adopt(Wide, base=8, target=24, optimizer=part), Wide(24)
    scales.initialize(model, seed=0)
    for module in (model.inside, model.out):
        for name, param in list(module.named_parameters()):
            cut = of_matrices if param.ndim > 1 else of_vectors
            setattr(module, name, nn.Parameter(distribute_tensor(param.detach(), mesh, cut, src_data_rank=None)))
    optimizer = TorchOptimizer(part, model, scales)
    steps_with_drawn_gradients(model, optimizer)
    return values(model)


SUMMED = {
    (name, cut): part
    for name, part in {"small-fc-digits": OPTIMIZERS["small-fc-digits"], "AdamW": AdamW(lr=1e-2)}.items()
    for cut in (Replicate(), Shard(0))
}


def wide(part: Any) -> tuple[nn.Module, Any]:
    scales, model = wt.adopt(Wide, base=8, target=24, optimizer=part), Wide(24)
    scales.initialize(model, seed=0)
    return model, scales


def with_sums_to_be_made(ranks: Ranks, part: Any, cut: Any, engine: bool) -> dict[str, Tensor]:
    """The weights after steps with gradients that are sums over the processes, each of which has its own share."""
    mesh = init_device_mesh("cpu", (ranks.world, 1))
    model, scales = wide(part)
    for module in (model.inside, model.out):
        for name, param in list(module.named_parameters()):
            placed = distribute_tensor(param.detach(), mesh, (Replicate(), cut), src_data_rank=None)
            setattr(module, name, nn.Parameter(placed))
    groups, numbers = groups_of(scales.table), numbers_of(part)
    hps = [{n: torch.tensor(v).double() for n, v in scaled(numbers, group.scale).items()} for group in groups]
    engines = ShardedUpdate(model, groups, part, hps) if engine else None
    optimizer = TorchOptimizer(part, model, scales)
    for step in range(STEPS):
        draw = torch.Generator().manual_seed(step)
        for param in model.parameters():
            grad = torch.randn(param.shape, generator=draw)
            shares = torch.randn(ranks.world, *param.shape, generator=draw)
            own = (shares - shares.mean(0) + grad / ranks.world)[ranks.rank]
            param.grad = DTensor.from_local(own, mesh, (Partial(), cut), run_check=False)
        optimizer.step() if engines is None else engines.step(hps)
    return {n: p.to_local().detach() for n, p in model.named_parameters()}


def summed(ranks: Ranks) -> list[dict[str, Tensor]]:
    return [with_sums_to_be_made(ranks, p, cut, e) for (_, cut), p in SUMMED.items() for e in (False, True)]


@pytest.mark.slow
def test_a_gradient_that_is_still_to_be_summed_over_the_processes_is_summed(tmp_path) -> None:
    """Slow: starts two processes. So comes that of a weight that all have under tensor parallelism (a norm's)."""
    torch.set_num_threads(1)
    first, second = spread.over(2, summed, tmp_path)
    wanted = []
    for part in SUMMED.values():
        model, scales = wide(part)
        optimizer = TorchOptimizer(part, model, scales)
        for step in range(STEPS):
            draw = torch.Generator().manual_seed(step)
            for param in model.parameters():
                param.grad = torch.randn(param.shape, generator=draw)
                torch.randn(2, *param.shape, generator=draw)
            optimizer.step()
        wanted += [values(model)] * 2
    for one, other, want in zip(first, second, wanted, strict=True):
        assert all(torch.equal(one[n], other[n]) for n in want)
        assert apart(one, want) < 1e-5


def gathered(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Of a part that needs whole matrices: the most gathered tensors there were at once, and how many in all."""
    model, optimizer = with_mesh(Muon(lr=1e-2, others_lr=1e-2), ranks.mesh)
    train(model, optimizer, steps=1)
    made: list[Any] = []
    own, most = DTensor.full_tensor, 0

    def seen(self: Any, **given: Any) -> Tensor:
        nonlocal most
        found = own(self, **given)
        made.append(weakref.ref(found))
        most = max(most, sum(ref() is not None for ref in made))
        return found

    monkeypatch.setattr(DTensor, "full_tensor", seen)
    optimizer.step()
    monkeypatch.undo()
    return most, len(made)


def moves(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int, int]:
    """The most steps of tensors there were at once as one was made, with either engine, and how many there are."""
    part, most = OPTIMIZERS["small-fc-digits"], [0]
    model, optimizer = with_mesh(part, ranks.mesh)
    scales = wt.adopt(Decoder, base=32, target=TARGET, optimizer=part, roles={"few.weight": "hidden"})
    groups = groups_of(scales.table)
    hps = [{n: v.double() for n, v in HP.items()} for _ in groups]
    engine = ShardedUpdate(model, groups, part, hps)
    train(model, optimizer, steps=1)
    own, made = DividedFC.update, list[Any]()

    def seen(self: Any, *given: Any) -> Any:
        move, state = yield from own(self, *given)
        most[-1] = max(most[-1], 1 + sum(ref() is not None for ref in made))
        made.append(weakref.ref(move))
        return move, state

    monkeypatch.setattr(DividedFC, "update", seen)
    optimizer.step()
    most.append(0)
    engine.step(hps)
    return most[0], most[1], len(made) // 2


def steps_with_drawn_gradients(model: nn.Module, optimizer: TorchOptimizer) -> None:
    """The gradients of a training would carry last bits from step to step: to 1e-3 in 20 steps, in one process."""
    for step in range(STEPS):
        draw = torch.Generator().manual_seed(step)
        for param in model.parameters():
            grad = torch.randn(param.shape, generator=draw)
            cut_alike = isinstance(param, DTensor)
            param.grad = (
                distribute_tensor(grad, param.device_mesh, param.placements, src_data_rank=None) if cut_alike else grad
            )
        optimizer.step()


@pytest.fixture(scope="module", params=[2, 3])
def together(request: Any, tmp_path_factory: Any) -> list[dict[str, Any]]:
    return spread.over(request.param, sharded, tmp_path_factory.mktemp(f"over{request.param}"))


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Tensor]]:
    torch.set_num_threads(1)
    found = {}
    for name, part in OPTIMIZERS.items():
        model, optimizer = with_mesh(part, None)
        steps_with_drawn_gradients(model, optimizer)
        found[name] = values(model)
    part = OPTIMIZERS["small-fc-digits"]
    scales, model = wt.adopt(Wide, base=8, target=24, optimizer=part), Wide(24)
    scales.initialize(model, seed=0)
    steps_with_drawn_gradients(model, TorchOptimizer(part, model, scales))
    return found | dict.fromkeys(CUTS, values(model))


def apart(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest distance of a tensor from the wanted one, over its norm."""
    return max(float((found[n] - w).norm() / w.norm()) for n, w in wanted.items())


@pytest.mark.slow
def test_sharded_over_processes_it_trains_as_over_one(together, alone) -> None:
    """Slow: starts two and three processes. 20 steps, uneven shards, and tensors that some processes have none of."""
    for name in OPTIMIZERS:
        for gave in together:
            assert apart(gave[name]["weights"], alone[name]) < 1e-6, name
    for name in CUTS:
        assert apart(together[0][name], alone[name]) < 1e-6, name


@pytest.mark.slow
def test_a_step_is_two_all_reduces_for_all_tensors_and_gathers_nothing(together) -> None:
    """Slow: see above."""
    for gave in together:
        for name in OPTIMIZERS:
            assert gave[name]["comms"] == {"allreduce_": 2}, gave[name]["comms"]
        made, rows, whole = gave["largest"]
        assert made <= rows < whole


@pytest.mark.slow
def test_a_part_that_needs_whole_tensors_has_those_of_a_few_at_once(together) -> None:
    """Slow: see above. Weights, gradient and state of one tensor, while the one before is let go."""
    for gave in together:
        most, made = gave["gathered"]
        assert most <= 6 < made / 3


@pytest.mark.slow
def test_steps_of_tensors_are_made_and_taken_one_by_one(together) -> None:
    """Slow: see above. In an optimizer of torch's kind and in the engine."""
    for gave in together:
        in_optimizer, in_engine, tensors = gave["moves"]
        assert in_optimizer == in_engine == 1 < tensors


@pytest.mark.slow
def test_each_process_keeps_its_share_of_the_state(together) -> None:
    """Slow: see above. All but the factored statistics over rows, which every process has."""
    for name, part in OPTIMIZERS.items():
        model, optimizer = with_mesh(part, None)
        train(model, optimizer, steps=1)
        whole = sum(leaf_bytes(leaf) for state in optimizer.state.values() for leaf in state.values())
        alike = sum(leaf_bytes(state["over_a"]) + 4 for state in optimizer.state.values())
        for gave in together:
            assert gave[name]["held"] <= 1.1 * whole / len(together) + alike < 0.8 * whole


@pytest.mark.slow
def test_it_goes_on_from_the_whole_state_to_the_same_bits(together) -> None:
    """Slow: see above. Through torch's distributed checkpoint, whole and cut again."""
    assert all(gave[name]["again"] for gave in together for name in OPTIMIZERS)
