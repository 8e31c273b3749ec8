"""The demo as it is served: its API, its queue, its refusals, and the page in a browser."""

import asyncio
import os
import re
import shutil
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import REQUIRE_ALL

if not REQUIRE_ALL:
    pytest.importorskip("gradio", reason="the demo's extra is not installed")
from conftest import skip_or_fail
from fakes import FakeBackend, GrayModel
from gradio_client import Client, handle_file
from makers import make_video, playlist, read_barcode, still

from demo.actions import QUEUE_SIZE
from demo.app import serving
from demo.first import FirstPage
from demo.limits import Limits
from tinyhd.options import STYLES, InferenceOptions, RenderOptions
from tinyhd.render.colors import color_table
from tinyhd.render.normalize import Normalizer
from tinyhd.video.reader import probe, read_frames

LOOK = {"style": "overlay", "colormap": "turbo", "opacity": 0.5, "normalize": "frame"}


class StubModels(FakeBackend):
    """`Models` whose model costs nothing, waits as long as it is told, and counts."""

    options, default = InferenceOptions(), "tinyhd-m"

    def __init__(self):
        self.gray = GrayModel()
        self.may_run = threading.Event()
        self.may_run.set()
        self.seconds_each = 0.0

    def get(self, name):
        return self

    def warm_up(self):
        return ["tinyhd-m"]

    def __call__(self, clips):
        self.may_run.wait(60)
        time.sleep(self.seconds_each)
        return self.gray(clips)


@pytest.fixture(scope="module")
def served():
    """(address, models, folder of all temporary files) of a server; afterwards that folder must be empty."""
    models = StubModels()
    with tempfile.TemporaryDirectory() as folder:
        before, tempfile.tempdir = tempfile.tempdir, folder
        try:
            with serving(limits=Limits(megabytes=2, seconds=8), models=models) as address:
                yield address, models, Path(folder)
            left = [name for name in os.listdir(folder) if not re.fullmatch("[0-9a-f]{40}", name)]
            assert left == []  # gradio_client, which runs in this process too, leaves folders of that form
        finally:
            tempfile.tempdir = before


@pytest.fixture
def client(served, tmp_path):
    client = Client(served[0], verbose=False, download_files=tmp_path / "got", analytics_enabled=False)
    yield client
    client.close()


def status_of(address):
    try:
        with urllib.request.urlopen(address) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


# ---- the API


def test_the_api_annotates_and_draws_again(served, client, tmp_path):
    _, models, _ = served
    video = make_video(tmp_path / "my clip.mp4", 30, audio=["aac"])
    overlay, heatmap, maps, table, facts = client.predict(
        file=handle_file(video), model="tinyhd-m", **LOOK, api_name="/annotate"
    )
    assert [Path(p).name for p in (overlay, heatmap, maps, table)] == [
        "my-clip.saliency.mp4",
        "my-clip.heatmap.mp4",
        "my-clip.maps.npz",
        "my-clip.stats.csv",
    ]
    assert [read_barcode(frame.to_rgb()) for frame in read_frames(overlay)] == list(range(30))
    assert np.load(maps)["maps"].shape == (30, 192, 256)
    assert Path(table).read_text().count("\n") == 31
    assert facts["frames"] == 30
    assert facts["moments"][0]["focus"] > 5
    clips = models.gray.clips
    again, _ = client.predict(job=facts["job"], **LOOK | {"style": "side-by-side"}, api_name="/render")
    assert probe(again).width == 2 * probe(overlay).width
    reframed = client.predict(job=facts["job"], aspect="9:16", api_name="/reframe")
    assert probe(reframed).width < probe(reframed).height == probe(overlay).height
    assert facts["aspects"][0] == "9:16"
    for kind, suffix in (("moments", ".moments.zip"), ("report", ".report.html")):
        assert Path(client.predict(job=facts["job"], api_name=f"/{kind}")).name == f"my-clip{suffix}"
    encoded, numbers = client.predict(job=facts["job"], codec="h264", strength=4, crf="30", api_name="/encode")
    assert Path(encoded).name == "my-clip.encoded.mp4"
    assert numbers["bytes"] == Path(encoded).stat().st_size < numbers["plain_bytes"]
    assert models.gray.clips == clips


