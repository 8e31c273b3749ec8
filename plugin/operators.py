"""The operators that work on videos: their forms, and calls of the modules that do the work."""

from collections.abc import Callable, Generator
from typing import Any

import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types

from tinyhd.errors import TinyHDError
from tinyhd.options import EncoderOptions, ReframeOptions, RenderOptions

from . import forms
from .base import OF_THE_FORM, VideoOperator, work_config
from .estimate import estimate
from .media import dataset_of, default_folder
from .progress import Progress, RunSummary
from .runs import check_field, continued, last_speed, list_runs
from .settings import (
    DEFAULT_FIELD,
    Fields,
    Parameters,
    ReframeSettings,
    RenderSettings,
    ReportSettings,
    Settings,
    VideoSettings,
    check_model,
)


class ComputeSaliency(VideoOperator):
    """Computes heat maps and statistics for every frame of videos; the parameters are those of `Settings`."""

    target = "Compute saliency for"

    @property
    def config(self) -> foo.OperatorConfig:
        return work_config(
            name="compute_saliency",
            label="Compute saliency: attention heatmaps of where people look",
            description="Heat maps on the frames of videos, and statistics to sort and filter by",
            light_icon="/assets/icon-light.svg",
            dark_icon="/assets/icon-dark.svg",
        )

    def resolve_placement(self, ctx: foo.ExecutionContext) -> types.Placement:
        button = types.Button(label="Compute saliency", icon="visibility", prompt=True)
        return types.Placement(types.Places.SAMPLES_GRID_SECONDARY_ACTIONS, button)

    def start(
        self, samples: SampleCollection, params: dict[str, Any], is_stopped: Callable[[], bool]
    ) -> Generator[Progress, None, RunSummary]:
        from .compute import compute

        params = continued(dataset_of(samples), params)
        return compute(samples, Settings.from_params(params), is_stopped=is_stopped)

    def fill(self, ctx: foo.ExecutionContext, inputs: types.Object, samples: SampleCollection) -> None:
        _saliency_inputs(ctx, inputs, samples)

    def shown(self, params: dict[str, Any]) -> list[str]:
        return [Fields(params.get("field") or DEFAULT_FIELD).heatmap]


class RenderSaliency(VideoOperator):
    """Writes videos with the heat map laid over them; the parameters are those of `RenderSettings`."""

    target = "Render saliency for"

    @property
    def config(self) -> foo.OperatorConfig:
        return work_config(
            name="render_saliency",
            label="Render saliency: heatmap videos",
            description="New video files with the heat map of attention drawn in, as `tinyhd annotate` makes them",
            icon="movie_filter",
        )

    def start(
        self, samples: SampleCollection, params: dict[str, Any], is_stopped: Callable[[], bool]
    ) -> Generator[Progress, None, RunSummary]:
        from .render import render_videos

        return render_videos(samples, RenderSettings.from_params(params), is_stopped=is_stopped)

    def fill(self, ctx: foo.ExecutionContext, inputs: types.Object, samples: SampleCollection) -> None:
        made = _new_videos_inputs(ctx, inputs, samples, RenderSettings)
        made |= forms.inference_inputs(ctx, inputs, RenderOptions, EncoderOptions)
        _check_form(ctx, inputs, made, RenderSettings, "name")


class AnnotateVideos(RenderSaliency):
    """The name that `render_saliency` had before, for one more release."""

    @property
    def config(self) -> foo.OperatorConfig:
        config = super().config
        config.name, config.unlisted = "annotate_videos", True
        return config


class ReframeVideos(VideoOperator):
    """Cuts videos to another aspect, following attention; the parameters are those of `ReframeSettings`."""

    target = "Reframe"

    @property
    def config(self) -> foo.OperatorConfig:
        return work_config(
            name="reframe_videos",
            label="Reframe videos: a crop that follows attention (saliency)",
            description="New videos of another aspect, such as 9:16, as `tinyhd reframe` makes them",
            icon="crop_portrait",
        )

    def start(
        self, samples: SampleCollection, params: dict[str, Any], is_stopped: Callable[[], bool]
    ) -> Generator[Progress, None, RunSummary]:
        from .render import reframe_videos

        return reframe_videos(samples, ReframeSettings.from_params(params), is_stopped=is_stopped)

    def fill(self, ctx: foo.ExecutionContext, inputs: types.Object, samples: SampleCollection) -> None:
        made = forms.option_inputs(inputs, ReframeOptions)
        made |= _new_videos_inputs(ctx, inputs, samples, ReframeSettings)
        about = "The crop has to hold all detections of these fields"
        forms.detection_inputs(ctx, inputs, "keep", "Detections to keep", about)
        made |= forms.inference_inputs(ctx, inputs, EncoderOptions)
        if ctx.params.get(forms.ADVANCED):
            made |= forms.option_inputs(inputs, ReframeOptions, advanced=True)
        _check_form(ctx, inputs, made, ReframeSettings, "name")

    def shown(self, params: dict[str, Any]) -> list[str]:
        settings = ReframeSettings.from_params({"name": params.get("name")})
        return [f"frames.{settings.crop_field}"]


