"""Gradio, imported without telemetry and without what only editors and `help()` need.

While its components are defined, Gradio parses its own source to bring `.pyi` files beside it up to date, and fills in
the docstrings of their events with a template engine: more than half of the time that importing it takes. It leaves the
first out for classes whose file cannot be found; the second needs no more than to replace a name.
"""

import inspect
import os
from typing import Any
from unittest import mock

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

_getfile = inspect.getfile


def _getfile_but_of_components(thing: Any) -> str:
    if isinstance(thing, type) and thing.__module__.startswith("gradio."):
        raise FileNotFoundError(thing.__name__)
    return _getfile(thing)


class _Docstring:
    """Stands in for `jinja2.Template`."""

    def __init__(self, text: str) -> None:
        self._text = text

    def render(self, component: str) -> str:
        return self._text.replace("{{ component }}", component)


with mock.patch("inspect.getfile", _getfile_but_of_components), mock.patch("jinja2.Template", _Docstring):
    import gradio

__all__ = ["gradio"]
