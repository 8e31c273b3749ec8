"""What computes the maps: OpenVINO on CPUs, PyTorch elsewhere (`torch_backend`), behind one kind of function.

OpenVINO runs a converted network. The embedded model comes converted; other weights are converted through PyTorch once
and kept in the cache folder, as is what OpenVINO compiles. Nothing else here needs PyTorch.
"""

import contextlib
import ctypes
import hashlib
import importlib
import importlib.util
import json
import logging
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

import tinyhd
from tinyhd.errors import OptionError, WeightsError
from tinyhd.network.config import CLIP_SHAPE, TinyHDConfig
from tinyhd.network.registry import MODELS, ModelFile, cache_folder, find_model
from tinyhd.options import InferenceOptions
from tinyhd.saliency.resize import enlarge

log = logging.getLogger("tinyhd.backends")

BFLOAT16_AGREEMENT = 0.9995
"""Least correlation with float32 maps for which bfloat16 is taken without being asked for."""

_KEPT = 8
"""Converted and compiled networks, the latest; about 16 MB each."""


class Backend(Protocol):
    """Whatever computes the maps of clips: one of the classes of this package, or a caller's own.

    Where it has a true attribute `equalize`, its maps depend on their position in a clip, and cross-fading takes that
    away; see `blend.equalize`.
    """

    maps_per_clip: int
    """16, or 1 that belongs to the clip's last frame."""
    map_shape: tuple[int, int]
    """(h, w) of the maps."""
    display_scale: float
    """Map value that is drawn as full attention where maps are not normalized."""
    sampling_rate: float
    """Frames a second that the model was trained on; 0: every frame."""
    model_name: str
    """As in the registry, or a file's name."""
    model_hash: str
    """`sha256:...` of the model's file, or of the weights of a network in memory."""

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        """Normalized frames, float32 (N, 3, 16, 192, 256) -> maps, float32 (N, maps_per_clip, h, w)."""


def open_backend(options: InferenceOptions = InferenceOptions()) -> Backend:  # noqa: B008 (frozen)
    """The function that computes the maps of `options.model`, as `device`, `backend` and `precision` say.

    The latest one is kept: asked for again, it is there at once.

    Raises:
        OptionError: what is asked for is not installed or not possible here.
        WeightsError: the model cannot be found, fetched, verified or loaded.
    """
    global _latest
    file = find_model(options.model)
    key = (file.hash, options.device, options.backend, options.precision)
    if _latest is None or _latest[0] != key:
        backend = _open(file, options)
        log.info("Computing with %s.", backend)
        _latest = key, backend
    return _latest[1]


_latest: tuple[tuple[str, ...], Backend] | None = None


def _open(file: ModelFile, options: InferenceOptions) -> Backend:
    if options.device != "cpu" and not (options.device == "auto" and options.backend == "openvino"):
        if options.backend == "openvino":
            raise OptionError("OpenVINO computes on CPUs here: use --device cpu, or --backend torch.")
        if options.device != "auto" or (_may_have_gpu() and _has_torch()):
            torch_backend = _torch_backend(f"device {options.device}")
            if torch_backend.resolve_device(options.device).type != "cpu":
                return torch_backend.open_torch_backend(file, options)
    if options.backend != "torch":
        if _has_openvino():
            return OpenVinoBackend(file, options.precision)
        if options.backend == "openvino":
            raise OptionError("OpenVINO is not installed: pip install openvino, or use --backend torch.")
        log.info("OpenVINO is not installed here, so PyTorch computes, which is slower.")
    return _torch_backend("--backend torch").open_torch_backend(file, options)


def _torch_backend(what: str) -> ModuleType:
    """The module that needs PyTorch. Raises `OptionError` where that is not installed."""
    try:
        return importlib.import_module("tinyhd.inference.torch_backend")
    except ModuleNotFoundError as error:
        raise OptionError(f"{what} needs PyTorch, which is not installed: pip install 'tinyhd[torch]'.") from error


def _has_torch() -> bool:
    """Whether PyTorch is there, for a GPU that is."""
    found = importlib.util.find_spec("torch") is not None
    if not found:
        log.info("There is a GPU here, but not PyTorch, which it needs: pip install 'tinyhd[torch]'.")
    return found


