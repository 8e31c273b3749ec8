"""Named models: where their files come from, and what they are made of. No PyTorch."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import platformdirs
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
    """File name: below `url` and in the cache folder. Where `url` is None, in the package's folder `models`: the .xml
    of a converted network (see `network.convert`), with the weights in a .bin beside it."""
    provenance: str
    """Who trained it, on what."""
    license: str
    config: TinyHDConfig | None = None
    """What the network is made of; None where only the file tells."""
    sha256: str | None = None
    """Of the file, the .bin included."""
    git_blob_id: str | None = None
    """The file's id in a git repository (sha1 over a header and the file); checked where `sha256` is None."""
    url: str | None = None
    """Folder that the file is fetched from; None for a file that comes with the package."""
    bfloat16_agrees: bool = False
    """Whether its maps in bfloat16 agree with those in float32 (see `inference.backends`); of a converted one."""

    @property
    def sampling_rate(self) -> float:
        """Frames a second that it sees of a video; 0: every frame."""
        return self.config.sampling_rate if self.config else 0.0

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
        license="not stated by the authors",
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
            file="tinyhd-m.xml",
            provenance="trained by this project on people's fixations and from published models; see MODEL_CARD.md",
            license="Apache-2.0",
            config=TinyHDConfig(True, 1, output_stride=4, display_scale=0.004, sampling_rate=15.0),
            sha256="d7de840549f73e5aeaaf407b900590a35fb8bb4172ddff83f405d803e2ff4000",
            bfloat16_agrees=True,
        ),
        ModelInfo(
            name="tinyhd-lite",
            file="tinyhd-lite.xml",
            provenance="half as wide, taught by tinyhd-m and its teachers; see MODEL_CARD.md",
            license="Apache-2.0",
            config=TinyHDConfig(True, 2, ("d1", "d2"), output_stride=4, display_scale=0.004, sampling_rate=15.0),
            sha256="6b77025f17fb7ecefd4b3b205c84f7bf6b87efae847bc703a3a18240dc08a8bb",
            bfloat16_agrees=True,
        ),
        ModelInfo(
            name="tinyhd-clean",
            file="tinyhd-clean.xml",
            provenance="trained by this project on teachers and data whose licenses all allow it; see MODEL_CARD.md",
            license="Apache-2.0",
            config=TinyHDConfig(True, 1, output_stride=4, display_scale=0.6, sampling_rate=15.0),
            sha256="595d8a98ad8ecfe4984aef9b151f9054ce8d1d304e491196b2f0042d40db34cf",
            bfloat16_agrees=False,
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


def list_models(*, installed: bool = False) -> list[str]:
    """Names that `load_model` takes, the embedded one first; `MODELS` says more about each.

    Args:
        installed: only those that need not be fetched.
    """
    here = {name for name, info in MODELS.items() if info.url is None or (cache_folder() / info.file).is_file()}
    return [name for name in MODELS if name in here or not installed]


def cache_folder() -> Path:
    """Where fetched files are kept: TINYHD_CACHE where that is set, else `tinyhd` in the platform's cache folder."""
    return Path(os.environ.get("TINYHD_CACHE") or platformdirs.user_cache_dir("tinyhd", appauthor=False))


@dataclass(frozen=True)
class ModelFile:
    """A model's file: a registered one, or one that the user has named."""

    name: str
    """As registered, or the path."""
    hash: str
    """`sha256:...` of its content."""
    read: Callable[[], bytes]
    """Gives its content."""


def find_model(name_or_path: str | os.PathLike[str] | None = None) -> ModelFile:
    """The file of a model, fetched where it has to be.

    Args:
        name_or_path: a name of `list_models()`, or a path; None: the model that comes with the package.

    Raises:
        WeightsError: it cannot be found, fetched, verified or read.
    """
    name = DEFAULT_MODEL if name_or_path is None else os.fspath(name_or_path)
    if name is None:
        raise WeightsError(
            "no model comes with this version of tinyhd; name one: the path of a .safetensors or .pth file, or one of "
            + ", ".join(MODELS)
            + "."
        )
    info = MODELS.get(name)
    if info is not None and info.url is None and info.sha256 is not None:
        # read where it is needed: OpenVINO takes the files themselves
        return ModelFile(name, f"sha256:{info.sha256}", lambda: _packaged(info))
    if info is not None:
        data = _cached_or_fetched(info, os.environ.get("TINYHD_WEIGHTS_URL") or info.url or "")
    elif name.startswith("published/"):
        raise WeightsError(f"there is no published model {name!r}; the names are {', '.join(MODELS)}.")
    else:
        data = _read(Path(name))
    return ModelFile(name, f"sha256:{hashlib.sha256(data).hexdigest()}", lambda: data)


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


def _packaged(info: ModelInfo) -> bytes:
    """The verified content of a file that comes with the package."""
    try:
        data = b"".join(
            resources.files("tinyhd").joinpath("models", file).read_bytes()
            for file in (info.file, info.file.removesuffix(".xml") + ".bin")
        )
    except OSError as error:
        raise WeightsError(f"the files of model {info.name!r} are missing: install tinyhd again.") from error
    if not info.verify(data):
        raise WeightsError(f"the files of model {info.name!r} are damaged: install tinyhd again.")
    return data


def _cached_or_fetched(info: ModelInfo, url: str) -> bytes:
    path = cache_folder() / info.file
    if path.is_file():
        data = _read(path)
        if info.verify(data):
            return data
    address = f"{url.rstrip('/')}/{info.file}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-", ignore_cleanup_errors=True) as folder:
            fetched = _fetch(address, info, Path(folder))
            data = fetched.read_bytes()
            if not info.verify(data):
                raise WeightsError(
                    f"what {address} sends is not the file of {info.name} (wrong hash); nothing was kept. Try again "
                    "later, or get the file elsewhere and name its path."
                )
            fetched.replace(path)
    except OSError as error:
        raise WeightsError(
            f"{info.name} cannot be kept in {os.fspath(path.parent)!r} ({error.strerror}); "
            "set TINYHD_CACHE to a folder that can be written."
        ) from error
    return data


