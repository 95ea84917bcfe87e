"""Tables as people publish them: none bears our names, and one error says all that has to be written."""

import itertools
import json

import numpy as np
import pytest

from windtunnel.errors import InputError
from windtunnel.forecasts.fit import fit
from windtunnel.ladder import Target
from windtunnel.laws import read_runs
from windtunnel.laws.reading import read_targets
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
         '"loss=summary.val/loss,lr=config.learning_rate,width=config.d_model".'),
        ("iter,val/loss,lr", '"loss=val/loss,steps=iter".'),
        ("n,d,c,val_loss", '"loss=val_loss".'),
        ("accuracy,depth", '"loss=THEIR_NAME".'),
        ("train_loss,c4_val_loss", '"loss=c4_val_loss" (or train_loss).'),
        ("lm loss,lm loss validation,n_params", '"loss=lm loss validation,params=n_params" (or lm loss).'),
        ("train_loss,val_nll,loss_fn_weight", '"loss=val_nll" (or train_loss).'),
        ("Params,non_embedding_params,Training FLOP,Loss", '"loss=Loss,params=Params,flops=Training FLOP".'),
        ("val_loss,params,steps,batch_tokens", '"loss=val_loss".'),
        ("val_loss,active_params,unique_tokens", '"loss=val_loss".'),
        ("val_loss,n_params,steps,batch_size_tokens",
         '"loss=val_loss,params=n_params,batch_tokens=batch_size_tokens".'),
        ("number,value,params_lr,params_n_layer,state", '"loss=value,lr=params_lr".'),
        ("val_loss,warmup_tokens,eval_tokens,peak_flops,embedding_lr,params_frozen", '"loss=val_loss".'),
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
    assert whole.unnamed == "" and whole.caveats == ()
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


def test_a_column_without_effect_is_seldom_named():
    rng, said = np.random.default_rng(0), 0
    sizes, kind = np.repeat([1e5, 8e5, 1e7, 2.5e7], 4), np.tile([10, 25, 50, 100], 4)
    for _ in range(2000):
        loss = 3 - 0.1 * np.log10(sizes) + rng.normal(0, 0.01, 16)
        said += bool(read_runs({"params": sizes, "kind": kind, "loss": loss}).caveats)
    assert said <= 7  # 2 are expected: 1 in 1,000


def test_json_with_a_run_under_each_name_is_read_and_pandas_columns_still_are(tmp_path):
    path = tmp_path / "runs.json"
    runs = {f"{n:g} {d:g}": {"n_params": n, "tokens": d, "final_loss": loss, "log": []} for n, d, loss in GRID}
    path.write_text(json.dumps(runs))
    named = "loss=final_loss,params=n_params"
    read = read_runs(path, named)
    assert read.key is not None and read.key.tolist() == list(runs)
    assert read.loss.tolist() == [loss for *_, loss in GRID] and read.params.tolist() == [n for n, *_ in GRID]
    turned = {name: {run: each[name] for run, each in runs.items()} for name in ("n_params", "tokens", "final_loss")}
    path.write_text(json.dumps(turned))
    assert read_runs(path, named).loss.tolist() == read.loss.tolist()


@pytest.mark.parametrize(
    ("run", "columns"),
    [({"N": 1e6, "D": 2e7, "loss": 3.0}, "params=N,tokens=D"),
     ({"model_params": 1e6, "loss": 3.0}, "params=model_params"),
     ({"n_params": 1e6, "score": 3.0}, "params=n_params,loss=score")],
)  # fmt: skip
def test_json_runs_by_name_need_no_names_of_ours(tmp_path, run, columns):
    path = tmp_path / "runs.json"
    runs = {f"r{i}": {key: value * 2**i for key, value in run.items()} for i in range(4)} | {"test": run}
    runs["broken"] = {key: value for key, value in run.items() if key not in ("loss", "score")} | {"state": "crashed"}
    path.write_text(json.dumps(runs))
    assert len(read_runs(path, columns)) == 5


def test_json_runs_by_name_may_have_sections_and_one_run_of_sections_is_one_run(tmp_path):
    path = tmp_path / "runs.json"
    runs = {str(i): {"config": {"params": n}, "summary": {"loss": loss}} for i, (n, _, loss) in enumerate(GRID)}
    path.write_text(json.dumps(runs))
    assert read_runs(path).loss.tolist() == [loss for *_, loss in GRID]
    path.write_text(json.dumps(runs["0"]))
    assert len(read_runs(path)) == 1
    path.write_text(json.dumps({"train": {"loss": 3, "lr": 0.1}, "opt": {"step": 1, "lr": 0.1}}))
    assert read_log(path, "loss=train.loss,steps=opt.step").loss.tolist() == [3]


def test_names_with_commas_are_pasted_as_they_are(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text('"Loss (val, nats)","Params (M, non-emb)"\n3,1e6\n')
    with pytest.raises(InputError, match="Name it") as caught:
        read_runs(path)
    pasted = str(caught.value).split('--columns "')[1].split('"')[0]
    assert read_runs(path, pasted).params.tolist() == [1e6]
    path.write_text("loss,n_params\n3,1e6\n")
    assert read_runs(path, "params=n_params,,loss=loss").params.tolist() == [1e6]
    with pytest.raises(InputError, match=r"no column 'n_params,loss' for params;.* Each pair is OURS=THEIRS"):
        read_runs(path, "params=n_params,loss")
    with pytest.raises(InputError, match="write pairs OURS=THEIRS"):
        read_runs(path, "params=n_params,val/loss=loss")


def test_numbers_in_groups_of_three_are_told_how_to_be_written(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text('loss,params\n3,"19,267,584"\n')
    with pytest.raises(InputError, match=r"Write 19,267,584 as 19267584\. Correct or remove the row\(s\)\.$"):
        read_runs(path)


def test_targets_are_told_to_be_called_as_ours(tmp_path):
    path = tmp_path / "targets.csv"
    path.write_text("N,D\n1e9,2e10\n")
    with pytest.raises(InputError, match=r"Call N params and D tokens\.$"):
        read_targets(path, "params=n_params,tokens=n_tokens,loss=val_loss")


def test_sizes_that_are_not_all_there_or_are_used_already_are_not_asked_for(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("n_params,tokens,val_loss\n1e6,1e7,3\n,2e7,2.9\n,4e7,2.8\n")
    assert read_runs(path, "loss=val_loss").unnamed == ""
    path.write_text("n_params,tokens,val_loss\n1e6,1e7,3\n2e6,2e7,2.9\n4e6,4e7,2.8\n")
    assert read_runs(path, "loss=val_loss,active_params=n_params").unnamed == ""
    assert read_runs(path, "loss=val_loss").unnamed == "loss=val_loss,params=n_params"


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
