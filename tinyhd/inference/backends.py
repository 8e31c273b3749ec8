"""What computes the maps: PyTorch, our kernels, OpenVINO or ONNX Runtime, behind one kind of function.

OpenVINO and ONNX Runtime take a converted network (`tinyhd.convert`), which is kept in the cache folder, since
converting takes seconds.
"""

import contextlib
import hashlib
import json
import logging
import shutil
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

import tinyhd
from tinyhd.errors import OptionError
from tinyhd.network.config import TinyHDConfig
from tinyhd.network.convert import CLIP_SHAPE, import_runtime, inference_copy, is_installed, to_onnx, to_openvino
from tinyhd.network.model import TinyHD
from tinyhd.network.registry import cache_folder

log = logging.getLogger("tinyhd.backends")

BACKENDS = ("auto", "torch", "openvino", "onnxruntime")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Backend(Protocol):
    """Whatever computes the maps of clips: one of the classes below, or a caller's own."""

    maps_per_clip: int
    """16, or 1 that belongs to the clip's last frame."""

    def __call__(self, clips: Tensor) -> Tensor:
        """Normalised frames, float32 (N, 3, 16, 192, 256) in main memory -> maps, float (N, maps_per_clip, H, W), on
        any device; H and W may be smaller than the frames."""


class _Backend(ABC):
    """What the classes below have in common: they keep no reference to the model that they were made from."""

    name: str

    def __init__(self, model: TinyHD, precision: str) -> None:
        if precision not in PRECISIONS:
            raise OptionError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}.")
        self.config: TinyHDConfig = model.config
        self.maps_per_clip = model.config.maps_per_clip
        self.device = next(model.parameters()).device
        self.precision = precision

    @abstractmethod
    def __call__(self, clips: Tensor) -> Tensor: ...

    def _needs_cpu(self) -> None:
        if self.device.type != "cpu":
            raise OptionError(f"{self.name} runs on the CPU here: use --device cpu, or --backend torch.")

    def _needs_float32(self) -> None:
        if self.precision != "float32":
            raise OptionError(f"--backend {self.name} computes in float32 only.")

    def __str__(self) -> str:
        return f"{self.name} on {self.device}, {self.precision}"


@contextlib.contextmanager
def memory_errors(device: torch.device, clips: int) -> Iterator[None]:
    """Turns errors for lack of memory, of a batch of so many clips, into `OptionError`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error):
            raise OptionError(
                f"device {device} has too little memory for batches of {clips} clips; "
                "use a smaller batch size or another device."
            ) from error
        raise


class TorchBackend(_Backend):
    """PyTorch, on the device where the model lives; with the weights that the model has now.

    Raises:
        OptionError: an unknown precision, or one that the device cannot do; when called, memory has run out.
    """

    name = "torch"

    def __init__(self, model: TinyHD, precision: str = "float32") -> None:
        super().__init__(model, precision)
        if precision == "float16" and self.device.type == "cpu":
            raise OptionError("precision float16 is for GPUs; on a CPU use float32 or bfloat16.")
        self.dtype = PRECISIONS[precision]
        self.model = inference_copy(model, plain=self.device.type == "cpu")

    @torch.inference_mode()
    def __call__(self, clips: Tensor) -> Tensor:
        """See `Backend`; the maps are float32 on the model's device."""
        if self.device.type == "cuda":
            clips = clips.pin_memory()  # from there the copy runs beside the work on the GPU
        with (
            memory_errors(self.device, len(clips)),
            torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32),
        ):
            maps: Tensor = self.model(clips.to(self.device, non_blocking=True)).fused
            return maps.float()


class OpenVinoBackend(_Backend):
    """OpenVINO on the CPU, with as many threads as PyTorch would take; clip by clip, as more at once are no faster.

    Raises:
        OptionError: OpenVINO is not installed, or the CPU does not have this precision.
    """

    name = "openvino"

    def __init__(self, model: TinyHD, precision: str = "float32") -> None:
        super().__init__(model, precision)
        self._needs_cpu()
        openvino = import_runtime("openvino")
        core = openvino.Core()
        if precision != "float32" and not _openvino_can(core, precision):
            raise OptionError(f"this CPU does not compute in {precision}: use float32.")

        def write(folder: Path) -> None:
            openvino.save_model(to_openvino(model), folder / "model.xml", compress_to_fp16=False)

        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        }
        with _converted(model, f"openvino-{openvino.get_version()}", write) as folder:
            network = core.read_model(folder / "model.xml")
            network.reshape([1, *CLIP_SHAPE])
            self._request = core.compile_model(network, "CPU", settings).create_infer_request()
        self._lock = threading.Lock()

    def __call__(self, clips: Tensor) -> Tensor:
        """See `Backend`."""
        return torch.cat([self._one(clip[None]) for clip in clips])

    def _one(self, clip: Tensor) -> Tensor:
        with self._lock:  # a request does one thing at a time
            (maps,) = self._request.infer({0: clip.contiguous().numpy()}, share_inputs=True).values()
        return torch.from_numpy(maps)


