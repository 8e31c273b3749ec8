"""What the training loop reads: augmented clips of packs, in the paper's mix of labelled and auxiliary clips."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from tinyhd.errors import InputError
from tinyhd.network.config import CLIP_LENGTH, MAP_WIDTH
from training.packs import (
    Maps,
    clip_names,
    clip_of_photo,
    density,
    maps_path,
    photo_names,
    read_clip,
    read_maps,
    read_photo,
)
from training.teachers import resize_maps


@dataclass(frozen=True)
class PackSpec:
    """A pack in a training configuration."""

    folder: str
    """Folder of the pack."""
    teacher: str | None = None
    """Name of the stored maps to learn from, or several as in `a+b`, whose mean is taken, each map with sum 1 first;
    None: the configuration's teacher makes them while training (clips only)."""
    labelled: bool = False
    """Labelled clips take part once per source and epoch; the others are auxiliary."""
    repeat: int = 1
    """Times that each labelled source takes part in an epoch: more for a small data set."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a clip, the same for all its frames and maps. The paper's is the flip alone."""

    flip: float = 0.5
    """Probability of a left-right flip."""
    crop: float = 1.0
    """Smallest side of a random crop, as a fraction of the frame; 1: no crop."""
    brightness: float = 0.0
    """Largest change of brightness and of contrast, as a fraction."""


@dataclass(frozen=True)
class Entry:
    """One clip that can be drawn."""

    pack: Path
    name: str
    teacher: str | None
    labelled: bool
    is_photo: bool = False
    repeat: int = 1

    @property
    def source(self) -> str:
        """The pack and video or photo that the clip is from."""
        return f"{self.pack}/{self.name if self.is_photo else self.name.rpartition('.')[0]}"

    @property
    def teachers(self) -> list[str]:
        """Names of the stored maps whose mean is the target; none: a teacher runs while training."""
        return self.teacher.split("+") if self.teacher else []


def list_entries(packs: Sequence[PackSpec]) -> list[Entry]:
    """All clips and photos of the packs; those whose stored maps do not exist (yet) are left out.

    Raises:
        InputError: a pack holds nothing that can be used.
    """
    entries = []
    for spec in packs:
        folder = Path(spec.folder)
        names = [(name, False) for name in clip_names(folder)]
        if spec.teacher is not None:  # a teacher that runs while training needs frames before the clip
            names += [(name, True) for name in photo_names(folder)]
        mine = [Entry(folder, name, spec.teacher, spec.labelled, photo, spec.repeat) for name, photo in names]
        mine = [e for e in mine if all(maps_path(folder, teacher, e.name).exists() for teacher in e.teachers)]
        if not mine:
            raise InputError(
                f"nothing in {folder} has maps of {spec.teacher!r}: pack clips or photos with `python -m "
                "training.distill_data pack`, and write maps with its `teach` or with `python -m training.unisal`."
            )
        entries += mine
    return entries


class ClipDataset(Dataset[dict[str, Tensor]]):
    """Clips with their targets. An item is asked for by `(entry number, seed)`: the seed decides the augmentation
    and how a photo moves.

    An item holds `frames` uint8 (L, 3, H, W), L = 16, or 31 where a teacher runs while training; `density` and
    `counts` float (16, H/4, W/4), zero without labels; and with stored maps `fused` (16, h, w) and `d1` (4, h, w),
    `d2` and `d3` (16, h, w; zero where the teacher has none).
    """

    def __init__(self, entries: Sequence[Entry], size: tuple[int, int], augmentation: Augmentation) -> None:
        self.entries = entries
        self.size = size
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        number, seed = key
        entry = self.entries[number]
        rng = np.random.default_rng(seed)
        live = entry.teacher is None
        boxes, lead = None, 0
        if entry.is_photo:
            photo = clip_of_photo(read_photo(entry.pack, entry.name), rng)
            pixels, points, boxes = photo.frames, photo.points, photo.boxes
        else:
            clip = read_clip(entry.pack, entry.name, with_lead=live)
            pixels, points, lead = clip.frames, clip.points, clip.lead
        frames = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        # the motion of a photo crops already
        change = _Change.draw(replace(self.augmentation, crop=1.0) if entry.is_photo else self.augmentation, rng)
        if live and lead < CLIP_LENGTH - 1:  # one length for all clips of a batch
            frames = torch.cat([frames[:1].expand(CLIP_LENGTH - 1 - lead, -1, -1, -1), frames])
        item = {"frames": change.frames(frames, self.size)}
        points = np.zeros((0, 3), np.float32) if points is None else change.points(points)
        height, width = self.size[0] // 4, self.size[1] // 4
        # sigma: 6 pixels of a map 256 pixels wide, about one degree of visual angle, as the density maps of evaluation
        item["density"] = torch.from_numpy(density(points, height, width, 6 * width / MAP_WIDTH))
        item["counts"] = torch.from_numpy(density(points, height, width, 0))
        if entry.teacher is not None:
            stored = [read_maps(entry.pack, teacher, entry.name) for teacher in entry.teachers]
            for name, channels in (("fused", CLIP_LENGTH), ("d1", 4), ("d2", CLIP_LENGTH), ("d3", CLIP_LENGTH)):
                value = _mean_maps(stored, name)
                if value is None or (boxes is not None and name != "fused"):
                    item[name] = torch.zeros(channels, height, width)
                elif boxes is not None:
                    item[name] = change.maps(_cut(value[0], boxes, (height, width)), (height, width))
                else:
                    item[name] = change.maps(value, (height, width))
        return item


