"""How the App shows a run's heat maps: colored by value, and ticked in the sidebar; taken back with the run."""

from typing import Any

import fiftyone as fo

COLORSCALE = (
    (0.0, "rgb(70, 107, 227)"),
    (0.25, "rgb(41, 187, 236)"),
    (0.5, "rgb(49, 242, 153)"),
    (0.75, "rgb(237, 208, 58)"),
    (1.0, "rgb(203, 42, 4)"),
)
"""Turbo without its dark ends, which would lie like shadows over the video."""


def show(dataset: fo.Dataset, path: str) -> dict[str, Any]:
    """Color the heat maps of a field by their values, and tick the field; what the user has chosen stays.

    Returns:
        what `hide` needs to take it back, for the run's record.
    """
    config, before = dataset.app_config, {}
    if config.color_scheme is None:
        config.color_scheme = fo.ColorScheme()
        before["made_scheme"] = True
    scheme = config.color_scheme
    if scheme.color_by is None:
        scheme.color_by = "value"
        before["set_color_by"] = True
    if not any(entry.get("path") == path for entry in scheme.colorscales or ()):
        colors = [{"value": value, "color": color} for value, color in COLORSCALE]
        scheme.colorscales = [*(scheme.colorscales or ()), {"path": path, "list": colors}]
        before["set_colorscale"] = True
    if config.active_fields is None:
        config.active_fields = fo.DatasetAppConfig.default_active_fields(dataset)
        before["made_active_fields"] = True
    active = config.active_fields
    listed = path in active.paths
    if active.exclude and listed:
        active.paths.remove(path)
    elif not active.exclude and not listed:
        active.paths.append(path)
    dataset.save()
    return before


def hide(dataset: fo.Dataset, path: str, before: dict[str, Any]) -> None:
    """Take back what `show` did, as far as nothing else depends on it. Call it once the field is gone."""
    config = dataset.app_config
    scheme = config.color_scheme
    if scheme is not None and before.get("set_colorscale"):
        scheme.colorscales = [entry for entry in scheme.colorscales or () if entry.get("path") != path] or None
        if before.get("set_color_by") and not scheme.colorscales and scheme.color_by == "value":
            scheme.color_by = None
        chosen = (name for name in scheme._fields if name not in ("id", "color_by"))
        if before.get("made_scheme") and scheme.color_by is None and not any(scheme[name] for name in chosen):
            config.color_scheme = None
    active = config.active_fields
    if active is not None:
        if not active.exclude and path in active.paths:
            active.paths.remove(path)
        default = fo.DatasetAppConfig.default_active_fields(dataset)
        if before.get("made_active_fields") and set(active.paths) == set(default.paths):
            config.active_fields = None
    dataset.save()
