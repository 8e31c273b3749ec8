"""How well a model agrees with other models where nobody's fixations are at hand, by kind of footage.

    python -m training.agreement --model tinyhd-m --reference published/d123m_rc4_rc1T \
        --reference published/d123s_rc4_rc1T --group sport ski.mp4 tennis.mp4 --group portrait phone.mp4

Prints CC, SIM and KLD to the mean of the references' maps: per video, then over each group. It says how faithfully a
student follows its teachers there, not whether people look where both do.
"""

import argparse
import sys
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tinyhd.errors import InputError
from tinyhd.inference.backends import open_backend
from tinyhd.options import InferenceOptions
from tinyhd.video.frame import Frame
from tinyhd.video.reader import open_video
from training import metrics
from training.commands import command
from training.evaluate import Item, Predictor, Protocol, Truth
from training.fixations import DensityMap, FixationPoints

METRICS = {"CC": metrics.cc, "SIM": metrics.sim, "KLD": metrics.kld}

_NOBODY = FixationPoints(np.zeros(0), np.zeros(0))


def video_item(path: Path, protocol: Protocol) -> Item:
    """A video without fixations, with a place for a map at each frame that the protocol names."""

    def frames() -> Generator[tuple[Frame, Truth | None], None, None]:
        with open_video(path) as reader:
            for frame in reader:
                yield frame, Truth(_NOBODY, None) if protocol.scores(frame.index) else None

    return Item(path.name, frames, lambda: _NOBODY, is_still=False)


def agreement(item: Item, model: Predictor, references: Sequence[Predictor]) -> dict[str, float]:
    """Means over the frames of `METRICS` between the model's maps and the mean of the references', each divided by its
    sum.

    Raises:
        InputError: the video cannot be read, or has no frame that is scored.
    """
    rows = []
    for mine, *others in zip(model(item), *(reference(item) for reference in references), strict=True):
        mean = np.mean([metrics.as_probability(other.map.astype(np.float64)) for other in others], 0)
        rows.append([metric(mine.map, DensityMap(mean)) for metric in METRICS.values()])
    if not rows:
        raise InputError(f"{item.name} has no frame that is scored; lower --first.")
    return dict(zip(METRICS, np.mean(rows, 0).tolist(), strict=True))


def run(arguments: Sequence[str] | None = None) -> None:
    """What the command does. Raises `TinyHDError` for what the user can put right."""
    parser = argparse.ArgumentParser(
        prog="python -m training.agreement", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="name or path of the model")
    parser.add_argument("--reference", action="append", required=True, help="another; several are averaged")
    parser.add_argument("--group", action="append", required=True, nargs="+", metavar=("NAME", "VIDEO"),
                        help="a name and the videos that it stands for")  # fmt: skip
    parser.add_argument("--first", type=int, default=16, help="first frame that is scored (%(default)s)")
    parser.add_argument("--every", type=int, default=20, help="frames from one scored to the next (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    options = parser.parse_args(arguments)
    protocol = Protocol(options.first, options.every)
    inference = InferenceOptions(device=options.device, precision="float32")
    model, *references = (
        Predictor(open_backend(replace(inference, model=name)), inference)
        for name in (options.model, *options.reference)
    )
    rows = {}
    for group, *files in options.group:
        if not files:
            raise InputError(f"the group {group} has no videos: write --group {group} FILE ...")
        rows[group] = [
            agreement(video_item(Path(file), protocol), model, references) for file in tqdm(files, desc=group)
        ]
    width = max(map(len, ("group", *rows)))
    print(f"{'group':{width}}  videos" + "".join(f"{name:>8}" for name in METRICS))
    for group, scores in rows.items():
        means = "".join(f"{np.mean([score[name] for score in scores]):8.3f}" for name in METRICS)
        print(f"{group:{width}}  {len(scores):6}{means}")


main = command(run)


if __name__ == "__main__":
    sys.exit(main())
