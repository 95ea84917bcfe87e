"""Methods compared fairly: known profiles, the public leaderboard's own numbers, logs that are damaged."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.fair import EXTERNAL, SELF_TUNING, Goal, Rules, Timed, goals_from, in_studies, ratios, scores, timed
from windtunnel.fair.profiles import profile, steps
from windtunnel.ladder import Rung, Size
from windtunnel.runs import Cost, Outcome, Run, RunSpec

# Steps to target on nine workloads and the scores made of them, from the public leaderboard of AlgoPerf
# (mlcommons/submissions_algorithms, artifacts/leaderboard_v2, commits 0b40d9c and 05f7967). inf: never.
LEADERBOARD = """
AdEMAMix,8371.0,10206.0,44503.0,inf,inf,67706.0,inf,27247.0,112742.0,0.5258136924803595
Cautious NAdamW,inf,7518.0,58199.0,inf,inf,inf,inf,24948.0,112372.0,0.31986531986531946
Lion,inf,10645.0,59524.0,inf,inf,inf,inf,33386.0,109080.0,0.2732884399551064
Muon (JAX),inf,8801.0,40724.0,inf,151926.0,inf,inf,inf,inf,0.31986531986531946
Muon (PyTorch),7716.0,inf,39220.0,inf,inf,inf,inf,7711.0,97224.0,0.4326599326599318
NAdamW,8286.0,9924.0,58784.0,inf,152461.0,inf,inf,inf,inf,0.40404040404040326
NAdamW (Baseline v0.5),9145.0,6648.0,47039.0,inf,inf,inf,inf,20879.0,118600.0,0.45454545454545503
NAdamW (ResNet),inf,9220.0,53029.0,inf,inf,inf,inf,32738.0,inf,0.19528619528619492
Schedule-Free AdamW,10346.0,10599.0,inf,inf,inf,inf,90588.0,15853.0,133517.0,0.4461279461279469
Schedule-Free AdamW (JAX),inf,7160.0,57242.0,inf,175889.0,inf,inf,27341.0,122198.0,0.4090909090909087
Schedule-Free AdamW (JAX v2),9005.0,8750.0,68640.0,inf,164206.0,inf,inf,27457.0,inf,0.41245791245791213
Schedule-Free AdamW v2,7951.0,12431.0,inf,inf,inf,83184.0,78669.0,28449.0,73222.0,0.5252525252525259
DiLoCo (Single Worker),inf,9342.0,61209.0,inf,inf,inf,inf,inf,inf,0.18630751964085265
DiLoCo v2 (Single Worker),inf,10140.0,59550.0,inf,inf,inf,inf,inf,inf,0.1829405162738493
"""
HEAD = "accumulated_submission_time,global_step,preemption_count,validation/loss,validation/num_examples\n"


def run(method: str, workload: str, study: int, losses: list[float], name: str = "0", pace: float = 1.0) -> Timed:
    """A run that is judged at every step and takes `pace` seconds for each."""
    counted = np.arange(1.0, len(losses) + 1)
    return Timed(
        method=method, workload=workload, study=str(study), run=name,
        used={"steps": counted, "seconds": pace * counted}, measured={"loss": np.array(losses)},
    )  # fmt: skip


def falling(reaches: int, length: int = 10) -> list[float]:
    """A loss that first is at most 1 at this step, never if it is beyond the end."""
    return [2.0 if step < reaches else 0.9 for step in range(1, length + 1)]


GOAL = {"a": Goal(metric="loss", value=1.0), "b": Goal(metric="loss", value=1.0)}


def test_scores_are_those_of_the_public_leaderboard():
    rows = [line.rsplit(",", 10) for line in LEADERBOARD.strip().splitlines()]
    times = np.array([[float(cell) for cell in row[1:10]] for row in rows])
    stated = np.array([float(row[10]) for row in rows])
    # theirs sums 100 points of the staircase, ours is exact: each workload may differ by half a point's distance
    assert np.abs(scores(times) - stated).max() < 0.5 / 99 + 1e-9
    apart = stated[:, None] - stated[None, :] > 1 / 99  # nearer ones are told apart by their grid alone
    assert (scores(times)[:, None] > scores(times)[None, :])[apart].all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.one_of(st.floats(0.5, 50.0), st.just(math.inf)), min_size=3, max_size=3), min_size=2,
                max_size=4), st.floats(0.01, 100.0))  # fmt: skip
def test_a_score_is_the_integral_of_its_profile_and_knows_no_unit(table, unit):
    times = np.array(table)
    assert np.allclose(scores(times), scores(times * unit))
    tau = np.linspace(1, 4, 30_001)
    for i, ratio in enumerate(ratios(times)):
        assert scores(times)[i] == pytest.approx(np.trapezoid(profile(ratio, tau), tau) / 3, abs=1e-3)
        corners = np.array(steps(ratio))
        assert scores(times)[i] == pytest.approx(np.trapezoid(corners[:, 1], corners[:, 0]) / 3)


def test_a_study_counts_its_best_run_and_a_workload_the_median_of_its_studies():
    reaches = {0: (3, 9), 1: (5, 99), 2: (4, 4)}  # bests 3, 5, 4
    runs = [run("m", "a", s, falling(r), str(i)) for s, rs in reaches.items() for i, r in enumerate(rs)]
    found = wt.compare_fairly(runs, {"a": GOAL["a"]}, unit="steps")
    assert found.times[0, 0] == 4
    assert found.tuning[0, 0] == pytest.approx(((3 + 9) + (5 + 10) + (4 + 4)) / 3)  # the run that never came: its end
    assert found.reached[0, 0] == pytest.approx(np.mean([1, 0.5, 1]))
    charged = wt.compare_fairly(runs, {"a": GOAL["a"]}, unit="steps", charge_tuning=True)
    assert charged.times[0, 0] == np.median([12, 15, 8])


def test_what_never_reached_the_goal_is_infinite_and_said():
    runs = [run(m, w, s, falling(r)) for s in range(3) for m, w, r in (("m", "a", 2), ("m", "b", 99), ("n", "a", 3))]
    found = wt.compare_fairly(runs, GOAL, unit="steps")
    assert np.isinf(found.times[:, 1]).all() and found.score["m"].median == 0.5
    said = str(found)
    assert "never b" in said and "n has no run on b" in said and "No method reached the goal of b" in said
    assert found.to_json()["times"][0][1] is None


def test_a_method_that_was_tuned_less_and_a_workload_without_a_goal_are_said():
    runs = [run(m, "a", s, falling(3), str(i)) for m, n in (("new", 5), ("old", 1)) for s in range(3) for i in range(n)]
    said = wt.compare_fairly([*runs, run("new", "c", 0, falling(2))], {"a": GOAL["a"]}, unit="steps").caveats
    assert "old has studies of 1 run(s), the rules 5: it was tuned less than they allow." in said
    assert "Left out, for there is no goal: c." in said
    assert not any("tuned less" in each and "new" in each for each in said)


def test_a_limit_cuts_off_and_self_tuning_may_run_longer():
    goal = {"a": Goal(metric="loss", value=1.0, limits={"steps": 6})}
    runs = [run("m", "a", s, falling(8)) for s in range(3)]
    assert np.isinf(wt.compare_fairly(runs, goal, unit="steps", rules=EXTERNAL).times[0, 0])
    assert wt.compare_fairly(runs, goal, unit="steps", rules=SELF_TUNING).times[0, 0] == 8


def test_a_loss_that_is_no_number_reaches_nothing():
    assert run("m", "a", 0, [math.nan, math.nan]).reached(GOAL["a"], "steps") == math.inf
    assert run("m", "a", 0, [math.nan, 0.5]).reached(GOAL["a"], "steps") == 2


def test_the_unit_decides_who_is_faster():
    runs = [run(m, "a", s, falling(r), pace=p) for s in range(3) for m, r, p in (("few", 2, 10.0), ("quick", 4, 1.0))]
    assert wt.compare_fairly(runs, {"a": GOAL["a"]}, unit="steps").methods[0] == "few"
    assert wt.compare_fairly(runs, {"a": GOAL["a"]}, unit="seconds").methods[0] == "quick"


def test_the_order_is_sure_where_studies_agree_and_unsure_where_they_do_not():
    def stable(first, second):
        reaches = {"m": first, "n": second}
        runs = [run(m, w, s, falling(r, 80)) for m, rs in reaches.items() for w in "ab" for s, r in enumerate(rs)]
        return wt.compare_fairly(runs, GOAL, unit="steps", rules=Rules(name="five", studies=5, runs=1)).stable

    assert stable([20, 21, 22, 23, 24], [30, 31, 32, 33, 34]) == 1.0
    assert stable([10, 20, 30, 40, 50], [11, 21, 31, 41, 51]) < 0.8


def test_more_tuning_than_the_rules_allow_is_refused():
    runs = [run("m", "a", 0, falling(2), str(i)) for i in range(6)]
    with pytest.raises(InputError, match=r"up to 6 runs on a; the rules .* allow 3 of 5"):
        wt.compare_fairly(runs, GOAL, unit="steps")


def test_a_goal_is_the_median_of_a_reference_and_studies_are_parted_by_chance():
    runs = [run("m", "a", s, [3.0, value, value + 1]) for s, value in enumerate((1.0, 2.0, 1.5))]
    goal = goals_from(runs)["a"]
    assert goal.value == 1.5 and goal.limits["steps"] == pytest.approx(4.0)
    parted = in_studies([run("m", "a", 0, falling(i), str(i)) for i in range(15)], 5)
    assert sorted(r.study for r in parted) == sorted(list("012") * 5)
    assert sorted(r.run for r in parted) == sorted(str(i) for i in range(15))
    with pytest.raises(InputError, match="do not fill studies of 4"):
        in_studies(parted, 4)


@pytest.mark.parametrize(
    "call,said",
    [
        (lambda: wt.compare_fairly([run("m", "a", 0, [1.0])], GOAL, unit="second"), "unit is 'second'"),
        (lambda: wt.compare_fairly([run("m", "a", 0, [1.0])], GOAL, unit="flops"), "not timed in 'flops'"),
        (lambda: wt.compare_fairly([run("m", "c", 0, [1.0])], GOAL), "None of 1 runs is on a workload with a goal"),
        (lambda: wt.compare_fairly([run("m", "a", 0, [1.0])], {"a": Goal(metric="los", value=1.0)}), "Did you mean"),
        (lambda: Goal(metric="loss", value=math.nan), "finite number"),
        (lambda: wt.compare_fairly([run("m", "a", 0, [1.0])], GOAL, level=1.0), "0 < level < 1"),
    ],
)
def test_a_comparison_that_cannot_be_made_says_why(call, said):
    with pytest.raises(InputError, match=said):
        call()


def test_a_page_is_drawn_and_names_are_only_text():
    runs = [run(m, w, s, falling(2)) for s in range(3) for m in ("<script>x</script>", "n") for w in "ab"]
    page = wt.compare_fairly(runs, GOAL, unit="steps").figure()
    assert "&lt;script&gt;x" in page and "<script" not in page and "<svg" in page
    assert "Some methods have equal scores" in page


# runs of a store


def test_runs_of_a_store_are_timed_by_what_they_cost():
    spec = RunSpec(recipe={}, rung=Rung(width=8, depth=1, tokens=100, batch=5), hyperparameters={}, seed=0, judge={},
                   base_rung=Rung(width=8, depth=1, tokens=100))  # fmt: skip
    curve = {"step": np.arange(1, 11), "tokens": np.arange(10, 101, 10), "judged_tokens": np.array([50, 100]),
             "judged_loss": np.array([2.0, 1.0])}  # fmt: skip
    cost = Cost(flops=1000.0, seconds=4.0, device="cpu", threads=1, members=1)
    kept = Run(key="k", spec=spec, outcome=Outcome.FINISHED, loss=1.0, metrics={}, cost=cost, curve=curve,
               size=Size(embedding=0, non_embedding=1, flops_per_token=10.0))  # fmt: skip
    (found,) = timed([kept], method="m", workload="w")
    goal = Goal(metric="loss", value=2.0)
    assert {unit: found.reached(goal, unit) for unit in found.used} == {
        "tokens": 50, "steps": 5, "flops": 500, "seconds": 2,
    }  # fmt: skip


# AlgoPerf's logs


def write(folder, text: str, submission="mine", study=0, workload="ogbg_jax", trial=1, name="eval_measurements.csv"):
    place = folder / submission / f"study_{study}" / workload / f"trial_{trial}"
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return place


def test_logs_are_read_with_their_layout(tmp_path):
    for study in range(3):
        write(tmp_path, HEAD + f"1.5,1,0,2.0,10\n{4.0 + study},7,0,0.9,10\n", study=study)
        write(tmp_path, HEAD + "2.0,5,0,0.5,10\n", study=study, submission="other", workload="ogbg_pytorch")
    runs = wt.fair.read_algoperf(tmp_path)
    assert {(r.method, r.workload, r.study, r.run) for r in runs} >= {("mine", "ogbg", "study_2", "trial_1")}
    goals = {"ogbg": Goal(metric="validation/loss", value=1.0)}
    found = wt.compare_fairly(runs, goals)
    assert found.methods == ("other", "mine") and found.times[1, 0] == 5.0
    assert wt.compare_fairly(runs, goals, unit="steps").times[1, 0] == 7
    (alone, *_) = wt.fair.read_algoperf(tmp_path / "mine")
    assert alone.method == "mine"


def test_rows_between_evaluations_are_no_evaluations(tmp_path):
    write(tmp_path, HEAD + "1.0,1,0,,\n2.0,2,0,0.5,10\n", name="measurements.csv")
    (found,) = wt.fair.read_algoperf(tmp_path)
    assert list(found.used["steps"]) == [2]


@pytest.mark.parametrize(
    "text,said",
    [
        (HEAD + "1.0,1,0,2.0,10\n3.0,2,0,0.", "cut off"),
        (HEAD + "1.0,1,0,2.0\n", "line 2: 4 cells under 5 names"),
        (HEAD + "1.0,one,0,2.0,10\n", "global_step is 'one', not a number"),
        (HEAD + "1.0,,0,2.0,10\n", "missing or negative"),
        (HEAD + "-1.0,1,0,2.0,10\n", "missing or negative"),
        (HEAD, "no rows"),
        ("global_step,global_step\n1,1\n", "equal names"),
        ("loss,step\n1,1\n", "lacks accumulated_submission_time, global_step"),
        (b"\xff\xfe\n1\n", "no table"),
        (HEAD + '"1.0,1,0,2.0,10\n', "no table"),
        ("", "cut off"),
    ],
)
def test_a_damaged_log_is_refused_by_name(tmp_path, text, said):
    place = write(tmp_path, text)
    with pytest.raises(InputError, match=said) as caught:
        wt.fair.read_algoperf(tmp_path)
    assert str(place) in str(caught.value)


def test_a_log_is_bounded(tmp_path, monkeypatch):
    write(tmp_path, HEAD + "1.0,1,0,2.0,10\n")
    monkeypatch.setattr("windtunnel.fair.logs.CSV_BYTES", 10)
    with pytest.raises(InputError, match="take at most 10"):
        wt.fair.read_algoperf(tmp_path)


def test_folders_without_logs_are_named(tmp_path):
    with pytest.raises(InputError, match="holds no AlgoPerf logs"):
        wt.fair.read_algoperf(tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        wt.fair.read_algoperf(tmp_path / "nowhere")


def test_the_public_goals_cover_every_workload_of_the_leaderboard():
    metrics = {name: goal.metric for name, goal in wt.fair.ALGOPERF_GOALS.items()}
    assert len(metrics) == 9 and metrics["ogbg"] == "validation/mean_average_precision"
