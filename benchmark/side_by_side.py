"""What models make of the same frames, to look at: run from the checkout as

    python -m benchmark.side_by_side --models OLD NEW --output sheet.png FILE ...

The sheet has a row for each moment of each video (or image): the frame, then each model's overlay, with the default
options. A model is a name or file that tinyhd takes.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from tinyhd.errors import InputError, OptionError
from tinyhd.files import AtomicOutput
from tinyhd.inference.backends import Backend, open_backend
from tinyhd.inference.predict import predict_video
from tinyhd.options import InferenceOptions, RenderOptions
from tinyhd.render.normalize import Normalizer
from tinyhd.render.overlay import Overlay
from tinyhd.video.reader import open_video, probe
from training.commands import command

_LINE = 16
"""Height of a line of text in pixels."""

_LEAD_SECONDS = 2
"""What models see before the moment: more than a window, and more than the display's smoothing looks back."""


def moments(path: Path, shares: Sequence[float]) -> list[Fraction]:
    """Times, as `Frame.time`, of the frames that lie at `shares` (0 to 1) of a video; of an image its only one.

    Raises:
        InputError: the file cannot be read.
    """
    with open_video(path) as reader:  # the header's count may be wrong
        times = [frame.time for frame in reader]
    if not times:
        raise InputError(f"{str(path)!r} holds no frame.")
    return sorted({times[round(share * (len(times) - 1))] for share in shares})


def overlay(path: Path, model: Backend, moment: Fraction) -> tuple[np.ndarray, np.ndarray]:
    """The frame with this time and the model's overlay, uint8 (H, W, 3) each."""
    options = RenderOptions()
    info = probe(path)
    normalize = Normalizer(options.normalize, model.display_scale)
    start = None if info.is_still else max(Fraction(0), moment - _LEAD_SECONDS)
    with closing(predict_video(path, model, start=start)) as predictions:  # type: ignore[type-var]
        for frame, saliency, is_cut in predictions:
            values = normalize(saliency, frame.time_seconds, is_cut)
            if frame.time >= moment:
                drawn = Overlay(info, options, for_video=False)(frame.image, values)
                return frame.to_rgb(), drawn.to_ndarray(format="rgb24")
    raise InputError(f"{str(path)!r} has changed while it was read.")


def sheet(rows: Sequence[tuple[str, Sequence[np.ndarray]]], header: Sequence[str], width: int) -> Image.Image:
    """Pictures (H, W, 3) in rows with a title each, every picture `width` pixels wide, under a line of headings."""
    scaled = [
        (title, [Image.fromarray(p).resize((width, max(1, round(width * p.shape[0] / p.shape[1])))) for p in pictures])
        for title, pictures in rows
    ]
    height = _LINE + sum(_LINE + pictures[0].height for _, pictures in scaled)
    result = Image.new("RGB", (width * len(header), height), "white")
    pen = ImageDraw.Draw(result)
    for column, text in enumerate(header):
        pen.text((column * width + 4, 2), text, fill="black")
    top = _LINE
    for title, pictures in scaled:
        pen.text((4, top + 2), title, fill="black")
        for column, picture in enumerate(pictures):
            result.paste(picture, (column * width, top + _LINE))
        top += _LINE + pictures[0].height
    return result


def run(arguments: Sequence[str] | None = None) -> None:
    """What the command does. Raises `TinyHDError` for what the user can put right."""
    parser = argparse.ArgumentParser(
        "benchmark.side_by_side", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="videos or images")
    add("--models", nargs="+", required=True, metavar="MODEL", help="a column each")
    add("--output", type=Path, required=True, metavar="FILE", help="the sheet, .png or .jpg")
    add("--at", type=float, nargs="+", default=[0.5], metavar="SHARE", help="moments, 0 to 1 of the video (0.5)")
    add("--width", type=int, default=400, metavar="PIXELS", help="of each picture (%(default)s)")
    options = parser.parse_args(arguments)
    if not all(0 <= share <= 1 for share in options.at):
        raise OptionError("--at takes shares of the video, from 0 to 1.")
    if options.width < 16:
        raise OptionError("--width must be at least 16 pixels.")
    models = [open_backend(InferenceOptions(name)) for name in options.models]
    rows = []
    for path in tqdm(options.files, unit="file"):
        for moment in moments(path, options.at):
            found = [overlay(path, model, moment) for model in models]
            rows.append((f"{path.name}, {float(moment):.2f} s", [found[0][0], *(drawn for _, drawn in found)]))
    header = ["frame", *(Path(model.model_name).stem for model in models)]
    with AtomicOutput(options.output, overwrite=True) as output:
        try:
            sheet(rows, header, options.width).save(output.temporary)
        except ValueError as error:
            raise OptionError(f"{options.output.name!r} is not a kind of image: end it with .png or .jpg.") from error


main = command(run)


if __name__ == "__main__":
    sys.exit(main())
