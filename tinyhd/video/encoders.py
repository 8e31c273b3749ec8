"""Video encoders: which there are, and what they are given."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import av
from av.video.codeccontext import VideoCodecContext

from tinyhd.errors import OptionError

log = logging.getLogger("tinyhd.video")


CODECS = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1", "vp9": "libvpx-vp9"}
"""What `--codec` names, and the encoder that is used for it."""


_NVENC = {"h264": "h264_nvenc", "hevc": "hevc_nvenc", "av1": "av1_nvenc"}


# What an encoder is given where nothing is asked for: near-transparent quality, quickly.
_DEFAULTS: dict[str, dict[str, str]] = {
    "libx264": {"crf": "20", "preset": "veryfast"},
    "libx265": {"crf": "24", "preset": "veryfast", "x265-params": "log-level=error"},
    "libsvtav1": {"crf": "30", "preset": "10"},
    "libvpx-vp9": {"crf": "30", "b": "0", "deadline": "good", "cpu-used": "5", "row-mt": "1"},
}


_X26X_PRESETS = "ultrafast superfast veryfast faster fast medium slow slower veryslow placebo".split()  # noqa: SIM905


_PRESETS = {"libx264": _X26X_PRESETS, "libx265": _X26X_PRESETS}  # these two do not list theirs


@dataclass(frozen=True)
class EncoderSettings:
    """Which encoder, and how good.

    Raises:
        OptionError: no such encoder, or it has no such setting.
    """

    codec: str = "h264"
    """h264, hevc, av1 or vp9; not used where `encoder` names one."""
    encoder: str | None = None
    """Any video encoder of FFmpeg, such as h264_nvenc; auto: NVENC for `codec` where it can be opened on this machine,
    otherwise the one of `CODECS`."""
    crf: float | None = None
    """Quality, lower is better; the scale is the encoder's own (cq for NVENC). None: a good one."""
    preset: str | None = None
    """The encoder's name for how much time it takes."""

    def __post_init__(self) -> None:
        if self.encoder in (None, "auto") and self.codec not in CODECS:
            raise OptionError(f"codec is {self.codec!r}; it must be one of {', '.join(CODECS)}.")
        if self.encoder == "auto":
            object.__setattr__(self, "encoder", _auto_encoder(self.codec))
        self.options()

    @property
    def name(self) -> str:
        """FFmpeg's name of the encoder."""
        return self.encoder or CODECS[self.codec]

    def options(self) -> dict[str, str]:
        """Options for FFmpeg."""
        known = {option.name: option for option in _new_context(self.name).supported_options.private}
        options = dict(_DEFAULTS.get(self.name, {}))
        if self.crf is not None:
            if "crf" in known:
                options["crf"] = str(self.crf)
            elif "cq" in known:  # NVENC
                options |= {"rc": "vbr", "cq": str(self.crf)}
            else:
                raise OptionError(f"the encoder {self.name} knows no --crf; leave it out.")
        if self.preset is not None:
            if "preset" not in known:
                raise OptionError(f"the encoder {self.name} knows no --preset; leave it out.")
            allowed = _PRESETS.get(self.name) or [choice.name for choice in known["preset"].choices]
            if allowed and self.preset not in allowed:
                raise OptionError(f"{self.name} has no preset {self.preset!r}; it must be one of {', '.join(allowed)}.")
            options["preset"] = self.preset
        return options


def _new_context(name: str) -> VideoCodecContext:
    try:
        context = av.CodecContext.create(name, "w")
    except ValueError as error:
        raise OptionError(f"there is no encoder {name!r}; `ffmpeg -encoders` lists what FFmpeg can have.") from error
    if not isinstance(context, VideoCodecContext):
        raise OptionError(f"{name!r} is no encoder for video.")
    return context


@lru_cache  # asked for every file; the log says it once
def _auto_encoder(codec: str) -> str:
    """NVENC for a codec, where it is there and works, otherwise the encoder of `CODECS`."""
    software, nvenc = CODECS[codec], _NVENC.get(codec)
    why_not = "there is no NVENC for it" if nvenc is None else _why_it_does_not_open(nvenc)
    if nvenc is not None and why_not is None:
        log.info("Encoding with %s.", nvenc)
        return nvenc
    log.info("Encoding with %s: %s.", software, why_not if nvenc is None else f"{nvenc} does not work here ({why_not})")
    return software


def _why_it_does_not_open(encoder: str) -> str | None:
    """Why an encoder cannot be opened for small pictures; None: it can. GPUs need not have it, whatever FFmpeg has."""
    with _ffmpeg_errors() as messages:
        try:
            context = _new_context(encoder)
            context.width = context.height = 256
            context.pix_fmt, context.time_base = "yuv420p", Fraction(1, 25)
            context.open()
        except (av.error.FFmpegError, ValueError, OSError, OptionError) as error:
            return _reason(error, messages)
    return None


def _reason(error: Exception, messages: list[tuple[int, str, str]]) -> str:
    """What FFmpeg said last, or else the error itself, without a full stop."""
    said = [text.strip() for _, _, text in messages]
    return (said[-1] if said else getattr(error, "strerror", None) or str(error)).rstrip(".")


@contextlib.contextmanager
def _ffmpeg_errors() -> Iterator[list[tuple[int, str, str]]]:
    """Collects what FFmpeg's libraries log as errors: (level, library, text)."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as messages:
            yield messages
    finally:
        av.logging.set_level(level)
