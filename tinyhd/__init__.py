"""TinyHD: where people look in a video.

    import tinyhd

    tinyhd.annotate("clip.mp4")  # writes clip.saliency.mp4

    track = tinyhd.analyze("clip.mp4")  # what the model saw, to be used as often as wanted
    for saliency in track.maps_at([0.0, 0.5, 1.0]):
        print(saliency.shape)  # 192x256 values, larger where people look

    for frame, saliency, is_cut in tinyhd.predict_video("clip.mp4"):  # frame by frame, while the video is read
        print(frame.time_seconds, saliency.max())

The names below are the public interface; they are imported when they are first used, so that what needs little does
not wait for the rest.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tinyhd.version import __version__ as __version__

if TYPE_CHECKING:  # "as" tells type checkers that they are public
    # ruff: isort: off
    from tinyhd.errors import TinyHDError as TinyHDError
    from tinyhd.inference.backends import open_backend as open_backend
    from tinyhd.inference.predict import predict_frames as predict_frames, predict_video as predict_video
    from tinyhd.network.registry import list_models as list_models
    from tinyhd.network.weights import load_model as load_model
    from tinyhd.options import (
        EncoderOptions as EncoderOptions,
        InferenceOptions as InferenceOptions,
        MomentOptions as MomentOptions,
        ReframeOptions as ReframeOptions,
        RenderOptions as RenderOptions,
        RoiOptions as RoiOptions,
    )
    from tinyhd.pipeline.analyze import analyze as analyze
    from tinyhd.pipeline.annotate import annotate as annotate
    from tinyhd.pipeline.encode import encode as encode
    from tinyhd.pipeline.moments import moments as moments
    from tinyhd.pipeline.reframe import reframe as reframe
    from tinyhd.pipeline.report import report as report
    from tinyhd.saliency.track import SaliencyTrack as SaliencyTrack
    from tinyhd.video.reader import probe as probe, read_frames as read_frames

_MODULES = {
    "EncoderOptions": "options",
    "InferenceOptions": "options",
    "MomentOptions": "options",
    "ReframeOptions": "options",
    "RenderOptions": "options",
    "RoiOptions": "options",
    "SaliencyTrack": "saliency.track",
    "TinyHDError": "errors",
    "analyze": "pipeline.analyze",
    "annotate": "pipeline.annotate",
    "encode": "pipeline.encode",
    "list_models": "network.registry",
    "load_model": "network.weights",
    "moments": "pipeline.moments",
    "open_backend": "inference.backends",
    "predict_frames": "inference.predict",
    "predict_video": "inference.predict",
    "probe": "video.reader",
    "read_frames": "video.reader",
    "reframe": "pipeline.reframe",
    "report": "pipeline.report",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ModuleNotFoundError(f"{name} needs PyTorch: pip install 'tinyhd[torch]'.", name="torch") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
