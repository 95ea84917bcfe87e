"""Tables that could ruin a forecast silently: duplicates, mixed units, sizes not stated; honest ones are left alone."""

import time

import numpy as np
import pandas as pd
import pytest

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.forecasts.place import located
from windtunnel.ladder import Target
from windtunnel.laws.reading import read_runs, read_targets

SIZES = np.geomspace(1e6, 1e9, 7)


def _loss(params, tokens):
    return 1.7 + 400 * params**-0.34 + 410 * tokens**-0.28


def _table(tmp_path, rows, header="params,tokens,loss"):
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([header, *(",".join(str(cell) for cell in row) for row in rows)]))
    return path


def _ladder(ratio=20.0):
    return [[n, ratio * n, _loss(n, ratio * n)] for n in SIZES]


def _refused(tmp_path, rows, header="params,tokens,loss"):
    with pytest.raises(InputError) as caught:
        read_runs(_table(tmp_path, rows, header))
    return str(caught.value)


def _doubts(tmp_path, rows, header="params,tokens,loss"):
    return [caveat for caveat in read_runs(_table(tmp_path, rows, header)).caveats if "6 x params" not in caveat]


def test_a_copied_row_counts_once_and_is_named(tmp_path):
    rows = _ladder()
    runs = read_runs(_table(tmp_path, [*rows, rows[2], rows[2]]))
    assert len(runs) == len(rows)
    assert any("2 duplicated run(s) are counted once: row(s) 9, 10" in caveat for caveat in runs.caveats)


def test_seeds_that_agree_in_size_but_not_in_loss_are_no_duplicates(tmp_path):
    rows = [[n, d, loss * (1 + 1e-6 * seed)] for n, d, loss in _ladder() for seed in range(2)]
    assert len(read_runs(_table(tmp_path, rows))) == 14


def test_rows_with_equal_empty_cells_are_duplicates(tmp_path):
    assert len(read_runs(_table(tmp_path, [[1e6, 3.0, ""], [1e6, 3.0, ""]], "params,loss,lr"))) == 1


def test_one_key_with_two_results_is_refused_and_with_one_result_counts_once(tmp_path):
    header = "params,loss,key"
    message = _refused(tmp_path, [[1e6, 3.0, "a"], [2e6, 2.9, "b"], [2e6, 2.8, "b"]], header)
    assert "key 'b' in row(s) 3, 4 with different loss" in message
    assert len(read_runs(_table(tmp_path, [[1e6, 3.0, "a"], [1e6, 3.0, "a"]], header))) == 1


def test_seeds_without_effect_and_runs_on_both_sides_of_the_split_are_said(tmp_path):
    rows = [[n, loss, seed, "fit"] for n, _, loss in _ladder() for seed in (0, 1)]
    [caveat] = _doubts(tmp_path, rows, "params,loss,seed,split")
    assert "every digit but its seed" in caveat
    rows = [*([n, loss, 0, "fit"] for n, _, loss in _ladder()), [SIZES[2], _ladder()[2][2], 0, "predict"]]
    [caveat] = _doubts(tmp_path, rows, "params,loss,seed,split")
    assert "row(s) 9 repeat a run across the split" in caveat


def test_targets_of_unknown_loss_at_one_size_are_no_leak(tmp_path):
    rows = [*([n, loss, 0, "fit"] for n, _, loss in _ladder()), [1e10, "", 0, "predict"], [1e10, "", 1, "predict"]]
    assert not any("split" in caveat for caveat in _doubts(tmp_path, rows, "params,loss,seed,split"))


def test_tokens_follow_from_steps_and_batch_and_say_so(tmp_path):
    runs = read_runs(_table(tmp_path, [[1e6, 100, 2e5, 3.0], [4e6, 400, 2e5, 2.7]], "params,steps,batch_tokens,loss"))
    assert runs.tokens.tolist() == [2e7, 8e7]
    assert any("steps x batch_tokens" in caveat for caveat in runs.caveats)


def test_stated_tokens_are_kept_beside_steps_and_batch(tmp_path):
    runs = read_runs(_table(tmp_path, [[1e6, 5e6, 100, 2e5, 3.0]], "params,tokens,steps,batch_tokens,loss"))
    assert runs.tokens.tolist() == [5e6]


