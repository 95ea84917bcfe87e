"""Data cut, mixed and replayed, and what is chosen of a batch: each against an answer known beforehand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import tiny
import torch
from torch import nn

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.ideas.coreset import Coreset
from windtunnel.ideas.hard_batches import HardBatches, hard_batches
from windtunnel.ideas.multigrid import Multigrid, Pieces, multigrid
from windtunnel.ideas.replay import Replayed, replay
from windtunnel.parts.data.altered import Drawn, Subset
from windtunnel.parts.probes import LossByPosition
from windtunnel.parts.schedules import Constant
from windtunnel.recipe import Stretch, Told
from windtunnel.train.loop import train

DIGITS = wt.data.digits()


def test_a_step_of_pieces_holds_just_the_tokens_of_the_whole_datas_step(corpus):
    whole = tiny.text(corpus)
    cut = Pieces(whole, parts=4, skipped=3)
    for step in (0, 2):
        pieces, examples = cut.batch(seed=1, step=step, size=8), whole.batch(seed=1, step=step + 3, size=2)
        assert all(np.array_equal(p.reshape(e.shape), e) for p, e in zip(pieces, examples, strict=True))
    assert cut.shape().tokens_per_example * 4 == whole.shape().tokens_per_example
    assert (
        len({cut.fingerprint(), whole.fingerprint(), Pieces(whole, 4).fingerprint(), Pieces(whole, 2).fingerprint()})
        == 4
    )


def test_multigrid_sees_the_bases_tokens_with_its_rates_and_ends_at_its_context(corpus):
    base = tiny.recipe(corpus)
    found = Multigrid(doublings=2).stretches(base, tiny.RUNG)
    contexts = [s.recipe.data.shape().tokens_per_example for s in found]
    assert contexts == [4, 8, 16] and sum(s.rung.tokens for s in found) == tiny.TOKENS
    a_step, seen = tiny.BATCH * tiny.CONTEXT, 0
    for stretch in found:
        assert stretch.rung.batch * stretch.recipe.data.shape().tokens_per_example == a_step
        for tokens in range(0, stretch.rung.tokens, a_step):
            own = stretch.recipe.schedule(tokens, stretch.rung.tokens)
            assert own == pytest.approx(base.schedule(seen + tokens, tiny.TOKENS))
            parts = stretch.recipe.data.batch(seed=2, step=tokens // a_step, size=stretch.rung.batch)[0]
            assert np.array_equal(
                parts.ravel(), base.data.batch(seed=2, step=(seen + tokens) // a_step, size=4)[0].ravel()
            )
        seen += stretch.rung.tokens


def test_multigrid_costs_the_flops_of_its_short_contexts(corpus):
    base = tiny.recipe(corpus)
    one, two = (train(tiny.pack(r, [{"lr": 0.01}]), device=tiny.CPU)[0] for r in (base, multigrid(base)))
    assert one.finished and two.finished and len(two.curve["train_loss"]) == len(one.curve["train_loss"])
    sizes = [base.model.size(tiny.RUNG, replace(base.data.shape(), tokens_per_example=c)) for c in (2, 4, 8, 16)]
    assert two.cost.flops == pytest.approx(np.mean([s.training_flops(tiny.TOKENS) for s in sizes]))
    assert two.cost.flops < one.cost.flops
    with pytest.raises(InputError, match="a multiple of 32"):
        Multigrid(doublings=5).stretches(base, tiny.RUNG)


@dataclass(frozen=True, kw_only=True)
class Forked:
    """Two halves of the steps, the second a fork of the first: plain phases, no search."""

    def stretches(self, recipe, rung):
        half = rung.but(tokens=rung.tokens // 2)
        return (
            Stretch(name="one", recipe=recipe, rung=half),
            Stretch(name="two", recipe=recipe, rung=half, fork="one"),
        )


def test_two_halves_of_which_one_forks_the_other_are_the_whole(corpus):
    whole, halves = (tiny.recipe(corpus, schedule=Constant(), phases=phases) for phases in (None, Forked()))
    one, two = (train(tiny.pack(r, [{"lr": 0.003}, {"lr": 0.01}]), device=tiny.CPU) for r in (whole, halves))
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a.curve["train_loss"], b.curve["train_loss"]) and a.loss == b.loss


def test_hard_batches_come_again_after_the_pass_in_which_their_losses_were_highest():
    rung = wt.Rung(width=8, depth=1, tokens=100 * 8 + 40, batch=10)
    base = wt.recipes.mlp_mup_sgd(data=Subset(DIGITS, Drawn(100)))
    part, told = HardBatches(share=0.3), []
    losses = np.random.default_rng(0).permutation(200).astype(float)
    while asked := part.ask(base, rung, told, 0):
        (stretch,) = asked
        steps = stretch.rung.tokens // 10
        told.append(Told(stretch=stretch, losses=losses[len(told) * 10 :][:steps], diverged=False))
    kinds = [(t.stretch.name.split()[0], len(t.losses)) for t in told]
    assert kinds == [("pass", 10), ("hard", 3)] * 6 + [("pass", 6)] and part.chosen(told) == "pass 6"
    for number in range(1, len(told), 2):
        hardest = np.sort(np.argsort(-told[number - 1].losses)[:3]) + 10 * (number // 2)
        assert told[number].stretch.recipe.data.steps == tuple(hardest.tolist())
        assert told[number].stretch.fork == told[number - 1].stretch.name
    assert [s.rung.tokens for s in part.stretches(base, rung)] == [t.stretch.rung.tokens for t in told]


def test_a_run_on_hard_batches_goes_on_in_its_data_after_each():
    base = hard_batches(wt.recipes.mlp_mup_sgd(data=DIGITS).but(objective=Numbered(), schedule=Constant()))
    rung = wt.Rung(width=8, depth=1, tokens=8 * 20, batch=20)
    (run,) = train(tiny.pack(base, [{"lr": 0.0001}], rung=rung), device=tiny.CPU)
    own = [DIGITS.indices(seed=0, step=step, size=20).mean() for step in range(8)]
    first, second = max(own[:2]), max(own[2:4])  # a quarter of the horizon is a pass: two steps, then one again
    assert run.curve["train_loss"] == pytest.approx([*own[:2], first, *own[2:4], second, *own[4:6]])


def test_examples_of_a_mixture_have_numbers_that_tell_their_source():
    plans = [Subset(DIGITS, Drawn(count, seed=count)) for count in (600, 300, 200)]
    data = wt.data.mixed(*plans, weights=(0.7, 0.2, 0.1))
    stream = data.indices(seed=3, step=0, size=800)
    of = np.searchsorted(data.ends(), stream, side="right")
    assert all(np.abs(np.bincount(b) - [140, 40, 20]).max() <= 1 for b in of.reshape(4, 200))
    assert len(set(stream.tolist())) == len(stream)
    in_steps = np.concatenate([data.indices(seed=3, step=step, size=50) for step in range(16)])
    assert np.array_equal(in_steps, stream)
    x, y = data.batch(seed=3, step=0, size=30)
    again = data.taken(data.indices(seed=3, step=0, size=30))
    assert np.array_equal(x, again[0]) and np.array_equal(y, again[1])
    for number, image in zip(data.indices(seed=3, step=0, size=30), x, strict=True):
        source = int(np.searchsorted(data.ends(), number, side="right"))
        own = plans[source].taken(np.array([number - (0, *data.ends())[source]]))
        assert np.array_equal(own[0][0], image)
    assert data.examples() == 1100


def test_replay_shows_the_runs_own_beginning_again_and_skips_nothing_new():
    data = Replayed(Subset(DIGITS, Drawn(400)), 0.25)
    stream = np.concatenate([data.batch(seed=1, step=step, size=10)[0] for step in range(8)])
    own = data.data.batch(seed=1, step=0, size=80)[0]
    old = np.array([int((n + 1) * 0.25) > int(n * 0.25) for n in range(80)])
    assert old.sum() == 20
    assert np.array_equal(stream[~old], own[:60]) and np.array_equal(stream[old], own[:20])
    both = wt.data.successive(DIGITS, DIGITS, tokens=100)  # data in stages have a share of their own
    base = wt.recipes.mlp_mup_sgd(data=both)
    assert replay(base).data == wt.data.successive(DIGITS, DIGITS, tokens=100, replay=0.05)
    with pytest.raises(InputError, match=r"at most 0\.5"):
        Replayed(DIGITS, 1.0)


def clustered(targets, centres):
    """Logits of one token each that are alike within a cluster."""
    return torch.stack([centres[int(t)] for t in targets])[:, None]


def test_a_coreset_keeps_small_sources_whole_and_takes_one_medoid_of_each_cluster():
    draw = torch.Generator().manual_seed(0)
    centres = 6 * torch.randn(3, 8, generator=draw)
    targets = torch.tensor([0] * 6 + [1] * 3 + [2] * 1 + [0, 0])[:, None]
    outputs = clustered(targets[:, 0], centres) + 0.01 * torch.randn(12, 1, 8, generator=draw)
    indices = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 100, 101])  # the last two are of a second, small source
    part = Coreset(ends=(50, 150), share=5 / 12, coordinates=1.0)
    chosen = part.chosen(outputs, targets, indices)
    assert chosen.sum() == 5 and chosen[10:].tolist() == [1, 1]
    assert [int(chosen[a:b].sum()) for a, b in ((0, 6), (6, 9), (9, 10))] == [1, 1, 1]
    weights = replace(part, weighted=True).chosen(outputs, targets, indices)
    assert sorted(weights[:10][weights[:10] > 0].tolist()) == [1, 3, 6] and weights[10:].tolist() == [1, 1]
    blind = replace(part, keeps_small=False).chosen(outputs, targets, indices)
    assert blind.sum() == 5 and blind[10:].sum() < 2  # they are like the first six
    loss = part(outputs, targets, {"indices": indices})
    assert torch.count_nonzero(loss) == 5
    plain = torch.nn.functional.cross_entropy(outputs[:, 0], targets[:, 0], reduction="none")
    assert loss.mean() == pytest.approx(float(plain[chosen > 0].mean()))


@dataclass(frozen=True)
class Numbered:
    """A loss that says which examples it got."""

    needs = ("indices",)

    def __call__(self, outputs, targets, given):
        return 0 * outputs.sum(-1) + given["indices"][:, None]


@dataclass(frozen=True)
class Nameless:
    """Digits that do not say which ones a step sees."""

    repeat = True

    def __getattr__(self, name):
        if name == "indices":
            raise AttributeError(name)
        return getattr(DIGITS, name)


def test_an_objective_is_told_which_examples_each_run_of_a_pack_has():
    base = wt.recipes.mlp_mup_sgd(data=DIGITS).but(objective=Numbered())
    rung = wt.Rung(width=8, depth=1, tokens=60, batch=20)
    runs = train(tiny.pack(base, [{"lr": 0.1}, {"lr": 0.1}], rung=rung), device=tiny.CPU)
    for seed, run in enumerate(runs):
        own = [DIGITS.indices(seed=seed, step=step, size=20).mean() for step in range(3)]
        assert run.curve["train_loss"] == pytest.approx(own)
    with pytest.raises(InputError, match="give it indices"):
        train(tiny.pack(base.but(data=Nameless()), [{"lr": 0.1}], rung=rung), device=tiny.CPU)


class Late(nn.Module):
    """Knows the token from position 4 on, nothing before: four outcomes."""

    def forward(self, tokens):
        sure = 50.0 * torch.nn.functional.one_hot(tokens, 4).float()
        return sure * (torch.arange(tokens.shape[1]) >= 4)[:, None]


def test_the_loss_by_position_is_that_of_those_positions_alone():
    x = torch.randint(0, 4, (5, 8), generator=torch.Generator().manual_seed(0))
    (early,) = LossByPosition(first=0, last=4)(Late(), [(x, x)]).values()
    (late,) = LossByPosition(first=4, last=8)(Late(), [(x[:2], x[:2]), (x[2:], x[2:])]).values()
    assert early == pytest.approx(np.log(4)) and late == pytest.approx(0, abs=1e-6)
    with pytest.raises(InputError, match="Give the judge data of that context"):
        LossByPosition(first=4, last=9)(Late(), [(x, x)])
