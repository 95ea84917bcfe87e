"""Execute packs as tasks of a Ray cluster: the one of RAY_ADDRESS, else one of this machine, started and stopped here.

Ray is spoken to by a process of its own (`ray_driver.py`). A newcomer would call `ray.init` right here; but when a
cluster's head dies Ray ends the process that is connected to it, and it logs to whatever terminal it finds. So the
study's process only reads events from a pipe, and outlives the cluster to say in one sentence what happened.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from windtunnel.errors import InputError
from windtunnel.launch.deaths import lost, not_connected
from windtunnel.launch.errand import errands, refused, shared_folder, untold
from windtunnel.launch.here import _close, _send
from windtunnel.launch.leave import stopped_by_sigterm
from windtunnel.launch.one import Report, sweep
from windtunnel.launch.width import most_rows
from windtunnel.store import Store
from windtunnel.train.loop import Progress
from windtunnel.train.memory import process_bytes
from windtunnel.train.pack import Pack

LEAVE_SECONDS = 20.0  # for Ray to stop a cluster of its own (measured: 1 to 2 s on an idle machine)


class Ray:
    """A Ray cluster, all of whose nodes share the store's folder.

    `devices` is the number of packs trained at once (None: as many as the cluster has room for) and `address` that of a
    cluster that runs (None: RAY_ADDRESS; without it a cluster on this machine). Each call connects and disconnects;
    inside `with` the connection, and a cluster of our own, last until its end.
    """

    def __init__(self, *, devices: int | None = None, address: str | None = None) -> None:
        self.devices, self.address = devices, address
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = ""  # of the files of a cluster of our own
        self._kept = self._connected = False
        self._gpus: int | None = None  # of the cluster, once it said so

    def __enter__(self) -> Ray:
        self._kept = True
        return self

    def __exit__(self, *error: object) -> None:
        self._kept = False
        self._leave()

    def __call__(
        self,
        packs: Sequence[Pack],
        store: Store,
        report: Report | None = None,
        finished: Callable[[Pack], None] | None = None,
    ) -> None:
        """Train and record all packs; `report` hears of steps and `finished` of packs, in this process.

        Raises InputError if Ray is not installed, no cluster answers, the cluster is lost, or a pack kills its workers.
        """
        check_installed("ray", "ray")
        sweep(store)
        if packs:
            self._ask(packs, store, report, finished)

    def pack_rows(self, asked: int, store: Store, params: int) -> int:
        """Most rows of a pack, of so many of one shape that are asked; the cluster says whether it has GPUs.

        Raises InputError if Ray is not installed or no cluster answers.
        """
        check_installed("ray", "ray")
        if self._gpus is None:
            self._ask((), store, None, None)
        return most_rows(asked, min(self._gpus or 0, self.devices or sys.maxsize))

    def _ask(self, packs: Sequence[Pack], store: Store, report: Any, finished: Any) -> None:
        try:
            with stopped_by_sigterm():
                self._train(packs, store, report, finished)
        except BaseException:  # what runs is then cancelled with the connection
            self._leave()
            raise
        if not self._kept:
            self._leave()

    def _train(self, packs: Sequence[Pack], store: Store, report: Any, finished: Any) -> None:
        log, left = shared_folder(store) / "logs" / "ray.log", {pack.key: pack for pack in packs}
        if self._process is None:
            self._folder, self._connected = tempfile.mkdtemp(prefix="wt-ray-"), False
            self._process = _driver(log, self._address(), self._folder)
        with suppress(BrokenPipeError):  # it died: following it says so
            _send(self._process.stdin, self._asked(packs, store))  # type: ignore[arg-type]
        for event in self._events(log):
            if "gpus" in event:
                self._gpus = event["gpus"]
            elif "progress" in event and report is not None:
                report(Progress(**event["progress"]))
            elif "finished" in event:
                pack = left.pop(event["finished"])
                untold(store.path, pack.key)
                if finished is not None:
                    finished(pack)
            if not left:
                return

    def _events(self, log: Path) -> Iterator[dict[str, Any]]:
        """What the driver says; raises what stopped it."""
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            if (refusal := refused(event)) is not None:
                raise refusal
            if "error" in event:
                raise RuntimeError(event["error"])
            self._connected |= "gpus" in event
            yield event
        # Ray ends a process whose cluster is gone, whatever it is doing
        raise InputError(lost(log) if self._connected else not_connected(self._address(), f"its words are in {log}"))

    def _address(self) -> str | None:
        return self.address or os.environ.get("RAY_ADDRESS") or None

    def _leave(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            _dismiss(process)
            shutil.rmtree(self._folder, ignore_errors=True)  # the driver does so too, unless it was killed

    def _asked(self, packs: Sequence[Pack], store: Store) -> dict[str, Any]:
        return {
            "address": self._address(),
            "devices": self.devices,
            "path": sys.path,
            "store": str(shared_folder(store)),
            "errands": [
                {
                    "key": pack.key,
                    "says": f"{len(pack.specs)} runs at {pack.rung}",
                    "memory": process_bytes(pack),
                    "sent": sent,
                }
                for pack, sent in zip(packs, errands(packs, store), strict=True)
            ],
        }


def check_installed(module: str, extra: str) -> None:
    """Raise InputError with the line that installs a library, where it is missing."""
    if importlib.util.find_spec(module) is None:
        raise InputError(f"--on {extra} needs {module}, which is not installed: pip install 'windtunnel[{extra}]'")


def _driver(log: Path, address: str | None, folder: str) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a task without a GPU sees none; said so that Ray need not warn
        "RAY_gcs_rpc_server_reconnect_timeout_s": "15",  # a lost head is noticed after this, not after a minute
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with open(log, "wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "windtunnel.launch.ray_driver", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            start_new_session=True,  # a ctrl-C reaches this process only, which stops the driver itself
            env=os.environ | environment | _token(address),
        )


def _token(address: str | None) -> dict[str, str]:
    """Ray's ports listen on all interfaces, so a cluster of our own asks for a token that only its processes know.

    A driver sends the token of a running cluster only if told to, though the cluster may refuse it without.
    """
    if address is None:
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    known = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys() or (Path.home() / ".ray/auth_token").exists()
    return {"RAY_AUTH_MODE": "token"} if known and "RAY_AUTH_MODE" not in os.environ else {}


def _dismiss(process: subprocess.Popen[bytes]) -> None:
    """Close the driver's pipe, which makes it cancel its tasks and leave; kill it if it does not."""
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()
    try:
        process.wait(LEAVE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _close(process)
