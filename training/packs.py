"""Packs: what a training run reads, decoded once, small, and readable without a video library.

A pack is a folder:

    clips/<source>.<k>.npz     one clip: JPEG frames at the network's size, up to 15 before them, fixations
    photos/<source>.npz        one photo: a JPEG with its fixations
    maps/<teacher>/<same>.npz  a teacher's maps for that clip or photo, or any other model's (see `write_maps`)

A clip's frames are sampled and squashed to 192x256 as inference does it. A source is one video or photo: an epoch takes
one clip of each labelled source. Photos become clips when they are drawn (`clip_of_photo`).
"""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from tinyhd.network.config import CLIP_LENGTH, MAP_HEIGHT, MAP_WIDTH

SAMPLING_RATE = 15.0
"""Frames a second that a clip is made of, as nearly as a whole number of frames between them allows: 16 of them span
about a second."""

PHOTO_SIDE = 640
"""Longest side in pixels of a stored photo; larger ones are reduced."""

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
    step: int = 1
    """Frames of the video from one of the clip's to the next."""

    @property
    def source(self) -> str:
        """The video or photo that the clip was taken from."""
        return self.name.rpartition(".")[0]

    @property
    def lead(self) -> int:
        """Frames before the clip's own 16: 0 at the start of a video, 15 inside it."""
        return len(self.frames) - CLIP_LENGTH


@dataclass
class Photo:
    """One still image."""

    name: str
    image: np.ndarray
    """(H, W, 3) uint8 RGB, of any size."""
    points: np.ndarray | None = None
    """(P, 2) float32: fixations, x and y as fractions of width and height; None: not labelled."""


@dataclass
class Maps:
    """A teacher's maps of one clip or photo, each meaningful up to scale; any size."""

    fused: np.ndarray
    """(16, h, w) float: one map a frame; (1, h, w) of a photo."""
    d1: np.ndarray | None = None
    """(4, h, w): the teacher's hierarchical maps, averaged over the clip."""
    d2: np.ndarray | None = None
    """(16, h, w), where the teacher is a TinyHD."""
    d3: np.ndarray | None = None
    """(16, h, w), where the teacher is a TinyHD."""


def clip_path(pack: Path, name: str) -> Path:
    """Where clip `name` of `pack` lies."""
    return pack / "clips" / f"{name}.npz"


def photo_path(pack: Path, name: str) -> Path:
    """Where photo `name` of `pack` lies."""
    return pack / "photos" / f"{name}.npz"


def maps_path(pack: Path, teacher: str, name: str) -> Path:
    """Where the maps of `teacher` for clip or photo `name` of `pack` lie."""
    return pack / "maps" / teacher / f"{name}.npz"


def clip_names(pack: Path) -> list[str]:
    """Names of all clips of a pack, sorted."""
    return sorted(p.stem for p in (pack / "clips").glob("*.npz"))


def photo_names(pack: Path) -> list[str]:
    """Names of all photos of a pack, sorted."""
    return sorted(p.stem for p in (pack / "photos").glob("*.npz"))


def write_clip(pack: Path, clip: Clip) -> None:
    """Stores a clip; the file appears whole or not at all."""
    encoded = [_jpeg(frame) for frame in clip.frames]
    arrays = {
        "jpeg": np.frombuffer(b"".join(encoded), np.uint8),
        "sizes": np.array([len(e) for e in encoded], np.int32),
        "step": np.array(clip.step),
    }
    if clip.points is not None:
        arrays["points"] = clip.points.astype(np.float32)
    _save(clip_path(pack, clip.name), arrays)


def read_clip(pack: Path, name: str, with_lead: bool = True) -> Clip:
    """Loads a clip; without its lead only the clip's own 16 frames are decoded."""
    with np.load(clip_path(pack, name)) as stored:
        data, sizes = stored["jpeg"].tobytes(), stored["sizes"]
        points, step = stored.get("points"), int(stored["step"])
    ends = np.cumsum(sizes)
    first = 0 if with_lead else len(sizes) - CLIP_LENGTH
    frames = [_decoded(data[end - size : end]) for size, end in zip(sizes[first:], ends[first:], strict=True)]
    return Clip(name, np.stack(frames), points, step)


