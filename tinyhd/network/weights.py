"""Weights of the network: named models, files and where they come from.

A model is named by a registry entry (`list_models()`) or by the path of a file: the project's own format, safetensors
with the config as one JSON string in its metadata, or a checkpoint of the paper's authors (`.pth`).
Nothing here falls back to random weights: what cannot be found, fetched, verified or loaded raises `WeightsError`.
"""

import io
import json
import os
import pickle
import re

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from tinyhd.errors import OptionError, TinyHDError, WeightsError
from tinyhd.files import write_file
from tinyhd.network.config import TinyHDConfig
from tinyhd.network.convert import from_converted
from tinyhd.network.model import TinyHD
from tinyhd.network.published import from_published, published_config
from tinyhd.network.registry import MODELS, find_model, git_blob_id
from tinyhd.options import DEVICE_PATTERN

CONFIG_KEY = "tinyhd_config"
"""Name of the config among the metadata of the project's own files."""


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
    file = find_model(name_or_path)
    return on_device(load_model_bytes(file.read(), file.name), target)


def on_device(model: TinyHD, device: torch.device) -> TinyHD:
    """The model, moved there, in eval mode.

    Raises:
        OptionError: that is not possible.
    """
    try:
        return model.to(device).eval()
    except RuntimeError as error:  # out of memory, or a driver that does not work
        raise OptionError(f"the model cannot be put on device {device}: {first_line(error)}") from error


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
    write_file(path, safetensors.torch.save(tensors, {CONFIG_KEY: json.dumps(model.config.to_dict())}))


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The device that `auto`, `cpu`, `cuda`, `cuda:N` or `mps` names; auto is the first CUDA device or else the CPU.

    Raises:
        OptionError: the name is none of these or this machine has no such device.
    """
    name = str(device)
    if not re.fullmatch(DEVICE_PATTERN, name):
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


# ---- from bytes to a model


def load_model_bytes(data: bytes, name: str) -> TinyHD:
    """The model in a file's content, on the CPU; `name` is for messages.

    Raises:
        WeightsError: it is damaged, or not a model's.
    """
    is_pickle = data.startswith((b"PK\x03\x04", b"\x80\x02")) and data[8:9] != b"{"  # torch.save's two formats
    is_converted = name in MODELS and data.startswith(b"<?xml")
    parse = _parse_published if is_pickle else _parse_converted if is_converted else _parse_own
    config, state = parse(data, name)
    for key, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise WeightsError(f"{name!r} is damaged: tensor {key} holds values that are not finite.")
    model = TinyHD(config)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"{name!r} is damaged: its tensors are not those of its config ({first_line(error, skip=1)})."
        ) from error
    return model


def _parse_published(data: bytes, name: str) -> tuple[TinyHDConfig, dict[str, Tensor]]:
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError, LookupError) as error:
        raise WeightsError(
            f"{name!r} is not a checkpoint that can be loaded safely: it is damaged or holds more than tensors."
        ) from error
    try:
        state = content["student_model"]
        config = published_config(state, git_blob_id(data))
        return config, from_published(state)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, ZeroDivisionError, OptionError) as error:
        raise WeightsError(f"{name!r} is not a TinyHD checkpoint: its tensors are not the published ones.") from error


def _parse_converted(data: bytes, name: str) -> tuple[TinyHDConfig, dict[str, Tensor]]:
    config = MODELS[name].config  # only what comes with the package is kept so
    assert config is not None
    return config, from_converted(data)


def _parse_own(data: bytes, name: str) -> tuple[TinyHDConfig, dict[str, Tensor]]:
    try:
        state = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError) as error:
        raise WeightsError(
            f"{name!r} is not a model file: neither safetensors nor a PyTorch checkpoint, or a damaged one."
        ) from error
    try:
        config = TinyHDConfig(**json.loads(header["__metadata__"][CONFIG_KEY]))
    except (KeyError, ValueError, TypeError, TinyHDError) as error:
        raise WeightsError(
            f"{name!r} is a safetensors file without a TinyHD config that this version knows; "
            "it was not written by tinyhd or by a newer version."
        ) from error
    return config, state


def first_line(error: Exception, skip: int = 0) -> str:
    """Of an error's message; `skip`: a later one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[min(skip, len(lines) - 1)][:300] if lines else type(error).__name__
