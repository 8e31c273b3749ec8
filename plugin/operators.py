"""The operators: their forms, and calls of the modules that do the work."""

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types
from fiftyone.operators.delegated import DelegatedOperationService
from fiftyone.operators.executor import ExecutionRunState
from tqdm import tqdm

from tinyhd.errors import InputError, TinyHDError

from . import forms
from .media import check_videos
from .progress import Progress, RunSummary, describe_error, finish, log
from .runs import HEARTBEAT_SECONDS, cancel, delete_run, find_run
from .settings import DEFAULT_FIELD, DEVICES, Fields, Settings, detection_fields


class VideoOperator(foo.Operator):
    """Work on videos, one after the other: with progress in the App, delegated, or for a caller that waits."""

    target = "Process"
    """What is done to the videos that the form lets choose."""

    def work(self, ctx: foo.ExecutionContext, is_stopped: Callable[[], bool]) -> Generator[Progress, None, RunSummary]:
        """The work that the form asks for."""
        return self.start(ctx.target_view(require_flat=True), ctx.params, is_stopped)

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

    def resolve_output(self, ctx: foo.ExecutionContext) -> types.Property:
        return _summary_form()

    def execute(self, ctx: foo.ExecutionContext) -> Any:
        # what a generator returns is lost, so callers that wait for a result get it in another way
        return self._to_end(ctx) if ctx.delegated or ctx.params.get("no_stream") else self._stream(ctx)

    def _stream(self, ctx: foo.ExecutionContext) -> Iterator[Any]:
        """In the App: progress while it runs, and what went wrong: a stream that just breaks off tells it nothing."""
        try:
            yield from self._steps(ctx)
        except Exception as error:
            if not isinstance(error, TinyHDError):
                log.error("%s failed", self.name, exc_info=error)
            yield ctx.trigger("reload_dataset")
            yield from _show(ctx, "error", describe_error(error))

    def _steps(self, ctx: foo.ExecutionContext) -> Iterator[Any]:
        yield ctx.trigger("set_progress", {"progress": 0.0, "label": "Loading the model"})
        # closing it, when the browser is closed, ends the work: the videos that are complete stay
        with contextlib.closing(self.work(ctx, lambda: False)) as work:
            while True:
                try:
                    progress = next(work)
                except StopIteration as end:
                    outcome = end.value
                    break
                yield ctx.trigger("set_progress", {"progress": progress.fraction, "label": progress.label})
        yield ctx.trigger("reload_dataset")
        fields = list(dict.fromkeys([*ctx.active_fields, *self.shown(ctx.params)]))
        yield ctx.trigger("set_active_fields", {"fields": fields})
        variant = "error" if outcome.failed and not outcome.completed else "warning" if outcome.failed else "success"
        yield from _show(ctx, variant, outcome.summary, *outcome.errors)

    def _to_end(self, ctx: foo.ExecutionContext) -> dict[str, Any]:
        """Delegated, or for a caller that waits."""

        def report(progress: Progress) -> None:
            if ctx.delegated:
                ctx.set_progress(progress.fraction, progress.label)

        return finish(self.work(ctx, _DelegatedOperation(ctx)), report).to_dict()

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

            return finish(self.start(samples, params, lambda: False), report).to_dict()


def _show(ctx: foo.ExecutionContext, variant: str, summary: str, *details: str) -> Iterator[Any]:
    """The end of a streamed run, in place of its progress."""
    yield ctx.trigger("notify", {"message": summary, "variant": variant})
    form = _summary_form("Failed" if variant == "error" else "Done")
    said = {"summary": "\n\n".join([summary, *details])}
    yield ctx.trigger("show_output", {"outputs": form.to_json(), "results": said})


def _work_config(**shown: str) -> foo.OperatorConfig:
    """Of a `VideoOperator`: its name, label, description and icon, and what all of them have in common."""
    return foo.OperatorConfig(
        **shown,
        dynamic=True,
        execute_as_generator=True,
        allow_immediate_execution=True,
        allow_delegated_execution=True,
        risk_level=types.RiskLevel.MEDIUM,
    )


