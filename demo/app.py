"""The page: what is on it, and how it is served."""

import base64
import contextlib
import json
import logging
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from starlette.middleware import Middleware

from demo.actions import Actions, idle
from demo.downloads import CODECS, KINDS
from demo.jobs import JobStore
from demo.limits import MEGABYTE, Limits
from demo.offline import Offline, refuse_addresses
from demo.work import ASPECTS, Models
from tinyhd.choices import choices
from tinyhd.errors import TinyHDError
from tinyhd.options import COLORMAPS, DEFAULT_OPACITY, EncoderOptions, RenderOptions, RoiOptions
from tinyhd.render.colors import color_table
from tinyhd.saliency.focus import FOCUS_DEFINITION

log = logging.getLogger("tinyhd.demo")

PRESETS = {
    "Heat map": RenderOptions(),
    "Spotlight": RenderOptions(style="spotlight"),
    "What is seen first": RenderOptions(style="spotlight", opacity=1.0),
    "Side by side": RenderOptions(style="side-by-side"),
}
"""Ways to show a result for people who do not know the options' words."""
_LABELS = {
    "heatmap": "Heat map alone",
    "frame": "Each frame's maximum",
    "video": "The video's maximum",
    "none": "A fixed value",
    "h264": "H.264",
    "hevc": "HEVC",
}
"""Of values that are not words to show."""
_DOWNLOADS = {
    "result": "↓ Result",
    "reframed": "↓ Reframed",
    "heatmap": "↓ Heat map alone",
    "moments": "↓ Key moments (zip)",
    "report": "↓ Report (html)",
    "maps": "↓ Raw maps (npz)",
    "stats": "↓ Statistics (csv)",
}
_DEFAULT, _CHOICES = RenderOptions(), choices(RenderOptions)
_STRENGTH = choices(RoiOptions)["strength"]
SUFFIXES = [".mkv", ".ts", ".m2ts", ".avi", ".mov", ".webm", ".mp4", ".m4v", ".mpg", ".flv", ".wmv", ".heic", ".tiff"]

CAMERA = {"width": {"ideal": 1280}, "height": {"ideal": 720}}
PRUNE_SECONDS = 60
WARM_UP_AFTER_SECONDS = 2.0
CACHE_SECONDS = (600, 3600)
"""How often Gradio looks for its own old files, and how old these are."""

_PAGE = Path(__file__).parent / "page"
_EXAMPLES = Path(__file__).parents[1] / "examples"
_VIDEO_EXAMPLE, _PICTURE_EXAMPLE = _EXAMPLES / "bunny.mp4", _PAGE / "bunny.jpg"


def _labelled(values: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(_LABELS.get(value, value.replace("-", " ").capitalize()), value) for value in values]


def _sentence(help: str) -> str:
    return f"{help[0].upper()}{help[1:]}."


# ---- the page


