"""Scores models against people's fixations: `python -m training.evaluate --help`.

A frame's scores are averaged over the frames of its video, and those means over the videos, so that a long video counts
no more than a short one. Everything is computed on maps of 192x256. Nothing is random.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from tinyhd.errors import InputError, OptionError, OutputError
from tinyhd.inference.backends import Backend, open_backend
from tinyhd.inference.predict import predict_frames, sampling_stride
from tinyhd.network.config import CLIP_LENGTH, MAP_HEIGHT, MAP_WIDTH
from tinyhd.options import BACKENDS, PRECISIONS, WINDOWINGS, InferenceOptions
from tinyhd.video.frame import Frame
from tinyhd.video.reader import open_video, probe
from training import metrics
from training.commands import command
from training.datasets import LabelledVideo, read_dhf1k, read_hollywood2, read_ucf_sports
from training.fixations import (
    DensityMap,
    FixationPoints,
    ImageFixations,
    VideoFixations,
    center_prior,
    read_image_fixations,
    read_video_fixations,
)

METRICS = ("NSS", "AUC-Judd", "sAUC", "CC", "SIM", "KLD", "IG")
"""As in `training.metrics`; the information gain (IG) is over the center prior."""


@dataclass(frozen=True)
class Protocol:
    """Which frames are scored, and against what.

    Raises:
        OptionError: a value that is not allowed.
    """

    first: int = 20
    """Number (0-based) of the first frame of a video that is scored."""
    every: int = 10
    """Frames from one scored frame to the next."""
    min_fixations: int = 5
    """Frames with fewer fixations are left out."""
    density_sigma_pixels: float = 6.0
    """Blur of the density maps made from fixations, in pixels of 192x256; data sets with their own maps keep those."""

    def __post_init__(self) -> None:
        if self.first < 0 or self.every < 1 or self.min_fixations < 1:
            raise OptionError("the first frame must be 0 or later, the step and the fewest fixations 1 or more.")

    def scores(self, index: int) -> bool:
        """Whether frame `index` of a video is to be scored."""
        return index >= self.first and (index - self.first) % self.every == 0


class Sample(NamedTuple):
    """A predicted map with what people looked at in that frame."""

    video: str
    map: NDArray[np.floating]
    """(192, 256), not negative; meaningful up to scale."""
    fixations: FixationPoints
    density: DensityMap | None = None
    """The data set's own density map (192, 256); None: made from the fixations."""
    frame: int = 0
    """Number (0-based) of the frame in its video."""


@dataclass
class VideoScores:
    """Means over the scored frames of one video, or the scores of one picture."""

    name: str
    frames_scored: int = 0
    frames_with_few_fixations: int = 0
    """Left out for having fewer than the protocol asks for, but some."""
    frames_without_fixation: int = 0
    """Left out for having none."""
    scores: dict[str, float] = field(default_factory=dict)
    """By metric; empty where no frame was scored."""


@dataclass
class Scores:
    """One model's scores on a data set."""

    videos: list[VideoScores]

    @property
    def mean(self) -> dict[str, float]:
        """Means over the videos that have scores."""
        scored = [video.scores for video in self.videos if video.scores]
        return {name: float(np.mean([s[name] for s in scored])) for name in METRICS if scored and name in scored[0]}

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        counts = ("frames_scored", "frames_with_few_fixations", "frames_without_fixation")
        return {
            "mean": self.mean,
            "videos_scored": sum(bool(video.scores) for video in self.videos),
            **{count: sum(getattr(video, count) for video in self.videos) for count in counts},
            "videos": [asdict(video) for video in self.videos],
        }


