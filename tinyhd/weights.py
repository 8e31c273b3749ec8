"""Weights of the network: named models, files and where they come from.

A model is named by a registry entry (`list_models()`) or by the path of a file: the project's own format, safetensors
with the config as one JSON string in its metadata, or a checkpoint of the paper's authors (`.pth`).
Nothing here falls back to random weights: what cannot be found, fetched, verified or loaded raises `WeightsError`.
"""

import hashlib
import http.client
import io
import json
import os
import pickle
import re
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from tqdm import tqdm

from tinyhd.errors import OptionError, OutputError, TinyHDError, WeightsError
from tinyhd.model import DECODERS, TinyHD, TinyHDConfig

PUBLISHED_URL = "https://raw.githubusercontent.com/feiyanhu/tinyHD/2657310/weights"
"""Where the authors' files are fetched from; the environment variable TINYHD_WEIGHTS_URL names another place."""

TIMEOUT_SECONDS = 30.0
"""Longest wait for the server, for the connection and for each piece of the file."""

MAX_FETCH_BYTES = 128 * 2**20
"""More than any published file has; a fetch ends there."""

CONFIG_KEY = "tinyhd_config"
"""Name of the config among the metadata of the project's own files."""


@dataclass(frozen=True)
class ModelInfo:
    """A named model of the registry."""

    name: str
    file: str
    """File name: in the package's folder `models` where `url` is None, else below `url` and in the cache folder."""
    provenance: str
    """Who trained it, on what."""
    licence: str
    config: TinyHDConfig | None = None
    """What the network is made of; None where only the file tells."""
    sha256: str | None = None
    git_blob_id: str | None = None
    """The file's id in a git repository (sha1 over a header and the file); checked where `sha256` is None."""
    url: str | None = None
    """Folder that the file is fetched from; None for a file that comes with the package."""

    def verify(self, data: bytes) -> bool:
        """Whether `data` is this model's file, to the bit."""
        if self.sha256 is not None:
            return hashlib.sha256(data).hexdigest() == self.sha256
        return git_blob_id(data) == self.git_blob_id


def _published(variant: str, blob: str, dataset: str, config: TinyHDConfig | None) -> ModelInfo:
    return ModelInfo(
        name=f"published/{variant}",
        file=f"{variant}.pth",
        provenance=f"trained by the authors of TinyHD (WACV 2023) for {dataset}",
        licence="not stated by the authors",
        config=config,
        git_blob_id=blob,
        url=PUBLISHED_URL,
    )


_M_RC1_ORDER = ("d2", "d3", "d1")  # this one file was trained with it, and no tensor shows it

MODELS: dict[str, ModelInfo] = {
    info.name: info
    for info in (
        ModelInfo(
            name="tinyhd-m",
            file="tinyhd-m.safetensors",
            provenance="trained by this project, distilled from two published models; see MODEL_CARD.md",
            licence="Apache-2.0",
            config=TinyHDConfig(True, 1, output_stride=4, display_scale=0.012),
            sha256="c70accfda3e08c3f5f476365fcc2b95f57b8cf46a41dd8f7bfaf59c0d63281df",
        ),
        _published(
            "d1d2d3_M_lt",
            "6e77140078bdff6fb1828174a4051c2c35d92e97",
            "DHF1K",
            TinyHDConfig(True, 1, fusion_order=_M_RC1_ORDER),
        ),
        _published("d123m_rc2_rc1T", "272f30ebc7e7e667105b5147aa1ebb57827451f6", "DHF1K", TinyHDConfig(True, 2)),
        _published("d123m_rc4_rc1T", "e87c128c9f2116017e940b9bff3a7633f7add22b", "DHF1K", TinyHDConfig(True, 4)),
        _published("d1d2d3_S_lt", "d1ed80fa95b9baaeac3ed2bc4c3b15ac525221ba", "DHF1K", TinyHDConfig(False, 1)),
        _published("d123s_rc2_rc1T", "3b8e363d241e32f971c4c5bdd9117d578dd4e4bc", "DHF1K", TinyHDConfig(False, 2)),
        _published("d123s_rc4_rc1T", "88653d3e46fbdf1ad3e4224299bb3c62bd48db9b", "DHF1K", TinyHDConfig(False, 4)),
        _published("ucf_d123m", "45a2e28bcfb546aa4825485ca37bb5836b01729a", "UCF-Sports", None),
        _published("ucf_d123s", "2f87a75612d95e100cc24f842629371261f69b03", "UCF-Sports", None),
    )
}
"""All named models."""