def build_page(actions: Actions) -> tuple[gr.Blocks, gr.Dropdown]:
    """The page, and its list of models, which grows once it is known what is here."""
    limits, default = actions.limits, actions.models.default
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
                gr.Markdown(limits.sentence(), elem_id="limits")
                with gr.Row(elem_id="examples"):
                    clip = gr.Button("Example video", elem_id="example-video", elem_classes="th-example", min_width=100)
                    photo = gr.Button(
                        "Example photo", elem_id="example-photo", elem_classes="th-example", min_width=100
                    )
                with gr.Group(elem_id="settings"):
                    style = gr.Radio(
                        _labelled(_CHOICES["style"].allowed),
                        value=_DEFAULT.style,
                        label="Style",
                        elem_id="style",
                    )
                    colormap = gr.Dropdown(list(COLORMAPS), value=_DEFAULT.colormap, label="Colors", elem_id="colormap")
                    normalize = gr.Radio(
                        _labelled(_CHOICES["normalize"].allowed),
                        value=_DEFAULT.normalize,
                        label="Full attention is",
                        elem_id="normalize",
                    )
                    model = gr.Dropdown([default], value=default, label="Model", elem_id="model")
            with gr.Column(scale=3, min_width=320, elem_id="right"):
                with gr.Row(elem_id="look"):
                    preset = gr.Radio(
                        list(PRESETS), value=next(iter(PRESETS)), label="Show as", elem_id="preset", scale=3
                    )
                    opacity = gr.Slider(
                        _CHOICES["opacity"].minimum,
                        _CHOICES["opacity"].maximum,
                        _DEFAULT.effective_opacity,
                        step=0.05,
                        label="Opacity",
                        elem_id="opacity",
                        min_width=200,
                    )
                aspect = gr.Radio(
                    [("Whole frame", ""), *ASPECTS],
                    value="",
                    label="Reframe: a crop that follows attention",
                    elem_id="aspect",
                )
                player = gr.HTML(
                    value=idle(),
                    html_template=(_PAGE / "player.html").read_text("utf-8").replace("DEFINITION", FOCUS_DEFINITION),
                    js_on_load=f"const TABLES = {_color_tables()};\n" + (_PAGE / "player.js").read_text("utf-8"),
                    apply_default_css=False,
                    elem_id="player",
                )
                with gr.Row(elem_id="after"):
                    again = gr.Button("Try again", size="sm", elem_id="again", min_width=120)
                    trim = gr.Button("Use the beginning", size="sm", elem_id="trim", min_width=160)
                    stop = gr.Button("Stop", size="sm", elem_id="stop", min_width=100)
                with gr.Row(elem_id="downloads"):
                    files = {
                        kind: gr.Button(label, size="sm", min_width=120, elem_id=f"download-{kind}")
                        for kind, label in ((kind, _DOWNLOADS[kind]) for kind in KINDS)
                    }
                with gr.Accordion("Encode with more bits where people look", open=False, elem_id="encode"):
                    with gr.Row():
                        strength = gr.Slider(
                            _STRENGTH.minimum,
                            _STRENGTH.maximum,
                            RoiOptions().strength,
                            step=0.5,
                            label="Strength",
                            info=_sentence(_STRENGTH.help),
                            elem_id="strength",
                            min_width=240,
                        )
                        codec = gr.Radio(
                            _labelled(CODECS),
                            value=EncoderOptions().codec,
                            label="Codec",
                            elem_id="codec",
                            min_width=160,
                        )
                    with gr.Row():
                        crf = gr.Textbox(  # a gr.Number that is left empty comes as 0
                            label="Quality (CRF)",
                            info=f"{limits.crf[0]:g} to {limits.crf[1]:g}, lower is better; empty: the package's own.",
                            max_length=12,
                            elem_id="crf",
                            min_width=160,
                        )
                        bitrate = gr.Textbox(
                            label="or bit rate",
                            info="Such as 800k or 2.5M, in bits a second.",
                            max_length=12,
                            elem_id="bitrate",
                            min_width=160,
                        )
                    encode = gr.Button("↓ Encoded", size="sm", elem_id="download-encoded")
        gr.HTML(
            "<p>Examples: <i>Big Buck Bunny</i>, © 2008 Blender Foundation, www.bigbuckbunny.org, CC BY 3.0. What the "
            "model shows is a guess of where many people would look, not where any one person did.</p>",
            elem_id="foot",
        )
        job = gr.State("", time_to_live=CACHE_SECONDS[1], delete_callback=actions.store.discard)
        look = [style, colormap, opacity, normalize]
        shown = [player, job]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        # any number at a time for Gradio: `Actions` has a queue of its own, in which visitors see their place
        work: dict[str, Any] = {"concurrency_limit": None, **quiet}

        running = [
            file.upload(actions.analyze, [file, model, *look, job], shown, **work),
            camera.stop_recording(actions.analyze, [camera, model, *look, job], shown, **work),
            model.input(actions.analyze_again, [gr.State(False), model, *look, job], shown, **work),
            again.click(actions.analyze_again, [gr.State(False), model, *look, job], shown, **work),
            trim.click(actions.analyze_again, [gr.State(True), model, *look, job], shown, **work),
        ]
        for button, path in ((clip, _VIDEO_EXAMPLE), (photo, _PICTURE_EXAMPLE)):
            running.append(button.click(actions.analyze, [gr.State(str(path)), model, *look, job], shown, **work))
        for kind, button in files.items():
            running.append(button.click(actions.download, [gr.State(kind), aspect, *look, job], shown, **work))
        encoding = [codec, strength, crf, bitrate]
        running.append(encode.click(actions.download_encoded, [*encoding, job], shown, **work))
        stop.click(actions.stop, [job], shown, cancels=running, queue=False, **quiet)
        file.clear(actions.forget, [job], shown, queue=False, **quiet)

        preset.input(_apply_preset, [preset], look, queue=False, **quiet)
        style.input(_apply_style, [style], [opacity, colormap, preset], queue=False, **quiet)
        seen = [*look, aspect]
        gr.on([page.load, *(control.change for control in seen)], None, seen, None, js=_TELL_PLAYER, **quiet)

        _add_api(actions, file, model, look, aspect, encoding)
        refuse_addresses(file)
        refuse_addresses(camera)
    return page, model


_TELL_PLAYER = """(style, colormap, opacity, normalize, aspect) =>
window.tinyhd?.look({ style, colormap, opacity, normalize, aspect })"""
"""The page draws by itself: nothing is asked of the server when the look changes."""


def _apply_preset(name: str) -> tuple[Any, ...]:
    render = PRESETS[name]
    opacity, colormap, _ = _apply_style(render.style, render.effective_opacity)
    return render.style, colormap, opacity, render.normalize