def evaluate_maps(
    samples: Iterable[Sample],
    protocol: Protocol | None = None,
    pool: Mapping[str, FixationPoints] | None = None,
) -> Scores:
    """Score maps that are already there; the samples decide which frames.

    Args:
        samples: in any order; those of one video may be apart.
        protocol: what it says about fixations and densities is used.
        pool: fixations of every video by name, for the shuffled AUC, whose negatives are those of the other videos;
            without it that metric is left out.

    Raises:
        InputError: a map or density has the wrong size or values.
    """
    protocol = protocol or Protocol()
    baseline = center_prior(MAP_HEIGHT, MAP_WIDTH)
    videos: dict[str, VideoScores] = {}
    sums: dict[str, dict[str, float]] = {}
    others: tuple[str, FixationPoints | None] = "", None
    for sample in samples:
        name = sample.video
        video = videos.setdefault(name, VideoScores(name))
        if len(sample.fixations) < protocol.min_fixations:
            if len(sample.fixations):
                video.frames_with_few_fixations += 1
            else:
                video.frames_without_fixation += 1
            continue
        if pool and others[0] != name:
            negatives = FixationPoints.joined(points for other, points in pool.items() if other != name)
            others = name, negatives if len(negatives) else None
        scores = _score(sample, protocol, others[1], baseline)
        total = sums.setdefault(name, dict.fromkeys(scores, 0.0))
        for metric, score in scores.items():
            total[metric] += score
        video.frames_scored += 1
    for name, total in sums.items():
        videos[name].scores = {metric: value / videos[name].frames_scored for metric, value in total.items()}
    return Scores(list(videos.values()))


def _score(sample: Sample, protocol: Protocol, others: FixationPoints | None, baseline: DensityMap) -> dict[str, float]:
    density = sample.density or DensityMap.from_fixations(
        sample.fixations, MAP_HEIGHT, MAP_WIDTH, protocol.density_sigma_pixels
    )
    scores = {
        "NSS": metrics.nss(sample.map, sample.fixations),
        "AUC-Judd": metrics.auc_judd(sample.map, sample.fixations),
    }
    if others is not None:
        scores["sAUC"] = metrics.auc_shuffled(sample.map, sample.fixations, others)
    return scores | {
        "CC": metrics.cc(sample.map, density),
        "SIM": metrics.sim(sample.map, density),
        "KLD": metrics.kld(sample.map, density),
        "IG": metrics.information_gain(sample.map, sample.fixations, baseline),
    }


class Truth(NamedTuple):
    """What is known about a frame."""

    fixations: FixationPoints
    density: DensityMap | None


@dataclass(frozen=True)
class Item:
    """One video or picture of a data set."""

    name: str
    frames: Callable[[], Generator[tuple[Frame, Truth | None], None, None]]
    """The frames, with the truth of those that are scored; for a picture the same 16 times, the truth with the last."""
    all_fixations: Callable[[], FixationPoints]
    """Negatives for the shuffled AUC of the other items."""
    is_still: bool
    stride: Callable[[float], int] = lambda rate: 1
    """Gives, for samples a second, N, where every Nth frame is a sample (see `sampling_stride`)."""
    path: Path | None = None
    """The file; None where frames are files of their own."""


def video_items(videos: Sequence[VideoFixations], protocol: Protocol) -> list[Item]:
    """Items of videos with timed fixations; a frame has the fixations that are under way at its timestamp."""

    def frames(video: VideoFixations) -> Generator[tuple[Frame, Truth | None], None, None]:
        with open_video(video.path) as reader:
            for frame in reader:
                time_ms = float(1000 * frame.pts * reader.info.time_base)
                yield frame, Truth(video.at(time_ms), None) if protocol.scores(frame.index) else None

    def stride(video: VideoFixations, rate: float) -> int:
        return sampling_stride(rate, probe(video.path)) if rate else 1

    return [
        Item(v.name, partial(frames, v), partial(FixationPoints, v.x, v.y), False, partial(stride, v), v.path)
        for v in videos
    ]