DEFAULT_MODEL: str | None = "tinyhd-m"
"""Name of the model that comes with the package and is used where none is named."""


def list_models() -> list[str]:
    """Names that `load_model` takes; `MODELS` says more about each."""
    return list(MODELS)


def load_model(name_or_path: str | os.PathLike[str] | None = None, device: str | torch.device = "cpu") -> TinyHD:
    """The network with trained weights, in eval mode, on `device`.

    Args:
        name_or_path: a name of `list_models()`, the path of a `.safetensors` file written by `save_model` or of a
            published `.pth` file; None for the model that comes with the package. `published/...` names are fetched
            on first use into `cache_folder()`.
        device: auto, cpu, cuda, cuda:N or mps; see `resolve_device`.

    Raises:
        WeightsError: the weights cannot be found, fetched, verified or loaded.
        OptionError: there is no such device.
    """
    target = resolve_device(device)
    name = DEFAULT_MODEL if name_or_path is None else os.fspath(name_or_path)
    if name is None:
        raise WeightsError(
            "no model comes with this version of tinyhd; name one: the path of a .safetensors or .pth file, or one of "
            + ", ".join(MODELS)
            + "."
        )
    if name in MODELS:
        data = _model_bytes(MODELS[name])
    elif name.startswith("published/"):
        raise WeightsError(f"there is no published model {name!r}; the names are {', '.join(MODELS)}.")
    else:
        data = _read(Path(name))
    model = _load_bytes(data, name)
    try:
        return model.to(target).eval()
    except RuntimeError as error:  # out of memory, or a driver that does not work
        raise OptionError(f"the model cannot be put on device {target}: {_first_line(error)}") from error


def save_model(model: TinyHD, path: str | os.PathLike[str]) -> None:
    """Write weights and config to `path` as safetensors, the project's own format (replaces a file there).

    Raises:
        OutputError: the file cannot be written.
    """
    tensors = {
        key: value.detach().cpu().contiguous()
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")  # counts training steps, of no use to anybody
    }
    data = safetensors.torch.save(tensors, {CONFIG_KEY: json.dumps(model.config.to_dict())})
    try:
        _write_atomically(Path(path), data)
    except OSError as error:
        raise OutputError(f"the weights cannot be written to {os.fspath(path)!r}: {error.strerror}.") from error


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The device that `auto`, `cpu`, `cuda`, `cuda:N` or `mps` names; auto is the first CUDA device or else the CPU.

    Raises:
        OptionError: the name is none of these or this machine has no such device.
    """
    name = str(device)
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", name):
        raise OptionError(f"there is no device {name!r}; it must be auto, cpu, cuda, cuda:N or mps.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = int(name.partition(":")[2] or 0)
        if count == 0:
            raise OptionError(f"device {name} was asked for, but PyTorch finds no CUDA device here; use cpu or auto.")
        if index >= count:
            raise OptionError(f"device {name} was asked for, but the CUDA devices here are 0 to {count - 1}.")
    if name == "mps" and not torch.backends.mps.is_available():
        raise OptionError("device mps was asked for, but PyTorch finds none here; use cpu or auto.")
    return torch.device(name)


def cache_folder() -> Path:
    """Where fetched files are kept: TINYHD_CACHE where that is set, else `tinyhd` in the platform's cache folder."""
    named = os.environ.get("TINYHD_CACHE")
    if named:
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "tinyhd"
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    return Path(os.environ.get(variable) or Path.home() / ".cache") / "tinyhd"


