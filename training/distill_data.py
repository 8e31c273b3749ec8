"""Makes the data of a training run: `pack` cuts videos into clips and stores photos, `teach` stores a teacher's maps.

Both can be interrupted and run again: clips and maps that exist are kept.
"""

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from tinyhd.errors import InputError
from tinyhd.network.config import CLIP_LENGTH
from tinyhd.network.weights import resolve_device
from training.commands import command
from training.datasets import LabelledVideo, read_dhf1k, read_hollywood2, read_ucf_sports
from training.fixations import read_image_fixations
from training.packs import (
    LEAD,
    SAMPLING_RATE,
    Clip,
    Maps,
    Photo,
    clip_names,
    clips_of_frames,
    maps_path,
    photo_names,
    photo_path,
    read_clip,
    read_photo,
    squash,
    write_clip,
    write_maps,
    write_photo,
)
from training.teachers import load_teacher, resize_maps

VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg"}
LABELLED_VIDEOS = {"dhf1k": read_dhf1k, "hollywood2": read_hollywood2, "ucf-sports": read_ucf_sports}
PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


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


def photos_of(folder: Path, out: Path) -> Iterator[Photo]:
    """The photos below `folder` that `out` does not have yet."""
    for path in tqdm(_files(folder, PHOTO_SUFFIXES), desc=folder.name, unit="photo"):
        name = f"{folder.name}-{path.stem}"
        image = None if photo_path(out, name).exists() else _read_photo(path)
        if image is not None:
            yield Photo(name, image)


def labelled_photos_of(folder: Path, split: str, out: Path) -> Iterator[Photo]:
    """The photos of a fixation set (see `training.fixations`) that `out` does not have yet."""
    for item in tqdm(read_image_fixations(folder, split), desc=folder.name, unit="photo"):
        name = f"{folder.name}-{item.path.stem}"
        image = None if photo_path(out, name).exists() else _read_photo(item.path)
        if image is not None:
            yield Photo(name, image, np.column_stack([item.points.x, item.points.y]))


def video_clips(path: Path, stride: int, seed: int, rate: float) -> Iterator[Clip]:
    """Clips of a video without labels, sampled, scaled and cut into shots as inference does it."""
    # these need PyAV, which a machine that trains on prepared clips may lack
    from tinyhd.inference.predict import sampling_stride
    from tinyhd.inference.preprocess import Preprocessor
    from tinyhd.inference.shots import mark_cuts
    from tinyhd.video.reader import open_video

    preprocess = Preprocessor()
    with open_video(path) as reader:
        step = sampling_stride(rate, reader.info)

        def samples() -> Iterator[tuple[np.ndarray, bool]]:
            cut_since = False
            for frame, is_cut in mark_cuts(reader, preprocess.thumbnail):
                cut_since |= is_cut
                if frame.index % step == 0:
                    yield preprocess.rgb(frame), cut_since
                    cut_since = False

        yield from clips_of_frames(path.stem, samples(), stride, _phase(path.stem, stride, seed), step)


def labelled_video_clips(dataset: str, video: LabelledVideo, stride: int, seed: int, rate: float) -> Iterator[Clip]:
    """Clips of a video with its fixations in each frame."""
    source = f"{dataset}-{video.name}"
    step = max(1, round(video.frame_rate / rate)) if rate else 1
    frames = ((squash(frame), False) for frame in islice(video.frames(), 0, None, step))
    for clip in clips_of_frames(source, frames, stride, _phase(source, stride, seed), step):
        first = int(clip.name.rpartition(".")[2])
        parts = []
        for k in range(CLIP_LENGTH):
            points = video.fixations(first + k * step)
            parts.append(np.column_stack([np.full(len(points), k), points.x, points.y]))
        clip.points = np.concatenate(parts).astype(np.float32)
        yield clip


def _phase(source: str, stride: int, seed: int) -> int:
    """Random, but of the name alone, so that a second run makes the same clips."""
    name = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "big")
    return int(np.random.default_rng([seed, name]).integers(0, stride))


