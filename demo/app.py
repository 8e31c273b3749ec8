"""The page: what is on it, and what its buttons and its API do."""

import base64
import contextlib
import json
import logging
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.middleware import Middleware

from demo.jobs import Job, JobStore
from demo.limits import MEGABYTE, Limits, public_sentence
from demo.moments import most_attended, plot_lines
from demo.offline import Offline, refuse_addresses
from demo.quick import gradio as gr
from demo.work import DEFAULT_MODEL, Look, Models, Rendered, Step, analyse, finish, render
from tinyhd.errors import InputError, TinyHDError
from tinyhd.render.colors import DEFAULT_COLORMAP, DEFAULT_OPACITY

log = logging.getLogger("tinyhd.demo")

STYLES = [
    ("Overlay", "overlay"),
    ("Spotlight", "spotlight"),
    ("Heat map", "heatmap"),
    ("Side by side", "side-by-side"),
]
COLORMAPS = ["turbo", "inferno", "magma", "viridis", "jet", "hot", "gray"]
NORMALIZATIONS = [("Each frame", "frame"), ("Whole video", "video"), ("A fixed value", "none")]
SUFFIXES = [".mkv", ".ts", ".m2ts", ".avi", ".mov", ".webm", ".mp4", ".m4v", ".mpg", ".flv", ".wmv", ".heic", ".tiff"]

QUEUE_SIZE = 8
CAMERA = {"width": {"ideal": 1280}, "height": {"ideal": 720}}
PRUNE_SECONDS = 60
WARM_UP_AFTER_SECONDS = 2.0
CACHE_SECONDS = (600, 3600)
"""How often Gradio looks for its own old files, and how old these are."""

_PAGE = Path(__file__).parent / "page"
_EXAMPLES = Path(__file__).parents[1] / "examples"
_VIDEO_EXAMPLE, _PICTURE_EXAMPLE = _EXAMPLES / "bunny.mp4", _PAGE / "bunny.jpg"
_PROGRESS = gr.Progress()


# ---- what the player is told


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _address(path: Path) -> str:
    return "gradio_api/file=" + quote(str(path))


def working(step: Step | None, *, again: bool = False) -> str:
    """What the player shows during work; None: nothing is known yet. `again`: only the drawing is new."""
    value: dict[str, Any] = {"state": "working", "done": 0, "total": None, "doing": "Reading the file", "fresh": True}
    if step is not None:
        what = "Looking" if step.phase == "looking" else "Drawing"
        if step.done and step.total:
            what += f": frame {step.done} of {step.total}"
        value |= {"done": step.done, "total": step.total, "doing": what, "fresh": False}
        if step.frames_per_second:
            rate = f"{step.frames_per_second:.{0 if step.frames_per_second >= 9.95 else 1}f} frames/s"
            if step.total:
                left = max(0, step.total - step.done) / step.frames_per_second
                rate += f" · {left:.0f} s left"
            value["rate"] = rate
        if step.picture:
            value["picture"] = _data_uri(step.picture)
    elif again:
        value |= {"doing": "Drawing"}
    return json.dumps(value | {"phase": "again" if again else "first"})


def idle() -> str:
    """The empty player."""
    return json.dumps({"state": "idle"})


def ready(job: Job, result: Rendered) -> str:
    """What the player needs to show a result."""
    info, look = job.facts(), result.look
    notes = list(job.warnings)
    if job.is_copy:
        notes.insert(0, "Not every browser plays this kind of file; what you see as the original is a copy in H.264.")
    seconds = job.stats[-1].time_seconds + (float(1 / info.frame_rate) if info.frame_rate else 0)
    size = f"{info.width}×{info.height}"
    facts = (
        [job.stem, "picture", size]
        if info.is_still
        else [job.stem, f"{seconds:.1f} s", size, f"{len(job.stats)} frames"]
    )
    value = {
        "state": "ready",
        "still": info.is_still,
        "style": look.style,
        "original": _address(job.original or job.source),
        "shown": _address(result.path),
        "seconds": seconds,
        "gradient": "" if look.style == "spotlight" else _gradient(look.colormap),
        "lines": plot_lines(job.stats),
        "moments": [
            {
                "time": moment.time_seconds,
                "entropy": moment.entropy_bits,
                "picture": _data_uri(result.thumbnails.get(moment.frame, b"")),
            }
            for moment in most_attended(job.stats)
        ],
        "facts": " · ".join([*facts, job.model]),
        "notes": [note.replace(str(job.folder), "") for note in notes],
    }
    return json.dumps(value)


