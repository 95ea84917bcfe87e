"""A run of ours is followed from its pack's checkpoints, then from its record, beside the forecast of its ladder."""

from __future__ import annotations

import json

import pytest
import tiny

import windtunnel as wt
from windtunnel.cli import main
from windtunnel.laws.reading.flight import in_flight
from windtunnel.train.loop import train


class Killed(Exception):
    """What ends the training in the middle."""


@pytest.fixture(scope="module")
def watched(corpus, tmp_path_factory):
    """A store with a trained ladder, its forecast, and a target that was killed at three quarters of its steps."""
    store = wt.Store(tmp_path_factory.mktemp("watched") / "store")
    recipe = tiny.recipe(corpus)
    shape = {"depth": 1, "tokens": tiny.TOKENS, "batch": tiny.BATCH}
    for width in (8, 12, 16, 24):
        rung = wt.Rung(width=width, **shape)
        for run in train(tiny.pack(recipe, [{"lr": 0.02}] * 2, rung=rung, base=tiny.RUNG), device=tiny.CPU):
            store.add(run)
    pack = tiny.pack(recipe, [{"lr": 0.02}], rung=wt.Rung(width=48, **shape), base=tiny.RUNG)
    fit = wt.fit(wt.Observations.from_runs(store.runs()))
    forecast = fit.forecast(wt.Target(params=pack.size().params, tokens=tiny.TOKENS))
    store.add_forecast(forecast.to_json())

    def report(progress):
        if progress.step >= 0.75 * progress.steps:
            raise Killed

    with pytest.raises(Killed):
        train(pack, device=tiny.CPU, folder=store.packs() / pack.key, report=report, checkpoint_seconds=0.0)
    return store, pack, forecast


def test_a_run_in_flight_is_set_beside_its_forecast(watched, capsys):
    store, pack, forecast = watched
    flight = in_flight(store.path / "packs", pack.specs[0].key)
    assert flight is not None and len(flight.train_loss) >= 0.6 * tiny.STEPS
    assert main(["score", forecast.key[:10], "--follow", "--once", "--store", str(store.path)]) in (0, 3)
    out, err = capsys.readouterr()
    share = 100 * len(flight.train_loss) / tiny.STEPS
    assert f"{share:.1f} %" in out and "P(inside)" in out and "no curves" not in err


def test_a_run_that_is_neither_recorded_nor_in_flight_is_explained_with_those_that_are(watched, capsys):
    store, pack, forecast = watched
    assert main(["score", forecast.key, "0" * 12, "--follow", "--store", str(store.path)]) == 2
    assert pack.specs[0].key[:12] in capsys.readouterr().err


def test_its_record_ends_the_watch_with_the_judged_loss(watched, capsys):
    store, pack, forecast = watched
    run = train(pack, device=tiny.CPU)[0]
    store.add(run)
    code = main(["score", forecast.key, run.key[:8], "--follow", "--store", str(store.path)])
    assert code == (0 if forecast.loss.holds(run.loss) else 3)
    assert f"done: final loss {run.loss:.4g}"[:20] in capsys.readouterr().out


def test_a_run_of_another_size_than_foretold_is_refused_as_without_follow(watched, capsys):
    store, _, forecast = watched
    small = min(store.runs(), key=lambda run: run.size.params)
    for flags in ([], ["--follow"]):
        assert main(["score", forecast.key, small.key, *flags, "--store", str(store.path)]) == 2
        assert "says nothing of this run" in capsys.readouterr().err


def test_a_store_without_a_run_in_flight_says_so_and_how_to_name_one(watched, tmp_path, capsys):
    _, _, forecast = watched
    store = wt.Store(tmp_path / "calm")
    stored = store.add_forecast(forecast.to_json())
    assert main(["score", stored["key"], "--follow", "--once", "--store", str(store.path)]) == 2
    err = capsys.readouterr().err
    assert "No run is in flight in" in err and "score FORECAST RUN --follow" in err


def test_a_log_finds_the_curves_of_its_ladder_in_a_store_behind_a_url(watched, tmp_path, capsys):
    pytest.importorskip("fsspec")
    store, _, forecast = watched
    file, log = tmp_path / "forecast.json", tmp_path / "log.csv"
    file.write_text(json.dumps(forecast.to_json()))
    log.write_text("tokens,loss\n" + "".join(f"{tiny.TOKENS * i // 20},{5 - i / 10}\n" for i in range(1, 11)))
    assert main(["score", str(file), "--follow", str(log), "--once", "--store", store.path.as_uri()]) in (0, 3)
    assert "no curves of smaller runs" not in capsys.readouterr().err
