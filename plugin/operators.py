"""The operators: their forms, and calls of the modules that do the work."""

import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types
from fiftyone.operators.delegated import DelegatedOperationService
from fiftyone.operators.executor import ExecutionRunState
from tqdm import tqdm

from tinyhd.errors import TinyHDError

from . import forms
from .estimate import estimate
from .media import check_videos, dataset_of, default_folder
from .progress import Progress, RunSummary
from .runs import HEARTBEAT_SECONDS, cancel, check_field, delete_run, find_run, last_speed
from .settings import DEFAULT_FIELD, Fields, Parameters, RenderSettings, Settings, check_model, detection_fields
from .work import Watched

_OF_THE_FORM = ("view_target", "no_stream", forms.ADVANCED, "panel_id", "panel_state")
"""What comes with an operator's parameters and is none."""


class VideoOperator(foo.Operator):
    """Work on videos, one after the other: with progress in the App, delegated, or for a caller that waits."""

    target = "Process"
    """What is done to the videos that the form lets choose."""

    def work(self, ctx: foo.ExecutionContext, is_stopped: Callable[[], bool]) -> Generator[Progress, None, RunSummary]:
        """The work that the form asks for."""
        params = {name: value for name, value in ctx.params.items() if name not in _OF_THE_FORM}
        return self.start(ctx.target_view(require_flat=True), params, is_stopped)

    def start(
        self, samples: SampleCollection, params: dict[str, Any], is_stopped: Callable[[], bool]
    ) -> Generator[Progress, None, RunSummary]:
        """The work on some videos."""
        raise NotImplementedError

    def fill(self, ctx: foo.ExecutionContext, inputs: types.Object, samples: SampleCollection) -> None:
        """The form's own inputs."""
        raise NotImplementedError

    def shown(self, params: dict[str, Any]) -> list[str]:
        """Fields to show in the App afterwards."""
        return []

    def resolve_input(self, ctx: foo.ExecutionContext) -> types.Property:
        inputs = types.Object()
        inputs.view_target(ctx, action_description=self.target, require_flat=True)
        samples = ctx.target_view(require_flat=True)
        try:
            check_videos(samples)
        except TinyHDError as error:
            forms.warning(inputs, "unusable", str(error))
        else:
            self.fill(ctx, inputs, samples)
        return types.Property(inputs, view=types.View(label=self.config.label))

    def resolve_output(self, ctx: foo.ExecutionContext) -> types.Property | None:
        # nothing where the work goes on by itself: the panel shows it, and the App stays free
        return _summary_form() if ctx.results else None

    def execute(self, ctx: foo.ExecutionContext) -> dict[str, Any]:
        watched = self._watch(ctx.dataset, ctx.params)
        if ctx.delegated or ctx.params.get("no_stream"):

            def report(progress: Progress) -> None:
                if ctx.delegated:
                    ctx.set_progress(progress.fraction, progress.label)

            return watched.run(partial(self.work, ctx), report, _DelegatedOperation(ctx)).to_dict()
        watched.run_aside(partial(self.work, ctx))
        ctx.ops.open_panel("saliency_overview", is_active=True, layout="horizontal")
        return {}

    def _watch(self, dataset: fo.Dataset, params: dict[str, Any]) -> Watched:
        return Watched(dataset, self.config.label, self.shown(params))

    def __call__(self, samples: SampleCollection, *, delegate: bool = False, **params: Any) -> Any:
        """Do the work from Python, with a progress bar.

        Args:
            samples: a dataset or view of videos.
            delegate: queue it for a worker instead (`fiftyone delegated launch`).
            **params: the names of the form's inputs.

        Returns:
            what was done, a dict with a "summary"; with `delegate`, the queued operation's `ExecutionResult`.
        """
        if delegate:
            return _queue(self, samples, params)
        with tqdm(total=1.0, bar_format="{l_bar}{bar}| {desc}", disable=None) as bar:

            def report(progress: Progress) -> None:
                bar.set_description_str(progress.label, refresh=False)
                bar.update(progress.fraction - bar.n)

            watched = self._watch(dataset_of(samples), params)
            return watched.run(partial(self.start, samples, params), report).to_dict()


