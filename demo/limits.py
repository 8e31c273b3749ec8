"""What is taken, and what is said to people whose file is not."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tinyhd.errors import InputError, OptionError
from tinyhd.options import EncoderOptions
from tinyhd.video.frame import VideoInfo

MEGABYTE = 2**20


@dataclass(frozen=True)
class Limits:
    """The largest file that is taken."""

    megabytes: int = 200
    seconds: float = 60.0
    pixels: int = 4096 * 2304
    """Of a frame: 4K, as cameras and screens have it."""
    frame_rate: int = 60
    """More frames a second than this are taken as long as there are no more of them than `seconds` would give."""

    bits_per_second: int = 20_000_000
    """Of a video that is encoded anew."""
    crf: tuple[float, float] = (15, 45)
    """Its best and worst quality."""

    @property
    def frames(self) -> int:
        """The most frames."""
        return round(self.seconds * self.frame_rate)

    def sentence(self) -> str:
        """What the page says."""
        return f"Up to {self.seconds:g} seconds, {self.megabytes} MB and 4K."

    def check_size(self, path: str | os.PathLike[str]) -> None:
        """Raises `InputError` for a file that is too large."""
        size = Path(path).stat().st_size
        if size > self.megabytes * MEGABYTE:
            raise InputError(
                f"The file has {size / MEGABYTE:.0f} MB, more than the {self.megabytes} MB that are taken here: "
                "cut the video shorter or compress it more."
            )

    def check_rate(self, encoder: EncoderOptions) -> None:
        """Raises `OptionError` for what would make files too large."""
        if (encoder.bits_per_second or 0) > self.bits_per_second:
            most = f"{self.bits_per_second / 1e6:g}M"
            raise OptionError(f"A bit rate of {encoder.bitrate} is more than is made here: up to {most} can be had.")
        low, high = self.crf
        if encoder.crf is not None and not low <= encoder.crf <= high:
            raise OptionError(f"crf is {encoder.crf:g}; it must be {low:g} to {high:g} here.")

    def check_video(self, info: VideoInfo, end: float | None = None) -> None:
        """Raises `InputError` for what the header says: frames too large; `TooLongError` unless there is an `end`."""
        if info.width * info.height > self.pixels:
            raise InputError(
                f"The picture has {info.width}x{info.height} pixels, which is too large here: scale it to 4K or less."
            )
        if end is not None:
            return
        if info.duration_seconds is not None and info.duration_seconds > self.seconds:
            raise self._too_long(f"is {info.duration_seconds:.0f} seconds long", info)
        if info.frame_count is not None:
            self.check_frames(info.frame_count, info)

    def check_frames(self, count: int, info: VideoInfo) -> None:
        """Raises `TooLongError` for too many frames, whatever the header said."""
        if count > self.frames:
            raise self._too_long(f"has more than {self.frames} frames", info)

    def _too_long(self, what: str, info: VideoInfo) -> "TooLongError":
        rate = float(info.frame_rate or self.frame_rate)
        error = TooLongError(f"The video {what}; up to {self.seconds:g} seconds are taken here: cut it shorter.")
        error.seconds = min(self.seconds, max(1.0, self.frames / rate // 1))
        return error


class TooLongError(InputError):
    """A video that is longer than what is taken.

    Attributes:
        seconds: how much of it could be taken.
    """

    seconds = 0.0


# Quoted as repr() does it, with folders in front of the name: '/tmp/x/clip.mp4', "C:\\it's\\clip.mp4"
_QUOTED_PATH = re.compile(r"""'[^']*[/\\]([^'/\\]*)'|"[^"]*[/\\]([^"/\\]*)\"""")
_BARE_PATH = re.compile(r"(?<![\w/])/(?:[^\s/'\"]+/)+([^\s/'\"]*)")


def public_sentence(error: Exception) -> str:
    """An error's sentence as anybody may read it: files by their names, no folders."""
    text = _BARE_PATH.sub(r"\1", _QUOTED_PATH.sub(lambda m: repr(m[1] or m[2] or ""), str(error)))
    return text[:1].upper() + text[1:]
