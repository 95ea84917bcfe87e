"""A study within a budget stops where the budget ends, says so, and goes on to the same numbers once it is larger."""

from __future__ import annotations

import pytest
import tiny

import windtunnel as wt
from windtunnel.cli import main
from windtunnel.errors import InputError, Paused
from windtunnel.launch.here import Here
from windtunnel.study.budget import Budget, Meter
from windtunnel.train.loop import Progress
from windtunnel.train.timing import timed


class Said:
    """Follows a job and keeps its sentences."""

    def __init__(self):
        self.sentences = []

    def stage(self, name, packs): ...
    def progress(self, progress): ...
    def finished(self, pack): ...

    def say(self, sentence):
        self.sentences.append(sentence)


@pytest.fixture(scope="module")
def study(corpus):
    """Tuning, three rungs, no idea, no target: a few seconds."""
    ladder = wt.Ladder.widths((8, 12, 16), depth=1, tokens=tiny.TOKENS, head_width=8, seeds=2)
    return tiny.study(corpus, name="within", ideas=[], train_target=False, ladder=ladder)


@pytest.fixture(scope="module")
def whole(study, tmp_path_factory):
    """The store of the study without a budget."""
    store = wt.Store(tmp_path_factory.mktemp("whole") / "store")
    study.run(store, launcher=Here(devices=1))
    return store


def spent(store):
    """FLOPs of finished runs and of packs in flight, as the files say."""
    meter = Meter(Budget(1.0), "within", store)
    return meter.recorded


def step_flops(study, store):
    """The dearest step that a pack of this study takes."""
    sizes = [run.size.training_flops(tiny.BATCH * tiny.CONTEXT) for run in store.runs()]
    return 8 * max(sizes)


@pytest.mark.parametrize(
    "text, amount, seconds",
    [("2e15", 2e15, False), ("3 FLOPs", 3, False), ("90s", 90, True), ("30min", 1800, True), ("1.5h", 5400, True),
     ("2d", 172800, True), ("1e+3", 1000, False)],
)  # fmt: skip
def test_a_budget_is_flops_or_device_time(text, amount, seconds):
    assert Budget.parse(text) == Budget(amount, seconds)


@pytest.mark.parametrize("text", ["", "h", "-2h", "2 weeks", "0", "0s", "nan", "1e999", "2H", "5M", "1h30", "0x10"])
def test_what_is_no_budget_is_refused_with_what_would_be(text):
    with pytest.raises(InputError, match=r"give FLOPs, as 2e15, or device time"):
        Budget.parse(text)


def test_a_study_stops_at_its_flops_and_ends_with_the_same_numbers(study, whole, tmp_path):
    store, total, last = wt.Store(tmp_path / "store"), spent(whole), 0.0
    there = {}
    for share in (0.1, 0.35, 0.36, 0.7):
        with pytest.raises(Paused) as paused:
            study.run(store, launcher=Here(devices=1), budget=Budget(share * total))
        assert "The budget is spent" in str(paused.value) and "larger --budget goes on" in str(paused.value)
        at = _counted(store, study)
        assert abs(at - share * total) <= step_flops(study, whole) and at >= last
        last = at
        now = {run.key: run for run in store.runs()}
        assert all(now[key] == run for key, run in there.items())  # what was finished stays as it was
        there = now
    study.run(store, launcher=Here(devices=1), budget=Budget(2 * total))
    assert {r.key: tiny.numbers(r) for r in store.runs()} == {r.key: tiny.numbers(r) for r in whole.runs()}
    assert spent(store) == pytest.approx(total)  # nothing was trained twice


def _counted(store, study):
    """Records and the newest checkpoints, counted from the files alone."""
    from windtunnel.study.stages import Stages
    from windtunnel.train import checkpoint

    stages, found = Stages(study, store), spent(store)
    state = stages.tuning("base")
    asked = [*state.asked, *stages.ladder("base", state.values)]
    asked += [ask for asks in stages.recheck("base", state.values).values() for ask in asks]
    for pack in stages.packs(asked):
        steps, _ = checkpoint.spent(store.flight(pack.key))
        found += pack.size().training_flops(steps * pack.tokens_per_step())
    return found


