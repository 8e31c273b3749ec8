"""Pieces of forms that several operators share."""

import dataclasses
import typing
from typing import Any

import fiftyone.operators as foo
from fiftyone.operators import types

import tinyhd
from tinyhd.choices import Choice, choices, field_types
from tinyhd.options import COLORMAPS, EncoderOptions, InferenceOptions

from .runs import list_runs
from .settings import Parameters, detection_fields

ADVANCED = "advanced"
"""The switch that shows more of a form; not a parameter."""

_LABELS = {
    "crf": "Quality (CRF)",
    "field": "Field",
    "normalize": "Full brightness is",
    "colormap": "Color map",
    "maps_dir": "Folder for the maps",
    "output_dir": "Output folder",
    "stride": "Store a map every N frames",
    "skip_existing": "Skip videos that are done",
    "skip_failures": "Skip videos that failed before",
    "cuts": "Look for shot cuts",
    "name": "Name",
    "keep": "Detections to keep",
    "apart": "Seconds apart",
    "pictures": "Write pictures",
    "strength": "Strength",
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


def parameter_inputs(
    ctx: foo.ExecutionContext,
    inputs: types.Object,
    kind: type[Parameters],
    labels: dict[str, str],
    descriptions: dict[str, str],
    without: tuple[str, ...],
    defaults: dict[str, Any],
) -> dict[str, types.Property]:
    """An input for each of an operator's parameters, by name: what the operator is about, then its own, then which
    model computes where, and how videos are encoded; behind a switch the advanced ones.

    Args:
        labels, descriptions, defaults: in the place of the options' own, by name.
        without: names that are left out.
    """
    groups = list(kind.groups().values())
    common = [group for group in (InferenceOptions, EncoderOptions) if group in groups]
    parts = [*(group for group in groups if group not in common), kind, *common]
    made: dict[str, types.Property] = {}
    for advanced in (False, True):
        for part in parts:
            own = {entry.name: entry.default for entry in dataclasses.fields(part)} | defaults
            for name, choice in choices(part).items():
                if choice.advanced != advanced or choice.runs_program or name in without:
                    continue
                label = (_LABELS | labels).get(name) or _sentence(name.replace("_", " "))
                shown = {"label": label, "default": own[name]}
                about = _sentence(descriptions.get(name) or _HELP.get(name) or choice.help)
                if not about.startswith(label):
                    shown["description"] = about
                prop = _input(ctx, inputs, name, field_types(part)[name], choice, shown)
                if prop:
                    made[name] = prop
        if advanced or InferenceOptions not in parts:
            break
        about = "GPU batches, precision, sampling, bit rate, preset ..."
        inputs.bool(ADVANCED, default=False, label="Advanced", description=about)
        if not ctx.params.get(ADVANCED):
            break
    return made


def _sentence(text: str) -> str:
    """With a capital, and options without the command line's dashes."""
    return text[0].upper() + text[1:].replace("--", "")


def _input(
    ctx: foo.ExecutionContext, inputs: types.Object, name: str, kind: Any, choice: Choice, shown: dict[str, Any]
) -> types.Property | None:
    """The input for an option of a type; None: there is nothing to choose from."""
    if choice.allowed:
        return inputs.enum(name, choice.allowed, **shown)
    if kind is bool:
        return inputs.bool(name, **shown)
    if kind in (int, float):
        add = inputs.int if kind is int else inputs.float
        return add(name, min=choice.minimum, max=choice.maximum, **shown)
    if typing.get_origin(kind) is tuple:  # names of fields with detections
        offered = types.Choices()
        for field in detection_fields(ctx.dataset):
            offered.add_choice(field, label=field)
        if not offered.choices:
            return None
        view = types.DropdownView(multiple=True, choices=offered.choices)
        return inputs.list(name, types.String(), view=view, **shown)
    suggested = _SUGGESTED.get(name)
    return inputs.str(name, view=_suggestions(suggested) if suggested else None, **shown)


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