def _has_openvino() -> bool:
    return importlib.util.find_spec("openvino") is not None


def _may_have_gpu() -> bool:
    """Whether there is a driver that PyTorch's CUDA (or ROCm) could use: known at once, without PyTorch."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return os.path.exists("/dev/kfd")
    return True


class NetworkBackend:
    """What a backend says of its network; see `Backend`."""

    def __init__(self, config: TinyHDConfig, name: str, hash: str) -> None:
        self.config = config
        self.maps_per_clip, self.map_shape = config.maps_per_clip, config.map_shape
        self.equalize = config.maps_per_clip > 1
        self.display_scale, self.sampling_rate = config.display_scale, config.sampling_rate
        self.model_name, self.model_hash = name, hash


class OpenVinoBackend(NetworkBackend):
    """OpenVINO on the CPU; clip by clip, as more at once are no faster.

    Args:
        file: the model.
        precision: float32, bfloat16, or auto for bfloat16 where the processor has it and the model's maps agree.

    Raises:
        OptionError: the processor does not have this precision.
        WeightsError: the model cannot be loaded.
    """

    batch_size = 1

    def __init__(self, file: ModelFile, precision: str = "auto") -> None:
        import openvino

        core = openvino.Core()
        with _converted(file) as (folder, facts):
            super().__init__(TinyHDConfig(**facts["config"]), file.name, file.hash)
            if precision == "auto":
                precision = "bfloat16" if facts["bfloat16"] and _can(core, "bfloat16") else "float32"
            if not _can(core, precision):
                raise OptionError(f"this processor does not compute in {precision}: use float32.")
            compiled = _compile(core, folder / f"{facts['name']}.xml", precision)
        self._request = compiled.create_infer_request()
        self._lock = threading.Lock()
        self.precision = precision

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        """See `Backend`."""
        return np.concatenate([self._one(clip[None]) for clip in clips])

    def _one(self, clip: np.ndarray) -> np.ndarray:
        with self._lock:  # a request does one thing at a time
            (maps,) = self._request.infer({0: np.ascontiguousarray(clip)}, share_inputs=True).values()
        result: np.ndarray = maps
        return result

    def __str__(self) -> str:
        return f"OpenVINO on the CPU, {self.precision}"


def _can(core: Any, precision: str) -> bool:
    wanted = {"float32": "FP32", "bfloat16": "BF16"}.get(precision)
    return wanted in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _compile(core: Any, path: Path, precision: str) -> Any:
    """The network ready to run; what is compiled is kept in the cache folder where that can be written."""
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
    }
    threads = _threads()
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    folder = cache_folder() / "compiled"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if os.access(folder, os.W_OK):
        try:
            compiled = core.compile_model(path, "CPU", {**settings, "CACHE_DIR": str(folder)})
            _keep_latest(folder)
            return compiled
        except RuntimeError as error:
            log.debug("The cache folder %s is not used: %s", folder, error)
    try:
        return core.compile_model(path, "CPU", settings)
    except RuntimeError as error:
        raise WeightsError(f"OpenVINO cannot compile the model: {str(error).strip().splitlines()[-1]}") from error


def _threads() -> int | None:
    """Threads to compute with, where the user or the system has limited them; None: as many as there are cores."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    if named.isdigit() and int(named):
        return int(named)
    if hasattr(os, "sched_getaffinity") and (allowed := len(os.sched_getaffinity(0))) < (os.cpu_count() or 1):
        return allowed
    return None


# ---- converted networks