def image_items(images: Sequence[ImageFixations]) -> list[Item]:
    """Items of pictures with fixations: a clip of 16 equal frames each."""

    def frames(image: ImageFixations) -> Generator[tuple[Frame, Truth | None], None, None]:
        with open_video(image.path) as reader:
            frame = next(reader)
        for index in range(CLIP_LENGTH):
            yield frame, Truth(image.points, None) if index == CLIP_LENGTH - 1 else None

    return [
        Item(i.name, partial(frames, i), partial(FixationPoints, i.points.x, i.points.y), True, path=i.path)
        for i in images
    ]


def labelled_items(videos: Sequence[LabelledVideo], protocol: Protocol) -> list[Item]:
    """Items of videos with fixation and density maps per frame."""

    def truth(video: LabelledVideo, index: int) -> Truth:
        density = video.density(index)
        return Truth(video.fixations(index), density and density.resized(MAP_HEIGHT, MAP_WIDTH))

    def frames(video: LabelledVideo) -> Generator[tuple[Frame, Truth | None], None, None]:
        for index, rgb in enumerate(video.frames()):
            frame = Frame(index, index, Fraction(index), av.VideoFrame.from_ndarray(rgb, format="rgb24"))
            yield frame, truth(video, index) if protocol.scores(index) else None

    def all_fixations(video: LabelledVideo) -> FixationPoints:
        return FixationPoints.joined(video.fixations(i) for i in range(len(video)) if protocol.scores(i))

    return [Item(v.name, partial(frames, v), partial(all_fixations, v), is_still=False) for v in videos]


def _timed(folder: Path, _split: str, protocol: Protocol) -> list[Item]:
    return video_items(read_video_fixations(folder), protocol)


def _images(folder: Path, split: str, _protocol: Protocol) -> list[Item]:
    return image_items(read_image_fixations(folder, split))


@dataclass(frozen=True)
class Dataset:
    """How a data set is read."""

    read: Callable[[Path, str, Protocol], list[Item]]
    splits: tuple[str, ...]
    """The first one is scored where none is named."""


DATASETS = {
    "muvfet": Dataset(_timed, ("all",)),
    "osie": Dataset(_images, ("held-out", "train", "all")),
    "sun500": Dataset(_images, ("held-out", "train", "all")),
    "eyecrowd": Dataset(_images, ("all",)),
    "figrim": Dataset(_images, ("held-out", "train", "all")),
    "fiwi": Dataset(_images, ("held-out", "train", "all")),
    "tis": Dataset(_images, ("held-out", "train", "all")),
    "dhf1k": Dataset(lambda f, s, p: labelled_items(read_dhf1k(f, s), p), ("validation", "train")),
    "hollywood2": Dataset(lambda f, s, p: labelled_items(read_hollywood2(f, s), p), ("test", "train")),
    "ucf-sports": Dataset(lambda f, s, p: labelled_items(read_ucf_sports(f, s), p), ("test", "train")),
}
"""By name; muvfet reads any folder of videos with `fixations.npz`, osie and the other sets of images any of images: the
folder's name tells how many are held out."""


class Predictor:
    """Maps of one model for the scored frames of an item, through the same pipeline that users have.

    Args:
        backend: the model.
        options: how; cuts are not looked for in the clips of stills.
    """

    def __init__(self, backend: Backend, options: InferenceOptions | None = None) -> None:
        self.backend, self.options = backend, options or InferenceOptions()

    def __call__(self, item: Item) -> Iterator[Sample]:
        """One sample for each scored frame. A picture's map is the mean over the maps of its clip, up to scale."""
        truths: list[Truth | None] = []

        def frames() -> Iterator[Frame]:
            with closing(item.frames()) as source:
                for frame, truth in source:
                    truths.append(truth)
                    yield frame

        rate = self.options.sampling_rate
        every = item.stride(self.backend.sampling_rate if rate is None else rate)
        backend = self.backend
        if backend.maps_per_clip == 1 and every == 1:
            backend = _NeededOnly(backend, lambda k: truths[k] is not None)
        options = replace(self.options, cuts=self.options.cuts and not item.is_still)
        clip: list[NDArray[np.floating]] = []
        for index, prediction in enumerate(predict_frames(frames(), backend, options, every=every)):
            if item.is_still:
                clip.append(prediction.map)
            if (truth := truths[index]) is not None:
                saliency = np.mean(clip, 0) if item.is_still else prediction.map
                yield Sample(item.name, saliency, *truth, prediction.frame.index)


