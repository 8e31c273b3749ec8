"""The network for inference on CPUs, with its blocks as fused kernels (`tinyhd.kernels`) and its wiring as it is.

Between the blocks there are no tensors but `Planar` activations, which take part in `torch`'s functions by the
protocol for that (`__torch_function__`): enlarging, shuffling and adding wait until they can be done in one pass.
"""

import contextlib
import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyhd import kernels
from tinyhd.convert import inference_copy
from tinyhd.layers import ConvNorm, InvertedResidual, pixel_shuffle, upsample_space, upsample_time
from tinyhd.model import TinyHD

_CACHE_BYTES = 600_000
"""About what a band's hidden activations may take: a processor core's second level cache and a little more."""
_GROUP = 16
"""Hidden channels at once."""
_SMALL = 12 * 16
"""Pictures of at most so many pixels are not cut into bands: threads share the hidden channels instead."""


class Workers:
    """Runs the parts of a piece of work in `count` threads, the caller's among them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count - 1, "tinyhd-kernels") if count > 1 else None

    def __call__(self, parts: Sequence[Callable[[], None]]) -> None:
        """Run all; of what parts raise the first is raised, and the rest is left."""
        waiting = iter(parts)
        lock = threading.Lock()
        errors: list[BaseException] = []

        def work() -> None:
            while not errors:
                with lock:
                    part = next(waiting, None)
                if part is None:
                    return
                try:
                    part()
                except BaseException as error:
                    errors.append(error)

        others = []
        if self._pool:
            with contextlib.suppress(RuntimeError):  # the interpreter is ending: no new threads
                others = [self._pool.submit(work) for _ in range(min(self.count, len(parts)) - 1)]
        work()
        for other in others:
            if not other.cancel():  # one that has not begun never will, in a forked process
                other.result()
        if errors:
            raise errors[0]

    def share(self, kernel: Callable[..., None], size: int, *arguments: Any) -> None:
        """Call kernel(*arguments, (first, last + 1)) for parts of `size` things."""
        step = max(1, -(-size // self.count))
        self([lambda k=k: kernel(*arguments, (k, min(size, k + step))) for k in range(0, size, step)])  # type: ignore[misc]


class Planar:
    """Activations of one clip: what a tensor (1, C, T, H, W) is elsewhere, with an enlargement yet to be done."""

    def __init__(self, workers: Workers, array: np.ndarray, space: int = kernels.SAME, time: bool = False) -> None:
        self.workers = workers
        self._array, self._space, self._time = array, space, time

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """(1, C, T, H, W) with the enlargement done."""
        channels, steps, height, width = self._array.shape
        scale = 1 if self._space == kernels.SAME else 2
        channels = channels // 4 if self._space == kernels.SHUFFLE else channels
        return 1, channels, 2 * steps if self._time else steps, scale * height, scale * width

    def values(self) -> np.ndarray:
        """float32 (C, T, H, W)."""
        if self._space != kernels.SAME or self._time:
            self._array, self._space, self._time = self._grown(None, None), kernels.SAME, False
        return self._array

    def _grown(self, skip: np.ndarray | None, out: np.ndarray | None) -> np.ndarray:
        if out is None:
            out = np.empty(self.shape[1:], np.float32)
        if skip is None:
            skip = np.empty((0, 0, 0, 0), np.float32)
        planes = out.shape[0] * out.shape[1]
        assert skip.size == 0 or skip.shape == out.shape == self.shape[1:]  # kernels do not look where they write
        self.workers.share(kernels.grow, planes, self._array, self._space, self._time, skip, out)
        return out

    def __add__(self, other: "Planar") -> "Planar":
        if self._space == kernels.SAME and not self._time:
            self, other = other, self
        return Planar(self.workers, self._grown(other.values(), None))

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: tuple[Any, ...], kwargs: Any = None) -> Any:
        if function not in _FUNCTIONS:
            return NotImplemented
        return _FUNCTIONS[function](*arguments, **(kwargs or {}))


def _in_space(x: Planar, kind: int) -> Planar:
    if x._space != kernels.SAME:
        x.values()
    return Planar(x.workers, x._array, kind, x._time)


def _in_time(x: Planar) -> Planar:
    if x._time:
        x.values()
    return Planar(x.workers, x._array, x._space, True)


def _cat(parts: Sequence[Planar], dim: int) -> Planar:
    assert dim == 1
    _, _, *frame = parts[0].shape
    out = np.empty((sum(part.shape[1] for part in parts), *frame), np.float32)
    first = 0
    assert all(part.shape[2:] == (*frame,) for part in parts)
    for part in parts:
        part._grown(None, out[first : first + part.shape[1]])
        first += part.shape[1]
    return Planar(parts[0].workers, out)


def _avg_pool3d(x: Planar, size: tuple[int, int, int]) -> Planar:
    assert size == (1, 2, 2)
    _, channels, steps, height, width = x.shape
    out = np.empty((channels, steps, height // 2, width // 2), np.float32)
    x.workers.share(kernels.halve, channels * steps, x.values(), out)
    return Planar(x.workers, out)


def _sigmoid(x: Planar) -> Tensor:
    values = x.values()
    out = np.empty(values.size, np.float32)
    x.workers.share(kernels.sigmoid, values.size, values.ravel(), out)
    return torch.from_numpy(out).view(x.shape)


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    pixel_shuffle: lambda x: _in_space(x, kernels.SHUFFLE),
    upsample_space: lambda x: _in_space(x, kernels.BILINEAR),
    upsample_time: _in_time,
    torch.cat: _cat,
    F.avg_pool3d: _avg_pool3d,
    torch.sigmoid: _sigmoid,
}


def _padded(weights: Tensor) -> np.ndarray:
    """As float32 array, with zeros up to a multiple of four along the first axis."""
    values = weights.detach().float().cpu()
    return F.pad(values, [0, 0] * (values.ndim - 1) + [0, -len(values) % 4]).contiguous().numpy()


def _bias(conv: nn.Conv3d) -> np.ndarray:
    assert conv.bias is not None
    return _padded(conv.bias)


def _bands(height: int, largest: int, count: int) -> list[tuple[int, int]]:
    """Rows 0 to height in bands of at most `largest`, as many as `count` threads can share evenly."""
    bands = -(-height // max(1, largest))
    bands = min(height, -(-bands // count) * count)
    edges = [round(height * k / bands) for k in range(bands + 1)]
    return list(itertools.pairwise(edges))


class FusedBlock(nn.Module):
    """An `InvertedResidual` with BatchNorm folded."""

    def __init__(self, block: InvertedResidual) -> None:
        super().__init__()
        expand, depthwise, project = block.expand, block.depthwise.conv, block.project.conv
        hidden, self._channels, self._taps = depthwise.out_channels, project.out_channels, depthwise.kernel_size[0]
        self._hidden = -(-hidden // 4) * 4
        self._weights = (
            np.empty((self._hidden, 0), np.float32) if expand is None else _padded(expand.conv.weight.flatten(1)),
            np.empty(0, np.float32) if expand is None else _bias(expand.conv),
            _padded(depthwise.weight.reshape(hidden, self._taps, 9)),
            _bias(depthwise),
            _padded(F.pad(project.weight.flatten(1), [0, self._hidden - hidden])),
        )
        self._bias = _bias(project)
        self._stride, self._pad = depthwise.stride[:2], int(depthwise.padding[0])
        self._residual = block.residual

    def forward(self, x: Planar) -> Planar:
        """(1, in, T, H, W) -> (1, out, T', H', W')."""
        source, workers = x.values(), x.workers
        channels, *frame = source.shape
        steps, height, width = frame
        time, space = self._stride
        assert width % space == 0
        out_height, out_width = (height - 1) // space + 1, (width - 1) // space + 1
        out_frame = ((steps + 2 * self._pad - self._taps) // time + 1, out_height, out_width)
        group = min(_GROUP, self._hidden)
        out = np.empty((self._channels, *out_frame), np.float32)
        flat = source.reshape(channels, -1)
        shape = (self._channels, out[0].size)

        def part(rows: tuple[int, int], hidden: tuple[int, int], into: np.ndarray) -> Callable[[], None]:
            first = hidden[0] == 0
            bias = self._bias if first else np.zeros_like(self._bias)
            return lambda: kernels.block(
                flat, (steps, height, width), *self._weights, bias, into, out_frame, (time, space), self._pad,
                self._residual and first, rows, hidden, group,
            )  # fmt: skip

        if out_height * out_width > _SMALL or workers.count == 1:
            largest = _CACHE_BYTES // (4 * self._taps * group * (width + 2)) - 2
            bands = _bands(out_height, largest // space, workers.count)
            workers([part(band, (0, self._hidden), out.reshape(shape)) for band in bands])
        else:
            share = -(-self._hidden // (4 * workers.count)) * 4
            shares = [(h, min(self._hidden, h + share)) for h in range(0, self._hidden, share)]
            sums = [out.reshape(shape), *(np.empty(shape, np.float32) for _ in shares[1:])]
            workers([part((0, out_height), *each) for each in zip(shares, sums, strict=True)])
            for other in sums[1:]:
                sums[0] += other
        return Planar(workers, out)


class FusedStem(nn.Module):
    """The network's first `ConvNorm` with BatchNorm folded."""

    def __init__(self, layer: ConvNorm, workers: Workers) -> None:
        super().__init__()
        self._workers = workers
        self._weights = _padded(layer.conv.weight.transpose(1, 2).flatten(3)), _bias(layer.conv)
        self._channels = layer.conv.out_channels

    def forward(self, clip: Tensor) -> Planar:
        """(1, 3, T, H, W) -> (1, out, T / 2, H / 2, W / 2)."""
        clips, channels, steps, height, width = clip.shape
        assert clips == 1
        flat = clip.contiguous().numpy().reshape(channels, -1)
        frame = (steps // 2, height // 2, width // 2)
        out = np.empty((self._channels, *frame), np.float32)
        into = out.reshape(self._channels, -1)
        bands = _bands(frame[1], 12, self._workers.count)
        arguments = flat, (steps, height, width), *self._weights, into, frame
        self._workers([lambda band=band: kernels.stem(*arguments, band) for band in bands])  # type: ignore[misc]
        return Planar(self._workers, out)


class FusedPointwise(nn.Module):
    """A 1x1x1 `ConvNorm` with BatchNorm folded."""

    def __init__(self, layer: ConvNorm) -> None:
        super().__init__()
        self._weights = _padded(layer.conv.weight.flatten(1)), _bias(layer.conv)
        self._channels = layer.conv.out_channels

    def forward(self, x: Planar) -> Planar:
        """(1, in, T, H, W) -> (1, out, T, H, W)."""
        source = x.values()
        out = np.empty((self._channels, *source.shape[1:]), np.float32)
        kernels.pointwise(source.reshape(len(source), -1), *self._weights, out.reshape(self._channels, -1))
        return Planar(x.workers, out)


def fused_network(model: TinyHD, threads: int) -> TinyHD:
    """A copy of `model` that computes the same with fused kernels, one clip (1, 3, 16, H, W) at a time."""
    network = inference_copy(model, plain=True).cpu().float()
    layers = network.encoder.layers
    first, last = layers[0], layers[-1]
    assert isinstance(first, ConvNorm)
    assert isinstance(last, ConvNorm)
    layers[0], layers[-1] = FusedStem(first, Workers(threads)), FusedPointwise(last)
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, InvertedResidual):
                setattr(parent, name, FusedBlock(child))
    return network
