"""Saliency for FiftyOne: where people look in the videos of a dataset."""

import importlib.util

import fiftyone.operators as foo

_IS_COMPLETE = importlib.util.find_spec("tinyhd") is not None

if _IS_COMPLETE:
    from . import operators, panels

    _ALL: tuple[type[foo.Operator], ...] = (
        operators.ComputeSaliency,
        operators.RenderSaliency,
        operators.AnnotateVideos,
        operators.ReencodeVideos,
        operators.CancelSaliency,
        operators.DeleteSaliency,
        operators.UndoVideos,
        panels.SaliencyOverTime,
        panels.SaliencyOverview,
    )
else:
    from .missing import ALL as _ALL


def register(plugin) -> None:
    """Called by FiftyOne."""
    for cls in _ALL:
        plugin.register(cls)
