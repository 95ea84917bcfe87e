"""The one exception that means "the input is wrong, and here is what to do", and the one that means "asked to leave".

Raise `InputError` for a user's mistake: it names what was given, what is needed and the remedy, and the command line
turns it into one message and exit code 2. `Stopped` is nobody's mistake: the machine is wanted back, what was in flight
is checkpointed, exit code 143. Any other exception that reaches the command line is our bug (exit code 1).
"""


class InputError(ValueError):
    """A user's input cannot be used; the message says what was given, what is needed and what to do."""


class Stopped(Exception):
    """This process was asked to leave (SIGTERM) and does so, after a checkpoint of what it was training."""
