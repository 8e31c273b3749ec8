"""Makes the data of a training run: `pack` cuts videos and photos into clips, `teach` stores a teacher's maps of them.

Both can be interrupted and run again: clips and maps that exist are kept.
"""

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from tinyhd.errors import InputError, TinyHDError
from tinyhd.network.config import CLIP_LENGTH
from tinyhd.network.weights import resolve_device
from training.datasets import LabelledVideo, read_dhf1k, read_hollywood2, read_ucf_sports
from training.fixations import read_image_fixations
from training.packs import (
    Clip,
    Maps,
    clip_names,
    clip_of_photo,
    clip_path,
    clips_of_frames,
    maps_path,
    read_clip,
    write_clip,
    write_maps,
)
from training.teachers import load_teacher, resize_maps

VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg"}
LABELLED_VIDEOS = {"dhf1k": read_dhf1k, "hollywood2": read_hollywood2, "ucf-sports": read_ucf_sports}
PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def _rng(seed: int, name: str) -> np.random.Generator:
    """Random numbers that depend on the clip's name alone, so that a second run makes the same clip."""
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")])


def _files(folder: Path, suffixes: set[str]) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: pass one that holds the files.")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes)
    if not found:
        raise InputError(f"{folder} holds none of {', '.join(sorted(suffixes))}.")
    return found


def _read_photo(path: Path) -> np.ndarray | None:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        print(f"left out {path.name}: {error}", file=sys.stderr)
        return None


def photo_clips(folder: Path, repeats: int, seed: int, out: Path) -> Iterator[Clip]:
    """`repeats` clips of each photo below `folder` that `out` does not have yet."""
    for path in tqdm(_files(folder, PHOTO_SUFFIXES), desc=folder.name, unit="photo"):
        names = [f"{folder.name}-{path.stem}.{k}" for k in range(repeats)]
        wanted = [name for name in names if not clip_path(out, name).exists()]
        image = _read_photo(path) if wanted else None
        if image is not None:
            for name in wanted:
                yield clip_of_photo(name, image, _rng(seed, name))


def labelled_photo_clips(folder: Path, split: str, repeats: int, seed: int, out: Path) -> Iterator[Clip]:
    """Clips of the photos of a fixation set (see `training.fixations`), with the fixations moving along."""
    for item in tqdm(read_image_fixations(folder, split), desc=folder.name, unit="photo"):
        names = [f"{folder.name}-{item.path.stem}.{k}" for k in range(repeats)]
        wanted = [name for name in names if not clip_path(out, name).exists()]
        image = _read_photo(item.path) if wanted else None
        if image is not None:
            points = np.column_stack([item.points.x, item.points.y])
            for name in wanted:
                yield clip_of_photo(name, image, _rng(seed, name), points)


def video_clips(path: Path, stride: int, seed: int) -> Iterator[Clip]:
    """Clips of a video without labels."""
    from tinyhd.video.reader import read_frames  # needs PyAV, which a machine that trains on prepared clips may lack

    frames = (frame.to_rgb() for frame in read_frames(path))
    return clips_of_frames(path.stem, frames, stride, _phase(path.stem, stride, seed))


def labelled_video_clips(dataset: str, video: LabelledVideo, stride: int, seed: int) -> Iterator[Clip]:
    """Clips of a video with its fixations in each frame."""
    source = f"{dataset}-{video.name}"
    for clip in clips_of_frames(source, video.frames(), stride, _phase(source, stride, seed)):
        first = int(clip.name.rpartition(".")[2])
        parts = []
        for k in range(CLIP_LENGTH):
            points = video.fixations(first + k)
            parts.append(np.column_stack([np.full(len(points), k), points.x, points.y]))
        clip.points = np.concatenate(parts).astype(np.float32)
        yield clip


def _phase(source: str, stride: int, seed: int) -> int:
    return int(_rng(seed, source).integers(0, stride))


