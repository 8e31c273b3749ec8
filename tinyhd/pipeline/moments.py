"""From a video, and its track where there is one, to pictures of its key moments."""

import json
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from tinyhd.applications.crop import crop_size
from tinyhd.applications.moments import (
    Candidate,
    Moment,
    Peak,
    Picture,
    Span,
    choose,
    find_peaks,
    focused_spans,
    most_promising,
    scattered_spans,
)
from tinyhd.errors import InputError
from tinyhd.files import StrPath, check_target, make_folder, write_file
from tinyhd.inference.backends import Backend
from tinyhd.options import InferenceOptions, MomentOptions
from tinyhd.pipeline.analyze import Progress, Seconds, track_of
from tinyhd.pipeline.frames import frames_in
from tinyhd.pipeline.outputs import Result
from tinyhd.render.stills import contact_sheet, encode_still, scaled
from tinyhd.saliency.focus import FOCUS_DEFINITION, FocusCurve, focus_curve
from tinyhd.saliency.regions import share_in_boxes
from tinyhd.saliency.track import SaliencyTrack
from tinyhd.version import __version__
from tinyhd.video.frame import Frame, VideoInfo
from tinyhd.video.reader import probe

MOMENTS_SUFFIX = ".moments.json"

_PEAKS_EACH = 3
"""Peaks that are looked at for each moment wanted."""
_QUALITY_SIDE, _THUMBNAIL = 512, (32, 18)
_TONES, _CLIPPED = 0.4, (3, 252)
"""What a well exposed picture spans from its 5th to its 95th percentile of luma, 0 to 1; levels that are clipped."""


@dataclass(frozen=True)
class KeyMoment:
    """A key moment and its picture."""

    moment: Moment
    pixels: np.ndarray
    """uint8 RGB (H, W, 3), square pixels, cropped."""
    box: tuple[float, float, float, float]
    """The crop: left, top, right, bottom as fractions of the upright frame."""


@dataclass(frozen=True)
class MomentsResult(Result):
    """What `moments` has found and written; `output` is JSON with what is known of all moments and spans."""

    sheet: Path
    """All pictures on one."""
    pictures: tuple[Path, ...]
    """One for each of `moments`."""
    moments: tuple[Moment, ...]
    focused: tuple[Span, ...]
    scattered: tuple[Span, ...]

    @property
    def times(self) -> list[float]:
        """Of the moments, seconds after the container's start."""
        return [moment.time_seconds for moment in self.moments]


