"""Local training in real processes is the simulated one; what is sent, kept, left out and refused."""

from __future__ import annotations

import copy
import linecache
import os
import subprocess
import sys
import warnings
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import spread
import torch
import torch.distributed as dist
from test_meta import asked, local_task
from torch import nn
from torch.nn import functional as F

import windtunnel as wt
from windtunnel.bridge import LocalSteps
from windtunnel.errors import InputError
from windtunnel.meta.local import Local, LocalInner, bytes_per_round, simulated
from windtunnel.parts.learned.features import Features
from windtunnel.parts.learned.outer import LearnedOuter, SlowMo
from windtunnel.parts.learned.weights import Weights
from windtunnel.parts.optimizers import AdamW
from windtunnel.scaling.adopt import Adopted
from windtunnel.train.pack import build_model, groups_of, initial_params, table_of
from windtunnel.train.ranks import Ranks

CPU = torch.device("cpu")
ROUNDS, STEPS, RATE, SEED = 12, 3, 0.5, 4
COLLECTIVES = ("all_reduce", "all_to_all_single", "all_gather", "all_gather_object", "broadcast")
FORMS = ("averaging", "SlowMo", "residual", "statistics")


@pytest.fixture(scope="module")
def rules() -> dict[str, Any]:
    """Outer rules; the learned ones have the first weights of a meta-training, which is enough to be told apart."""
    found: dict[str, Any] = {"averaging": SlowMo(lr=1.0, momentum=0.0), "SlowMo": SlowMo(lr=0.7, momentum=0.8)}
    for name, statistics in (("residual", False), ("statistics", True)):
        features = Features(scale_free=True, square_axes="oi", more=4 if statistics else 0)
        local = Local(workers=2, steps=2, statistics=statistics)
        weights = asked(tasks=(local_task(),), local=local, outer_steps=1, features=features).run()
        assert weights is not None
        found[name] = LearnedOuter(weights=weights)
    return found


def ready(outer: Any, **given: Any) -> tuple[nn.Module, LocalSteps]:
    """The task's model at its first values, SGD at the table's rates, and the workers of this process's group."""
    task = local_task()
    table = table_of(task.recipe.but(optimizer=outer), task.rung, task.base)
    model, groups = build_model(task.recipe, task.rung), groups_of(table)
    params = dict(model.named_parameters())
    for group, stack in zip(groups, initial_params(groups, [SEED], CPU), strict=True):
        for name, value in zip(group.names, stack[0], strict=True):
            params[name].data.copy_(value)
    scales = Adopted(table=table)
    own = Adopted(table=table_of(task.recipe, task.rung, task.base))
    local = torch.optim.SGD(own.groups(scales.attach(model), RATE, pretrained=True), RATE)
    return model, LocalSteps(outer, model, scales, local, **({"steps": STEPS, "carried": False} | given))


def trained(model: nn.Module, workers: LocalSteps, inner: LocalInner, rounds: range) -> list[float]:
    """The mean local loss of each round, this worker's own."""
    rank, count, losses = workers.workers.rank, workers.workers.count, []
    for number in rounds:
        inputs, targets = inner.batches([SEED], number, 1)
        x, y = (t[0, 0].unflatten(0, (count, STEPS, -1))[rank] for t in (inputs, targets))
        own = []
        for step in range(STEPS):
            workers.local.zero_grad()
            loss = inner.task.recipe.objective(model(x[step]), y[step]).mean()
            loss.backward()
            workers.local.step()
            assert workers.step() == (step == STEPS - 1)
            own.append(float(loss.detach()))
        losses.append(sum(own) / STEPS)
    return losses


def inner_of(outer: Any, workers: int) -> LocalInner:
    statistics = bool(getattr(outer, "statistics", False))
    return LocalInner(local_task(), CPU, Local(workers=workers, steps=STEPS, statistics=statistics))


@dataclass
class Counted:
    """Calls of torch.distributed's collectives, by name."""

    calls: dict[str, int]

    def __enter__(self) -> Counted:
        self._own = {name: getattr(dist, name) for name in COLLECTIVES}
        for name, own in self._own.items():
            setattr(dist, name, self._counting(name, own))
        return self

    def __exit__(self, *error: Any) -> None:
        for name, own in self._own.items():
            setattr(dist, name, own)

    def _counting(self, name: str, own: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] = self.calls.get(name, 0) + 1
            return own(*args, **kwargs)

        return call