class _NeededOnly:
    """Leaves out the windows of a model with one map per clip whose map nobody asks for: it gives zeros for them.

    Such a model has one window for each frame, in order, whatever the windowing.
    """

    def __init__(self, backend: Backend, needed: Callable[[int], bool]) -> None:
        self.backend, self.needed = backend, needed
        self.maps_per_clip, self.map_shape = backend.maps_per_clip, backend.map_shape
        self.display_scale, self.sampling_rate = backend.display_scale, backend.sampling_rate
        self.model_name, self.model_hash = backend.model_name, backend.model_hash
        self.count = 0

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        result = np.zeros((len(clips), 1, *self.map_shape), np.float32)
        wanted = [k for k in range(len(clips)) if self.needed(self.count + k)]
        self.count += len(clips)
        if wanted:
            result[wanted] = self.backend(clips[wanted])
        return result


def center_samples(item: Item) -> Iterator[Sample]:
    """The center prior's sample for each scored frame."""
    prior = center_prior(MAP_HEIGHT, MAP_WIDTH).values
    for frame, truth in item.frames():
        if truth is not None:
            yield Sample(item.name, prior, *truth, frame.index)


def evaluate(
    items: Sequence[Item],
    models: Mapping[str, Callable[[Item], Iterable[Sample]]],
    protocol: Protocol | None = None,
    ensemble: bool = False,
    progress: bool = False,
) -> dict[str, Scores]:
    """Score several models side by side on the same frames.

    Args:
        models: by the name in the result; `Predictor` or `center_samples`, or whatever gives samples.
        ensemble: also score the mean of all `models` but the center prior, each map divided by its sum.

    Raises:
        InputError: a file cannot be read.
    """
    pool = {item.name: item.all_fixations() for item in items}
    members = [name for name, model in models.items() if model is not center_samples]
    if ensemble and len(members) < 2:
        raise OptionError("an ensemble needs at least two models.")
    # one video after the other, and all of its maps, so that memory does not grow with the data set
    parts: dict[str, list[VideoScores]] = {name: [] for name in (*models, *(["ensemble"] if ensemble else []))}
    with tqdm(total=len(items) * len(models), unit="video", disable=not progress) as bar:
        for item in items:
            samples = {}
            for name, model in models.items():
                bar.set_postfix_str(f"{name}, {item.name}")
                samples[name] = list(model(item))
                bar.update()
            if ensemble:
                samples["ensemble"] = [_mean(same) for same in zip(*(samples[m] for m in members), strict=True)]
            for name, mine in samples.items():
                parts[name] += evaluate_maps(mine, protocol, pool).videos
    return {name: Scores(videos) for name, videos in parts.items()}


def _mean(samples: Sequence[Sample]) -> Sample:
    return samples[0]._replace(map=np.mean([metrics.as_probability(s.map.astype(np.float64)) for s in samples], 0))