def moments(
    input: StrPath,
    output_dir: StrPath,
    *,
    options: MomentOptions | None = None,
    inference: InferenceOptions | None = None,
    backend: Backend | None = None,
    track: StrPath | SaliencyTrack | None = None,
    start: Seconds | None = None,
    end: Seconds | None = None,
    stem: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> MomentsResult:
    """Write pictures of the moments at which attention is most gathered: sharp, well exposed, not near a cut, apart
    from one another and unlike.

    In `output_dir` (made if it is not there) appear `clip.moment-01.jpg` and so on, in order of time,
    `clip.moments.jpg` with all of them, and `clip.moments.json`.

    Args:
        input: a video or animation.
        options: how many, in which format, cropped to which aspect.
        stem: of the files' names instead of the input's.

    The rest is as for `annotate`.

    Raises:
        InputError: the input or the track cannot be read, they do not belong together, or it is a still image.
        OutputError: an output cannot be written.
        OptionError: a value that is not allowed.
        WeightsError: there is no such model.
    """
    began, options = time.perf_counter(), options or MomentOptions()
    suffix = {"jpeg": ".jpg"}.get(options.format, f".{options.format}")
    stem = stem or Path(input).stem
    _checked(input)
    folder = make_folder(Path(output_dir))
    table, sheet = folder / f"{stem}{MOMENTS_SUFFIX}", folder / f"{stem}.moments{suffix}"
    earlier = [path for path in folder.iterdir() if re.fullmatch(_PICTURE.format(re.escape(stem)), path.name)]
    for path in (table, sheet, *earlier):
        check_target(path, [input], overwrite)
    with track_of(input, track, inference=inference, backend=backend, start=start, end=end, progress=progress) as seen:
        curve = focus_curve(seen, start, end)
        found = find_moments(input, seen, options, curve=curve)
        facts = seen.info
    names = [folder / f"{stem}.moment-{number:02d}{suffix}" for number in range(1, len(found) + 1)]
    focused, scattered = focused_spans(curve), scattered_spans(curve)
    for name, each in zip(names, found, strict=True):
        write_file(name, encode_still(each.pixels, options.format))
    captions = [f"{each.moment.time_seconds:.2f} s, focus {each.moment.focus:.0f}" for each in found]
    write_file(sheet, encode_still(contact_sheet([each.pixels for each in found], captions), options.format))
    content = {
        "source": facts.source.name,
        "model": facts.model,
        "model_hash": facts.model_hash,
        "tinyhd": __version__,
        "focus": FOCUS_DEFINITION,
        "moments": [
            asdict(each.moment) | {"file": name.name, "box": [round(edge, 5) for edge in each.box]}
            for name, each in zip(names, found, strict=True)
        ],
        "focused": [asdict(span) for span in focused],
        "scattered": [asdict(span) for span in scattered],
    }
    write_file(table, json.dumps(rounded(content), indent=1, ensure_ascii=False).encode())
    for path in set(earlier) - set(names):
        path.unlink(missing_ok=True)
    return MomentsResult(
        input=Path(input),
        output=table,
        sheet=sheet,
        pictures=tuple(names),
        moments=tuple(each.moment for each in found),
        focused=tuple(focused),
        scattered=tuple(scattered),
        frames=facts.source.frames,
        warnings=tuple(facts.warnings),
        damaged=facts.damaged,
        elapsed_seconds=time.perf_counter() - began,
    )


_PICTURE = r"{}\.moment-\d{{2,}}\.(jpg|png|webp)"


def find_moments(
    input: StrPath, track: SaliencyTrack, options: MomentOptions | None = None, *, curve: FocusCurve | None = None
) -> list[KeyMoment]:
    """The key moments of a video with their pictures, in order of time, nothing being written; see `moments`.

    Args:
        input: the video.
        track: of this video.
        options: how many, cropped to which aspect.
        curve: of the track, or of the part of it that counts.

    Raises:
        InputError: the video cannot be read, or it is a still image.
    """
    options = options or MomentOptions()
    info = _checked(input)
    curve = curve or focus_curve(track)
    peaks = most_promising(find_peaks(curve), _PEAKS_EACH * options.count)
    candidates: list[Candidate] = []
    best: dict[Peak, tuple[float, Frame]] = {}
    for frame, numbers in frames_in(input, [(peak.start_seconds, peak.end_seconds) for peak in peaks]):
        (saliency,) = track.own_maps_at([frame.time_seconds])
        picture = assess(frame.image, saliency)
        value = float(np.interp(frame.time_seconds, curve.times, curve.smooth))
        for peak in (peaks[number] for number in numbers):
            candidates.append(Candidate(frame.time_seconds, peak, value, picture))
            worth = value * picture.sharpness * picture.exposure
            if peak not in best or worth > best[peak][0]:
                best[peak] = (worth, frame)
    if not candidates:
        raise InputError(f"{info.path!r} has no frame that could be a key moment.")
    frames = {frame.time_seconds: frame for _, frame in best.values()}
    chosen = []
    for moment in choose(candidates, options.count, options.apart):
        (saliency,) = track.own_maps_at([moment.time_seconds])
        box = crop_box(saliency, info, options.ratio)
        chosen.append(KeyMoment(moment, _cropped(frames[moment.time_seconds], info, box), box))
    return chosen


def assess(image: av.VideoFrame, saliency: np.ndarray) -> Picture:
    """How good a picture is, above all where its map, float (h, w), has attention."""
    height, width = saliency.shape
    factor = max(1, round(_QUALITY_SIDE / width))
    gray = image.reformat(width * factor, height * factor, "gray", interpolation="AREA", dst_color_range="JPEG")
    luma = gray.to_ndarray().astype(np.float32)
    gradient = np.square(np.diff(luma, axis=0, append=luma[-1:])) + np.square(
        np.diff(luma, axis=1, append=luma[:, -1:])
    )
    energy = gradient.reshape(height, factor, width, factor).mean((1, 3))
    total = float(saliency.sum())
    sharpness = float((energy * saliency).sum() / total) if total > 0 else float(energy.mean())
    low, high = np.percentile(luma, [5, 95])
    clipped = float(((luma <= _CLIPPED[0]) | (luma >= _CLIPPED[1])).mean())
    exposure = min(1.0, float(high - low) / 255 / _TONES) * (1 - clipped)
    small = image.reformat(*_THUMBNAIL, "rgb24", interpolation="AREA").to_ndarray()
    return Picture(sharpness, exposure, small.astype(np.float32) / 255)


def crop_box(saliency: np.ndarray, info: VideoInfo, ratio: float | None) -> tuple[float, float, float, float]:
    """The part of a frame with this width / height, as displayed, that holds most attention: left, top, right, bottom
    as fractions; of equal ones the most central. None: all of it."""
    if ratio is None:
        return 0.0, 0.0, 1.0, 1.0
    width, height = crop_size((info.width, info.height), ratio, float(info.sample_aspect_ratio))
    across, down = width / info.width, height / info.height
    steps = np.linspace(0, 1, 101)
    corners = np.stack([steps * (1 - across), steps * (1 - down)], 1)
    shares = share_in_boxes(saliency, np.hstack([corners, corners + np.array([across, down])]))
    left, top = corners[int(np.argmax(shares - 1e-6 * np.abs(steps - 0.5)))].tolist()
    return left, top, left + across, top + down


def rounded(value: Any) -> Any:
    """The same with all numbers rounded to six digits, for JSON."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return round(value, 6) if isinstance(value, float) else value


def _checked(input: StrPath) -> VideoInfo:
    info = probe(input)
    if info.is_still:
        raise InputError(f"{info.path!r} is a still image, which has no moments: name a video.")
    return info


def _cropped(frame: Frame, info: VideoInfo, box: tuple[float, float, float, float]) -> np.ndarray:
    """The part of a frame in a box, uint8 RGB with square pixels."""
    pixels = frame.to_rgb()
    left, top, right, bottom = (
        round(edge * size) for edge, size in zip(box, (info.width, info.height) * 2, strict=True)
    )
    pixels = pixels[top:bottom, left:right]
    if info.sample_aspect_ratio == 1:
        return np.ascontiguousarray(pixels)
    return scaled(pixels, max(1, round(pixels.shape[1] * float(info.sample_aspect_ratio))), pixels.shape[0])