def pack(arguments: argparse.Namespace) -> None:
    """Writes the clips of a pack."""
    out: Path = arguments.out
    count = 0
    sources: list[Iterator[Clip]] = []
    for folder in arguments.videos:
        for path in _files(folder, VIDEO_SUFFIXES):
            sources.append(video_clips(path, arguments.stride, arguments.seed))
    for dataset, folder in arguments.labelled_videos:
        if dataset not in LABELLED_VIDEOS:
            raise InputError(f"there is no data set {dataset!r}; it must be one of {', '.join(LABELLED_VIDEOS)}.")
        for video in LABELLED_VIDEOS[dataset](Path(folder)):
            sources.append(labelled_video_clips(dataset, video, arguments.stride, arguments.seed))
    sources += [photo_clips(folder, arguments.repeats, arguments.seed, out) for folder in arguments.photos]
    sources += [
        labelled_photo_clips(folder, arguments.split, arguments.repeats, arguments.seed, out)
        for folder in arguments.fixations
    ]
    if not sources:
        raise InputError("there is nothing to pack: pass --videos, --labelled-videos, --photos or --fixations.")
    for source in tqdm(sources, desc="sources", unit="source"):
        for clip in source:
            write_clip(out, clip)
            count += 1
    print(f"{count} clips written to {out}")


def teach(arguments: argparse.Namespace) -> None:
    """Stores a teacher's maps for the clips of a pack that have none yet."""
    part, parts = (int(v) for v in arguments.part.split("/"))
    names = clip_names(arguments.pack)
    # in an order that mixes all sources, so that an unfinished run is a fair sample
    names = [names[k] for k in np.random.default_rng(0).permutation(len(names))][part - 1 :: parts]
    names = [name for name in names if not maps_path(arguments.pack, arguments.name, name).exists()]
    device = resolve_device(arguments.device)
    teacher = load_teacher(arguments.teacher, device, arguments.every)
    height, width = arguments.size
    for name in tqdm(names, desc=arguments.name, unit="clip"):
        clip = read_clip(arguments.pack, name)
        frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)[None].to(device)
        maps = teacher(frames, clip.lead, 16)
        stored = {
            key: resize_maps(value, height, width)[0].cpu().numpy()
            for key in ("fused", "d1", "d2", "d3")
            if (value := getattr(maps, key)) is not None
        }
        write_maps(arguments.pack, arguments.name, name, Maps(**stored))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.distill_data", description=__doc__)
    commands = parser.add_subparsers(required=True)

    sub = commands.add_parser("pack", help="cut videos and photos into clips", description="Writes a pack of clips.")
    sub.add_argument("--out", type=Path, required=True, help="folder of the pack")
    sub.add_argument("--videos", type=Path, action="append", default=[], help="folder of videos without labels")
    sub.add_argument("--labelled-videos", nargs=2, action="append", default=[], metavar=("DATASET", "FOLDER"),
                     help=f"training part of a data set: {', '.join(LABELLED_VIDEOS)}")  # fmt: skip
    sub.add_argument("--photos", type=Path, action="append", default=[], help="folder of photos without labels")
    sub.add_argument("--fixations", type=Path, action="append", default=[], help="folder of photos with fixations.npz")
    sub.add_argument("--split", choices=("all", "train"), default="train", help="photos with fixations: all, or "
                     "train, which leaves out those held out for validation (default: %(default)s)")  # fmt: skip
    sub.add_argument("--stride", type=int, default=16, help="frames from one clip of a video to the next (%(default)s)")
    sub.add_argument("--repeats", type=int, default=1, help="clips of each photo, moving differently (%(default)s)")
    sub.add_argument("--seed", type=int, default=0, help="decides clips' starts and photos' motion (%(default)s)")
    sub.set_defaults(run=pack)

    sub = commands.add_parser("teach", help="store a teacher's maps", description="Stores a teacher's maps of a pack.")
    sub.add_argument("--pack", type=Path, required=True, help="folder of the pack")
    sub.add_argument("--teacher", action="append", required=True,
                     help="name or path of a TinyHD model, or hd2s:PATH; several make an ensemble")  # fmt: skip
    sub.add_argument("--name", default="teacher", help="name under which the maps are kept (%(default)s)")
    sub.add_argument("--every", type=int, default=1, help="run a one-output teacher at every so many frames and "
                     "interpolate between (%(default)s; the paper's is 1)")  # fmt: skip
    sub.add_argument("--size", type=int, nargs=2, default=(48, 64), metavar=("H", "W"),
                     help="height and width of the stored maps (48 64)")  # fmt: skip
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    sub.add_argument("--part", default="1/1", metavar="K/N", help="do the K-th of N parts, to share work (%(default)s)")
    sub.set_defaults(run=teach)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except TinyHDError as error:
        print(f"distill_data: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
