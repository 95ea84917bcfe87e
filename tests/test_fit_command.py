"""`windtunnel fit`: a table in, a forecast with its doubts out, and exit codes a script can rely on."""

import argparse
import json

import numpy as np
import pytest

from windtunnel.cli import main, progress
from windtunnel.cli.fit import add_arguments, execute, parse_target
from windtunnel.cli.table.answers import MANY
from windtunnel.cli.table.words import MOST_LINES
from windtunnel.errors import InputError

SIZES = np.geomspace(1e6, 3e7, 6)


def _table(tmp_path, *, steep=False, series=("",), split=False):
    """A CSV of runs under foreign column names; with `split`, the last size is to be predicted."""
    lines = ["n_params,toks,val_loss,seed,family,split"]
    for number, name in enumerate(series):
        for i, n in enumerate(SIZES):
            for seed in range(2):
                curve = 4.0 - 0.02 * i**2 if steep else 1.7 + 0.1 * number + 300 * n**-0.4
                loss = curve * (1 + 0.002 * (-1) ** (seed + i))
                lines.append(f"{n},{20 * n},{loss},{seed},{name},{'predict' if split and i == 5 else 'fit'}")
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(lines))
    return str(path)


COLUMNS = "params=n_params,tokens=toks,loss=val_loss,series=family"


def _run(capsys, path, *options):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    code = execute(parser.parse_args([path, "--columns", COLUMNS, *options]))
    return code, capsys.readouterr().out


def test_a_target_gets_a_number_laws_and_backtest(tmp_path, capsys):
    code, out = _run(capsys, _table(tmp_path), "--target", "params=9e7,tokens=1.8e9")
    assert code == 0
    assert "at 90%" in out and "weight" in out and "backtest:" in out
    assert out.index("caveat:") < out.index("loss at")


def test_without_a_target_the_laws_are_printed(tmp_path, capsys):
    code, out = _run(capsys, _table(tmp_path))
    assert code == 0
    assert "alpha" in out and "loss at" not in out


def test_a_forecast_that_fails_its_backtest_exits_with_three(tmp_path, capsys):
    code, out = _run(capsys, _table(tmp_path, steep=True), "--target", "params=3e8")
    assert code == 3
    assert "FAILED" in out or "not yet in a law" in out


def test_json_is_one_object_with_every_target_and_level(tmp_path, capsys):
    options = ("--target", "params=6e7", "--target", "params=9e7", "--level", "0.8", "--level", "0.95", "--json")
    code, out = _run(capsys, _table(tmp_path), *options)
    answer = json.loads(out)
    assert code == 0
    assert [f["target"]["params"] for f in answer["forecasts"]] == [6e7, 9e7]
    first = answer["forecasts"][0]
    assert [i["level"] for i in first["loss"]["intervals"]] == [0.8, 0.95]
    assert all(i["low"] < first["loss"]["median"] < i["high"] for i in first["loss"]["intervals"])
    assert sum(law["weight"] for law in first["laws"]) == pytest.approx(1)
    assert {"series", "target", "loss", "laws", "caveats", "backtest", "reliable"} <= set(first)
    assert answer["scores"] == {}


def test_each_series_is_fitted_on_its_own(tmp_path, capsys):
    _, out = _run(capsys, _table(tmp_path, series=("adamw", "muon")), "--target", "params=9e7", "--json")
    forecasts = json.loads(out)["forecasts"]
    assert [f["series"] for f in forecasts] == ["adamw", "muon"]
    assert forecasts[1]["loss"]["median"] - forecasts[0]["loss"]["median"] == pytest.approx(0.1, abs=0.02)


def test_predict_rows_are_foretold_and_scored_but_never_fitted(tmp_path, capsys):
    path = _table(tmp_path, split=True)
    _, out = _run(capsys, path, "--json")
    answer = json.loads(out)
    assert answer["scores"]["n"] == 2
    assert answer["scores"]["mean_absolute_relative_error"] < 0.02
    with open(path) as file:
        text = file.read().replace("\r", "")
    changed = "\n".join(
        line.replace(line.split(",")[2], "9.9") if line.endswith("predict") else line for line in text.split("\n")
    )
    with open(path, "w") as file:
        file.write(changed)
    _, again = _run(capsys, path, "--json")
    medians = [[f["loss"]["median"] for f in json.loads(each)["forecasts"]] for each in (out, again)]
    assert medians[0] == medians[1]


def test_the_same_table_gives_the_same_text(tmp_path, capsys):
    path = _table(tmp_path)
    assert _run(capsys, path, "--target", "params=9e7") == _run(capsys, path, "--target", "params=9e7")


@pytest.mark.parametrize("text", ["size=7e9", "params=big", "params=-1", "", "7e9"])
def test_a_bad_target_is_explained(text):
    with pytest.raises(InputError):
        parse_target(text)


