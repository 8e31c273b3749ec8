"""Makers of hard test files: small videos and pictures whose every frame carries its number as a bar code.

`make_video` encodes numbered frames with any codec, timestamps and tags; the functions below it make one
named difficulty each and return a `Made` that says what a reader must find. `HARD_FILES` maps names to those
makers, for tests that want them all:

    made = HARD_FILES["vfr"](tmp_path)
    assert [read_barcode(frame.to_rgb()) for frame in read_frames(made.path)] == made.numbers

The picture (upright): a gray ramp with a bright disc that moves to the right, four color patches (`PATCHES`)
along the top edge, and the bar code along the whole bottom quarter.
"""

import functools
import io
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace

os.environ.setdefault("SVT_LOG", "1")  # the encoder of AV1 prints much else

WIDTH, HEIGHT = 192, 128
RATE = Fraction(25)

PATCHES = {"red": (220, 30, 30), "green": (30, 190, 40), "blue": (40, 50, 210), "gray": (128, 128, 128)}
PATCH_HEIGHT = 1 / 4  # of the picture; the patches divide the width evenly

DATA_BITS, CHECK_BITS = 10, 3
CELLS = 2 * (DATA_BITS + CHECK_BITS + 2)  # each bit is a light and a dark cell; one fixed bit at either end
CODE_HEIGHT = 1 / 4  # of the picture


class BarcodeError(ValueError):
    """A picture carries no readable bar code."""


@dataclass(frozen=True)
class Made:
    """A made file and what a correct reader finds in it."""

    path: Path
    numbers: list[int] | None  # bar codes in display order; None where damage decides
    times: list[Fraction] | None = None  # expected `Frame.time`, seconds after the container's start; None: not exact
    size: tuple[int, int] = (WIDTH, HEIGHT)  # upright (width, height)
    damaged: bool = False
    still: bool = False


# --- pictures -----------------------------------------------------------------------------------------------