def as_workers(ranks: Ranks, rules: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Every rule for some rounds: losses, collectives of a round, bytes, weights; and gone on from a file."""
    from safetensors.torch import load_file, save_file

    found = {}
    for name, outer in rules.items():
        inner = inner_of(outer, ranks.world)
        model, workers = ready(outer)
        first = trained(model, workers, inner, range(6))
        file = folder / f"{name}-{ranks.rank}.safetensors"
        save_file(workers.state_dict(), str(file))
        with Counted({}) as counted:
            rest = trained(model, workers, inner, range(6, ROUNDS))
        other, again = ready(outer)
        again.load_state_dict(load_file(str(file)))
        trained(other, again, inner, range(6, ROUNDS))
        same = all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
        found[name] = {
            "losses": first + rest, "calls": counted.calls, "bytes": workers.bytes_per_round, "resumed": same,
            "weights": [p.detach().clone() for p in model.parameters()],
        }  # fmt: skip
    return found


@pytest.fixture(scope="module", params=[2, 3])
def together(request: Any, rules: dict[str, Any], tmp_path_factory: Any) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp(f"workers{request.param}")
    return spread.over(request.param, as_workers, folder, rules, folder)


@pytest.mark.slow
def test_workers_in_processes_train_as_simulated_ones(together, rules) -> None:
    """Slow: starts two and three processes. What was meta-trained and measured in packs is what real workers do."""
    count = len(together)
    curves = {}
    for name, outer in rules.items():
        form = Local(workers=count, steps=STEPS, statistics=name == "statistics")
        wanted = simulated(local_task(), form, outer, rounds=ROUNDS, seeds=(SEED,))[:, 0]
        losses = torch.tensor([gave[name]["losses"] for gave in together]).mean(0)
        torch.testing.assert_close(losses, wanted, rtol=1e-6, atol=0)
        curves[name] = losses
        for gave in together[1:]:  # every worker made the same step
            for one, other in zip(together[0][name]["weights"], gave[name]["weights"], strict=True):
                assert torch.equal(one, other)
    for name in ("SlowMo", "residual", "statistics"):
        assert float((curves[name] / curves["averaging"] - 1).abs().max()) > 1e-3  # the rules are told apart


@pytest.mark.slow
def test_workers_go_on_from_a_file_to_the_same_bits(together) -> None:
    """Slow: see above. Half of the rounds, a safetensors file for each worker, the rest."""
    assert all(gave[name]["resumed"] for gave in together for name in FORMS)


@pytest.mark.slow
def test_a_round_is_one_all_reduce_and_with_statistics_two_collectives(together, rules) -> None:
    """Slow: see above. For any number of workers, and the bytes are said."""
    model, _ = ready(rules["SlowMo"])
    params, tensors = sum(p.numel() for p in model.parameters()), len(list(model.parameters()))
    for name in FORMS:
        calls, sent = together[0][name]["calls"], together[0][name]["bytes"]
        if name == "statistics":
            assert calls == {"all_to_all_single": ROUNDS - 6, "all_gather": ROUNDS - 6}
            assert sent < bytes_per_round(params, rules[name])
        else:
            assert calls == {"all_reduce": ROUNDS - 6}
            assert sent == bytes_per_round(params, rules[name]) + 4 * (tensors + 1)


@pytest.mark.parametrize("name", FORMS)
def test_one_worker_needs_no_processes(name: str, rules: dict[str, Any]) -> None:
    outer = rules[name]
    model, workers = ready(outer)
    losses = trained(model, workers, inner_of(outer, 1), range(ROUNDS))
    form = Local(workers=1, steps=STEPS, statistics=name == "statistics")
    wanted = simulated(local_task(), form, outer, rounds=ROUNDS, seeds=(SEED,))[:, 0]
    torch.testing.assert_close(torch.tensor(losses), wanted, rtol=1e-6, atol=0)
    assert workers.bytes_per_round == 0


# within a round, other tensors, other types


@pytest.mark.parametrize("name", FORMS)
def test_a_worker_stopped_within_a_round_goes_on_to_the_same_bits(name: str, rules: dict[str, Any]) -> None:
    def run(stop: bool) -> list[torch.Tensor]:
        model, workers = ready(rules[name])
        for step in range(20):
            if stop and step == 10:
                assert workers.taken == 1
                kept = {n: t.clone() for n, t in workers.state_dict().items()}
                own = {n: t.clone() for n, t in model.state_dict().items()}
                model, workers = ready(rules[name])
                model.load_state_dict(own)
                workers.load_state_dict(kept)
            one_step(model, workers, step)
        return [p.detach() for p in model.parameters()]

    assert all(torch.equal(one, other) for one, other in zip(run(True), run(False), strict=True))


def one_step(model: nn.Module, workers: LocalSteps, seed: int, loss_times: float = 1.0) -> None:
    draw = torch.Generator().manual_seed(seed)
    x, y = torch.rand(16, 64, generator=draw), torch.randint(10, (16,), generator=draw)
    workers.local.zero_grad()
    (F.cross_entropy(model(x).flatten(0, -2), y) * loss_times).backward()
    workers.local.step()
    workers.step()


class Odd(nn.Module):
    """A kernel, a norm with running statistics, a tensor that nothing uses and a narrow one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kernel, self.norm = nn.Conv2d(1, width, 3), nn.BatchNorm2d(width)
        self.idle, self.head = nn.Linear(width, width), nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = torch.relu(self.norm(self.kernel(x.view(-1, 1, 8, 8)))).mean((-2, -1))
        return self.head(seen.to(self.head.weight.dtype)).float()


def odd(outer: Any, **given: Any) -> tuple[Odd, LocalSteps]:
    rule = getattr(outer, "parametrization", None)
    scales = wt.adopt(Odd, base=8, target=16, optimizer=outer, rule=rule)
    model = Odd(16)
    scales.initialize(model, seed=0)
    model.head.bfloat16()
    model.kernel.bias.requires_grad_(False)
    local = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    return model, LocalSteps(outer, model, scales, local, **({"steps": 4} | given))


@pytest.mark.parametrize("name", FORMS)
def test_frozen_and_unused_tensors_stay_and_kernels_and_narrow_types_go_on_to_the_same_bits(name, rules) -> None:
    model, workers = odd(rules[name])
    before = {n: t.detach().clone() for n, t in model.named_parameters()}
    for step in range(6):
        one_step(model, workers, step)
    still = {n for n, t in model.named_parameters() if torch.equal(t, before[n])}
    assert still == {"kernel.bias", "idle.weight", "idle.bias"}
    kept = {n: t.clone() for n, t in workers.state_dict().items()}
    assert not [n for n in kept if n.startswith("state.idle")] and kept["start.head.weight"].dtype == torch.float32
    other, again = odd(rules[name])
    other.load_state_dict(model.state_dict())
    again.local.load_state_dict(copy.deepcopy(workers.local.state_dict()))
    again.load_state_dict(kept)
    for step in range(6, 14):
        one_step(model, workers, step)
        one_step(other, again, step)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))


