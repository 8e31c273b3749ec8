"""TinyHD: where people look in a video.

    import tinyhd

    model = tinyhd.load_model()
    for frame, saliency, is_cut in tinyhd.predict_video("clip.mp4", model):
        print(frame.time_seconds, saliency.shape)  # 192x256 values, larger where people look

    tinyhd.annotate("clip.mp4")  # writes clip.saliency.mp4

The names below are the public interface; they are imported when they are first used, so that what needs no PyTorch
does not wait for it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyhd.errors import TinyHDError
    from tinyhd.inference.predict import Prediction, predict_frames, predict_video
    from tinyhd.network.registry import list_models
    from tinyhd.network.weights import load_model
    from tinyhd.pipeline.annotate import AnnotateResult, annotate
    from tinyhd.saliency.stats import FrameStats
    from tinyhd.video.frame import Frame, VideoInfo
    from tinyhd.video.reader import probe, read_frames

__version__ = "0.1.0"

_MODULES = {
    "AnnotateResult": "pipeline.annotate",
    "Frame": "video.frame",
    "FrameStats": "saliency.stats",
    "Prediction": "inference.predict",
    "TinyHDError": "errors",
    "VideoInfo": "video.frame",
    "annotate": "pipeline.annotate",
    "list_models": "network.registry",
    "load_model": "network.weights",
    "predict_frames": "inference.predict",
    "predict_video": "inference.predict",
    "probe": "video.reader",
    "read_frames": "video.reader",
}

__all__ = [
    "AnnotateResult",
    "Frame",
    "FrameStats",
    "Prediction",
    "TinyHDError",
    "VideoInfo",
    "annotate",
    "list_models",
    "load_model",
    "predict_frames",
    "predict_video",
    "probe",
    "read_frames",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