def _bits(number: int) -> list[int]:
    if not 0 <= number < 2**DATA_BITS:
        raise ValueError(f"a bar code holds 0 to {2**DATA_BITS - 1}, not {number}")
    data = [number >> k & 1 for k in reversed(range(DATA_BITS))]
    check = (number * 5 + 3) % 7
    return [1, *data, *(check >> k & 1 for k in reversed(range(CHECK_BITS))), 1]


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """The upright test picture with this number: uint8 RGB (height, width, 3)."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    gray = 40 + 120 * x
    disc = (x - (0.15 + 0.7 * (number % 50) / 50)) ** 2 * (width / height) ** 2 + (y - 0.5) ** 2 < 0.12**2
    rgb = np.repeat(np.where(disc, 235, gray)[..., None], 3, axis=2)
    colors = np.array(list(PATCHES.values()), float)
    top = y[:, 0] < PATCH_HEIGHT
    rgb[top] = colors[np.minimum(x[top] * len(colors), len(colors) - 1).astype(int)]
    cells = np.array([cell for bit in _bits(number) for cell in ((220, 30) if bit else (30, 220))], float)
    bottom = y[:, 0] > 1 - CODE_HEIGHT
    rgb[bottom] = cells[np.minimum(x[bottom] * CELLS, CELLS - 1).astype(int)][..., None]
    return rgb.round().astype(np.uint8)


def read_barcode(rgb: np.ndarray) -> int:
    """The number in a picture of any size: uint8 (H, W, 3) -> int.

    Each bit compares two neighboring cells, so smooth blending, dimming or another size do not disturb it.
    A picture that is mirrored, turned or has no code raises `BarcodeError`.
    """
    height, width = rgb.shape[:2]
    rows = rgb[int(height * (1 - 0.75 * CODE_HEIGHT)) : int(height * (1 - 0.25 * CODE_HEIGHT))]
    line = rows.astype(float).mean(axis=(0, 2))
    centers = (np.arange(CELLS) + 0.5) / CELLS * width - 0.5
    cells = np.interp(centers, np.arange(width), line).reshape(-1, 2)
    steps = cells[:, 0] - cells[:, 1]
    if np.abs(steps).min() < 4:
        raise BarcodeError(f"no bar code: weakest bit has a contrast of {np.abs(steps).min():.1f}")
    bits = (steps > 0).astype(int).tolist()
    number = int("".join(map(str, bits[1 : 1 + DATA_BITS])), 2)
    if bits != _bits(number):
        raise BarcodeError(f"no bar code: the bits {bits} do not pass the check")
    return number


def read_patches(rgb: np.ndarray) -> dict[str, np.ndarray]:
    """Mean color of the middle of each patch of an upright picture: name -> float (3,)."""
    height, width = rgb.shape[:2]
    rows = slice(int(height * PATCH_HEIGHT * 0.3), int(height * PATCH_HEIGHT * 0.7))
    step = width / len(PATCHES)
    return {
        name: rgb[rows, int((k + 0.3) * step) : int((k + 0.7) * step)].reshape(-1, 3).mean(axis=0)
        for k, name in enumerate(PATCHES)
    }


# --- one maker for all --------------------------------------------------------------------------------------


def make_video(
    path: Path,
    numbers: int | Sequence[int] = 24,
    *,
    width: int = WIDTH,
    height: int = HEIGHT,
    rate: Fraction = RATE,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    gop_size: int = 12,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    transform: Callable[[np.ndarray, int], np.ndarray] | None = None,
    rotation: float = 0,
    hflip: bool = False,
    sample_aspect_ratio: Fraction | None = None,
    colorspace: int = 5,
    color_range: int = 1,
    tags: dict[str, int] | None = None,
    audio: Sequence[str] = (),
    languages: Sequence[str] = (),
    audio_start_seconds: Fraction = Fraction(0),
    metadata: dict[str, str] | None = None,
    container: str | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode numbered pictures into a video file and return its path.

    numbers: a count, or the bar codes themselves. width, height: the upright picture (`transform` may change it).
    pts, time_base: timestamps in ticks (default: one tick of 1/rate each). transform(picture, position): another
    RGB picture, or one ready to encode: uint16 RGB where pix_fmt has more than 8 bits. rotation: counter-clockwise
    degrees written as a display matrix, with hflip applied after it. colorspace, color_range: AVColorSpace and
    AVColorRange used for the pixels and tagged (`tags` overrides any of color_primaries, color_trc, colorspace,
    color_range). audio: encoder names, one track each (a 440 Hz tone as long as the video), with `languages`.
    """
    numbers = range(numbers) if isinstance(numbers, int) else numbers
    time_base = time_base or 1 / rate
    pts = range(len(numbers)) if pts is None else pts
    with av.open(str(path), "w", format=container, options=container_options or {}) as output:
        output.metadata.update(metadata or {})
        video = output.add_stream(codec, rate=rate, options=_default_options(codec) | (options or {}))
        video.pix_fmt = pix_fmt
        video.time_base = video.codec_context.time_base = time_base
        video.codec_context.gop_size = gop_size
        all_tags = {"colorspace": colorspace, "color_range": color_range} | (tags or {})
        for name, value in all_tags.items():
            setattr(video.codec_context, name, value)
        if sample_aspect_ratio:
            video.codec_context.sample_aspect_ratio = sample_aspect_ratio
        if rotation or hflip:
            video.set_display_rotation(rotation, hflip=hflip)
        tracks = [_add_audio(output, name, language) for name, language in _with_languages(audio, languages)]
        first = True
        for position, (number, tick) in enumerate(zip(numbers, pts, strict=True)):
            array = picture(number, width, height)
            if transform:
                array = transform(array, position)
            if first:
                video.height, video.width = array.shape[:2]
                first = False
            frame = _encodable(array, pix_fmt, colorspace, color_range)
            frame.pts, frame.time_base = tick, time_base
            for name, value in all_tags.items():
                setattr(frame, name, value)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        seconds = (pts[-1] - pts[0]) * time_base + 1 / rate if len(pts) else Fraction(0)
        for track in tracks:
            _write_tone(output, track, seconds, audio_start_seconds)
    return path