def _fetch(address: str, info: ModelInfo, folder: Path) -> Path:
    """The file in `folder` with what `address` sends.

    Raises:
        WeightsError: no connection, an error status, or more or fewer bytes than there should be.
    """
    import pooch  # late, as requests is slow to import
    from requests import RequestException

    advice = "check the connection, or get the file elsewhere and name its path"

    class Bar(tqdm):
        received = 0

        def __bool__(self) -> bool:
            return True  # pooch asks whether there is a bar; tqdm's answer is about its length

        def update(self, n: float | None = 1) -> bool | None:
            self.received += int(n or 0)
            if self.received > MAX_FETCH_BYTES:
                raise WeightsError(f"{address} sends more than a model file has; {advice}.")
            return super().update(n)

        def reset(self, total: float | None = None) -> None:
            self.received = 0
            super().reset(total)

    # disable=None: no bar where the output is not a terminal
    with Bar(unit="B", unit_scale=True, desc=info.file, disable=None) as bar:
        download = pooch.HTTPDownloader(progressbar=bar, timeout=TIMEOUT_SECONDS, chunk_size=1 << 16)
        pooch.get_logger().setLevel("WARNING")
        try:
            return Path(pooch.retrieve(address, None, fname=info.file, path=folder, downloader=download))
        except (RequestException, ValueError) as error:
            response = getattr(error, "response", None)
            if response is not None:
                reason = f"{address} answers {response.status_code}"
                raise WeightsError(f"{info.name} cannot be fetched: {reason}; {advice}.") from error
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise WeightsError(f"{info.name} cannot be fetched from {address} ({reason}); {advice}.") from error