def git_blob_id(data: bytes) -> str:
    """The id (hexadecimal sha1) that git gives a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


# ---- published checkpoints


def from_published_key(key: str) -> str:
    """The name in `TinyHD.state_dict()` of a tensor that the published files name `key`.

    Raises:
        KeyError: no published file has such a tensor.
    """
    if match := re.fullmatch(r"decoder\.decoder\.0\.(weight|bias)", key):
        return f"fusion.{match[1]}"
    if match := re.fullmatch(r"encoder\.encoder\.(0|18)\.([01])\.(\w+)", key):
        return f"encoder.layers.{match[1]}.{'conv' if match[2] == '0' else 'norm'}.{match[3]}"
    if match := re.fullmatch(r"encoder\.encoder\.(\d+)\.conv\.([\d.]+)\.(\w+)", key):
        # layer 1 has no expansion, its convolutions are numbered from the depthwise one on
        parts = _PARTS_WITHOUT_EXPAND if match[1] == "1" else _PARTS
        return f"encoder.layers.{match[1]}.{parts[match[2]]}.{match[3]}"
    if match := re.fullmatch(r"aggregator\.aggregate_adapter\.(\d+)\.conv\.([\d.]+)\.(\w+)", key):
        block = int(match[1])
        return f"decoders.{_decoder_of(block)}.blocks.{block}.{_PARTS[match[2]]}.{match[3]}"
    raise KeyError(key)


_PARTS = {
    "0.0": "expand.conv",
    "0.1": "expand.norm",
    "1.0": "depthwise.conv",
    "1.1": "depthwise.norm",
    "2": "project.conv",
    "3": "project.norm",
}
_PARTS_WITHOUT_EXPAND = {
    "0.0": "depthwise.conv",
    "0.1": "depthwise.norm",
    "1": "project.conv",
    "2": "project.norm",
}


def _decoder_of(block: int) -> str:
    """The decoder of a published block number."""
    return "d1" if block < 16 else "d2" if block < 24 else "d3"


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict in the names and shapes of `TinyHD.state_dict()`.

    Raises:
        KeyError: a name that no published file has.
    """
    renamed = {from_published_key(key): value for key, value in state.items()}
    # M has stored the fusion as a 1x1x1 convolution, (1, K, 1, 1, 1)
    renamed["fusion.weight"] = renamed["fusion.weight"].flatten(1)[:, :, None, None]
    return renamed


def published_config(state: Mapping[str, Tensor], blob: str | None = None) -> TinyHDConfig:
    """The config of a published state dict, from its tensors and, for the fusion order, the file's git blob id.

    Raises:
        KeyError, OptionError: it is not a state dict of TinyHD.
    """
    blocks = {int(key.split(".")[2]) for key in state if key.startswith("aggregator.")}
    found = {_decoder_of(block) for block in blocks}
    decoders = tuple(name for name in DECODERS if name in found)
    known = next((m.config for m in MODELS.values() if m.git_blob_id == blob and m.config is not None), None)
    return TinyHDConfig(
        multi_output=state["decoder.decoder.0.weight"].ndim == 5,
        channel_reduction=32 // state["encoder.encoder.0.0.weight"].shape[0],
        decoders=decoders,
        fusion_order=known.fusion_order if known else (),
    )


# ---- from bytes to a model


def _load_bytes(data: bytes, name: str) -> TinyHD:
    """The model in a file's content; `name` is for messages."""
    is_pickle = data.startswith((b"PK\x03\x04", b"\x80\x02")) and data[8:9] != b"{"  # torch.save's two formats
    config, state = (_parse_published if is_pickle else _parse_own)(data, name)
    for key, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise WeightsError(f"{name!r} is damaged: tensor {key} holds values that are not finite.")
    model = TinyHD(config)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"{name!r} is damaged: its tensors are not those of its config ({_first_line(error, skip=1)})."
        ) from error
    return model