def _default_options(codec: str) -> dict[str, str]:
    if codec in ("libx264", "libx265"):
        quiet = {"x265-params": "log-level=none:pools=1:frame-threads=1"} if codec == "libx265" else {}
        return {"preset": "ultrafast" if codec == "libx265" else "veryfast", "crf": "16", "threads": "1", **quiet}
    return {"qscale": "3"} if codec in ("mpeg2video", "mpeg4", "mjpeg") else {}


def _encodable(array: np.ndarray, pix_fmt: str, colorspace: int, color_range: int) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(array, format="rgb24" if array.dtype == np.uint8 else "rgb48le")
    if pix_fmt in ("rgb24", "rgba", "argb", "pal8", "rgb8", "bgr8", "gbrp", "bgra", "bgr24"):
        return frame.reformat(format=pix_fmt)
    matrix = {1: Colorspace.ITU709, 9: Colorspace.BT2020}.get(colorspace, Colorspace.ITU601)
    return frame.reformat(format=pix_fmt, dst_colorspace=matrix, dst_color_range=color_range, src_color_range=2)


def _with_languages(audio: Sequence[str], languages: Sequence[str]) -> Iterable[tuple[str, str]]:
    return zip(audio, [*languages, *[""] * (len(audio) - len(languages))], strict=True)


def _add_audio(output: Any, codec: str, language: str) -> Any:
    track = output.add_stream(codec, rate=48000)
    if language:
        track.metadata["language"] = language
    return track


def _write_tone(output: Any, track: Any, seconds: Fraction, start_seconds: Fraction) -> None:
    resampler = av.AudioResampler(track.format.name, track.layout.name, track.rate)
    total, chunk = math.ceil(seconds * track.rate), 1024
    for first in range(0, total, chunk):
        angle = 2 * np.pi * 440 / track.rate * np.arange(first, min(first + chunk, total))
        tone = np.repeat((8000 * np.sin(angle)).astype(np.int16), 2)[None]
        block = av.AudioFrame.from_ndarray(tone, format="s16", layout="stereo")
        block.sample_rate = track.rate
        block.time_base = Fraction(1, track.rate)
        block.pts = first + round(start_seconds * track.rate)
        for resampled in resampler.resample(block):
            output.mux(track.encode(resampled))
    for resampled in resampler.resample(None):
        output.mux(track.encode(resampled))
    output.mux(track.encode(None))


def _ticks(count: int, rate: Fraction = RATE) -> list[Fraction]:
    return [k / rate for k in range(count)]


def clip(path: Path, count: int = 3, first: int = 0) -> Path:
    """A small video, soon made, whose bar codes start at `first`; so are the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return make_video(path, range(first, first + count), codec="mpeg4", width=96, height=64)


def rewrite(source: Path, target: Path, **options: Any) -> Any:
    """Write a file's frames again as they are, by a `VideoWriter` with these options, which is returned."""
    from tinyhd.video.reader import open_video
    from tinyhd.video.writer import VideoWriter

    start = options.get("start")
    with open_video(source, start, options.get("end")) as video, VideoWriter(target, video.info, **options) as writer:
        for frame in video:
            writer.write(frame.image, frame.time - (start or 0))
    return writer


# --- one difficulty each ------------------------------------------------------------------------------------


HARD_FILES: dict[str, Callable[[Path], Made]] = {}
"""All the files that must work, by the names of their makers."""


def hard(make: Callable[..., Made]) -> Callable[..., Made]:
    """Enters a maker into `HARD_FILES`."""
    HARD_FILES[make.__name__] = make
    return make


