"""Teachers: whatever gives the maps that a student learns from.

A teacher maps a batch of clips to `TeacherMaps`. Besides those below, a folder of maps that any model made is a
teacher too: put them where `training.packs.maps_path` says, and name that folder in the training configuration.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from tinyhd.errors import WeightsError
from tinyhd.network.config import CLIP_LENGTH, IMAGENET_MEAN, IMAGENET_STD
from tinyhd.network.model import TinyHD
from tinyhd.network.weights import load_model
from training.hd2s import HD2S


@dataclass
class TeacherMaps:
    """Maps of a batch of clips, each map with sum 1."""

    fused: Tensor
    """(N, K, h, w): a map for each of the student's, 16 (M) or 1 (S)."""
    d1: Tensor
    """(N, 4, h, w): the hierarchical maps in the order of the student's D1, averaged over the clip for M."""
    d2: Tensor | None = None
    """(N, K, h, w), where the teacher is a TinyHD."""
    d3: Tensor | None = None
    """(N, K, h, w), where the teacher is a TinyHD."""


class Teacher(Protocol):
    """Gives the maps of clips."""

    def __call__(self, frames: Tensor, lead: int, maps: int) -> TeacherMaps:
        """Maps of clips.

        Args:
            frames: uint8 (N, lead + 16, 3, 192, 256) RGB; the clip is the last 16 frames.
            lead: frames before the clip, 0 to 15; where there are fewer than 15 the first frame stands for them.
            maps: 16 for a student of M, 1 (the clip's last frame) for S.
        """
        ...


def normalize_sum(maps: Tensor) -> Tensor:
    """Maps (..., h, w) divided by their sums."""
    return maps / maps.sum((-2, -1), keepdim=True).clamp_min(1e-12)


def imagenet_clip(frames: Tensor) -> Tensor:
    """uint8 (N, T, 3, H, W) -> float (N, 3, T, H, W) normalized as TinyHD takes it."""
    mean = torch.tensor(IMAGENET_MEAN, device=frames.device).view(1, 1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=frames.device).view(1, 1, 3, 1, 1)
    return ((frames / 255 - mean) / std).transpose(1, 2)


def hd2s_clip(frames: Tensor) -> Tensor:
    """uint8 (N, T, 3, H, W) -> float (N, 3, T, H, W) in [-1, 1] as HD2S takes it."""
    return (frames / 127.5 - 1).transpose(1, 2)


class SlidingTeacher:
    """A one-output network slid over the clip: each of the student's frames gets the map of the window that ends there.

    Args:
        network: (N, 3, 16, H, W) -> {"fused": (N, 1, H, W), "d1": (N, 4, H, W), and for a TinyHD "d2" and "d3"}.
        to_input: uint8 (N, T, 3, H, W) -> the network's float input (N, 3, T, H, W).
        every: runs the network at every so many frames (the last one included) and interpolates linearly between:
            maps change slowly, and the paper's 1 costs 16 runs a clip.
    """

    def __init__(
        self, network: Callable[[Tensor], dict[str, Tensor]], to_input: Callable[[Tensor], Tensor], every: int = 1
    ) -> None:
        self.network = network
        self.to_input = to_input
        self.every = every

    @torch.inference_mode()
    def __call__(self, frames: Tensor, lead: int, maps: int) -> TeacherMaps:
        """See `Teacher`."""
        missing = CLIP_LENGTH - 1 - lead
        padded = torch.cat([frames[:, :1].expand(-1, missing, -1, -1, -1), frames], 1)
        clip = self.to_input(padded)
        # window k holds frames k..k+15 of the padded clip and ends at the student's frame k
        ends = sliding_ends(maps, self.every)
        outputs = [self.network(clip[:, :, end : end + CLIP_LENGTH]) for end in ends]
        series = {
            key: torch.stack([normalize_sum(o[key][:, 0]) for o in outputs], 1) for key in outputs[0] if key != "d1"
        }
        if maps > 1:
            series = {key: interpolate_in_time(value, ends, maps) for key, value in series.items()}
        d1 = torch.stack([normalize_sum(o["d1"]) for o in outputs]).mean(0)
        return TeacherMaps(series["fused"], d1, series.get("d2"), series.get("d3"))


def sliding_ends(maps: int, every: int) -> list[int]:
    """Frames (0..15) at which a sliding teacher runs: every so many, counted back from the last."""
    return [15] if maps == 1 else list(range(15, -1, -every))[::-1]


