"""The main job: a small study is trained once; the order of what happens and what a second call does are promised."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from tiny import sign_momentum

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.forecasts import Interval
from windtunnel.launch.here import Here
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.optimizers import AdamW
from windtunnel.report.page import render
from windtunnel.scaling.rules.mup import MuP
from windtunnel.store import forecast_hash
from windtunnel.study.answer import _beside, _beyond, _shape
from windtunnel.study.job import Silent
from windtunnel.study.living import Living, flying
from windtunnel.study.page import page_data
from windtunnel.study.stages import Ask, Stages
from windtunnel.study.words import caveat_lines, three_lines
from windtunnel.train import checkpoint


class Noting:
    """The launcher of this machine, noting what it was asked for and how many forecasts were there."""

    def __init__(self, *, trains: bool = True) -> None:
        self.asked: list[tuple[object, str, int]] = []  # spec, stage, forecasts in the store at that time
        self.trains = trains

    def __call__(self, packs, store, report=None, finished=None):
        known = len(store.forecasts())
        pairs = [(s, labels) for p in packs for s, labels in zip(p.specs, p.labels, strict=True)]
        self.asked += [(s, f"{labels['idea']} {labels['stage']}", known) for s, labels in pairs]
        if self.trains:
            Here(devices=1)(packs, store, report, finished)

    def keys(self):
        return [spec.key for spec, _, _ in self.asked]


@pytest.fixture(scope="module")
def study(corpus):
    return tiny.study(corpus)


@pytest.fixture(scope="module")
def first(study, tmp_path_factory):
    """Result and launcher of the first and only whole run of the study."""
    launcher = Noting()
    store = wt.Store(tmp_path_factory.mktemp("study") / "store")
    return study.run(store, launcher=launcher), launcher


@pytest.fixture
def result(first):
    return first[0]


@pytest.fixture
def copied(result, tmp_path):
    """A store of one's own with the same records."""
    shutil.copytree(result.store.path, tmp_path / "copy")
    return wt.Store(tmp_path / "copy")


def untrained(study, store):
    """What a study would train next."""
    launcher = Noting(trains=False)
    with pytest.raises(InputError, match="were not recorded"):
        study.run(store, launcher=launcher)
    return launcher.asked


def files(store: wt.Store) -> dict[str, tuple[int, bytes]]:
    return {str(p.relative_to(store.path)): (p.stat().st_mtime_ns, p.read_bytes())
            for p in sorted(store.path.rglob("*")) if p.is_file()}  # fmt: skip


# the order of things


def test_both_forecasts_are_stored_before_any_target_run_is_asked(first):
    _, launcher = first
    targets = [known for _, stage, known in launcher.asked if stage.endswith("target")]
    assert len(targets) == 2
    assert targets == [2, 2]
    assert {known for _, stage, known in launcher.asked if not stage.endswith("target")} == {0}


def test_the_target_was_not_smuggled_in_under_another_stage(study, first):
    _, launcher = first
    widths = {spec.rung.width for spec, stage, _ in launcher.asked if not stage.endswith("target")}
    assert max(widths) == study.ladder.top.width


def test_every_run_is_trained_once(first):
    result, launcher = first
    assert len(launcher.keys()) == len(set(launcher.keys()))
    assert sorted(launcher.keys()) == list(result.store.keys())


def test_forecasts_are_sealed_and_made_before_the_truth(result):
    for stored in result.store.forecasts():
        assert stored["hash"] == forecast_hash(stored)
    assert {name: [s.made_before for s in scores] for name, scores in result.scores.items()} == {
        "base": [True],
        "sign_momentum": [True],
    }
    created = max(f["created"] for f in result.store.forecasts())
    assert all(run.created > created for runs in result.targets.values() for run in runs)


def test_a_forecast_rests_on_the_ladder_alone(result):
    for name, forecast in result.forecasts.items():
        assert set(forecast.runs) == {run.key for run in result.ladder[name] if run.finished}
        assert not set(forecast.runs) & {run.key for run in result.targets[name]}


# what is compared


def test_base_and_idea_start_from_the_same_weights_and_see_the_same_examples(result):
    base = {(r.spec.rung.width, r.spec.seed): r.curve["train_loss"][0] for r in result.ladder["base"]}
    idea = {(r.spec.rung.width, r.spec.seed): r.curve["train_loss"][0] for r in result.ladder["sign_momentum"]}
    assert base == pytest.approx(idea, rel=1e-6)
    assert len(set(base.values())) == len(base), "seeds and widths must differ"