@hard
def plain(folder: Path, count: int = 24, name: str = "plain.mp4", **options: Any) -> Made:
    return Made(make_video(folder / name, count, **options), list(range(count)), _ticks(count))


@hard
def one_frame(folder: Path) -> Made:
    return plain(folder, 1, "one_frame.mp4")


@hard
def vfr(folder: Path) -> Made:
    """Variable frame rate: 24 frames at uneven multiples of 1/600 s."""
    pts = np.cumsum([0] + [20, 25, 60, 10, 11, 300, 20, 20] * 3)[:24].tolist()
    path = make_video(folder / "vfr.mp4", 24, pts=pts, time_base=Fraction(1, 600))
    return Made(path, list(range(24)), [Fraction(p, 600) for p in pts])


@hard
def late_video(folder: Path) -> Made:
    """The sound starts at 0, the first picture 0.48 s later: that offset must be kept."""
    pts = range(12, 36)
    path = make_video(folder / "late_video.mp4", 24, pts=pts, time_base=1 / RATE, audio=["aac"])
    return Made(path, list(range(24)), [p / RATE for p in pts])


@hard
def late_start(folder: Path) -> Made:
    """Everything starts at 1.4 s, as MPEG transport streams do: `Frame.time` starts at 0."""
    return plain(folder, name="late_start.ts", pts=range(35, 59), options={"bf": "2"})


