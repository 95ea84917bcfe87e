"""Tables as people publish them: none bears our names, and one error says all that has to be written."""

import itertools
import json

import numpy as np
import pytest

from windtunnel.errors import InputError
from windtunnel.forecasts.fit import fit
from windtunnel.ladder import Target
from windtunnel.laws import read_runs
from windtunnel.laws.reading.logs import read_log

GRID = [(n, d, 1.7 + 400 / n**0.34 + 410 / d**0.28) for n, d in itertools.product((1e7, 4e7, 1.6e8), (1e9, 4e9, 2e10))]


def _refused(tmp_path, header, cells="1,2,3,4,5,6", columns=None):
    path = tmp_path / "runs.csv"
    path.write_text(f"{header}\n" + ",".join(itertools.islice(cells.split(","), header.count(",") + 1)) + "\n")
    with pytest.raises(InputError) as caught:
        read_runs(path, columns)
    return str(caught.value)


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ("n_params,n_tokens,flops,val_loss", '"loss=val_loss,params=n_params,tokens=n_tokens".'),
        ("N (non-emb),D (tokens),FLOPs,Tokens/param,Val Loss",
         '"loss=Val Loss,params=N (non-emb),tokens=D (tokens),flops=FLOPs".'),
        ("train_loss,val_loss,params,tokens", '"loss=val_loss" (or train_loss).'),
        ("parameters,compute_budget,final_loss", '"loss=final_loss,params=parameters,flops=compute_budget".'),
        ("params_wte,params_total,tokens_trained,tokens_per_second,val_bpb",
         '"loss=val_bpb,params=params_total,tokens=tokens_trained".'),
        ("train/avg_loss,optim.lr,optim/n_tokens,train/wps",
         '"loss=train/avg_loss,tokens=optim/n_tokens,lr=optim.lr".'),
        ("summary.val/loss,config.learning_rate,config.d_model",
         '"loss=summary.val/loss,lr=config.learning_rate".'),
        ("accuracy,depth", '"loss=THEIR_NAME".'),
    ],
)  # fmt: skip
def test_one_error_names_every_column_a_table_seems_to_have(tmp_path, header, named):
    assert _refused(tmp_path, header).endswith(f"Name it with --columns {named}")


def test_what_was_given_stays_in_what_is_to_be_pasted(tmp_path):
    message = _refused(tmp_path, "N,D,C,Val Loss", columns="loss=Val Loss")
    assert message.endswith('"loss=Val Loss,params=N,tokens=D,flops=C".')
    assert '"loss=l,width=d_model".' in _refused(tmp_path, "d_model,l", columns="loss=l")


def test_a_column_of_words_is_not_taken_for_sizes(tmp_path):
    assert '"loss=val_loss,params=n_params"' in _refused(tmp_path, "model_size,n_params,val_loss", "small,7B,3")


@pytest.mark.parametrize("columns", ["loss=val_loss", {"loss": "val_loss"}])
def test_sizes_that_nobody_named_are_said_and_asked_for_by_a_target(tmp_path, columns):
    path = tmp_path / "runs.csv"
    rows = [f"{n},{d},{6 * n * d},{loss}" for n, d, loss in GRID]
    path.write_text("\n".join(["n_params,n_tokens,flops,val_loss", *rows]))
    runs = read_runs(path, columns)
    pasted = '--columns "loss=val_loss,params=n_params,tokens=n_tokens"'
    assert any(pasted in caveat for caveat in runs.caveats)
    with pytest.raises(InputError, match="or read more of the table: " + pasted):
        fit(runs, draws=20).forecast(Target(params=1e9, tokens=2e10))
    whole = read_runs(path, "loss=val_loss,params=n_params,tokens=n_tokens")
    assert whole.unread == "" and whole.caveats == ()
    assert read_runs(path, "loss=val_loss,params=,tokens=").caveats == ()


def test_runs_a_tracker_calls_failed_can_be_read_all_the_same(tmp_path):
    message = _refused(tmp_path, "val_loss,tokens,State", "3,1e9,failed", "loss=val_loss")
    assert "row 2 failed, in column State" in message
    assert message.endswith('--columns "loss=val_loss,outcome=".')
    assert len(read_runs(tmp_path / "runs.csv", "loss=val_loss,outcome=")) == 1


def test_a_setting_nobody_named_is_found_in_a_small_table_by_its_order(tmp_path):
    path = tmp_path / "runs.csv"
    sizes, shares = (1e5, 8e5, 1e7, 2.5e7), (10, 25, 50, 100)
    weight = {1e5: 0.03, 8e5: 0.08, 1e7: 0.5, 2.5e7: 0.7}  # what sharing data costs grows with size
    rows = [f"{n},{share},{3 - 0.1 * np.log10(n) + weight[n] * np.log(100 / share)}" for n in sizes for share in shares]
    path.write_text("\n".join(["params,data_pct,loss", *rows]))
    assert any("goes with 'data_pct'" in caveat for caveat in read_runs(path).caveats)


def test_a_column_without_effect_is_seldom_named(tmp_path):
    rng, said = np.random.default_rng(0), 0
    for trial in range(300):
        path = tmp_path / f"{trial}.csv"
        rows = [f"{n},{kind},{3 - 0.1 * np.log10(n) + rng.normal(0, 0.01)}" for n in (1e5, 8e5, 1e7, 2.5e7)
                for kind in (10, 25, 50, 100)]  # fmt: skip
        path.write_text("\n".join(["params,kind,loss", *rows]))
        said += bool(read_runs(path).caveats)
    assert said <= 3  # about 2 in 1,000 are expected


def test_json_with_a_run_under_each_name_is_read_and_pandas_columns_still_are(tmp_path):
    path = tmp_path / "runs.json"
    runs = {f"{n:g} {d:g}": {"n_params": n, "tokens": d, "final_loss": loss, "log": []} for n, d, loss in GRID}
    path.write_text(json.dumps(runs))
    named = "loss=final_loss,params=n_params"
    read = read_runs(path, named)
    assert read.loss.tolist() == [loss for *_, loss in GRID] and read.params.tolist() == [n for n, *_ in GRID]
    turned = {name: {run: each[name] for run, each in runs.items()} for name in ("n_params", "tokens", "final_loss")}
    path.write_text(json.dumps(turned))
    assert read_runs(path, named).loss.tolist() == read.loss.tolist()


def test_a_log_is_told_all_its_columns_at_once(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,train/loss,val/loss,tokens_seen\n1,3,3.1,10\n")
    with pytest.raises(InputError, match=r'--columns "loss=val/loss,tokens=tokens_seen" \(or train/loss\)'):
        read_log(path)
    path.write_text("tokens_seen,loss\n1,3\n")
    with pytest.raises(InputError, match=r'--columns "tokens=tokens_seen"\.$'):
        read_log(path)
    path.write_text("when,val/loss\n1,3\n")
    with pytest.raises(InputError, match=r'--columns "loss=val/loss,tokens=THEIR_NAME"\.$'):
        read_log(path, "loss=val/loss")
