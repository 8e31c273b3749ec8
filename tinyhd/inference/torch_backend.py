"""PyTorch as a backend: GPUs, networks in memory, and CPUs without OpenVINO."""

import hashlib
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch

from tinyhd.errors import OptionError
from tinyhd.inference.backends import Backend, NetworkBackend, open_backend
from tinyhd.network.convert import inference_copy
from tinyhd.network.model import TinyHD
from tinyhd.network.registry import ModelFile
from tinyhd.network.weights import first_line, load_model_bytes, on_device, resolve_device
from tinyhd.options import InferenceOptions

log = logging.getLogger("tinyhd.backends")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
GPU_BATCH_SIZE = 8

Result = Callable[[], np.ndarray]
"""Waits for maps, float32 (N, K, h, w)."""


class DeviceError(OptionError):
    """A GPU does not work, or is out of memory."""


class TorchBackend(NetworkBackend):
    """PyTorch's eager mode, on the device where the model lives; with the weights that the model has now.

    Where a GPU is out of memory for a batch, batches are halved from there on.

    Args:
        model: stays as it is.
        precision: float32, bfloat16 or float16 (GPUs only).
        name, hash: of the model's file; without, the hash is that of config and weights.

    Raises:
        OptionError: a precision that the device does not have.
        DeviceError: when called, the device does not work or is out of memory for a single clip.
    """

    def __init__(self, model: TinyHD, precision: str = "float32", name: str = "", hash: str | None = None) -> None:
        self.device = next(model.parameters()).device
        if precision not in DTYPES:
            raise OptionError(f"precision is {precision!r}; it must be one of {', '.join(DTYPES)}.")
        if precision == "float16" and self.device.type == "cpu":
            raise OptionError("precision float16 is for GPUs; on a CPU use float32 or bfloat16.")
        super().__init__(model.config, name, hash or fingerprint(model))
        self.precision = precision
        self.model = inference_copy(model, plain=self.device.type == "cpu")
        self.batch_size = 1 if self.device.type == "cpu" else GPU_BATCH_SIZE
        self.reduced_to: int | None = None
        """Clips at once, after memory has run out."""

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        """See `Backend`."""
        return self._begin(clips)()

    @property
    def start(self) -> Callable[[np.ndarray], Result] | None:
        """On GPUs a function that begins a batch, which is computed while the caller goes on, and returns a function
        that waits for its maps; None on CPUs."""
        return None if self.device.type == "cpu" else self._begin

    def _begin(self, clips: np.ndarray) -> Result:
        size = min(self.reduced_to or len(clips), len(clips))
        try:
            parts = [self._launch(clips[k : k + size]) for k in range(0, len(clips), size)]
            return lambda: self._finish(parts, clips)
        except torch.OutOfMemoryError as error:
            return self._halved(clips, size, error)
        except RuntimeError as error:
            raise self._translated(error) from error

    @torch.inference_mode()
    def _launch(self, clips: np.ndarray) -> torch.Tensor:
        batch = torch.from_numpy(clips)
        if self.device.type == "cuda":
            batch = batch.pin_memory()  # from there the copy runs beside the work on the GPU
        dtype = DTYPES[self.precision]
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            maps: torch.Tensor = self.model(batch.to(self.device, non_blocking=True)).fused
            return maps.float()

    def _finish(self, parts: list[torch.Tensor], clips: np.ndarray) -> np.ndarray:
        try:
            return np.concatenate([part.cpu().numpy() for part in parts])
        except torch.OutOfMemoryError as error:
            parts.clear()
            return self._halved(clips, len(clips), error)()
        except RuntimeError as error:
            raise self._translated(error) from error

    def _halved(self, clips: np.ndarray, size: int, error: Exception) -> Result:
        if size <= 1:
            raise DeviceError(f"device {self.device} is out of memory; use another device, such as cpu.") from error
        self.reduced_to = size // 2
        log.warning("Device %s is out of memory for %d windows at once; going on with %d.",
                    self.device, size, self.reduced_to)  # fmt: skip
        with suppress(Exception):
            torch.cuda.empty_cache()
        return self._begin(clips)

    def _translated(self, error: RuntimeError) -> Exception:
        """On GPUs one sentence; on a CPU errors are bugs, but for its memory."""
        if self.device.type != "cpu":
            return DeviceError(f"device {self.device} has failed ({first_line(error)}); use --device cpu.")
        if "allocate memory" in str(error):
            return OptionError("out of memory; use a smaller batch size.")
        return error

    def __str__(self) -> str:
        return f"PyTorch on {self.device}, {self.precision}"


class FallbackBackend(NetworkBackend):
    """A backend on a GPU that `auto` has found; once that fails, the CPU computes, from the failed batch on."""

    def __init__(self, first: TorchBackend, open_second: Callable[[], Backend]) -> None:
        super().__init__(first.config, first.model_name, first.model_hash)
        self._current: Backend = first
        self._open_second = open_second
        self.batch_size = first.batch_size

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        """See `Backend`."""
        return self.start(clips)()

    def start(self, clips: np.ndarray) -> Result:
        """Begin a batch, as the function that `TorchBackend.start` gives."""
        current = self._current
        if not isinstance(current, TorchBackend):
            return lambda: current(clips)
        try:
            result = current._begin(clips)
        except DeviceError as error:
            return self._fall_back(clips, error)

        def finish() -> np.ndarray:
            try:
                return result()
            except DeviceError as error:
                return self._fall_back(clips, error)()

        return finish

    def _fall_back(self, clips: np.ndarray, error: DeviceError) -> Result:
        if isinstance(self._current, TorchBackend):
            log.warning("%s Going on on the CPU.", str(error).replace("; use --device cpu", ""))
            self._current, self.batch_size = self._open_second(), 1
        current = self._current
        return lambda: current(clips)

    def __str__(self) -> str:
        return str(self._current)


def open_torch_backend(file: ModelFile, options: InferenceOptions) -> Backend:
    """The backend of a model's file on `options.device`; see `open_backend`."""
    device = resolve_device(options.device)
    is_found = options.device == "auto" and device.type != "cpu"
    precision = options.precision
    if precision == "auto":
        precision = "float16" if is_found else "float32"
    try:
        model = on_device(load_model_bytes(file.read(), file.name), device)
        backend = TorchBackend(model, precision, file.name, file.hash)
    except OptionError as error:
        if not is_found:
            raise
        log.warning("%s Going on on the CPU.", error)
        return open_backend(replace(options, device="cpu", precision="auto"))
    if not is_found:
        return backend
    return FallbackBackend(backend, lambda: open_backend(replace(options, device="cpu", precision="auto")))


def fingerprint(model: TinyHD) -> str:
    """`sha256:...` of what a model computes: its config and weights."""
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True).encode())
    for key, value in model.state_dict().items():
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"
