"""A store mirrored into real trackers, read back with their own libraries; and runs of trackers brought in."""

from __future__ import annotations

import csv
import json
import os
import re
import struct
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import windtunnel as wt
from windtunnel.bridge import Mirror, bring_runs, foreign_runs, observations_of
from windtunnel.bridge.mirror import page_of_run
from windtunnel.errors import InputError

pytest.importorskip("torch", reason="the runs that are mirrored are trained here: pip install 'windtunnel[train]'")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
LR = {"lr": 1e-2}


def made_up():
    """Five runs of anyone's, as columns."""
    params = 1e6 * 4.0 ** np.arange(5)
    return {"params": params, "tokens": 20 * params, "loss": 1.7 + 400 / params**0.34 + 410 / (20 * params) ** 0.28}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two recorded runs of different studies and a forecast."""
    import tiny

    from windtunnel.train.loop import train

    folder = tmp_path_factory.mktemp("mirrored")
    pack = tiny.pack(tiny.recipe(tiny.write_corpus(folder)), [LR, {"lr": 3e-3}])
    found = wt.Store(folder / "store")
    for run in train(pack, device=tiny.CPU):
        found.add(run)
    forecast = wt.fit(wt.Observations(**made_up())).forecast(wt.Target(params=1e10, tokens=2e11))
    found.add_forecast(forecast.to_json())
    return found


def test_a_page_of_a_run_says_what_was_asked_and_what_came_of_it(store):
    run = store.get(next(store.keys()))
    page = page_of_run(run)
    assert page.facts["lr"] == run.spec.hyperparameters["lr"] and page.facts["study"] == "test"
    assert page.results["loss"] == run.loss
    assert np.array_equal(page.curves["train_loss"][1], run.curve["train_loss"])
    assert page.curves["judged_loss"][0][-1] == run.curve["step"][-1]


def test_only_what_is_missing_is_written_and_only_of_the_study_that_was_asked(store, caplog):
    class Pile(dict):
        def has(self, key):
            return key in self

        def write(self, page):
            self[page.key] = page

    pile = Pile()
    assert (Mirror(store, pile).update(), Mirror(store, pile).update()) == (3, 0)
    assert {page.kind for page in pile.values()} == {"run", "forecast"}
    assert Mirror(store, Pile(), study="test").update() == 2
    assert Mirror(store, Pile(), study="another").update() == 0
    assert "nothing of study 'another' is in the store yet; its studies: test" in caplog.text


def test_a_forecast_is_of_the_study_that_it_names_though_another_asked_its_runs_first(store, tmp_path):
    class Pile(dict):
        has = dict.__contains__

        def write(self, page):
            self[page.key] = page

    shared = wt.Store(tmp_path)
    for run in store.runs():
        shared.add(run)
    (forecast,) = store.forecasts()
    shared.add_forecast(forecast | {"study": "second", "runs": list(store.keys())})
    kinds = {}
    for study in ("test", "second"):
        Mirror(shared, pile := Pile(), study=study).update()
        kinds[study] = [page.kind for page in pile.values()]
    assert kinds == {"test": ["run", "run"], "second": ["forecast"]}


def test_mlflows_sqlite_store_holds_the_runs_and_the_forecast_once(store, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs MLflow: pip install mlflow-skinny sqlalchemy alembic")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/runs.db"
    for expected in (3, 0):
        assert Mirror(store, wt.bridge.ToMLflow(uri)).update() == expected
    client = mlflow.MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name("windtunnel").experiment_id])
    by_key = {run.data.tags["windtunnel.key"]: run for run in found}
    for run in store.runs():
        there = by_key[run.key]
        assert there.data.metrics["loss"] == run.loss and there.info.status == "FINISHED"
        assert float(there.data.params["lr"]) == run.spec.hyperparameters["lr"]
        history = client.get_metric_history(there.info.run_id, "train_loss")
        assert [each.value for each in history] == pytest.approx(run.curve["train_loss"].tolist())
    (forecast,) = store.forecasts()
    there = by_key[forecast["key"]]
    assert there.data.metrics["foretold/median"] == forecast["loss"]["median"]
    assert there.data.params["hash"] == forecast["hash"]


def test_tensorboards_own_reader_finds_the_curves_and_the_facts(store, tmp_path):
    pytest.importorskip("tensorboard", reason="needs TensorBoard: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for expected in (3, 0):
        assert Mirror(store, wt.bridge.ToTensorBoard(tmp_path)).update() == expected
    for run in store.runs():
        read = EventAccumulator(str(tmp_path / run.key))
        read.Reload()
        assert [each.value for each in read.Scalars("train_loss")] == pytest.approx(run.curve["train_loss"].tolist())
        assert read.Scalars("loss")[0].value == pytest.approx(run.loss)
        (facts,) = read.Tensors("facts")
        assert json.loads(facts.tensor_proto.string_val[0])["seed"] == run.spec.seed
        assert json.loads((tmp_path / run.key / "record.json").read_text())["key"] == run.key


def records_of(data, header=7, block=32768):
    """The records of a W&B offline file, which is LevelDB's log format behind a header."""
    at, parts = header, []
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        parts.append(data[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def test_wandb_offline_holds_configuration_history_and_summary(store, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs W&B: pip install wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for expected in (3, 0):
        assert Mirror(store, wt.bridge.ToWandB("windtunnel", tmp_path)).update() == expected
    run = store.get(next(store.keys()))
    (file,) = tmp_path.glob(f"wandb/offline-run-*-{run.key}/*.wandb")
    history, asked = [], {}
    for raw in records_of(file.read_bytes()):
        record = Record.FromString(raw)
        if record.WhichOneof("record_type") == "run":
            asked |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if record.WhichOneof("record_type") == "history":
            row = {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item}
            history += [row["train_loss"]] if "train_loss" in row else []
    assert history == pytest.approx(run.curve["train_loss"].tolist())
    assert asked["lr"] == run.spec.hyperparameters["lr"]


TRACKIO = """
import json, sys
import trackio
import windtunnel as wt
from windtunnel.bridge import Mirror, ToTrackio
from windtunnel.bridge.mirror import page_of_run

store = wt.Store(sys.argv[1])
page = page_of_run(store.get(next(store.keys())))
half = trackio.init(project="windtunnel", name=f"{page.name} {page.key}", embed=False)  # a call was interrupted
half.log({"train_loss": 9.0}, step=1)
trackio.finish()
written = [Mirror(store, ToTrackio()).update(), Mirror(store, ToTrackio()).update()]
every = list(trackio.Api().runs("windtunnel"))
runs = {run.config["key"]: run for run in every}
logs = {key: trackio.SQLiteStorage.get_logs("windtunnel", run.name) for key, run in runs.items()}
rates = {key: run.config.get("lr") for key, run in runs.items()}
print(json.dumps({"runs": len(every), "written": written, "logs": logs, "lr": rates}))
"""


AIM = """
import json, os, subprocess, sys
import aim
import windtunnel as wt
from windtunnel.bridge import Mirror, ToAim

store, interrupted = wt.Store(sys.argv[1]), aim.Run.close
if not os.path.exists("aim"):
    aim.Run.close = lambda run: os._exit(3)  # a call was interrupted
written = [Mirror(store, ToAim("aim")).update(), Mirror(store, ToAim("aim")).update()]
command = [os.path.join(os.path.dirname(sys.executable), "aim"), "storage", "--repo", "aim", "reindex", "--yes"]
subprocess.run(command, check=True, capture_output=True)
seen = aim.Repo("aim")
keys = {hash: seen.get_run(hash) for hash in seen.list_all_runs()}
facts = {run["windtunnel"]["key"]: run["windtunnel"] for run in keys.values()}
logs = {
    run["windtunnel"]["key"]: {m.name: m.dataframe().sort_values("step")["value"].tolist() for m in run.metrics()}
    for run in keys.values()
}
print(json.dumps({"runs": len(keys), "written": written, "logs": logs, "facts": facts}))
"""


def said(script: str, store, folder, **settings: str) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own, in a folder of its own."""
    environment = {**os.environ, **settings, "PYTHONPATH": os.pathsep.join(sys.path)}
    asked = [sys.executable, "-c", script, str(store.path)]
    return subprocess.run(asked, capture_output=True, text=True, env=environment, cwd=folder, check=False)


def test_aims_own_reader_finds_each_run_once_with_its_curve_and_result_though_a_call_was_interrupted(store, tmp_path):
    pytest.importorskip("aim", reason="needs Aim: pip install 'windtunnel[aim]'")
    assert said(AIM, store, tmp_path).returncode == 3
    done = said(AIM, store, tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["written"] == [3, 0] and found["runs"] == len(found["logs"]) == 3
    for run in store.runs():
        logs = found["logs"][run.key]
        assert logs["train_loss"] == pytest.approx(run.curve["train_loss"].tolist())
        assert logs["loss"] == [pytest.approx(run.loss)]
        assert found["facts"][run.key]["lr"] == run.spec.hyperparameters["lr"]


def test_trackios_own_reader_finds_each_run_once_with_its_curve_and_result(store, tmp_path):
    pytest.importorskip("trackio", reason="needs Trackio: pip install 'windtunnel[trackio]'")
    done = said(TRACKIO, store, tmp_path, TRACKIO_DIR=str(tmp_path / "trackio"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["written"] == [3, 0] and found["runs"] == len(found["logs"]) == 3
    for run in store.runs():
        rows = found["logs"][run.key]
        losses = [row["train_loss"] for row in rows if row.get("train_loss") is not None]
        assert losses == pytest.approx(run.curve["train_loss"].tolist())
        assert [row["loss"] for row in rows if row.get("loss") is not None] == [pytest.approx(run.loss)]
        assert found["lr"][run.key] == run.spec.hyperparameters["lr"]


# in


def table(folder, **more):
    """The made-up runs as a CSV."""
    columns = {**made_up(), **more}
    with open(folder / "runs.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return folder / "runs.csv"


def test_runs_of_a_table_come_with_their_provenance_and_fit_as_the_table_does(tmp_path):
    store, path = wt.Store(tmp_path / "store"), table(tmp_path, seed=[0] * 5)
    assert len(bring_runs(store, path)) == len(bring_runs(store, path)) == len(foreign_runs(store)) == 5
    runs = foreign_runs(store)
    assert {run.provenance["file"] for run in runs} == {str(path)} and all(run.provenance["sha256"] for run in runs)
    target = wt.Target(params=1e10, tokens=2e11)
    ours, theirs = wt.fit(observations_of(runs)).forecast(target), wt.fit(wt.read_runs(path)).forecast(target)
    assert (ours.loss, ours.intervals) == (theirs.loss, theirs.intervals)
    assert any("foreign" in caveat for caveat in ours.caveats)


def test_foreign_runs_are_none_of_ours(tmp_path):
    import tiny

    store = wt.Store(tmp_path / "store")
    runs = bring_runs(store, table(tmp_path))
    assert list(store.keys()) == [] and store.rows() == [] and store.runs() == []
    assert all(run.key not in store for run in runs)
    (tmp_path / "corpus").mkdir()
    study = tiny.study(tiny.write_corpus(tmp_path / "corpus"))
    assert study.plan(store).rows == study.plan(wt.Store(tmp_path / "empty")).rows


def test_a_damaged_record_is_named_and_what_has_no_loss_is_left_out(tmp_path):
    store = wt.Store(tmp_path / "store")
    (run, *_) = bring_runs(store, table(tmp_path, outcome=["finished", "finished", "finished", "finished", "crashed"]))
    assert len(foreign_runs(store)) == 4
    file = tmp_path / "store" / "foreign" / run.key / "run.json"
    file.write_text(file.read_text().replace('"loss": ', '"loss": 1'))
    with pytest.raises(InputError, match=rf"{run.key}.*damaged"):
        foreign_runs(store)


def test_a_run_mirrored_to_tensorboard_comes_back_with_its_curve(store, tmp_path):
    pytest.importorskip("tensorboard", reason="needs TensorBoard: pip install tensorboard")
    Mirror(store, wt.bridge.ToTensorBoard(tmp_path / "events"), study="test").update()
    other = wt.Store(tmp_path / "other")
    brought = bring_runs(other, tmp_path / "events", {"loss": "loss"}, curve="train_loss", tool="tensorboard")
    assert {run.name for run in brought} == set(store.keys())
    for run in brought:
        was = store.get(run.name)
        assert run.loss == pytest.approx(was.loss) and run.numbers["steps"] == was.curve["step"][-1]
        assert list(run.curve) == pytest.approx(was.curve["train_loss"].tolist()) and run.past() is not None


def test_runs_come_from_mlflows_sqlite_store_with_their_curves_and_without_its_password(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs MLflow: pip install mlflow-skinny sqlalchemy alembic")
    from windtunnel.bridge.from_mlflow import _bare

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/runs.db"
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("ladder")
    columns = made_up()
    for row in range(5):
        run = client.create_run(experiment).info.run_id
        client.log_param(run, "n_params", columns["params"][row])
        client.log_param(run, "n_tokens", columns["tokens"][row])
        for step in (1, 2, 4):
            client.log_metric(run, "val_loss", columns["loss"][row] * 4 / step, step=step)
        client.set_terminated(run, "FINISHED" if row < 4 else "FAILED")
    store = wt.Store(tmp_path / "store")
    names = "loss=metrics.val_loss,params=params.n_params,tokens=params.n_tokens"
    runs = wt.bridge.bring_mlflow(store, uri, "ladder", names, curve="val_loss")
    assert sorted(run.loss for run in runs) == pytest.approx(sorted(columns["loss"][:4]))
    assert all(list(run.share) == [0.25, 0.5, 1.0] and run.curve[-1] == run.loss for run in runs)
    assert runs[0].provenance["experiment"] == "ladder" and len(foreign_runs(store)) == 4
    assert _bare("https://me:secret@host:5000/x") == "https://host:5000/x"
    with pytest.raises(InputError, match="has no experiment 'steps'; it has ladder"):
        wt.bridge.bring_mlflow(store, uri, "steps")


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """A folder with two finished offline runs of W&B's own making and one that ended with an error."""
    wandb = pytest.importorskip("wandb", reason="needs W&B: pip install wandb")
    folder, columns = tmp_path_factory.mktemp("offline"), made_up()
    for row in range(3):
        run = wandb.init(
            project="ladder", name=f"run {row}", dir=str(folder), mode="offline", reinit="create_new",
            config={"model": {"params": columns["params"][row]}, "tokens": columns["tokens"][row], "layers": [1, 2]},
            settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip
        for step in (10, 20, 40):
            run.log({"val/loss": columns["loss"][row] * 40 / step}, step=step)
        run.finish(exit_code=row // 2)
    return folder


WANDB = "loss=summary.val/loss,params=config.model.params,tokens=config.tokens"


def test_wandbs_offline_runs_come_with_their_curves_and_without_those_that_failed(offline, tmp_path):
    store, columns = wt.Store(tmp_path / "store"), made_up()
    runs = wt.bridge.bring_wandb(store, offline, WANDB, curve="val/loss")
    assert sorted(run.loss for run in runs) == pytest.approx(sorted(columns["loss"][:2]))
    assert {run.numbers["params"] for run in runs} == set(columns["params"][:2])
    assert all(list(run.share) == [0.25, 0.5, 1.0] and run.curve[-1] == run.loss for run in runs)
    assert wt.bridge.bring_wandb(store, offline, WANDB, curve="val/loss") == runs and len(foreign_runs(store)) == 2
    assert "wandb" in runs[0].provenance["tool"] and runs[0].past() is not None


def copied(offline, tmp_path, change):
    """The first offline run's file, its bytes changed."""
    (first, *_) = sorted(offline.rglob("run-*.wandb"))
    place = tmp_path / first.parent.name
    place.mkdir(parents=True)
    (place / first.name).write_bytes(change(first.read_bytes()))
    return tmp_path


def test_a_wandb_run_that_was_killed_is_unfinished_wherever_its_file_was_cut(offline, tmp_path):
    from windtunnel.bridge.from_wandb import Offline, _add, records

    whole = len(list(records(next(offline.rglob("run-*.wandb")))))
    for cut in range(8, 2000, 97):
        folder = copied(offline, tmp_path / str(cut), lambda data, cut=cut: data[:-cut])
        (file,) = folder.rglob("run-*.wandb")
        run = Offline()
        _add(run, file)
        assert run.state == "crashed" and len(list(records(file))) < whole


@pytest.mark.parametrize("change,said", [
    (lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:], "damaged at byte"),
    (lambda data: b"GIF89a" + data, "no offline run"),
    (lambda data: b"", "no offline run"),
])  # fmt: skip
def test_a_damaged_wandb_file_is_named(offline, tmp_path, change, said):
    with pytest.raises(InputError, match=said) as caught:
        wt.bridge.bring_wandb(wt.Store(tmp_path / "store"), copied(offline, tmp_path / "runs", change), WANDB)
    assert ".wandb" in str(caught.value)


def test_what_a_hostile_wandb_file_says_is_refused_or_taken_as_words(offline, tmp_path):
    """A sound file, its checksums right, that holds deep nesting, no JSON, or bytes that are no record."""
    import zlib

    from wandb.proto.wandb_internal_pb2 import Record

    from windtunnel.bridge.from_wandb import Offline, _add

    def written(name, *bodies):
        file = tmp_path / f"run-{name}.wandb"
        parts = [struct.pack("<IHB", zlib.crc32(b"\1" + body), len(body), 1) + body for body in bodies]
        file.write_bytes(b":W&B\xe1\xbe\x00" + b"".join(parts))
        return file

    def logged(text):
        record = Record()
        item = record.history.item.add()
        item.key, item.value_json = "<script>", text
        return record.SerializeToString()

    for name, body in {
        "deep": logged('{"a":' * 5000 + "1" + "}" * 5000),
        "none": logged("{"),
        "raw": b"\xff" * 9,
    }.items():
        with pytest.raises(InputError, match=rf"run-{name}.wandb holds what no run"):
            _add(Offline(), written(name, body))
    run = Offline()
    _add(run, written("sound", logged('"../../etc"')))
    assert run.rows == [{"<script>": "../../etc"}]


def test_a_folder_without_wandb_runs_says_what_to_give(tmp_path):
    pytest.importorskip("wandb", reason="needs W&B: pip install wandb")
    with pytest.raises(InputError, match=r"holds no runs of W&B; give the folder `wandb`"):
        wt.bridge.bring_wandb(wt.Store(tmp_path / "store"), tmp_path)


def test_a_missing_library_is_one_sentence(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.delitem(sys.modules, "windtunnel.bridge.to_mlflow", raising=False)
    with pytest.raises(ModuleNotFoundError, match="needs mlflow"):
        wt.bridge.ToMLflow  # noqa: B018
    with pytest.raises(AttributeError, match=r"it has .*Mirror"):
        wt.bridge.ToNowhere  # noqa: B018


def test_a_mirror_takes_the_path_of_a_store(store):
    pages = []
    tracker = SimpleNamespace(has=lambda key: False, write=pages.append)
    assert Mirror(store.where, tracker).update() == len(pages) == 3


def test_a_table_that_has_grown_and_is_brought_again_adds_only_what_is_new(tmp_path):
    file, store = tmp_path / "runs.csv", wt.Store(tmp_path / "store")
    head, rows = "loss,params,tokens,outcome", [f"{4 - 0.2 * i},{10 ** (6 + i)},1e9,finished" for i in range(4)]
    file.write_text("\n".join([head, *rows, "3.0,1e8,1e9,running"]))
    wt.bridge.bring_runs(store, file)
    file.write_text("\n".join([head, *rows, "3.1,1e10,1e9,finished"]))
    wt.bridge.bring_runs(store, file)
    kept = foreign_runs(store)
    assert sorted(run.loss for run in kept) == pytest.approx([3.1, 3.4, 3.6, 3.8, 4.0])
    assert not any("did not finish" in caveat for caveat in observations_of(kept).caveats)  # that was the older table


def test_runs_without_the_loss_are_left_out_and_said_and_errors_name_runs_and_not_a_file(tmp_path, caplog):
    mlflow = pytest.importorskip("mlflow", reason="needs MLflow: pip install mlflow-skinny sqlalchemy alembic")
    uri, store = f"sqlite:///{tmp_path}/runs.db", wt.Store(tmp_path / "store")
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("ladder")
    ids = [client.create_run(experiment).info.run_id for _ in range(4)]
    for row, run in enumerate(ids):
        client.log_param(run, "n", 10**row if row else "many")
        if row < 3:
            client.log_metric(run, "loss", 3.0 - 0.1 * row)
        client.set_terminated(run, "FINISHED")
    with pytest.raises(InputError, match=rf"^ladder of sqlite.*params.n \(params\) .* in run\(s\) {ids[0]};") as error:
        wt.bridge.bring_mlflow(store, uri, "ladder", "params=params.n")
    assert "/mlflow.jsonl" not in str(error.value)
    client.delete_run(ids[0])
    assert len(wt.bridge.bring_mlflow(store, uri, "ladder", "params=params.n")) == 2
    assert f"1 of 3 runs of ladder of {uri} have no metrics.loss and are left out: {ids[3]}" in caplog.text
    assert wt.bridge.bring_mlflow(store, uri, "ladder", "params=params.n")[0].caveats == foreign_runs(store)[0].caveats
    for run in ids[1:3]:
        client.delete_run(run)
    with pytest.raises(InputError, match="no column `loss`"):
        wt.bridge.bring_mlflow(store, uri, "ladder", "params=params.n")


def test_a_column_that_no_wandb_run_has_is_said_of_the_folder_and_not_of_a_file(offline, tmp_path):
    with pytest.raises(InputError, match=f"^{re.escape(str(offline))} has no column 'summary.los' for loss"):
        wt.bridge.bring_wandb(wt.Store(tmp_path / "store"), offline, "loss=summary.los")


def test_importing_all_of_the_bridge_needs_no_tracker_and_no_trainer():
    code = """
import sys
libraries = ("aim", "lightning", "mlflow", "tensorboard", "torch", "trackio", "transformers", "wandb")
sys.modules |= dict.fromkeys(libraries)
from windtunnel.bridge import *
print(Mirror.__name__, "ToAim" in dir(__import__("windtunnel.bridge").bridge))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "Mirror True\n", done.stderr
