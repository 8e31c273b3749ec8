"""Named models: where their files come from, and what they are made of. No PyTorch."""

import hashlib
import http.client
import os
import secrets
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from tqdm import tqdm

from tinyhd.errors import WeightsError
from tinyhd.network.config import TinyHDConfig

PUBLISHED_URL = "https://raw.githubusercontent.com/feiyanhu/tinyHD/2657310/weights"
"""Where the authors' files are fetched from; the environment variable TINYHD_WEIGHTS_URL names another place."""


TIMEOUT_SECONDS = 30.0
"""Longest wait for the server, for the connection and for each piece of the file."""


MAX_FETCH_BYTES = 128 * 2**20
"""More than any published file has; a fetch ends there."""


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