def pack(arguments: argparse.Namespace) -> None:
    """Writes the clips and photos of a pack."""
    out: Path = arguments.out
    stride, seed, rate = arguments.stride, arguments.seed, arguments.sampling_rate
    count = 0
    sources: list[Iterator[Clip | Photo]] = []
    for folder in arguments.videos:
        sources += [video_clips(path, stride, seed, rate) for path in _files(folder, VIDEO_SUFFIXES)]
    for dataset, folder in arguments.labelled_videos:
        if dataset not in LABELLED_VIDEOS:
            raise InputError(f"there is no data set {dataset!r}; it must be one of {', '.join(LABELLED_VIDEOS)}.")
        for video in LABELLED_VIDEOS[dataset](Path(folder)):
            sources.append(labelled_video_clips(dataset, video, stride, seed, rate))
    sources += [photos_of(folder, out) for folder in arguments.photos]
    sources += [labelled_photos_of(folder, arguments.split, out) for folder in arguments.fixations]
    if not sources:
        raise InputError("there is nothing to pack: pass --videos, --labelled-videos, --photos or --fixations.")
    for source in tqdm(sources, desc="sources", unit="source"):
        for item in source:
            if isinstance(item, Photo):
                write_photo(out, item)
            else:
                write_clip(out, item)
            count += 1
    print(f"{count} clips and photos written to {out}")


def teach(arguments: argparse.Namespace) -> None:
    """Stores a teacher's maps for the clips and photos of a pack that have none yet; a photo's clip stands still."""
    part, parts = (int(v) for v in arguments.part.split("/"))
    folder: Path = arguments.pack
    names = [(name, False) for name in clip_names(folder)] + [(name, True) for name in photo_names(folder)]
    if not names:
        raise InputError(f"{folder} holds neither clips nor photos: make them with `pack`.")
    # in an order that mixes all sources, so that an unfinished run is a fair sample
    names = [names[k] for k in np.random.default_rng(0).permutation(len(names))][part - 1 :: parts]
    names = [(name, photo) for name, photo in names if not maps_path(folder, arguments.name, name).exists()]
    device = resolve_device(arguments.device)
    teacher = load_teacher(arguments.teacher, device, arguments.every)
    height, width = arguments.size
    for name, is_photo in tqdm(names, desc=arguments.name, unit="clip"):
        if is_photo:
            frames, lead = np.repeat(squash(read_photo(folder, name).image)[None], LEAD + CLIP_LENGTH, 0), LEAD
        else:
            clip = read_clip(folder, name)
            frames, lead = clip.frames, clip.lead
        maps = teacher(torch.from_numpy(frames).permute(0, 3, 1, 2)[None].to(device), lead, 16)
        stored = {
            key: resize_maps(value, height, width)[0].cpu().numpy()
            for key in ("fused", "d1", "d2", "d3")
            if (value := getattr(maps, key)) is not None
        }
        if is_photo:
            stored = {"fused": stored["fused"].mean(0, keepdims=True)}
        write_maps(folder, arguments.name, name, Maps(**stored))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.distill_data", description=__doc__)
    commands = parser.add_subparsers(required=True)

    sub = commands.add_parser("pack", help="cut videos into clips, store photos", description="Writes a pack.")
    sub.add_argument("--out", type=Path, required=True, help="folder of the pack")
    sub.add_argument("--videos", type=Path, action="append", default=[], help="folder of videos without labels")
    sub.add_argument("--labelled-videos", nargs=2, action="append", default=[], metavar=("DATASET", "FOLDER"),
                     help=f"training part of a data set: {', '.join(LABELLED_VIDEOS)}")  # fmt: skip
    sub.add_argument("--photos", type=Path, action="append", default=[], help="folder of photos without labels")
    sub.add_argument("--fixations", type=Path, action="append", default=[], help="folder of photos with fixations.npz")
    sub.add_argument("--split", choices=("all", "train"), default="train", help="photos with fixations: all, or "
                     "train, which leaves out those held out for validation (default: %(default)s)")  # fmt: skip
    sub.add_argument(
        "--stride", type=int, default=16, help="samples from one clip of a video to the next (%(default)s)"
    )
    sub.add_argument("--sampling-rate", type=float, default=SAMPLING_RATE, help="samples a second that clips of videos "
                     "are made of, as nearly as whole frames allow; 0: every frame (%(default)s)")  # fmt: skip
    sub.add_argument("--seed", type=int, default=0, help="decides clips' starts (%(default)s)")
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


def run(arguments: Sequence[str] | None = None) -> None:
    """What the command does. Raises `TinyHDError` for what the user can put right."""
    options = _parser().parse_args(arguments)
    options.run(options)


main = command(run, resumes=True)


if __name__ == "__main__":
    sys.exit(main())
