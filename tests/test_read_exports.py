"""Exports of W&B, MLflow and TensorBoard are read as the runs they hold; layouts are those the tools write."""

import base64
import json
import zlib

import pytest

from windtunnel.errors import InputError
from windtunnel.laws import read_runs

# Written by torch.utils.tensorboard.SummaryWriter with tensorboard 2.21: add_scalar val/loss 3.5 at step 0 and 3.25 at
# 200, loss64 2.125 (double), styled 2.5 at 100 (new_style); add_hparams {params: 4e6, opt: adamw, flag: True}.
SCALARS = (
    "c-r$|fPjCKJmzvbEoaMeJ#foWiZ`h!F*8rkwJbHS#L6g0k4vW{HLp0oC@DX&C`GThG&eV~s8X-ID6=HBNG}znDn2bUCp8`-lJbpfzYNse69=c"
    "ta$0VLn5!ko#m~i2mYAcTlV4mc%D|A|kiNt7x;#{Eptp+z=T4|vffI}v$^#sXDzXpBLX{`z-&f{*i=>>Ni<gTHq}0p=sF=gyLd=q0J*eWNr^"
    "A177HonlPSH~2lILP8E~(5(O>yGjVANt^U{G-I;^yMyVlPfk%t<UNmO7I@5dhTdRL1"
)
HPARAMS = (
    "c-r$|fPjCKJmzvHyl2mHJ#foWiZ`h!F*8rkwJbHS#L6g0k4vW{HLp0oC@DX&C`GThG&eV~s8X-ID6=HBNG}znDn2bUCp8`-^6K-XJ#kQTZ*0i"
    "h!<qOUVy;#&S0I;2d`3ZHQDSa!ynbp$L26NEE>OFdC6_rDJ5)kQM@UPFi;E4yQ(#tN=VHz;C{bWk;^1OQ%SlXEVAkT~Vi#gf%gjs6@e_FcsRU|"
    "Ue0uRE&UrA~GP%;ZWDvF$rxq7y=I6y1mn0UI#AoKE<$Jkvxgu<}lCt391KT9TF2$Odl9*f0B@A<g5T_u>f`%49M=n8#E1*IQ3?J<O@9lE7fx6+"
    "u_QgS*=U{Fy<kIJo!gNDwUJAqof?WIv7qBQXaWH;T*_bB@HLLq0hX&{QA5gRSxOliAeijAFIq>;@lLr7(s)*D"
)

META = """artifact_uri: file:///mlruns/84/{0}/artifacts
lifecycle_stage: {2}
run_id: {0}
run_name: {0}-name
status: {1}
tags: []
"""


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _mlrun(root, name, *, status=3, stage="active", params="1e6", losses=((10, 3.1), (0, 4.0), (20, 2.5))):
    run = root / "84" / name
    _write(run / "meta.yaml", META.format(name, status, stage))
    _write(run / "params" / "n_params", params)
    _write(run / "tags" / "mlflow.runName", f"{name}-name")
    lines = "".join(f"1795232278{step:03d} {loss} {step}\n" for step, loss in losses)
    _write(run / "metrics" / "val" / "loss", lines)
    _write(root / "84" / "meta.yaml", "experiment_id: '84'\nname: ladder\n")


def _events(folder, number, *parts):
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        (folder / f"events.out.tfevents.1795233192.vm.9764.{number}").write_bytes(_bytes(part))


def _bytes(part):
    return zlib.decompress(base64.b85decode(part))


def test_wandb_runs_table_is_read_and_crashed_runs_are_listed(tmp_path):
    text = (
        '"Name","State","Notes","User","Tags","Created","Runtime","Sweep","model.n_params","lr","val/loss"\n'
        '"fair-sun-1","finished","-","me","","2024-01-01T00:00:00.000Z","60","","1000000","0.001","3.5"\n'
        '"red-sky-2","crashed","-","me","","2024-01-01T00:00:00.000Z","60","","4000000","0.001",""\n'
        '"fair-sun-1","finished","-","me","","2024-01-01T00:00:00.000Z","60","","4000000","0.001","3.0"\n'
    )
    runs = read_runs(_write(tmp_path / "wandb.csv", text), "params=model.n_params,loss=val/loss")
    assert runs.loss.tolist() == [3.5, 3.0]
    assert runs.dropped == ("row 3 crashed",)
    assert any("1 rows of wandb.csv did not finish" in caveat for caveat in runs.caveats)