def rotated(folder: Path, clockwise: int = 90) -> Made:
    """A phone video: stored lying, with a display matrix that turns it clockwise into the upright picture."""
    turn = {"rotation": -clockwise, "transform": lambda rgb, _: np.rot90(rgb, clockwise // 90).copy()}
    return plain(folder, name=f"rotated_{clockwise}.mp4", **turn)


HARD_FILES |= {f"rotated_{angle}": functools.partial(rotated, clockwise=angle) for angle in (90, 180, 270)}


@hard
def mirrored(folder: Path) -> Made:
    """A front camera's video: stored mirrored, with a display matrix that mirrors it back."""
    return plain(folder, name="mirrored.mp4", transform=lambda rgb, _: rgb[:, ::-1].copy(), hflip=True)


@hard
def flipped(folder: Path) -> Made:
    """Stored upside down, with a display matrix that says so and nothing else."""
    return plain(folder, name="flipped.mp4", transform=lambda rgb, _: rgb[::-1].copy(), rotation=180, hflip=True)


@hard
def odd_size(folder: Path) -> Made:
    return replace(plain(folder, name="odd_size.mkv", width=181, height=127, codec="ffv1"), size=(181, 127))


@hard
def ten_bit(folder: Path) -> Made:
    return plain(folder, name="ten_bit.mp4", pix_fmt="yuv420p10le")


@hard
def full_range(folder: Path) -> Made:
    return plain(folder, name="full_range.mp4", color_range=2, pix_fmt="yuvj420p")


@hard
def bt709(folder: Path) -> Made:
    return plain(folder, name="bt709.mp4", colorspace=1, tags={"color_primaries": 1, "color_trc": 1})


@hard
def high_chroma(folder: Path) -> Made:
    return plain(folder, name="high_chroma.mp4", pix_fmt="yuv444p")


@hard
def interlaced(folder: Path) -> Made:
    """Top field first: the two fields of a frame show the disc at two moments; the bar code is the frame's."""

    def weave(rgb: np.ndarray, position: int) -> np.ndarray:
        later = picture(position * 2 + 1)[: int(HEIGHT * (1 - CODE_HEIGHT))]
        rgb[: len(later)] = picture(position * 2)[: len(later)]
        rgb[1 : len(later) : 2] = later[1::2]
        return rgb

    options = {"flags": "+ildct+ilme", "field_order": "tt"}
    return plain(folder, name="interlaced.mpg", codec="mpeg2video", transform=weave, options=options)


@hard
def alpha(folder: Path) -> Made:
    """A video with an alpha plane: the middle band of the gray ramp is transparent white."""

    def hollow(rgb: np.ndarray, _: int) -> np.ndarray:
        rgba = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
        rgba[HEIGHT // 2 : HEIGHT * 5 // 8] = (255, 255, 255, 0)
        return rgba

    path = folder / "alpha.mov"
    _write_images(path, [hollow(picture(k), k) for k in range(24)], "qtrle", "argb")
    return Made(path, list(range(24)), _ticks(24))


def hdr(folder: Path, transfer: str = "pq") -> Made:
    """HDR10 (PQ) or HLG, BT.2020, 10 bit: the test picture as a display of 203 cd/m2 white would show it."""
    trc = {"pq": 16, "hlg": 18}[transfer]
    tags = {"color_primaries": 9, "color_trc": trc}
    facts = {"transform": lambda rgb, _: sdr_to_hdr(rgb, transfer), "pix_fmt": "yuv420p10le", "colorspace": 9}
    return plain(folder, name=f"hdr_{transfer}.mp4", tags=tags, **facts)


HARD_FILES |= {f"hdr_{transfer}": functools.partial(hdr, transfer=transfer) for transfer in ("pq", "hlg")}


def sdr_to_hdr(rgb: np.ndarray, transfer: str) -> np.ndarray:
    """BT.709 uint8 RGB shown with white at 203 cd/m2 (ITU-R BT.2408), coded as BT.2020 PQ or HLG: uint16 RGB."""
    linear = (rgb / 255.0) ** 2.4
    to_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
    nits = np.clip(linear @ to_2020.T, 0, 1) * 203
    if transfer == "pq":
        y = (nits / 10000) ** 0.1593017578125
        code = ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375
    else:
        luma = nits @ [0.2627, 0.678, 0.0593]  # display light -> scene light: undo the system gamma of 1.2
        scene = nits / 1000 * (np.maximum(luma, 1e-6) / 1000)[..., None] ** (1 / 1.2 - 1)
        log = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        code = np.where(scene <= 1 / 12, np.sqrt(3 * scene), log)
    return (np.clip(code, 0, 1) * 65535).round().astype(np.uint16)


@hard
def non_square(folder: Path) -> Made:
    """Pixels 64/45 as wide as high (anamorphic PAL)."""
    return plain(folder, name="non_square.mp4", sample_aspect_ratio=Fraction(64, 45))


@hard
def no_timestamps(folder: Path) -> Made:
    """A raw H.264 stream with B-frames: the container stores no time at all."""
    return plain(folder, name="no_timestamps.h264", options={"bf": "2"})


@hard
def repeated_timestamps(folder: Path) -> Made:
    """Frames 5 and 6 carry the timestamp of frame 4, frames 12 and 13 run backwards."""
    pts = list(range(24))
    pts[5] = pts[6] = 4
    pts[12], pts[13] = 10, 9
    path = folder / "repeated_timestamps.mkv"
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as output:
        stream = output.add_stream("mjpeg", rate=RATE, options={"qscale": "3"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        for number in range(24):
            frame = _encodable(picture(number), "yuvj420p", 5, 2)
            frame.pts, frame.time_base = number, 1 / RATE
            for packet in stream.encode(frame):
                packet.pts, packet.dts = pts[number], number - 24
                output.mux(packet)
    return Made(path, list(range(24)), _ticks(24))


@hard
def with_audio(folder: Path) -> Made:
    """Two tracks of sound, AAC (English) and MP3 (German)."""
    return plain(folder, name="with_audio.mp4", audio=["aac", "libmp3lame"], languages=["eng", "deu"])


@hard
def foreign_audio(folder: Path) -> Made:
    """Sound that mp4 cannot hold: PCM in an AVI."""
    return plain(folder, name="foreign_audio.avi", codec="mpeg4", audio=["pcm_s16le"])


@hard
def b_frames_avi(folder: Path) -> Made:
    """H.264 with B-frames in an AVI, which stamps frames in the order of decoding."""
    return replace(plain(folder, name="b_frames.avi", options={"bf": "2"}), times=_ticks(25)[1:])


def joined(path: Path, codec: str = "libx264", **second: Any) -> Path:
    """A transport stream of 24 frames whose second half is another stream, with these options."""
    plain_options: dict[str, Any] = {"codec": codec, "options": {"bf": "0"}}
    parts = [
        make_video(path.with_suffix(".1.ts"), range(12), pts=range(1, 13), **plain_options),
        make_video(path.with_suffix(".2.ts"), range(12, 24), pts=range(13, 25), **plain_options | second),
    ]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for part in parts:
        part.unlink()
    return path


@hard
def size_change(folder: Path) -> Made:
    """The picture is 192x128 at first and 128x96 from frame 12 on."""
    return Made(joined(folder / "size_change.ts", width=128, height=96), list(range(24)), _ticks(24))


@hard
def two_videos(folder: Path) -> Made:
    """Two video streams; the second, larger one is marked as the default and has the numbers 100 to 123."""
    path = folder / "two_videos.mkv"
    with av.open(str(path), "w") as output:
        streams = []
        for size in ((96, 64), (WIDTH, HEIGHT)):
            stream = output.add_stream("libx264", rate=RATE, options=_default_options("libx264"))
            stream.width, stream.height = size
            streams.append(stream)
        streams[0].disposition = 0
        streams[1].disposition = av.stream.Disposition.default
        for number in range(24):
            for k, stream in enumerate(streams):
                frame = _encodable(picture(number + 100 * k, stream.width, stream.height), "yuv420p", 5, 1)
                frame.pts, frame.time_base = number, 1 / RATE
                output.mux(stream.encode(frame))
        for stream in streams:
            output.mux(stream.encode(None))
    return Made(path, list(range(100, 124)), _ticks(24))


@hard
def truncated(folder: Path, extension: str = "mp4") -> Made:
    """The last 40 % of the file are missing (mp4 with its index in front)."""
    options = {"movflags": "faststart"} if extension == "mp4" else {}
    path = make_video(folder / f"truncated.{extension}", 48, container_options=options)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    return Made(path, None, damaged=True)


@hard
def bit_flipped(folder: Path, seed: int = 0) -> Made:
    """Some bytes of the coded pictures are wrong, none of the first quarter; the index is intact."""
    path = make_video(folder / "bit_flipped.mp4", 48, gop_size=8)
    data = bytearray(path.read_bytes())
    start, end = data.index(b"mdat") + 4, data.rindex(b"moov") - 4
    random = np.random.default_rng(seed)
    for position in random.integers(start + (end - start) // 4, end, 8):
        data[position] ^= 1 << int(random.integers(8))
    path.write_bytes(data)
    return Made(path, None, damaged=True)


def damaged_sound(folder: Path, extension: str, audio: str, seed: int = 0) -> Made:
    """A third of the packets of sound are damaged, headers and timestamps included where the container has them there;
    the coded frames are not (in MPEG-PS, a few of them)."""
    codec = {"mpg": "mpeg2video", "avi": "mpeg4"}.get(extension, "libx264")
    path = make_video(folder / f"damaged_sound.{extension}", 50, codec=codec, audio=[audio])
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(audio=0) if p.size and p.pos is not None]
    data, random = bytearray(path.read_bytes()), np.random.default_rng(seed)
    for position, size in packets[2::3]:
        for offset in random.integers(4, min(size, 184), 4):
            data[position + int(offset)] ^= 1 << int(random.integers(8))
    path.write_bytes(data)
    return Made(path, list(range(50)), _ticks(50))


def wrong_tags(folder: Path, primaries: int = 41, transfer: int = 10, matrix: int = 77) -> Made:
    """ProRes whose frame headers have color tags that do not exist or that nobody can convert."""
    path = make_video(folder / "wrong_tags.mov", 4, codec="prores_ks", pix_fmt="yuv422p10le")
    data, position = bytearray(path.read_bytes()), 0
    while (position := data.find(b"icpf", position + 1)) > 0:
        data[position + 18 : position + 21] = bytes((primaries, transfer, matrix))
    path.write_bytes(data)
    return Made(path, list(range(4)), _ticks(4))


def late_sound_stream(folder: Path) -> Made:
    """A transport stream in which a track of sound begins in the middle, where no header has told of it."""
    return Made(joined(folder / "late_sound.ts", audio=["aac"]), list(range(24)))


# --- pictures and animations --------------------------------------------------------------------------------


def _write_images(path: Path, arrays: Sequence[np.ndarray], codec: str, pix_fmt: str, **options: str) -> None:
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=RATE, options=options)
        stream.height, stream.width = arrays[0].shape[:2]
        stream.pix_fmt = pix_fmt
        for k, array in enumerate(arrays):
            source = "rgba" if array.shape[2] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format=source)
            frame = frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = k, 1 / RATE
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def still(folder: Path, extension: str = "png", number: int = 7, pixels: np.ndarray | None = None) -> Made:
    """One picture as png, jpg, webp, bmp or tiff (`pixels`: RGB or RGBA instead of the test picture)."""
    codec, pix_fmt, options = {
        "png": ("png", "rgb24", {}),
        "jpg": ("mjpeg", "yuvj420p", {"qscale": "2"}),
        "webp": ("libwebp", "yuv420p", {"quality": "90"}),
        "bmp": ("bmp", "bgr24", {}),
        "tiff": ("tiff", "rgb24", {}),
    }[extension]
    array = picture(number) if pixels is None else pixels
    path = folder / f"still.{extension}"
    if array.shape[2] == 4:
        pix_fmt = {"png": "rgba", "webp": "bgra", "tiff": "rgba"}[extension]
    context = av.CodecContext.create(codec, "w")
    context.height, context.width = array.shape[:2]
    context.pix_fmt, context.time_base, context.options = pix_fmt, Fraction(1, 25), options
    source = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgba" if array.shape[2] == 4 else "rgb24")
    frame = source.reformat(format=pix_fmt)
    frame.pts = 0
    data = b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
    if extension == "webp" and data[:4] != b"RIFF":
        raise AssertionError("the WebP encoder gave no RIFF file")
    path.write_bytes(data)
    return Made(path, [number], [Fraction(0)], size=(array.shape[1], array.shape[0]), still=True)


HARD_FILES |= {kind: functools.partial(still, extension=kind) for kind in ("png", "jpg", "webp", "bmp", "tiff")}


@hard
def exif_photo(folder: Path, orientation: int = 6) -> Made:
    """A JPEG whose EXIF orientation, 1 to 8, makes it upright (6, the usual one: turn clockwise)."""
    stored: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 3),
    }
    made = still(folder, "jpg", pixels=stored[orientation](picture(7)))
    ifd = struct.pack("<2sHIH", b"II", 42, 8, 1) + struct.pack("<HHIHH", 0x112, 3, 1, orientation, 0) + bytes(4)
    segment = b"Exif\0\0" + ifd
    data = made.path.read_bytes()
    path = made.path.rename(folder / f"exif_{orientation}.jpg")
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:])
    return Made(path, [7], [Fraction(0)], still=True)


