"""Saliency for FiftyOne: where people look in the videos of a dataset."""

from . import operators, panels

_ALL = (
    operators.ComputeSaliency,
    operators.AnnotateVideos,
    operators.ReencodeVideos,
    operators.CancelSaliency,
    operators.DeleteSaliency,
    panels.SaliencyOverTime,
    panels.SaliencyOverview,
)


def register(plugin) -> None:
    """Called by FiftyOne."""
    for cls in _ALL:
        plugin.register(cls)
