"""Videos with fixations in the layouts in which DHF1K, Hollywood-2 and UCF-Sports are distributed.

All three are read as the authors of DHF1K hand them out (https://github.com/wenguanwang/DHF1K, its README and
`record_mapping.m`; Wang et al., "Revisiting Video Saliency: A Large-scale Benchmark and a New Model", CVPR 2018): they
turned the gaze recordings that Mathe and Sminchisescu (TPAMI 2015) made for Hollywood-2 and UCF-Sports into maps per
frame, one folder per shot, and published work, TinyHD's included, trains and tests on those. The names of files are
those that UNISAL (https://github.com/rdroste/unisal) reads. The original recordings, gaze samples as text, are not
read.

Per frame there is a binary fixation map, where several fixations of one pixel are one, and a density map made from it
by the authors (DHF1K: a Gaussian of 12.7 pixels; the others: 20 pixels at the video's own size).
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tinyhd.errors import InputError, OptionError
from training.fixations import DensityMap, FixationPoints

DHF1K_SPLITS = {"train": range(1, 601), "validation": range(601, 701)}
"""Video numbers of DHF1K's splits; the annotations of the test videos, 701 to 1000, are not public."""

SHOT_SPLITS = {"train": "training", "test": "testing"}
"""Folders of Hollywood-2's and UCF-Sports' splits."""


@dataclass(frozen=True)
class LabelledVideo:
    """One video with what is known about each of its frames; files are read when asked for."""

    name: str
    frame_files: tuple[Path, ...]
    """One image per frame; empty where the frames are in `video_file`."""
    video_file: Path | None
    """The video; None where there are `frame_files`."""
    density_files: tuple[Path | None, ...]
    """Per frame the density map (8-bit image); None where the dataset has none."""
    fixation_files: tuple[Path | None, ...]
    """Per frame the binary fixation map (8-bit image, or MATLAB file with the matrix `I`); None where there is none."""
    frame_rate: float
    """Frames a second, as the data set's videos usually have."""

    def __len__(self) -> int:
        """Frames that are labelled."""
        return len(self.density_files)

    def frames(self, start: int = 0) -> Iterator[NDArray[np.uint8]]:
        """The frames from number `start` (0-based) on, RGB (H, W, 3), at most as many as are labelled.

        Raises:
            InputError: a file cannot be read.
        """
        if self.video_file is None:
            for path in self.frame_files[start:]:
                yield _read_image(path, "RGB")
            return
        from tinyhd.video.reader import (
            read_frames,  # needs PyAV, which a machine that trains on prepared clips may lack
        )

        for frame in islice(read_frames(self.video_file), start, len(self)):
            yield frame.to_rgb()

    def fixations(self, frame: int) -> FixationPoints:
        """The fixated pixels of frame `frame` (0-based); none where there is no file or the map is empty.

        Raises:
            InputError: the file cannot be read or is no binary map.
        """
        path = self.fixation_files[frame]
        if path is None:
            return FixationPoints(np.zeros(0), np.zeros(0))
        values = _read_matlab(path) if path.suffix == ".mat" else _read_image(path, "L")
        try:
            return FixationPoints.from_map(values)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def density(self, frame: int) -> DensityMap | None:
        """The density map of frame `frame` (0-based) at its own size; None where there is none or it is empty.

        Raises:
            InputError: the file cannot be read.
        """
        path = self.density_files[frame]
        if path is None:
            return None
        values = _read_image(path, "L")
        return DensityMap(values.astype(np.float64)) if values.any() else None


def read_dhf1k(folder: Path, split: str = "train") -> list[LabelledVideo]:
    """DHF1K: `video/001.AVI` ... `video/1000.AVI` (640x360, 30 frames a second) and per video
    `annotation/0001/maps/0001.png` ... (density), `annotation/0001/fixation/0001.png` ... (fixations) and the same
    fixations as `annotation/0001/fixation/maps/0001.mat`. Videos that the folder lacks are left out, as downloads come
    in parts.

    Args:
        split: train (videos 1 to 600) or validation (601 to 700).

    Raises:
        InputError: the folder has no video with annotation of this split.
        OptionError: there is no such split.
    """
    _check_split(split, DHF1K_SPLITS)
    names = {path.stem: path for path in sorted((folder / "video").glob("*")) if path.suffix.lower() == ".avi"}
    videos = []
    for number in DHF1K_SPLITS[split]:
        video = names.get(f"{number:03d}") or names.get(f"{number:04d}")
        annotation = folder / "annotation" / f"{number:04d}"
        if video is None or not annotation.is_dir():
            continue
        maps, fixations = _by_number(annotation / "maps"), _fixation_files(annotation)
        count = max([0, *maps, *fixations])  # frames are numbered from 1
        numbers = range(1, count + 1)
        videos.append(
            LabelledVideo(
                name=video.stem,
                frame_files=(),
                video_file=video,
                density_files=tuple(maps.get(n) for n in numbers),
                fixation_files=tuple(fixations.get(n) for n in numbers),
                frame_rate=30,
            )
        )
    if not videos:
        raise InputError(
            f"{folder} has no DHF1K video of the split {split} with its annotation; expected are video/001.AVI and "
            "annotation/0001/maps/0001.png, annotation/0001/fixation/0001.png and so on."
        )
    return videos