@hard
def gif(folder: Path, count: int = 6) -> Made:
    path = folder / "animation.gif"
    _write_images(path, [picture(k) for k in range(count)], "gif", "rgb8")
    return Made(path, list(range(count)), _ticks(count))


@hard
def apng(folder: Path, count: int = 6) -> Made:
    path = folder / "animation.apng"
    _write_images(path, [picture(k) for k in range(count)], "apng", "rgb24")
    return Made(path, list(range(count)), _ticks(count))


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """The (type, content) chunks of a PNG; raises where a check sum is wrong."""
    chunks, stream = [], io.BytesIO(data[8:])
    while head := stream.read(8):
        length, kind = struct.unpack(">I4s", head)
        content = stream.read(length)
        assert struct.unpack(">I", stream.read(4))[0] == zlib.crc32(kind + content)
        chunks.append((kind, content))
    return chunks


# --- what people looked at ----------------------------------------------------------------------------------


def write_fixations(folder: Path, names: Sequence[str], rows: Iterable[tuple[float, ...]], kind: str = "video") -> None:
    """`fixations.npz` with rows of (number of the video or image, viewer, x, y) and, of videos, start and duration."""
    columns = (f"{kind}_index", "viewer", "x", "y", "t_ms", "duration_ms")
    values = dict(zip(columns, map(np.array, zip(*rows, strict=True)), strict=False))
    np.savez(folder / "fixations.npz", **{f"{kind}_names": np.array(names)}, **values)


