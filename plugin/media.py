"""What the plugin has to know about a dataset's video files."""

import math
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone import ViewField as F
from fiftyone.core.clips import ClipsView
from fiftyone.core.collections import SampleCollection
from fiftyone.core.patches import PatchesView
from fiftyone.core.video import FramesView

from tinyhd.applications.moments import Span
from tinyhd.errors import OptionError
from tinyhd.pipeline.analyze import Prediction
from tinyhd.video.frame import VideoInfo
from tinyhd.video.playback import constant_rate

_FRAME_DEFAULTS = ("id", "frame_number", "created_at", "last_modified_at")

FAINT = 0.2
"""Displayed attention below which nothing is drawn: the App draws every other value opaquely."""


def without_faint(shown: np.ndarray) -> np.ndarray:
    """A map as it is displayed, in [0, 1], with zero where attention is faint, and no step there."""
    return np.clip((shown - FAINT) / (1 - FAINT), 0, 1)


def check_videos(samples: SampleCollection) -> None:
    """Raises `OptionError` where samples are not whole videos."""
    if isinstance(samples, ClipsView | FramesView | PatchesView):
        raise OptionError("clips, frames and patches cannot be used: choose whole videos, such as the dataset.")
    if samples.media_type != "video":
        raise OptionError(f"these samples are of type {samples.media_type}, not videos.")


def dataset_of(samples: SampleCollection) -> fo.Dataset:
    """The dataset that samples belong to: the very object, as another one would have a schema of its own in the App's
    server, where FiftyOne keeps no single object for each dataset."""
    return samples._root_dataset


def all_videos(dataset: fo.Dataset) -> SampleCollection:
    """Every video of a dataset, whichever group slice it is in."""
    return dataset.select_group_slices(media_type="video") if dataset.media_type == "group" else dataset


def whole_videos(samples: SampleCollection) -> tuple[fo.Dataset, SampleCollection]:
    """The dataset that samples belong to, and all of its videos. Raises `OptionError` where they are not videos."""
    check_videos(samples)
    dataset = dataset_of(samples)
    return dataset, all_videos(dataset)


def delete_empty_frames(dataset: fo.Dataset) -> None:
    """Remove the frame documents that hold nothing at all, as the removal of a field leaves them."""
    own = [name for name in dataset.get_frame_field_schema() if name not in _FRAME_DEFAULTS]
    condition = F("frame_number") > 0
    for name in own:
        condition = condition & (F(name) == None)  # noqa: E711 - for the database
    empty = all_videos(dataset).match_frames(condition)
    ids = [i for found in empty.values("frames.id") for i in found or ()]
    if ids:
        dataset.delete_frames(ids)


THUMBNAIL = "thumbnail.jpg"
"""In the folder of a video's maps: the frame in which attention is most gathered."""

DEFAULT_FOLDER = "saliency"
"""For maps, beside the media."""


def default_folder(dataset: fo.Dataset, filepath: str, name: str = DEFAULT_FOLDER) -> Path:
    """Where files made for a dataset go: beside its media, or in FiftyOne's own folder where that is read-only."""
    beside = Path(filepath).parent
    if not os.access(beside, os.W_OK):
        beside = Path(fo.config.default_dataset_dir) / dataset.name
    return beside / name


def app_rate(metadata: Any, info: VideoInfo) -> Fraction:
    """Frames per second at which the App counts the frames of a video: by its metadata, where it has some."""
    known = getattr(metadata, "frame_rate", None)
    return Fraction(known).limit_denominator(100_000) if known else constant_rate(info)


def app_number(info: VideoInfo, rate: Fraction, seconds: float | Fraction) -> int:
    """The number, from 1 on, at which the App shows what starts at a time, in seconds after the container's start.

    Number n stands for the time (n - 1) / rate on the file's own clock, and players show the last frame that starts
    before: a frame that starts less than half a number later belongs to n.
    """
    return math.floor((info.start_time + Fraction(seconds)) * rate + Fraction(1, 2)) + 1


def app_frames(
    predictions: Iterable[Prediction], rate: Fraction, info: VideoInfo
) -> Iterator[tuple[range, Prediction]]:
    """Each prediction with the frame numbers at which the App shows its frame.

    Frames of variable rates have several numbers or none, and a late first frame has all numbers before it.
    """
    waiting: Prediction | None = None
    first = 1
    for prediction in predictions:
        number = app_number(info, rate, prediction.frame.time)
        if waiting is not None:
            yield range(first, number), waiting
            first = max(first, number)
        waiting = prediction
    if waiting is not None:
        yield range(first, first + 1), waiting


def last_number(metadata: Any, frames: int) -> int:
    """The number of a video's last frame in the App: by its metadata, where it has some, or the number of frames."""
    return getattr(metadata, "total_frame_count", None) or frames


def time_labels(
    info: VideoInfo,
    rate: Fraction,
    last: int,
    moments: Iterable[tuple[float, float, float]],
    focused: Iterable[Span],
    scattered: Iterable[Span],
) -> fo.TemporalDetections:
    """Key moments and spans as labels on the App's time line.

    Args:
        rate, last: as `app_rate` and `last_number` give them.
        moments: start and end in seconds after the container's start, and the score, 0 to 1.
    """
    rows = [("key moment", *moment) for moment in moments]
    for name, spans in (("focused", focused), ("scattered", scattered)):
        rows += [(name, span.start_seconds, span.end_seconds, span.score) for span in spans]
    labels = []
    for name, start, end, score in rows:
        first, final = (min(max(app_number(info, rate, time), 1), last) for time in (start, end))
        labels.append(fo.TemporalDetection(label=name, support=[first, final], confidence=score))
    return fo.TemporalDetections(detections=labels)


def metadata_of(info: VideoInfo, frames: int | None = None) -> fo.VideoMetadata:
    """What `compute_metadata` would find with ffprobe, which not every machine has."""
    return fo.VideoMetadata(
        size_bytes=os.path.getsize(info.path),
        mime_type="video/mp4" if info.container.startswith("mov") else None,
        frame_width=info.width,
        frame_height=info.height,
        frame_rate=float(constant_rate(info)),
        total_frame_count=frames or info.frame_count,
        duration=info.duration_seconds,
        encoding_str=info.codec,
    )
