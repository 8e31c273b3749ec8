"""Trains a TinyHD by hierarchical multi-map distillation.

    python -m training.train --config training/configs/embedded.yaml steps=2000
    torchrun --nproc-per-node 2 -m training.train --config ...

Running the same command again goes on from the last checkpoint; Ctrl-C saves one first.
"""

import argparse
import contextlib
import csv
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import yaml
from PIL import Image
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from tinyhd.errors import InputError, TinyHDError
from tinyhd.network.model import TinyHD, TinyHDOutput
from tinyhd.network.weights import load_model, resolve_device, save_model
from training.backbone import inflate_imagenet, start_decoders, take_statistics
from training.config import TrainConfig, config_from_dict, read_config
from training.data import Augmentation, ClipDataset, MixSampler, list_entries
from training.fixed_norms import fix_norms
from training.losses import distillation_loss
from training.narrow import narrowed
from training.packs import LEAD
from training.teachers import Teacher, TeacherMaps, imagenet_clip, load_teacher, normalize_sum, resize_maps

Batch = dict[str, Tensor]


@dataclass
class Process:
    """This process among those of a run (torch.distributed)."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0


@dataclass
class State:
    """What a checkpoint holds besides weights."""

    step: int = 0
    best: float = math.inf
    history: list[dict[str, float]] = field(default_factory=list)


def start_process(device: torch.device) -> Process:
    """Joins the process group that `torchrun` names in the environment; alone without it."""
    if "RANK" not in os.environ:
        return Process()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Process(dist.get_rank(), dist.get_world_size())


def rate_at(step: int, config: TrainConfig) -> float:
    """Factor of the learning rate at an update (0-based)."""
    if step < config.warmup:
        return (step + 1) / (config.warmup + 1)
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    if config.schedule == "cosine":
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return 0.1 ** sum(step >= milestone for milestone in paper_milestones(config.steps))


def paper_milestones(steps: int) -> list[int]:
    """Updates at which the paper's schedule cuts the rate: after 100, 150 and 180 of 200 epochs."""
    return [steps * epoch // 200 for epoch in (100, 150, 180)]


def make_optimizer(model: TinyHD, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW, or the paper's SGD: twice the rate and no decay for biases."""
    groups = []
    for part, scale in (("encoder.", config.encoder_rate_scale), ("", 1.0)):
        for bias in (False, True):
            parameters = [
                p
                for name, p in model.named_parameters()
                if p.requires_grad and name.startswith("encoder.") == (part == "encoder.") and ("bias" in name) == bias
            ]
            twice = 2.0 if bias and config.optimizer == "sgd" else 1.0
            groups.append(
                {
                    "params": parameters,
                    "lr": config.rate * scale * twice,
                    "base": config.rate * scale * twice,
                    "weight_decay": 0.0 if bias else config.weight_decay,
                }
            )
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9)
    return torch.optim.AdamW(groups, betas=(0.9, 0.99))


class Average:
    """Exponential moving average of a model's weights and norms' statistics."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes the current weights in."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))  # young averages follow faster
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                self.values[key].lerp_(value, 1 - decay)
            else:
                self.values[key].copy_(value)


class Trainer:
    """One run: model, optimizer, data and checkpoints."""

    def __init__(self, config: TrainConfig, device: torch.device, process: Process) -> None:
        self.config, self.device, self.process = config, device, process
        self.out = Path(config.out)
        self.state = State()
        torch.manual_seed(config.seed)
        self.entries = list_entries(config.packs)
        self.teacher: Teacher | None = None
        if config.teachers:
            self.teacher = load_teacher(config.teachers, device, config.teacher_every)
        self.model = self._new_model().to(device)
        if config.precision == "bfloat16":  # too coarse for the sigmoids that follow the decoders
            for decoder in self.model.decoders.values():
                decoder.register_forward_hook(lambda _module, _inputs, maps: maps.float())
        if config.norms == "fixed":
            fix_norms(self.model)
        self.frozen = self.model.encoder.layers[: config.frozen_layers].requires_grad_(False)
        self.optimizer = make_optimizer(self.model, config)
        self.average = Average(self.model, config.ema)
        if self.checkpoint_path.exists():
            self._resume()
        self.parallel: nn.Module = self.model
        if process.world > 1:
            self.parallel = DistributedDataParallel(
                self.model, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False
            )

    @property
    def checkpoint_path(self) -> Path:
        """The last checkpoint of the run."""
        return self.out / "last.ckpt"

    def _new_model(self) -> TinyHD:
        config = self.config
        if config.init:
            model = load_model(config.init)
            same = {"display_scale": config.model.display_scale, "sampling_rate": config.model.sampling_rate}
            model.config = replace(model.config, **same)  # no parts of the network
            if model.config != config.model:
                raise InputError(f"{config.init} is a {model.config}, but the configuration's model is {config.model}.")
            if config.norms == "batch" and not self.checkpoint_path.exists():
                take_statistics(model, self._some_clips())
            return model
        model = TinyHD(config.model)
        start_decoders(model)
        if self.checkpoint_path.exists():
            return model
        if config.narrow:
            narrow = narrowed(load_model(config.narrow), config.model.decoders, self._some_clips())
            narrow.config = replace(narrow.config, display_scale=config.model.display_scale)
            if narrow.config != config.model:
                raise InputError(f"{config.narrow} narrows to {narrow.config}, but the model is {config.model}.")
            return narrow
        if config.backbone:
            inflate_imagenet(model, Path(config.backbone), self._some_clips())
        return model

    def _some_clips(self) -> Tensor:
        """(8, 3, 16, H, W) normalized clips, for statistics."""
        data = ClipDataset(self.entries, self.config.size, self.config.augmentation)
        order = np.random.default_rng(self.config.seed).permutation(len(self.entries))[:8]
        return imagenet_clip(torch.stack([data[(int(k), 0)]["frames"][-16:] for k in order]))

    def _resume(self) -> None:
        stored = torch.load(self.checkpoint_path, map_location="cpu", weights_only=True)
        if config_from_dict(stored["config"]).model != self.config.model:
            raise InputError(f"{self.checkpoint_path} is of another model: name another `out` or delete it.")
        self.model.load_state_dict(stored["model"])
        self.optimizer.load_state_dict(stored["optimizer"])
        self.average.values = {k: v.to(self.device) for k, v in stored["average"].items()}
        self.average.updates = stored["average_updates"]
        self.state = State(**stored["state"])

    def save(self) -> None:
        """Writes the checkpoint; the file appears whole or not at all."""
        if not self.process.first:
            return
        stored = {
            "config": self.config.to_dict(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.values,
            "average_updates": self.average.updates,
            "state": vars(self.state),
        }
        partial = self.checkpoint_path.with_suffix(".partial")
        torch.save(stored, partial)
        partial.replace(self.checkpoint_path)

    def averaged_model(self) -> TinyHD:
        """The model with averaged weights, in eval mode."""
        model = TinyHD(self.config.model).to(self.device)
        model.load_state_dict(self.average.values if self.config.ema else self.model.state_dict())
        return model.eval()

    def batches(self) -> Iterator[Batch]:
        """Endless batches, from where the run stands."""
        config, world = self.config, self.process.world
        sampler = MixSampler(
            self.entries,
            config.auxiliary_ratio,
            config.seed,
            self.process.rank,
            world,
            self.state.step * config.batch * world,
        )
        loader = DataLoader(
            ClipDataset(self.entries, config.size, config.augmentation),
            config.batch,
            sampler=sampler,
            num_workers=config.workers,
            prefetch_factor=4 if config.workers else None,
            pin_memory=self.device.type == "cuda",
        )
        return iter(loader)

    def targets(self, batch: Batch) -> tuple[Tensor, TeacherMaps, Tensor, Tensor]:
        """The student's input and what its maps should be: clip, teacher's maps, density and counts."""
        batch = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
        frames, maps = batch["frames"], self.config.model.maps_per_clip
        if self.teacher is not None and "fused" not in batch:
            teacher = self.teacher(frames, LEAD, maps)
        else:
            present = {key: batch[key] for key in ("d2", "d3") if batch[key].any()}
            series = {key: value[:, -maps:] for key, value in present.items()}
            teacher = TeacherMaps(batch["fused"][:, -maps:], batch["d1"], **series)
        height, width = (s // self.config.model.output_stride for s in self.config.size)
        density = resize_maps(batch["density"][:, -maps:], height, width)
        counts = _resized_counts(batch["counts"][:, -maps:], height, width)
        return imagenet_clip(frames[:, -16:]), teacher, density, counts

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor], TinyHDOutput, TeacherMaps]:
        """Forward pass and loss of a batch."""
        clip, teacher, density, counts = self.targets(batch)
        precision = torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")
        with precision:
            output = model(clip)
        total, terms = distillation_loss(output, teacher, density, counts, self.config.loss)
        return total, terms, output, teacher

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Loss terms of the averaged weights on the validation clips; draws some maps."""
        model = self.averaged_model()
        entries = list_entries(self.config.validation)
        data = ClipDataset(entries, self.config.size, Augmentation(flip=0))
        sums: dict[str, float] = {}
        rows = []
        for k in range(len(entries)):
            batch = {key: value[None] for key, value in data[(k, 0)].items()}
            _, terms, output, teacher = self.loss(model, batch)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value) / len(entries)
            if k % max(1, len(entries) // 6) == 0 and len(rows) < 6:
                rows.append(_picture(batch["frames"][0, -1], teacher.fused[0, -1], output.fused[0, -1]))
        folder = self.out / "pictures"
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.concatenate(rows)).save(folder / f"{self.state.step:06d}.png")
        return sums

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One update of the weights."""
        config = self.config
        factor = rate_at(self.state.step, config)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * factor
        self.parallel.train()
        self.frozen.eval()
        total, terms, *_ = self.loss(self.parallel, batch)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        if torch.isfinite(norm):  # a broken batch must not end a long run
            self.optimizer.step()
            self.average.update(self.model)
        self.state.step += 1
        return {key: value.detach() for key, value in terms.items()} | {"gradient": norm}

    def run(self) -> bool:
        """Trains until `steps`; returns False when it was interrupted."""
        config, state = self.config, self.state
        if self.process.first:
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / "config.yaml").write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))
        batches = self.batches()
        recent: list[dict[str, Tensor]] = []
        began = time.monotonic()
        show = self.process.first
        bar = tqdm(total=config.steps, initial=state.step, unit="step", disable=not show, smoothing=0.05)
        with _interrupts() as interrupted, bar:
            while state.step < config.steps:
                recent.append(self.step(next(batches)))
                bar.update()
                if state.step % config.log_every == 0:
                    row = {k: float(torch.stack([r[k] for r in recent if k in r]).mean()) for k in recent[-1]}
                    row |= {"rate": self.optimizer.param_groups[-1]["lr"] / self.config.rate}
                    row |= {"clips_per_second": len(recent) * config.batch / (time.monotonic() - began)}
                    began, recent = time.monotonic(), []
                    bar.set_postfix({k: f"{v:.3f}" for k, v in row.items() if k in ("teacher", "ground_truth")})
                    self._log({"step": state.step, **row})
                last = state.step == config.steps
                if last or state.step % config.validate_every == 0:
                    self._keep_best()
                if self._agreed(interrupted[0]):
                    self.save()
                    return False
                if last or state.step % config.save_every == 0:
                    self.save()
                if config.schedule == "steps" and state.step in paper_milestones(config.steps):
                    self._reload_best()
        return True

    def _keep_best(self) -> None:
        if not self.process.first:
            return
        score = -float(self.state.step)
        if self.config.validation:
            terms = self.validate()
            score = terms.get("ground_truth") or terms["teacher"]
            self._log({"step": self.state.step, **{f"validation_{k}": v for k, v in terms.items()}})
        save_model(self.averaged_model(), self.out / "last.safetensors")
        if score < self.state.best:
            self.state.best = score
            save_model(self.averaged_model(), self.out / "best.safetensors")

    def _reload_best(self) -> None:
        if self.process.world > 1:
            dist.barrier()
        best = self.out / "best.safetensors"
        if best.exists():
            self.model.load_state_dict(load_model(best, self.device).state_dict())

    def _agreed(self, flag: bool) -> bool:
        """True in all processes when one was interrupted."""
        if self.process.world == 1:
            return flag
        votes = torch.tensor([float(flag)], device=self.device)
        dist.all_reduce(votes)
        return bool(votes.item())

    def _log(self, row: dict[str, float]) -> None:
        if not self.process.first:
            return
        path = self.out / "log.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", "name", "value"])
            writer.writerows([row["step"], name, f"{value:.6g}"] for name, value in row.items() if name != "step")


def _resized_counts(counts: Tensor, height: int, width: int) -> Tensor:
    """Fixation counts (N, K, h, w) at another size, none lost: spread evenly over the new pixels."""
    if counts.shape[-2:] == (height, width):
        return counts
    factor = counts.shape[-1] * counts.shape[-2] / (height * width)
    return resize_maps(counts, height, width) * factor


def _picture(frame: Tensor, target: Tensor, prediction: Tensor) -> np.ndarray:
    """A row of a picture: the frame, the teacher's map and the student's."""
    height, width = frame.shape[-2:]
    parts = [frame.cpu().numpy().transpose(1, 2, 0)]
    for saliency in (target, prediction):
        full = resize_maps(normalize_sum(saliency.float())[None, None], height, width)[0, 0]
        gray = (255 * full / full.max()).byte().cpu().numpy()
        parts.append(np.repeat(gray[..., None], 3, -1))
    return np.concatenate(parts, 1)


@contextlib.contextmanager
def _interrupts() -> Iterator[list[bool]]:
    """A flag that Ctrl-C sets; a second Ctrl-C ends the process at once. Afterwards it does what it did before."""
    flag = [False]
    before = signal.getsignal(signal.SIGINT)

    def note(_signal: int, _frame: Any) -> None:
        flag[0] = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with contextlib.suppress(ValueError):  # not in the main thread: nothing to catch
        signal.signal(signal.SIGINT, note)
    try:
        yield flag
    finally:
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGINT, before)


def train(config: TrainConfig) -> bool:
    """Runs or resumes a training; returns False when it was interrupted.

    Raises:
        TinyHDError: data, weights or options cannot be used.
    """
    device = resolve_device(config.device)
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return Trainer(config, device, start_process(device)).run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML file; see training/config.py for all names")
    parser.add_argument(
        "overrides", nargs="*", metavar="name=value", help="such as steps=100 model.channel_reduction=4"
    )
    options = parser.parse_args(arguments)
    try:
        finished = train(read_config(options.config, options.overrides))
    except TinyHDError as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
    if not finished:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
