"""The exceptions a user meets: the input is wrong (and what to do), the study pauses, this process was asked to leave.

Raise `InputError` for a user's mistake: it names what was given, what is needed and the remedy, and the command line
turns it into one message and exit code 2. `Paused` is nobody's mistake: the disk is full or the budget is spent, exit code
4. `Stopped` neither: the machine is wanted back, what was in flight is checkpointed, exit code 143. Any other exception that reaches the command line is our bug (exit code 1).
"""


class InputError(ValueError):
    """A user's input cannot be used; the message says what was given, what is needed and what to do."""


class Paused(InputError):
    """The study stops before it is done, and the same command goes on once there is room, or a larger budget."""


class Stopped(Exception):
    """This process was asked to leave (SIGTERM) and does so, after a checkpoint of what it was training."""