@pytest.mark.parametrize("column", [0, 1, 2])
@pytest.mark.parametrize("factor", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("rows", [[3], [0, 1], [4, 5, 6]])
def test_a_unit_that_disagrees_with_flops_is_refused_with_its_rows(tmp_path, column, factor, rows):
    table = [[n, d, 6 * n * d, loss] for n, d, loss in _ladder()]
    for row in rows:
        table[row][column] *= factor
    message = _refused(tmp_path, table, "params,tokens,flops,loss")
    assert "mixes units" in message
    assert f"row(s) {', '.join(str(row + 2) for row in rows)}" in message


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("row", [0, 3, 6])
def test_millions_among_plain_numbers_are_refused_without_flops(tmp_path, column, row):
    table = _ladder()
    table[row][column] /= 1e6
    message = _refused(tmp_path, table)
    assert f"{('params', 'tokens')[column]} in row(s) {row + 2} look written in millions" in message


def test_params_and_tokens_in_billions_together_are_refused(tmp_path):
    table = _ladder()
    table[5] = [table[5][0] / 1e9, table[5][1] / 1e9, table[5][2]]
    assert "params and tokens in row(s) 7 look written in billions" in _refused(tmp_path, table)


def test_params_alone_in_millions_are_refused_by_their_loss(tmp_path):
    table = [[n, loss] for n, _, loss in _ladder()]
    table[4][0] /= 1e6
    assert "row(s) 6 look written in millions" in _refused(tmp_path, table, "params,loss")


def test_too_few_runs_to_tell_get_a_caveat(tmp_path):
    [caveat] = _doubts(tmp_path, [[1e6, 4.0], [4e6, 3.5], [16, 3.1]], "params,loss")
    assert "Units may be mixed" in caveat and "row(s) 4" in caveat


@pytest.mark.parametrize("seed", range(5))
def test_honest_ladders_with_a_wide_gap_are_left_alone(tmp_path, seed):
    """Two clusters 300 to 3000 apart: tied tokens, one horizon, params alone; noise of 1 %."""
    generator = np.random.default_rng(seed)
    small = np.geomspace(1e6, 6e6, 4)
    sizes = np.concatenate([small, small * generator.uniform(400, 3000)])
    noise = np.exp(0.01 * generator.normal(size=8))
    for tokens in (20 * sizes, np.full(8, 1e9)):
        rows = [list(row) for row in zip(sizes, tokens, _loss(sizes, tokens) * noise, strict=True)]
        assert _doubts(tmp_path, rows) == []
        assert _doubts(tmp_path, [[n, loss] for n, _, loss in rows], "params,loss") == []


def test_a_grid_of_extreme_token_counts_is_left_alone(tmp_path):
    rows = [[n, d, _loss(n, d)] for n in (1e6, 2e6, 1e9, 2e9) for d in (1e9, 3e9, 3e12)]
    assert _doubts(tmp_path, rows) == []


def test_flops_with_attention_and_readout_are_left_alone(tmp_path):
    rows = [[n, d, 6 * n * d * (1 + 30 / (1 + n / 1e6)), loss] for n, d, loss in _ladder()]
    assert _doubts(tmp_path, rows, "params,tokens,flops,loss") == []


def test_units_are_judged_within_a_series(tmp_path):
    rows = [[n, d, loss, "a"] for n, d, loss in _ladder()] + [[n / 1e6, d, loss, "b"] for n, d, loss in _ladder()]
    (said,) = _doubts(tmp_path, rows, "params,tokens,loss,series")
    assert "params, 1 to 1000, are no whole numbers" in said


def test_public_tables_raise_no_doubt_about_units(shared_data):
    for name, columns in (
        ("runs/steplaw_dense.csv", "params=n_params"),
        ("runs/chinchilla_epoch.csv", "params=n_params"),
        ("runs/porian_isoflop.csv", "params=n_params"),
        ("runs/nqs_batch_size.csv", "params=n_params"),
        ("runs/datablations_repeat.csv", "params=n_params"),
        ("runs/openathena_isoflops.csv", "params=n_params"),
        ("runs/misfitting.csv.gz", "params=n_params,loss=loss_c4"),
    ):
        assert not any("nits" in caveat for caveat in read_runs(shared_data(name), columns).caveats), name


def test_a_target_in_another_unit_than_the_runs_is_refused(tmp_path):
    millions = read_runs(_table(tmp_path, [[n / 1e6, loss] for n, _, loss in _ladder()], "params,loss"))
    with pytest.raises(InputError, match="same unit"):
        located(millions, Target(params=7e9))
    located(millions, Target(params=7e3))
    plain = read_runs(_table(tmp_path, _ladder()))
    with pytest.raises(InputError, match="same unit"):
        located(plain, Target(params=7.0, tokens=1.4e11))
    located(plain, Target(params=1e12, tokens=2e13))


def test_targets_may_lack_losses_and_some_sizes_but_not_all(tmp_path):
    targets = read_targets(_table(tmp_path, [[1e10, "", 3], [1e11, 2e12, ""]]), "loss=val_loss")
    assert targets.params.tolist() == [1e10, 1e11]
    assert np.isnan(targets.tokens[0])
    with pytest.raises(InputError, match=r"states no size in row\(s\) 3"):
        read_targets(_table(tmp_path, [[1e10, 2e11, ""], ["", "", 2.0]]))


def test_two_hundred_thousand_rows_are_read_in_seconds(tmp_path):
    """Measured 1.4 s on one core of a shared machine; the bound leaves room for a slow one."""
    sizes = 10 ** np.random.default_rng(0).uniform(6, 9, 200_000)
    rows = (f"{n},{20 * n},{loss}" for n, loss in zip(sizes, _loss(sizes, 20 * sizes), strict=True))
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(["params,tokens,loss", *rows]))
    started = time.monotonic()
    assert len(read_runs(path)) == 200_000
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("mark", [";", "\t"])
def test_another_delimiter_is_seen_in_the_header(tmp_path, mark):
    path = tmp_path / "runs.csv"
    path.write_text(f"params{mark}loss\n1e6{mark}3.0\n")
    assert read_runs(path).loss.tolist() == [3.0]


