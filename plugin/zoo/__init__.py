"""TinyHD in FiftyOne's model zoo: `foz.load_zoo_model("tinyhd-m")`, then `dataset.apply_model(model, "saliency")`.

The operators of the plugin do more: numbers, progress, resuming, undoing.
"""

import secrets
from pathlib import Path
from typing import Any

import fiftyone as fo
import fiftyone.core.models as fom

import tinyhd
from tinyhd.files import AtomicOutput, make_folder
from tinyhd.network.weights import save_model
from tinyhd.render.grayscale import encode_display_map
from tinyhd.render.normalize import SmoothedRange, normalize_map
from tinyhd.video.reader import open_video


def download_model(model_name: str, model_path: str) -> None:
    """Called by FiftyOne: puts the model that comes with the package `tinyhd` where the zoo wants it."""
    save_model(tinyhd.load_model(model_name), model_path)


def load_model(model_name: str, model_path: str, **parameters: Any) -> "SaliencyModel":
    """Called by FiftyOne with the keywords of `load_zoo_model`: those of `SaliencyModel`."""
    return SaliencyModel(model_path, **parameters)


class SaliencyModel(fom.Model):
    """Heat maps for the frames of videos.

    The maps are 8-bit pictures in a folder: kept in the database they would bloat it.
    """

    def __init__(self, model_path: str, device: str = "auto", maps_dir: str | None = None) -> None:
        """
        Args:
            model_path: weights.
            device: auto, cpu, cuda, cuda:N or mps.
            maps_dir: folder for the maps; None: `saliency` beside each video.
        """
        self._network = tinyhd.load_model(model_path, device)
        self._maps_dir = maps_dir

    @property
    def media_type(self) -> str:
        return "video"

    @property
    def ragged_batches(self) -> bool:
        return True

    @property
    def transforms(self) -> None:
        return None

    @property
    def preprocess(self) -> bool:
        return False

    def predict(self, arg: Any) -> dict[int, fo.Heatmap]:
        """The heat map of each frame of a video.

        Args:
            arg: an `eta.core.video.VideoReader`, as `apply_model` gives, or a path.

        Returns:
            a `fiftyone.Heatmap` for each frame number, from 1 on.
        """
        path = Path(getattr(arg, "inpath", arg))
        folder = make_folder(Path(self._maps_dir) if self._maps_dir else path.parent / "saliency").absolute()
        target = folder / f"{path.stem}-{secrets.token_hex(4)}"  # browsers keep pictures by name
        smoothed = SmoothedRange()
        labels = {}
        with open_video(path) as reader, AtomicOutput(target, folder=True) as output:
            width = round(reader.info.width * reader.info.sample_aspect_ratio)
            for frame, saliency, is_cut in tinyhd.predict_video(reader, self._network):
                shown = normalize_map(saliency, smoothed(saliency, frame.time_seconds, is_cut))
                name = f"{frame.index + 1:06d}.png"
                (output.temporary / name).write_bytes(encode_display_map(shown, width, reader.info.height))
                labels[frame.index + 1] = fo.Heatmap(map_path=str(target / name))
        return labels