def test_the_api_says_what_it_takes(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/annotate", "/render", "/reframe", "/moments", "/report", "/encode"}
    assert "hevc" in endpoints["/encode"]["parameters"][1]["python_type"]["type"]
    annotate = {p["parameter_name"]: p for p in endpoints["/annotate"]["parameters"]}
    assert list(annotate) == ["file", "model", *LOOK]
    assert "spotlight" in annotate["style"]["python_type"]["type"]
    assert annotate["opacity"]["python_type"]["type"] == "float"
    assert annotate["opacity"]["parameter_default"] == 0.55
    assert "where people look" in endpoints["/annotate"]["description"]


def test_the_api_takes_pictures(client, tmp_path):
    overlay, *_, facts = client.predict(
        file=handle_file(still(tmp_path).path), model="tinyhd-m", **LOOK, api_name="/annotate"
    )
    assert Path(overlay).suffix == ".png"
    assert facts["frames"] == 1


@pytest.mark.parametrize("kind", ["hls", "concat"])
def test_playlists_are_refused_in_one_sentence(served, client, tmp_path, kind):
    target = make_video(tmp_path / "secret.mp4", 4)
    path = playlist(tmp_path, kind, "video.mp4", str(target))
    with pytest.raises(Exception, match="playlist") as caught:
        client.predict(file=handle_file(path), model="tinyhd-m", **LOOK, api_name="/annotate")
    assert "/" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": "../../secret.pth"}, "not in the list of choices"),
        ({"style": "no such"}, "not in the list of choices"),
        ({"colormap": "no such"}, "not in the list of choices"),
        ({"opacity": 7}, "maximum|between"),
        ({"file": None}, "There is no file"),
    ],
)
def test_wrong_values_are_refused(client, tmp_path, change, sentence):
    values = {"file": handle_file(make_video(tmp_path / "x.mp4", 4)), "model": "tinyhd-m", **LOOK} | change
    with pytest.raises(Exception, match=sentence) as caught:
        client.predict(**values, api_name="/annotate")
    assert str(tmp_path) not in str(caught.value)


def test_long_videos_and_large_files_are_refused(client, tmp_path):
    long = make_video(tmp_path / "long.mp4", 250)
    with pytest.raises(Exception, match="10 seconds long; up to 8 seconds are taken"):
        client.predict(file=handle_file(long), model="tinyhd-m", **LOOK, api_name="/annotate")
    large = tmp_path / "large.mp4"
    large.write_bytes(os.urandom(3 * 2**20))
    with pytest.raises(Exception, match=r"413|size"):
        client.predict(file=handle_file(large), model="tinyhd-m", **LOOK, api_name="/annotate")


def test_nothing_is_fetched_for_clients(served, client):
    address, _, _ = served
    with pytest.raises(Exception, match="no addresses"):
        client.predict(
            file={"path": f"{address}favicon.ico", "meta": {"_type": "gradio.FileData"}},
            model="tinyhd-m",
            **LOOK,
            api_name="/annotate",
        )
    for path in (
        "file=http://127.0.0.1/x",
        "file=https%3A//127.0.0.1/x",
        "proxy=https://x.hf.space/",
        "file=/etc/passwd",
    ):
        assert status_of(f"{address}gradio_api/{path}") == 403, path


def test_the_page_forbids_browsers_to_load_from_elsewhere(served):
    with urllib.request.urlopen(served[0]) as response:
        policy, page = response.headers["Content-Security-Policy"], response.read().decode()
    assert "default-src 'self'" in policy
    assert "http:" not in policy
    assert "https:" not in policy
    assert not re.search(r"""<(?:meta|link|script|img)\b[^>]*["']https?://""", page)


def test_unknown_jobs_are_refused(client):
    for name in ("", "../../etc", "x" * 24):
        with pytest.raises(Exception, match="no longer kept"):
            client.predict(job=name, **LOOK, api_name="/render")


