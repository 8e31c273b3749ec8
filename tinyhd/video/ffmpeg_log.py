"""What FFmpeg's libraries say about errors, besides the number that they return."""

import contextlib
from collections.abc import Iterator

import av

Messages = list[tuple[int, str, str]]
"""(level, library, text)."""


@contextlib.contextmanager
def collect_ffmpeg_errors(this_thread: bool = False) -> Iterator[Messages]:
    """Collects what is logged as errors, by all threads or the calling one."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture(local=this_thread) as messages:
            yield messages
    finally:
        av.logging.set_level(level)


def error_reason(error: Exception, messages: Messages) -> str:
    """What FFmpeg said last, or else the error itself, without a full stop."""
    said = [text.strip() for _, _, text in messages]
    return (said[-1] if said else getattr(error, "strerror", None) or str(error)).rstrip(".")
