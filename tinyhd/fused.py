"""The network for inference on CPUs, with its blocks as fused kernels (`tinyhd.kernels`) and its wiring as it is.

Between the blocks there are no tensors but `Planar` activations, which take part in `torch`'s functions by the
protocol for that (`__torch_function__`): enlarging, shuffling and adding wait until they can be done in one pass.
"""

import bisect
import contextlib
import itertools
import math
import sys
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
_GROUPS, _ROWS_OF_BAND = (32, 16), 14
"""Hidden channels at once: the first number that leaves room for bands of so many rows."""
_SMALL = 12 * 16
"""Pictures of at most so many pixels are not cut into bands: threads share the hidden channels instead."""
_FEW_NUMBERS, _FEW_PRODUCTS = 200_000, 15_000_000
"""Waking a thread takes a tenth of a millisecond: what makes fewer numbers, or multiplies less often, is not shared."""
_STEM_ROWS = 12
"""The largest band of the first layer."""


class Memory:
    """Arrays whose memory is used again when nobody holds them any more: fresh memory has to be cleared by the system,
    page by page, and lies in no cache."""

    _ALIGNED = 16  # elements: 64 bytes, a line of the cache

    def __init__(self) -> None:
        self._blocks = [np.empty(0, np.float32)]  # from small to large
        self._lock = threading.Lock()
        self._unused = self._references(0)  # of a block that only the list holds

    def _references(self, k: int) -> int:
        """How many hold a block: every array of it, and every view of that, counts as one. Who gives another thread a
        view keeps one too until that thread is done, so that a count never passes through `_unused` on its way."""
        return sys.getrefcount(self._blocks[k])

    def take(self, *shape: int) -> np.ndarray:
        """A float32 array with anything in it."""
        size = math.prod(shape)
        with self._lock:
            least = bisect.bisect_left(self._blocks, size + self._ALIGNED, key=len)
            for k in range(least, len(self._blocks)):
                if self._references(k) == self._unused:
                    break
            else:
                # in place of the largest that is too small, so that ever larger clips do not leave theirs behind
                small = [k for k in range(1, least) if self._references(k) == self._unused]
                if small:
                    del self._blocks[small[-1]]
                k = least - len(small[-1:])
                self._blocks.insert(k, np.empty(size + self._ALIGNED, np.float32))
            block = self._blocks[k]
            first = -(block.ctypes.data // 4) % self._ALIGNED
            return block[first : first + size].reshape(shape)


class Workers:
    """Runs the parts of a piece of work in `count` threads, the caller's among them.

    Attributes:
        memory: for what they work on.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.memory = Memory()
        self._pool = ThreadPoolExecutor(count - 1, "tinyhd-kernels") if count > 1 else None

    def __call__(self, parts: Sequence[Callable[[], None]], count: int | None = None) -> None:
        """Run all, in at most `count` threads; of what parts raise the first is raised, and the rest is left."""
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
                others = [self._pool.submit(work) for _ in range(min(count or self.count, len(parts)) - 1)]
        work()
        for other in others:
            if not other.cancel():  # one that has not begun never will, in a forked process
                other.result()
        if errors:
            raise errors[0]

    def share(self, kernel: Callable[..., None], size: int, out: np.ndarray, *arguments: Any) -> None:
        """Call kernel(*arguments, out, (first, last + 1)) for parts of `size` things."""
        arguments = *arguments, out
        step = max(1, size if out.size < _FEW_NUMBERS else -(-size // self.count))
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
            out = self.workers.memory.take(*self.shape[1:])
        if skip is None:
            skip = np.empty((0, 0, 0, 0), np.float32)
        planes = out.shape[0] * out.shape[1]
        assert skip.size == 0 or skip.shape == out.shape == self.shape[1:]  # kernels do not look where they write
        self.workers.share(kernels.grow, planes, out, self._array, self._space, self._time, skip)
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
    workers = parts[0].workers
    out = workers.memory.take(sum(part.shape[1] for part in parts), *frame)
    first = 0
    assert all(part.shape[2:] == (*frame,) for part in parts)
    for part in parts:
        part._grown(None, out[first : first + part.shape[1]])
        first += part.shape[1]
    return Planar(workers, out)


def _avg_pool3d(x: Planar, size: tuple[int, int, int]) -> Planar:
    assert size == (1, 2, 2)
    _, channels, steps, height, width = x.shape
    out = x.workers.memory.take(channels, steps, height // 2, width // 2)
    x.workers.share(kernels.halve, channels * steps, out, x.values())
    return Planar(x.workers, out)


def _sigmoid(x: Planar) -> Tensor:
    values = x.values()
    out = np.empty(values.size, np.float32)  # the caller's to keep
    x.workers.share(kernels.sigmoid, values.size, out, values.ravel())
    return torch.from_numpy(out).view(x.shape)


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    pixel_shuffle: lambda x: _in_space(x, kernels.SHUFFLE),
    upsample_space: lambda x: _in_space(x, kernels.BILINEAR),
    upsample_time: _in_time,
    torch.cat: _cat,
    F.avg_pool3d: _avg_pool3d,
    torch.sigmoid: _sigmoid,
}


def _padded(weights: Tensor) -> Tensor:
    """As float32, with zeros up to a multiple of four along the first axis."""
    values = weights.detach().float().cpu()
    return F.pad(values, [0, 0] * (values.ndim - 1) + [0, -len(values) % 4])


def _in_fours(weights: Tensor) -> np.ndarray:
    """(R, D) as (R / 4, D, 4): four rows lie together."""
    padded = _padded(weights)
    return padded.view(-1, 4, padded.shape[1]).transpose(1, 2).contiguous().numpy()


def _bias(conv: nn.Conv3d) -> np.ndarray:
    assert conv.bias is not None
    return _padded(conv.bias).numpy()


def _bands(height: int, largest: int, count: int) -> list[tuple[int, int]]:
    """Rows 0 to height in bands of at most `largest`, as many as `count` threads can share evenly."""
    bands = -(-height // max(1, largest))
    bands = min(height, -(-bands // count) * count)
    edges = [round(height * k / bands) for k in range(bands + 1)]
    return list(itertools.pairwise(edges))


_ROWS = 8
"""Kernels take rows of a multiple of so many pixels; for others, which the model's own size has nowhere, there is
PyTorch."""


def _by_torch(layer: nn.Module, x: Planar) -> Planar:
    out: Tensor = layer(torch.from_numpy(x.values())[None])
    return Planar(x.workers, out[0].contiguous().numpy())


class FusedBlock(nn.Module):
    """An `InvertedResidual` with BatchNorm folded."""

    def __init__(self, block: InvertedResidual) -> None:
        super().__init__()
        self._plain = (block,)  # not one of the network's modules
        expand, depthwise, project = block.expand, block.depthwise.conv, block.project.conv
        hidden, self._channels, self._taps = depthwise.out_channels, project.out_channels, depthwise.kernel_size[0]
        self._hidden = -(-hidden // 4) * 4
        none = np.empty((self._hidden // 4, 0, 4), np.float32)
        self._weights = (
            none if expand is None else _in_fours(expand.conv.weight.flatten(1)),
            none.ravel() if expand is None else _bias(expand.conv),
            _padded(depthwise.weight.reshape(hidden, self._taps, 9)).numpy(),
            _bias(depthwise),
            _in_fours(F.pad(project.weight.flatten(1), [0, self._hidden - hidden])),
        )
        self._bias = _bias(project)
        self._stride, self._pad = depthwise.stride[:2], int(depthwise.padding[0])
        self._inputs = hidden if expand is None else expand.conv.in_channels
        # what the kernels count on and do not check
        assert depthwise.stride[1] == depthwise.stride[2] in (1, 2)
        assert depthwise.padding[1:] == (1, 1)
        assert depthwise.kernel_size[1:] == (3, 3)
        assert self._pad < self._taps
        self._residual = block.residual

    def forward(self, x: Planar) -> Planar:
        """(1, in, T, H, W) -> (1, out, T', H', W')."""
        source, workers = x.values(), x.workers
        channels, *frame = source.shape
        steps, height, width = frame
        time, space = self._stride
        if width % (space * _ROWS):
            return _by_torch(*self._plain, x)
        out_height, out_width = (height - 1) // space + 1, width // space
        out_frame = ((steps + 2 * self._pad - self._taps) // time + 1, out_height, out_width)
        positions, out_positions = source[0].size, math.prod(out_frame)
        expanded = channels if self._weights[0].size else 0
        products = self._hidden * (positions * expanded + out_positions * (9 * self._taps + self._channels))
        threads = workers.count if products >= _FEW_PRODUCTS else 1
        assert channels == self._inputs
        assert out_frame[0] >= 1
        assert not self._residual or (channels, *frame) == (self._channels, *out_frame)
        for group in _GROUPS:
            # rows of input whose hidden activations fit; two more at the edge of a band are computed for each band
            largest = _CACHE_BYTES // (4 * self._taps * group * (width + 8)) - 2
            if largest >= min(_ROWS_OF_BAND, height // threads):
                break
        group = min(group, self._hidden)
        out = workers.memory.take(self._channels, *out_frame)
        flat = source.reshape(channels, -1)
        shape = (self._channels, out_positions)

        def part(rows: tuple[int, int], hidden: tuple[int, int], into: np.ndarray) -> Callable[[], None]:
            first = hidden[0] == 0
            bias = self._bias if first else np.zeros_like(self._bias)

            def work() -> None:
                *_, size = kernels.block_memory(
                    expanded, len(bias), steps, out_frame[0], out_width, self._taps, space, rows[1] - rows[0], group
                )
                kernels.block(
                    flat, (steps, height, width), *self._weights, bias, into, out_frame, (time, space), self._pad,
                    self._residual and first, rows, hidden, group, workers.memory.take(size),
                )  # fmt: skip

            return work

        if out_height * out_width > _SMALL or threads == 1:
            bands = _bands(out_height, largest // space, threads)
            workers([part(band, (0, self._hidden), out.reshape(shape)) for band in bands], threads)
        else:
            share = -(-self._hidden // (4 * threads)) * 4
            shares = [(h, min(self._hidden, h + share)) for h in range(0, self._hidden, share)]
            sums = [out.reshape(shape), *(workers.memory.take(*shape) for _ in shares[1:])]
            workers([part((0, out_height), *each) for each in zip(shares, sums, strict=True)])
            for other in sums[1:]:
                sums[0] += other
        return Planar(workers, out)


class FusedStem(nn.Module):
    """The network's first `ConvNorm` with BatchNorm folded."""

    def __init__(self, layer: ConvNorm, workers: Workers) -> None:
        super().__init__()
        self._plain, self._workers = (layer,), workers
        self._weights = _in_fours(layer.conv.weight.transpose(1, 2).flatten(1)), _bias(layer.conv)
        self._channels = layer.conv.out_channels
        assert self._channels % 4 == 0
        assert (layer.conv.kernel_size, layer.conv.stride, layer.conv.padding) == ((3, 3, 3), (2, 2, 2), (1, 1, 1))

    def forward(self, clip: Tensor) -> Planar:
        """(1, 3, T, H, W) -> (1, out, T / 2, H / 2, W / 2)."""
        clips, channels, steps, height, width = clip.shape
        assert clips == 1
        assert channels == self._plain[0].conv.in_channels
        assert steps % 2 == height % 2 == 0
        workers = self._workers
        clip = clip.contiguous()
        if width % (2 * _ROWS):
            return _by_torch(*self._plain, Planar(workers, clip[0].numpy()))
        frame = (steps // 2, height // 2, width // 2)
        out = workers.memory.take(self._channels, *frame)
        flat, into = clip.numpy().reshape(channels, -1), out.reshape(self._channels, -1)

        def part(rows: tuple[int, int]) -> None:
            *_, size = kernels.stem_memory(channels, self._channels, steps, frame[2], rows[1] - rows[0])
            memory = workers.memory.take(size)
            kernels.stem(flat, (steps, height, width), *self._weights, into, frame, memory, rows)

        workers([lambda band=band: part(band) for band in _bands(frame[1], _STEM_ROWS, workers.count)])  # type: ignore[misc]
        return Planar(workers, out)


class FusedPointwise(nn.Module):
    """A 1x1x1 `ConvNorm` with BatchNorm folded."""

    def __init__(self, layer: ConvNorm) -> None:
        super().__init__()
        self._plain = (layer,)
        self._weights = _in_fours(layer.conv.weight.flatten(1)), _bias(layer.conv)
        self._channels = layer.conv.out_channels

    def forward(self, x: Planar) -> Planar:
        """(1, in, T, H, W) -> (1, out, T, H, W)."""
        source = x.values()
        assert len(source) == self._plain[0].conv.in_channels
        if source[0].size % _ROWS:
            return _by_torch(*self._plain, x)
        weights, bias = self._weights
        out = x.workers.memory.take(len(bias), *source.shape[1:])
        kernels.pointwise(source.reshape(len(source), -1), weights, bias, out.reshape(len(bias), -1))
        return Planar(x.workers, out[: self._channels])


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