def test_twelve_clients_at_a_queue_of_eight(served, tmp_path):
    """One at work, eight wait, the others are told that the queue is full."""
    address, models, _ = served
    assert QUEUE_SIZE == 8
    video = make_video(tmp_path / "x.mp4", 4)
    with ThreadPoolExecutor(12) as pool:
        clients = list(pool.map(lambda k: Client(address, verbose=False, download_files=tmp_path / str(k)), range(12)))
        models.may_run.clear()
        try:
            tasks = [
                pool.submit(c.predict, file=handle_file(video), model="tinyhd-m", **LOOK, api_name="/annotate")
                for c in clients
            ]
            until = time.monotonic() + 60
            while sum(task.done() for task in tasks) < 3 and time.monotonic() < until:
                time.sleep(0.05)
        finally:
            models.may_run.set()
        refused = [str(task.exception(120)) for task in tasks if task.exception(120)]
        served_ones = [task.result() for task in tasks if not task.exception()]
    for each in clients:
        each.close()
    assert len(refused) in (3, 4)  # 4 where all came before the first was at work
    assert all("ueue is full" in message for message in refused)
    assert len(served_ones) + len(refused) == 12
    assert all(probe(result[0]).frame_count == 4 for result in served_ones)


def test_login():
    with serving(login=("me", "secret"), models=StubModels()) as address:
        for path in ("config", "gradio_api/info", "gradio_api/file=/etc/passwd"):
            assert status_of(address + path) in (401, 403), path
        with pytest.raises(Exception, match=r"(?i)auth|credential|log"):
            Client(address, auth=("me", "wrong"), verbose=False)
        Client(address, auth=("me", "secret"), verbose=False).close()