def _parse_published(data: bytes, name: str) -> tuple[TinyHDConfig, dict[str, Tensor]]:
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError, LookupError) as error:
        raise WeightsError(
            f"{name!r} is no checkpoint that can be loaded safely: it is damaged or holds more than tensors."
        ) from error
    try:
        state = content["student_model"]
        config = published_config(state, git_blob_id(data))
        return config, from_published(state)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, ZeroDivisionError, OptionError) as error:
        raise WeightsError(f"{name!r} is no TinyHD checkpoint: its tensors are not the published ones.") from error


def _parse_own(data: bytes, name: str) -> tuple[TinyHDConfig, dict[str, Tensor]]:
    try:
        state = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError) as error:
        raise WeightsError(
            f"{name!r} is no model file: neither safetensors nor a PyTorch checkpoint, or a damaged one."
        ) from error
    try:
        config = TinyHDConfig(**json.loads(header["__metadata__"][CONFIG_KEY]))
    except (KeyError, ValueError, TypeError, TinyHDError) as error:
        raise WeightsError(
            f"{name!r} is a safetensors file without a TinyHD config that this version knows; "
            "it was not written by tinyhd or by a newer version."
        ) from error
    return config, state


def _first_line(error: Exception, skip: int = 0) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[min(skip, len(lines) - 1)][:300] if lines else type(error).__name__


# ---- files


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise WeightsError(
            f"there is neither a model nor a file {os.fspath(path)!r}; the names are {', '.join(MODELS)}."
        ) from None
    except OSError as error:
        raise WeightsError(f"the model file {os.fspath(path)!r} cannot be read: {error.strerror}.") from error


def _model_bytes(info: ModelInfo) -> bytes:
    """The verified content of a registered model's file."""
    if info.url is not None:
        return _cached_or_fetched(info, os.environ.get("TINYHD_WEIGHTS_URL") or info.url)
    try:
        data = resources.files("tinyhd").joinpath("models", info.file).read_bytes()
    except OSError as error:
        raise WeightsError(f"the file of model {info.name!r} is missing: install tinyhd again.") from error
    if not info.verify(data):
        raise WeightsError(f"the file of model {info.name!r} is damaged: install tinyhd again.")
    return data


def _cached_or_fetched(info: ModelInfo, url: str) -> bytes:
    path = cache_folder() / info.file
    if path.is_file():
        data = _read(path)
        if info.verify(data):
            return data
    address = f"{url.rstrip('/')}/{info.file}"
    data = _fetch(address, info)
    if not info.verify(data):
        raise WeightsError(
            f"what {address} sends is not the file of {info.name} (wrong hash); nothing was kept. Try again later, "
            "or get the file elsewhere and name its path."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_atomically(path, data)
    except OSError as error:
        raise WeightsError(
            f"{info.name} cannot be kept in {os.fspath(path.parent)!r} ({error.strerror}); "
            "set TINYHD_CACHE to a folder that can be written."
        ) from error
    return data


def _fetch(address: str, info: ModelInfo) -> bytes:
    """The body that `address` sends.

    Raises:
        WeightsError: no connection, an error status, or fewer bytes than announced.
    """
    advice = "check the connection, or get the file elsewhere and name its path"
    data = bytearray()
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as response:
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdigit() else None
            # disable=None: no bar where the output is no terminal
            with tqdm(total=total, unit="B", unit_scale=True, desc=info.file, disable=None) as bar:
                while piece := response.read(1 << 16):
                    data += piece
                    bar.update(len(piece))
                    if len(data) > MAX_FETCH_BYTES:
                        raise WeightsError(f"{address} sends more than a model file has; {advice}.")
    except urllib.error.HTTPError as error:
        raise WeightsError(f"{info.name} cannot be fetched: {address} answers {error.code}; {advice}.") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise WeightsError(f"{info.name} cannot be fetched from {address} ({reason}); {advice}.") from error
    if total is not None and len(data) < total:
        raise WeightsError(f"{info.name} came incomplete, {len(data)} of {total} bytes; try again.")
    return bytes(data)


def _write_atomically(path: Path, data: bytes) -> None:
    """Write beside `path` and rename: no reader ever sees half a file."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
