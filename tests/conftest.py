"""Fixtures that every test file may use."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyhd

# bound now: a public name that is first asked for while a test has replaced what it stands for would keep that for good
for _name in tinyhd.__all__:
    getattr(tinyhd, _name)

# what runs in the background, or under nohup, inherits "ignored", and so would the commands that tests start
for _number, _default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _default)

REQUIRE_ALL = os.environ.get("TINYHD_REQUIRE_ALL", "") not in ("", "0")


def skip_or_fail(reason: str) -> None:
    """Skip a test for a missing tool, folder or browser; fail instead where TINYHD_REQUIRE_ALL is set."""
    if REQUIRE_ALL:
        pytest.fail(f"TINYHD_REQUIRE_ALL is set and a test would have been skipped: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference outputs, published checkpoints and human fixations (not part of the project)."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("TINYHD_SHARED", root.parent / "shared"))
    if not (folder / "golden").is_dir():
        skip_or_fail("no reference data: set TINYHD_SHARED to the folder that holds golden/, weights/ and data/")
    return folder


@pytest.fixture(scope="session")
def golden_clip(shared: Path) -> tuple[Any, np.ndarray]:
    """What the published networks give for a real clip, and the clip as they take it, float32 (1, 3, 16, 192, 256)."""
    from tinyhd.inference.preprocess import normalize_rgb

    golden = np.load(shared / "golden" / "official_rc4_clip.npz")
    return golden, np.stack([normalize_rgb(frame) for frame in golden["frames_rgb_uint8_thwc"]], 1)[None]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Converted networks are kept for this run of the tests only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYHD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