def test_agents_find_and_use_the_tools(tmp_path):
    """A client of the Model Context Protocol uploads a picture and calls the tool; off by default."""
    try:
        import httpx
        from mcp import ClientSession
        from mcp.client.streamable_http import streamablehttp_client
    except ImportError:
        skip_or_fail("mcp is not installed")

    async def visit(address):
        files = {"files": ("photo.png", still(tmp_path).path.read_bytes())}
        async with httpx.AsyncClient() as browser:
            (path,) = (await browser.post(f"{address}gradio_api/upload", files=files)).json()
        async with (
            streamablehttp_client(f"{address}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            assert set(tools) == {"annotate", "render", "reframe", "moments", "report", "encode"}
            assert tools["encode"].inputSchema["required"] == ["job"]
            assert "where people look" in tools["annotate"].description
            assert tools["annotate"].inputSchema["properties"]["style"]["enum"] == list(STYLES)
            assert tools["annotate"].inputSchema["required"] == ["file"]
            refused = await session.call_tool("annotate", {"file": "http://127.0.0.1/x.mp4"})
            assert refused.isError
            assert "no addresses" in refused.content[0].text
            return await session.call_tool("annotate", {"file": f"{address}gradio_api/file={path}"})

    with serving(models=StubModels(), mcp=True) as address:
        result = asyncio.run(visit(address))
        assert not result.isError, result.content
        assert any("photo.saliency.png" in str(part) for part in result.content)
    with serving(models=StubModels()) as address:
        assert status_of(f"{address}gradio_api/mcp/") == 404


# ---- the page


@pytest.fixture
def page(served):
    """A page of a browser; afterwards it must have asked for nothing off loopback."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        skip_or_fail("no chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        skip_or_fail("playwright is not installed")
    arguments = ["--no-sandbox", "--headless", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_context(viewport={"width": 1360, "height": 1200}, accept_downloads=True).new_page()
        page.set_default_timeout(60_000)
        asked, failed = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: failed.append(str(error)))
        yield page
        browser.close()
    hosts = {urllib.parse.urlsplit(address).hostname for address in asked if not address.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}
    assert failed == []


def wait_for(page, state):
    page.wait_for_function("state => document.body.dataset.tinyhd === state", arg=state)


MAP_OF_FRAME = """(seconds) => { // what lies over the frame, and the colors of the frame below
    const video = document.querySelector("[data-part=video]"), heat = document.querySelector("[data-part=heat]");
    return [video.currentTime, Array.from(heat.getContext("2d").getImageData(0, 0, 256, 192).data)];
}"""


def test_a_visit(served, page, tmp_path):
    address, models, folder = served
    models.seconds_each = 0.3
    video = make_video(tmp_path / "my clip.mp4", 100, width=320, height=192, audio=["aac"])
    page.goto(address)
    page.wait_for_selector("#player .th-empty h2")
    page.set_input_files("#file input[type=file]", video)
    wait_for(page, "working")
    page.wait_for_function("/frame \\d+ of 100/.test(document.querySelector('[data-part=doing]').textContent)")
    assert "frames/s" in page.text_content("[data-part=rate]")
    wait_for(page, "ready")
    clips = models.gray.clips

    # it plays, and its parts are there
    page.wait_for_function("document.querySelector('[data-part=video]').currentTime > 0.6")
    count = page.locator(".th-moments li").count()
    assert count >= 1
    assert page.locator("[data-part=focus] polyline").get_attribute("points").count(",") == 100
    page.locator(".th-moments button").nth(count - 1).click()
    assert page.evaluate("document.querySelector('[data-part=video]').paused")

    # downloads, made when they are asked for
    for key, name in {
        "result": "my-clip.saliency.mp4",
        "heatmap": "my-clip.heatmap.mp4",
        "maps": "my-clip.maps.npz",
        "stats": "my-clip.stats.csv",
    }.items():
        with page.expect_download() as download:
            page.click(f"#download-{key}")
        assert download.value.suggested_filename == name
        wait_for(page, "ready")
    download.value.save_as(tmp_path / "stats.csv")
    assert (tmp_path / "stats.csv").read_text().count("\n") == 101
    assert models.gray.clips == clips

    # another file, stopped, and tried again
    models.seconds_each = 1.0
    page.click("#example-video")
    page.wait_for_function("/frame \\d+ of 125/.test(document.querySelector('[data-part=doing]').textContent)")
    page.click("#stop")
    wait_for(page, "failed")
    assert page.text_content("[data-part=failedTitle]") == "Stopped"
    until = time.monotonic() + 30
    while list(folder.glob("*/jobs/*/.tinyhd-*")) and time.monotonic() < until:
        time.sleep(0.1)
    assert not list(folder.glob("*/jobs/*/.tinyhd-*"))
    models.seconds_each = 0.0
    page.click("#again")
    wait_for(page, "ready")


def test_the_look_changes_at_once_and_without_the_server(served, page, tmp_path):
    """What the page draws over a frame is what the package draws, within what blending in RGB makes of it."""
    address, models, _ = served
    video = make_video(tmp_path / "clip.mp4", 60, width=320, height=192, transform=lambda rgb, k: rgb // 2)
    page.goto(address)
    page.set_input_files("#file input[type=file]", video)
    wait_for(page, "ready")
    clips = models.gray.clips
    page.locator(".th-moments button").nth(0).click()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(500)

    gray = [
        frame.image.reformat(256, 192, format="rgb24").to_ndarray().mean(2, dtype=np.float32)
        for frame in read_frames(video)
    ]
    whole = (float(min(g.min() for g in gray)), float(max(g.max() for g in gray)))

    def drawn():
        """The number of the frame, and the colors over it: float (192, 256, 4)."""
        seconds, values = page.evaluate(MAP_OF_FRAME)
        return int(25 * seconds + 0.01), np.array(values, float).reshape(192, 256, 4)

    def expected(number, options):
        """The colors of that frame's map, as the package has them."""
        normalize = Normalizer(options.normalize, 255, whole)
        for k in range(number + 1):
            shown = normalize(gray[k], k / 25, False)
        return color_table(options)[np.rint(255 * shown).astype(int)]

    def check(options):
        number, rgba = drawn()
        wanted = 255 * expected(number, options)
        difference = np.abs(rgba[..., :3] * rgba[..., 3:] - wanted[..., :3] * wanted[..., 3:]) / 255
        # the bar code of the made frames has edges that maps of 48x64 cannot hold
        assert np.median(difference) < 6

    check(RenderOptions(opacity=0.55))
    page.get_by_label("Opacity", exact=False).first.focus()
    page.locator("#opacity input[type=range]").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.wait_for_timeout(300)
    check(RenderOptions(opacity=0.8))
    faint = drawn()[1][..., 3].max()
    assert faint == pytest.approx(255 * 0.8, abs=2)
    page.get_by_label("The video's maximum").check()
    page.wait_for_timeout(300)
    check(RenderOptions(opacity=0.8, normalize="video"))
    page.get_by_label("Spotlight", exact=True).first.check()
    page.wait_for_function("document.querySelector('#colormap input').disabled")
    assert drawn()[1][..., :3].max() == 0
    page.get_by_label("Side by side", exact=True).first.check()
    page.wait_for_selector("[data-part=mirror]", state="visible")
    assert models.gray.clips == clips
    assert not [address for address in asked if "file=" in address]


def test_reframing_is_shown_beside_the_source(served, page, tmp_path):
    video = make_video(tmp_path / "my clip.mp4", 50, width=320, height=180)  # a disc moves over it
    page.goto(served[0])
    page.set_input_files("#file input[type=file]", video)
    wait_for(page, "ready")
    assert not page.is_visible("[data-part=right]")
    assert not page.is_visible("#download-reframed")
    page.get_by_label("9:16", exact=True).check()
    page.wait_for_selector("[data-part=cropped]", state="visible")
    page.locator(".th-moments button").nth(0).click()
    page.wait_for_timeout(500)
    left, source, cropped = page.evaluate(
        """() => {
            const [crop, frame] = ["crop", "heat"].map((n) => document.querySelector(`[data-part=${n}]`));
            const canvas = document.querySelector("[data-part=cropped]");
            return [[crop.offsetLeft, crop.offsetWidth], frame.offsetWidth, [canvas.width, canvas.height,
                Array.from(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data)]];
        }"""
    )
    assert left[1] / source == pytest.approx(102 / 320, abs=0.02)
    width, height, values = cropped
    assert (width, height) == (102, 180)
    shown = np.array(values).reshape(height, width, 4)[..., :3]
    seconds = page.evaluate("document.querySelector('[data-part=video]').currentTime")
    frame = list(read_frames(video))[int(25 * seconds + 0.01)].to_rgb()
    x = round(left[0] / source * 320)
    assert min(np.abs(frame[:, x + k : x + k + 102].astype(int) - shown).mean() for k in (-1, 0, 1) if x + k >= 0) < 12
    with page.expect_download() as download:
        page.click("#download-reframed")
    assert download.value.suggested_filename == "my-clip.9x16.mp4"
    wait_for(page, "ready")
    page.get_by_label("Whole frame", exact=True).check()
    page.wait_for_selector("[data-part=right]", state="hidden")


def test_encoding_on_the_page(served, page, tmp_path):
    page.goto(served[0])
    page.set_input_files("#file input[type=file]", make_video(tmp_path / "my clip.mp4", 50, width=320, height=192))
    wait_for(page, "ready")
    page.click("#encode button")
    page.wait_for_selector("#download-encoded", state="visible")
    page.get_by_label("or bit rate").fill("fast")
    page.click("#download-encoded")
    page.wait_for_selector("[data-part=problem]:not(:empty)")
    assert page.text_content("[data-part=problem]") == "Bitrate is 'fast'; it must be such as 800k or 2.5M."
    page.get_by_label("or bit rate").fill("")
    with page.expect_download() as download:
        page.click("#download-encoded")
    assert download.value.suggested_filename == "my-clip.encoded.mp4"
    wait_for(page, "ready")
    assert re.match(
        r"my-clip\.encoded\.mp4: .* less than encoded alike all over", page.text_content("[data-part=made]")
    )
    assert not page.is_visible("[data-part=problem]")
    with page.expect_download():
        page.click("#download-stats")
    page.wait_for_selector("[data-part=made]", state="hidden")
    page.click("#example-photo")
    page.wait_for_function("document.body.hasAttribute('data-tinyhd-still')")
    wait_for(page, "ready")
    assert not page.is_visible("#encode")


def test_a_file_can_be_chosen_before_the_page_is_there(page, tmp_path):
    video = make_video(tmp_path / "early.mp4", 20)
    first = FirstPage("127.0.0.1", 0, Limits().sentence())
    address = f"http://127.0.0.1:{first.port}/"
    assert status_of(address) == 503  # to programs it is not there
    page.goto(address)
    assert "Up to 60 seconds" in page.text_content("body")
    page.set_input_files("#file", video)
    page.wait_for_function("document.querySelector('#what').textContent === 'early.mp4'")
    with serving(port=first.port, models=StubModels(), before=first.close) as there:
        assert there == address
        wait_for(page, "ready")  # it has come by itself
        assert page.text_content("[data-part=facts]").startswith("early")
        page.reload()
        page.wait_for_selector("#player .th-empty h2")
        page.wait_for_timeout(1000)
        assert page.evaluate("document.body.dataset.tinyhd") == "idle"  # not once more
        page.goto("about:blank")


def test_errors_and_pictures_on_the_page(served, page, tmp_path):
    address, _, _ = served
    broken = tmp_path / "broken.mp4"
    broken.write_text("nothing")
    page.goto(address)
    page.wait_for_selector("#player .th-empty h2")
    page.set_input_files("#file input[type=file]", broken)
    wait_for(page, "failed")
    text = page.text_content("[data-part=message]")
    assert "broken.mp4" in text
    assert "/" not in text
    assert page.locator("#again").is_visible()
    assert not page.is_visible("#trim")
    page.click("#example-photo")
    wait_for(page, "ready")
    page.wait_for_function("document.querySelector('[data-part=still]').naturalWidth === 640")
    assert not page.is_visible("[data-part=plots]")
    assert page.text_content("[data-part=facts]").startswith("bunny · photo")


def test_too_long_videos_can_be_cut_to_the_limit_on_the_page(served, page, tmp_path):
    address, _, _ = served
    page.goto(address)
    page.wait_for_selector("#player .th-empty h2")
    page.set_input_files("#file input[type=file]", make_video(tmp_path / "long.mp4", 230))
    wait_for(page, "failed")
    page.click("#trim")
    wait_for(page, "ready")
    assert "200 frames" in page.text_content("[data-part=facts]")


@pytest.mark.parametrize(("suffix", "codec"), [(".avi", "mpeg4"), (".mkv", "libx264")])
def test_what_browsers_do_not_play_is_shown_as_a_copy(served, page, tmp_path, suffix, codec):
    address, _, _ = served
    page.goto(address)
    page.wait_for_selector("#player .th-empty h2")
    page.set_input_files("#file input[type=file]", make_video(tmp_path / f"x{suffix}", 12, codec=codec))
    wait_for(page, "ready")
    assert "H.264" in page.text_content("[data-part=notes]")
    page.wait_for_function("document.querySelector('[data-part=video]').videoWidth > 0")


def test_places_in_the_queue_on_the_page(served, page):
    address, models, _ = served
    models.may_run.clear()
    try:
        page.goto(address)
        page.wait_for_selector("#player .th-empty h2")
        page.click("#example-video")
        wait_for(page, "working")
        other = page.context.new_page()
        other.set_default_timeout(60_000)
        other.goto(address)
        other.wait_for_selector("#player .th-empty h2")
        other.click("#example-video")
        wait_for(other, "waiting")
        assert "Number 1 in the queue" in other.text_content("[data-part=doing]")
    finally:
        models.may_run.set()
    for each in (page, other):
        wait_for(each, "ready")


@pytest.mark.parametrize(("theme", "width"), [("light", 1360), ("dark", 1360), ("dark", 375)])
def test_axe_finds_nothing(served, page, theme, width):
    """Contrast, names, headings, ... of everything on the page, before and with a result; nothing is cut off."""
    page.set_viewport_size({"width": width, "height": 1000})
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        skip_or_fail("axe-playwright-python is not installed")
    axe = Axe()
    page.goto(f"{served[0]}?__theme={theme}")
    page.wait_for_selector("#player .th-empty h2")
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    for state in ("idle", "ready"):
        wait_for(page, state)
        if state == "ready":
            page.click("#encode button")
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        found = axe.run(page, options={"runOnly": tags})
        assert found.response["violations"] == [], found.generate_report()
        page.click("#example-video")
        wait_for(page, "working")


def test_the_keyboard_alone_does_everything(served, page, tmp_path):
    """From the example to another look, another time, and a download, without a pointer."""
    page.goto(served[0])
    page.wait_for_selector("#player .th-empty h2")

    def tab_to(selector):
        for _ in range(60):
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"the Tab key never comes to {selector}")

    tab_to("#example-video")
    page.keyboard.press("Enter")
    wait_for(page, "ready")
    page.evaluate("document.activeElement.blur()")
    tab_to("#preset input")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('#colormap input').disabled")  # the spotlight has no colors
    tab_to("[data-part=play]")
    page.keyboard.press("Space")
    tab_to("[data-part=plots]")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("Math.abs(document.querySelector('[data-part=video]').currentTime - 0.5) < 0.01")
    tab_to(".th-moments button")
    page.keyboard.press("Enter")
    page.wait_for_function("Math.abs(document.querySelector('[data-part=video]').currentTime - 0.5) > 0.01")
    tab_to("#download-stats")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "bunny.stats.csv"
