"""Detections of a dataset: how much attention falls into them, and as regions for crops and reports."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from fiftyone.core.collections import SampleCollection

from tinyhd.saliency.boxes import MovingBox
from tinyhd.saliency.regions import share_in_boxes
from tinyhd.video.frame import VideoInfo

from .media import app_rate, dataset_of
from .settings import detection_path

_GAP_SECONDS = 1.0
"""Between two frames with a detection that are farther apart it is taken to be gone."""

Box = tuple[float, float, float, float]


def moving_boxes(
    videos: SampleCollection, sample_id: str, names: Sequence[str], info: VideoInfo, *, as_one: bool
) -> list[MovingBox]:
    """The detections of a video as regions.

    Args:
        videos: `all_videos` of the dataset.
        names: frame fields with detections.
        info: of the video.
        as_one: one region for each field, the box around all of its detections in a frame; otherwise one for each
            label, and for each `index` of it, where detections are tracked: what has the same name in a frame counts
            as the box around all of it.

    Returns:
        regions at the times of the App's frames, in fractions of the picture, none outside of it.
    """
    [metadata] = videos.select(sample_id).values("metadata")
    rate = app_rate(metadata, info)
    regions: list[MovingBox] = []
    for name in names:
        path = detection_path(dataset_of(videos), name)
        columns = ["frames.frame_number", *(f"{path}.{part}" for part in ("bounding_box", "label", "index"))]
        found = [values[0] or () for values in videos.select(sample_id).values(columns)]
        seen: dict[str, dict[int, list[Box]]] = {}
        for number, boxes, labels, indices in zip(*found, strict=True):
            if not boxes:
                continue
            if path == f"frames.{name}":  # one detection a frame
                boxes, labels, indices = [boxes], [labels], [indices]
            for box, label, index in zip(boxes, labels, indices, strict=True):
                called = name if as_one else f"{label or name}{'' if index is None else f' {index}'}"
                seen.setdefault(called, {}).setdefault(number, []).append(tuple(box))
        regions += [_moving(called, seen[called], rate, info) for called in sorted(seen)]
    return regions


def _moving(name: str, seen: dict[int, list[Box]], rate: Fraction, info: VideoInfo) -> MovingBox:
    numbers = sorted(seen)
    times: list[float] = []
    boxes: list[Box | None] = []
    for number, following in zip(numbers, [*numbers[1:], None], strict=True):
        corners = np.array([(x, y, x + width, y + height) for x, y, width, height in seen[number]])
        left, top, right, bottom = np.clip([*corners[:, :2].min(0), *corners[:, 2:].max(0)], 0, 1).tolist()
        times.append(float((number - 1) / rate - info.start_time))
        boxes.append((left, top, right, bottom))
        if following is None or (following - number) / rate > _GAP_SECONDS:
            times.append(float(number / rate - info.start_time))
            boxes.append(None)
    return MovingBox(name, tuple(times), tuple(boxes))


class SharesInBoxes:
    """The detections of one video in one field, and the attention inside each."""

    def __init__(self, videos: SampleCollection, sample_id: str, name: str, attribute: str) -> None:
        dataset = dataset_of(videos)
        self._videos, self._id = videos, sample_id
        self._path = detection_path(dataset, name)
        self._attribute = attribute
        self._is_list = self._path != f"frames.{name}"
        view = videos.select(sample_id)
        [numbers], [boxes] = view.values(["frames.frame_number", f"{self._path}.bounding_box"])
        self._boxes = {
            number: np.array(found if self._is_list else [found], float)
            for number, found in zip(numbers, boxes, strict=True)
            if found
        }
        self._shares: dict[int, object] = {}

    def add(self, number: int, saliency: np.ndarray) -> None:
        """Take the map at a frame number of the App."""
        boxes = self._boxes.get(number)
        if boxes is None:
            return
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        shares = share_in_boxes(saliency, corners).tolist()
        self._shares[number] = shares if self._is_list else shares[0]

    def save(self) -> None:
        """Write to the database."""
        if self._shares:
            path = f"{self._path}.{self._attribute}"
            self._videos.set_values(path, {self._id: self._shares}, key_field="id", expand_schema=False)
