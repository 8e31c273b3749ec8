"""The operators: their forms, and calls of the modules that do the work."""

import time
from collections.abc import Iterator
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
from .runs import HEARTBEAT_SECONDS, cancel, delete_run, find_run
from .settings import DEFAULT_FIELD, DEVICES, Fields, Settings, detection_fields


class ComputeSaliency(foo.Operator):
    """Computes heat maps and numbers of attention for every frame of videos."""

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name="compute_saliency",
            label="Compute saliency",
            description="See where people look in videos: heat maps on the frames, and numbers to sort and filter by",
            icon="visibility",
            dynamic=True,
            execute_as_generator=True,
            allow_immediate_execution=True,
            allow_delegated_execution=True,
            risk_level=types.RiskLevel.MEDIUM,
        )

    def resolve_placement(self, ctx: foo.ExecutionContext) -> types.Placement:
        button = types.Button(label="Compute saliency", icon="visibility", prompt=True)
        return types.Placement(types.Places.SAMPLES_GRID_SECONDARY_ACTIONS, button)

    def resolve_input(self, ctx: foo.ExecutionContext) -> types.Property:
        inputs = types.Object()
        inputs.view_target(ctx, action_description="Compute saliency for", require_flat=True)
        _saliency_inputs(ctx, inputs)
        return types.Property(inputs, view=types.View(label="Compute saliency: where people look"))

    def execute(self, ctx: foo.ExecutionContext) -> Any:
        # what a generator returns is lost, so callers that wait for a result get it in another way
        return _to_end(ctx) if ctx.delegated or ctx.params.get("no_stream") else _stream(ctx)

    def resolve_output(self, ctx: foo.ExecutionContext) -> types.Property:
        return _summary_form()

    def __call__(self, samples: SampleCollection, *, delegate: bool = False, **settings: Any) -> Any:
        """Compute saliency from Python.

        Args:
            samples: a dataset or view of videos.
            delegate: queue it for a worker instead (`fiftyone delegated launch`).
            **settings: see `Settings`: field, model, device, stride, normalize, maps_dir, detections, skip_existing,
                skip_failures.

        Returns:
            what was done, a dict with a "summary"; the queued operation's `ExecutionResult` with `delegate`.
        """
        if delegate:
            return _queue(self, samples, settings)
        from .compute import compute, finish

        with tqdm(total=1.0, bar_format="{l_bar}{bar}| {desc}") as bar:

            def report(progress: Any) -> None:
                bar.set_description_str(progress.label, refresh=False)
                bar.update(progress.fraction - bar.n)

            return finish(compute(samples, Settings.from_params(settings)), report).to_dict()


def _saliency_inputs(ctx: foo.ExecutionContext, inputs: types.Object) -> None:
    from tinyhd.weights import DEFAULT_MODEL, list_models

    from .estimate import estimate
    from .media import check_videos, default_folder
    from .runs import check_field, list_runs

    samples = ctx.target_view(require_flat=True)
    try:
        check_videos(samples)
    except TinyHDError as error:
        forms.warning(inputs, "unusable", str(error))
        return
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
    try:
        settings = Settings.from_params(ctx.params)
        check_field(ctx.dataset, settings)
        forms.notice(inputs, "estimate", estimate(samples, settings.device, settings.stride))
    except TinyHDError as error:
        prop = model if "model" in str(error) and "field" not in str(error) else field
        prop.invalid, prop.error_message = True, str(error)
        forms.warning(inputs, "problem", str(error))


def _stream(ctx: foo.ExecutionContext) -> Iterator[Any]:
    """Immediate execution in the App: progress while it runs."""
    from .compute import compute

    settings = Settings.from_params(ctx.params)
    work = compute(ctx.target_view(require_flat=True), settings)
    yield ctx.trigger("set_progress", {"progress": 0.0, "label": "Loading the model"})
    outcome = None
    try:
        while outcome is None:
            try:
                progress = next(work)
            except StopIteration as end:
                outcome = end.value
            else:
                yield ctx.trigger("set_progress", {"progress": progress.fraction, "label": progress.label})
    finally:
        work.close()  # the browser was closed: the videos that are complete stay
    yield ctx.trigger("reload_dataset")
    shown = [*ctx.active_fields, Fields(settings.field).heatmap]
    yield ctx.trigger("set_active_fields", {"fields": list(dict.fromkeys(shown))})
    variant = "error" if outcome.failed and not outcome.completed else "warning" if outcome.failed else "success"
    yield ctx.trigger("notify", {"message": outcome.summary, "variant": variant})
    yield ctx.trigger(
        "show_output", {"outputs": _summary_form().to_json(), "results": {"summary": _with_errors(outcome.to_dict())}}
    )


def _to_end(ctx: foo.ExecutionContext) -> dict[str, Any]:
    """Delegated execution, or for a caller that waits."""
    from .compute import compute, finish

    def report(progress: Any) -> None:
        if ctx.delegated:
            ctx.set_progress(progress.fraction, progress.label)

    work = compute(
        ctx.target_view(require_flat=True), Settings.from_params(ctx.params), is_stopped=_DelegatedOperation(ctx)
    )
    return finish(work, report).to_dict()


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


def _with_errors(outcome: dict[str, Any]) -> str:
    return "\n".join([outcome["summary"], *outcome.get("errors", ())])


def _summary_form() -> types.Property:
    outputs = types.Object()
    outputs.str("summary", label="Done", view=types.MarkdownView(read_only=True))
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
