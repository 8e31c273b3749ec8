"""The operators that work on videos: what they are called, what is special about their forms, and what they call."""

from collections.abc import Callable, Generator
from typing import Any, ClassVar

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types

from . import forms
from .base import VideoOperator, Work
from .estimate import estimate
from .media import DEFAULT_FOLDER, dataset_of
from .progress import Progress, RunSummary
from .runs import check_field, continued, last_speed, list_runs
from .settings import (
    DEFAULT_FIELD,
    EncodeSettings,
    Fields,
    MomentSettings,
    PlayableSettings,
    ReframeSettings,
    RenderSettings,
    ReportSettings,
    Settings,
)


class ComputeSaliency(VideoOperator):
    """Computes heat maps and statistics for every frame of videos; the parameters are those of `Settings`."""

    shown_as: ClassVar = {
        "name": "compute_saliency",
        "label": "Compute saliency: attention heatmaps of where people look",
        "description": "Heat maps on the frames of videos, and statistics to sort and filter by",
        "light_icon": "/assets/icon-light.svg",
        "dark_icon": "/assets/icon-dark.svg",
    }
    target, parameters, blamed, folder = "Compute saliency for", Settings, "field", DEFAULT_FOLDER

    def resolve_placement(self, ctx: foo.ExecutionContext) -> types.Placement:
        button = types.Button(label="Compute saliency", icon="visibility", prompt=True)
        return types.Placement(types.Places.SAMPLES_GRID_SECONDARY_ACTIONS, button)

    def start(
        self, samples: SampleCollection, params: dict[str, Any], is_stopped: Callable[[], bool]
    ) -> Generator[Progress, None, RunSummary]:
        return super().start(samples, continued(dataset_of(samples), params), is_stopped)

    def work_of(self) -> Work:
        from .compute import compute

        return compute

    def made_fields(self, params: dict[str, Any]) -> list[str]:
        return [Fields(params.get("field") or DEFAULT_FIELD).heatmap]

    def fill(self, ctx: foo.ExecutionContext, inputs: types.Object, samples: SampleCollection) -> None:
        unfinished = ("cancelled", "failed", "interrupted")
        begun = [run["field"] for run in list_runs(ctx.dataset) if run["state"] in unfinished]
        field = ctx.params.get("field") or (begun or [DEFAULT_FIELD])[0]
        earlier = continued(ctx.dataset, {"field": field})
        if len(earlier) > 1:
            about = f"This goes on with the run {field!r}: what is left empty is as it was there."
            forms.notice(inputs, "goes_on", about)
        settings = self.ask(ctx, inputs, samples, earlier)
        if settings is None:
            return
        from .compute import wanted

        todo = wanted(samples, settings)
        speed = last_speed(ctx.dataset, settings)
        left = dataset_of(samples).select(todo) if len(todo) < samples.count() else samples
        forms.notice(inputs, "estimate", estimate(left, settings.stride, speed, skipped=samples.count() - len(todo)))

    def validate(self, dataset: fo.Dataset, settings: Settings) -> None:
        super().validate(dataset, settings)
        check_field(dataset, settings)


class RenderSaliency(VideoOperator):
    """Writes videos with the heat map laid over them; the parameters are those of `RenderSettings`."""

    shown_as: ClassVar = {
        "name": "render_saliency",
        "label": "Render saliency: heatmap videos",
        "description": "New video files with the heat map of attention drawn in, as `tinyhd annotate` makes them",
        "icon": "movie_filter",
    }
    target, parameters = "Render saliency for", RenderSettings

    def work_of(self) -> Work:
        from .render import render_videos

        return render_videos


class AnnotateVideos(RenderSaliency):
    """The name that `render_saliency` had before, for one more release."""

    @property
    def config(self) -> foo.OperatorConfig:
        config = super().config
        config.name, config.unlisted = "annotate_videos", True
        return config


class ReframeVideos(VideoOperator):
    """Cuts videos to another aspect, following attention; the parameters are those of `ReframeSettings`."""

    shown_as: ClassVar = {
        "name": "reframe_videos",
        "label": "Reframe videos: a crop that follows attention (saliency)",
        "description": "New videos of another aspect, such as 9:16, as `tinyhd reframe` makes them",
        "icon": "crop_portrait",
    }
    target, parameters = "Reframe", ReframeSettings

    def work_of(self) -> Work:
        from .render import reframe_videos

        return reframe_videos

    def made_fields(self, params: dict[str, Any]) -> list[str]:
        settings = ReframeSettings.from_params({"name": params.get("name")})
        return [f"frames.{settings.crop_field}"]


class EncodeVideos(VideoOperator):
    """Encodes videos with more bits where people look; the parameters are those of `EncodeSettings`."""

    shown_as: ClassVar = {
        "name": "encode_videos",
        "label": "Encode videos: bits where people look (saliency)",
        "description": "Copies that are smaller at the same quality where people look, as `tinyhd encode` makes them",
        "icon": "compress",
    }
    target, parameters, blamed = "Encode", EncodeSettings, "codec"

    def work_of(self) -> Work:
        from .render import encode_videos

        return encode_videos


class Moments(VideoOperator):
    """Finds key moments and spans of focused attention; the parameters are those of `MomentSettings`."""

    shown_as: ClassVar = {
        "name": "moments",
        "label": "Key moments: when attention is gathered (saliency)",
        "description": "Labels on the time line, and pictures if asked, as `tinyhd moments` finds them",
        "icon": "bookmarks",
    }
    target, parameters = "Find key moments of", MomentSettings

    def work_of(self) -> Work:
        from .moments import label_moments

        return label_moments

    def made_fields(self, params: dict[str, Any]) -> list[str]:
        return [params.get("name") or MomentSettings.name]

    def validate(self, dataset: fo.Dataset, settings: MomentSettings) -> None:
        super().validate(dataset, settings)
        from .moments import check_free

        check_free(dataset, settings.name)


class Report(VideoOperator):
    """Writes a report about videos, and shows it; the parameters are those of `ReportSettings`."""

    shown_as: ClassVar = {
        "name": "report",
        "label": "Saliency report: attention in one video, or several compared",
        "description": "A page with film strip, focus over time, attention to regions, and differences",
        "icon": "summarize",
    }
    target, parameters, folder, opens = "Report on", ReportSettings, "reports", "saliency_reports"

    def work_of(self) -> Work:
        from .reports import make_report

        return make_report

    def fill(self, ctx: foo.ExecutionContext, inputs: types.Object, samples: SampleCollection) -> None:
        from .reports import MAX_VIDEOS

        count = samples.count()
        if count > MAX_VIDEOS:
            forms.warning(inputs, "many", f"A report is about {MAX_VIDEOS} videos at most, these are {count}.")
        super().fill(ctx, inputs, samples)


class ReencodeVideos(VideoOperator):
    """Replaces videos that not every browser plays; the parameters are those of `PlayableSettings`."""

    shown_as: ClassVar = {
        "name": "reencode_videos",
        "label": "Make videos playable",
        "description": "H.264 copies of videos that not every browser plays",
        "icon": "video_settings",
    }
    target, parameters, folder = "Re-encode, where it is needed,", PlayableSettings, "playable"

    def work_of(self) -> Work:
        from .render import reencode_videos

        return reencode_videos

    def fill(self, ctx: foo.ExecutionContext, inputs: types.Object, samples: SampleCollection) -> None:
        forms.notice(
            inputs,
            "what",
            "Videos that every browser plays stay as they are. The others get an H.264 copy, which becomes the "
            "sample's file; the old one stays, its path goes into original_filepath.",
        )
        super().fill(ctx, inputs, samples)
