"""The operators that stop work and take back what was made."""

from typing import Any

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.operators import types

from . import forms
from .base import queue, summary_form
from .progress import count
from .runs import cancel, delete_run, find_run
from .settings import DEFAULT_FIELD


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
        return summary_form()

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
        return summary_form()

    def __call__(self, dataset: fo.Dataset, field: str = DEFAULT_FIELD, *, delegate: bool = False) -> Any:
        """Delete the run of a field; with `delegate`, queue that for a worker."""
        if delegate:
            return queue(self, dataset, {"field": field})
        delete_run(dataset, field)
        return {"field": field, "summary": f"The run {field!r} is deleted."}


_REPORT = "report "
"""Before a report's name."""


class UndoVideos(foo.Operator):
    """Takes back what the operators have made, besides `compute_saliency`."""

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name="undo_videos",
            label="Undo new videos, key moments or a report (saliency)",
            description="Remove files that this plugin has made, besides runs; samples get their own files back",
            icon="undo",
            dynamic=True,
            view_target=False,
            risk_level=types.RiskLevel.HIGH,
        )

    def resolve_input(self, ctx: foo.ExecutionContext) -> types.Property:
        from .reports import list_reports
        from .undo import made_videos

        inputs = types.Object()
        found = made_videos(ctx.dataset) + [_REPORT + record["name"] for record in list_reports(ctx.dataset)]
        if found:
            inputs.enum("name", found, default=found[0], required=True, label="What to remove")
        else:
            forms.warning(
                inputs, "nothing", "This dataset has no videos or key moments made by this plugin, and no report."
            )
        return types.Property(inputs, view=types.PromptView(label="Undo", submit_button_label="Remove"))

    def execute(self, ctx: foo.ExecutionContext) -> dict[str, Any]:
        result = self(ctx.dataset, ctx.params["name"])
        ctx.ops.reload_dataset()
        return result

    def resolve_output(self, ctx: foo.ExecutionContext) -> types.Property:
        return summary_form()

    def __call__(self, dataset: fo.Dataset, name: str) -> dict[str, Any]:
        """Remove what was made under a name, "playable copies", or "report NAME"."""
        from .reports import delete_report
        from .undo import undo_videos

        if name.startswith(_REPORT):
            delete_report(dataset, name.removeprefix(_REPORT))
            return {"name": name, "removed": 1, "summary": f"The {name} is removed."}
        removed = undo_videos(dataset, name)
        summary = f"Removed {name!r}, which was made of {count(removed, 'video')}."
        return {"name": name, "removed": removed, "summary": summary}