@contextlib.contextmanager
def _converted(file: ModelFile) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder of a converted network, and its `name`, `config` and whether its maps agree in `bfloat16`: from the
    package, from the cache, or converted now; where there is no writing, for the time of the body."""
    info = MODELS.get(file.name)
    if info is not None and info.url is None and info.config is not None:
        with resources.as_file(resources.files("tinyhd") / "models") as models:
            if converted_hash(models / info.file) == info.sha256:
                yield models, {"name": info.name, "config": info.config.to_dict(), "bfloat16": info.bfloat16_agrees}
                return
            raise WeightsError(f"the files of model {info.name!r} are damaged: install tinyhd again.")
    import openvino

    versions = f"{openvino.get_version()} {tinyhd.__version__}"
    name = hashlib.sha256(f"{versions} {file.hash}".encode()).hexdigest()[:32]
    folder = cache_folder() / "converted" / name
    facts = _kept_facts(folder)
    if facts is not None:
        yield folder, facts
        return
    log.info("Preparing the model for OpenVINO, which is done once and takes some seconds.")
    with contextlib.ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            place = stack.enter_context(tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True))
        except OSError:  # a read-only home
            place = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        new = Path(place) / name
        new.mkdir()
        facts = convert(file, new / "model.xml")
        (new / "model.json").write_text(json.dumps(facts))
        if new.parent.parent == folder.parent:
            shutil.rmtree(folder, ignore_errors=True)  # damaged, if it is there
            with contextlib.suppress(OSError):  # another process was faster
                new = new.rename(folder)
                _keep_latest(folder.parent)
        yield new, facts


def _kept_facts(folder: Path) -> dict[str, Any] | None:
    """What was kept of a converted network; None where it is not there, or damaged."""
    try:
        facts: dict[str, Any] = json.loads((folder / "model.json").read_text())
        if converted_hash(folder / "model.xml") != facts["sha256"]:
            return None
        os.utime(folder)  # it counts as new
        return facts
    except (OSError, ValueError, KeyError):
        return None


def convert(file: ModelFile, path: Path, *, half: bool = False) -> dict[str, Any]:
    """Write a model as OpenVINO's pair of files, `path` (.xml) and .bin, for one clip at a time; `half`: with weights
    in half precision. Returns what is to be known of it, ready for JSON.

    Raises:
        OptionError: PyTorch, which reads the weights, is not installed.
        WeightsError: the weights cannot be loaded.
    """
    import openvino

    try:
        from tinyhd.network.convert import mark_precise, to_openvino
        from tinyhd.network.weights import load_model_bytes
    except ModuleNotFoundError as error:
        raise OptionError(
            "models other than the one that comes with tinyhd need PyTorch, to be converted once: "
            "pip install 'tinyhd[torch]'."
        ) from error

    model = load_model_bytes(file.read(), file.name)
    network = to_openvino(model)
    network.reshape([1, *CLIP_SHAPE])
    openvino.save_model(network, path, compress_to_fp16=half)
    mark_precise(path)
    return {
        "name": path.stem,
        "config": model.config.to_dict(),
        "bfloat16": bfloat16_agreement(path) >= BFLOAT16_AGREEMENT,
        "sha256": converted_hash(path),
    }


def converted_hash(path: Path) -> str:
    """Hexadecimal sha256 over a converted network's .xml and .bin; "" where one is missing."""
    try:
        return hashlib.sha256(path.read_bytes() + path.with_suffix(".bin").read_bytes()).hexdigest()
    except OSError:
        return ""


def bfloat16_agreement(path: Path) -> float:
    """Least correlation, over the maps of a fixed clip, of a converted network's bfloat16 maps with its float32 ones;
    0 where the processor does not compute in bfloat16."""
    import openvino

    core = openvino.Core()
    if not _can(core, "bfloat16"):
        return 0.0
    results = []
    for precision in ("f32", "bf16"):
        compiled = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": precision})
        results.append(compiled(fixed_clip())[0][0])
    with np.errstate(invalid="ignore"):  # constant maps
        return min(float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in zip(*results, strict=True))


def fixed_clip() -> np.ndarray:
    """A clip to compare backends on, float32 (1, 3, 16, 192, 256): smooth colored blobs that change over time."""
    coarse = np.random.default_rng(0).normal(size=(2, 3, 6, 8))
    share = np.linspace(0, 1, CLIP_SHAPE[1])[:, None, None, None]
    frames = (1 - share) * coarse[0] + share * coarse[1]  # (16, 3, 6, 8)
    smooth = enlarge(frames.reshape(-1, 6, 8).astype(np.float32) + 5) - 5  # maps are not negative
    clip: np.ndarray = smooth.reshape(CLIP_SHAPE[1], CLIP_SHAPE[0], *CLIP_SHAPE[2:]).swapaxes(0, 1)[None]
    return np.ascontiguousarray(clip)


def _keep_latest(folder: Path) -> None:
    """Remove all but the latest files or folders."""
    with contextlib.suppress(OSError):
        found = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for old in found[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink(missing_ok=True)
