"""The exceptions a user meets: the input is wrong (and what to do), the study pauses, this process was asked to leave.

Raise `InputError` for a user's mistake: it names what was given, what is needed and the remedy, and the command line
turns it into one message and exit code 2. `Paused` is nobody's mistake: the disk is full or the budget is spent, exit
code 4. `Stopped` neither: the machine is wanted back, what was in flight is checkpointed, exit code 143. Any other
exception that reaches the command line is our bug (exit code 1).
"""

import re
from collections.abc import Iterable

# C0 and C1 control characters but tab and newline, and the marks that reverse the order of writing
_STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class InputError(ValueError):
    """A user's input cannot be used; the message says what was given, what is needed and what to do."""


class Paused(InputError):
    """The study stops before it is done, and the same command goes on once there is room, or a larger budget."""


class Stopped(Exception):
    """This process was asked to leave (SIGTERM) and does so, after a checkpoint of what it was training."""


def printable(text: object) -> str:
    """The text with what could steer a terminal, or turn its order of writing, replaced: names are from outside."""
    return _STEERS.sub("\N{REPLACEMENT CHARACTER}", str(text))


def meant(given: str, known: Iterable[str]) -> str:
    """` Did you mean X?` with the known name that is nearest to the given one; nothing where none is near."""
    from difflib import get_close_matches  # only when something is wrong

    by_plain: dict[str, list[str]] = {}
    for name in known:
        by_plain.setdefault(_plain(name), []).append(name)
    close = get_close_matches(_plain(given), by_plain, 1, 0.5)
    if not close:
        return ""
    return f" Did you mean {max(by_plain[close[0]], key=lambda name: name[:1] == given[:1])}?"


def _plain(name: str) -> str:
    return name.lower().lstrip("-").replace("-", "_")
