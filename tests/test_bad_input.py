"""Tables with something wrong in them, through the command: one message and exit code 2, or a caveat; no traceback."""

import json

import numpy as np
import pytest

from windtunnel.cli import main

NOISE = 0.003
LADDER = np.geomspace(1e6, 2e8, 10)
TARGET = ("--target", "params=2e9,tokens=4e10")


def _loss(params, tokens, seed=0):
    noise = np.random.default_rng(seed).normal(0, NOISE, np.shape(params))
    return (1.7 + 400 * np.asarray(params) ** -0.36 + 600 * np.asarray(tokens) ** -0.33) * np.exp(noise)


def _ladder(sizes=LADDER, seed=0):
    """One run a size, 20 tokens a parameter, as columns."""
    return {"params": sizes, "tokens": 20 * sizes, "loss": _loss(sizes, 20 * sizes, seed)}


def _grid(seed=0):
    params, tokens = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e6, 1e8, 5), np.geomspace(1e8, 3e9, 4)))
    return {"params": params, "tokens": tokens, "loss": _loss(params, tokens, seed)}


@pytest.fixture
def table(tmp_path):
    """Write columns as a CSV and return its path."""

    def writing(columns):
        path = tmp_path / "runs.csv"
        rows = zip(*(list(column) for column in columns.values()), strict=True)
        path.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]))
        return str(path)

    return writing


@pytest.fixture
def told(capsys):
    """Run the command; its exit code, JSON (None where refused) and standard error, which holds no traceback."""

    def running(*arguments):
        code = main(["fit", *arguments, "--json"])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, json.loads(out) if out else None, err

    return running


@pytest.fixture
def refused(told):
    """Run the command on what must be refused; the one message."""

    def running(*arguments):
        code, answer, err = told(*arguments)
        assert (code, answer) == (2, None)
        assert err.startswith("windtunnel: ") and err.count("\n") == 1
        return err

    return running


def _with(columns, name, index, value):
    changed = np.array(columns[name], float)
    changed[index] = value
    return {**columns, name: changed}


def _repeated(columns, index):
    return {name: np.append(column, column[index]) for name, column in columns.items()}


def _forecast(told, path):
    _, answer, _ = told(path, *TARGET)
    return answer["forecasts"][0]


def _half_width(forecast):
    interval = forecast["loss"]["intervals"][0]
    return (interval["high"] - interval["low"]) / 2


def test_duplicated_runs_are_counted_once_and_change_no_digit(table, told):
    once = _forecast(told, table(_ladder()))
    twice = _forecast(told, table(_repeated(_repeated(_ladder(), 3), 5)))
    assert twice["loss"] == once["loss"]
    assert any("2 duplicated run(s) are counted once" in caveat for caveat in twice["caveats"])


@pytest.mark.parametrize(
    "make, index, off", [(_ladder, 1, 0.9), (_ladder, 4, 1.1), (_ladder, 8, 1.1), (_grid, 3, 0.9), (_grid, 11, 1.1)]
)
def test_one_run_a_tenth_off_is_named_and_moves_the_forecast_by_less_than_its_half_width(table, told, make, index, off):
    clean = make()
    sound = _forecast(told, table(clean))
    wild = _forecast(told, table(_with(clean, "loss", index, clean["loss"][index] * off)))
    assert abs(wild["loss"]["median"] - sound["loss"]["median"]) < _half_width(wild)
    named = [caveat for caveat in wild["caveats"] if "off the law of all other runs" in caveat]
    assert len(named) == 1
    assert f"loss {clean['loss'][index] * off:.5g} is {'+' if off > 1 else '-'}" in named[0]
    assert not any("off the law of all other runs" in caveat for caveat in sound["caveats"])


def test_an_outlier_that_makes_the_backtest_fail_is_named_beside_the_failure(table, told):
    clean = _ladder()
    wild = _forecast(told, table(_with(clean, "loss", 8, clean["loss"][8] * 1.2)))
    assert any("off the law of all other runs" in caveat for caveat in wild["caveats"])
    assert wild["reliable"] or any("FAILED" in c or "not yet in a law" in c for c in wild["caveats"])


def test_all_runs_at_one_size_are_refused(table, refused):
    message = refused(table(_ladder(np.full(6, 1e7))), *TARGET)
    assert "1 distinct size" in message and "Add rungs" in message


def test_a_target_inside_the_range_is_foretold_and_called_interpolation(table, told):
    code, answer, _ = told(table(_ladder()), "--target", "params=1e7,tokens=2e8")
    forecast = answer["forecasts"][0]
    assert code == 0
    interval = forecast["loss"]["intervals"][0]
    assert interval["low"] < 1.7 + 400 * 1e7**-0.36 + 600 * 2e8**-0.33 < interval["high"]
    assert any("interpolat" in caveat for caveat in forecast["caveats"])