def _openvino_can(core: Any, precision: str) -> bool:
    wanted = {"float32": "FP32", "bfloat16": "BF16"}.get(precision)
    return wanted in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OnnxMaps(_Backend):
    """ONNX Runtime on the CPU, with as many threads as PyTorch would take.

    Raises:
        OptionError: what it needs is not installed, or a precision other than float32.
    """

    name = "onnxruntime"

    def __init__(self, model: TinyHD, precision: str = "float32") -> None:
        super().__init__(model, precision)
        self._needs_cpu()
        self._needs_float32()
        runtime = import_runtime("onnxruntime")
        onnx = import_runtime("onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        with _converted(model, f"onnx-{onnx.__version__}", lambda folder: to_onnx(model, folder / "m.onnx")) as folder:
            content = (folder / "m.onnx").read_bytes()
        self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def __call__(self, clips: Tensor) -> Tensor:
        """See `Backend`."""
        (maps,) = self._session.run(None, {"clip": clips.contiguous().numpy()})
        return torch.from_numpy(maps)


def choose_backend(device: torch.device, precision: str = "float32") -> str:
    """What `auto` means: on CPUs the project's kernels for float32, where Numba works, otherwise OpenVINO where it is
    installed and the CPU has the precision; PyTorch for all else."""
    if device.type != "cpu":
        return "torch"
    if is_installed("openvino") and _openvino_can(import_runtime("openvino").Core(), precision):
        return "openvino"
    return "torch"


_CLASSES: dict[str, Callable[[TinyHD, str], _Backend]] = {
    "torch": TorchBackend,
    "openvino": OpenVinoBackend,
    "onnxruntime": OnnxMaps,
}

# The last one made for a model, with what it was made of: compiling takes about a second.
_made: WeakKeyDictionary[TinyHD, tuple[tuple[object, ...], _Backend]] = WeakKeyDictionary()


def open_backend(model: TinyHD, backend: str = "auto", precision: str = "float32") -> Backend:
    """The function that computes `model`'s maps, on the device where the model lives.

    Args:
        model: with the weights that it has now.
        backend: torch, numba, openvino, onnxruntime, or auto for `choose_backend`'s.
        precision: float32, bfloat16 or float16, where the device has it.

    Raises:
        OptionError: a value that is not allowed, or what is not installed or not possible here.
    """
    if backend not in BACKENDS:
        raise OptionError(f"backend is {backend!r}; it must be one of {', '.join(BACKENDS)}.")
    if precision not in PRECISIONS:
        raise OptionError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}.")
    device = next(model.parameters()).device
    name = choose_backend(device, precision) if backend == "auto" else backend
    key = (name, device, precision, torch.get_num_threads(), fingerprint(model))
    known, made = _made.get(model, (None, None))
    if made is None or known != key:
        made = _CLASSES[name](model, precision)
        _made[model] = key, made
    log.info("Computing with %s.", made)
    return made


# ---- converted networks, kept

_KEPT = 8
"""So many of them, the latest; about 16 MB each."""


def fingerprint(model: TinyHD) -> str:
    """Hexadecimal digest of what a model computes: its config and weights."""
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True).encode())
    for key, value in model.state_dict().items():
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _converted(model: TinyHD, kind: str, write: Callable[[Path], None]) -> Iterator[Path]:
    """A folder with what `write` puts there, from the cache or, where there is no writing, for the time of the body."""
    versions = f"{kind} {torch.__version__} {tinyhd.__version__}"
    name = hashlib.sha256(f"{versions} {fingerprint(model)}".encode()).hexdigest()[:32]
    folder = cache_folder() / "converted" / name
    if folder.is_dir():
        yield folder
        return
    log.info("Preparing the model for %s, which is done once and takes some seconds.", kind.partition("-")[0])
    with contextlib.ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            place = stack.enter_context(tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True))
        except OSError:  # a read-only home
            place = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        new = Path(place) / name
        new.mkdir()
        write(new)
        yield new
        if new.parent.parent == folder.parent:
            with contextlib.suppress(OSError):  # another process was faster
                new.rename(folder)
                kept = [path for path in folder.parent.iterdir() if len(path.name) == len(name)]
                kept.sort(key=lambda path: path.stat().st_mtime)
                for old in kept[:-_KEPT]:
                    shutil.rmtree(old, ignore_errors=True)
