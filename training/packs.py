"""Clip packs: what a training run reads, decoded once, small, and readable without a video library.

A pack is a folder:

    clips/<source>.<k>.npz     one clip: JPEG frames at the network's size, up to 15 before them, fixations
    maps/<teacher>/<same>.npz  a teacher's maps for that clip, or any other model's (see `write_maps`)

Frames are squashed to 192x256 as the network sees them. A source is one video or photo: an epoch takes one clip of
each labelled source. Photos become clips by a smooth random pan and zoom.
"""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter

from tinyhd.errors import InputError
from tinyhd.network.config import CLIP_LENGTH, MAP_HEIGHT, MAP_WIDTH

LEAD = CLIP_LENGTH - 1
"""Frames before the clip that a sliding one-output teacher needs."""

_JPEG_QUALITY = 92


@dataclass
class Clip:
    """One training clip."""

    name: str
    """`<source>.<k>`."""
    frames: np.ndarray
    """(lead + 16, 192, 256, 3) uint8 RGB: the frames before the clip, then the clip's own 16."""
    points: np.ndarray | None = None
    """(P, 3) float32: frame index within the 16, x and y as fractions of width and height; None: not labelled."""

    @property
    def source(self) -> str:
        """The video or photo that the clip was taken from."""
        return self.name.rpartition(".")[0]

    @property
    def lead(self) -> int:
        """Frames before the clip's own 16: 0 at the start of a video, 15 inside it."""
        return len(self.frames) - CLIP_LENGTH


@dataclass
class Maps:
    """A teacher's maps of one clip, each meaningful up to scale; any size."""

    fused: np.ndarray
    """(16, h, w) float: one map a frame."""
    d1: np.ndarray | None = None
    """(4, h, w): the teacher's hierarchical maps, averaged over the clip."""
    d2: np.ndarray | None = None
    """(16, h, w), where the teacher is a TinyHD."""
    d3: np.ndarray | None = None
    """(16, h, w), where the teacher is a TinyHD."""


def clip_path(pack: Path, name: str) -> Path:
    """Where clip `name` of `pack` lies."""
    return pack / "clips" / f"{name}.npz"


def maps_path(pack: Path, teacher: str, name: str) -> Path:
    """Where the maps of `teacher` for clip `name` of `pack` lie."""
    return pack / "maps" / teacher / f"{name}.npz"


def clip_names(pack: Path) -> list[str]:
    """Names of all clips of a pack, sorted.

    Raises:
        InputError: the folder holds no clips.
    """
    names = sorted(p.stem for p in (pack / "clips").glob("*.npz"))
    if not names:
        raise InputError(f"{pack} holds no clips: make a pack with `python -m training.distill_data pack`.")
    return names


def write_clip(pack: Path, clip: Clip) -> None:
    """Stores a clip; the file appears whole or not at all."""
    encoded = []
    for frame in clip.frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=_JPEG_QUALITY)
        encoded.append(buffer.getvalue())
    arrays = {
        "jpeg": np.frombuffer(b"".join(encoded), np.uint8),
        "sizes": np.array([len(e) for e in encoded], np.int32),
    }
    if clip.points is not None:
        arrays["points"] = clip.points.astype(np.float32)
    _save(clip_path(pack, clip.name), arrays)


def read_clip(pack: Path, name: str, with_lead: bool = True) -> Clip:
    """Loads a clip; without its lead only the clip's own 16 frames are decoded."""
    with np.load(clip_path(pack, name)) as stored:
        data, sizes = stored["jpeg"].tobytes(), stored["sizes"]
        points = stored.get("points")
    ends = np.cumsum(sizes)
    first = 0 if with_lead else len(sizes) - CLIP_LENGTH
    frames = [
        np.asarray(Image.open(io.BytesIO(data[end - size : end])).convert("RGB"))
        for size, end in zip(sizes[first:], ends[first:], strict=True)
    ]
    return Clip(name, np.stack(frames), points)


def write_maps(pack: Path, teacher: str, name: str, maps: Maps) -> None:
    """Stores a teacher's maps in float16, scaled so that each map's mean is 1 (a map is meaningful up to scale)."""
    arrays = {}
    for key in ("fused", "d1", "d2", "d3"):
        value = getattr(maps, key)
        if value is not None:
            value = value.astype(np.float32)
            arrays[key] = (value / np.maximum(value.mean((-2, -1), keepdims=True), 1e-12)).astype(np.float16)
    _save(maps_path(pack, teacher, name), arrays)