class ComputeSaliency(VideoOperator):
    """Computes heat maps and numbers of attention for every frame of videos; the parameters are those of `Settings`."""

    target = "Compute saliency for"

    @property
    def config(self) -> foo.OperatorConfig:
        return _work_config(
            name="compute_saliency",
            label="Compute saliency: where people look",
            description="Heat maps on the frames of videos, and numbers to sort and filter by",
            icon="visibility",
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
        return [Fields(Settings.from_params(params).field).heatmap]


class AnnotateVideos(VideoOperator):
    """Writes videos with the heat map laid over them; the parameters are those of `AnnotateSettings`."""

    target = "Annotate"

    @property
    def config(self) -> foo.OperatorConfig:
        return _work_config(
            name="annotate_videos",
            label="Annotate videos: heat maps drawn in",
            description="New video files with the heat map laid over the picture, as tinyhd-annotate makes them",
            icon="movie_filter",
        )

    def start(
        self, samples: SampleCollection, params: dict[str, Any], is_stopped: Callable[[], bool]
    ) -> Generator[Progress, None, RunSummary]:
        from .annotate import AnnotateSettings, annotate_videos

        return annotate_videos(samples, AnnotateSettings.from_params(params), is_stopped=is_stopped)

    def fill(self, ctx: foo.ExecutionContext, inputs: types.Object, samples: SampleCollection) -> None:
        from tinyhd.options import DEFAULT_COLORMAP, NORMALIZATIONS, STYLES

        from .annotate import AnnotateSettings
        from .media import default_folder

        is_grouped = ctx.dataset.media_type == "group"
        name = inputs.str(
            "name",
            default="annotated",
            label="Group slice" if is_grouped else "Name",
            description="The new videos become this slice of each group"
            if is_grouped
            else "The new videos' paths go into the field NAME_path, a media field that the App can show",
        )
        _model_inputs(inputs)
        inputs.enum("style", STYLES, default="overlay", label="Style")
        inputs.str("colormap", default=DEFAULT_COLORMAP, label="Colour map")
        inputs.enum("normalize", NORMALIZATIONS, default="frame", label="What is full attention: the maximum of each")
        first = samples.limit(1).values("filepath")
        beside = default_folder(ctx.dataset, first[0], "annotated") if first else "the media's folder"
        inputs.str(
            "output_dir", label="Folder for the videos", description=f"On the server; if none is named: {beside}"
        )
        inputs.bool("skip_existing", default=True, label="Skip videos that are done")
        inputs.bool(
            "reencode",
            default=False,
            label="First re-encode what browsers cannot play",
            description="The same as “Make videos playable”",
        )
        try:
            AnnotateSettings.from_params(ctx.params)
        except TinyHDError as error:
            name.invalid, name.error_message = True, str(error)


class ReencodeVideos(VideoOperator):
    """Replaces videos that browsers cannot play, or show at wrong times; parameter: output_dir."""

    target = "Re-encode, where it is needed,"

    @property
    def config(self) -> foo.OperatorConfig:
        return _work_config(
            name="reencode_videos",
            label="Make videos playable",
            description="H.264 copies of videos that browsers cannot play, or whose frame rate varies or starts late",
            icon="video_settings",
        )

    def start(
        self, samples: SampleCollection, params: dict[str, Any], is_stopped: Callable[[], bool]
    ) -> Generator[Progress, None, RunSummary]:
        from .annotate import reencode_videos

        return reencode_videos(samples, params.get("output_dir") or None, is_stopped=is_stopped)

    def fill(self, ctx: foo.ExecutionContext, inputs: types.Object, samples: SampleCollection) -> None:
        forms.notice(
            inputs,
            "what",
            "Videos that every browser plays at a constant rate stay as they are. The others get an H.264 copy, which "
            "becomes the sample's file; the old one stays, its path goes into original_filepath. Where the copy has "
            "other frames, saliency has to be computed again.",
        )
        inputs.str(
            "output_dir", label="Folder for the copies", description="If none is named: “playable” beside a file"
        )


def _model_inputs(inputs: types.Object) -> types.Property:
    """Which model, and where it runs; returns the former."""
    from tinyhd.network.registry import DEFAULT_MODEL, list_models

    models = types.AutocompleteView()
    for name in list_models():
        models.add_choice(name, label=name)
    model = inputs.str(
        "model",
        default=DEFAULT_MODEL,
        label="Model",
        description="A model's name, or the path of a .safetensors or .pth file on the server",
        view=models,
    )
    inputs.enum("device", DEVICES, default="auto", label="Device", description="auto: a GPU where there is one")
    return model


def _saliency_inputs(ctx: foo.ExecutionContext, inputs: types.Object, samples: SampleCollection) -> None:
    from .estimate import estimate
    from .media import default_folder
    from .runs import check_field, list_runs

    problem = None
    try:
        settings = Settings.from_params(ctx.params)
        check_field(ctx.dataset, settings)
        forms.notice(inputs, "estimate", estimate(samples, settings.device, settings.stride))
    except TinyHDError as error:
        problem = error
        forms.warning(inputs, "problem", str(error))
    names = types.AutocompleteView()
    for name in dict.fromkeys((*(run["field"] for run in list_runs(ctx.dataset)), DEFAULT_FIELD)):
        names.add_choice(name, label=name)
    field = inputs.str(
        "field",
        default=DEFAULT_FIELD,
        label="Field",
        description="Name for the heat maps on the frames; numbers about each video go into NAME_stats",
        view=names,
    )
    model = _model_inputs(inputs)
    inputs.int(
        "stride",
        default=1,
        min=1,
        label="Store a map every N frames",
        description="The model sees every frame and numbers are stored for each; frames between show the last map",
    )
    scales = types.RadioGroup()
    scales.add_choice("frame", label="Each frame", description="the most attention in a frame is always bright")
    scales.add_choice("none", label="Fixed", description="the same for all, to compare frames and videos")
    inputs.enum("normalize", scales.values(), default="frame", label="Brightness of the maps", view=scales)
    first = samples.limit(1).values("filepath")
    beside = default_folder(ctx.dataset, first[0]) if first else "the media's folder"
    inputs.str(
        "maps_dir",
        label="Folder for the maps",
        description=f"On the server; if none is named: {beside}",
    )
    found = detection_fields(ctx.dataset)
    if found:
        choices = types.Choices()
        for name in found:
            choices.add_choice(name, label=name)
        inputs.list(
            "detections",
            types.String(),
            label="Attention inside detections",
            description="Each detection of these fields gets the share of the frame's attention inside its box",
            view=types.DropdownView(multiple=True, choices=choices.choices),
        )
    inputs.bool("skip_existing", default=True, label="Skip videos that are done")
    inputs.bool("skip_failures", default=False, label="Skip videos that failed before")
    if problem:
        prop = model if isinstance(problem, InputError) else field
        prop.invalid, prop.error_message = True, str(problem)


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
    """Removes what a run has made: fields, numbers in detections, maps and the record."""

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name="delete_saliency",
            label="Delete a saliency run",
            description="Remove a run's heat maps, numbers and files, and nothing else",
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
            forms.notice(inputs, "what", f"Deletes the fields and numbers of {run['field']!r} and the maps in {kept}.")
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