def _gradient(colormap: str) -> str:
    import cmap

    colors = cmap.Colormap(colormap)
    return f"linear-gradient(90deg, {', '.join(colors(k / 12).hex for k in range(13))})"


def summary(job: Job) -> dict[str, Any]:
    """What the API tells about a video."""
    info = job.facts()
    return {
        "job": job.name,
        "model": job.model,
        "frames": len(job.stats),
        "width": info.width,
        "height": info.height,
        "mean_entropy_bits": round(sum(s.entropy_bits for s in job.stats) / len(job.stats), 4),
        "mean_spread": round(sum(s.spread for s in job.stats) / len(job.stats), 5),
        "moments": [
            {"time_seconds": s.time_seconds, "frame": s.frame, "entropy_bits": s.entropy_bits, "spread": s.spread}
            for s in most_attended(job.stats)
        ],
        "warnings": job.warnings,
    }


# ---- what the page does


@contextlib.contextmanager
def clean_errors() -> Iterator[None]:
    """Whatever goes wrong reaches the client as one sentence, without paths; what is a bug is logged."""
    try:
        yield
    except TinyHDError as error:
        raise gr.Error(public_sentence(error), title="That did not work", print_exception=False) from None
    except gr.Error:
        raise
    except Exception as error:
        log.exception("the demo failed")
        raise gr.Error(
            "Something went wrong on the server; its log says what.", title="Sorry", print_exception=False
        ) from error