def _mean_maps(stored: Sequence[Maps], name: str) -> Tensor | None:
    """Mean of the teachers' maps (K, h, w), all of the size of the first, each with mean 1 first; None: none has it."""
    values = [torch.from_numpy(v) for maps in stored if (v := getattr(maps, name)) is not None]
    if not values:
        return None
    size = values[0].shape[-2:]
    same = [resize_maps(v[None], *size)[0] for v in values]
    return torch.stack([v / v.mean((-2, -1), keepdim=True).clamp_min(1e-12) for v in same]).mean(0)


def _cut(saliency: Tensor, boxes: np.ndarray, size: tuple[int, int]) -> Tensor:
    """One map of a photo (h, w), cut to each of `boxes` (K, 4), fractions: (K, *size)."""
    return torch.stack([_sampled(saliency[None], box, size)[0] for box in boxes])


def _sampled(maps: Tensor, box: Sequence[float] | np.ndarray, size: tuple[int, int]) -> Tensor:
    """Maps (K, h, w) cut to a box (x0, y0, x1, y1 as fractions), at another size: bilinear at new pixels' centers."""
    x0, y0, x1, y1 = (float(v) for v in box)
    x = torch.linspace(x0 + (x1 - x0) * 0.5 / size[1], x1 - (x1 - x0) * 0.5 / size[1], size[1])
    y = torch.linspace(y0 + (y1 - y0) * 0.5 / size[0], y1 - (y1 - y0) * 0.5 / size[0], size[0])
    grid = torch.stack(torch.meshgrid(2 * x - 1, 2 * y - 1, indexing="xy"), -1)[None]
    return F.grid_sample(maps[None], grid, padding_mode="border", align_corners=False)[0]


@dataclass(frozen=True)
class _Change:
    """One draw of an augmentation: a crop box (fractions x0, y0, x1, y1), a flip, brightness and contrast."""

    box: tuple[float, float, float, float]
    flip: bool
    gain: float
    offset: float

    @classmethod
    def draw(cls, augmentation: Augmentation, rng: np.random.Generator) -> "_Change":
        width, height = rng.uniform(augmentation.crop, 1, 2)
        x, y = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
        change = augmentation.brightness
        return cls(
            (x, y, x + width, y + height),
            bool(rng.random() < augmentation.flip),
            1 + rng.uniform(-change, change),
            rng.uniform(-change, change) * 128,
        )

    def frames(self, frames: Tensor, size: tuple[int, int]) -> Tensor:
        height, width = frames.shape[-2:]
        x0, y0, x1, y1 = (round(v * s) for v, s in zip(self.box, (width, height) * 2, strict=True))
        cut = frames[..., y0:y1, x0:x1]
        if self.flip:
            cut = cut.flip(-1)
        if cut.shape[-2:] == size and self.gain == 1 and self.offset == 0:
            return cut.contiguous()
        changed = F.interpolate(cut.float(), size, mode="bilinear", align_corners=False, antialias=True)
        return ((changed - 128) * self.gain + 128 + self.offset).clamp_(0, 255).round_().to(torch.uint8)

    def maps(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        out = _sampled(maps, self.box, size)
        return out.flip(-1) if self.flip else out

    def points(self, points: np.ndarray) -> np.ndarray:
        x0, y0, x1, y1 = self.box
        x = (points[:, 1] - x0) / (x1 - x0)
        y = (points[:, 2] - y0) / (y1 - y0)
        inside = (x >= 0) & (x < 1) & (y >= 0) & (y < 1)
        if self.flip:
            x = 1 - x
        return np.column_stack([points[:, 0], x.clip(0, 1), y])[inside].astype(np.float32)


class MixSampler(Sampler[tuple[int, int]]):
    """The paper's mix: each epoch has one random clip of every labelled source and `ratio` times as many
    auxiliary ones.

    The order depends on `seed` and the epoch alone, so a run that is resumed at `start` (clips already drawn in all)
    goes on exactly where it was. Each of `world` processes takes every `world`-th clip.
    """

    def __init__(
        self, entries: Sequence[Entry], ratio: float, seed: int, rank: int = 0, world: int = 1, start: int = 0
    ) -> None:
        groups: dict[tuple[str, int], list[int]] = {}
        for number, entry in enumerate(entries):
            for turn in range(entry.repeat if entry.labelled else 0):
                groups.setdefault((entry.source, turn), []).append(number)
        self.labelled = list(groups.values())
        self.auxiliary = [number for number, entry in enumerate(entries) if not entry.labelled]
        self.auxiliary_per_epoch = len(self.auxiliary)
        if self.labelled and self.auxiliary:
            self.auxiliary_per_epoch = round(ratio * len(self.labelled))
        self.seed, self.rank, self.world, self.start = seed, rank, world, start

    def __len__(self) -> int:
        """Clips per epoch, all processes together."""
        return len(self.labelled) + self.auxiliary_per_epoch

    def epoch(self, number: int) -> list[int]:
        """Entries of one epoch in order."""
        rng = np.random.default_rng([self.seed, number])
        drawn = [group[rng.integers(len(group))] for group in self.labelled]
        wanted = self.auxiliary_per_epoch
        while wanted > 0:
            part = rng.permutation(self.auxiliary)[:wanted]
            drawn += part.tolist()
            wanted -= len(part)
        return [drawn[k] for k in rng.permutation(len(drawn))]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Endless: epochs follow each other."""
        position = self.start
        while True:
            number, offset = divmod(position, len(self))
            for entry in self.epoch(number)[offset:]:
                if position % self.world == self.rank:
                    yield entry, self.seed * 1_000_003 + position
                position += 1
