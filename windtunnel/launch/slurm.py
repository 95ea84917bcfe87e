"""Execute packs as jobs of a SLURM cluster, through submitit: one array, one job a pack.

The study's process waits on the login node and reads how far packs are from the shared store. Jobs outlive it: when it
is killed they go on, and the same command joins them instead of asking for them again. A newcomer would worry about the
time limit: a job that reaches it is checkpointed and requeued under its id, so it may be shorter than a pack takes.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from windtunnel.errors import InputError, Stopped
from windtunnel.launch.deaths import Deaths, gave_up
from windtunnel.launch.errand import Heard, errands, refused, shared_folder, told, untold
from windtunnel.launch.here import Here, default_devices
from windtunnel.launch.leave import stopped_by_sigterm
from windtunnel.launch.one import Report, sweep
from windtunnel.launch.ray import check_installed
from windtunnel.launch.slurm_job import Job
from windtunnel.launch.width import most_rows
from windtunnel.store import Store
from windtunnel.train.loop import Progress
from windtunnel.train.memory import process_bytes
from windtunnel.train.pack import Pack

POLL_SECONDS = 0.5
ASK_SLURM_SECONDS = 60.0  # between two questions to its accounting, which many share (submitit's own: 600)
LEAVE_SECONDS = (
    60.0  # for a job of this machine that is cancelled (measured: 1 to 2 s, more than 20 where ten share a core)
)
MINUTES = 60  # of a job, unless `time` says otherwise; a pack that takes longer is requeued
REQUEUES = 1000  # submitit's own limit is 3, but a pack of many hours on a short partition needs many
ALIVE = ("PENDING", "RUNNING", "REQUEUED", "CONFIGURING", "COMPLETING", "SUSPENDED", "RESIZING", "REQUEUE_HOLD")
# submitit's names that hold on every cluster it knows; other settings are sbatch's own words.
GENERIC = ("timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node")


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """A SLURM cluster whose nodes share the store's folder and this Python.

    `devices` is the number of jobs that run at once (None: as many as the queue allows). `settings` are sbatch's words,
    as partition, account, time (minutes), gpus_per_node. One is ours: cluster="local" runs the jobs on this machine.
    """

    devices: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    def __call__(
        self,
        packs: Sequence[Pack],
        store: Store,
        report: Report | None = None,
        finished: Callable[[Pack], None] | None = None,
    ) -> None:
        """Train and record all packs; `report` hears of steps and `finished` of packs, in this process.

        Raises InputError if submitit or SLURM is missing, a setting is unknown, or a pack kills its jobs; Stopped on
        SIGTERM, when the jobs go on. Ctrl-C cancels them.
        """
        check_installed("submitit", "slurm")
        cluster = self._cluster()
        sweep(store)
        if not packs:
            return
        jobs = _Jobs(self._executor(packs, store, cluster), packs, store, self._at_once(cluster))
        try:
            with stopped_by_sigterm():
                jobs.train(report, finished)
        except BaseException as error:
            if cluster != "slurm" or not isinstance(error, Stopped):
                jobs.cancel()
            raise

    def pack_rows(self, asked: int, store: Store, params: int) -> int:
        """Most rows of a pack, of so many of one shape that are asked: wide ones where the jobs ask for GPUs."""
        if self.settings.get("cluster") == "local":
            return Here(devices=self.devices).pack_rows(asked, store, params)
        on_gpu = any("gpu" in word for setting in self.settings.items() for word in setting)
        return most_rows(asked, (self.devices or 1) if on_gpu else 0)

    def _cluster(self) -> str:
        cluster = self.settings.get("cluster", "slurm")
        if cluster == "slurm" and shutil.which("srun") is None:
            raise InputError(
                "There is no SLURM here: `srun` was not found. Run this where sbatch works, as on a login node, or try "
                "it on this machine with --slurm cluster=local."
            )
        if cluster not in ("slurm", "local"):
            raise InputError(f"--slurm cluster={cluster}: it is slurm (the default) or local.")
        return cluster

    def _at_once(self, cluster: str) -> int | None:
        return None if cluster == "slurm" else self.devices or default_devices()

    def _executor(self, packs: Sequence[Pack], store: Store, cluster: str) -> Any:
        import submitit

        folder = shared_folder(store) / "logs" / "slurm"
        limits = {f"{cluster}_max_num_timeout": REQUEUES}
        executor = submitit.AutoExecutor(folder=folder / "%j", cluster=cluster, **limits)
        asked: dict[str, Any] = {
            "name": "windtunnel",
            "timeout_min": MINUTES,
            "cpus_per_task": 1,
            "mem_gb": math.ceil(max(process_bytes(pack) for pack in packs) / 2**30),
        }
        if self.devices is not None:
            asked["slurm_array_parallelism"] = self.devices
        try:
            executor.update_parameters(**asked | _worded(self.settings))
        except (NameError, ValueError, TypeError, AssertionError) as error:
            raise InputError(f"--slurm: {' '.join(str(error).split())}") from error
        return executor


class _Jobs:
    """The packs of one launch: waiting, submitted, done."""

    def __init__(self, executor: Any, packs: Sequence[Pack], store: Store, at_once: int | None) -> None:
        self.executor, self.store, self.at_once = executor, store, at_once
        self.folder = shared_folder(store) / "logs" / "slurm"
        for name in ("answers", "jobs"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.deaths, self.asked_slurm = Deaths(store.path), time.monotonic()
        self.sent = {sent["key"]: sent for sent in errands(packs, store)}
        self.running = self._joined(packs)
        self.waiting = deque(pack for pack in packs if pack.key not in self.running)
        self.heard = Heard()

    def train(self, report: Report | None, finished: Callable[[Pack], None] | None) -> None:
        """Submit and wait until every pack is recorded; raise what stopped one."""
        while self.waiting or self.running:
            self._submit()
            time.sleep(POLL_SECONDS)
            force = time.monotonic() - self.asked_slurm > ASK_SLURM_SECONDS
            if force:
                self.asked_slurm = time.monotonic()
            for key, (pack, job) in list(self.running.items()):
                if self._recorded(pack, job):
                    self._end(key)
                    untold(self.store.path, key)
                    if finished is not None:
                        finished(pack)
                elif job.done(force_check=force):
                    self._settle(pack)
                else:
                    self._report(key, report)

    def cancel(self) -> None:
        """Cancel what was submitted."""
        for _, job in self.running.values():
            with suppress(Exception):  # it may have ended; whatever remains only trains what is wanted anyway
                job.cancel(check=False)
        deadline = time.monotonic() + LEAVE_SECONDS
        while self.at_once is not None and time.monotonic() < deadline and not self._all_done():
            time.sleep(POLL_SECONDS)  # processes of this machine must not outlive their study
        for key in list(self.running):
            self._end(key)

    def _all_done(self) -> bool:
        return all(job.done() for _, job in self.running.values())

    def _recorded(self, pack: Pack, job: Any) -> bool:
        """Whether a pack is done; a job of this machine must have ended too, SLURM's may take its time."""
        return all(spec.key in self.store for spec in pack.specs) and (self.at_once is None or job.done())

    def _joined(self, packs: Sequence[Pack]) -> dict[str, tuple[Pack, Any]]:
        """Packs whose job of an earlier call is still in the queue or running."""
        found = {}
        for pack in packs:
            with suppress(OSError, ValueError, KeyError, TypeError):
                number = str(json.loads(self._note(pack.key).read_text("utf-8"))["job"])
                job = self.executor._executor.job_class(folder=self.folder / "%j", job_id=number)
                if job.state.split(" ")[0] in ALIVE:
                    found[pack.key] = (pack, job)
        return found

    def _submit(self) -> None:
        room = len(self.waiting) if self.at_once is None else self.at_once - len(self.running)
        packs = [self.waiting.popleft() for _ in range(min(room, len(self.waiting)))]
        if not packs:
            return
        with self.executor.batch():  # one array
            jobs = [self.executor.submit(self._job(pack)) for pack in packs]
        for pack, job in zip(packs, jobs, strict=True):
            self.running[pack.key] = (pack, job)
            self._note(pack.key).write_text(json.dumps({"job": job.job_id}), "utf-8")

    def _job(self, pack: Pack) -> Job:
        self._answer(pack.key).unlink(missing_ok=True)
        return Job(sys.path, self.sent[pack.key], str(self._answer(pack.key)))

    def _settle(self, pack: Pack) -> None:
        """A job that ended though its pack is not recorded: what it says of it, or another job."""
        answer = _read(self._answer(pack.key))
        log = self.running[pack.key][1].paths.folder
        self._end(pack.key)
        if (refusal := refused(answer)) is not None:
            raise refusal
        if "error" in answer:
            raise RuntimeError(answer["error"])
        if not self.deaths.again(pack.key):
            raise InputError(gave_up(f"{len(pack.specs)} runs at {pack.rung}", f"what they said is in {log}"))
        self.waiting.appendleft(pack)

    def _end(self, key: str) -> None:
        del self.running[key]
        self._note(key).unlink(missing_ok=True)
        self._answer(key).unlink(missing_ok=True)

    def _report(self, key: str, report: Report | None) -> None:
        news = self.heard.news(key, told(self.store.path, key))
        if report is not None and news is not None:
            report(Progress(**news))

    def _note(self, key: str) -> Path:
        return self.folder / "jobs" / f"{key}.json"

    def _answer(self, key: str) -> Path:
        return self.folder / "answers" / f"{key}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def _worded(settings: Mapping[str, str]) -> dict[str, Any]:
    """Settings in submitit's names; whole numbers are numbers. Raises InputError for what would not be one pack."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        name = {"time": "timeout_min", "mem": "mem_gb"}.get(name, name)
        if name in ("nodes", "ntasks_per_node", "tasks_per_node"):
            raise InputError(f"--slurm {name}={value}: a pack is one process on one node; leave it out.")
        if name in GENERIC and not value.isdigit():
            raise InputError(f"--slurm {name}={value}: give a whole number (time in minutes, mem in GB).")
        number: Any = int(value) if value.isdigit() else value
        if name != "cluster":
            found[name if name in GENERIC else f"slurm_{name}"] = number
    return found