def read_hollywood2(folder: Path, split: str = "train") -> list[LabelledVideo]:
    """Hollywood-2, one folder per shot: `training/actioncliptrain00001_1/images/actioncliptrain00001_00001.png` ...,
    `.../maps/` (density) and `.../fixation/` (fixations) with files of the same names, and the same fixations as
    `.../fixation/maps/*.mat`; `testing/actioncliptest00001_1/` likewise.

    Args:
        split: train or test.

    Raises:
        InputError: the folder has no such shot.
        OptionError: there is no such split.
    """
    return _read_shots(folder, split, "actionclip*", "Hollywood-2", 24)


def read_ucf_sports(folder: Path, split: str = "train") -> list[LabelledVideo]:
    """UCF-Sports, one folder per video: `training/Diving-Side-005/images/Diving-Side_005_001.png` ..., `.../maps/`
    (density) and `.../fixation/` (fixations) with files of the same names, and the same fixations as
    `.../fixation/maps/*.mat`; `testing/Diving-Side-001/` likewise.

    Args:
        split: train or test.

    Raises:
        InputError: the folder has no such video.
        OptionError: there is no such split.
    """
    return _read_shots(folder, split, "*-*", "UCF-Sports", 10)


def _read_shots(folder: Path, split: str, pattern: str, dataset: str, frame_rate: float) -> list[LabelledVideo]:
    _check_split(split, SHOT_SPLITS)
    videos = []
    for shot in sorted((folder / SHOT_SPLITS[split]).glob(pattern)):
        images, maps, fixations = _by_number(shot / "images"), _by_number(shot / "maps"), _fixation_files(shot)
        if images and (maps or fixations):
            # shots of Hollywood-2 keep the frame numbers of the whole clip: 00037, 00038, ...
            videos.append(
                LabelledVideo(
                    name=shot.name,
                    frame_files=tuple(images.values()),
                    video_file=None,
                    density_files=tuple(maps.get(n) for n in images),
                    fixation_files=tuple(fixations.get(n) for n in images),
                    frame_rate=frame_rate,
                )
            )
    if not videos:
        raise InputError(
            f"{folder} has no {dataset} video of the split {split}; expected are folders "
            f"{SHOT_SPLITS[split]}/{pattern} with images/, maps/ and fixation/ in each."
        )
    return videos


def _check_split(split: str, splits: Collection[str]) -> None:
    if split not in splits:
        raise OptionError(f"there is no split {split!r}; it must be one of {', '.join(splits)}.")


def _fixation_files(folder: Path) -> dict[int, Path]:
    """Fixation maps by frame number: the images, or the MATLAB files where a frame has no image."""
    return dict(sorted((_by_number(folder / "fixation" / "maps", ".mat") | _by_number(folder / "fixation")).items()))


def _by_number(folder: Path, *suffixes: str) -> dict[int, Path]:
    """Files of a folder by the number that their names end with, in that order."""
    found = {}
    for path in folder.glob("*"):
        number = re.search(r"(\d+)$", path.stem)
        if number and path.suffix.lower() in (suffixes or (".png", ".jpg", ".jpeg")):
            found[int(number[1])] = path
    return dict(sorted(found.items()))


def _read_image(path: Path, mode: str) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode))
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{path} cannot be read as an image: {error}.") from error


def _read_matlab(path: Path) -> NDArray[np.uint8]:
    from scipy.io import loadmat  # type: ignore[import-untyped]  # only these files need SciPy

    try:
        return np.asarray(loadmat(path)["I"])
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise InputError(f"{path} cannot be read as a MATLAB file with a matrix I: {error}.") from error