def test_a_target_in_epochs_is_told_how_to_state_them():
    with pytest.raises(InputError, match=r"unique_tokens=2.5e8"):
        parse_target("params=1e9,epochs=4")


def test_a_bad_level_is_explained(tmp_path, capsys):
    with pytest.raises(InputError, match="--level is 90"):
        _run(capsys, _table(tmp_path), "--level", "90")


def test_a_series_with_only_targets_is_explained(tmp_path, capsys):
    path = _table(tmp_path, series=("a",))
    with open(path, "a") as file:
        file.write("\n1e9,2e10,,0,lonely,predict\n")
    with pytest.raises(InputError, match="'lonely' has only `predict` rows"):
        _run(capsys, path)


def _plain(tmp_path, rows, header="params,tokens,loss,seed,series,idea,split", name="plain.csv"):
    path = tmp_path / name
    path.write_text("\n".join([header, *(",".join(str(cell) for cell in row) for row in rows)]))
    return str(path)


def _ladder(series="", idea="", *, gain=0.0, top="predict", sizes=SIZES):
    """Two seeds a size with noise that seeds share over ideas; the largest size has the split `top`."""
    rows = []
    for i, n in enumerate(sizes):
        for seed in range(2):
            shared, own = np.random.default_rng([seed, i]).normal(size=2)
            loss = (1.7 + 300 * n**-0.4) * np.exp(gain + 0.003 * shared + 0.0003 * own * (1 + len(idea)))
            rows.append([n, 20 * n, loss, seed, series, idea, top if i == len(sizes) - 1 else "fit"])
    return rows


