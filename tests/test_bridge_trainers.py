"""Callbacks of real trainers: a run of transformers' Trainer and of Lightning, recorded and set beside a forecast."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from test_adopt import TARGET, Plain, adopted
from torch.nn import functional as F

import windtunnel as wt
from windtunnel.bridge import Following, ForeignRun, TorchOptimizer, foreign_runs, observations_of
from windtunnel.errors import InputError
from windtunnel.parts.optimizers import AdamW, Muon

STEPS = 60


def forecast(median, spread=1.05, key="abcdef0123"):
    """What `windtunnel fit --json` prints for one target, as far as it is read here."""
    loss = {"median": median, "low": median / spread, "high": median * spread, "level": 0.9}
    wide = loss | {"low": median / spread**1.5, "high": median * spread**1.5, "level": 0.98}
    return {"loss": loss, "intervals": [loss, wide], "target": {"tokens": 1e6}, "key": key}


def made_up(final, off=0.0, rows=400):
    """Share and loss of a run that ends at `final`, unless it loses `off` for good at two fifths."""
    share = np.linspace(1 / rows, 1, rows)
    noise = 0.003 * np.random.default_rng(0).standard_normal(rows)
    return share, final * (1 + 0.1 * (share**-0.4 - 1)) * np.exp(noise + off * (share > 0.4))


def followed(store=None, final=2.5, off=0.0, stop_at=1.0, **more):
    share, loss = made_up(final, off)
    ladder = [_past(size) for size in (2.9, 2.8, 2.7)]
    run = Following(len(share), forecast=forecast(2.5), ladder=ladder, store=store, **more)
    for step in range(int(len(share) * stop_at)):
        run.row(step + 1, loss[step])
    return run


def _past(final):
    from windtunnel.forecasts.band import Past

    return Past(*made_up(final), final)


# a loop of one's own


def test_a_run_as_foretold_is_not_warned_of_and_one_that_left_its_curve_is(caplog):
    with caplog.at_level(logging.WARNING, "windtunnel"):
        assert not followed().standing and not caplog.records
        run = followed(off=0.1, name="off")
    assert run.standing and len(caplog.records) == 1
    assert "off at 4" in caplog.text and "heading for 2." in caplog.text


def test_the_end_is_recorded_once_with_its_numbers_its_curve_and_its_forecast(tmp_path):
    store = wt.Store(tmp_path)
    for _ in range(2):
        run = followed(store).end(params=1e6, tokens=2e7, texts={"seed": "3"})
    (kept,) = foreign_runs(store)
    assert kept == run and kept.loss == pytest.approx(2.5, rel=0.01)
    assert kept.numbers["params"] == 1e6 and kept.texts == {"seed": "3"}
    assert kept.provenance["forecast"] == "abcdef0123" and len(kept.curve) == 400
    assert list(store.keys()) == []


def test_a_resumed_run_writes_its_rows_again_and_a_diverged_one_is_not_recorded(tmp_path):
    run = Following(10, store=wt.Store(tmp_path))
    for step in (1, 2, 3, 2, 3, 4):
        run.row(step, float(step))
    assert run.share == [0.1, 0.2, 0.3, 0.4]
    run.row(5, float("nan"))
    assert Following(10).end() is None
    broken = Following(3, store=wt.Store(tmp_path))
    for step in (1, 2, 3):
        broken.row(step, float("nan"))
    assert broken.end() is None and foreign_runs(wt.Store(tmp_path)) == []


def test_finished_runs_of_ones_own_loop_are_the_ladder_of_the_next(tmp_path):
    store = wt.Store(tmp_path)
    for number, final in enumerate((3.0, 2.8, 2.65, 2.55, 2.5)):
        share, loss = made_up(final)
        run = Following(len(share), store=store, name=f"rung {number}")
        for step, value in enumerate(loss):
            run.row(step + 1, value)
        run.end(final, params=1e6 * 4**number, tokens=2e7 * 4**number)
    runs = foreign_runs(store)
    foretold = wt.fit(observations_of(runs)).forecast(wt.Target(params=1e6 * 4**6, tokens=2e7 * 4**6))
    assert any("foreign" in caveat for caveat in foretold.caveats)
    share, loss = made_up(foretold.loss.median)
    watch = Following(len(share), forecast=foretold, ladder=runs)
    for step in range(300):
        watch.row(step + 1, loss[step])
    assert watch.looks[-1].final.holds(foretold.loss.median) and not watch.standing


def test_what_is_no_forecast_or_no_length_is_refused(tmp_path):
    (tmp_path / "no.json").write_text("[]")
    for given in ({}, tmp_path / "no.json", tmp_path / "missing.json"):
        with pytest.raises(InputError, match="forecast"):
            Following(10, forecast=given)
    with pytest.raises(InputError, match="horizon"):
        Following(0)
    with pytest.raises(InputError, match="not a foreign run"):
        ForeignRun.from_json({"key": "1"})


# transformers


def hf_run(folder, callback, optimizer=None):
    """A tiny Llama with the table's optimizer and the Trainer's own schedule, sixty steps."""
    hf = pytest.importorskip("transformers", reason="needs transformers: pip install transformers accelerate")
    pytest.importorskip("accelerate", reason="Trainer needs accelerate: pip install accelerate")
    from test_hf import BASE, V, llama

    part = Muon(lr=2e-2, others_lr=1e-2)
    scales, model = wt.adopt(llama, base=BASE, target=2 * BASE, optimizer=part), llama(2 * BASE)
    scales.initialize(model, seed=0)
    optimizer = optimizer or TorchOptimizer(part, scales.attach(model), scales)
    ids = torch.randint(V, (8, 12), generator=torch.Generator().manual_seed(0))
    arguments = hf.TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=4, logging_steps=1, report_to=[],
        use_cpu=True, save_strategy="no", disable_tqdm=True, max_grad_norm=0.0, dataloader_pin_memory=False,
    )  # fmt: skip
    rows = [{"input_ids": row, "labels": row} for row in ids]
    callback.scales = scales
    trainer = hf.Trainer(model, arguments, train_dataset=rows, optimizers=(optimizer, None), callbacks=[callback])
    trainer.train()
    return trainer


def test_a_trainers_run_is_recorded_with_its_losses(tmp_path):
    pytest.importorskip("transformers", reason="needs transformers")
    store = wt.Store(tmp_path / "store")
    callback = wt.bridge.FollowTrainer(store=store, name="llama", tokens_per_step=48)
    trainer = hf_run(tmp_path, callback)
    (run,) = foreign_runs(store)
    logged = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert list(run.curve) == pytest.approx(logged) and len(logged) == STEPS
    assert run.numbers["tokens"] == 48 * STEPS and run.numbers["steps"] == STEPS
    assert run.numbers["params"] == sum(p.numel() for p in trainer.model.parameters())
    assert run.provenance["tool"].startswith("transformers ")
    assert run.loss < logged[0]


def test_a_metric_that_no_log_had_is_said_with_those_that_were_there(tmp_path, caplog):
    pytest.importorskip("transformers", reason="needs transformers")
    callback = wt.bridge.FollowTrainer(metric="eval_los", name="typo")
    with caplog.at_level(logging.WARNING, "windtunnel"):
        hf_run(tmp_path, callback)
    assert callback.run is None
    assert "typo: no log had 'eval_los', so there is no curve; logged were epoch, grad_norm, l" in caplog.text


def test_a_resumed_trainers_run_has_the_rows_of_before_its_checkpoint():
    hf = pytest.importorskip("transformers", reason="needs transformers")
    callback = wt.bridge.FollowTrainer(metric="eval_loss")
    state = hf.TrainerState(max_steps=4, global_step=2, is_world_process_zero=True)
    state.log_history = [{"loss": 3.5, "step": 1}, {"eval_loss": 3.0, "step": 2}]
    callback.on_train_begin(None, state, hf.TrainerControl())
    assert callback.following is not None
    state.global_step = 3
    callback.on_log(None, state, hf.TrainerControl(), logs={"eval_loss": 2.5})
    assert (callback.following.share, callback.following.loss) == ([0.5, 0.75], [3.0, 2.5])
    assert callback.judged == 2.5


def test_a_trainers_run_that_will_miss_its_forecast_is_warned_of_and_stopped(tmp_path, caplog):
    pytest.importorskip("transformers", reason="needs transformers")
    callback = wt.bridge.FollowTrainer(forecast=forecast(3.4), stop=True, store=wt.Store(tmp_path / "store"))
    with caplog.at_level(logging.WARNING, "windtunnel"):
        trainer = hf_run(tmp_path, callback)
    assert "heading for" in caplog.text and trainer.state.global_step < STEPS
    assert callback.run is None and foreign_runs(wt.Store(tmp_path / "store")) == []


def test_a_trainers_optimizer_without_the_tables_rates_is_refused(tmp_path):
    pytest.importorskip("transformers", reason="needs transformers")
    with pytest.raises(InputError, match="lr_mult"):
        hf_run(tmp_path, wt.bridge.FollowTrainer(), torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]))


# Lightning


def lightning_run(folder, callback, monkeypatch):
    """The plain decoder of the tests of adopt() as a LightningModule."""
    pl = pytest.importorskip("lightning.pytorch", reason="needs lightning: pip install lightning")
    monkeypatch.chdir(folder)

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.scales, self.model = adopted(AdamW(lr=1e-2)), Plain(TARGET)
            self.scales.initialize(self.model, seed=0)
            self.scales.attach(self.model)

        def training_step(self, batch, _):
            (ids,) = batch
            return F.cross_entropy(self.model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

        def validation_step(self, batch, index):
            self.log("val_loss", self.training_step(batch, index))

        def configure_optimizers(self):
            optimizer = TorchOptimizer(AdamW(lr=1e-2), self.model, self.scales)
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)]

    module = Module()
    callback.scales = module.scales
    ids = torch.randint(32, (8, 12), generator=torch.Generator().manual_seed(0))
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(ids), batch_size=4)
    trainer = pl.Trainer(
        max_steps=STEPS, accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, check_val_every_n_epoch=5,
    )  # fmt: skip
    trainer.fit(module, batches, batches)
    return trainer


@pytest.mark.filterwarnings("ignore:::lightning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("metric, rows", [(None, STEPS), ("val_loss", STEPS // 10)])
def test_a_lightning_run_is_recorded_with_its_losses(metric, rows, tmp_path, monkeypatch):
    pytest.importorskip("lightning", reason="needs lightning: pip install lightning")
    store = wt.Store(tmp_path / "store")
    callback = wt.bridge.FollowLightning(metric=metric, store=store, tokens_per_step=48)
    trainer = lightning_run(tmp_path, callback, monkeypatch)
    (run,) = foreign_runs(store)
    assert len(run.curve) == rows and run.curve[-1] < run.curve[0]
    assert run.loss == pytest.approx(float(trainer.callback_metrics["val_loss"]))
    assert run.numbers["tokens"] == 48 * STEPS and run.provenance["tool"].startswith("lightning ")
    assert run.numbers["params"] == sum(p.numel() for p in Plain(TARGET).parameters())


@pytest.mark.filterwarnings("ignore:::lightning", "ignore::UserWarning", "ignore::FutureWarning")
def test_a_lightning_run_that_will_miss_its_forecast_is_warned_of_and_stopped(tmp_path, monkeypatch, caplog):
    pytest.importorskip("lightning", reason="needs lightning: pip install lightning")
    callback = wt.bridge.FollowLightning(forecast=forecast(3.4), stop=True)
    with caplog.at_level(logging.WARNING, "windtunnel"):
        trainer = lightning_run(tmp_path, callback, monkeypatch)
    assert "heading for" in caplog.text and trainer.global_step < STEPS and callback.run is None


def endless(folder, callback, monkeypatch, **length):
    """A Trainer on an IterableDataset, which has no length: thirty batches an epoch."""
    pl = pytest.importorskip("lightning.pytorch", reason="needs lightning: pip install lightning")
    monkeypatch.chdir(folder)

    class Batches(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(torch.randn(30, 4, generator=torch.Generator().manual_seed(0)))

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch, _):
            return (self.layer(batch) ** 2).mean() + 1

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 1e-2)

    trainer = pl.Trainer(
        **length, accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(), torch.utils.data.DataLoader(Batches(), batch_size=1))


@pytest.mark.filterwarnings("ignore:::lightning", "ignore::UserWarning", "ignore::FutureWarning")
def test_a_lightning_run_of_unknown_length_is_asked_for_it_and_followed_with_it(tmp_path, monkeypatch, caplog):
    pytest.importorskip("lightning", reason="needs lightning: pip install lightning")
    for length in ({"max_epochs": 2}, {"max_epochs": -1, "max_time": "00:00:00:30"}):
        with pytest.raises(InputError, match=r"Trainer\(max_steps=\.\.\.\) or FollowLightning\(horizon="):
            endless(tmp_path, wt.bridge.FollowLightning(), monkeypatch, **length)
    callback = wt.bridge.FollowLightning(horizon=60)
    endless(tmp_path, callback, monkeypatch, max_epochs=2)
    assert callback.run is not None and len(callback.run.curve) == 60
    assert callback.run.numbers["steps"] == 60
    short = wt.bridge.FollowLightning(horizon=90, name="short")
    with caplog.at_level(logging.WARNING, "windtunnel"):
        endless(tmp_path, short, monkeypatch, max_epochs=2)
    assert short.run is None and "short ended at step 60 of its horizon of 90; it is not recorded" in caplog.text
