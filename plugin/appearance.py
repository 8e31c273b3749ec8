"""How the App shows a run's heat maps: colored by value, and ticked in the sidebar; taken back with the run."""

from typing import Any

import fiftyone as fo


def show(dataset: fo.Dataset, path: str, earlier: dict[str, Any]) -> dict[str, Any]:
    """Color heat maps by their values (viridis, which is all that the App has for frames), and tick the field; what the
    user has chosen stays.

    Args:
        earlier: what other runs have recorded of it.

    Returns:
        what `hide` needs to take it back, for the run's record.
    """
    config, before = dataset.app_config, dict(earlier)
    if config.color_scheme is None:
        config.color_scheme = fo.ColorScheme()
        before["made_scheme"] = True
    scheme = config.color_scheme
    if scheme.color_by is None:
        scheme.color_by = "value"
        before["set_color_by"] = True
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


def hide(dataset: fo.Dataset, path: str, before: dict[str, Any], is_last: bool) -> None:
    """Take back what `show` did, once the field is gone; what all runs share, with the last one."""
    config = dataset.app_config
    scheme = config.color_scheme
    if scheme is not None and is_last:
        if before.get("set_color_by") and scheme.color_by == "value":
            scheme.color_by = None
        chosen = (name for name in scheme._fields if name not in ("_cls", "id"))
        if before.get("made_scheme") and not any(scheme[name] for name in chosen):
            config.color_scheme = None
    active = config.active_fields
    if active is not None:
        if not active.exclude and path in active.paths:
            active.paths.remove(path)
        default = fo.DatasetAppConfig.default_active_fields(dataset)
        if is_last and before.get("made_active_fields") and set(active.paths) == set(default.paths):
            config.active_fields = None
    dataset.save()