# --- files that must be refused -----------------------------------------------------------------------------


def audio_only(folder: Path) -> Path:
    path = folder / "audio_only.m4a"
    with av.open(str(path), "w") as output:
        _write_tone(output, _add_audio(output, "aac", ""), Fraction(1, 2), Fraction(0))
    return path


def audio_with_cover(folder: Path) -> Path:
    """Sound with cover art: FFmpeg shows the cover as a video stream of one picture."""
    cover = still(folder, "jpg").path
    path = folder / "cover.mp3"
    with av.open(str(path), "w") as output, av.open(str(cover)) as source:
        track = _add_audio(output, "libmp3lame", "")
        stream = output.add_stream_from_template(source.streams.video[0])
        stream.disposition = av.stream.Disposition.attached_pic
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
        _write_tone(output, track, Fraction(1, 2), Fraction(0))
    return path


PLAYLISTS: dict[str, str] = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n{target}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{target}'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 50123 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "dash": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period><AdaptationSet '
    'contentType="video"><Representation id="0" mimeType="video/mp4" bandwidth="1000" width="192" height="128">'
    "<BaseURL>{target}</BaseURL><SegmentBase/></Representation></AdaptationSet></Period></MPD>\n",
    "imf": '<?xml version="1.0"?>\n<CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016">'
    "<Id>urn:uuid:00000000-0000-0000-0000-000000000000</Id></CompositionPlaylist>\n",
}