class Actions:
    """What the page's and the API's events call."""

    def __init__(self, store: JobStore, models: Models, limits: Limits) -> None:
        self.store, self.models, self.limits = store, models, limits

    # The page's events are generators over (player, job, overlay, heat map, maps, table).

    def see(
        self, path: str | None, model: str, style: str, colormap: str, opacity: float, normalize: str, old: str
    ) -> Any:
        """Let a model look at a file, and show the result."""
        if not path:
            yield (gr.skip(),) * 6
            return
        yield working(None), "", *_NOTHING
        with clean_errors():
            job = self.store.create(Path(path))
            yield from self._look(job, model, Look.of(style, colormap, opacity, normalize))
        self.store.discard(old)

    def see_again(self, model: str, style: str, colormap: str, opacity: float, normalize: str, old: str) -> Any:
        """Let another model look at the same file."""
        if not old:
            yield (gr.skip(),) * 6
            return
        yield working(None), "", *_NOTHING
        with clean_errors():
            with self.store.using(old) as before:
                job = self.store.create(before.source, stem=before.stem)
            yield from self._look(job, model, Look.of(style, colormap, opacity, normalize))
        self.store.discard(old)

    def _look(self, job: Job, model: str, look: Look) -> Any:
        finished = False
        try:
            with self.store.using(job.name):
                job.model = model
                for step in analyse(job, self.models.get(model), self.limits, look):
                    yield working(step), "", *_NOTHING
                result = yield from self._drawing(job, look, again=False)
                finished = True
                yield ready(job, result), job.name, _file(result.path), gr.skip(), _file(job.maps), _file(job.table)
        except Exception:
            yield idle(), "", *_NOTHING
            raise
        finally:
            if not finished:
                self.store.discard(job.name)

    def redraw(self, name: str, style: str, colormap: str, opacity: float, normalize: str) -> Any:
        """Draw what was seen in another way, then the heat map for downloading that goes with it."""
        if not name:
            yield (gr.skip(),) * 6
            return
        with clean_errors(), self.store.using(name) as job:
            result = yield from self._drawing(job, Look.of(style, colormap, opacity, normalize), again=True)
            skipped = (gr.skip(),) * 2
            yield ready(job, result), name, _file(result.path), gr.skip(), *skipped
            heat = finish(render(job, Look.of("heatmap", colormap, 1, normalize)))
            yield gr.skip(), name, gr.skip(), _file(heat.path), *skipped

    def _drawing(self, job: Job, look: Look, *, again: bool) -> Any:
        """Draw, showing progress; returns what is drawn."""
        steps = render(job, look)
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return end.value
            yield working(step, again=again), job.name if again else "", *(gr.skip(),) * 4

    def forget(self, old: str) -> Any:
        """Empty the player."""
        self.store.discard(old)
        return idle(), "", *_NOTHING

    # The API. Docstrings are what its documentation shows.

    def annotate(
        self,
        file: str | None,
        model: str,
        style: str,
        colormap: str,
        opacity: float,
        normalize: str,
        progress: gr.Progress = _PROGRESS,
    ) -> tuple[str, str, str, str, dict[str, Any]]:
        """Shows where people look in a video or picture.

        Returns the annotated video (H.264 mp4; PNG for a picture), the heat map alone, the raw maps (npz: `maps`,
        float16 (frames, 192, 256), and `time_seconds`), a table with a line for each frame (csv), and a summary whose
        `job` is what /render wants.
        """
        with clean_errors():
            if not file:
                raise InputError("There is no file: give a video or a picture.")
            job = self.store.create(Path(file))
            try:
                with self.store.using(job.name):
                    job.model = model
                    look = Look.of(style, colormap, opacity, normalize)
                    progress(0, desc="Reading the file")
                    for step in analyse(job, self.models.get(model), self.limits, look):
                        progress((step.done, step.total), desc="Looking", unit="frames")
                    result, heat = self._both(job, look)
            except BaseException:
                self.store.discard(job.name)
                raise
            return str(result.path), str(heat.path), str(job.maps), str(job.table), summary(job)

    def render(self, job: str, style: str, colormap: str, opacity: float, normalize: str) -> tuple[str, str]:
        """Draws a video that /annotate has seen in another way, from the kept maps, without running the model again.

        Returns the annotated video and the heat map alone. Files are kept for half an hour after their last use.
        """
        with clean_errors(), self.store.using(job) as kept:
            result, heat = self._both(kept, Look.of(style, colormap, opacity, normalize))
            return str(result.path), str(heat.path)

    def _both(self, job: Job, look: Look) -> tuple[Rendered, Rendered]:
        return finish(render(job, look)), finish(render(job, Look.of("heatmap", look.colormap, 1, look.normalize)))


_NOTHING = tuple(gr.DownloadButton(value=None, interactive=False, render=False) for _ in range(4))


def _file(path: Path | None) -> Any:
    return gr.DownloadButton(value=str(path), interactive=True)


# ---- the page


