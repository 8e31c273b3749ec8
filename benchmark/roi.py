"""What region-of-interest encoding saves where people look: run from the checkout as `python -m benchmark.roi FOLDER`.

FOLDER has videos, and people's fixations in fixations.npz, as for `benchmark.reframing`. A part of each video, scaled
down without further loss, is encoded at four rates, plainly and by `tinyhd encode` with a track. Compared are

    EWPSNR  PSNR of the luma with errors weighted by where people looked (Li, Qin and Itti 2011): a Gaussian of 6/256 of
            the width at each fixation of the frame; errors of frames with at least five fixations, added up
    PSNR    of the luma, errors of all frames added up
    XPSNR   of the luma, mean over frames, as FFmpeg's filter has it

by the Bjoentegaard delta rate (bits saved at equal quality, negative is less; Akima interpolation, by the package
`bjontegaard`), and the delta of PSNR in dB at equal rate. Sizes are those of the video stream. Time is the processor's,
from reading the file to the finished one, with a track at hand.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import bjontegaard
import numpy as np
from scipy.ndimage import gaussian_filter

from benchmark.reframing import Clip, read_clips
from tinyhd.errors import OptionError
from tinyhd.options import EncoderOptions, RoiOptions
from tinyhd.pipeline.analyze import analyze
from tinyhd.pipeline.encode import encode
from tinyhd.saliency.track import SaliencyTrack
from tinyhd.video.frame import Frame
from tinyhd.video.reader import open_video, read_frames
from tinyhd.video.writer import VideoWriter
from training.commands import command

SIGMA = 6 / 256
"""Of the Gaussian at each fixation, in widths of the frame."""
MIN_FIXATIONS = 5
MEASURES = ("EWPSNR", "PSNR", "XPSNR")
_LOSSLESS = {"qp": "0"}
_PEAK = 255**2
_BLOCK = 4  # pixels, along either side, that errors are weighted in


@dataclass(frozen=True)
class Encoded:
    """One encoded clip: its rate in kbit/s, quality by name in dB, and processor seconds."""

    rate: float
    quality: Mapping[str, float]
    seconds: float


def density(points: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    """How people's gazes are spread over a frame, float32 (height / 4, width / 4) of sum 1; None: too few to tell.

    Args:
        points: (N, 2), fractions of width and height; those outside of the frame do not count.
        size: (width, height) of the frame, pixels.
    """
    width, height = (side // _BLOCK for side in size)
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], (height, width), [[0, 1], [0, 1]])
    if counts.sum() < MIN_FIXATIONS:
        return None
    spread = gaussian_filter(counts.astype(np.float32), SIGMA * width, mode="constant")
    return spread / spread.sum()


def measure(source: Path, encoded: Path, looked_at: Sequence[np.ndarray | None]) -> dict[str, float]:
    """The qualities `MEASURES` of an encoded clip, in dB.

    Args:
        source, encoded: videos with the same frames.
        looked_at: the `density` of each frame.
    """
    weighted, plain, xpsnr = [], [], []
    compare: _XPSNR | None = None
    for first, second, weights in zip(read_frames(source), read_frames(encoded), looked_at, strict=True):
        compare = compare or _XPSNR(first)
        xpsnr.append(compare(first, second))
        height = first.image.height
        luma = [frame.image.to_ndarray()[:height].astype(np.float32) for frame in (first, second)]
        errors = (luma[0] - luma[1]) ** 2
        plain.append(float(errors.mean()))
        if weights is not None:
            rows, columns = weights.shape
            blocks = errors[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK)
            weighted.append(float((blocks.mean((1, 3)) * weights).sum()))
    return {"EWPSNR": _decibels(weighted), "PSNR": _decibels(plain), "XPSNR": statistics.fmean(xpsnr)}


def _decibels(errors: Sequence[float]) -> float:
    return float(10 * np.log10(_PEAK / max(statistics.fmean(errors), 1e-6)))


class _XPSNR:
    """FFmpeg's filter xpsnr, for frames like the first."""

    def __init__(self, frame: Frame) -> None:
        self._graph = av.filter.Graph()
        image = frame.image
        facts = {"width": image.width, "height": image.height, "format": image.format, "time_base": Fraction(1, 1000)}
        self._buffers = [self._graph.add_buffer(**facts, name=name) for name in ("source", "encoded")]
        node, self._sink = self._graph.add("xpsnr"), self._graph.add("buffersink")
        for place, buffer in enumerate(self._buffers):
            buffer.link_to(node, 0, place)
        node.link_to(self._sink)
        self._graph.configure()
        self._count = 0

    def __call__(self, *frames: Frame) -> float:
        for frame, buffer in zip(frames, self._buffers, strict=True):
            frame.image.pts, frame.image.time_base = self._count, Fraction(1, 1000)
            buffer.push(frame.image)
        self._count += 1
        return min(float(self._sink.pull().metadata["lavfi.xpsnr.xpsnr.y"]), 100.0)  # inf where all is the same


