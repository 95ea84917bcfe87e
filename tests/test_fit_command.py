"""`windtunnel fit`: a table in, a forecast with its doubts out, and exit codes a script can rely on."""

import argparse
import json

import numpy as np
import pytest

from windtunnel.cli.fit import add_arguments, execute, parse_target
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


def test_a_bad_level_is_explained(tmp_path, capsys):
    with pytest.raises(InputError, match="--level is 90"):
        _run(capsys, _table(tmp_path), "--level", "90")


def test_a_series_with_only_targets_is_explained(tmp_path, capsys):
    path = _table(tmp_path, series=("a",))
    with open(path, "a") as file:
        file.write("\n1e9,2e10,,0,lonely,predict\n")
    with pytest.raises(InputError, match="'lonely' has only `predict` rows"):
        _run(capsys, path)
