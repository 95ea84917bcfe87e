"""Runs of several horizons are trained as a trunk with branches, and have the bits that they would have apart."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.parts.optimizers import Lion, Muon
from windtunnel.parts.schedules import WSD, Constant, Cosine
from windtunnel.train.engine import Engine
from windtunnel.train.loop import train
from windtunnel.train.pack import Pack
from windtunnel.train.rows import first_rows, parted, trained_tokens, without
from windtunnel.train.saving import Saving

STEP = tiny.CONTEXT * tiny.BATCH
HORIZONS = (8 * STEP, 16 * STEP, 24 * STEP, 32 * STEP)
TRUNK = WSD(warmup_tokens=2 * STEP, decay=0.25)


def over_horizons(corpus, *, seeds=(0,), values=(0.01,), horizons=HORIZONS, **slots):
    """A pack with a member for each value, seed and horizon."""
    recipe = tiny.recipe(corpus, **{"schedule": TRUNK} | slots)
    packs = [
        tiny.pack(recipe, [{"lr": v} for v in values for _ in seeds], rung=tiny.RUNG.but(tokens=tokens),
                  base=tiny.RUNG, seeds=list(seeds) * len(values))
        for tokens in horizons
    ]  # fmt: skip
    specs = [pack.specs for pack in packs]
    return Pack(recipe=recipe, specs=sum(specs, ()), judge=packs[0].judge, labels=packs[0].labels * len(packs))


@pytest.mark.parametrize("schedule", [TRUNK, Constant(), WSD(warmup=0.1), Cosine()])
@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_each_branch_is_the_run_trained_apart(corpus, schedule, seeds):
    pack = over_horizons(corpus, schedule=schedule, seeds=seeds)
    for member, run in enumerate(train(pack, device=tiny.CPU)):
        assert tiny.numbers(run) == tiny.numbers(tiny.alone(pack, member))


@pytest.mark.parametrize("optimizer", [Lion(), Muon(others_lr=0.01)])
def test_a_branch_takes_the_optimizer_s_state_along(corpus, optimizer):
    pack = over_horizons(corpus, optimizer=optimizer)
    for member, run in enumerate(train(pack, device=tiny.CPU)):
        assert tiny.numbers(run) == tiny.numbers(tiny.alone(pack, member))


def test_four_horizons_cost_little_more_than_the_longest(corpus):
    pack = over_horizons(corpus)
    apart = sum(HORIZONS)
    # the trunk to 32 steps, and decays of a quarter of 8, 16 and 24
    assert trained_tokens(pack) == (32 + 2 + 4 + 6) * STEP < 0.6 * apart
    runs = train(pack, device=tiny.CPU)
    per_token = pack.size().flops_per_token
    assert sum(run.cost.spent_flops for run in runs) == pytest.approx(per_token * trained_tokens(pack))
    assert sum(run.cost.flops for run in runs) == pytest.approx(per_token * apart)


@pytest.mark.parametrize("schedule", [WSD(warmup=0.1), Cosine()])
def test_schedules_that_stretch_with_the_horizon_share_nothing(corpus, schedule):
    assert trained_tokens(over_horizons(corpus, schedule=schedule)) == sum(HORIZONS)


def test_other_seeds_and_other_values_share_nothing(corpus):
    pack = over_horizons(corpus, seeds=(0, 1), values=(0.01, 0.02), horizons=HORIZONS[:1])
    assert trained_tokens(pack) == 4 * HORIZONS[0]


@pytest.mark.parametrize("step", [3, 6, 7, 8, 17, 30])
def test_a_trunk_that_was_stopped_goes_on_with_the_same_bits(corpus, tmp_path, step):
    pack = over_horizons(corpus, seeds=(0, 1))
    engine, members = Engine(pack, tiny.CPU, True), [spec.key for spec in pack.specs]
    state = engine.start()
    for _ in range(step):
        engine.advance(state)
    Saving(tmp_path, members).now(state)
    again = Saving(tmp_path, members).restored(len(engine.groups), tiny.CPU)
    assert again is not None and again.rows == state.rows and again.step == step
    whole, resumed = train(pack, device=tiny.CPU), train(pack, device=tiny.CPU, folder=tmp_path)
    assert [tiny.numbers(r) for r in whole] == [tiny.numbers(r) for r in resumed]
    assert [r.cost.spent_flops for r in whole] == [r.cost.spent_flops for r in resumed]


def test_a_trunk_that_diverges_takes_every_branch_with_it_and_nobody_else(corpus):
    pack = over_horizons(corpus, values=(0.01, 1e30))
    runs = train(pack, device=tiny.CPU)
    lost = [run.spec.hyperparameters["lr"] > 1 for run in runs]
    assert [run.outcome is wt.Outcome.DIVERGED for run in runs] == lost and any(lost)
    for member in np.flatnonzero(~np.array(lost)):
        assert tiny.numbers(runs[member]) == tiny.numbers(tiny.alone(pack, int(member)))


def test_rows_part_only_where_factors_differ_and_never_meet_again():
    rows = first_rows(["a", "b", "a", "a"])
    assert rows == [(0, 2, 3), (1,)]
    rows, source = parted(rows, {0: 1.0, 1: 1.0, 2: 1.0, 3: 0.5})
    assert (rows, source) == ([(0, 2), (3,), (1,)], [0, 0, 1])
    assert parted(rows, dict.fromkeys(range(4), 1.0)) == (rows, [0, 1, 2])
    assert without(rows, {0, 3}) == ([(2,), (1,)], [0, 2])


def test_a_negative_warm_up_is_refused():
    with pytest.raises(InputError, match="warmup_tokens is -1"):
        WSD(warmup_tokens=-1)


def ladder_of_horizons(corpus, schedule=TRUNK):
    return tiny.study(
        corpus, base=tiny.recipe(corpus, schedule=schedule), ideas=[], train_target=False,
        ladder=wt.Ladder.widths((8, 16), depth=1, tokens=HORIZONS, head_width=8, seeds=2),
    )  # fmt: skip


def test_a_study_over_horizons_trains_trunks_by_itself_and_says_what_it_saves(corpus, tmp_path):
    study, store = ladder_of_horizons(corpus), wt.Store(tmp_path / "store")
    plan = study.plan(store)
    assert 0.3 < plan.saved_flops / (plan.flops + plan.saved_flops) < 0.6
    assert "one trunk for runs that begin alike saves" in str(plan)
    study.run(store)
    ladder = [r for r in store.runs() if r.labels["stage"] == "ladder"]
    spent, alone = (sum(getattr(r.cost, name) for r in ladder) for name in ("spent_flops", "flops"))
    assert spent < 0.65 * alone
    assert {r.spec.rung.tokens for r in ladder} == set(HORIZONS)


def test_a_study_whose_schedule_stretches_plans_no_saving(corpus, tmp_path):
    plan = ladder_of_horizons(corpus, Cosine()).plan(wt.Store(tmp_path / "store"))
    assert plan.saved_flops == 0 and "trunk" not in str(plan)


def test_the_transfer_check_of_a_ladder_over_horizons_is_at_another_width(corpus):
    study = ladder_of_horizons(corpus)
    rung = study.ladder.rungs[study.recheck_index()]
    assert rung.width > study.ladder.base.width and rung.tokens == study.ladder.base.tokens


def test_what_a_study_cost_counts_a_trunk_once(corpus, tmp_path):
    store = wt.Store(tmp_path / "store")
    result = ladder_of_horizons(corpus).run(store)
    runs = store.runs()
    spent, alone = sum(r.cost.spent for r in runs), sum(r.cost.flops for r in runs)
    assert result.ladder_flops() == pytest.approx(spent) and spent < 0.8 * alone