def _main(capsys, *arguments):
    code = main(["fit", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def _objects(text):
    """The JSON, refusing NaN and Infinity, which JSON does not have."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_json_has_the_promised_sections(tmp_path, capsys):
    code, out, err = _main(capsys, _plain(tmp_path, _ladder()), "--json")
    answer = _objects(out)
    assert code in (0, 3) and err == ""
    assert list(answer) == ["forecasts", "verdicts", "scores", "diagnostics"]
    assert {"fits", "dropped", "refused", "not_compared", "seconds"} == set(answer["diagnostics"])
    assert answer["diagnostics"]["fits"][0]["laws"][0]["parameters"]
    assert {"series", "idea", "target", "loss", "laws", "caveats"} <= set(answer["forecasts"][0])
    assert set(answer["scores"]["coverage"]) >= {"0.8", "0.95"}


def test_several_seeds_of_one_target_are_one_forecast_with_two_scores(tmp_path, capsys):
    path = _plain(tmp_path, _ladder())
    assert _main(capsys, path)[1].count("loss at") == 1
    assert _objects(_main(capsys, path, "--json")[1])["scores"]["n"] == 2


def test_a_table_of_targets_is_answered_and_scored_for_its_own_series(tmp_path, capsys):
    runs = _plain(tmp_path, _ladder("a", top="fit") + _ladder("b", gain=0.1, top="fit"))
    rows = [[9e7, 1.8e9, 1.9, "a"], [9e7, "", "", "b"], [2e8, 4e9, "", ""]]
    targets = _plain(tmp_path, rows, "params,tokens,loss,series", "targets.csv")
    answer = _objects(_main(capsys, runs, "--targets", targets, "--json")[1])
    asked = [(f["series"], f["target"]["params"], f["score"] is None) for f in answer["forecasts"]]
    assert asked == [("a", 9e7, False), ("a", 2e8, True), ("b", 9e7, True), ("b", 2e8, True)]


def test_targets_share_the_mapping_of_the_runs_but_need_not_share_every_column(tmp_path, capsys):
    targets = _plain(tmp_path, [[9e7, 1.8e9]], "n_params,toks", "targets.csv")
    code, out = _run(capsys, _table(tmp_path), "--targets", targets, "--json")
    assert code == 0
    assert json.loads(out)["forecasts"][0]["target"]["params"] == 9e7


def test_targets_of_an_unknown_series_are_refused(tmp_path, capsys):
    targets = _plain(tmp_path, [[9e7, "ab"]], "params,series", "targets.csv")
    code, _, err = _main(capsys, _plain(tmp_path, _ladder("a", top="fit")), "--targets", targets)
    assert code == 2
    assert "series 'ab'" in err


def test_ideas_get_verdicts_at_the_targets_and_are_scored(tmp_path, capsys):
    path = _plain(tmp_path, _ladder("lm", "base") + _ladder("lm", "good", gain=-0.02) + _ladder("lm", "bad", gain=0.02))
    answer = _objects(_main(capsys, path, "--json")[1])
    found = {verdict["idea"]: verdict for verdict in answer["verdicts"]}
    assert {idea: verdict["verdict"] for idea, verdict in found.items()} == {"good": "helps", "bad": "hurts"}
    assert found["good"]["series"] == "lm"
    assert found["good"]["truth"]["delta"] < 0 < found["bad"]["truth"]["delta"]
    assert {"delta", "probability_better", "compute_multiplier", "target", "caveats"} <= set(found["good"])
    assert answer["scores"]["verdicts"]["brier"] < 0.05
    text = _main(capsys, path)[1]
    assert "verdict on good (lm) at" in text and "helps" in text


def test_the_base_can_be_named_and_must_exist(tmp_path, capsys):
    path = _plain(tmp_path, _ladder("", "adamw") + _ladder("", "muon", gain=-0.02))
    answer = _objects(_main(capsys, path, "--json")[1])
    assert answer["verdicts"] == []
    assert "name it with --base" in answer["diagnostics"]["not_compared"][0]["reason"]
    assert [v["idea"] for v in _objects(_main(capsys, path, "--base", "adamw", "--json")[1])["verdicts"]] == ["muon"]
    code, _, err = _main(capsys, path, "--base", "sgd")
    assert code == 2
    assert "'adamw', 'muon'" in err


def test_one_series_that_cannot_be_fitted_does_not_stop_the_others(tmp_path, capsys):
    path = _plain(tmp_path, _ladder("a") + _ladder("short", sizes=SIZES[:2]))
    code, out, err = _main(capsys, path, "--json")
    answer = _objects(out)
    assert code == 3
    assert {forecast["series"] for forecast in answer["forecasts"]} == {"a"}
    assert answer["diagnostics"]["refused"][0]["what"] == "short"
    assert "windtunnel: short: " in err and "Traceback" not in err


def test_a_bad_table_is_one_message_and_exit_code_two(tmp_path, capsys):
    for text in ("", "a,b\n1,2\n", "loss,params\n3,x\n", "loss,params\n3,1e6\n"):
        path = tmp_path / "bad.csv"
        path.write_text(text)
        code, out, err = _main(capsys, str(path))
        assert (code, out) == (2, "")
        assert err.startswith("windtunnel: ") and err.count("\n") == 1


def test_a_target_in_another_unit_is_refused(tmp_path, capsys):
    code, _, err = _main(capsys, _plain(tmp_path, _ladder(top="fit")), "--target", "params=7,tokens=140")
    assert code == 2
    assert "same unit" in err


def test_many_series_are_one_line_each_and_json_has_all(tmp_path, capsys):
    names = [f"task{i}" for i in range(MANY + 1)]
    path = _plain(tmp_path, [row for name in names for row in _ladder(name)])
    _, out, err = _main(capsys, path)
    assert err == ""  # no progress where nobody watches
    assert all(sum(line.startswith(f"{name} ") for line in out.splitlines()) == 1 for name in names)
    assert len(out.splitlines()) < MANY + 15
    assert "90% interval" in out and f"of {MANY + 1} series" in out


def test_a_series_with_many_targets_is_a_table_with_an_end(tmp_path, capsys):
    wanted = [[p, 20 * p] for p in np.geomspace(5e7, 5e8, MOST_LINES + 7)]
    targets = _plain(tmp_path, wanted, "params,tokens", "targets.csv")
    out = _main(capsys, _plain(tmp_path, _ladder(top="fit")), "--targets", targets)[1]
    assert "and 7 more lines (--json has all)" in out


def test_searched_hyperparameters_get_a_best_value_and_a_regret(tmp_path, capsys):
    path = _plain(tmp_path, _searched(), "params,tokens,loss,lr,split")
    answer = _objects(_main(capsys, path, "--json")[1])
    best = answer["forecasts"][0]["best"]["lr"]
    assert best["low"] < 1e-3 * 30**-0.3 < best["high"]
    assert answer["scores"]["searches"] == 1
    assert answer["scores"]["regret"] == answer["scores"]["largest_regret"] < 0.01


def _searched(*, last_losses=1.0):
    """Four sizes, each searched over 9 learning rates; the rows of the largest are to be predicted."""
    for n in (1e7, 3e7, 1e8, 3e8):
        for lr in np.geomspace(1e-4, 1e-2, 9):
            loss = (1.7 + 300 * n**-0.4) * (1 + 0.02 * np.log(lr / (1e-3 * (n / 1e7) ** -0.3)) ** 2)
            yield [n, 20 * n, loss * (last_losses if n == 3e8 else 1), lr, "predict" if n == 3e8 else "fit"]


def test_the_rows_of_one_search_are_one_forecast_scored_by_their_best(tmp_path, capsys):
    rows = list(_searched())
    path = _plain(tmp_path, rows, "params,tokens,loss,lr,split")
    answer = _objects(_main(capsys, path, "--json")[1])
    lowest = min(row[2] for row in rows if row[4] == "predict")
    assert len(answer["forecasts"]) == answer["scores"]["n"] == 1
    assert "lr" not in answer["forecasts"][0]["target"]
    assert answer["forecasts"][0]["score"]["truth"] == pytest.approx(lowest)
    assert answer["forecasts"][0]["score"]["best_of"] == 9
    assert "the best of 9 runs" in _main(capsys, path)[1]


def test_losses_of_predict_rows_of_a_search_never_reach_the_forecast(tmp_path, capsys):
    header = "params,tokens,loss,lr,split"
    both = [_plain(tmp_path, _searched(last_losses=scale), header, f"{scale}.csv") for scale in (1.0, 1.5)]
    first, second = (_objects(_main(capsys, path, "--json")[1])["forecasts"][0] for path in both)
    assert (first["loss"], first["best"]) == (second["loss"], second["best"])


def test_a_budget_gets_runs_to_train_next_and_a_split_where_params_and_tokens_vary(tmp_path, capsys):
    rows = [
        [n, d, (1.7 + 400 * n**-0.36 + 600 * d**-0.33) * (1 + 0.003 * (-1) ** (i + j))]
        for i, n in enumerate(np.geomspace(1e6, 1e8, 5))
        for j, d in enumerate(np.geomspace(1e8, 3e9, 4))
    ]
    path = _plain(tmp_path, rows, "params,tokens,loss")
    options = ("--target", "params=1e9,tokens=2e10", "--budget", "1e19")
    [said] = _objects(_main(capsys, path, *options, "--json")[1])["budget"]
    assert sum(run["flops"] for run in said["next_runs"][0]["advice"]) <= 1e19
    split = said["allocation"]
    assert 6 * split["params"]["median"] * split["tokens"]["median"] == pytest.approx(1e19, rel=0.01)
    assert "next: " in (text := _main(capsys, path, *options)[1]) and "best params" in text


def test_a_budget_for_params_and_tokens_that_only_grow_together_says_why_there_is_no_split(tmp_path, capsys):
    answer = _objects(
        _main(capsys, _plain(tmp_path, _ladder(top="fit")), "--target", "params=9e7", "--budget", "1e18", "--json")[1]
    )
    [said] = answer["budget"]
    assert said["allocation"] is None
    assert any("no best split" in note for note in said["notes"])


def test_the_number_of_processes_changes_no_digit(tmp_path, capsys, monkeypatch):
    names = [f"task{i}" for i in range(3)]
    path = _plain(tmp_path, [row for name in names for row in _ladder(name)])
    alone = _objects(_main(capsys, path, "--json")[1])
    monkeypatch.setattr(progress, "ENOUGH", 2)
    monkeypatch.setattr(progress, "cores", lambda: 2)
    spread = _objects(_main(capsys, path, "--json")[1])
    alone["diagnostics"].pop("seconds"), spread["diagnostics"].pop("seconds")
    assert spread == alone


def test_a_series_that_cannot_be_fitted_is_refused_alike_whatever_it_is_worked_out_with(tmp_path, capsys, monkeypatch):
    rows = [row for name in ("a", "b", "c") for row in _ladder(name)]
    path = _plain(tmp_path, [*_ladder("short")[:2], *rows, *_ladder("small")[:2]])
    said = []
    for together, enough in ((1, 24), (32, 24), (2, 2)):
        monkeypatch.setattr(progress, "TOGETHER", together)
        monkeypatch.setattr(progress, "ENOUGH", enough)
        monkeypatch.setattr(progress, "cores", lambda: 2)
        code, out, error = _main(capsys, path, "--json")
        answer = _objects(out)
        answer["diagnostics"].pop("seconds")
        said.append((code, answer, error))
    assert said[0] == said[1] == said[2]
    code, answer, error = said[0]
    assert code == 3 and [refused["what"] for refused in answer["diagnostics"]["refused"]] == ["short", "small"]
    assert [fitted["series"] for fitted in answer["diagnostics"]["fits"]] == ["a", "b", "c"]
    assert "short: " in error and "distinct size" in error


def test_many_series_end_with_how_good_their_backtests_were(tmp_path, capsys):
    path = _plain(tmp_path, [row for i in range(MANY + 1) for row in _ladder(f"task{i}")])
    out = _main(capsys, path)[1]
    assert out.index("caveat") < out.index("task0 ") < out.index("backtests: ")


def test_steps_and_batch_state_the_tokens_of_a_target():
    assert parse_target("params=1e9,steps=1e4,batch_tokens=1e6").tokens == 1e10
    with pytest.raises(InputError, match="twice"):
        parse_target("params=1e9,params=2e9")
