"""The one exception that means "the input is wrong, and here is what to do".

Raise `InputError` for a user's mistake: it names what was given, what is needed and the remedy, and the command line
turns it into one message and exit code 2. Any other exception that reaches the command line is our bug (exit code 1).
"""


class InputError(ValueError):
    """A user's input cannot be used; the message says what was given, what is needed and what to do."""