def test_wandb_api_dump_unwraps_config_and_summary(tmp_path):
    records = [
        {
            "id": f"a{i}",
            "name": "run",
            "state": "finished" if i < 2 else "running",
            "config": {"params": {"value": n, "desc": None}, "optimizer": {"value": {"lr": 0.01}}},
            "summary": {"val/loss": loss, "_step": 999, "_wandb": {"runtime": 3}},
        }
        for i, (n, loss) in enumerate([(1e6, 3.5), (4e6, 3.0), (8e6, "NaN")])
    ]
    runs = read_runs(_write(tmp_path / "runs.json", json.dumps(records)), "loss=val/loss,lr=optimizer.lr")
    assert runs.params.tolist() == [1e6, 4e6]  # config.params, known by its prefix
    assert runs.lr.tolist() == [0.01, 0.01]
    assert runs.key.tolist() == ["a0", "a1"]
    assert runs.steps is None  # W&B's own _step counts log calls, so it is never taken for training steps
    assert runs.dropped == ("row 3 running",)


def test_wandb_documentations_csv_of_dictionaries_is_unfolded(tmp_path):
    text = (
        ",summary,config,name\n"
        "0,\"{'loss': 3.5, 'grad': nan, '_step': 10}\",\"{'params': 1000000.0, 'on': True}\",a\n"
        "1,\"{'loss': 3.0, 'grad': inf, '_step': 10}\",\"{'params': 4000000.0, 'on': None}\",b\n"
    )
    runs = read_runs(_write(tmp_path / "project.csv", text))
    assert runs.loss.tolist() == [3.5, 3.0]
    assert runs.params.tolist() == [1e6, 4e6]


def test_wandb_chart_becomes_one_row_a_point_with_the_run_as_series(tmp_path):
    text = (
        '"Step","a - val/loss","a - val/loss__MIN","a - val/loss__MAX","b - 2 - val/loss","b - 2 - val/loss__MIN",'
        '"b - 2 - val/loss__MAX"\n"10","4.0","3.9","4.1","","",""\n"20","3.5","3.4","3.6","3.0","3.0","3.0"\n'
    )
    runs = read_runs(_write(tmp_path / "chart.csv", text), "tokens=Step")
    assert runs.series.tolist() == ["a", "a", "b - 2"]
    assert runs.loss.tolist() == [4.0, 3.5, 3.0]
    assert runs.tokens.tolist() == [10, 20, 20]
    assert any("points of training curves" in caveat for caveat in runs.caveats)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_mlflow_search_runs_table_is_read(tmp_path, kind):
    text = (
        ",run_id,experiment_id,status,metrics.loss,params.lr,params.params,tags.mlflow.runName\n"
        "0,r0,84,FAILED,,0.1,1000000.0,x\n1,r1,84,FINISHED,3.5,0.1,1000000.0,y\n2,r2,84,FINISHED,3.0,0.1,4000000.0,z\n"
    )
    path = _write(tmp_path / "search.csv", text)
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
        import pandas as pd

        frame = pd.read_csv(path, index_col=0)
        path = tmp_path / "search.parquet"
        frame.to_parquet(path)
    runs = read_runs(path)
    assert runs.loss.tolist() == [3.5, 3.0]
    assert runs.params.tolist() == [1e6, 4e6]
    assert runs.key.tolist() == ["r1", "r2"]
    assert [reason.split()[-1] for reason in runs.dropped] == ["FAILED"]


def test_mlflow_rest_answer_is_read(tmp_path):
    answer = {
        "runs": [
            {
                "info": {"run_id": f"r{i}", "status": "FINISHED"},
                "data": {
                    "metrics": [{"key": "loss", "value": 3.0 - i, "timestamp": 1, "step": 5}],
                    "params": [{"key": "params", "value": str(10.0 ** (6 + i))}],
                },
            }
            for i in range(2)
        ]
    }
    runs = read_runs(_write(tmp_path / "runs.json", json.dumps(answer)))
    assert runs.loss.tolist() == [3.0, 2.0]
    assert runs.params.tolist() == [1e6, 1e7]


