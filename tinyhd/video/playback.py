"""Which videos browsers play, and copies that they do, with a frame at every tick of a constant rate."""

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

from tinyhd.errors import InputError
from tinyhd.files import StrPath
from tinyhd.video.frame import Frame, VideoInfo
from tinyhd.video.reader import open_video
from tinyhd.video.writer import VideoWriter

_MP4, _WEBM = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"
_PLAYED = {
    # by name and by content, because servers tell browsers the kind of file by its name
    (".mp4", _MP4): ("h264", "vp9", "av1"),
    (".m4v", _MP4): ("h264", "vp9", "av1"),
    (".webm", _WEBM): ("vp8", "vp9", "av1"),
}
_PLAYED_FORMATS = ("yuv420p", "yuvj420p")


def browser_plays(info: VideoInfo, *, same_times: bool = False) -> bool:
    """Whether every current browser plays a file as it is: 8-bit 4:2:0 H.264, VP9 or AV1 in mp4, or VP8, VP9 or AV1 in
    WebM. Rotated and mirrored ones are shown upright, non-square pixels as wide as they are.

    Args:
        info: of the file, under the name that it is served with.
        same_times: whether a browser's clock must be that of `Frame.time` too, which starts at the container's start;
            browsers start mp4 files at 0.
    """
    codecs = _PLAYED.get((Path(info.path).suffix.lower(), info.container), ())
    at_zero = info.start_time == 0 or not same_times
    return info.codec in codecs and info.source_pix_fmt in _PLAYED_FORMATS and at_zero


def reencode(
    input: StrPath,
    output: StrPath,
    *,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write a copy in H.264 whose frame k lies at k / rate seconds exactly, at the source's mean rate, with its sound.

    A constant rate that starts at 0 stays as it is, frame for frame. Otherwise each tick shows what the source shows at
    that time, so that frames come twice or not at all; before a late first frame that one is shown.

    Args:
        input: a video that `open_video` reads.
        output: must end in .mp4, .m4v or .mov; it appears when it is complete.
        overwrite: replace a file there.
        progress: called with the number of frames written.

    Returns:
        the number of frames written.

    Raises:
        InputError: the input cannot be read, or is a still image.
        OutputError: the output cannot be written.
        OptionError: the output's name ends otherwise.
    """
    with open_video(input) as reader:
        info = reader.info
        if info.is_still:
            raise InputError(f"{info.path!r} is a still image, not a video.")
        rate = constant_rate(info)
        size = (info.width + info.width % 2, info.height + info.height % 2)
        count = 0
        with VideoWriter(output, info, size=size, overwrite=overwrite) as writer:
            for frame in _on_ticks(reader, rate):
                writer.write(frame.image.reformat(width=size[0], height=size[1]), count / rate)
                count += 1
                if progress:
                    progress(count)
    return count


def constant_rate(info: VideoInfo) -> Fraction:
    """Frames per second at which viewers that know one rate only count the frames of a video."""
    rate = info.frame_rate
    return rate if rate and rate <= 1000 else Fraction(25)


def _on_ticks(frames: Iterable[Frame], rate: Fraction) -> Iterator[Frame]:
    """The frame that is shown at each of 0, 1/rate, 2/rate ... : the last that starts less than half a tick later."""
    shown: Frame | None = None
    tick = 0
    for frame in frames:
        while shown is not None and frame.time >= (tick + Fraction(1, 2)) / rate:
            yield shown
            tick += 1
        if shown is None:  # before a late first frame
            while frame.time >= (tick + Fraction(1, 2)) / rate:
                yield frame
                tick += 1
        shown = frame
    if shown is not None:
        yield shown
