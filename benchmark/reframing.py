"""How much of what people look at a 9:16 crop holds: run from the checkout as `python -m benchmark.reframing FOLDER`.

FOLDER has videos, and people's fixations in fixations.npz: `video_names`, and for each fixation `video_index`, `t_ms`
(its start on the file's own clock), `duration_ms`, `x` and `y` (fractions of the frame). A fixation counts for every
frame whose time lies within it. Shares are means over frames with a fixation, then over videos. Motion is the mean
change of the crop from frame to frame, jumps inside a shot included, in thousandths of the source's width (height).

With --retargetvid, FOLDER has DHF1K's videos instead, and crops drawn by six people (annotations/annotator_N/ of
github.com/bmezaris/RetargetVid, unpacked) are compared by intersection over union, as that repository does it.
"""

import argparse
import csv
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from tinyhd.applications.crop import CropPath, crop_size
from tinyhd.applications.reframing import plan_crop
from tinyhd.errors import InputError
from tinyhd.options import ReframeOptions
from tinyhd.pipeline.analyze import analyze
from tinyhd.saliency.track import SaliencyTrack, TrackInfo, TrackSource
from tinyhd.saliency.track_writer import TrackWriter
from tinyhd.video.reader import open_video
from training.commands import command

_STILL_PLACES = 201
_MAP = (36, 64)  # of the maps made of fixations


@dataclass(frozen=True)
class Clip:
    """A video and where people looked: `fixations[k]`, float (N, 2) in pixels, are of the frame at `times[k]`."""

    size: tuple[int, int]
    times: np.ndarray
    fixations: list[np.ndarray]


def read_clips(folder: Path) -> Iterator[tuple[Path, Clip]]:
    """The videos of a folder with their fixations. Raises `InputError`."""
    try:
        table = dict(np.load(folder / "fixations.npz"))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(folder / 'fixations.npz')!r} cannot be read: {error}.") from error
    for index, name in enumerate(table["video_names"]):
        own = table["video_index"] == index
        begin, lasts = table["t_ms"][own].astype(float), table["duration_ms"][own].astype(float)
        with open_video(folder / str(name)) as video:
            size = (video.info.width, video.info.height)
            clocks = [(frame.time_seconds, float(1000 * frame.pts * video.info.time_base)) for frame in video]
        points = np.column_stack([table["x"][own], table["y"][own]]).astype(float) * size
        fixations = [points[(begin <= now + 1e-6) & (now + 1e-6 < begin + lasts)] for _, now in clocks]
        yield folder / str(name), Clip(size, np.array([time for time, _ in clocks]), fixations)


def share_inside(clip: Clip, boxes: np.ndarray) -> float:
    """The share of fixations in a crop, (frames, 4) or (4,): x, y, width, height; mean over frames with a fixation."""
    boxes = np.broadcast_to(boxes, (len(clip.times), 4))
    shares = []
    for points, (x, y, width, height) in zip(clip.fixations, boxes, strict=True):
        if len(points):
            inside = (points >= (x, y)) & (points <= (x + width, y + height))
            shares.append(float(inside.all(1).mean()))
    return statistics.fmean(shares)


def motion(boxes: np.ndarray, size: tuple[int, int], new_shot: np.ndarray) -> float:
    """Mean change of a crop's place from frame to frame, less those where a new shot starts, in thousandths."""
    steps = np.abs(np.diff(boxes[:, :2], axis=0) / size).sum(1)
    return float(1000 * steps[~new_shot[1:]].mean()) if len(boxes) > 1 else 0.0


def track_of_fixations(clip: Clip, cuts: Sequence[float]) -> SaliencyTrack:
    """What a model would see that knew where people looked."""
    file = BytesIO()
    with TrackWriter(file) as writer:
        for time, points in zip(clip.times, clip.fixations, strict=True):
            saliency, _, _ = np.histogram2d(points[:, 1], points[:, 0], _MAP, [[0, clip.size[1]], [0, clip.size[0]]])
            writer.add(float(time), saliency.astype(np.float32))
        for cut in cuts:
            writer.add_cut(cut)
        writer.finish(TrackInfo(TrackSource("", 0, "", *clip.size), "people", ""))
    return SaliencyTrack(file)


def still_crops(size: tuple[int, int], ratio: float) -> np.ndarray:
    """Crops that rest, (N, 4), from one end of the source to the other."""
    crop = crop_size(size, ratio)
    part = np.linspace(0, 1, _STILL_PLACES)[:, None]
    return np.hstack([part * (np.array(size) - crop), np.tile(np.array(crop, float), (_STILL_PLACES, 1))])


