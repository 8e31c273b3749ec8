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
    from tinyhd.pipeline import AnnotateResult, annotate
    from tinyhd.predict import Prediction, predict_frames, predict_video
    from tinyhd.stats import FrameStats
    from tinyhd.video import Frame, VideoInfo, probe, read_frames
    from tinyhd.weights import list_models, load_model

__version__ = "0.1.0"

_MODULES = {
    "AnnotateResult": "pipeline",
    "Frame": "video",
    "FrameStats": "stats",
    "Prediction": "predict",
    "TinyHDError": "errors",
    "VideoInfo": "video",
    "annotate": "pipeline",
    "list_models": "weights",
    "load_model": "weights",
    "predict_frames": "predict",
    "predict_video": "predict",
    "probe": "video",
    "read_frames": "video",
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
