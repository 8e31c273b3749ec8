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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python's or a library's means that there is no memory, or none for a further thread."""
    said = ("can't start new thread", "can't alloc", "bad_alloc", "failed to map segment", "Failed to create plugin")
    return isinstance(error, MemoryError | BlockingIOError) or any(text in str(error) for text in said)