def test_base_and_idea_are_judged_by_the_same_examples(result):
    judges = {json.dumps(dict(r.spec.judge), sort_keys=True) for runs in result.ladder.values() for r in runs}
    assert len(judges) == 1


def test_an_idea_is_tuned_on_its_own(result):
    tried = {n: {r.spec.hyperparameters["lr"] for r in runs} for n, runs in result.tried.items()}
    assert len(tried["base"]) >= 5 and len(tried["sign_momentum"]) >= 5
    assert tried["base"] != tried["sign_momentum"]


def test_the_ladder_is_trained_at_the_tuned_value(result):
    for name, basins in result.basins.items():
        values = {run.spec.hyperparameters["lr"] for run in result.ladder[name] + result.targets[name]}
        assert len(values) == 1
        assert values.pop() == pytest.approx(basins["lr"].optimum.median, rel=0.005)


def test_an_idea_gets_a_verdict_and_the_base_none(result):
    assert set(result.verdicts) == {"sign_momentum"}
    assert 0 <= result.verdicts["sign_momentum"].probability_better <= 1


def test_the_answer_says_the_verdict_and_the_laws_that_were_averaged(result):
    (line,) = [line for line in result.lines() if line.startswith("Verdict on sign_momentum: ")]
    assert result.verdicts["sign_momentum"].verdict in line and "against the base, in truth" in line
    said = page_data(result)["recipes"][0]["forecast"]["laws"]
    assert {law["name"]: law["weight"] for law in said} == result.fits["base"].shares()
    assert page_data(result)["verdicts"][0]["crossing"] == result.verdicts["sign_momentum"].crossing_words()


def test_the_true_difference_is_that_of_the_target_runs(result):
    from windtunnel.study.words import truth_delta

    losses = {name: runs[0].loss for name, runs in result.targets.items()}
    assert truth_delta(result, "sign_momentum") == pytest.approx(losses["sign_momentum"] - losses["base"])


# a second call


def test_a_second_run_trains_nothing_and_writes_nothing(study, result):
    before, launcher = files(result.store), Noting()
    again = study.run(wt.Store(result.store.path), launcher=launcher)
    assert launcher.asked == []
    assert files(result.store) == before
    assert again.to_json() == result.to_json()


def test_no_checkpoint_outlives_its_runs(result):
    assert [p for p in (result.store.path / "packs").rglob("*") if p.is_file()] == []


def test_a_new_seed_asks_for_that_seed_alone(study, result):
    more = replace(study, ladder=study.ladder.but(seeds=3))
    asked = untrained(more, result.store)
    assert {spec.seed for spec, _, _ in asked} == {2}
    assert len(asked) == 2 * len(study.ladder.rungs)


def test_a_new_rung_asks_for_that_rung_alone(study, result):
    wider = wt.Rung(width=32, depth=1, heads=4, tokens=tiny.TOKENS)
    asked = untrained(replace(study, ladder=study.ladder.but(rungs=(*study.ladder.rungs, wider))), result.store)
    assert {spec.rung.width for spec, _, _ in asked} == {32}
    assert len(asked) == 2 * study.ladder.seeds


def lion(base):
    """Lion in place of AdamW."""
    from windtunnel.parts.optimizers import Lion

    return base.but(optimizer=Lion())


def test_a_new_idea_asks_for_that_idea_alone(study, result):
    asked = untrained(replace(study, ideas=[*study.ideas, lion]), result.store)
    assert {stage for _, stage, _ in asked} == {"lion tune"}
    assert len(asked) == study.tuning.points


@dataclass(frozen=True)
class Freezing:
    """A rule under which the wider a network is, the less it moves."""

    def scale(self, site, base, geometry):
        grown = site.fan_in * site.fan_out / (base.fan_in * base.fan_out)
        found = MuP().scale(site, base, geometry)
        return replace(found, lr=found.lr / grown**4)


def freezing(base):
    """Wide networks need no training."""
    return base.but(parametrization=Freezing())


def unchanged(base):
    """Nothing changes, so every run is the base's own."""
    return base