def stream_rate(path: Path) -> float:
    """kbit/s of a video's frames, without the container."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        size = sum(packet.size for packet in container.demux(stream))
        assert stream.duration is not None
        return 8 * size / float(stream.duration * stream.time_base) / 1000


def delta_rate(plain: Sequence[Encoded], ours: Sequence[Encoded], name: str) -> float:
    """Percent of the rate that ours takes more at equal quality; negative: less."""
    curves = _curves(plain, name), _curves(ours, name)
    return float(bjontegaard.bd_rate(*curves[0], *curves[1], "akima", require_matching_points=False))


def delta_quality(plain: Sequence[Encoded], ours: Sequence[Encoded], name: str) -> float:
    """dB that ours is better at equal rate; negative: worse."""
    curves = _curves(plain, name), _curves(ours, name)
    return float(bjontegaard.bd_psnr(*curves[0], *curves[1], "akima", require_matching_points=False))


def _curves(encoded: Sequence[Encoded], name: str) -> tuple[list[float], list[float]]:
    by_rate = sorted(encoded, key=lambda one: one.rate)
    return [one.rate for one in by_rate], [one.quality[name] for one in by_rate]


# ---- one clip


@dataclass(frozen=True)
class Settings:
    """What is encoded, and how."""

    height: int
    start: float
    seconds: float
    preset: str
    rates: tuple[str, ...]
    strength: float

    def encoder(self, name: str, rate: str, finer: float = 0.0) -> EncoderOptions:
        """A rate is a crf, which is lowered by `finer`, or bits a second such as 400k."""
        if rate[-1:] in "kKM":
            return EncoderOptions(encoder=name, preset=self.preset or None, bitrate=rate)
        return EncoderOptions(encoder=name, preset=self.preset or None, crf=float(rate) - finer)


def prepare(video: Path, clip: Clip, settings: Settings, target: Path) -> list[np.ndarray | None]:
    """Write the part of a video that is encoded, scaled and without loss; returns the `density` of each frame."""
    end = settings.start + settings.seconds
    with open_video(video, settings.start, end) as reader:
        info = reader.info
        size = (2 * round(info.width / info.height * settings.height / 2), settings.height)
        lossless = EncoderOptions(encoder="libx264", preset="ultrafast")
        first = Fraction(settings.start)
        looked_at = []
        with VideoWriter(target, info, size=size, options=lossless, settings=_LOSSLESS, keep_source=False) as writer:
            for frame in reader:
                scaled = frame.image.reformat(*size, format="yuv420p", interpolation="BICUBIC")
                writer.write(scaled, frame.time - first)
                points = clip.fixations[int(np.argmin(abs(clip.times - frame.time_seconds)))] / clip.size
                looked_at.append(density(points, size))
    return looked_at


def encode_plainly(source: Path, target: Path, encoder: EncoderOptions) -> None:
    """The same without regions."""
    with open_video(source) as reader, VideoWriter(target, reader.info, options=encoder) as writer:
        for frame in reader:
            writer.write(frame.image, frame.time)


def compare(
    source: Path, track: SaliencyTrack, looked_at: Sequence[np.ndarray | None], encoder: str, settings: Settings
) -> tuple[list[Encoded], list[Encoded]]:
    """A clip encoded at every rate, plainly and by regions; these at a lower crf, which makes about as many bits."""
    roi = RoiOptions(strength=settings.strength)

    def run(name: str, work: Callable[[Path, EncoderOptions], object], finer: float = 0.0) -> list[Encoded]:
        results = []
        for rate in settings.rates:
            target = source.with_name(f"{source.stem}.{encoder}.{name}.{rate}.mp4")
            began = time.process_time()
            work(target, settings.encoder(encoder, rate, finer))
            seconds = time.process_time() - began
            results.append(Encoded(stream_rate(target), measure(source, target, looked_at), seconds))
            target.unlink()
        return results

    return (
        run("plain", lambda target, options: encode_plainly(source, target, options)),
        run(
            "roi",
            lambda target, options: encode(source, target, options=roi, encoder=options, track=track),
            settings.strength / 2,
        ),
    )


# ---- the command


def run(arguments: Sequence[str] | None = None) -> None:
    """What the command does. Raises `TinyHDError` for what the user can put right."""
    parser = argparse.ArgumentParser("benchmark.roi", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="videos, and fixations.npz")
    add("--encoders", nargs="+", default=["libx264", "libx265"], metavar="NAME", help="default: libx264 libx265")
    add("--preset", default="medium", metavar="NAME", help="default: medium; '' for encoders without")
    add("--rates", nargs="+", default=["22", "27", "32", "37"], metavar="N", help="crf, or such as 400k; four or more")
    add("--strength", type=float, default=RoiOptions().strength, metavar="STEPS", help="default: that of tinyhd encode")
    add("--height", type=int, default=360, metavar="PIXELS", help="that frames are scaled to; default: 360")
    add("--start", type=float, default=2.0, metavar="SECONDS", help="of the part that is encoded; default: 2")
    add("--seconds", type=float, default=4.0, metavar="SECONDS", help="that it lasts; default: 4")
    options = parser.parse_args(arguments)
    part = Settings(
        options.height, options.start, options.seconds, options.preset, tuple(options.rates), options.strength
    )
    if len(part.rates) < 4:
        raise OptionError("curves need four rates at least.")
    _print_table(list(_results(options.folder, options.encoders, part)))


main = command(run)


_Row = tuple[str, str, dict[str, float]]


def _results(folder: Path, encoders: Sequence[str], settings: Settings) -> Iterator[_Row]:
    for video, clip in read_clips(folder):
        with tempfile.TemporaryDirectory() as temporary:
            source = Path(temporary) / "clip.mp4"
            looked_at = prepare(video, clip, settings, source)
            with analyze(source) as track:
                for encoder in encoders:
                    plain, ours = compare(source, track, looked_at, encoder, settings)
                    found = {name: delta_rate(plain, ours, name) for name in MEASURES}
                    found["PSNR dB"] = delta_quality(plain, ours, "PSNR")
                    found["time"] = sum(one.seconds for one in ours) / sum(one.seconds for one in plain)
                    row = ", ".join(
                        f"{name} {value:{'.2f' if name == 'time' else '+.2f'}}" for name, value in found.items()
                    )
                    rates = " ".join(f"{one.rate:.0f}" for one in plain)
                    print(f"{video.name} {encoder}: {row}; plain at {rates} kbit/s", flush=True)
                    yield video.name, encoder, found


def _print_table(results: Sequence[_Row]) -> None:
    print(f"\n{'delta rate, mean':<34}" + "".join(f"{name:>10}" for name in MEASURES) + "  PSNR at equal rate    time")
    for encoder in dict.fromkeys(encoder for _, encoder, _ in results):
        own = [found for _, name, found in results if name == encoder]
        mean = {key: statistics.fmean(found[key] for found in own) for key in own[0]}
        deltas = "".join(f"{mean[name]:+9.1f}%" for name in MEASURES)
        print(f"{encoder + f', {len(own)} videos':<34}{deltas}{mean['PSNR dB']:+17.2f} dB{mean['time']:8.2f}")


if __name__ == "__main__":
    sys.exit(main())