def test_a_spent_budget_trains_nothing_more(study, whole, tmp_path):
    store = wt.Store(tmp_path / "store")
    for _ in range(2):
        with pytest.raises(Paused):
            study.run(store, launcher=Here(devices=1), budget=Budget(0.3 * spent(whole)))
        files = {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
    with pytest.raises(Paused):
        study.run(store, launcher=Here(devices=1), budget=Budget(0.3 * spent(whole)))
    assert {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()} == files


@pytest.mark.slow
def test_a_study_stops_over_two_workers_and_goes_on(study, whole, tmp_path):
    """Two worker processes started twice or more: buys that packs in flight elsewhere are checkpointed too."""
    store = wt.Store(tmp_path / "store")
    with pytest.raises(Paused):
        # workers report twice a second, and these packs take less: it stops in a pack or before the next stage
        study.run(store, launcher=Here(devices=2), budget=Budget(0.1 * spent(whole)))
    study.run(store, launcher=Here(devices=1), budget=Budget(2 * spent(whole)))
    assert {r.key: tiny.numbers(r) for r in store.runs()} == {r.key: tiny.numbers(r) for r in whole.runs()}


def test_the_flops_foretold_are_within_a_fifth_of_those_spent(study, whole, tmp_path):
    foretold = study.plan(wt.Store(tmp_path / "none")).flops
    assert abs(foretold / spent(whole) - 1) < 0.2


def test_the_estimate_is_said_before_anything_is_trained(study, tmp_path):
    said = Said()
    with pytest.raises(Paused):
        study.run(wt.Store(tmp_path / "store"), launcher=Here(devices=1), watch=said, budget="1e6")
    assert said.sentences[0].startswith("estimate: ") and "timed on a few steps of each size here" in said.sentences[0]
    assert said.sentences[1].startswith("budget: ") and said.sentences[1].endswith("not enough")


def test_time_counts_on_all_devices_and_over_calls(tmp_path):
    meter = Meter(Budget(10.0, seconds=True), "within", wt.Store(tmp_path / "store"))
    for second in range(1, 5):
        for pack in ("a", "b"):
            meter.hear(Progress(pack, second, 100, {}, float(second)))
    assert meter.spent == 8.0
    with pytest.raises(Paused, match="9 s of device time of 10 s of device time"):  # 10 is nearer than 11 would be
        meter.hear(Progress("a", 5, 100, {}, 5.0))


def test_a_pack_that_is_done_is_recorded_though_the_budget_is_spent(tmp_path):
    meter = Meter(Budget(5.0), "within", wt.Store(tmp_path / "store"))
    meter.hear(Progress("a", 7, 7, {}, 1.0, flops=6.0))
    with pytest.raises(Paused):
        meter.begin([], wt.Store(tmp_path / "store"))


def test_runs_of_another_study_cost_this_one_nothing(whole):
    assert Meter(Budget(1.0), "another", whole).spent == 0.0 < Meter(Budget(1.0), "within", whole).spent


def test_the_command_pauses_with_code_4_and_refuses_what_it_cannot_keep(tmp_path, corpus, capsys):
    file, store = tmp_path / "budgeted_study.py", str(tmp_path / "store")
    file.write_text(f"import tiny\nstudy = tiny.study({str(corpus)!r}, ideas=[], train_target=False)\n")
    assert main(["run", str(file), "--store", store, "--devices", "1", "--budget", "1e6"]) == 4
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-1].startswith("windtunnel: The budget is spent: ")
    assert main(["run", str(file), "--store", store, "--on", "torchrun", "--budget", "1e6"]) == 2
    assert "--budget is not kept by --on torchrun" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["run", str(file), "--store", store, "--budget", "2 weeks"])
    assert "A budget of '2 weeks' cannot be read" in capsys.readouterr().err


def test_a_pack_of_a_single_step_is_timed_by_it(corpus):
    single = tiny.pack(tiny.recipe(corpus), [{"lr": 0.01}], rung=tiny.RUNG.but(tokens=tiny.BATCH * tiny.CONTEXT))
    found = timed(single, tiny.CPU)
    assert found.step > 0 and found.judgement > 0 and found.pack_seconds(single) > 0