def test_a_comma_in_the_header_does_not_hide_another_delimiter(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("params;tokens;loss (val, nats)\n1e6;2e7;3.0\n2e6;4e7;2.9\n")
    assert read_runs(path, "loss=loss (val, nats)").loss.tolist() == [3.0, 2.9]
    path.write_text("params;tokens;loss (val, nats)\n1e6;2e7;3,012\n2e6;4e7;2,951\n")  # two cells each with commas
    with pytest.raises(InputError, match=r"Write 3,012 as 3\.012\."):
        read_runs(path, "loss=loss (val, nats)")
    path.write_text("params,loss,note; or so\n1e6,3.0,a;b\n2e6,2.9,c;d\n")
    assert read_runs(path).loss.tolist() == [3.0, 2.9]
    path.write_text("params,loss,note;\n1e6,3.0,a\n2e6,2.9\n")
    with pytest.raises(InputError, match="has 3 columns, but another number of cells in row"):
        read_runs(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("params;loss\n2e6;4,618\n", "Write 4,618 as 4.618."),
        ("params;loss\n2e6;4,6\n", "Write 4,6 as 4.6."),
        ("params;loss\n1,250;2.9\n2,5;2.8\n", "Write 1,250 as 1.250."),
        ("params;loss\n10.000.000;2.9\n", "Write 10.000.000 as 10000000."),
        ('params,loss\n"1,250",2.9\n', "Write 1,250 as 1250."),
        ('params,loss\n"1,250,000",2.9\n', "Write 1,250,000 as 1250000."),
    ],
)
def test_a_comma_for_a_point_is_no_group_of_thousands(tmp_path, text, said):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_runs(path)
    assert said in str(caught.value)


def test_a_misspelt_column_gets_the_close_names(tmp_path):
    with pytest.raises(InputError, match="Did you mean 'val/loss'"):
        read_runs(_table(tmp_path, [[1e6, 3]], "params,val/loss"), "loss=val_los")
    with pytest.raises(InputError, match="Did you mean params"):
        read_runs(_table(tmp_path, [[1e6, 3]], "params,loss"), "parms=params")