def external_reference(folder: Path, target: Path) -> Path:
    """An mp4 whose index says that its data lie in another file, by a Macintosh alias with an absolute path."""
    path = plain(folder, name="external.mp4").path
    data = path.read_bytes()
    name = str(target).encode()
    alias = bytes(10) + bytes(28) + bytes(12) + bytes([4]) + b"name".ljust(63, b"\0") + bytes(16) + bytes(4) + bytes(16)
    alias += struct.pack(">HH", 2, len(name)) + name + bytes(len(name) % 2) + struct.pack(">HH", 0xFFFF, 0)
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    old = data.index(b"url ") - 4
    changed = bytearray(data[:old] + entry + data[old + 12 :])
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):  # the index lies behind the data
        at = changed.rindex(kind, 0, old + 4) - 4
        struct.pack_into(">I", changed, at, struct.unpack_from(">I", changed, at)[0] + len(entry) - 12)
    path.write_bytes(changed)
    return path


def playlist(folder: Path, kind: str, name: str, target: str = "plain.mp4") -> Path:
    """A playlist of this kind (a key of PLAYLISTS) under any name, pointing to `target`."""
    path = folder / name
    path.write_text(PLAYLISTS[kind].format(target=target))
    return path


STILLS = ("png", "jpg", "webp", "bmp", "tiff", "exif_photo")
MOVING = [name for name in HARD_FILES if name not in (*STILLS, "hdr_pq", "hdr_hlg")]
"""Of `HARD_FILES`; without HDR, which takes FFmpeg seconds to set up."""
