"""The errors tinyhd raises on purpose.

Every message is one sentence for the person at the keyboard: what was wrong and what to do. The command
line prints it as it is; anything that is not a `TinyHDError` is a bug.
"""


class TinyHDError(Exception):
    """Base of all errors that tinyhd raises on purpose."""


class InputError(TinyHDError):
    """An input cannot be used: missing, no video in it, unreadable, or refused for safety."""


class OutputError(TinyHDError):
    """An output cannot be written."""


class WeightsError(TinyHDError):
    """Model weights cannot be found, fetched, verified or loaded."""


class OptionError(TinyHDError, ValueError):
    """An option or argument has a value that is not allowed."""