def test_a_size_with_a_letter_says_how_to_write_it(tmp_path):
    assert "Write 124M as 124e6" in _refused(tmp_path, [["124M", 3.0]], "params,loss")


def test_a_table_whose_runs_all_failed_is_refused(tmp_path):
    assert "none of 2 runs finished" in _refused(
        tmp_path, [[1e6, "", "failed"], [2e6, "", "crashed"]], "params,loss,state"
    )


@pytest.mark.parametrize("column", ["status", "State", "outcome"])
def test_runs_that_went_well_in_other_words_are_kept_and_those_that_did_not_are_left_out(tmp_path, column):
    well = ["ok", "OK", "Success", "succeeded", "done", "completed", ""]
    badly = ["diverged", "nan", "failed", "Crashed", "killed", "oom", "timeout"]
    rows = [[n, loss, state] for (n, _, loss), state in zip([*_ladder(), *_ladder()], [*well, *badly], strict=True)]
    for i, row in enumerate(rows):
        row[0] *= 1 + i / 100
    runs = read_runs(_table(tmp_path, rows, f"params,loss,{column}"))
    assert len(runs) == len(well) and [each.split()[-1] for each in runs.dropped] == badly
    frame = pd.DataFrame({"params": SIZES, "loss": [row[2] for row in _ladder()], column: ["ok"] * 5 + [None, np.nan]})
    assert len(read_runs(frame)) == 7


def test_a_status_of_other_words_is_none_of_a_run(tmp_path):
    rows = [[n, loss, "failed to beat the base" if i % 2 else "ok"] for i, (n, _, loss) in enumerate(_ladder())]
    assert len(read_runs(_table(tmp_path, rows, "params,loss,status"))) == 7


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("[]", "is empty"),
        ("3", "row 1 is no object"),
        ('[{"loss": [1, 2], "params": [1, 2]}]', "is not a number"),
        ('[{"loss": 3,', "is not JSON"),
        ('[{"loss": 1e-320, "params": 1e6}]', "below 1e-30"),
    ],
)
def test_json_that_is_no_table_is_refused(tmp_path, text, says):
    path = tmp_path / "runs.json"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        read_runs(path)


@pytest.mark.parametrize(
    "params,tokens,said",
    [
        (1e-6, 1e-9, "no whole numbers"),
        (1.0, 1e-9, "tokens to a parameter"),
        (1e-9, 1.0, "tokens to a parameter"),
        (1.0, 1.0, None),
    ],
)
def test_whole_columns_in_another_unit_are_asked_about(tmp_path, params, tokens, said):
    found = _doubts(tmp_path, [[n * params, d * tokens, loss] for n, d, loss in _ladder()])
    assert len(found) == (said is not None) and all(said in caveat and "as 7e9" in caveat for caveat in found)


@pytest.mark.parametrize("factor,said", [(1e-15, True), (1e6, True), (1.0, False), (0.3, False), (300.0, False)])
def test_flops_in_another_unit_are_asked_about(tmp_path, factor, said):
    rows = [[n, d, 6 * n * d * factor, loss] for n, d, loss in _ladder()]
    found = read_runs(_table(tmp_path, rows, "params,tokens,flops,loss")).caveats
    assert len(found) == said and all("of 6 x params x tokens" in caveat for caveat in found)


@pytest.mark.parametrize("unit,said", [(1e-18, True), (1e-15, True), (1.0, False), (10.0, False)])
def test_flops_in_another_unit_beside_params_alone_are_asked_about(tmp_path, unit, said):
    budgets = [(c, k * np.sqrt(c / 120)) for c in np.geomspace(1e18, 1e20, 5) for k in (0.25, 0.5, 1.0, 2.0, 4.0)]
    rows = [[round(n), c * unit, _loss(n, c / 6 / n)] for c, n in budgets]
    found = [each for each in _doubts(tmp_path, rows, "params,flops,loss") if "other units" in each]
    assert len(found) == said and all("too few to be taken as tokens" in caveat for caveat in found)