class Report(VideoOperator):
    """Writes a report about videos, and shows it; the parameters are those of `ReportSettings`."""

    target = "Report on"
    opens = "saliency_reports"

    @property
    def config(self) -> foo.OperatorConfig:
        return work_config(
            name="report",
            label="Saliency report: attention in one video, or several compared",
            description="A page with film strip, focus over time, attention to regions, and differences",
            icon="summarize",
        )

    def start(
        self, samples: SampleCollection, params: dict[str, Any], is_stopped: Callable[[], bool]
    ) -> Generator[Progress, None, RunSummary]:
        from .reports import make_report

        return make_report(samples, ReportSettings.from_params(params), is_stopped=is_stopped)

    def fill(self, ctx: foo.ExecutionContext, inputs: types.Object, samples: SampleCollection) -> None:
        from .reports import MAX_VIDEOS

        count = samples.count()
        if count > MAX_VIDEOS:
            forms.warning(inputs, "many", f"A report is about {MAX_VIDEOS} videos at most, these are {count}.")
        described = {"output_dir": _folder_help(ctx, samples, "reports")}
        labels = {"output_dir": "Folder for the report"}
        made = forms.option_inputs(inputs, ReportSettings, labels=labels, descriptions=described)
        about = "Each label of these detections is a region of the report, and each index of it where they are tracked"
        forms.detection_inputs(ctx, inputs, "detections", "Regions", about)
        made |= forms.inference_inputs(ctx, inputs)
        if ctx.params.get(forms.ADVANCED):
            made |= forms.option_inputs(inputs, ReportSettings, advanced=True)
        _check_form(ctx, inputs, made, ReportSettings, "name")


class ReencodeVideos(VideoOperator):
    """Replaces videos that not every browser plays; parameter: output_dir."""

    target = "Re-encode, where it is needed,"

    @property
    def config(self) -> foo.OperatorConfig:
        return work_config(
            name="reencode_videos",
            label="Make videos playable",
            description="H.264 copies of videos that not every browser plays",
            icon="video_settings",
        )

    def start(
        self, samples: SampleCollection, params: dict[str, Any], is_stopped: Callable[[], bool]
    ) -> Generator[Progress, None, RunSummary]:
        from .render import reencode_videos

        return reencode_videos(samples, params.get("output_dir") or None, is_stopped=is_stopped)

    def fill(self, ctx: foo.ExecutionContext, inputs: types.Object, samples: SampleCollection) -> None:
        forms.notice(
            inputs,
            "what",
            "Videos that every browser plays stay as they are. The others get an H.264 copy, which becomes the "
            "sample's file; the old one stays, its path goes into original_filepath.",
        )
        inputs.str(
            "output_dir", label="Folder for the copies", description="If none is named: “playable” beside a file"
        )


def _folder_help(ctx: foo.ExecutionContext, samples: SampleCollection, name: str = "saliency") -> str:
    first = samples.limit(1).values("filepath")
    beside = default_folder(ctx.dataset, first[0], name) if first else "beside the media"
    return f"On the server; if none is named: {beside}"


def _new_videos_inputs(
    ctx: foo.ExecutionContext, inputs: types.Object, samples: SampleCollection, kind: type[VideoSettings]
) -> dict[str, types.Property]:
    """What all operators that make videos ask for."""
    labels, described = {}, {"output_dir": _folder_help(ctx, samples, kind().name)}
    is_grouped = ctx.dataset.media_type == "group"
    if is_grouped:
        labels["name"], described["name"] = "Group slice", "the new videos become this slice of each group"
    without = ("results",) if is_grouped else ()
    return forms.option_inputs(inputs, kind, labels=labels, descriptions=described, without=without)


def _check_form(
    ctx: foo.ExecutionContext,
    inputs: types.Object,
    made: dict[str, types.Property],
    kind: type[Parameters],
    blamed: str,
    earlier: dict[str, Any] | None = None,
) -> Any:
    """The parameters that a form holds, or None; what is wrong with them is told in the form.

    Args:
        blamed: the input that is marked where the error names none.
        earlier: values of what is left empty.
    """
    given = {name: value for name, value in ctx.params.items() if name not in OF_THE_FORM and value not in (None, "")}
    try:
        params = kind.from_params((earlier or {}) | given)
        check_model(params.inference)
        return params
    except TinyHDError as error:
        _tell(inputs, made, blamed, error)
        return None


def _tell(inputs: types.Object, made: dict[str, types.Property], blamed: str, error: TinyHDError) -> None:
    forms.warning(inputs, "problem", str(error))
    named = next((name for name in made if name in str(error).split()), blamed)
    made[named].invalid, made[named].error_message = True, str(error)


def _saliency_inputs(ctx: foo.ExecutionContext, inputs: types.Object, samples: SampleCollection) -> None:
    begun = [run["field"] for run in list_runs(ctx.dataset) if run["state"] in ("cancelled", "failed", "interrupted")]
    field = ctx.params.get("field") or (begun or [DEFAULT_FIELD])[0]
    earlier = continued(ctx.dataset, {"field": field})
    described = {"maps_dir": _folder_help(ctx, samples)}
    made = forms.option_inputs(inputs, Settings, descriptions=described, defaults=earlier)
    about = "Each detection of these fields gets the share of the frame's attention inside its box"
    label = "Attention inside detections"
    forms.detection_inputs(ctx, inputs, "detections", label, about, earlier.get("detections"))
    made |= forms.inference_inputs(ctx, inputs, defaults=earlier)
    if len(earlier) > 1:
        forms.notice(inputs, "goes_on", f"This goes on with the run {field!r}: what is left empty is as it was there.")
    settings = _check_form(ctx, inputs, made, Settings, "field", earlier)
    if settings is None:
        return
    try:
        check_field(ctx.dataset, settings)
    except TinyHDError as error:
        _tell(inputs, made, "field", error)
        return
    from .compute import wanted

    todo = wanted(samples, settings)
    speed = last_speed(ctx.dataset, settings)
    left = dataset_of(samples).select(todo) if len(todo) < samples.count() else samples
    forms.notice(inputs, "estimate", estimate(left, settings.stride, speed, skipped=samples.count() - len(todo)))