def _work_config(**shown: str) -> foo.OperatorConfig:
    """Of a `VideoOperator`: its name, label, description and icon, and what all of them have in common."""
    return foo.OperatorConfig(
        **shown,
        dynamic=True,
        allow_immediate_execution=True,
        allow_delegated_execution=True,
        risk_level=types.RiskLevel.MEDIUM,
    )


class ComputeSaliency(VideoOperator):
    """Computes heat maps and statistics for every frame of videos; the parameters are those of `Settings`."""

    target = "Compute saliency for"

    @property
    def config(self) -> foo.OperatorConfig:
        return _work_config(
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
        return _work_config(
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
        is_grouped = ctx.dataset.media_type == "group"
        labels, described = {}, {"output_dir": _folder_help(ctx, samples, "annotated")}
        if is_grouped:
            labels["name"], described["name"] = "Group slice", "the new videos become this slice of each group"
        made = forms.option_inputs(inputs, RenderSettings, labels=labels, descriptions=described)
        made |= forms.render_inputs(ctx, inputs)
        _check_form(ctx, inputs, made, RenderSettings, "name")


class AnnotateVideos(RenderSaliency):
    """The name that `render_saliency` had before, for one more release."""

    @property
    def config(self) -> foo.OperatorConfig:
        config = super().config
        config.name, config.unlisted = "annotate_videos", True
        return config


class ReencodeVideos(VideoOperator):
    """Replaces videos that browsers cannot play; parameter: output_dir."""

    target = "Re-encode, where it is needed,"

    @property
    def config(self) -> foo.OperatorConfig:
        return _work_config(
            name="reencode_videos",
            label="Make videos playable",
            description="H.264 copies of videos that browsers cannot play",
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


def _check_form(
    ctx: foo.ExecutionContext,
    inputs: types.Object,
    made: dict[str, types.Property],
    kind: type[Parameters],
    blamed: str,
) -> Any:
    """The parameters that a form holds, or None; what is wrong with them is told in the form."""
    try:
        params = kind.from_params({name: ctx.params[name] for name in ctx.params if name not in _OF_THE_FORM})
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
    made = forms.option_inputs(inputs, Settings, descriptions={"maps_dir": _folder_help(ctx, samples)})
    found = detection_fields(ctx.dataset)
    if found:
        offered = types.Choices()
        for name in found:
            offered.add_choice(name, label=name)
        inputs.list(
            "detections",
            types.String(),
            label="Attention inside detections",
            description="Each detection of these fields gets the share of the frame's attention inside its box",
            view=types.DropdownView(multiple=True, choices=offered.choices),
        )
    made |= forms.inference_inputs(ctx, inputs)
    settings = _check_form(ctx, inputs, made, Settings, "field")
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


class _DelegatedOperation:
    """Whether a delegated operation has been taken from its worker, such as with `fiftyone delegated fail`."""

    def __init__(self, ctx: foo.ExecutionContext) -> None:
        self._id = ctx.request_params.get("run_doc")
        self._service = DelegatedOperationService()
        self._asked = time.monotonic()

    def __call__(self) -> bool:
        if self._id is None or time.monotonic() - self._asked < HEARTBEAT_SECONDS:
            return False
        self._asked = time.monotonic()
        return self._service.get(self._id).run_state != ExecutionRunState.RUNNING


def _summary_form(label: str = "Done") -> types.Property:
    outputs = types.Object()
    outputs.str("summary", label=label, view=types.MarkdownView(read_only=True))
    return types.Property(outputs, view=types.View(label="Saliency"))


def _queue(operator: foo.Operator, samples: SampleCollection | fo.Dataset, params: dict[str, Any]) -> Any:
    """Queue an operation for a worker."""
    return foo.execute_operator(operator.uri, {"view": samples.view()}, params=params, request_delegation=True)


class CancelSaliency(foo.Operator):
    """Stops a run, wherever it is at work; the videos that are complete stay."""

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name="cancel_saliency",
            label="Cancel a saliency run",
            description="Stop a run that is at work; videos that are complete stay, and running it again goes on",
            icon="cancel",
            dynamic=True,
            view_target=False,
            risk_level=types.RiskLevel.LOW,
        )

    def resolve_input(self, ctx: foo.ExecutionContext) -> types.Property:
        inputs = types.Object()
        forms.choose_run(ctx, inputs, ("running",), "No saliency run of this dataset is at work.")
        return types.Property(inputs, view=types.View(label="Cancel a saliency run"))

    def execute(self, ctx: foo.ExecutionContext) -> dict[str, Any]:
        return self(ctx.dataset, ctx.params["field"])

    def resolve_output(self, ctx: foo.ExecutionContext) -> types.Property:
        return _summary_form()

    def __call__(self, dataset: fo.Dataset, field: str = DEFAULT_FIELD) -> dict[str, Any]:
        """Ask the run of a field to stop; "cancelled" says whether one was at work."""
        asked = cancel(dataset, field)
        summary = f"The run {field!r} stops in a moment." if asked else f"No run {field!r} is at work."
        return {"field": field, "cancelled": asked, "summary": summary}


class DeleteSaliency(foo.Operator):
    """Removes what a run has made: fields, values in detections, maps and the record."""

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name="delete_saliency",
            label="Delete a saliency run",
            description="Remove a run's heat maps, statistics and files, and nothing else",
            icon="delete",
            dynamic=True,
            allow_immediate_execution=True,
            allow_delegated_execution=True,
            view_target=False,
            risk_level=types.RiskLevel.HIGH,
        )

    def resolve_input(self, ctx: foo.ExecutionContext) -> types.Property:
        inputs = types.Object()
        forms.choose_run(ctx, inputs, (), "This dataset has no saliency run.")
        run = find_run(ctx.dataset, ctx.params.get("field") or "")
        if run and run["state"] == "running":
            forms.warning(inputs, "running", "This run is at work: cancel it first.")
        elif run:
            kept = ", ".join(run["folders"])
            forms.notice(
                inputs, "what", f"Deletes the fields and statistics of {run['field']!r} and the maps in {kept}."
            )
        prompt = types.PromptView(label="Delete a saliency run", submit_button_label="Delete")
        return types.Property(inputs, view=prompt)

    def execute(self, ctx: foo.ExecutionContext) -> dict[str, Any]:
        result = self(ctx.dataset, ctx.params["field"])
        if not ctx.delegated:
            ctx.ops.reload_dataset()
        return result

    def resolve_output(self, ctx: foo.ExecutionContext) -> types.Property:
        return _summary_form()

    def __call__(self, dataset: fo.Dataset, field: str = DEFAULT_FIELD, *, delegate: bool = False) -> Any:
        """Delete the run of a field; with `delegate`, queue that for a worker."""
        if delegate:
            return _queue(self, dataset, {"field": field})
        delete_run(dataset, field)
        return {"field": field, "summary": f"The run {field!r} is deleted."}


class UndoVideos(foo.Operator):
    """Takes back what `render_saliency` or `reencode_videos` has made."""

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name="undo_videos",
            label="Undo rendered or playable videos",
            description="Remove the files of render_saliency or reencode_videos; samples get their own files back",
            icon="undo",
            dynamic=True,
            view_target=False,
            risk_level=types.RiskLevel.HIGH,
        )

    def resolve_input(self, ctx: foo.ExecutionContext) -> types.Property:
        from .render import made_videos

        inputs = types.Object()
        found = made_videos(ctx.dataset)
        if found:
            inputs.enum("name", found, default=found[0], required=True, label="Videos")
        else:
            forms.warning(inputs, "nothing", "This dataset has neither rendered videos nor playable copies.")
        return types.Property(inputs, view=types.PromptView(label="Undo videos", submit_button_label="Remove"))

    def execute(self, ctx: foo.ExecutionContext) -> dict[str, Any]:
        result = self(ctx.dataset, ctx.params["name"])
        ctx.ops.reload_dataset()
        return result

    def resolve_output(self, ctx: foo.ExecutionContext) -> types.Property:
        return _summary_form()

    def __call__(self, dataset: fo.Dataset, name: str) -> dict[str, Any]:
        """Remove the videos rendered under a name, or "playable copies"."""
        from .render import undo_videos

        removed = undo_videos(dataset, name)
        return {"name": name, "removed": removed, "summary": f"{removed} files of {name!r} are removed."}
