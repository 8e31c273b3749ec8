"""Saliency for FiftyOne: where people look in the videos of a dataset."""

from . import operators

_ALL = (operators.ComputeSaliency, operators.CancelSaliency, operators.DeleteSaliency)


def register(plugin) -> None:
    """Called by FiftyOne."""
    for cls in _ALL:
        plugin.register(cls)