def test_mlruns_folder_takes_the_last_value_of_each_metric(tmp_path):
    root = tmp_path / "mlruns"
    _mlrun(root, "a")
    _mlrun(root, "b", params="4e6", losses=((20, 2.0),))
    _mlrun(root, "broken", status=4)
    _mlrun(root, "gone", stage="deleted")
    runs = read_runs(root, "params=n_params,loss=val/loss")
    assert dict(zip(runs.key.tolist(), runs.loss.tolist(), strict=True)) == {"a": 2.5, "b": 2.0}
    assert runs.dropped == ("run broken-name failed", "run gone-name deleted")


def test_tensorboard_folder_takes_last_scalars_and_hparams_of_the_run_around_them(tmp_path):
    _events(tmp_path / "logs" / "a", 0, SCALARS)
    _events(tmp_path / "logs" / "a" / "1700000000.25", 1, HPARAMS)
    runs = read_runs(tmp_path / "logs", "loss=val/loss")
    assert (runs.loss.tolist(), runs.params.tolist(), runs.key.tolist()) == ([3.25], [4e6], ["a"])
    assert runs.steps.tolist() == [200]


@pytest.mark.parametrize(("tag", "value"), [("loss64", 2.125), ("styled", 2.5)])
def test_tensorboard_tensors_are_read_like_plain_scalars(tmp_path, tag, value):
    _events(tmp_path / "a", 0, SCALARS)
    assert read_runs(tmp_path, f"loss={tag},tokens=step").loss.tolist() == [value]


def test_a_torn_event_file_gives_what_was_written_before(tmp_path):
    _events(tmp_path / "a", 0, SCALARS)
    [file] = (tmp_path / "a").iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    assert read_runs(tmp_path, "loss=val/loss,tokens=step").loss.tolist() == [3.25]


def test_event_files_without_scalars_and_folders_without_runs_are_refused(tmp_path):
    with pytest.raises(InputError, match="folder without runs"):
        read_runs(tmp_path)
    _events(tmp_path / "a", 0)
    (tmp_path / "a" / "events.out.tfevents.1").write_bytes(b"\x00" * 9)
    with pytest.raises(InputError, match="without a single scalar"):
        read_runs(tmp_path)


def test_tensorboard_csv_is_a_curve_over_steps(tmp_path):
    path = _write(tmp_path / "run-a-tag-loss.csv", "Wall time,Step,Value\n1654943296.2,1,4.5\n1654943313.7,2,4.0\n")
    runs = read_runs(path, "tokens=Step")
    assert runs.loss.tolist() == [4.5, 4.0]
    assert runs.steps.tolist() == [1, 2]


@pytest.mark.parametrize(
    "data",
    [
        [{"loss": 3.0, "params": 1e6}, {"loss": 2.5, "params": 4e6}],
        {"loss": [3.0, 2.5], "params": [1e6, 4e6]},
        {"loss": {"0": 3.0, "1": 2.5}, "params": {"0": 1e6, "1": 4e6}},
        {"columns": ["loss", "params"], "index": [0, 1], "data": [[3.0, 1e6], [2.5, 4e6]]},
        {"schema": {}, "data": [{"loss": 3.0, "params": 1e6}, {"loss": 2.5, "params": 4e6}]},
    ],
)
def test_every_json_layout_of_a_table_holds_the_same_runs(tmp_path, data):
    for indent in (None, 2):
        runs = read_runs(_write(tmp_path / "runs.json", json.dumps(data, indent=indent)))
        assert (runs.loss.tolist(), runs.params.tolist()) == ([3.0, 2.5], [1e6, 4e6])


def test_an_object_that_cannot_be_read_is_named(tmp_path):
    text = "summary,params\n\"{'loss': 3}\",1e6\n\"{'loss': <Histogram>}\",4e6\n"
    with pytest.raises(InputError, match=r"summary holds objects, but in row\(s\) 3"):
        read_runs(_write(tmp_path / "runs.csv", text))