def _apply_style(style: str, opacity: float | None = None) -> tuple[Any, Any, Any]:
    """The controls that a style uses, and the preset that it is."""
    value = DEFAULT_OPACITY[style] if opacity is None else opacity
    preset = next((name for name, render in PRESETS.items() if render.style == style), None)
    return (
        gr.Slider(value=value, interactive=style != "heatmap"),
        gr.Dropdown(interactive=style != "spotlight"),
        gr.Radio(value=preset),
    )


def _color_tables() -> str:
    """For each style and color map the 256 colors with alpha at full opacity, as `color_table` has them: JSON."""

    def table(style: str, colormap: str) -> str:
        rgba = color_table(RenderOptions(style=style, colormap=colormap, opacity=1.0))
        return base64.b64encode(np.rint(255 * rgba).astype(np.uint8).tobytes()).decode()

    return json.dumps({style: {name: table(style, name) for name in COLORMAPS} for style in _CHOICES["style"].allowed})


def _add_api(
    actions: Actions, file: gr.File, model: gr.Dropdown, look: list[Any], aspect: gr.Radio, encoding: list[Any]
) -> None:
    """Named endpoints; their inputs are the page's, with types, names and allowed values."""
    with gr.Row(visible=False):
        name = gr.Textbox(label="job")
        overlay, heatmap = gr.File(label="Annotated video or picture"), gr.File(label="Heat map")
        reframed, encoded = gr.File(label="Reframed video or picture"), gr.File(label="Encoded video")
        pictures, page = gr.File(label="Key moments"), gr.File(label="Report")
        maps, table = gr.File(label="Raw maps"), gr.File(label="Statistics")
        facts, numbers = gr.JSON(label="Summary"), gr.JSON(label="Numbers")
        button = gr.Button()
    gr.on(
        [button.click],
        actions.annotate,
        [file, model, *look],
        [overlay, heatmap, maps, table, facts],
        api_name="annotate",
        concurrency_limit=None,
    )
    gr.on(
        [button.click],
        actions.render,
        [name, *look],
        [overlay, heatmap],
        api_name="render",
        concurrency_limit=None,
    )
    gr.on([button.click], actions.reframe, [name, aspect], [reframed], api_name="reframe", concurrency_limit=None)
    gr.on([button.click], actions.moments, [name], [pictures], api_name="moments", concurrency_limit=None)
    gr.on([button.click], actions.report, [name], [page], api_name="report", concurrency_limit=None)
    gr.on(
        [button.click],
        actions.encode,
        [name, *encoding],
        [encoded, numbers],
        api_name="encode",
        concurrency_limit=None,
    )


def _data_uri(path: Path) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()


def _style_sheet() -> str:
    shade = "linear-gradient(#0000 30%, #000a)"
    pictures = {"example-video": "clip.jpg", "example-photo": "bunny.jpg"}
    rules = [
        f"#{name} {{ background-image: {shade}, url({_data_uri(_PAGE / file)}); }}" for name, file in pictures.items()
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
    # darker than the theme's own, whose text on them is hard to read
    accents = {
        f"checkbox_label_{what}_selected{mode}": value
        for what, value in (
            ("background_fill", "*primary_700"),
            ("border_color", "*primary_700"),
            ("text_color", "white"),
        )
        for mode in ("", "_dark")
    }
    return gr.themes.Soft(primary_hue="teal", neutral_hue="slate", font=sans, font_mono=mono).set(
        block_title_padding="0",
        color_accent="*primary_700",
        button_secondary_background_fill_hover_dark="*primary_700",
        body_text_color_subdued="*neutral_600",
        **plain,
        **accents,
    )


@contextlib.contextmanager
def serving(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    limits: Limits | None = None,
    login: tuple[str, str] | None = None,
    models: Models | None = None,
    mcp: bool = False,
    before: Callable[[], None] = lambda: None,
) -> Iterator[str]:
    """Serve the page while the body runs; gives its address. Afterwards no file is left.

    Args:
        host, port: where to listen; port 0: any free one.
        login: (user, password) that visitors must give.
        models: what loads models.
        mcp: serve the API as tools of the Model Context Protocol too.
        before: called when all is prepared, before the port is taken.

    Raises:
        OSError: the port is taken.
    """
    models = models or Models()
    with tempfile.TemporaryDirectory(prefix="tinyhd-demo-", ignore_cleanup_errors=True) as folder:
        earlier = os.environ.get("GRADIO_TEMP_DIR")
        os.environ["GRADIO_TEMP_DIR"] = folder
        store = JobStore(Path(folder) / "jobs")
        try:
            limits = limits or Limits()
            page, model_list = build_page(Actions(store, models, limits))
            page.queue(default_concurrency_limit=1, api_open=False)
            before()
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
                _frontend=False,  # the page is the same: Gradio would fetch it, and give up after three seconds
                mcp_server=mcp,
                quiet=True,
                prevent_thread_lock=True,
                state_session_capacity=500,
            )
            store.prune_every(PRUNE_SECONDS)
            # not at once: it takes the computer from the page that is being opened
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
            if earlier is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = earlier


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
