"""PyTorch on NVIDIA GPUs: batches that compute while others are made ready, and networks as CUDA graphs.

One forward pass is hundreds of short kernels, and launching them one by one can take longer than they do; a graph is
launched as one. See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tinyhd.backends import PRECISIONS, _Backend, memory_errors
from tinyhd.convert import CLIP_SHAPE, inference_copy
from tinyhd.model import MAP_HEIGHT, MAP_WIDTH, TinyHD

log = logging.getLogger("tinyhd.cuda")

_SLOTS = 2
"""Batches in flight: one is copied while another is computed."""
_KEPT = 2
"""Batch sizes that a slot is ready for: the usual one, and the rest at a video's end. Each has its own GPU memory."""
_WARM_UPS = 3
"""Passes before a graph is captured, in which libraries choose their kernels and take their workspaces."""


class CudaMaps(_Backend):
    """PyTorch on a CUDA device, with the weights that the model has now; may be called from several threads.

    Raises:
        OptionError: an unknown precision; when called, memory has run out.
    """

    name = "torch"

    def __init__(self, model: TinyHD, precision: str = "float32") -> None:
        super().__init__(model, precision)
        self._dtype = PRECISIONS[precision]
        # Converted rather than under autocast, whose casts of the weights would be part of every pass. As autocast
        # does, the decoders' maps are fused in float32.
        self._network = inference_copy(model, plain=False)
        self._network.encoder.to(self._dtype)
        self._network.decoders.to(self._dtype)
        self._gpu = _Device(self.device)
        self._slots = deque(_Slot(self._gpu.stream()) for _ in range(_SLOTS))
        self._use_graphs = True
        self._lock = threading.Lock()

    def __call__(self, clips: Tensor) -> Tensor:
        """See `MapsFunction`; the maps are float32 in main memory."""
        return self.start(clips)()

    @torch.inference_mode()
    def start(self, clips: Tensor) -> Callable[[], Tensor]:
        """Queue a batch, and return without waiting for it.

        Args:
            clips: float32 (N, 3, 16, 192, 256) in main memory; copied before this returns.

        Returns:
            A function that waits for the maps and gives them, float32 (N, maps_per_clip, H, W) in main memory. It
            may be called at any time, again, or not at all.

        Raises:
            ValueError: clips of another shape.
            OptionError: memory has run out.
        """
        size = len(clips)
        if clips.shape != (size, *CLIP_SHAPE):
            raise ValueError(f"clips are (N, 3, 16, 192, 256), not {tuple(clips.shape)}")
        with self._lock:
            slot = self._slots[0]
            self._slots.rotate(-1)
            if slot.batch is not None:
                slot.batch.finish()  # nobody has asked for its maps yet: they are put aside
                slot.batch = None
            try:
                with memory_errors(self.device, size):
                    program = self._program(slot, size)
                    program.clips.copy_(clips)
                    wait = self._gpu.submit(slot.stream, program.run)
            except BaseException:
                slot.programs.clear()  # leaves memory for smaller batches
                raise
            batch = slot.batch = _Batch(wait, program.maps)
        return lambda: self._take(slot, batch)

    def _take(self, slot: "_Slot", batch: "_Batch") -> Tensor:
        with self._lock:
            batch.finish()
            if slot.batch is batch:
                slot.batch = None
        with memory_errors(self.device, len(batch.maps)):
            return batch.result.result()

    def _program(self, slot: "_Slot", size: int) -> "_Program":
        program = slot.programs.pop(size, None)
        if program is None:
            while len(slot.programs) >= _KEPT:
                slot.programs.popitem(last=False)
            program = self._new_program(slot, size)
        slot.programs[size] = program  # last: the latest
        return program

    def _new_program(self, slot: "_Slot", size: int) -> "_Program":
        clips = self._gpu.pinned((size, *CLIP_SHAPE))
        on_gpu = self._gpu.empty(slot.stream, clips.shape)
        stride = self.config.output_stride
        maps = self._gpu.pinned((size, self.maps_per_clip, MAP_HEIGHT // stride, MAP_WIDTH // stride))

        def compute() -> Tensor:
            fused: Tensor = self._network(on_gpu.to(self._dtype)).fused
            return fused.float().contiguous()

        network = compute
        if self._use_graphs:
            try:
                network = self._gpu.captured(slot.stream, compute)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                reason = str(error).partition("\n")[0].rstrip(".")
                log.warning("CUDA graphs do not work here (%s): computing without them, which is slower.", reason)
                self._use_graphs = False
                slot.stream = self._gpu.stream()  # the old one may be stuck in its capture
                return self._new_program(slot, size)

        def run() -> None:
            on_gpu.copy_(clips, non_blocking=True)
            maps.copy_(network(), non_blocking=True)

        return _Program(clips, maps, run)


class _Program:
    """What computes batches of one size in one slot, with memory of its own."""

    def __init__(self, clips: Tensor, maps: Tensor, run: Callable[[], None]) -> None:
        self.clips, self.maps = clips, maps
        """In main memory."""
        self.run = run
        """Queues the way from `clips` to `maps`."""


class _Batch:
    """A batch in flight, whose maps will be in `maps` until the slot is used again."""

    def __init__(self, wait: Callable[[], None], maps: Tensor) -> None:
        self._wait = wait
        self.maps = maps
        self.result: Future[Tensor] = Future()

    def finish(self) -> None:
        """Wait, and keep a copy of the maps, or the error."""
        if not self.result.done():
            try:
                self._wait()
                self.result.set_result(self.maps.clone())
            except Exception as error:
                self.result.set_exception(error)


class _Slot:
    """Room for one batch in flight."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.programs: OrderedDict[int, _Program] = OrderedDict()
        """By batch size, the latest used last."""
        self.batch: _Batch | None = None
        """The one in flight, or done but asked for by nobody."""


class _Device:
    """All that needs a GPU."""

    _one_capture = threading.Lock()
    """Of the whole process, as PyTorch requires."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def stream(self) -> torch.cuda.Stream:
        """Where work is queued, after what has been queued so far, such as copies of weights."""
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        return stream

    def pinned(self, shape: Sequence[int]) -> Tensor:
        """Main memory that the GPU copies from and to by itself, float32."""
        return torch.empty(shape, pin_memory=True)

    def empty(self, stream: torch.cuda.Stream, shape: Sequence[int]) -> Tensor:
        """The GPU's memory, for use in `stream`, float32."""
        with torch.cuda.stream(stream):
            return torch.empty(shape, device=self._device)

    def captured(self, stream: torch.cuda.Stream, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """`compute` as a CUDA graph, for use in `stream`; it gives the same tensor each time.

        Raises:
            RuntimeError: it cannot be captured.
        """
        graph = torch.cuda.CUDAGraph()
        # the outer `stream` restores the current one even where ending a failed capture raises
        with self._one_capture, torch.cuda.stream(stream), ConstantsOn(self._device):
            for _ in range(_WARM_UPS):
                compute()
            # thread_local: other threads may go on with work of their own
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                result = compute()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay

    def submit(self, stream: torch.cuda.Stream, work: Callable[[], None]) -> Callable[[], None]:
        """Queue what `work` does; the result waits until it is done."""
        with torch.cuda.stream(stream):
            work()
            done = torch.cuda.Event(blocking=True)  # waiting leaves the processor to the other threads
            done.record(stream)
        return done.synchronize


class ConstantsOn(TorchDispatchMode):
    """Has `torch.arange` make its numbers on a device: the network's weights of interpolation in time start with it,
    and copies from pageable main memory cannot be captured."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function.overloadpacket is torch.ops.aten.arange:
            kwargs["device"] = self._device
        return function(*args, **kwargs)