def compare(clip: Clip, track: SaliencyTrack, options: ReframeOptions) -> dict[str, tuple[float, float]]:
    """(share, motion) of each way to crop a clip."""
    stills = still_crops(clip.size, options.ratio)
    seen = sum(track.maps_at(clip.times), np.zeros((192, 256)))
    rows, columns = (np.arange(192) + 0.5) / 192 * clip.size[1], (np.arange(256) + 0.5) / 256 * clip.size[0]
    held = [
        seen[np.ix_((rows >= y) & (rows < y + height), (columns >= x) & (columns < x + width))].sum()
        for x, y, width, height in stills
    ]
    people = np.array([share_inside(clip, box) for box in stills])
    new_shot = np.array([track.is_cut(time) for time in clip.times])

    def moving(path: CropPath) -> tuple[float, float]:
        boxes = np.array([path.at(time) for time in clip.times], float)
        return share_inside(clip, boxes), motion(boxes, clip.size, new_shot)

    return {
        "center": (float(people[_STILL_PLACES // 2]), 0.0),
        "best still crop by saliency": (float(people[int(np.argmax(held))]), 0.0),
        "tinyhd reframe": moving(plan_crop(track, options)),
        "best still crop in hindsight": (float(people.max()), 0.0),
        "same planner in hindsight": moving(plan_crop(track_of_fixations(clip, track.cuts.tolist()), options)),
    }


# ---- RetargetVid


def read_annotation(path: Path) -> np.ndarray:
    """Left, top, right, bottom of each frame, (frames, 4), as one of RetargetVid's text files has them.

    Raises:
        InputError: the file cannot be read or is not like that.
    """
    try:
        with path.open(newline="") as file:
            boxes = np.array([[int(value) for value in row[:4]] for row in csv.reader(file) if row])
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError("a line has not four numbers")
    except (OSError, ValueError) as error:
        raise InputError(f"the annotation {str(path)!r} cannot be read: {error}.") from error
    return np.maximum(boxes, 0)


def overlap(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Mean intersection over union of crops, (frames, 4) each: left, top, right, bottom, the last pixels included."""
    ours, theirs = ours[: len(theirs)], theirs[: len(ours)]
    corners = np.maximum(ours[:, :2], theirs[:, :2]), np.minimum(ours[:, 2:], theirs[:, 2:])
    shared = np.maximum(corners[1] - corners[0] + 1, 0).prod(1)
    areas = sum((boxes[:, 2:] - boxes[:, :2] + 1).prod(1) for boxes in (ours, theirs))
    return float((shared / (areas - shared)).mean())


def compare_with_annotators(
    video: Path, track: SaliencyTrack, annotations: Path, aspect: str
) -> dict[str, list[float]]:
    """Mean intersection over union, in percent, with each annotator's crop of a video."""
    with open_video(video) as reader:
        times = [frame.time_seconds for frame in reader]
        size = (reader.info.width, reader.info.height)
    path = plan_crop(track, ReframeOptions(aspect=aspect))
    center = still_crops(size, ReframeOptions(aspect=aspect).ratio)[_STILL_PLACES // 2].round()
    boxes = {"center": np.tile(center, (len(times), 1)), "tinyhd reframe": np.array([path.at(t) for t in times])}
    found: dict[str, list[float]] = {}
    for name, crops in boxes.items():
        corners = np.hstack([crops[:, :2], crops[:, :2] + crops[:, 2:]])
        files = sorted(annotations.glob(f"annotator_*/{video.stem}_{aspect.replace(':', '-')}.txt"))
        found[name] = [100 * overlap(corners, read_annotation(file)) for file in files]
    return found


# ---- the command


def run(arguments: Sequence[str] | None = None) -> None:
    """What the command does. Raises `TinyHDError` for what the user can put right."""
    parser = argparse.ArgumentParser("benchmark.reframing", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="videos, and fixations.npz")
    add("--aspect", default="9:16", metavar="W:H", help="default: 9:16")
    add("--tracks", type=Path, metavar="DIR", help="take NAME.track.npz from there, and keep there what is missing")
    add("--retargetvid", type=Path, metavar="DIR", help="RetargetVid's annotations, unpacked")
    options = parser.parse_args(arguments)
    if options.retargetvid:
        _print_overlaps(options.folder, options.retargetvid, options.tracks)
    else:
        _print_shares(options.folder, ReframeOptions(aspect=options.aspect), options.tracks)


main = command(run)


def _track(video: Path, folder: Path | None) -> SaliencyTrack:
    kept = None if folder is None else folder / f"{video.stem}.track.npz"
    return SaliencyTrack(kept) if kept and kept.exists() else analyze(video, kept)


def _print_shares(folder: Path, options: ReframeOptions, tracks: Path | None) -> None:
    results = []
    for video, clip in read_clips(folder):
        with _track(video, tracks) as track:
            results.append(compare(clip, track, options))
        print(f"{video.name}: " + ", ".join(f"{name} {share:.3f}" for name, (share, _) in results[-1].items()))
    means: Mapping[str, np.ndarray] = {name: np.mean([r[name] for r in results], axis=0) for name in results[0]}
    low, high = means["center"][0], means["best still crop in hindsight"][0]
    print(f"\n{options.ratio:.4f}, mean over {len(results)} videos:   share   motion   of the way to hindsight")
    for name, (share, moved) in means.items():
        print(f"{name:<34}{share:8.3f}{moved:9.2f}{(share - low) / (high - low):12.0%}")


def _print_overlaps(folder: Path, annotations: Path, tracks: Path | None) -> None:
    for aspect in ("1:3", "3:1"):
        videos = sorted(
            {path.name.partition("_")[0] for path in annotations.glob(f"*/*_{aspect.replace(':', '-')}.txt")}
        )
        found = []
        for stem in videos:
            for video in sorted(folder.glob(f"{stem}.*"))[:1]:
                with _track(video, tracks) as track:
                    found.append(compare_with_annotators(video, track, annotations, aspect))
        if not found:
            raise InputError(f"there is no video in {str(folder)!r} that {str(annotations)!r} has crops of.")
        for name in found[0]:
            print(
                f"{aspect} {name:<20}{np.mean([np.mean(result[name]) for result in found]):6.1f}  ({len(found)} videos)"
            )


if __name__ == "__main__":
    sys.exit(main())
