"""Where people looked: fixation points, density maps, and the files that hold fixations.

Two types keep apart what saliency metrics need and what is often mixed up: `FixationPoints` are single positions,
`DensityMap` is the smooth map made from them. Positions are fractions of the frame's width and height, so they need no
resizing; a binary fixation map that is resized with interpolation loses or invents fixations.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray

from tinyhd.errors import InputError, OptionError

Array = NDArray[np.float64]
"""A float64 array; the shape is in the docstring of whatever has it."""

HELD_OUT_IMAGES = {"osie": 100, "sun500": 100, "eyecrowd": 0, "figrim": 157, "fiwi": 30, "tis": 60}
"""By the name of a fixation set's folder: how many of its last images are kept for validation."""

HELD_OUT_OTHERWISE = 100
"""The same for sets of other names."""

IMAGE_SPLITS = ("all", "train", "held-out")


@dataclass(frozen=True, eq=False)
class FixationPoints:
    """Fixations on one frame.

    Raises:
        InputError: the arrays do not match or a position is outside the frame.
    """

    x: Array
    """(N,) fractions of the width, 0 at the left edge, 1 at the right."""
    y: Array
    """(N,) fractions of the height, 0 at the top edge, 1 at the bottom."""
    viewer: NDArray[np.integer] | None = None
    """(N,) who looked there, as numbers; None: not known."""

    def __post_init__(self) -> None:
        x, y = np.asarray(self.x, np.float64), np.asarray(self.y, np.float64)
        if x.ndim != 1 or x.shape != y.shape:
            raise InputError(f"fixations need two lists of equal length, not shapes {x.shape} and {y.shape}.")
        if self.viewer is not None and self.viewer.shape != x.shape:
            raise InputError(f"{len(x)} fixations cannot have {self.viewer.size} viewers: give one for each.")
        if not all(((v >= 0) & (v <= 1)).all() for v in (x, y)):
            raise InputError("fixations are fractions of the frame's width and height; some lie outside 0 to 1.")
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)

    def __len__(self) -> int:
        return len(self.x)

    @classmethod
    def from_pixels(cls, rows: ArrayLike, columns: ArrayLike, height: int, width: int) -> Self:
        """Points at the centers of whole pixels (0-based) of a frame of `height` x `width` pixels."""
        return cls((np.asarray(columns) + 0.5) / width, (np.asarray(rows) + 0.5) / height)

    @classmethod
    def from_map(cls, fixation_map: ArrayLike) -> Self:
        """Points at the non-zero pixels of a binary map (H, W): 0 and 1, 0 and 255, or boolean.

        Raises:
            InputError: the map has more than one value beside 0, as a density map has, or a binary map that was resized
                with interpolation.
        """
        values = np.asarray(fixation_map)
        if values.ndim != 2:
            raise InputError(f"a fixation map has two dimensions, not shape {values.shape}.")
        rows, columns = np.nonzero(values)
        if len(np.unique(values[rows, columns])) > 1:
            raise InputError(
                "a fixation map must be binary; this one has several gray values: give the fixation map itself, "
                "neither a density map nor a resized map."
            )
        return cls.from_pixels(rows, columns, *values.shape)

    @classmethod
    def joined(cls, several: Iterable["FixationPoints"]) -> Self:
        """All points of several frames as one set, without their viewers; duplicates stay."""
        points = list(several)
        empty = np.zeros(0)
        return cls(np.concatenate([empty, *(p.x for p in points)]), np.concatenate([empty, *(p.y for p in points)]))

    def pixels(self, height: int, width: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows and columns (N,) of the pixels that the points lie in; the right and bottom edge belong to the last."""
        rows = np.minimum((self.y * height).astype(np.intp), height - 1)
        columns = np.minimum((self.x * width).astype(np.intp), width - 1)
        return rows, columns


@dataclass(frozen=True, eq=False)
class DensityMap:
    """How likely a fixation is at each pixel of one frame. Any non-negative map is scaled to the sum 1 at birth.

    Raises:
        InputError: the map is not two-dimensional, has negative or undefined values, or is zero everywhere.
    """

    values: Array
    """(H, W), sum 1."""

    def __post_init__(self) -> None:
        values = np.asarray(self.values, np.float64)
        if values.ndim != 2:
            raise InputError(f"a density map has two dimensions, not shape {values.shape}.")
        total = values.sum()
        if not np.isfinite(total) or values.min() < 0 or total == 0:
            raise InputError("a density map must be finite, nowhere negative and somewhere positive.")
        object.__setattr__(self, "values", values / total)

    @classmethod
    def from_fixations(cls, fixations: FixationPoints, height: int, width: int, sigma_pixels: float) -> Self:
        """Every fixation counted in its pixel (a pixel fixated twice counts twice), then blurred by a Gaussian of
        `sigma_pixels`; what the blur carries over the frame's edge is lost.

        Raises:
            InputError: there are no fixations.
        """
        if not len(fixations):
            raise InputError("a density map needs at least one fixation.")
        counts = np.zeros((height, width))
        np.add.at(counts, fixations.pixels(height, width), 1)
        # a separable blur of an image this small is fastest as two matrix products
        return cls(_blur_matrix(height, sigma_pixels) @ counts @ _blur_matrix(width, sigma_pixels))

    def resized(self, height: int, width: int) -> "DensityMap":
        """The density at another size (see `resize_map`), sum 1 again."""
        return DensityMap(resize_map(self.values, height, width))


@lru_cache(maxsize=8)
def _blur_matrix(size: int, sigma_pixels: float) -> Array:
    """(size, size), symmetric: row i is a Gaussian around i."""
    if sigma_pixels <= 0:
        raise OptionError(f"the density's sigma is {sigma_pixels} pixels; it must be positive.")
    distance = np.subtract.outer(np.arange(size), np.arange(size))
    return np.exp(-0.5 * (distance / sigma_pixels) ** 2)


def resize_map(values: ArrayLike, height: int, width: int) -> Array:
    """A map (H, W) at another size: bilinear between pixel centers, averaging where it shrinks."""
    tensor = torch.from_numpy(np.array(values, np.float64))[None, None]
    resized = F.interpolate(tensor, (height, width), mode="bilinear", align_corners=False, antialias=True)
    return resized[0, 0].numpy()


def center_prior(height: int, width: int, sigma: float = 0.21) -> DensityMap:
    """The map that knows nothing but that people look at the middle: a Gaussian around the frame's center whose
    standard deviation is `sigma` of the height and `sigma` of the width. The default makes the fixations on the
    training images of OSIE, SUN500 and EyeCrowd most likely."""
    y = ((np.arange(height) + 0.5) / height - 0.5)[:, None]
    x = ((np.arange(width) + 0.5) / width - 0.5)[None]
    return DensityMap(np.exp(-0.5 * (x**2 + y**2) / sigma**2))


@dataclass(frozen=True, eq=False)
class VideoFixations:
    """Fixations of several viewers on one video; the arrays are parallel, one entry per fixation."""

    path: Path
    """The video file."""
    viewer: NDArray[np.int64]
    start_ms: Array
    """When the fixation begins, on the file's own clock: the timestamps of its frames, which need not begin at 0."""
    duration_ms: Array
    x: Array
    """Fractions of the width."""
    y: Array
    """Fractions of the height."""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def at(self, time_ms: float) -> FixationPoints:
        """The fixations that a frame with this timestamp was seen with: those under way at that moment."""
        now = (self.start_ms <= time_ms) & (time_ms < self.start_ms + self.duration_ms)
        return FixationPoints(self.x[now], self.y[now], self.viewer[now])


@dataclass(frozen=True, eq=False)
class ImageFixations:
    """Fixations of several viewers on one still image."""

    path: Path
    """The image file."""
    points: FixationPoints

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name


def read_video_fixations(folder: Path) -> list[VideoFixations]:
    """Videos and fixations of a folder with `fixations.npz`: parallel arrays `video_index`, `viewer`, `t_ms`,
    `duration_ms`, `x`, `y`, one entry per fixation, and `video_names`.

    Raises:
        InputError: the file is missing or is none of these.
    """
    data = _read_npz(folder, ("video_names", "video_index", "viewer", "t_ms", "duration_ms", "x", "y"))
    videos = []
    for index, name in enumerate(data["video_names"]):
        mine = data["video_index"] == index
        viewer, start, duration, x, y = (data[key][mine] for key in ("viewer", "t_ms", "duration_ms", "x", "y"))
        videos.append(VideoFixations(folder / str(name), viewer, _float(start), _float(duration), _float(x), _float(y)))
    return videos


def read_image_fixations(folder: Path, split: str = "all") -> list[ImageFixations]:
    """Images and fixations of a folder with `fixations.npz`: parallel arrays `image_index`, `viewer`, `x`, `y`, one
    entry per fixation, and `image_names`.

    Args:
        split: `held-out` is the last images (see `HELD_OUT_IMAGES`), `train` the rest, `all` both.

    Raises:
        InputError: the file is missing or is none of these.
        OptionError: there is no such split.
    """
    if split not in IMAGE_SPLITS:
        raise OptionError(f"there is no split {split!r}; it must be one of {', '.join(IMAGE_SPLITS)}.")
    data = _read_npz(folder, ("image_names", "image_index", "viewer", "x", "y"))
    images = []
    for index, name in enumerate(data["image_names"]):
        mine = data["image_index"] == index
        viewer, x, y = (data[key][mine] for key in ("viewer", "x", "y"))
        images.append(ImageFixations(folder / str(name), FixationPoints(x, y, viewer)))
    first_held_out = max(0, len(images) - HELD_OUT_IMAGES.get(folder.resolve().name, HELD_OUT_OTHERWISE))
    return {"all": images, "train": images[:first_held_out], "held-out": images[first_held_out:]}[split]


def _float(values: NDArray[np.generic]) -> Array:
    return values.astype(np.float64)


def _read_npz(folder: Path, keys: Sequence[str]) -> dict[str, NDArray[np.generic]]:
    path = folder / "fixations.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in keys if key not in file]
            if missing:
                raise InputError(f"{path} is no fixation file of this kind: it has no {', '.join(missing)}.")
            return {key: file[key] for key in keys}
    except FileNotFoundError as error:
        raise InputError(f"there is no {path}; name the folder that holds fixations.npz.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a NumPy archive: {error}.") from error
