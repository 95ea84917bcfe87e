"""A torchrun of this machine that a command starts itself: what stops either stops both, and is said once.

Three kinds of process meet here. The command waits (`spawn`) and passes SIGTERM and ctrl-C on. torchrun (`main`) also
leaves when the command is gone. Its workers (`heard_of`) leave a word on what starting them again would not mend. A
newcomer would let all of them have the terminal's ctrl-C: torchrun, told twice, forgets its workers.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from windtunnel.errors import InputError, Stopped
from windtunnel.launch.errand import refusal, refused
from windtunnel.launch.leave import GRACE_SECONDS, stopped_by_sigterm
from windtunnel.places import FULL

RESTARTS = 3  # of all processes: a death, or memory that ran out, a few times
WORD = "WINDTUNNEL_TORCHRUN_WORD"  # names the file in which a worker says why starting again is of no use
LOOK_SECONDS = 0.1  # between two looks for that file: torchrun takes as long to see that a worker ended
DENIED = (*FULL, errno.EACCES, errno.EPERM, errno.EROFS)  # errors that are for the user to mend
LEAVE_SECONDS = GRACE_SECONDS + 15.0  # torchrun itself grants its workers 30 s, then kills them


class Again(InputError):
    """Starting all processes again goes on from here, otherwise than before."""


def spawn(command: Sequence[str], processes: int) -> None:
    """Run `python -m windtunnel <command>` in several processes under torchrun on this machine, and wait.

    Raises the InputError of one of them, Stopped on SIGTERM when all have left, and InputError where they ended
    otherwise than well; what they said stands on standard error.
    """
    with tempfile.TemporaryDirectory(prefix="windtunnel-torchrun-") as folder:
        word = Path(folder) / "word"
        with _started(command, processes, word) as process:
            try:
                with stopped_by_sigterm():
                    code = _ended(process, word)
            except BaseException as error:
                _say(word, {"stopped": True})
                _let_leave(process, signal.SIGTERM if isinstance(error, Stopped) else signal.SIGINT)
                raise
        said = _read(word)
    if (mistake := refused(said)) is not None:
        raise mistake
    if code == 128 + signal.SIGTERM:
        raise Stopped
    if code:
        raise InputError(
            f"torchrun ended with code {code}; the lines above say why. Finished runs and checkpoints are kept; run "
            f"again to go on."
        )


@contextmanager
def heard_of() -> Iterator[None]:
    """Inside, what ends a process that `spawn` started is told to the command; elsewhere nothing is changed."""
    if WORD not in os.environ:
        yield
        return
    word = Path(os.environ[WORD])
    try:
        yield
    except Again:
        raise
    except InputError as error:
        _say(word, refusal(error))
        raise SystemExit(2) from None
    except (Stopped, KeyboardInterrupt):
        raise SystemExit(1) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DENIED:
            _say(word, refusal(error))
        if word.exists():  # all are leaving, and this process may have lost the others in the middle of something
            raise SystemExit(1) from None
        raise


def main() -> None:
    """Be torchrun, until it is done, told to leave, or the command that started it is gone."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.run import main as torchrun

    logging.disable(logging.WARNING)  # it warns of each signal that it passes on
    threading.Thread(target=_leave_with_the_command, daemon=True).start()
    try:
        torchrun()
    except SignalException as error:
        sys.exit(128 + error.sigval)


def _leave_with_the_command() -> None:
    while os.read(0, 1):  # until the pipe closes; sys.stdin would be held when torchrun ends
        pass
    _say(Path(os.environ[WORD]), {"stopped": True})
    os.kill(os.getpid(), signal.SIGTERM)


def _started(command: Sequence[str], processes: int, word: Path) -> subprocess.Popen[bytes]:
    asked = ["--standalone", "--nproc-per-node", str(processes), "--max-restarts", str(RESTARTS)]
    return subprocess.Popen(
        [sys.executable, "-m", "windtunnel.launch.own_torchrun", *asked, "-m", "windtunnel", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # the answer is told once, by this process
        start_new_session=True,  # a ctrl-C reaches this process only, which passes it on
        env={"OMP_NUM_THREADS": "1"} | os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), WORD: str(word)},
    )


def _ended(process: subprocess.Popen[bytes], word: Path) -> int:
    """The code that torchrun ends with; after a word it is told to leave."""
    while (code := process.poll()) is None:
        if word.exists():
            _let_leave(process, signal.SIGTERM)
        time.sleep(LOOK_SECONDS)
    return code


def _let_leave(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    """Pass a signal on and wait; another one meanwhile changes nothing, for workers must not be left behind."""
    with _deaf():
        process.send_signal(how)
        with suppress(subprocess.TimeoutExpired):
            process.wait(LEAVE_SECONDS)
        process.kill()
        process.wait()


@contextmanager
def _deaf() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = {each: signal.signal(each, signal.SIG_IGN) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _say(word: Path, what: Mapping[str, Any]) -> None:
    """The first word stays, and is there whole or not at all."""
    own = word.with_name(f"{os.getpid()}")
    with suppress(OSError):  # said already, or the command is gone with its folder
        own.write_text(json.dumps(what), "utf-8")
        os.link(own, word)


def _read(word: Path) -> dict[str, Any]:
    try:
        return json.loads(word.read_text("utf-8"))
    except FileNotFoundError:
        return {}


if __name__ == "__main__":
    main()