def test_runs_that_recipes_share_are_paid_once_in_the_cost_line(study, result):
    shared = replace(study, ideas=[unchanged]).answer(result.store)
    line, target = three_lines(shared)[-1], study.target_flops()
    ladder = sum(run.cost.spent for run in shared.ladder["base"]) / target / 2
    assert f"took {100 * ladder:.0f} % of the target's FLOPs for each of 2 recipe(s), runs that they share" in line
    assert f"with tuning and re-check {100 * shared.ladder_flops() / target / 2:.0f} %" in line


def test_an_idea_whose_loss_rises_with_size_has_no_forecast_and_the_others_go_on(study, copied):
    both = replace(study, ideas=[freezing, sign_momentum]).run(copied, launcher=Noting())
    assert set(both.forecasts) == {"base", "sign_momentum"} and both.scores["base"]
    assert "rises with size" in both.unfitted["freezing"] and not both.reliable
    assert any(line.startswith("freezing: no forecast. The loss rises") for line in both.lines())
    assert both.verdicts["freezing"].verdict == "hurts"
    assert both.to_json()["unfitted"] == dict(both.unfitted)
    assert "freezing" in render(page_data(both))
    alone = replace(both, forecasts={}, unfitted={"base": both.unfitted["freezing"]})
    assert three_lines(alone)[0].startswith("No forecast. The loss rises")


class Hearing(Silent):
    """Keeps the sentences."""

    def __init__(self):
        self.said = []

    def say(self, sentence):
        self.said.append(sentence)


@dataclass(frozen=True)
class Failing:
    """A network whose forward pass raises once it is as wide as this."""

    width: int

    def __call__(self, model):
        def look(module, inputs):
            if next(module.parameters()).shape[-1] >= self.width:
                raise AttributeError("no such layer")

        model.register_forward_pre_hook(look)
        return model


@pytest.mark.parametrize("width,lost", [(8, 4), (24, 1)])
def test_runs_of_the_ladder_that_crash_are_said_with_their_reason_and_the_study_ends(corpus, tmp_path, width, lost):
    asked = tiny.recipe(corpus, optimizer=AdamW(lr=0.01), transforms=(Failing(width),))
    ladder = wt.Ladder.widths((8, 12, 16, 24), depth=1, tokens=tiny.TOKENS, head_width=8, seeds=1)
    study, watch = tiny.study(corpus, base=asked, ideas=[], ladder=ladder, train_target=False), Hearing()
    result = study.run(wt.Store(tmp_path / "store"), launcher=Here(devices=1), watch=watch)
    said = "\n".join(watch.said)
    reason = rf"{lost} of 4 run\(s\) did not finish; at width {width} x .* one crashed: AttributeError: no such layer"
    assert re.search(rf"base, ladder: {reason} \(test_study.py, line", said)
    assert "base: no coordinate check; AttributeError: no such layer" in said
    assert not result.reliable and ("base" in result.forecasts) == (lost == 1)
    assert lost == 1 or re.search(rf"base: no forecast\. {reason}", "\n".join(result.lines()))