@pytest.mark.parametrize(
    "names,units",
    [("Params (M);Tokens (B)", (1e6, 1e9)), ("params_M;tokens_billion", (1e6, 1e9)), ("N [1e6];D (10^9)", (1e6, 1e9))],
)
def test_a_unit_that_a_header_states_is_said_unless_the_numbers_are_plain(tmp_path, names, units):
    grid = [(n, d) for n in (125e6, 350e6, 760e6, 1300e6) for d in (10e9, 30e9, 100e9)]
    params, tokens = names.split(";")
    for unit in (units, (1.0, 1.0)):
        rows = [[int(n / unit[0]), int(d / unit[1]), _loss(n, d)] for n, d in grid]
        runs = read_runs(_table(tmp_path, rows, f"{params},{tokens},loss"), f"params={params},tokens={tokens}")
        found = [caveat for caveat in runs.caveats if "other units" in caveat]
        assert len(found) == (unit == units)
        assert all(f"{params!r}, 125 to 1300, is read as plain params; {tokens!r}" in caveat for caveat in found)


@pytest.mark.parametrize("name", ["n_params_nonembed", "tokens (GPT2 BPE)", "N", "model.b", "params (total)", "T"])
def test_a_header_without_a_unit_is_left_alone(tmp_path, name):
    path = _table(tmp_path, [[20 + i, 4 - 0.1 * i] for i in range(6)], f"{name},loss")
    assert not any("other units" in caveat for caveat in read_runs(path, f"tokens={name}").caveats)


def test_a_budget_in_another_unit_is_refused(tmp_path):
    fit = wt.fit(read_runs(_table(tmp_path, _ladder())))
    target = Target(params=1e10, tokens=2e11)
    with pytest.raises(InputError, match=r"are all in FLOPs\?"):
        wt.next_runs(fit, target, 1e30)


@pytest.mark.parametrize(
    "name, said",
    [("top1", True), ("val/acc", True), ("Accuracy (%)", True), ("top1_error", False), ("val_loss", False)],
)
def test_what_is_better_when_higher_is_said_to_be_no_loss(tmp_path, name, said):
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([f"params,tokens,{name}", *(",".join(map(str, row)) for row in _ladder())]))
    found = read_runs(path, f"loss={name}").caveats
    assert any("better when higher" in caveat for caveat in found) is said


@pytest.mark.parametrize("name", ["perplexity", "val_ppl", "eval/perplexity"])
def test_perplexity_is_said_to_be_no_loss_of_laws(tmp_path, name):
    rows = [[n, d, np.exp(loss)] for n, d, loss in _ladder()]
    path = _table(tmp_path, rows, f"params,tokens,{name}")
    assert any("Give its logarithm" in caveat for caveat in read_runs(path, {"loss": name}).caveats)
    path = _table(tmp_path, _ladder(), f"params,tokens,log_{name.replace('/', '_')}")
    assert not any("logarithm" in each for each in read_runs(path, {"loss": f"log_{name.replace('/', '_')}"}).caveats)


def test_a_column_that_matters_and_bears_a_usual_name_is_told_how_to_be_named(tmp_path):
    rows = [[n, d, rate, loss * (1 + 0.01 * np.log(rate / 1e-3) ** 2)] for n, d, loss in _ladder()
            for rate in (1e-4, 3e-4, 1e-3, 4e-3)]  # fmt: skip
    (said,) = _doubts(tmp_path, rows, "params,tokens,peak_lr,loss")
    assert '--columns "lr=peak_lr"' in said
    assert _doubts(tmp_path, rows, "params,tokens,lr,loss") == []


def test_rows_that_are_checkpoints_are_said_and_horizons_are_not(tmp_path):
    even = [[n, 20 * n * k / 12, _loss(n, 20 * n * k / 12)] for n in SIZES for k in range(1, 13)]
    (said,) = _doubts(tmp_path, even)
    assert "checkpoints of 7 runs (up to 12 evenly spaced" in said
    (said,) = _doubts(tmp_path, [[n, d, loss + 1e-3 * seed] for n, d, loss in even for seed in range(2)])
    assert "checkpoints of 7 runs" in said
    horizons = [[n, d, _loss(n, d)] for n in SIZES for d in np.geomspace(2 * n, 200 * n, 12)]
    assert _doubts(tmp_path, horizons) == []