def read_maps(pack: Path, teacher: str, name: str) -> Maps:
    """Loads a teacher's maps of one clip, float32."""
    with np.load(maps_path(pack, teacher, name)) as stored:
        return Maps(**{key: stored[key].astype(np.float32) for key in stored.files})


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    partial.replace(path)


def squash(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (192, 256, 3) uint8 by plain bilinear interpolation, the network's own resize."""
    x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    y = F.interpolate(x, (MAP_HEIGHT, MAP_WIDTH), mode="bilinear", align_corners=False)
    return y[0].permute(1, 2, 0).round().to(torch.uint8).numpy()


def clips_of_frames(source: str, frames: Iterable[np.ndarray], stride: int, phase: int = 0) -> Iterator[Clip]:
    """Clips of 16 frames every `stride` frames, from frame `phase` on, each with up to 15 frames before it.

    A clip is named `<source>.<number of its first frame>`; frames are uint8 (H, W, 3).
    """
    recent: list[np.ndarray] = []
    for index, frame in enumerate(frames):
        recent.append(squash(frame))
        del recent[: -(LEAD + CLIP_LENGTH)]
        start = index + 1 - CLIP_LENGTH
        if start >= phase and (start - phase) % stride == 0:
            yield Clip(f"{source}.{start:05d}", np.stack(recent))


def clip_of_photo(
    name: str, image: np.ndarray, rng: np.random.Generator, points: np.ndarray | None = None, still: float = 0.3
) -> Clip:
    """A clip with lead from one photo, by a smooth random pan and zoom; the share `still` of photos stands still.

    Args:
        name: the clip's name.
        image: (H, W, 3) uint8.
        rng: decides the motion.
        points: (P, 2) fixations as fractions of width and height; they move with the picture.
        still: probability of no motion.
    """
    height, width = image.shape[:2]
    length = LEAD + CLIP_LENGTH
    start, end = _random_box(rng), _random_box(rng)
    if rng.random() < still:
        start = end = np.array([0.0, 0.0, 1.0, 1.0])
    progress = np.linspace(0, 1, length)
    progress = progress**2 * (3 - 2 * progress)
    boxes = start + progress[:, None] * (end - start)  # x0, y0, x1, y1 as fractions
    picture = Image.fromarray(image)
    size = np.array([width, height, width, height])
    frames = np.stack(
        [
            np.asarray(picture.resize((MAP_WIDTH, MAP_HEIGHT), Image.Resampling.BILINEAR, tuple(box * size)))
            for box in boxes
        ]
    )
    moved = None
    if points is not None:
        parts = []
        for k, (x0, y0, x1, y1) in enumerate(boxes[LEAD:]):
            inside = (points - [x0, y0]) / [x1 - x0, y1 - y0]
            inside = inside[((inside >= 0) & (inside < 1)).all(1)]
            parts.append(np.column_stack([np.full(len(inside), k), inside]))
        moved = np.concatenate(parts).astype(np.float32)
    return Clip(name, frames, moved)


def _random_box(rng: np.random.Generator) -> np.ndarray:
    side = rng.uniform(0.65, 1.0)
    x, y = rng.uniform(0, 1 - side, 2)
    return np.array([x, y, x + side, y + side])


def density(points: Sequence[Sequence[float]] | np.ndarray, height: int, width: int, sigma: float) -> np.ndarray:
    """Fixation density maps of a clip: (16, height, width) float32, each blurred with a Gaussian of `sigma` pixels.

    A frame without fixations stays all zero: it has no label.
    """
    maps = np.zeros((CLIP_LENGTH, height, width), np.float32)
    points = np.asarray(points, np.float32).reshape(-1, 3)
    k = points[:, 0].astype(int)
    y = np.minimum((points[:, 2] * height).astype(int), height - 1)
    x = np.minimum((points[:, 1] * width).astype(int), width - 1)
    np.add.at(maps, (k, y, x), 1)
    return gaussian_filter(maps, (0, sigma, sigma), mode="constant")