def test_outer_steps_smaller_than_a_narrow_types_last_bit_add_up() -> None:
    """Steps of 1e-5 on weights above 0.1, whose next bfloat16 neighbour is 5e-4 away or more."""
    model, workers = odd(SlowMo(lr=1e-3, momentum=0.0), steps=1)
    before = model.head.weight.detach().clone()
    large = before.abs() > 0.1
    one_step(model, workers, 0)
    assert torch.equal(model.head.weight[large], before[large])
    for _ in range(100):
        one_step(model, workers, 0)
    assert torch.equal(model.head.weight, workers.state_dict()["start.head.weight"].bfloat16())
    assert float((model.head.weight != before)[large].float().mean()) > 0.5


def test_a_schedule_moves_the_outer_rate_and_is_kept() -> None:
    model, workers = odd(SlowMo(lr=0.8, momentum=0.0), steps=1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(workers.outer, 0.5)
    one_step(model, workers, 0)
    schedule.step()
    assert workers.state_dict()["rates"].tolist() == [0.4] * len(workers.outer.param_groups)
    _, again = odd(SlowMo(lr=0.8, momentum=0.0), steps=1)
    again.load_state_dict(workers.state_dict())
    assert {group["lr"] for group in again.outer.param_groups} == {0.4}


def test_weights_that_are_changed_between_rounds_are_told_of_once() -> None:
    model, workers = odd(SlowMo(lr=0.8), steps=2)
    for step in range(4):
        one_step(model, workers, step)
    with torch.no_grad():
        model.head.bias += 1
    with pytest.warns(UserWarning, match="weights were changed since the last round") as said:
        one_step(model, workers, 4)
    assert "workers.local.step()" in linecache.getline(said[0].filename, said[0].lineno)
    for step in range(5, 8):
        one_step(model, workers, step)


def test_another_one_around_the_same_optimizer_takes_the_place_of_the_first() -> None:
    """A notebook's cell run again: `filterwarnings` makes an error of what the first one would say."""
    outer = SlowMo(lr=0.8)
    model, workers = odd(outer, steps=1)
    one_step(model, workers, 0)
    first, local = weakref.ref(workers), workers.local
    workers = LocalSteps(outer, model, workers_scales(outer), local, steps=1)
    assert first() is None and len(local._optimizer_step_post_hooks) == 1
    one_step(model, workers, 1)
    one_step(model, workers, 2)


# workers that fail


def one_fails(ranks: Ranks, rules: dict[str, Any]) -> dict[str, Any]:
    """In the second round worker 1's loss is not finite; all of theirs in the fourth."""
    found = {}
    for name in ("SlowMo", "statistics"):
        model, workers = ready(rules[name], carried=True)
        local = torch.optim.AdamW(model.parameters(), 1e-3)
        workers = LocalSteps(rules[name], model, scales_of(rules[name]), local, steps=STEPS)
        said: list[str] = []
        for step in range(3 * STEPS):
            bad = STEPS <= step < 2 * STEPS and ranks.rank == 1
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                one_step(model, workers, 10 * step + ranks.rank, float("nan") if bad else 1.0)
            said += [str(w.message) for w in heard]
            if step == 2 * STEPS - 1:
                cleared, left_out = not local.state, workers.left_out
        before = [p.detach().clone() for p in model.parameters()]
        with pytest.raises(InputError, match="of 3 workers 0 came back"):
            for step in range(STEPS):
                one_step(model, workers, step, float("nan"))
        back = all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
        found[name] = {
            "said": said, "cleared": cleared, "left out": left_out, "back": back, "rounds": workers.rounds,
            "finite": all(bool(b.isfinite().all()) for b in before), "weights": before,
        }  # fmt: skip
    return found


def scales_of(outer: Any) -> Adopted:
    task = local_task()
    return Adopted(table=table_of(task.recipe.but(optimizer=outer), task.rung, task.base))


@pytest.mark.slow
def test_a_worker_whose_loss_is_not_finite_is_left_out_and_comes_back(rules, tmp_path) -> None:
    """Slow: starts three processes. The mean is that of the two others, all say so, and all go on alike."""
    gave = spread.over(3, one_fails, tmp_path, rules)
    for name in ("SlowMo", "statistics"):
        assert [g[name]["cleared"] for g in gave] == [False, True, False]
        for rank, found in enumerate(g[name] for g in gave):
            assert found["left out"] == 1 and found["rounds"] == 3 and found["finite"] and found["back"]
            (text,) = found["said"]
            assert "1 of 3 workers came back from round 2" in text and ("This is one of them" in text) == (rank == 1)
            assert all(torch.equal(a, b) for a, b in zip(found["weights"], gave[0][name]["weights"], strict=True))


def one_leaves(ranks: Ranks, outer: Any) -> Any:
    """Worker 2 is gone after the first round; the others go on as two, from what they hold."""
    model, workers = ready(outer)
    inner = inner_of(outer, 3)
    trained(model, workers, inner, range(1))
    others = dist.new_group([0, 1])
    if ranks.rank == 2:
        return None  # and its process ends
    kept = {name: value.clone() for name, value in workers.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"[Cc]onnection|gloo"):
        trained(model, workers, inner, range(1, 2))
    state = workers.state_dict()
    assert all(torch.equal(state[n], kept[n]) for n in kept if n not in ("taken", "used"))
    other, again = ready(outer, group=others)
    again.load_state_dict(kept)
    trained(other, again, inner_of(outer, 2), range(1, 3))
    return [p.detach().clone() for p in other.parameters()], again.rounds


@pytest.mark.slow
def test_when_a_process_is_gone_the_others_are_told_and_go_on_with_what_they_hold(rules, tmp_path) -> None:
    """Slow: starts three processes, of which one ends. A state is no worker's own."""
    gave = spread.over(3, one_leaves, tmp_path, rules["residual"])
    assert gave[2] is None and gave[0][1] == gave[1][1] == 3
    assert all(torch.equal(a, b) for a, b in zip(gave[0][0], gave[1][0], strict=True))


# what is refused


def disagreeing(ranks: Ranks, rules: dict[str, Any]) -> list[str]:
    """What is said where worker 1 has another width, another value, other rounds, another rule, another state."""
    outer, own, said = rules["SlowMo"], ranks.rank == 1, []

    def refused(work: Any) -> None:
        try:
            work()
        except InputError as error:
            said.append(str(error))

    def built(width: int, change: float = 0.0, **given: Any) -> LocalSteps:
        scales = wt.adopt(Odd, base=8, target=width, optimizer=outer)
        model = Odd(width)
        scales.initialize(model, seed=0)
        with torch.no_grad():
            model.head.bias[3] += change
        return LocalSteps(outer, model, scales, torch.optim.SGD(model.parameters(), 0.1), **({"steps": 2} | given))

    refused(lambda: built(24 if own else 16))
    refused(lambda: built(16, 1e-6 * own))
    refused(lambda: built(16, steps=3 if own else 2))
    refused(lambda: ready(rules["SlowMo"] if own else rules["averaging"]))
    model, workers = ready(outer)
    state = workers.state_dict()
    refused(lambda: workers.load_state_dict(state | {"taken": torch.tensor(int(own))}))
    refused(lambda: workers.load_state_dict(dict(model.state_dict()) if own else state))
    refused(lambda: workers.load_state_dict(state | ({"identity": "SlowMo"} if own else {})))  # pyright: ignore
    refused(lambda: ready(rules["SlowMo"], steps=0 if own else 2))
    alike = built(16)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for step in range(4):
            one_step(alike._model, alike, step + ranks.rank)
    return [*said, *(str(w.message) for w in heard)]


@pytest.mark.slow
def test_workers_that_do_not_begin_alike_are_told_so_on_all_of_them(rules, tmp_path) -> None:
    """Slow: starts two processes."""
    told = spread.over(2, disagreeing, tmp_path, rules)
    assert told[0] == told[1]
    *refused, loaded, broken, made, warned = told[0]
    assert [text.partition(" in ")[2].partition(" (")[0] for text in refused] == [
        "their tensors", "the values they begin with", "the steps of a round", "the outer rule",
        "the steps taken in this round",
    ]  # fmt: skip
    assert all(text.startswith("Workers 1 of 2 differ from worker 0") for text in refused)
    assert "('kernel.weight', (16, 1, 3, 3), 'torch.float32') there" in refused[0]
    alone = "Worker 1 of 2 cannot go on, and so none does: "
    assert loaded.startswith(f"{alone}This is not the state of LocalSteps")
    assert broken.startswith(f"{alone}AttributeError") and made.startswith(f"{alone}steps is 0")
    assert "Training changes buffers (norm.running_mean, norm.running_var), and workers keep their own" in warned


class NeedsTheLoss(SlowMo):
    """An outer rule that would be told the loss."""

    needs = ("loss",)


def test_bad_input_is_refused_in_a_sentence(rules: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(InputError, match="at least 1"):
            odd(SlowMo(lr=1.0), steps=wrong)
    with pytest.raises(InputError, match="leaves lr open"):
        odd(SlowMo())
    with pytest.raises(InputError, match="asks for loss, which"):
        odd(NeedsTheLoss(lr=1.0))
    model, workers = odd(rules["residual"])
    with pytest.raises(InputError, match="give the torch optimizer"):
        LocalSteps(rules["residual"], model, workers_scales(rules["residual"]), "SGD", steps=2)  # pyright: ignore
    with pytest.raises(InputError, match=r"was trained under .* make the table for it"):
        LocalSteps(rules["residual"], model, wt.adopt(Odd, base=4, target=16, optimizer=AdamW), workers.local, steps=2)
    with pytest.raises(InputError, match="moves no tensor of this model"):
        LocalSteps(rules["residual"], model, workers_scales(rules["residual"]), odd(SlowMo(lr=1.0))[1].local, steps=2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"one of 2 .*init_process_group"):
        odd(SlowMo(lr=1.0))
    for param in model.parameters():
        param.requires_grad_(False)
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(InputError, match="unfreeze"):
        LocalSteps(rules["residual"], model, workers_scales(rules["residual"]), workers.local, steps=2)


def workers_scales(outer: Any) -> Adopted:
    return wt.adopt(Odd, base=8, target=16, optimizer=outer)


def test_a_state_of_other_weights_another_rule_or_another_model_is_refused(rules: dict[str, Any]) -> None:
    weights = rules["residual"].weights
    changed = Weights.of(weights.card, {n: t + 1e-3 for n, t in weights.tensors.items()})
    model, workers = odd(rules["residual"])
    for step in range(4):
        one_step(model, workers, step)
    state = workers.state_dict()
    for other in (LearnedOuter(weights=changed), rules["SlowMo"]):
        with pytest.raises(InputError, match=f"The state is of outer {weights.hash}"):
            odd(other)[1].load_state_dict(state)
    with pytest.raises(InputError, match="of another model: start"):
        ready(rules["residual"])[1].load_state_dict(state)
    with pytest.raises(InputError, match="not the state of LocalSteps"):
        workers.load_state_dict(model.state_dict())
    with pytest.raises(InputError, match=r"The state of kernel\.weight"):
        workers.load_state_dict({n: t for n, t in state.items() if n != "state.kernel.weight.over_a"})
    with pytest.raises(InputError, match="another model: used"):
        workers.load_state_dict({n: t for n, t in state.items() if n != "used"})
    for wrong in ("rates", "used", "taken"):
        with pytest.raises(InputError, match=f"another model: {wrong}"):
            workers.load_state_dict(state | {wrong: state[wrong].new_zeros(50)})


def test_a_state_that_is_refused_changes_nothing(rules: dict[str, Any]) -> None:
    """What is wrong stands last: all that comes before it could have been loaded."""
    model, workers = odd(rules["residual"])
    for step in range(6):
        one_step(model, workers, step)
    kept, weights = ({n: t.clone() for n, t in from_.state_dict().items()} for from_ in (workers, model))
    other = {n: t if n == "identity" else torch.zeros_like(t) for n, t in kept.items()}
    last = [n for n in kept if n.startswith("state.")][-1]
    for wrong in (last, "rates", "used", "rounds"):
        with pytest.raises(InputError):
            workers.load_state_dict(other | {wrong: torch.zeros(99)})
        now = workers.state_dict()
        assert list(now) == list(kept) and all(torch.equal(now[n], kept[n]) for n in kept)
        assert all(torch.equal(t, weights[n]) for n, t in model.state_dict().items())


def test_weights_past_their_horizon_are_told_of(rules: dict[str, Any]) -> None:
    weights = rules["residual"].weights
    short = Weights.of(replace(weights.card, horizon=2), weights.tensors)
    model, workers = odd(LearnedOuter(weights=short), steps=1)
    one_step(model, workers, 0)
    kept = {n: t.clone() for n, t in workers.state_dict().items()}
    other, again = odd(LearnedOuter(weights=short), steps=1)
    again.load_state_dict(kept)
    for each, its in ((model, workers), (other, again)):
        with pytest.warns(UserWarning, match="trained on up to 2 steps"):
            one_step(each, its, 1)


@pytest.mark.slow
def test_the_example_runs_under_torchrun(tmp_path: Path) -> None:
    """Slow: starts torchrun and two workers. Buys that the command in the example's first lines works."""
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    settings = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [*command, str(root / "examples" / "local_workers.py")], capture_output=True, text=True, env=settings,
        cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "SlowMo, 2 workers" in done.stdout and done.stdout.count("better") == 1
    assert not list(tmp_path.iterdir())
