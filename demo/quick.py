"""Gradio, imported without telemetry and without writing type stubs.

While its components are defined, Gradio parses its own source and brings `.pyi` files beside it up to date, for
editors: half of the time that importing it takes. It leaves that out for classes whose file cannot be found.
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


with mock.patch("inspect.getfile", _getfile_but_of_components):
    import gradio

__all__ = ["gradio"]
