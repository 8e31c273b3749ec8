"""The FiftyOne plugin in the real App, in a real browser."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import makers
import numpy as np
import pytest
from conftest import skip_or_fail
from plugin_database import environ

pytest_plugins = ["plugin_database"]

COUNT = 25
WIDTH, HEIGHT = 480, 270
WAIT_MS = 120_000  # for anything in the browser: test machines may be busy
DISC, GREY = np.array((250, 40, 40)), 110


@pytest.fixture
def app(fo: ModuleType, fiftyone_environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """The address of an App server, started as `fo.launch_app` and `fiftyone app launch` do it.

    With `-m` instead, FiftyOne would keep a single object for each dataset, which it does not for users.
    """
    import fiftyone.server

    folder = Path(fiftyone.server.__file__).parent
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "main.py", "--port", str(port), "--address", "127.0.0.1"]
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=environ(fiftyone_environment), stdout=log, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/fiftyone", server, tmp_path / "server.log")
        yield address
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"the App's server does not start: {log.read_text()[-2000:]}")


@pytest.fixture
def page(app: str) -> Iterator[Any]:
    """A page of Debian's Chromium; requests to other machines are noted in `page.foreign`."""
    sync_api = pytest.importorskip("playwright.sync_api") if not os.environ.get("TINYHD_REQUIRE_ALL") else None
    if sync_api is None:
        from playwright import sync_api
    program = os.environ.get("TINYHD_CHROMIUM") or shutil.which("chromium")
    if not program:
        skip_or_fail("no chromium: apt-get install chromium, or name one with TINYHD_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=arguments)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(WAIT_MS)
        page.foreign = []

        def route(route: Any) -> None:
            if "://127.0.0.1" in route.request.url:
                route.continue_()
            else:
                page.foreign.append(route.request.url)
                route.abort()

        page.route("**/*", route)
        yield page
        browser.close()


@pytest.fixture
def keep(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any, str], Path]:
    """Keeps screenshots, in the folder that TINYHD_ARTEFACTS names."""
    named = os.environ.get("TINYHD_ARTEFACTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)

    def keep(target: Any, name: str) -> Path:
        path = folder / f"plugin-{name}.png"
        target.screenshot(path=str(path))
        return path

    return keep


def spot(rgb: np.ndarray, position: int) -> np.ndarray:
    """A gray picture with a red disc, which attention goes to."""
    y, x = np.mgrid[: rgb.shape[0], : rgb.shape[1]]
    inside = (x - 0.25 * WIDTH) ** 2 + (y - 0.35 * HEIGHT) ** 2 < (0.13 * HEIGHT) ** 2
    picture = np.full_like(rgb, GREY)
    picture[inside] = DISC
    return picture


def pixels(path: Path) -> np.ndarray:
    """A PNG as int RGB (H, W, 3)."""
    with av.open(str(path)) as picture:
        return next(picture.decode(video=0)).to_ndarray(format="rgb24").astype(int)


def video_area(canvas: np.ndarray) -> np.ndarray:
    """The part of the viewer's canvas that the gray video fills, without the bars above and below; averaged over blocks
    of 8x8 pixels, as the viewer moves it by a pixel or two now and then."""
    gray = np.flatnonzero(np.abs(np.median(canvas.mean(2), axis=1) - GREY) < 10)
    area = canvas[gray[0] : gray[-1] + 1]
    rows, columns = area.shape[0] // 8, area.shape[1] // 8
    return area[: rows * 8, : columns * 8].reshape(rows, 8, columns, 8, 3).mean((1, 3))


def open_dataset(page: Any, app: str, dataset: Any) -> None:
    """Show a dataset's grid."""
    dataset.persistent = True
    page.goto(f"{app}/datasets/{dataset.name}")
    page.locator('[data-cy="looker"]').first.wait_for()
    page.get_by_text("Dismiss").click()  # an advertisement


def open_form(page: Any, label: str) -> Any:
    """The form of an operator, from the list of operators."""
    page.keyboard.press("Backquote")
    page.locator('[data-cy="operators-browser"] input').fill("saliency")
    page.locator('[data-cy="operators-browser"]').get_by_text(label).first.click()
    return page.locator('[data-cy="operators-prompt-modal"]')


def test_a_selection_in_the_app(
    make_dataset: Any, page: Any, app: str, keep: Callable[[Any, str], Path], tmp_path: Path
) -> None:
    dataset = make_dataset(*(makers.make_video(tmp_path / f"{name}.mp4", COUNT) for name in "abc"))
    open_dataset(page, app, dataset)
    for k in range(2):
        tile = page.locator('[data-cy="looker"]').nth(k)
        tile.hover()
        tile.locator("input[type=checkbox]").dispatch_event("click")

    # an error that ends the run is told
    form = open_form(page, "Compute saliency")
    form.get_by_text("2 videos, about 50 frames").wait_for()
    form.get_by_text("Folder for the maps").locator("xpath=following::input[1]").fill(str(tmp_path / "a.mp4" / "maps"))
    form.get_by_role("button", name="Execute").click()
    page.get_by_text("cannot be written: Not a directory").first.wait_for()
    keep(page, "failed")

    form = open_form(page, "Compute saliency")
    form.get_by_text("2 videos, about 50 frames").wait_for()
    form.get_by_role("button", name="Execute").click()
    page.get_by_text("2 videos done").first.wait_for()
    keep(page, "selection-done")
    dataset.reload()
    assert sorted(dataset.values("saliency_stats.frame_count"), key=bool) == [None, COUNT, COUNT]


def test_heat_maps_in_the_app(
    fo: ModuleType, make_dataset: Any, page: Any, app: str, keep: Callable[[Any, str], Path], tmp_path: Path
) -> None:
    paths = [
        makers.make_video(tmp_path / f"{name}.mp4", COUNT, width=WIDTH, height=HEIGHT, transform=spot) for name in "ab"
    ]
    dataset = make_dataset(*paths)
    open_dataset(page, app, dataset)

    # the form, from the list of operators
    form = open_form(page, "Compute saliency")
    form.get_by_text("2 videos, about 50 frames").wait_for()
    keep(page, "form")
    form.get_by_role("button", name="Execute").click()
    page.get_by_text("2 videos done").first.wait_for()
    keep(page, "done")
    dataset.reload()
    assert dataset.values("saliency_stats.frame_count") == [COUNT, COUNT]
    assert dataset.list_runs() == ["saliency"]
    page.keyboard.press("Escape")

    # a sample: the heat map is drawn on the frame, brightest where the map is
    page.locator('[data-cy="looker"]').first.click()
    modal = page.locator('[data-cy="modal"]')
    canvas = modal.locator("canvas[canvas-loaded=true]")
    canvas.wait_for()
    heat = dataset.first().frames[1].saliency

    def seen(name: str, wanted: Callable[[float], bool]) -> np.ndarray:
        """The video as it is seen, once its color at the map's peak differs from the disc's as wanted."""
        deadline = time.monotonic() + WAIT_MS / 1000
        while True:
            area = video_area(pixels(keep(canvas, name)))
            at_peak = area[int(heat.peak_y * area.shape[0]), int(heat.peak_x * area.shape[1])]
            difference = float(np.abs(at_peak - DISC).max())
            if wanted(difference):
                return area
            assert time.monotonic() < deadline, f"the color at the peak is {at_peak} ({name})"
            time.sleep(0.5)

    with_map = seen("with-heat-map", lambda difference: difference > 60)
    modal.locator('[data-cy="checkbox-frames.saliency"]').first.click()
    without_map = seen("without-heat-map", lambda difference: difference < 30)
    rows = min(len(with_map), len(without_map))
    change = np.abs(with_map[:rows] - without_map[:rows]).sum(2)
    rows, columns = np.nonzero(change > 0.8 * change.max())
    assert columns.mean() / change.shape[1] == pytest.approx(heat.peak_x, abs=0.04)
    assert rows.mean() / change.shape[0] == pytest.approx(heat.peak_y, abs=0.06)
    assert change[:, int(0.7 * change.shape[1]) :].mean() < 0.05 * change.max()

    # attention over time, in the panel beside it
    modal.locator('[data-cy="panel-tab-saliency_over_time"]').click()
    plot = modal.locator('[data-cy="saliency-over-time"] svg')
    now = modal.locator('[data-cy="saliency-now"]')
    now.wait_for(state="attached")
    assert plot.locator("polyline").count() == 3
    keep(page, "over-time")

    # a click goes to that time
    box = plot.bounding_box()
    before = float(now.get_attribute("x1"))
    page.mouse.click(box["x"] + 0.6 * box["width"], box["y"] + 40)
    deadline = time.monotonic() + WAIT_MS / 1000
    while abs(float(now.get_attribute("x1")) - 0.6 * box["width"]) > 30:
        assert time.monotonic() < deadline, f"the line went from {before} to {now.get_attribute('x1')}"
        time.sleep(0.3)
    keep(page, "over-time-clicked")

    # as the App's colors are, so are the plot's
    def brightness(scheme: str) -> float:
        page.evaluate("s => document.documentElement.setAttribute('data-mui-color-scheme', s)", scheme)
        color = now.evaluate("node => getComputedStyle(node).stroke")
        return float(np.mean([int(part) for part in re.findall(r"\d+", color)[:3]]))

    assert brightness("dark") > 160
    assert brightness("light") < 96


def test_a_report_in_the_app(
    make_dataset: Any, page: Any, app: str, keep: Callable[[Any, str], Path], tmp_path: Path
) -> None:
    paths = [
        makers.make_video(tmp_path / f"{name}.mp4", COUNT, width=WIDTH, height=HEIGHT, transform=spot) for name in "ab"
    ]
    dataset = make_dataset(*paths)
    open_dataset(page, app, dataset)
    form = open_form(page, "Saliency report")
    form.get_by_text("Title").first.wait_for()
    form.get_by_role("button", name="Execute").click()
    # it opens by itself, and fills its panel
    report = page.locator('[data-cy="saliency-report"]')
    report.wait_for()
    report.content_frame.get_by_text("Attention in a.mp4 and b.mp4").wait_for()
    keep(page, "report")
    panel = report.evaluate("node => node.closest('[class*=scrollable]').clientWidth")
    assert report.bounding_box()["width"] > 0.9 * panel

    # the overview is as wide as its panel too; a click on a thumbnail opens the video
    form = open_form(page, "Compute saliency")
    form.get_by_text("2 videos, about 50 frames").wait_for()
    form.get_by_role("button", name="Execute").click()
    video = page.locator('[data-cy="saliency-video"]').first
    video.wait_for()
    width, inside = video.evaluate(
        "node => { const box = node.closest('[class*=scrollable]'); return [box.clientWidth, box.scrollWidth]; }"
    )
    assert inside == width
    page.wait_for_function("document.querySelector('[data-cy=saliency-video] img').naturalWidth > 0")
    video.click()
    page.locator('[data-cy="modal"]').wait_for()
    keep(page, "thumbnail-clicked")