@pytest.mark.parametrize("name, factor", [("params", 1e-6), ("tokens", 1e-9)])
def test_mixed_units_are_refused(table, refused, name, factor):
    columns = _ladder()
    changed = np.where(np.arange(10) < 3, columns[name] * factor, columns[name])
    assert "mixes units" in refused(table({**columns, name: changed}), *TARGET)


def test_a_target_in_another_unit_is_refused(table, refused):
    assert "same unit" in refused(table(_ladder()), "--target", "params=2,tokens=40")


def test_three_runs_get_a_wide_interval_and_are_told_so(table, told):
    few = _forecast(told, table(_ladder(LADDER[[5, 7, 9]])))
    many = _forecast(told, table(_ladder(LADDER)))
    assert _half_width(few) > max(_half_width(many), 0.05 * few["loss"]["median"])
    assert not few["reliable"]
    assert any("3 rungs" in caveat and "no backtest" in caveat for caveat in few["caveats"])


def test_two_runs_are_refused(table, refused):
    assert "at least 3" in refused(table(_ladder(LADDER[:2])), *TARGET)


@pytest.mark.parametrize("count", [3, 5, 10])
def test_losses_that_rise_with_size_are_refused_with_a_reason(table, refused, count):
    sizes = np.geomspace(1e6, 1e8, count)
    rising = 2.0 + 0.1 * np.log(sizes / 1e6)
    message = refused(table({"params": sizes, "tokens": 20 * sizes, "loss": rising}), *TARGET)
    assert "rises with size" in message and "accuracy" in message


def test_a_rising_series_is_refused_by_name_and_the_others_are_answered(table, told):
    sound = _ladder()
    both = {name: np.append(column, column) for name, column in sound.items()}
    both["loss"] = np.append(sound["loss"], sound["loss"][::-1])
    code, answer, err = told(table({**both, "series": ["sound"] * 10 + ["rising"] * 10}), *TARGET)
    assert code == 3
    assert [forecast["series"] for forecast in answer["forecasts"]] == ["sound"]
    assert "windtunnel: rising: The loss rises with size" in err


def test_a_flat_ladder_is_not_called_rising(table, told):
    flat = 2.0 * np.exp(np.random.default_rng(0).normal(0, NOISE, 10))
    code, _, _ = told(table({"params": LADDER, "tokens": 20 * LADDER, "loss": flat}), *TARGET)
    assert code != 2


def test_loss_that_rises_with_epochs_at_fixed_params_is_not_refused(table, told):
    """Repeating 1e8 tokens too often overfits: the loss rises with tokens, but falls with params."""
    params, tokens = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(4e8, 8e9, 3)))
    loss = _loss(params, np.full_like(params, 4e8)) * (1 + 0.02 * np.log(tokens / 4e8))
    columns = {"params": params, "tokens": tokens, "unique_tokens": np.full_like(params, 1e8), "loss": loss}
    code, _, _ = told(table(columns), "--target", "params=3e9,tokens=8e9,unique_tokens=1e8")
    assert code != 2


def test_isoflop_runs_with_too_few_tokens_for_their_params_are_not_refused(table, told):
    params = np.tile(np.geomspace(3e7, 3e9, 5), 5)
    flops = np.repeat(np.geomspace(1e17, 1e19, 5), 5)
    columns = {"params": params, "tokens": flops / 6 / params, "loss": _loss(params, flops / 6 / params)}
    code, answer, _ = told(table(columns), "--target", "params=1e9,tokens=2e10")
    assert code == 0 and answer["forecasts"]


def test_a_very_long_table_is_thinned_and_still_foretells_within_its_interval(table, told):
    generator = np.random.default_rng(3)
    params, tokens = 10 ** generator.uniform(6, 8, 5000), 10 ** generator.uniform(8, 9.5, 5000)
    _, answer, _ = told(table({"params": params, "tokens": tokens, "loss": _loss(params, tokens)}), *TARGET)
    forecast = answer["forecasts"][0]
    interval = forecast["loss"]["intervals"][0]
    assert any("Of 5000 runs" in caveat for caveat in forecast["caveats"])
    assert interval["low"] < 1.7 + 400 * 2e9**-0.36 + 600 * 4e10**-0.33 < interval["high"]


def test_a_budget_that_is_no_budget_is_refused(table, refused):
    for text in ("0", "-1e20", "nan", "inf"):
        assert "--budget is" in refused(table(_ladder()), *TARGET, f"--budget={text}")