def build_page(actions: Actions) -> tuple[gr.Blocks, gr.Dropdown]:
    """The page, and its list of models, which grows once it is known what is here."""
    with gr.Blocks(title="Where do people look? · tinyhd", delete_cache=CACHE_SECONDS, analytics_enabled=False) as page:
        gr.HTML(
            "<h1>Where do people look?</h1><p>tinyhd predicts where people look in a video, frame by frame.</p>",
            elem_id="head",
        )
        with gr.Row(elem_id="layout"):
            with gr.Column(scale=1, min_width=300, elem_id="left"):
                with gr.Tabs(elem_id="source"):
                    with gr.Tab("Upload"):
                        file = gr.File(
                            label="A video or a picture",
                            show_label=False,
                            file_types=["video", "image", *SUFFIXES],
                            height=132,
                            elem_id="file",
                        )
                    with gr.Tab("Webcam"):
                        camera = gr.Video(
                            sources=["webcam"],
                            label="Record a short clip",
                            webcam_options=gr.WebcamOptions(mirror=False, constraints={"video": CAMERA}),
                            height=220,
                            elem_id="camera",
                        )
                        # as recorded: Gradio would have an ffmpeg command take the sound out
                        camera.preprocess = lambda recorded: recorded and recorded.path
                gr.Markdown(actions.limits.sentence(), elem_id="limits")
                with gr.Row(elem_id="examples"):
                    clip = gr.Button("Example video", elem_id="example-video", elem_classes="th-example", min_width=100)
                    photo = gr.Button(
                        "Example photo", elem_id="example-photo", elem_classes="th-example", min_width=100
                    )
                with gr.Group(elem_id="settings"):
                    style = gr.Radio(STYLES, value="overlay", label="Style", elem_id="style")
                    opacity = gr.Slider(0, 1, DEFAULT_OPACITY["overlay"], step=0.05, label="Opacity", elem_id="opacity")
                    colormap = gr.Dropdown(COLORMAPS, value=DEFAULT_COLORMAP, label="Colours", elem_id="colormap")
                    normalize = gr.Radio(
                        NORMALIZATIONS,
                        value="frame",
                        label="Normalise to",
                        elem_id="normalize",
                    )
                    model = gr.Dropdown([DEFAULT_MODEL], value=DEFAULT_MODEL, label="Model", elem_id="model")
            with gr.Column(scale=3, min_width=320, elem_id="right"):
                player = gr.HTML(
                    value=idle(),
                    html_template=(_PAGE / "player.html").read_text("utf-8"),
                    js_on_load=(_PAGE / "player.js").read_text("utf-8"),
                    apply_default_css=False,
                    elem_id="player",
                )
                stop = gr.Button("Stop", size="sm", elem_id="stop")
                with gr.Row(elem_id="downloads"):
                    files = [
                        gr.DownloadButton(label, size="sm", interactive=False, min_width=120, elem_id=f"download-{key}")
                        for key, label in {
                            "overlay": "↓ Result",
                            "heatmap": "↓ Heat map",
                            "maps": "↓ Raw maps (npz)",
                            "stats": "↓ Numbers (csv)",
                        }.items()
                    ]
        gr.HTML(
            "<p>Examples: <i>Big Buck Bunny</i>, © 2008 Blender Foundation, www.bigbuckbunny.org, CC BY 3.0. What the "
            "model shows is a guess of where many people would look, not where any one person did.</p>",
            elem_id="foot",
        )
        job = gr.State("", time_to_live=CACHE_SECONDS[1], delete_callback=actions.store.discard)
        look = [style, colormap, opacity, normalize]
        shown = [player, job, *files]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        seeing: dict[str, Any] = {
            "concurrency_id": "model",
            "concurrency_limit": 1,
            "trigger_mode": "multiple",
            **quiet,
        }
        drawing: dict[str, Any] = {"concurrency_id": "drawing", "concurrency_limit": 1, **quiet}

        starts = [
            file.upload(actions.see, [file, model, *look, job], shown, **seeing),
            camera.stop_recording(actions.see, [camera, model, *look, job], shown, **seeing),
            model.input(actions.see_again, [model, *look, job], shown, **seeing),
        ]
        for button, path in ((clip, _VIDEO_EXAMPLE), (photo, _PICTURE_EXAMPLE)):
            example = gr.State(str(path))
            starts.append(button.click(actions.see, [example, model, *look, job], shown, **seeing))
        for start in starts:
            # also draws what was changed meanwhile
            start.success(actions.redraw, [job, *look], shown, **drawing)
        gr.on(
            [style.input, colormap.input, opacity.release, normalize.input],
            actions.redraw,
            [job, *look],
            shown,
            trigger_mode="always_last",
            **drawing,
        )
        stop.click(actions.forget, [job], shown, cancels=starts, queue=False, **quiet)
        file.clear(actions.forget, [job], shown, queue=False, **quiet)

        _add_api(actions, file, model, look)
        refuse_addresses(file)
        refuse_addresses(camera)
    return page, model


