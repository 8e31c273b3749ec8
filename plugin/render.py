"""New video files for a dataset: with the heat map drawn in, cut to another aspect, and copies that every browser plays
frame for frame."""

from collections.abc import Callable, Generator
from pathlib import Path

import fiftyone as fo
from fiftyone.core.collections import SampleCollection

import tinyhd
from tinyhd.applications.crop import CropPath, read_path
from tinyhd.pipeline.batch import Job, run_job
from tinyhd.video.frame import VideoInfo
from tinyhd.video.playback import browser_plays, reencode

from .boxes import moving_boxes
from .compute import FRAMES_AT_ONCE, find_track
from .media import all_videos, app_rate, check_videos, dataset_of, metadata_of
from .outputs import ORIGINAL, PLAYABLE, REENCODE_ERROR, Target, Work, declare, for_each_video, open_target
from .progress import Progress, RunSummary
from .settings import CROP, ReframeSettings, RenderSettings, VideoSettings, detection_path


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
    check_videos(samples)
    if settings.reencode:
        copied = yield from reencode_videos(samples, is_stopped=is_stopped)
        if copied.cancelled:
            return copied
    dataset = dataset_of(samples)
    videos = all_videos(dataset)
    target = open_target(dataset, settings)
    backend = tinyhd.open_backend(settings.inference)

    def work(sample_id: str, path: str, output: Path, progress: Callable[[int, int | None], None]) -> int:
        result = run_job(
            Job(
                Path(path),
                output,
                inference=settings.inference,
                render=settings.render,
                encoder=settings.encoder,
                track=find_track(videos, sample_id, path, settings.inference, backend),
                overwrite=True,
            ),
            backend=backend,
            progress=progress,
        )
        target.add(sample_id, output)
        return result.frames

    return (yield from _make_videos(samples, settings, target, work, is_stopped))


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
    check_videos(samples)
    dataset = dataset_of(samples)
    videos = all_videos(dataset)
    for name in settings.keep:
        detection_path(dataset, name)
    target = open_target(dataset, settings, as_samples=settings.results == "new samples")
    declare(dataset, settings.crop_field, "The file with the path of the crop")
    if settings.boxes and not dataset.has_frame_field(settings.crop_field):
        dataset.add_frame_field(
            settings.crop_field, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detection, description=CROP
        )
    backend = tinyhd.open_backend(settings.inference)

    def work(sample_id: str, path: str, output: Path, progress: Callable[[int, int | None], None]) -> int:
        info = tinyhd.probe(path)
        crop_file = output.with_suffix(".csv")
        job = Job(
            Path(path),
            output,
            action="reframe",
            crop=settings.reframe,
            inference=settings.inference,
            encoder=settings.encoder,
            track=find_track(videos, sample_id, path, settings.inference, backend),
            keep=moving_boxes(videos, sample_id, settings.keep, info, as_one=True),
            save_path=str(crop_file),
            overwrite=True,
        )
        frames = run_job(job, backend=backend, progress=progress).frames
        videos.set_values(settings.crop_field, {sample_id: str(crop_file)}, key_field="id")
        if settings.boxes:
            crop = read_path(crop_file, (info.width, info.height))
            _show_crop(videos, sample_id, settings.crop_field, crop, info, frames)
        target.add(sample_id, output)
        return frames

    return (yield from _make_videos(samples, settings, target, work, is_stopped))


def _show_crop(
    videos: SampleCollection, sample_id: str, field: str, path: CropPath, info: VideoInfo, frames: int
) -> None:
    """Put the crop on the source's frames, as the App numbers them."""
    [metadata] = videos.select(sample_id).values("metadata")
    rate = app_rate(metadata, info)
    numbers = range(1, (getattr(metadata, "total_frame_count", None) or frames) + 1)
    size = (info.width, info.height) * 2
    for first in range(0, len(numbers), FRAMES_AT_ONCE):
        boxes = {}
        for number in numbers[first : first + FRAMES_AT_ONCE]:
            crop = path.at(float((number - 1) / rate - info.start_time))
            bounds = [length / whole for length, whole in zip(crop, size, strict=True)]
            boxes[number] = fo.Detection(label="crop", bounding_box=bounds)
        videos.set_values(f"frames.{field}", {sample_id: boxes}, key_field="id", expand_schema=False)


def _make_videos(
    samples: SampleCollection, settings: VideoSettings, target: Target, work: Work, is_stopped: Callable[[], bool]
) -> Generator[Progress, None, RunSummary]:
    def is_done(sample_id: str) -> bool:
        return target.is_own(sample_id) or (settings.skip_existing and target.has(sample_id))

    outcome = RunSummary(settings.error_field)
    yield from for_each_video(samples, work, outcome, settings.name, settings.output_dir, is_stopped, is_done)
    return outcome


def reencode_videos(
    samples: SampleCollection,
    output_dir: str | None = None,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Generator[Progress, None, RunSummary]:
    """Replace videos that not every browser plays by copies.

    The sample's `filepath` becomes that of an H.264 copy at a constant rate, made beside the file or in `output_dir`,
    and `original_filepath` keeps the old one; the old file stays. At every frame number the App shows the copy as it
    would have shown the source, so that saliency and labels stay where they are.

    Args:
        samples, is_stopped: as for `compute`.
    """
    check_videos(samples)
    videos = all_videos(dataset_of(samples))

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
    yield from for_each_video(samples, work, outcome, PLAYABLE, output_dir, is_stopped)
    return outcome
