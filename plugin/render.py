"""New video files for a dataset: with the heat map drawn in, cut to another aspect, and copies that every browser plays
frame for frame."""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import fiftyone as fo
from fiftyone.core.collections import SampleCollection

import tinyhd
from tinyhd.applications.crop import CropPath, read_path
from tinyhd.pipeline.outputs import Result
from tinyhd.video.frame import VideoInfo
from tinyhd.video.playback import browser_plays, reencode

from .boxes import moving_boxes
from .compute import FRAMES_AT_ONCE
from .media import app_rate, last_number, metadata_of, whole_videos
from .outputs import ORIGINAL, PLAYABLE, REENCODE_ERROR, declare, for_each_video, open_target, run_jobs
from .progress import Progress, RunSummary
from .settings import CROP, EncodeSettings, PlayableSettings, ReframeSettings, RenderSettings, detection_path


def render_videos(
    samples: SampleCollection,
    settings: RenderSettings,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Generator[Progress, None, RunSummary]:
    """Write a video with the heat map laid over it for each of some videos, as `tinyhd annotate` does.

    In a grouped dataset the new videos are a slice; otherwise their paths are in a field, which the App can show
    instead of the videos themselves (the choice "media field" of the grid and of a sample). Where a run of
    `compute_saliency` has kept the track of a video with the same model and options, the network is not run again.

    Args:
        samples, is_stopped: as for `compute`.

    Raises:
        OptionError, WeightsError: the work cannot begin.
    """
    if settings.reencode:
        copied = yield from reencode_videos(samples, is_stopped=is_stopped)
        if copied.cancelled:
            return copied
    return (yield from run_jobs(samples, settings, open_target(samples, settings), is_stopped))


def reframe_videos(
    samples: SampleCollection,
    settings: ReframeSettings,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Generator[Progress, None, RunSummary]:
    """Cut each of some videos to another aspect, by a crop that follows attention, as `tinyhd reframe` does.

    In a grouped dataset the new videos are a slice, otherwise a media field or new samples. The crop's path lies as a
    CSV file beside each of them, whose name is in a field of the source, and on the source's frames as a detection.
    What a run of `compute_saliency` has kept is used as in `render_videos`.

    Args:
        samples, is_stopped: as for `compute`.

    Raises:
        OptionError, WeightsError: the work cannot begin.
    """
    dataset, videos = whole_videos(samples)
    for name in settings.keep:
        detection_path(dataset, name)
    target = open_target(samples, settings, as_samples=settings.results == "new samples")
    declare(dataset, settings.crop_field, "The file with the path of the crop")
    if settings.boxes and not dataset.has_frame_field(settings.crop_field):
        dataset.add_frame_field(
            settings.crop_field, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detection, description=CROP
        )

    def more(sample_id: str, path: str, output: Path) -> dict[str, Any]:
        keep = moving_boxes(videos, sample_id, settings.keep, tinyhd.probe(path), as_one=True)
        return {"keep": keep, "save_path": str(output.with_suffix(".csv"))}

    def after(sample_id: str, result: Result) -> None:
        crop_file = result.output.with_suffix(".csv")
        videos.set_values(settings.crop_field, {sample_id: str(crop_file)}, key_field="id")
        if settings.boxes:
            info = tinyhd.probe(result.input)
            crop = read_path(crop_file, (info.width, info.height))
            _show_crop(videos, sample_id, settings.crop_field, crop, info, result.frames)

    return (yield from run_jobs(samples, settings, target, is_stopped, more, after))


def encode_videos(
    samples: SampleCollection,
    settings: EncodeSettings,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Generator[Progress, None, RunSummary]:
    """Encode each of some videos anew, with more of its bits where people look, as `tinyhd encode` does.

    The new videos go where those of `render_videos` go, and what a run of `compute_saliency` has kept is used as there.

    Args:
        samples, is_stopped: as for `compute`.

    Raises:
        OptionError, WeightsError: the work cannot begin.
    """
    return (yield from run_jobs(samples, settings, open_target(samples, settings), is_stopped))


def _show_crop(
    videos: SampleCollection, sample_id: str, field: str, path: CropPath, info: VideoInfo, frames: int
) -> None:
    """Put the crop on the source's frames, as the App numbers them."""
    [metadata] = videos.select(sample_id).values("metadata")
    rate = app_rate(metadata, info)
    numbers = range(1, last_number(metadata, frames) + 1)
    size = (info.width, info.height) * 2
    for first in range(0, len(numbers), FRAMES_AT_ONCE):
        boxes = {}
        for number in numbers[first : first + FRAMES_AT_ONCE]:
            crop = path.at(float((number - 1) / rate - info.start_time))
            bounds = [length / whole for length, whole in zip(crop, size, strict=True)]
            boxes[number] = fo.Detection(label="crop", bounding_box=bounds)
        videos.set_values(f"frames.{field}", {sample_id: boxes}, key_field="id", expand_schema=False)


def reencode_videos(
    samples: SampleCollection,
    settings: PlayableSettings = PlayableSettings(),  # noqa: B008 - frozen
    *,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Generator[Progress, None, RunSummary]:
    """Replace videos that not every browser plays by copies.

    The sample's `filepath` becomes that of an H.264 copy at a constant rate, made beside the file or in the output
    folder, and `original_filepath` keeps the old one; the old file stays. At every frame number the App shows the copy
    as it would have shown the source, so that saliency and labels stay where they are.

    Args:
        samples, is_stopped: as for `compute`.
    """
    _, videos = whole_videos(samples)

    def work(sample_id: str, path: str, output: Path, progress: Callable[[int, int | None], None]) -> int | None:
        info = tinyhd.probe(path)
        if browser_plays(info):
            return None
        frames = reencode(path, output, overwrite=True, progress=lambda done: progress(done, info.frame_count))
        sample = videos[sample_id]
        sample[ORIGINAL] = path
        sample.filepath = str(output)
        sample.metadata = metadata_of(tinyhd.probe(output), frames)
        sample.save()
        return frames

    outcome = RunSummary(REENCODE_ERROR)
    yield from for_each_video(samples, work, outcome, PLAYABLE, settings.output_dir, is_stopped)
    return outcome