class Normalised(torch.nn.Module):
    """Counts what it has seen in buffers."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.norm = inner, torch.nn.BatchNorm1d(tiny.CONTEXT, affine=False)

    def forward(self, inputs):
        return self.norm(self.inner(inputs))


def of_too_large_a_batch(base):
    """Its last step goes far beyond the horizon."""
    return base.but(batch=FixedBatch(examples=tiny.BATCH * tiny.STEPS - 20))


def normalised(base):
    """A network that cannot be packed."""
    return base.but(transforms=(Normalised,))


@dataclass(frozen=True)
class Narrow:
    """A model part that cannot be made beyond a width."""

    of: object
    most: int

    def build(self, rung, data):
        if rung.width > self.most:
            raise ValueError("too wide for the kernel")
        return self.of.build(rung, data)

    def size(self, rung, data):
        return self.of.size(rung, data)


def narrow(base):
    """Fails at the largest rung."""
    return base.but(model=Narrow(base.model, 16))


@pytest.mark.parametrize(
    "changes,reason",
    [
        (
            {"ideas": [narrow]},
            r"narrow cannot be trained everywhere\. At width \d\d x .*: ValueError: too wide for the kernel\. At width "
            r"\d+ x .* can be made",
        ),
        (
            {"ladder": wt.Ladder.widths((8, 10, 16), depth=1, tokens=tiny.TOKENS, head_width=4)},
            "base cannot be trained everywhere. At width 10 x",
        ),
        (
            {"target": wt.Target(rung=wt.Rung(width=30, depth=1, heads=6, tokens=tiny.TOKENS))},
            "base cannot be trained everywhere. At width 30 x",
        ),
        (
            {"ideas": [of_too_large_a_batch]},
            r"of_too_large_a_batch cannot be trained everywhere. A step takes .* see 1\.\d+ times as many\. Give",
        ),
        (
            {"ideas": [normalised]},
            "normalised cannot be trained everywhere. At width 8 x .*: The model keeps state in buffers",
        ),
    ],
)
def test_what_cannot_be_built_somewhere_is_refused_before_anything_is_trained(corpus, tmp_path, changes, reason):
    noting, study, store = Noting(), tiny.study(corpus, **changes), wt.Store(tmp_path / "store")
    with pytest.raises(InputError, match=reason):
        study.plan(store)
    with pytest.raises(InputError, match=reason):
        study.run(store, launcher=noting)
    assert not noting.asked


def test_runs_that_end_at_the_loss_of_guessing_are_said_before_the_forecast(corpus, tmp_path):
    still = tiny.recipe(corpus, optimizer=AdamW(lr=1e-9))
    ladder = wt.Ladder.widths((8, 12, 16, 24), depth=1, tokens=tiny.TOKENS, head_width=8, seeds=1)
    study = tiny.study(corpus, base=still, ideas=[], ladder=ladder, train_target=False)
    result = study.run(wt.Store(tmp_path / "store"), launcher=Here(devices=1))
    (said,) = [line for line in caveat_lines(result) if "learned nothing" in line]
    assert re.search(r"[34] of the 4 ladder runs", said) and "guessing among 256 outcomes (5.545)" in said


def test_a_lost_record_is_trained_again_to_the_same_numbers(study, result, copied):
    lost = result.ladder["base"][0]
    shutil.rmtree(copied.path / "runs" / lost.key)
    launcher = Noting()
    study.run(copied, launcher=launcher)
    assert launcher.keys() == [lost.key]
    assert copied.get(lost.key).loss == pytest.approx(lost.loss, rel=1e-6)  # it was packed with others before


def test_a_forecast_refitted_after_the_truth_says_that_it_is_none(study, copied):
    late = replace(study, ideas=(), ladder=study.ladder.but(seeds=3)).run(copied, launcher=Noting())
    assert any("Not a forecast" in caveat for caveat in late.forecasts["base"].caveats)
    assert [score.made_before for score in late.scores["base"]] == [False]


# plan, report, refusals


def test_a_plan_writes_nothing_and_counts_every_run_as_missing(study, tmp_path):
    store = wt.Store(tmp_path / "none")
    plan = study.plan(store)
    assert not store.path.exists()
    assert plan.missing == sum(row.runs for row in plan.rows) > 0
    rows = {(row.stage, row.recipe, row.rung.width): row.missing for row in plan.rows}
    assert rows["ladder", "base", 24] == study.ladder.seeds
    assert rows["target", "sign_momentum", 48] == 1
    assert plan.flops == pytest.approx(sum(r.missing * r.size.training_flops(tiny.TOKENS) for r in plan.rows))


def test_a_plan_of_a_finished_study_misses_nothing_but_what_was_lost(study, result, copied):
    assert study.plan(copied).missing == 0
    assert str(study.plan(copied)).splitlines()[-1] == "nothing is left to train"
    shutil.rmtree(copied.path / "runs" / result.ladder["sign_momentum"][-1].key)
    missing = [(row.stage, row.recipe, row.missing) for row in study.plan(copied).rows if row.missing]
    assert missing == [("ladder", "sign_momentum", 1)]


def test_a_result_prints_as_the_command_does(result):
    assert str(result) == repr(result)
    assert str(result).splitlines()[-len(result.lines()) :] == result.lines()
    assert [f"caveat: {c}" for c in caveat_lines(result)] == str(result).splitlines()[: -len(result.lines())]


def test_the_report_is_one_file_with_the_forecast_in_it(result, tmp_path):
    page = result.report(tmp_path / "page.html", command="windtunnel run tiny.py")
    words = page.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    assert f"{result.forecasts['base'].loss.median:.4g}" in words
    assert "sign_momentum" in words and "windtunnel run tiny.py" in words


def test_the_live_page_of_a_study_is_that_of_its_report(study, result):
    data = Living(study, result.store, lambda now: "windtunnel run study.py", __file__)()
    told = page_data(result, command="windtunnel run study.py", study_file=__file__)
    assert data.pop("flying") == [] and {**data, "created": ""} == {**told, "created": ""}
    assert render(data, live=True).count("<script>") == 2
    assert [row["recipe"] for row in data["past"]] == list(study.recipes()) and data["next"] == []
    assert data["cost"]["saved_flops"] > 0 and data["cost"]["kilowatt_hours"] > 0


def test_what_is_in_flight_is_told_from_its_checkpoint(study, result, copied):
    lost = result.ladder["base"][0]
    shutil.rmtree(copied.path / "runs" / lost.key)
    pack = Stages(study, copied).packed([Ask("base", "ladder", lost.spec)])
    checkpoint.save(copied.flight(pack.key), 4, {}, {"members": [lost.key]})
    (told,) = flying(Stages(study, copied))
    assert (told["recipe"], told["runs"]) == ("base", 1)
    assert told["done"] == 4 * pack.tokens_per_step() / lost.spec.rung.tokens


def test_a_transfer_is_told_in_numbers_too(result):
    data = json.loads(json.dumps(result.to_json(), allow_nan=False))["transfer_checks"]
    for name, found in result.transfers.items():
        for field, check in found.items():
            told = data[name][field]
            assert told["transfers"] is check.transfers and told["moved"]["median"] == check.moved.median
            assert {"cost", "carried", "from_width", "to_width", "at_width", "odds"} <= set(told)


def test_the_answer_is_plain_data_without_nan(result):
    text = json.dumps(result.to_json(), allow_nan=False)
    assert json.loads(text)["study"] == "tiny"


def returns_a_number(base):
    """Not an idea."""
    return 3


def test_an_idea_that_returns_no_recipe_is_refused(study):
    with pytest.raises(InputError, match=r"returns_a_number returned a int; an idea takes a Recipe"):
        replace(study, ideas=[returns_a_number])


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"base": "adamw"}, r"base is 'adamw'; it takes a Recipe, for example base=wt\.recipes\."),
        ({"ladder": [8, 12]}, r"ladder is \[8, 12\]; it takes a Ladder, .*Ladder\.widths"),
        ({"target": 64}, "target is 64; it takes a Target"),
        ({"tuning": 5}, "tuning is 5; it takes a Tuning"),
        ({"name": 7}, "name is 7; use letters"),
        ({"name": ".."}, "name is '..'; use letters, .*at least one letter or digit"),
        ({"name": " "}, "name is ' '; use letters"),
        ({"seed": 1.5}, "seed is 1.5; give a whole number"),
        ({"target_seeds": 2.5}, "target_seeds is 2.5; give a whole number"),
        ({"level": "0.9"}, "level is '0.9'; it is a probability"),
        ({"ideas": returns_a_number}, r"in a list: ideas=\[returns_a_number\]"),
    ],
)
def test_a_field_that_holds_another_thing_is_refused_by_its_name(study, changes, says):
    with pytest.raises(InputError, match=says):
        replace(study, **changes)


@pytest.mark.parametrize("idea", [lambda base: base, "muon", None])
def test_an_idea_without_a_name_is_refused(study, idea):
    with pytest.raises(InputError, match="is not an idea"):
        replace(study, ideas=[idea])


def test_two_ideas_of_one_name_are_refused(study):
    with pytest.raises(InputError, match="Two ideas of the study are called 'sign_momentum'"):
        replace(study, ideas=[tiny.sign_momentum, tiny.sign_momentum])


def base_recipe(base):
    """Called as the recipe without ideas is."""
    return base


base_recipe.__name__ = "base"


def test_an_idea_called_base_is_told_that_the_name_is_taken(study):
    with pytest.raises(InputError, match="called 'base', which is what the recipe without ideas is called"):
        replace(study, ideas=[base_recipe])


def test_a_batch_left_open_for_tuning_is_refused_with_what_to_do(corpus, tmp_path):
    open_ = tiny.recipe(corpus, batch=FixedBatch(examples=wt.tuned(4, 64)))
    with pytest.raises(InputError, match=r"base has batch=.*Write an idea for each batch"):
        tiny.study(corpus, base=open_, ideas=[]).plan(wt.Store(tmp_path / "store"))


@pytest.mark.parametrize(
    "optimizer, says",
    [
        (AdamW(lr="0.1"), "AdamW lr is '0.1'; it takes a number, without quotes"),  # pyright: ignore
        (AdamW(lr=None), "AdamW lr is None; it takes a number"),  # pyright: ignore
        (AdamW(lr=-0.1), "AdamW lr is -0.1; it must be at least 0"),
        (AdamW(lr=0.1, weight_decay=-0.1), "AdamW weight_decay is -0.1; it must be at least 0"),
        (AdamW(lr=0.1, beta2=1.5), "AdamW beta2 is 1.5; it must be at least 0, and below 1"),
        (AdamW(lr=0.1, eps=-1e-8), "AdamW eps is -1e-08"),
    ],
)
def test_numbers_that_no_optimizer_can_use_are_refused_before_anything_is_trained(corpus, tmp_path, optimizer, says):
    asked = tiny.study(corpus, base=tiny.recipe(corpus, optimizer=optimizer), ideas=[])
    with pytest.raises(InputError, match=says):
        asked.plan(wt.Store(tmp_path / "store"))


def test_columns_of_a_plan_stay_apart_at_large_batches(corpus, tmp_path):
    large = tiny.recipe(corpus, data=tiny.text(corpus, repeat=True), batch=FixedBatch(examples=1_000_000))
    ladder = wt.Ladder.widths((8, 12, 16), depth=1, tokens=1_000_000 * tiny.CONTEXT, head_width=8)
    target = wt.Target(rung=ladder.top.but(width=24, heads=3))
    asked = tiny.study(corpus, base=large, ideas=[], ladder=ladder, target=target)
    rows = str(asked.plan(wt.Store(tmp_path / "store"))).splitlines()
    assert rows[1].split()[6] == "1000000"


def test_a_last_step_that_goes_well_beyond_the_horizon_is_said(corpus):
    recipe = tiny.recipe(corpus)
    for examples, said in ((tiny.BATCH, []), (tiny.BATCH * tiny.STEPS // 3 + 1, ["up to 3.1 % more data"])):
        found = _beyond(recipe.but(batch=FixedBatch(examples=examples)), None, [tiny.RUNG.but(batch=None)])
        assert len(found) == len(said) and all(words in found[0] for words in said)


def test_a_verdict_that_the_forecasts_contradict_says_so(result):
    verdict, forecasts = result.verdicts["sign_momentum"], result.forecasts
    apart = forecasts["sign_momentum"].loss.median - forecasts["base"].loss.median
    near, far = (replace(verdict, delta=Interval(d, d - 0.01, d + 0.01), caveats=()) for d in (apart, apart + 1))
    assert _beside(near, "sign_momentum", forecasts).caveats == ()
    assert "The two forecasts lie" in _beside(far, "sign_momentum", forecasts).caveats[0]


def test_the_check_of_a_transfer_draws_by_itself(study, result):
    """With draws of one seed, the errors of one basin would be taken for those of the other."""
    stages = Stages(study, result.store)
    state = stages.tuning("base")
    for field, larger in stages.recheck_basins("base", state).items():
        assert abs(np.corrcoef(larger.draws, state.basins[field].draws)[0, 1]) < 0.5


def test_a_share_is_searched_and_checked_as_one(corpus, tmp_path):
    """Its values stay below one, and so does the interval of the best."""
    base = tiny.recipe(corpus, optimizer=AdamW(lr=0.01, beta2=wt.tuned(0.8, 0.99)))
    ladder = wt.Ladder.widths((8, 12, 16), depth=1, tokens=tiny.TOKENS // 2, head_width=8)
    target = wt.Target(rung=wt.Rung(width=24, depth=1, heads=3, tokens=tiny.TOKENS // 2))
    asked = tiny.study(corpus, base=base, ideas=[], ladder=ladder, target=target, train_target=False)
    result = asked.run(wt.Store(tmp_path / "store"), launcher=Here(devices=1))
    tried = {run.spec.hyperparameters["beta2"] for run in wt.Store(tmp_path / "store").runs()}
    assert len(tried) > 3 and max(tried) < 1
    assert result.forecasts["base"].hyperparameters["beta2"].high <= 1 and "beta2" in result.transfers["base"]


class Corners:
    """A search of two sets of values."""

    def ask(self, ranges, heard):
        ends = [{f: getattr(r, end) for f, r in ranges.items()} for end in ("low", "high")]
        return ends[len(heard) :]

    def best(self, ranges, heard):
        return dict(heard[0].values)


def test_fields_searched_together_are_not_tried_again(corpus, tmp_path):
    """No basin of theirs could be compared."""
    base = tiny.recipe(corpus, optimizer=AdamW(lr=wt.tuned(1e-3, 1e-1), beta2=wt.tuned(0.8, 0.99)))
    asked = tiny.study(corpus, base=base, ideas=[], tuning=wt.Tuning(search=Corners(), seeds=1))
    rows = asked.plan(wt.Store(tmp_path / "store")).rows
    assert {row.stage for row in rows} == {"tune", "ladder", "target"}


def test_a_target_inside_the_ladder_is_refused(study, tmp_path):
    inside = replace(study, target=wt.Target(rung=study.ladder.top))
    with pytest.raises(InputError, match="lies inside the ladder"):
        inside.run(wt.Store(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_a_target_without_a_shape_cannot_be_trained(study):
    with pytest.raises(InputError, match="the target has no rung"):
        replace(study, target=wt.Target(params=1e9, tokens=1e10))


def test_seeds_of_a_shifted_study_are_its_own(study, tmp_path):
    store = wt.Store(tmp_path / "none")
    shifted = replace(study, seed=1)
    keys = [{a.spec.key for a in Stages(s, store).ladder("base", {"lr": 0.01})} for s in (study, shifted)]
    assert not keys[0] & keys[1]


def test_losses_fall_with_width_and_are_below_chance(result):
    by_width = [np.mean([r.loss for r in result.ladder["base"] if r.spec.rung.width == w]) for w in (8, 12, 16, 24)]
    assert by_width[-1] < by_width[0] < np.log(256)


def test_the_store_can_be_read_with_json_and_numpy_alone(result):
    run = result.ladder["base"][0]
    folder = Path(result.store.path) / "runs" / run.key
    assert json.loads((folder / "run.json").read_text())["loss"] == run.loss
    with np.load(folder / "curve.npz") as curve:
        assert curve["judged_loss"][-1] == run.loss


@pytest.mark.parametrize(
    ("width", "depth", "words"),
    [
        (64, 2, None),
        (16, 4, "2 times as deep for its width"),
        (64, 8, "the ladder [1, 2, 4]: what depth does is carried"),
    ],
)
def test_a_target_of_another_shape_is_said(width, depth, words):
    ladder = wt.Ladder(rungs=tuple(wt.Rung(width=w, depth=d, tokens=10_000) for w, d in ((16, 1), (16, 2), (32, 4))))
    target = wt.Target(rung=wt.Rung(width=width, depth=depth, tokens=100_000))
    said = _shape(SimpleNamespace(study=SimpleNamespace(ladder=ladder, target=target)))  # type: ignore[arg-type]
    assert [words in caveat for caveat in said] == ([True] if words else [])


def test_a_ladder_of_one_depth_tells_nothing_of_another():
    ladder = wt.Ladder.widths((16, 32, 64), depth=2, tokens=10_000, head_width=16)
    study = SimpleNamespace(ladder=ladder, target=wt.Target(rung=wt.Rung(width=128, depth=8, tokens=100_000)))
    (said,) = _shape(SimpleNamespace(study=study))  # type: ignore[arg-type]
    assert "the ladder only [2]: nothing here tells what depth does" in said


def test_many_ideas_are_told_in_one_line_and_a_caveat_once():
    said = {
        f"idea{i}": SimpleNamespace(verdict="hurts" if i % 2 else "cannot tell", caveats=("Few pairs.",))
        for i in range(7)
    }
    result = SimpleNamespace(
        study=SimpleNamespace(target_flops=lambda: None, target="target"), forecasts={}, verdicts=said, scores={},
        ladder={}, unfitted={}, ladder_flops=lambda: 1e9, targets={},
    )  # fmt: skip
    line = three_lines(result)[1]  # type: ignore[arg-type]
    assert "3 hurt (idea1, idea3, idea5)" in line and "4 cannot tell (idea0" in line
    assert caveat_lines(result) == ["idea0, idea1, idea2, idea3 and 3 more: Few pairs."]  # type: ignore[arg-type]
