"""Pieces of forms that several operators share."""

from typing import Any

import fiftyone.operators as foo
from fiftyone.operators import types

from .runs import list_runs


def notice(inputs: types.Object, name: str, text: str) -> None:
    """A sentence in a form."""
    inputs.view(name, types.Notice(label=text))


def warning(inputs: types.Object, name: str, text: str) -> None:
    """A sentence that stands out, and keeps the form from being sent."""
    prop = inputs.view(name, types.Warning(label=text))
    prop.invalid = True
    prop.error_message = text


def choose_run(ctx: foo.ExecutionContext, inputs: types.Object, states: tuple[str, ...], nothing: str) -> None:
    """The input `field`, a choice among the dataset's runs that are in one of the `states` (none: in any)."""
    runs = [run for run in list_runs(ctx.dataset) if not states or run["state"] in states]
    if not runs:
        warning(inputs, "nothing", nothing)
        return
    choices = types.Dropdown()
    for run in runs:
        choices.add_choice(run["field"], label=run["field"], description=describe_run(run))
    inputs.enum("field", choices.values(), default=runs[0]["field"], required=True, label="Run", view=choices)


def describe_run(run: dict[str, Any]) -> str:
    """A run in a line."""
    counts = f"{run.get('completed', 0)} done, {run.get('skipped', 0)} skipped, {run.get('failed', 0)} failed"
    error = f"; {run['error']}" if run.get("error") else ""
    return f"{run['model']}, {run['state']}, {run['started'][:16].replace('T', ' ')} UTC, last: {counts}{error}"
