"""Makes a model ready to be used: half precision, unsaturated maps, and the scale that they are drawn with. What comes
with the package is then made of it by `python -m training.embed`.

python -m training.release --model runs/mine/best.safetensors --pack packs/video --out runs/mine/released.safetensors
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tinyhd.errors import InputError
from tinyhd.network.model import TinyHD
from tinyhd.network.weights import load_model, save_model
from training.commands import command
from training.packs import SAMPLING_RATE, clip_names, read_clip
from training.teachers import imagenet_clip


@torch.inference_mode()
def usual_maximum(model: TinyHD, pack: Path, clips: int) -> float:
    """Median over frames of the maps' maxima, on `clips` clips spread over a pack.

    Raises:
        InputError: the pack holds no clips.
    """
    names = clip_names(pack)
    if not names:
        raise InputError(f"{pack} holds no clips: make some with `python -m training.distill_data pack --videos`.")
    maxima = []
    for name in names[:: max(1, len(names) // clips)]:
        frames = torch.from_numpy(read_clip(pack, name, with_lead=False).frames).permute(0, 3, 1, 2)[None]
        maxima += model(imagenet_clip(frames)).fused.amax((-2, -1)).flatten().tolist()
    return float(np.median(maxima))


@torch.no_grad()
def lower(model: TinyHD, shift: float, power: float = 1.0) -> None:
    """Multiplies the fusion by `power` and subtracts `shift` from its bias, so that no map saturates.

    Maps are meaningful up to scale, so nothing in training keeps them small, and where they come near 1 the last
    sigmoid flattens their peaks. Far below 1 it is an exponential: the maps become the odds (p / (1 - p)) ** power.
    """
    model.fusion.weight.mul_(power)  # type: ignore[union-attr]
    model.fusion.bias.mul_(power).sub_(shift)  # type: ignore[union-attr]


@torch.no_grad()
def mix(model: TinyHD, base: TinyHD, share: float) -> None:
    """Makes the weights of `model` the mean of its own, weighted with `share`, and those of `base`, from which it was
    fine-tuned: it keeps more of what it knew (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022)."""
    own = model.state_dict()
    for key, value in base.state_dict().items():
        if value.is_floating_point():
            own[key].lerp_(value.to(own[key].dtype), 1 - share)


def release(
    name: str,
    pack: Path,
    out: Path,
    shift: float = 0.0,
    power: float = 1.0,
    clips: int = 30,
    rate: float = 0.0,
    base: str | None = None,
    share: float = 1.0,
) -> None:
    """Writes the file; `rate`: frames a second that the model is to see, 0 for all; `base` and
    `share`: see `mix`.

    Raises:
        TinyHDError: the model or pack cannot be read, or the file not written.
    """
    model = load_model(name)
    if base is not None:
        mix(model, load_model(base), share)
    lower(model, shift, power)
    scale = usual_maximum(model, pack, clips)
    model.config = replace(model.config, display_scale=float(f"{scale:.2g}"), sampling_rate=rate)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_model(model.half(), out)
    load_model(out)


def run(arguments: Sequence[str] | None = None) -> None:
    """What the command does. Raises `TinyHDError` for what the user can put right."""
    parser = argparse.ArgumentParser(
        prog="python -m training.release", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="name or path of the trained model")
    parser.add_argument("--pack", type=Path, required=True, help="clips to measure the maps' usual maximum on")
    parser.add_argument("--out", type=Path, required=True, help="file to write, .safetensors")
    parser.add_argument(
        "--lower", type=float, default=0.0, help="what to subtract from the fusion's bias (%(default)s)"
    )
    parser.add_argument(
        "--power", type=float, default=1.0, help="power to raise the maps to, above 1 sharper (%(default)s)"
    )
    parser.add_argument(
        "--sampling-rate",
        type=float,
        default=SAMPLING_RATE,
        help="frames a second of a video that it was trained to see; 0: every frame (%(default)s)",
    )
    parser.add_argument("--base", help="name or path of the model that it was fine-tuned from, to mix it with")
    parser.add_argument("--share", type=float, default=0.5, help="share of --model in that mixture (%(default)s)")
    options = parser.parse_args(arguments)
    release(
        options.model,
        options.pack,
        options.out,
        options.lower,
        options.power,
        rate=options.sampling_rate,
        base=options.base,
        share=options.share,
    )
    print(f"{options.out}: {options.out.stat().st_size} bytes")


main = command(run)


if __name__ == "__main__":
    sys.exit(main())
