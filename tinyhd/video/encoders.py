"""Video encoders: which one `EncoderOptions` mean, and what it is given."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import av
from av.video.codeccontext import VideoCodecContext

from tinyhd.errors import OptionError
from tinyhd.options import EncoderOptions
from tinyhd.video.ffmpeg_log import collect_ffmpeg_errors, error_reason

log = logging.getLogger("tinyhd.video")

SOFTWARE = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1", "vp9": "libvpx-vp9"}
"""The encoder for each codec of `EncoderOptions`."""

NVENC = {"h264": "h264_nvenc", "hevc": "hevc_nvenc", "av1": "av1_nvenc"}

# What an encoder is given where nothing is asked for: near-transparent quality, quickly.
_DEFAULTS: dict[str, dict[str, str]] = {
    "libx264": {"crf": "20", "preset": "veryfast"},
    "libx265": {"crf": "24", "preset": "veryfast", "x265-params": "log-level=error"},
    "libsvtav1": {"crf": "30", "preset": "10"},
    "libvpx-vp9": {"crf": "30", "b": "0", "deadline": "good", "cpu-used": "5", "row-mt": "1"},
}

_X26X_PRESETS = "ultrafast superfast veryfast faster fast medium slow slower veryslow placebo".split()  # noqa: SIM905
_PRESETS = {"libx264": _X26X_PRESETS, "libx265": _X26X_PRESETS}  # these two do not list theirs


HEVC_TAG = "hvc1"
"""The one of HEVC's two tags that Apple's players know."""


@dataclass(frozen=True)
class Encoder:
    """A video encoder by FFmpeg's name, and its own options."""

    name: str
    options: dict[str, str]

    @property
    def is_hevc(self) -> bool:
        return self.name == "libx265" or self.name.startswith("hevc_")


def resolve_encoder(options: EncoderOptions) -> Encoder:
    """The built-in encoder to use; auto is decided by whether NVENC opens on this machine.

    Raises:
        OptionError: there is no such encoder, or it has no such setting.
    """
    name = _auto_encoder(options.codec) if options.encoder == "auto" else options.encoder or SOFTWARE[options.codec]
    private = _new_context(name).supported_options.private
    return Encoder(name, encoder_settings(name, options, {o.name: [c.name for c in o.choices] for o in private}))


def encoder_settings(name: str, options: EncoderOptions, known: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """What an encoder is given for `crf`, `bitrate` and `preset`, and by default.

    Args:
        name: of the encoder.
        options: what is asked for.
        known: the encoder's own options, each with the values that it lists.

    Raises:
        OptionError: it has no such setting.
    """
    given = dict(_DEFAULTS.get(name, {}))
    if options.bits_per_second is not None:
        for quality in ("crf", "cq"):
            given.pop(quality, None)
        given["b"] = str(options.bits_per_second)
    if options.crf is not None:
        if "crf" in known:
            given["crf"] = str(options.crf)
        elif "cq" in known:  # NVENC
            given |= {"rc": "vbr", "cq": str(options.crf)}
        else:
            raise OptionError(f"the encoder {name} has no --crf; leave it out.")
    if options.preset is not None:
        if "preset" not in known:
            raise OptionError(f"the encoder {name} has no --preset; leave it out.")
        allowed = _PRESETS.get(name) or known["preset"]
        if allowed and options.preset not in allowed:
            raise OptionError(f"{name} has no preset {options.preset!r}; it must be one of {', '.join(allowed)}.")
        given["preset"] = options.preset
    return given


def _new_context(name: str) -> VideoCodecContext:
    try:
        context = av.CodecContext.create(name, "w")
    except ValueError as error:
        raise OptionError(f"there is no encoder {name!r}; `ffmpeg -encoders` lists what FFmpeg can have.") from error
    if not isinstance(context, VideoCodecContext):
        raise OptionError(f"{name!r} is not a video encoder.")
    return context


@lru_cache  # asked for every file; the log says it once
def _auto_encoder(codec: str) -> str:
    return nvenc_or_software(codec, _why_it_does_not_open)


def nvenc_or_software(codec: str, why_it_does_not_open: Callable[[str], str | None]) -> str:
    """NVENC for a codec where that opens (None says so), otherwise the encoder of `SOFTWARE`."""
    software, nvenc = SOFTWARE[codec], NVENC.get(codec)
    why_not = why_it_does_not_open(nvenc) if nvenc else "there is no NVENC for it"
    if nvenc and why_not is None:
        log.info("Encoding with %s.", nvenc)
        return nvenc
    log.info("Encoding with %s: %s.", software, f"{nvenc} does not work here ({why_not})" if nvenc else why_not)
    return software


def _why_it_does_not_open(encoder: str) -> str | None:
    """Why an encoder cannot be opened for small frames; None: it can. GPUs need not have it, whatever FFmpeg has."""
    with collect_ffmpeg_errors() as messages:
        try:
            context = _new_context(encoder)
            context.width = context.height = 256
            context.pix_fmt, context.time_base = "yuv420p", Fraction(1, 25)
            context.open()
        except (av.error.FFmpegError, ValueError, OSError, OptionError) as error:
            return error_reason(error, messages)
    return None


def not_opened(encoder: str, size: tuple[int, int], reason: str) -> str:
    """A sentence about an encoder that cannot be opened."""
    if "nvenc" in encoder:
        return (
            f"the encoder {encoder} needs an NVIDIA GPU with an NVENC unit, which data-center GPUs such as H100 lack, "
            f"and its driver ({reason}): use --encoder auto or --encoder libx264 instead."
        )
    width, height = size
    return f"the encoder {encoder} cannot be opened for {width}x{height} frames with these settings: {reason}."
