"""Pieces of forms that several operators share."""

import dataclasses
from typing import Any

import fiftyone.operators as foo
from fiftyone.operators import types

import tinyhd
from tinyhd.choices import choices, field_types
from tinyhd.options import COLORMAPS, InferenceOptions

from .runs import list_runs
from .settings import detection_fields

ADVANCED = "advanced"
"""The switch that shows more of a form; not a parameter."""

_LABELS = {
    "crf": "Quality (CRF)",
    "field": "Field",
    "normalize": "Full brightness is",
    "colormap": "Color map",
    "maps_dir": "Folder for the maps",
    "output_dir": "Folder for the videos",
    "stride": "Store a map every N frames",
    "skip_existing": "Skip videos that are done",
    "skip_failures": "Skip videos that failed before",
    "cuts": "Look for shot cuts",
    "name": "Name",
    "results": "Where the new videos go",
    "boxes": "Show the crop on the source",
    "aspect": "Aspect",
    "pad": "Padding",
    "min_share": "Least share of attention",
    "max_speed": "Speed of pans",
    "threshold": "Attended from this share on",
    "sampling_rate": "Frames a second that the model sees",
}
_SUGGESTED = {
    "model": tinyhd.list_models(),
    "colormap": COLORMAPS,
    "aspect": ("9:16", "4:5", "1:1", "16:9"),
}
_HELP = {
    "model": "a name, or the path of a .safetensors or .pth file on the server; if none is named: the embedded model",
    "normalize": "frame: each frame's maximum, smoothed over a second; video: the whole video's, to compare its "
    "moments; none: one value for all, to compare videos",
    "aspect": "width to height of the result, such as 9:16, which is the default",
    "size": "of the result in pixels, such as 1080x1920, even numbers; if none is named: that of the crop",
    "pad": "where the crop would hold less attention than the least share, or not all of the detections to keep, take "
    "a wider one and fill the rest with a blurred copy or a color",
    "pad_color": "where it is padded with a color: a name or #RRGGBB",
    "min_share": "where it may be padded: share of a shot's attention that the crop should hold",
    "encoder": "any video encoder of FFmpeg, such as h264_nvenc, instead of the codec; auto: NVENC where there is one",
}
"""In the place of help that is about the command line."""


def notice(inputs: types.Object, name: str, text: str) -> None:
    """A sentence in a form."""
    inputs.view(name, types.Notice(label=text))


def warning(inputs: types.Object, name: str, text: str) -> None:
    """A sentence that stands out, and keeps the form from being sent."""
    prop = inputs.view(name, types.Warning(label=text))
    prop.invalid = True
    prop.error_message = text


def option_inputs(
    inputs: types.Object,
    kind: type,
    *,
    advanced: bool = False,
    labels: dict[str, str] | None = None,
    descriptions: dict[str, str] | None = None,
    without: tuple[str, ...] = (),
    defaults: dict[str, Any] | None = None,
) -> dict[str, types.Property]:
    """An input for each option of a dataclass, by name: those of its `choices`, plain or advanced ones.

    Args:
        labels, descriptions, defaults: in the place of the options' own, by name.
        without: names that are left out.
    """
    defaults = {entry.name: entry.default for entry in dataclasses.fields(kind)} | (defaults or {})
    made = {}
    for name, choice in choices(kind).items():
        if choice.advanced != advanced or choice.runs_program or name in without:
            continue
        value_type, default = field_types(kind)[name], defaults[name]
        help = (descriptions or {}).get(name) or _HELP.get(name) or choice.help
        shown: dict[str, Any] = {
            "label": (_LABELS | (labels or {})).get(name, name.replace("_", " ").capitalize()),
            "default": default,
        }
        about = help[0].upper() + help[1:]
        if not about.startswith(shown["label"]):
            shown["description"] = about
        if choice.allowed:
            made[name] = inputs.enum(name, choice.allowed, **shown)
        elif value_type is bool:
            made[name] = inputs.bool(name, **shown)
        elif value_type in (int, float):
            add = inputs.int if value_type is int else inputs.float
            made[name] = add(name, min=choice.minimum, max=choice.maximum, **shown)
        else:
            suggested = _SUGGESTED.get(name)
            made[name] = inputs.str(name, view=_suggestions(suggested) if suggested else None, **shown)
    return made


def inference_inputs(
    ctx: foo.ExecutionContext, inputs: types.Object, *more: type, defaults: dict[str, Any] | None = None
) -> dict[str, types.Property]:
    """Inputs for which model computes where; with those of further options, and behind a switch the advanced ones."""
    made = option_inputs(inputs, InferenceOptions, defaults=defaults)
    for kind in more:
        made |= option_inputs(inputs, kind)
    inputs.bool(ADVANCED, default=False, label="Advanced", description="GPU batches, precision, sampling, encoder ...")
    if ctx.params.get(ADVANCED):
        for kind in (InferenceOptions, *more):
            made |= option_inputs(inputs, kind, advanced=True, defaults=defaults)
    return made


def detection_inputs(
    ctx: foo.ExecutionContext,
    inputs: types.Object,
    name: str,
    label: str,
    about: str,
    default: list[str] | None = None,
) -> None:
    """A choice among the frame fields with detections, where there are any."""
    found = detection_fields(ctx.dataset)
    if not found:
        return
    offered = types.Choices()
    for field in found:
        offered.add_choice(field, label=field)
    view = types.DropdownView(multiple=True, choices=offered.choices)
    inputs.list(name, types.String(), label=label, description=about, view=view, default=default)


def _suggestions(names: Any) -> types.AutocompleteView:
    view = types.AutocompleteView()
    for name in names:
        view.add_choice(name, label=name)
    return view


def choose_run(ctx: foo.ExecutionContext, inputs: types.Object, states: tuple[str, ...], nothing: str) -> None:
    """The input `field`, a choice among the dataset's runs that are in one of the `states` (none: in any)."""
    runs = [run for run in list_runs(ctx.dataset) if not states or run["state"] in states]
    if not runs:
        warning(inputs, "nothing", nothing)
        return
    offered = types.Dropdown()
    for run in runs:
        offered.add_choice(run["field"], label=run["field"], description=describe_run(run))
    inputs.enum("field", offered.values(), default=runs[0]["field"], required=True, label="Run", view=offered)


def describe_run(run: dict[str, Any]) -> str:
    """A run in a line."""
    counts = f"{run.get('completed', 0)} done, {run.get('skipped', 0)} skipped, {run.get('failed', 0)} failed"
    error = f"; {run['error']}" if run.get("error") else ""
    return f"{run['model']}, {run['state']}, {run['started'][:16].replace('T', ' ')} UTC, last: {counts}{error}"