@pytest.mark.parametrize("parts", [(0.125, 0.25, 0.5, 1.0), (0.25, 0.5, 0.75, 1.0)])
@pytest.mark.parametrize("name", ["run_name", "config.run_id", "run"])
def test_few_rows_that_share_the_name_of_their_run_are_checkpoints(tmp_path, parts, name):
    rows = [[n, 20 * n * part, _loss(n, 20 * n * part), f"gpt-{n:g}"] for n in SIZES for part in parts]
    path = _table(tmp_path, rows, f"params,tokens,loss,{name}")
    said = f"checkpoints of 7 runs (up to 4 rows of one '{name}')"
    assert any(said in caveat for caveat in read_runs(path).caveats)
    assert any(said in caveat for caveat in read_runs(path, f"series={name}").caveats)


@pytest.mark.parametrize(
    "name,value",
    [
        ("run_name", lambda n, part, seed: f"gpt-{n:g}-{part}-{seed}"),
        ("run_name", lambda n, part, seed: "a ladder"),
        ("run", lambda n, part, seed: round(part * 8)),
        ("job_name", lambda n, part, seed: f"part {part}"),
        ("run_id", lambda n, part, seed: ""),
        ("model", lambda n, part, seed: f"gpt-{n:g}"),
        ("trial_name", lambda n, part, seed: f"gpt-{n:g}"),  # of several seeds
    ],
)
def test_runs_with_names_of_their_own_or_that_share_a_model_are_no_checkpoints(tmp_path, name, value):
    rows = [
        [n, 20 * n * part, seed, _loss(n, 20 * n * part) + 1e-3 * seed, value(n, part, seed)]
        for n in SIZES for part in (0.125, 0.25, 0.5, 1.0) for seed in range(2)
    ]  # fmt: skip
    found = read_runs(_table(tmp_path, rows, f"params,tokens,seed,loss,{name}")).caveats
    assert not any("checkpoints" in caveat for caveat in found)


def test_a_dataframe_and_a_mapping_of_columns_are_read_as_a_file_is(tmp_path):
    rows = [[*row, ["a", "b"][i % 2]] for i, row in enumerate(_ladder())]
    names = ["params", "tokens", "val_loss", "series"]
    read = read_runs(_table(tmp_path, rows, ",".join(names)), "loss=val_loss")
    frame = pd.DataFrame(rows, columns=names)
    nullable = frame.convert_dtypes()
    for given in (frame, nullable, {name: list(frame[name]) for name in names}):
        found = read_runs(given, "loss=val_loss")
        for name in ("params", "tokens", "loss"):
            np.testing.assert_allclose(getattr(found, name), getattr(read, name))
        assert list(found.labels()) == list(read.labels()) and found.caveats == read.caveats
    assert len(read_targets(frame[["params", "tokens"]])) == len(rows)


def test_what_is_wrong_in_a_dataframe_is_named_by_its_index(tmp_path):
    frame = pd.DataFrame(_ladder(), columns=["params", "tokens", "loss"], index=[f"run {i}" for i in range(7)])
    frame.loc["run 3", "loss"] = np.nan
    with pytest.raises(InputError, match=r"run 3"):
        read_runs(frame)
    with pytest.raises(InputError, match="of the DataFrame is no single column"):
        read_runs(pd.concat([frame, frame[["loss"]]], axis=1))
    for wrong in (pd.Series([1.0]), [1.0], None):
        with pytest.raises(InputError, match="give the path of a table, a DataFrame"):
            read_runs(wrong)
    with pytest.raises(InputError, match="no single column"):
        read_runs({"params": [[1e6], [2e6, 3e6]], "loss": [3.0, 2.9]})
    with pytest.raises(InputError, match="not equally long"):
        read_runs({"params": [1e6, 2e6], "loss": [3.0]})
    with pytest.raises(InputError, match="no single column"):
        read_runs({"params": [1e6, 2e6], "loss": 3.0})
    with pytest.raises(InputError, match="of type int; give the path"):
        read_runs(3)
    with pytest.raises(InputError, match="no column `loss`"):
        read_runs(pd.DataFrame({"params": [1e6]}))
    with pytest.raises(InputError, match="is empty"):
        read_runs(pd.DataFrame())
