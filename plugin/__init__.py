"""Saliency for FiftyOne: where people look in the videos of a dataset."""

import importlib.util

import fiftyone.operators as foo

_IS_COMPLETE = importlib.util.find_spec("tinyhd") is not None

if _IS_COMPLETE:
    from . import operators, panels, upkeep

    _ALL: tuple[type[foo.Operator], ...] = (
        operators.ComputeSaliency,
        operators.RenderSaliency,
        operators.AnnotateVideos,
        operators.ReframeVideos,
        operators.EncodeVideos,
        operators.Moments,
        operators.ReencodeVideos,
        operators.Report,
        upkeep.CancelSaliency,
        upkeep.DeleteSaliency,
        upkeep.UndoVideos,
        panels.SaliencyOverTime,
        panels.SaliencyOverview,
        panels.SaliencyReports,
    )
else:
    from .missing import ALL as _ALL


def register(plugin) -> None:
    """Called by FiftyOne."""
    for cls in _ALL:
        plugin.register(cls)
