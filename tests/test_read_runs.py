"""Reading tables: what is read is what was written, and every mistake is named with file, column and row."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pytest

from windtunnel.errors import InputError
from windtunnel.laws import read_runs

GOOD = "loss,params,tokens,seed\n3.0,1e6,2e7,0\n2.5,4e6,8e7,0\n2.2,1.6e7,3.2e8,0\n"


def _file(tmp_path, text, name="runs.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def _message(tmp_path, text, columns=None, name="runs.csv"):
    path = _file(tmp_path, text, name)
    with pytest.raises(InputError) as caught:
        read_runs(path, columns)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_csv_columns_are_read_as_written(tmp_path):
    runs = read_runs(_file(tmp_path, GOOD))
    assert runs.loss.tolist() == [3.0, 2.5, 2.2]
    assert runs.params.tolist() == [1e6, 4e6, 1.6e7]
    assert runs.seed.tolist() == ["0", "0", "0"]


def test_missing_flops_are_taken_as_six_n_d_and_say_so(tmp_path):
    runs = read_runs(_file(tmp_path, GOOD))
    assert np.allclose(runs.flops, 6 * runs.params * runs.tokens)
    assert any("6 x params x tokens" in caveat for caveat in runs.caveats)


def test_stated_flops_are_kept_without_a_caveat(tmp_path):
    runs = read_runs(_file(tmp_path, "loss,params,tokens,flops\n3,1e6,2e7,5e14\n"))
    assert runs.flops.tolist() == [5e14]
    assert runs.caveats == ()


@pytest.mark.parametrize("columns", ["params=n,loss=val_loss", {"params": "n", "loss": "val_loss"}])
def test_columns_are_renamed_by_text_or_mapping(tmp_path, columns):
    runs = read_runs(_file(tmp_path, "val_loss,n\n3,1e6\n"), columns)
    assert runs.loss.tolist() == [3.0]
    assert runs.params.tolist() == [1e6]


def test_an_empty_name_ignores_a_column(tmp_path):
    runs = read_runs(_file(tmp_path, "loss,params,flops\n3,1e6,-7\n"), "flops=")
    assert runs.flops is None


def test_all_formats_hold_the_same_runs(tmp_path):
    csv = read_runs(_file(tmp_path, GOOD))
    tsv = read_runs(_file(tmp_path, GOOD.replace(",", "\t"), "runs.tsv"))
    records = [{"loss": 3.0, "params": 1e6, "tokens": 2e7}, {"loss": 2.5, "params": 4e6, "tokens": 8e7}]
    lines = read_runs(_file(tmp_path, "\n".join(map(json.dumps, records)), "runs.jsonl"))
    packed = tmp_path / "runs.csv.gz"
    packed.write_bytes(gzip.compress(GOOD.encode()))
    for other in (tsv, read_runs(packed)):
        assert other.rows() == csv.rows()
    assert lines.loss.tolist() == csv.loss.tolist()[:2]


def test_parquet_holds_the_same_runs(tmp_path):
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    import pandas as pd

    path = tmp_path / "runs.parquet"
    pd.DataFrame({"loss": [3.0, 2.5], "params": [1e6, 4e6]}).to_parquet(path)
    assert read_runs(path).loss.tolist() == [3.0, 2.5]


def test_a_damaged_parquet_file_or_a_missing_reader_is_the_users_message(tmp_path):
    path = tmp_path / "runs.parquet"
    path.write_bytes(b"not parquet at all")
    with pytest.raises(InputError, match=r"runs\.parquet"):
        read_runs(path)


def test_a_missing_loss_column_lists_the_columns_and_suggests_one(tmp_path):
    message = _message(tmp_path, "val_loss,params\n3,1e6\n")
    assert "no column `loss`" in message
    assert '--columns "loss=val_loss"' in message


def test_a_mapped_column_that_is_not_there_is_named(tmp_path):
    assert "'nn'" in _message(tmp_path, GOOD, "params=nn")


def test_a_table_without_any_size_suggests_the_name(tmp_path):
    assert '"params=n_params"' in _message(tmp_path, "loss,n_params\n3,1e6\n")


@pytest.mark.parametrize(
    ("cell", "fault"),
    [("abc", "not a number"), ("", "empty or NaN"), ("nan", "empty or NaN"), ("0", "zero or negative"),
     ("-3", "zero or negative"), ("inf", "infinite")],
)  # fmt: skip
@pytest.mark.parametrize("column", ["loss", "params"])
def test_a_bad_cell_is_named_by_column_and_row(tmp_path, cell, fault, column):
    row = f"{cell},1e6" if column == "loss" else f"3,{cell}"
    message = _message(tmp_path, f"loss,params\n3,1e6\n{row}\n")
    assert f"column {column} is {fault}" in message
    assert "row(s) 3;" in message


def test_many_bad_rows_are_counted_not_listed(tmp_path):
    message = _message(tmp_path, "loss,params\n" + "x,1e6\n" * 9)
    assert "row(s) 2, 3, 4, 5, 6 and 4 more" in message


def test_duplicated_columns_are_refused(tmp_path):
    assert "more than one column called 'loss'" in _message(tmp_path, "loss,params,loss\n3,1e6,4\n")


def test_ragged_rows_are_refused(tmp_path):
    assert "row(s) 3" in _message(tmp_path, "loss,params\n3,1e6\n3\n")


@pytest.mark.parametrize("text", ["", "\n", "loss,params\n"])
def test_a_table_without_rows_is_refused(tmp_path, text):
    assert "empty" in (message := _message(tmp_path, text)) or "no rows" in message


def test_an_absent_file_a_folder_and_a_binary_are_refused(tmp_path):
    binary = tmp_path / "runs.csv"
    binary.write_bytes(b"\x80\x81\xff\x00")
    for path in (tmp_path / "absent.csv", tmp_path, binary):
        with pytest.raises(InputError, match=str(path)):
            read_runs(path)


def test_a_broken_json_line_is_named_by_row(tmp_path):
    assert "row 2 is not JSON" in _message(tmp_path, '{"loss": 3}\n{oops\n', name="runs.jsonl")


def test_unknown_own_names_are_refused(tmp_path):
    with pytest.raises(InputError, match="'parms'"):
        read_runs(_file(tmp_path, GOOD), "parms=params")


def test_the_truth_of_predict_rows_may_be_unknown(tmp_path):
    runs = read_runs(_file(tmp_path, "loss,params,split\n3,1e6,fit\n,1e9,predict\n"))
    assert len(runs.to_fit()) == 1
    assert np.isnan(runs.to_predict().loss[0])


def test_an_unknown_split_is_refused_not_fitted(tmp_path):
    assert "split" in _message(tmp_path, "loss,params,split\n3,1e6,test\n")


def test_unfinished_rows_are_dropped_with_their_reason(tmp_path):
    runs = read_runs(_file(tmp_path, "loss,params,outcome\n3,1e6,finished\n,1e6,diverged\n"))
    assert len(runs) == 1
    assert runs.dropped == ("row 3 diverged",)


def test_series_are_taken_apart_in_order(tmp_path):
    runs = read_runs(_file(tmp_path, "loss,params,series\n3,1e6,b\n2,2e6,a\n1,3e6,b\n"))
    assert [(name, len(part)) for name, part in runs.by_series()] == [("b", 2), ("a", 1)]


def test_importing_the_evidence_half_imports_neither_torch_nor_pandas():
    code = "import sys, windtunnel.forecasts; print([m for m in ('torch', 'pandas') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
