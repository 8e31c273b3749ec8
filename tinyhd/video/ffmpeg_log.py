"""What FFmpeg's libraries say about errors, besides the number that they return."""

import contextlib
from collections.abc import Iterator

import av

Messages = list[tuple[int, str, str]]
"""(level, library, text)."""


@contextlib.contextmanager
def collect_ffmpeg_errors(this_thread: bool = False) -> Iterator[Messages]:
    """Collects what is logged as errors, by all threads or the calling one."""
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # else what was said before is not said here
    try:
        with av.logging.Capture(local=this_thread) as messages:
            yield messages
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips)


def error_reason(error: Exception, messages: Messages) -> str:
    """What FFmpeg said last, or else the error itself, without a full stop."""
    said = [text.strip() for _, _, text in messages]
    return (said[-1] if said else getattr(error, "strerror", None) or str(error)).rstrip(".")