def write_photo(pack: Path, photo: Photo) -> None:
    """Stores a photo, reduced to `PHOTO_SIDE`; the file appears whole or not at all."""
    image = Image.fromarray(photo.image)
    image.thumbnail((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.BILINEAR)
    arrays = {"jpeg": np.frombuffer(_jpeg(np.asarray(image)), np.uint8)}
    if photo.points is not None:
        arrays["points"] = photo.points.astype(np.float32)
    _save(photo_path(pack, photo.name), arrays)


def read_photo(pack: Path, name: str) -> Photo:
    """Loads a photo."""
    with np.load(photo_path(pack, name)) as stored:
        return Photo(name, _decoded(stored["jpeg"].tobytes()), stored.get("points"))


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _decoded(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


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


def squash(image: np.ndarray, box: np.ndarray | None = None) -> np.ndarray:
    """An image, or the part in `box` (x0, y0, x1, y1 in pixels), at the network's size: (H, W, 3) -> (192, 256, 3).

    Bilinear with antialiasing, as FFmpeg's scaler does it for inference.
    """
    size = (MAP_WIDTH, MAP_HEIGHT)
    part = None if box is None else tuple(box)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, part))


def clips_of_frames(
    source: str, frames: Iterable[tuple[np.ndarray, bool]], stride: int, phase: int = 0, step: int = 1
) -> Iterator[Clip]:
    """Clips of 16 frames, each with up to 15 frames before it, none across a shot cut.

    Args:
        source: name of the video; a clip is named `<source>.<number of its first frame in the video>`.
        frames: uint8 (192, 256, 3), with whether a new shot starts there: every `step`-th frame of the video.
        stride: frames given from one clip to the next.
        phase: the first clip starts at this one of them.
        step: frames of the video from one given to the next.
    """
    recent: list[np.ndarray] = []
    for index, (frame, is_cut) in enumerate(frames):
        if is_cut:
            recent.clear()
        recent.append(frame)
        del recent[: -(LEAD + CLIP_LENGTH)]
        start = index + 1 - CLIP_LENGTH
        if len(recent) >= CLIP_LENGTH and start >= phase and (start - phase) % stride == 0:
            yield Clip(f"{source}.{start * step:05d}", np.stack(recent), step=step)


@dataclass
class MovedPhoto:
    """A photo as a clip."""

    frames: np.ndarray
    """(16, 192, 256, 3) uint8."""
    boxes: np.ndarray
    """(16, 4): the part of the photo in each frame, x0, y0, x1, y1 as fractions."""
    points: np.ndarray | None
    """(P, 3) as in `Clip`."""


def clip_of_photo(photo: Photo, rng: np.random.Generator, still: float = 0.6, whole: float = 0.7) -> MovedPhoto:
    """16 frames of a photo: standing still, or by a smooth random pan and zoom.

    Args:
        photo: its fixations move along.
        rng: decides all of it.
        still: probability of 16 equal frames.
        whole: probability that such a still shows the whole photo and not a part.
    """
    height, width = photo.image.shape[:2]
    start, end = _random_box(rng), _random_box(rng)
    is_still = rng.random() < still
    if is_still:
        end = start = np.array([0.0, 0.0, 1.0, 1.0]) if rng.random() < whole else start
    progress = np.linspace(0, 1, CLIP_LENGTH)
    progress = progress**2 * (3 - 2 * progress)
    boxes = start + progress[:, None] * (end - start)
    size = np.array([width, height, width, height])
    seen = [squash(photo.image, box * size) for box in (boxes[:1] if is_still else boxes)]
    frames = np.stack(seen * CLIP_LENGTH if is_still else seen)
    moved = None
    if photo.points is not None:
        parts = []
        for k, (x0, y0, x1, y1) in enumerate(boxes):
            inside = (photo.points - [x0, y0]) / [x1 - x0, y1 - y0]
            inside = inside[((inside >= 0) & (inside < 1)).all(1)]
            parts.append(np.column_stack([np.full(len(inside), k), inside]))
        moved = np.concatenate(parts).astype(np.float32)
    return MovedPhoto(frames, boxes, moved)


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
