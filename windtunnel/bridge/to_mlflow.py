"""Runs and forecasts as MLflow runs, found again by the tag `windtunnel.key`; any tracking URI, a SQLite file included.

A newcomer would call mlflow.start_run, which changes the user's own active run; a client of its own touches nothing.
"""

from __future__ import annotations

import re
import time

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from windtunnel.bridge.mirror import Page

KEY = "windtunnel.key"
BATCH, FEW = 1000, 100  # metrics, and parameters or tags, that MLflow takes at once
_FORBIDDEN = re.compile(r"[^A-Za-z0-9_\-. /]")


class ToMLflow:
    """A tracker for `Mirror`: `uri` as "sqlite:///mlruns.db" or a server's; a missing `experiment` is made."""

    def __init__(self, uri: str, experiment: str = "windtunnel") -> None:
        self.client = MlflowClient(tracking_uri=uri)
        found = self.client.get_experiment_by_name(experiment)
        self.experiment = found.experiment_id if found else self.client.create_experiment(experiment)

    def has(self, key: str) -> bool:
        """Whether a finished MLflow run has this key."""
        asked = f"tags.`{KEY}` = '{key}' and attributes.status = 'FINISHED'"
        return bool(self.client.search_runs([self.experiment], asked, max_results=1))

    def write(self, page: Page) -> None:
        """One MLflow run; it is marked finished when all of it is there."""
        begun = self.client.create_run(self.experiment, run_name=page.name, tags={KEY: page.key, "kind": page.kind})
        run, now = begun.info.run_id, int(time.time() * 1000)
        facts = [Param(_named(name), str(value)) for name, value in page.facts.items()]
        metrics = [Metric(_named(name), value, now, 0) for name, value in page.results.items()]
        for name, (steps, values) in page.curves.items():
            rows = zip(steps.tolist(), values.tolist(), strict=True)
            metrics += [Metric(_named(name), value, now, int(step)) for step, value in rows]
        for start in range(0, len(facts), FEW):
            self.client.log_batch(run, params=facts[start : start + FEW])
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run, metrics=metrics[start : start + BATCH])
        self.client.log_batch(run, tags=[RunTag("windtunnel.outcome", str(page.full.get("outcome", "")))])
        self.client.set_terminated(run, "FINISHED")


def _named(name: str) -> str:
    """A name that MLflow takes: others' characters become underscores."""
    return _FORBIDDEN.sub("_", name)[:200].strip("/. ") or "_"
