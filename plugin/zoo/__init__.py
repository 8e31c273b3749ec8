"""TinyHD in FiftyOne's model zoo: `foz.load_zoo_model("tinyhd-m")`, then `dataset.apply_model(model, "saliency")`.

The operators of the plugin do more: statistics, progress, resuming, undoing.
"""

import secrets
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import fiftyone as fo
import fiftyone.core.models as fom

import tinyhd
from tinyhd.files import AtomicOutput, make_folder
from tinyhd.options import InferenceOptions, RenderOptions
from tinyhd.pipeline.analyze import analysis
from tinyhd.render.grayscale import encode_display_map
from tinyhd.render.normalize import Normalizer


def download_model(model_name: str, model_path: str) -> None:
    """Called by FiftyOne: puts the model that comes with the package `tinyhd` where the zoo wants it."""
    with resources.as_file(resources.files("tinyhd") / "models" / f"{model_name}.bin") as weights:
        shutil.copyfile(weights, model_path)


def load_model(model_name: str, model_path: str, **parameters: Any) -> "SaliencyModel":
    """Called by FiftyOne with the keywords of `load_zoo_model`: those of `SaliencyModel`."""
    return SaliencyModel(model_name if model_name in tinyhd.list_models() else model_path, **parameters)


class SaliencyModel(fom.Model):
    """Heat maps for the frames of videos.

    The maps are 8-bit images in a folder: kept in the database they would bloat it.
    """

    def __init__(self, model: str, maps_dir: str | None = None, normalize: str = "frame", **inference: Any) -> None:
        """
        Args:
            model: a name of `tinyhd.list_models()`, or a file with weights.
            maps_dir: folder for the maps; None: `saliency` beside each video.
            normalize: frame or none, see `RenderOptions`.
            **inference: the other `InferenceOptions`.

        Raises:
            OptionError: an unknown name, or a value that is not allowed.
        """
        self._options = InferenceOptions.from_mapping(inference | {"model": model})
        self._normalize = RenderOptions(normalize=normalize).normalize
        self._backend = tinyhd.open_backend(self._options)
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
        target = folder / f"{path.stem}-{secrets.token_hex(4)}"  # browsers keep images by name
        labels = {}
        with (
            AtomicOutput(target, folder=True) as output,
            analysis(path, inference=self._options, backend=self._backend) as run,
        ):
            normalize = Normalizer(self._normalize, run.display_scale)
            width, height = round(run.info.width * run.info.sample_aspect_ratio), run.info.height
            for frame, saliency, is_cut in run:
                shown = normalize(saliency, frame.time_seconds, is_cut)
                name = f"{frame.index + 1:06d}.png"
                (output.temporary / name).write_bytes(encode_display_map(shown, width, height))
                labels[frame.index + 1] = fo.Heatmap(map_path=str(target / name))
        return labels