def _add_api(actions: Actions, file: gr.File, model: gr.Dropdown, look: list[Any]) -> None:
    """Named endpoints; their inputs are the page's, with types, names and allowed values."""
    with gr.Row(visible=False):
        name = gr.Textbox(label="job")
        overlay, heatmap = gr.File(label="Annotated video or picture"), gr.File(label="Heat map")
        maps, table = gr.File(label="Raw maps"), gr.File(label="Numbers")
        facts = gr.JSON(label="Summary")
        button = gr.Button()
    gr.on(
        [button.click],
        actions.annotate,
        [file, model, *look],
        [overlay, heatmap, maps, table, facts],
        api_name="annotate",
        concurrency_id="model",
        concurrency_limit=1,
    )
    gr.on(
        [button.click],
        actions.render,
        [name, *look],
        [overlay, heatmap],
        api_name="render",
        concurrency_id="drawing",
        concurrency_limit=1,
    )


def _style_sheet() -> str:
    shade = "linear-gradient(#0000 30%, #000a)"
    pictures = {"example-video": "clip.jpg", "example-photo": "bunny.jpg"}
    rules = [
        f"#{name} {{ background-image: {shade}, url({_data_uri((_PAGE / file).read_bytes())}); }}"
        for name, file in pictures.items()
    ]
    return (_PAGE / "page.css").read_text("utf-8") + "\n".join(rules)


def _theme() -> Any:
    sans, mono = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # a font by name would be fetched
    plain = {
        f"block_{part}_{what}{mode}": value
        for part in ("title", "label")
        for what, value in (("background_fill", "transparent"), ("text_color", "*body_text_color"))
        for mode in ("", "_dark")
    }
    return gr.themes.Soft(primary_hue="teal", neutral_hue="slate", font=sans, font_mono=mono).set(
        block_title_padding="0", **plain
    )


@contextlib.contextmanager
def serving(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    limits: Limits | None = None,
    login: tuple[str, str] | None = None,
    models: Models | None = None,
) -> Iterator[str]:
    """Serve the page while the body runs; gives its address. Afterwards no file is left.

    Args:
        host, port: where to listen; port 0: any free one.
        login: (user, password) that visitors must give.
        models: what loads networks.

    Raises:
        OSError: the port is taken.
    """
    models = models or Models()
    with tempfile.TemporaryDirectory(prefix="tinyhd-demo-", ignore_cleanup_errors=True) as folder:
        before = os.environ.get("GRADIO_TEMP_DIR")
        os.environ["GRADIO_TEMP_DIR"] = folder
        store = JobStore(Path(folder) / "jobs")
        try:
            limits = limits or Limits()
            page, model_list = build_page(Actions(store, models, limits))
            page.queue(max_size=QUEUE_SIZE, default_concurrency_limit=1, api_open=False)
            _, address, _ = page.launch(
                server_name=host,
                server_port=port or _free_port(host),
                auth=login,
                auth_message="Please log in." if login else None,
                max_file_size=limits.megabytes * MEGABYTE,
                app_kwargs={
                    "middleware": [Middleware(Offline)],
                    "docs_url": None,
                    "redoc_url": None,
                    "openapi_url": None,
                },
                theme=_theme(),
                css=_style_sheet(),
                footer_links=["api"],
                run_history=False,
                enable_monitoring=False,
                share=False,
                inbrowser=False,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                quiet=True,
                prevent_thread_lock=True,
                state_session_capacity=500,
            )
            store.prune_every(PRUNE_SECONDS)
            # not at once: loading PyTorch takes the computer from the page that is being opened
            warming = threading.Timer(WARM_UP_AFTER_SECONDS, _warm_up, (page, models, model_list))
            warming.daemon = True
            warming.start()
            try:
                yield address
            finally:
                warming.cancel()
                logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it would tell what is cut off
                page.server.force_exit = True  # open pages keep a connection, which would be waited for
                page.close(verbose=False)
        finally:
            store.close()
            if before is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = before


def _warm_up(page: gr.Blocks, models: Models, model_list: gr.Dropdown) -> None:
    """Load the model once the page is there, and offer all models that are on this computer."""
    try:
        names = models.warm_up()
    except TinyHDError as error:
        log.error("the model cannot be used: %s", error)
        return
    if len(names) > 1:
        model_list.choices = [(name, name) for name in names]
        page.config = page.get_config_file()


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