def format_table(results: Mapping[str, Scores]) -> str:
    """One line per model, one column per metric."""
    width = max(len(name) for name in (*results, "model"))
    lines = [f"{'model':{width}}" + "".join(f"{name:>10}" for name in METRICS)]
    for name, scores in results.items():
        mean = scores.mean
        cells = (f"{mean.get(metric, math.nan):10.3f}" for metric in METRICS)
        lines.append(f"{name:{width}}" + "".join(cells))
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate",
        description="Score models against people's fixations: prints a table and writes JSON with a row per video.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    defaults = Protocol()
    parser.add_argument("--dataset", required=True, choices=DATASETS, help="what kind of data")
    parser.add_argument("--data", required=True, type=Path, metavar="FOLDER", help="where it is")
    parser.add_argument("--split", help="part of the data set; by default its validation or test part")
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME_OR_PATH", help="a model; may be given several times"
    )
    parser.add_argument("--ensemble", action="store_true", help="also score the mean of the models' maps")
    parser.add_argument("--baseline", choices=["center"], help="also score a Gaussian at the frame's center")
    parser.add_argument("--first", type=int, default=defaults.first, help="first frame of a video that is scored")
    parser.add_argument("--every", type=int, default=defaults.every, help="frames from one scored frame to the next")
    parser.add_argument(
        "--min-fixations", type=int, default=defaults.min_fixations, help="leave out frames with fewer fixations"
    )
    parser.add_argument("--windowing", choices=WINDOWINGS, default=WINDOWINGS[0], help="how clips follow each other")
    parser.add_argument(
        "--cuts", action=argparse.BooleanOptionalAction, default=True, help="start over at each shot cut"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="what computes")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of the model's arithmetic")
    parser.add_argument("--sampling-rate", type=float, metavar="HZ", help="frames a second (default: the model's own)")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where the JSON goes (default: evaluation_DATASET.json)"
    )
    return parser


def run(arguments: Sequence[str] | None = None) -> None:
    """What the command does. Raises `TinyHDError` for what the user can put right."""
    options = _parser().parse_args(arguments)
    dataset = DATASETS[options.dataset]
    split = options.split or dataset.splits[0]
    if split not in dataset.splits:
        raise OptionError(f"{options.dataset} has no split {split!r}; it must be one of {', '.join(dataset.splits)}.")
    if not options.model and not options.baseline:
        raise OptionError("there is nothing to score; name a --model or a --baseline.")
    output = options.output or Path(f"evaluation_{options.dataset}.json")
    if not output.parent.is_dir():
        raise OutputError(f"there is no folder {output.parent} to write {output.name} to.")
    protocol = Protocol(options.first, options.every, options.min_fixations)
    items = dataset.read(options.data, split, protocol)
    models: dict[str, Callable[[Item], Iterable[Sample]]] = {}
    for name in options.model:
        label = Path(name).stem
        if label in models:
            raise OptionError(f"two models are called {label}; rename one of the files.")
        inference = InferenceOptions(
            model=name,
            device=options.device,
            backend=options.backend,
            precision=options.precision,
            windowing=options.windowing,
            sampling_rate=options.sampling_rate,
            cuts=options.cuts,
        )
        models[label] = Predictor(open_backend(inference), inference)
    if options.baseline:
        models["center prior"] = center_samples
    results = evaluate(items, models, protocol, options.ensemble, progress=True)
    if not any(video.scores for scores in results.values() for video in scores.videos):
        raise InputError(f"no frame has {protocol.min_fixations} fixations; lower --min-fixations or --first.")
    print(format_table(results))
    first = next(iter(results.values())).to_dict()
    print(
        f"{first['frames_scored']} frames of {first['videos_scored']} videos or pictures; left out are "
        f"{first['frames_without_fixation']} frames without a fixation and {first['frames_with_few_fixations']} with "
        f"fewer than {protocol.min_fixations}."
    )
    report = {
        "dataset": options.dataset,
        "split": split,
        "protocol": {
            **asdict(protocol),
            "map_height": MAP_HEIGHT,
            "map_width": MAP_WIDTH,
            "mean": "per frame, then over the frames of a video, then over videos",
            "shuffled_auc": "negatives are all fixations of all other videos; nothing is drawn at random",
            "information_gain": "bits per fixation over the center prior",
            "seed": None,
        },
        "pipeline": {
            key: getattr(options, key)
            for key in ("windowing", "cuts", "backend", "precision", "sampling_rate", "device")
        },
        "results": {name: scores.to_dict() for name, scores in results.items()},
    }
    try:
        output.write_text(json.dumps(report, indent=1) + "\n")
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror}.") from error
    print(f"per video: {output}")


main = command(run)


if __name__ == "__main__":
    sys.exit(main())
