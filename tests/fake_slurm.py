"""A stand-in for SLURM on one machine, as little as submitit needs: jobs, arrays, states, requeue under the same id.

It knows nothing of queues, limits or preemption; a test sends the signals that SLURM would. `install` puts the commands
into a folder for PATH; each calls this file with its own name. The folder $FAKE_SLURM holds a file for each task.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

COMMANDS = ("sbatch", "srun", "sacct", "scancel", "scontrol")


def install(folder: Path) -> None:
    """Write the commands into a folder."""
    for name in COMMANDS:
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
        (folder / name).chmod(0o755)


def sbatch(state: Path, script: str) -> None:
    (state / "submissions").open("a").write(f"{script}\n")
    job = str(os.getpid())  # another each time: submitit remembers, over tests, which jobs are done
    array = re.search(r"--array=0-(\d+)", Path(script).read_text())
    for name in [f"{job}_{index}" for index in range(int(array[1]) + 1)] if array else [job]:
        (state / name).touch()
        command = [sys.executable, __file__, "task", name, script]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.Popen(command, start_new_session=True, **quiet)
    print(f"Submitted batch job {job}")


def task(state: Path, name: str, script: str) -> None:
    file, (job, _, index) = state / name, name.partition("_")
    about = {"SLURM_JOB_ID": job, "SLURM_PROCID": "0"}
    about |= {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": index} if index else {}
    about |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"}
    while True:
        process = subprocess.Popen(["bash", script], env=os.environ | about)
        process.wait()
        if not (state / f"{name}.requeue").exists():
            break
        (state / f"{name}.requeue").rename(state / f"{name}.requeued")
    file.unlink(missing_ok=True)


def srun(state: Path, *words: str) -> None:
    """Become the command after the options, and leave its number where a test finds it."""
    command = list(words[words.index(sys.executable) :])
    index = os.environ.get("SLURM_ARRAY_TASK_ID")
    name = os.environ["SLURM_JOB_ID"] + (f"_{index}" if index else "")
    (state / f"{name}.pid").write_text(str(os.getpid()))
    log = os.open(state / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.execv(command[0], command)


def sacct(state: Path, *words: str) -> None:
    print("JobID|State|NodeList")
    for file in state.glob("*.pid"):
        print(f"{file.stem}|{'RUNNING' if (state / file.stem).exists() else 'COMPLETED'}|here")


def scancel(state: Path, *words: str) -> None:
    os.kill(int((state / f"{words[0]}.pid").read_text()), signal.SIGKILL)


def scontrol(state: Path, requeue: str, name: str) -> None:
    (state / f"{name}.requeue").touch()


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(os.environ["FAKE_SLURM"]), *sys.argv[2:])