def interpolate_in_time(maps: Tensor, places: Sequence[int], length: int) -> Tensor:
    """Maps (N, P, h, w) at frames `places` -> (N, length, h, w), linear between and constant outside."""
    frame = torch.arange(length)
    place = torch.tensor(places)
    after = torch.searchsorted(place, frame).clamp(max=len(places) - 1)
    before = (after - 1).clamp(min=0)
    span = (place[after] - place[before]).clamp(min=1)
    weight = ((frame - place[before]) / span).clamp(0, 1).to(maps.dtype).view(1, -1, 1, 1).to(maps.device)
    return maps[:, before].lerp(maps[:, after], weight)


class MultiOutputTeacher:
    """A TinyHD with 16 outputs, run once a clip."""

    def __init__(self, model: TinyHD) -> None:
        self.model = model.eval()

    @torch.inference_mode()
    def __call__(self, frames: Tensor, lead: int, maps: int) -> TeacherMaps:
        """See `Teacher`."""
        out = self.model(imagenet_clip(frames[:, lead:]))
        series = {"fused": out.fused, **out.decoders}
        d1 = normalize_sum(series.pop("d1"))
        series = {key: normalize_sum(value[:, -maps:]) for key, value in series.items()}
        return TeacherMaps(series["fused"], d1, series.get("d2"), series.get("d3"))


class Ensemble:
    """The mean of several teachers, each map with sum 1 first. D2 and D3 are those of the teachers that have them."""

    def __init__(self, teachers: Sequence[Teacher]) -> None:
        self.teachers = teachers

    def __call__(self, frames: Tensor, lead: int, maps: int) -> TeacherMaps:
        """See `Teacher`."""
        results = [teacher(frames, lead, maps) for teacher in self.teachers]

        def mean(key: str) -> Tensor:
            return torch.stack([v for r in results if (v := getattr(r, key)) is not None]).mean(0)

        both = [key for key in ("d2", "d3") if any(getattr(r, key) is not None for r in results)]
        return TeacherMaps(mean("fused"), mean("d1"), **{key: mean(key) for key in both})


def load_teacher(names: Sequence[str], device: torch.device | str = "cpu", every: int = 1) -> Teacher:
    """A teacher from names: several make an ensemble.

    Args:
        names: names or paths of TinyHD models that have D1, or `hd2s:PATH` with HD2S's own state dict.
        device: where they run.
        every: see `SlidingTeacher`.

    Raises:
        WeightsError: the weights cannot be loaded, or a TinyHD lacks a decoder.
    """
    teachers: list[Teacher] = []
    for name in names:
        if name.startswith("hd2s:"):
            hd2s = load_hd2s(Path(name.removeprefix("hd2s:"))).to(device)
            teachers.append(SlidingTeacher(lambda clip, net=hd2s: net(clip), hd2s_clip, every))  # type: ignore[misc]
            continue
        model = load_model(name, device=device)
        if "d1" not in model.config.decoders:
            raise WeightsError(f"{name} has no decoder D1, whose maps a student needs: take a teacher that has it.")
        if model.config.multi_output:
            teachers.append(MultiOutputTeacher(model))
        else:
            teachers.append(SlidingTeacher(lambda clip, net=model: _outputs(net, clip), imagenet_clip, every))  # type: ignore[misc]
    return teachers[0] if len(teachers) == 1 else Ensemble(teachers)


def _outputs(model: TinyHD, clip: Tensor) -> dict[str, Tensor]:
    out = model(clip)
    return {"fused": out.fused, **out.decoders}


def load_hd2s(path: Path) -> HD2S:
    """HD2S with the authors' state dict (a file that the user brings: their link is dead).

    Raises:
        WeightsError: the file is missing or does not hold HD2S's weights.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model = HD2S()
        model.load_state_dict(state.get("state_dict", state))
    except (OSError, RuntimeError, AttributeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path} does not hold HD2S's weights ({reason}): pass the authors' state dict.") from error
    return model.eval()


def resize_maps(maps: Tensor, height: int, width: int) -> Tensor:
    """Maps (N, K, h, w) at another size: area means where they shrink, bilinear where they grow."""
    if maps.shape[-2:] == (height, width):
        return maps
    if maps.shape[-2] >= height and maps.shape[-1] >= width:
        return F.interpolate(maps, (height, width), mode="area")
    return F.interpolate(maps, (height, width), mode="bilinear", align_corners=False)
