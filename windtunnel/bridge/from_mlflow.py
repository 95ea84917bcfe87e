"""Runs of an MLflow server or its SQLite file as foreign runs of a store, one metric's history as their curve.

The runs go through `read_runs` as an export of MLflow does, so that columns, units, unfinished runs and doubts are
treated as there. A newcomer would keep the URI as it is: a server's may hold a password, which no record shall.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from mlflow import MlflowClient, __version__

from windtunnel.bridge.foreign import ForeignRun, brought
from windtunnel.bridge.tracked import observed
from windtunnel.errors import InputError
from windtunnel.store import Store

AT_ONCE = 1000  # runs that MLflow gives in one answer


def bring_mlflow(
    store: Store, uri: str, experiment: str, columns: Mapping[str, str] | str | None = None, *, curve: str | None = None
) -> list[ForeignRun]:
    """Keep the finished runs of an MLflow experiment that have the loss in the store; returns them all.

    `uri` as "sqlite:///mlruns.db"; `columns` maps our names to MLflow's: "loss=metrics.val_loss,params=params.n".
    `curve` names the metric whose history is kept. Raises InputError.
    """
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        names = ", ".join(each.name for each in client.search_experiments(max_results=20))
        raise InputError(f"{_bare(uri)} has no experiment {experiment!r}; it has {names}.")
    runs = _runs(client, found.experiment_id)
    if not runs:
        raise InputError(f"The experiment {experiment!r} of {_bare(uri)} has no runs.")
    rows = {run.info.run_id: _row(run) for run in runs}
    read = observed(rows, columns, where=f"{experiment} of {_bare(uri)}", export="mlflow.jsonl")
    provenance = {"tool": f"mlflow {__version__}", "uri": _bare(uri), "experiment": experiment}
    keys = [] if curve is None or read.key is None else [str(key) for key in read.key]
    return brought(store, read, provenance, {key: _history(client, key, curve or "") for key in keys})


def _runs(client: MlflowClient, experiment: str) -> list[Any]:
    runs, token = [], None
    while True:
        page = client.search_runs([experiment], max_results=AT_ONCE, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def _row(run: Any) -> dict[str, Any]:
    """One run in the names of MLflow's own export."""
    row = {"run_id": run.info.run_id, "status": run.info.status, "name": run.info.run_name}
    row |= {f"params.{name}": text for name, text in run.data.params.items()}
    return row | {f"metrics.{name}": value for name, value in run.data.metrics.items()}


def _history(client: MlflowClient, run: str, metric: str) -> tuple[Any, Any]:
    """Share of the horizon and value; a step that was written twice counts as it was written last."""
    points = {each.step: each.value for each in client.get_metric_history(run, metric)}
    steps = np.array(sorted(step for step in points if step > 0), float)
    return (steps / steps[-1], [points[int(step)] for step in steps]) if len(steps) else ((), ())


def _bare(uri: str) -> str:
    """The URI without user and password."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if parts.netloc else uri
