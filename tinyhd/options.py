"""What a user can choose: dataclasses that the command line, the plugin's forms, the demo's controls and the rows of a
batch are made from. An option added here appears in all of them.

Each field carries its help text, allowed values and limits (see `tinyhd.choices.Choice`).
"""

import os
import re
from dataclasses import dataclass

from tinyhd.choices import Options, option
from tinyhd.errors import OptionError

BACKENDS = ("auto", "openvino", "torch")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
WINDOWINGS = ("crossfade", "published")
STYLES = ("overlay", "heatmap", "side-by-side", "spotlight")
NORMALIZATIONS = ("frame", "video", "none")
CODECS = ("h264", "hevc", "av1", "vp9")
IMAGE_FORMATS = ("jpeg", "png", "webp")
PADDINGS = ("none", "blur", "color")
DEVICE_PATTERN = r"auto|cpu|cuda(:\d+)?|mps"

COLORMAPS = ("turbo", "inferno", "magma", "viridis", "jet", "hot", "gray")
"""Those that forms offer; any other name of cmap is taken too."""
DEFAULT_COLORMAP = "turbo"
DEFAULT_OPACITY = {"overlay": 0.55, "side-by-side": 0.55, "spotlight": 0.75, "heatmap": 1.0}
MAX_WORKERS = 4096
MAX_OVERLAP = 15
"""Frames: one less than the network sees at once."""


@dataclass(frozen=True)
class InferenceOptions(Options):
    """Which network computes the maps, where, and on which frames."""

    model: str | None = option(
        None,
        "a name of --list-models or a file (.safetensors, or a published .pth); default: the embedded model",
        metavar="NAME",
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps")
    backend: str = option(
        "auto", "what computes; auto: OpenVINO on CPUs, PyTorch elsewhere", allowed=BACKENDS, advanced=True
    )
    precision: str = option(
        "auto",
        "of the arithmetic; auto: float16 on a GPU that --device auto has found, bfloat16 on CPUs that compute in it, "
        "otherwise float32",
        allowed=PRECISIONS,
        advanced=True,
    )
    batch_size: int | None = option(
        None, "windows computed at once; default: 1 on CPUs, 8 on GPUs", minimum=1, metavar="N", advanced=True
    )
    sampling_rate: float | None = option(
        None,
        "about how many frames a second the network sees, every Nth one so that the rate is nearest; maps between are "
        "interpolated, never across a cut; 0: every frame; default: the model's own",
        minimum=0,
        metavar="HZ",
        advanced=True,
    )
    windowing: str = option(
        "crossfade",
        "how 16-frame windows follow each other: cross-faded, or as the authors run it (published), which pulses",
        allowed=WINDOWINGS,
        advanced=True,
    )
    overlap: int | None = option(
        None,
        "samples that neighboring windows share, 0 to 15; more is smoother and slower; default: 4",
        minimum=0,
        maximum=MAX_OVERLAP,
        metavar="N",
        advanced=True,
    )
    cuts: bool = option(True, "look for shot cuts, and start anew at each", advanced=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(DEVICE_PATTERN, self.device):
            raise OptionError(f"there is no device {self.device!r}; it must be auto, cpu, cuda, cuda:N or mps.")
        if self.overlap is not None and self.windowing == "published":
            raise OptionError("overlap is for cross-faded windows; leave it out with the published windowing.")


@dataclass(frozen=True)
class RenderOptions(Options):
    """How maps are drawn."""

    style: str = option(
        "overlay",
        "heat map over the video, alone, beside it, or the rest of the frame dimmed (spotlight)",
        allowed=STYLES,
    )
    colormap: str = option(DEFAULT_COLORMAP, "turbo, inferno, viridis, jet, gray ...: any name of cmap", metavar="NAME")
    opacity: float | None = option(
        None, "of the most attention; default: the style's own", minimum=0, maximum=1, metavar="X"
    )
    normalize: str = option(
        "frame",
        "what is drawn as full attention: each frame's maximum, smoothed over a second (frame), the whole video's, to "
        "compare moments (video; reads the file twice), or a value kept with the model, to compare videos (none)",
        allowed=NORMALIZATIONS,
    )

    @property
    def effective_opacity(self) -> float:
        """0 to 1: `opacity`, or the style's own."""
        return DEFAULT_OPACITY[self.style] if self.opacity is None else self.opacity


@dataclass(frozen=True)
class EncoderOptions(Options):
    """How videos are encoded. Whether an encoder is there and takes a setting shows when it is opened."""

    codec: str = option("h264", "of the output video; not used where --encoder names one", allowed=CODECS)
    encoder: str | None = option(
        None,
        "any video encoder of FFmpeg, such as h264_nvenc, instead of --codec; auto: NVENC for --codec where this "
        "machine's GPU has it, otherwise as without",
        metavar="NAME",
    )
    crf: float | None = option(None, "quality, lower is better; the scale is the encoder's", metavar="N")
    preset: str | None = option(None, "the encoder's name for how much time it takes", metavar="NAME", advanced=True)
    bitrate: str | None = option(
        None, "of the video in bits a second, such as 800k or 2.5M, instead of --crf", metavar="RATE", advanced=True
    )
    ffmpeg: str | None = option(
        None,
        "encode through this ffmpeg program instead of the built-in FFmpeg, for encoders that it lacks",
        metavar="PATH",
        advanced=True,
        runs_program=True,
    )
    ffmpeg_args: str | None = option(
        None,
        "further output options for --ffmpeg, as one quoted string",
        metavar="ARGS",
        advanced=True,
        runs_program=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bitrate is not None and not self.bits_per_second:
            raise OptionError(f"bitrate is {self.bitrate!r}; it must be such as 800k or 2.5M.")
        if self.bitrate is not None and self.crf is not None:
            raise OptionError("crf and bitrate both say how large the video becomes: leave one out.")
        if self.ffmpeg_args is not None and self.ffmpeg is None:
            raise OptionError("ffmpeg_args are for an ffmpeg program: name one with ffmpeg (--ffmpeg PATH) as well.")

    @property
    def bits_per_second(self) -> int | None:
        """`bitrate` as a number."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKM]?)", self.bitrate or "")
        return round(float(match[1]) * {"": 1, "k": 1e3, "K": 1e3, "M": 1e6}[match[2]]) if match else None


@dataclass(frozen=True)
class BatchOptions(Options):
    """How many inputs are worked on."""

    workers: str | None = option(
        None,
        "processes side by side, each with its share of the processors; auto: one for every two; default: 1, with "
        "--ray as many as there is room for",
        metavar="N",
    )
    ray: str | None = option(
        None,
        "work on a Ray cluster: host:port, auto for the one of this machine; without an address one is started here",
        metavar="ADDRESS",
        bare="local",
    )
    segment_minutes: float | None = option(
        None,
        "analyze longer videos in segments of about this length side by side, with the same result, so that one film "
        "keeps all workers busy",
        minimum=0.01,
        metavar="N",
    )
    lease: bool = option(
        False,
        "share --output-dir with other runs of this command, here or on other machines: each input is done by one, and "
        "again by another where that one died; --shard does so too",
    )
    retry_failed: bool = option(False, "with --output-dir, do again what failed in an earlier run")
    timeout: float | None = option(None, "give up on an input after this long", minimum=0.001, metavar="SECONDS")
    max_duration: float | None = option(None, "refuse longer inputs", minimum=0, metavar="SECONDS")
    max_pixels: int | None = option(None, "refuse inputs with larger frames: width x height", minimum=1, metavar="N")
    cache_dir: str | None = option(
        None,
        "keep what is fetched from addresses in this folder, for later commands; default: a temporary one, where it "
        "stays until its job has ended",
        metavar="DIR",
    )
    cache_size: float = option(10, "so much of it at most", minimum=0.000001, metavar="GB")

    def __post_init__(self) -> None:
        super().__post_init__()
        workers = self.workers or "1"
        if workers != "auto" and not (workers.isdecimal() and 1 <= int(workers) <= MAX_WORKERS):
            raise OptionError(f"workers is {self.workers!r}; it must be auto or 1 to {MAX_WORKERS}.")

    @property
    def worker_count(self) -> int:
        """Processes to start; 0: work in this one."""
        if self.workers == "auto":
            return max(1, (os.cpu_count() or 1) // 2)
        count = int(self.workers or 1)
        return 0 if count == 1 and self.timeout is None else count


@dataclass(frozen=True)
class ReframeOptions(Options):
    """What crop a video is cut to, and how the crop may move."""

    aspect: str | None = option(
        None, "width to height of the result, such as 9:16, 1:1 or 4:5; default: that of --size, or 9:16", metavar="W:H"
    )
    size: str | None = option(
        None, "of the result, such as 1080x1920, even numbers; default: that of the crop", metavar="WxH"
    )
    pad: str = option(
        "none",
        "where the crop would hold less attention than --min-share or not all of --keep, take a wider one and fill the "
        "rest with a blurred copy or a color",
        allowed=PADDINGS,
    )
    pad_color: str = option("black", "for --pad color: a name or #RRGGBB", metavar="COLOR")
    min_share: float = option(
        0.5, "for --pad: share of a shot's attention that the crop should hold", minimum=0, maximum=1, metavar="X"
    )
    max_speed: float = option(
        0.6, "of pans, in widths of the crop a second; 0: none", minimum=0, maximum=4, metavar="X", advanced=True
    )
    jumps: bool = option(
        True, "cut from one place of a shot to another where both compete for attention", advanced=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aspect is not None:
            _ratio(self.aspect)
        size = None if self.size is None else _two_numbers(self.size, r"(\d{1,5})x(\d{1,5})")
        if self.size is not None and (size is None or size[0] % 2 or size[1] % 2):
            raise OptionError(f"size is {self.size!r}; it must be two even numbers, such as 1080x1920.")
        if size is not None and self.aspect is not None and abs(size[0] / size[1] / self.ratio - 1) > 0.01:
            raise OptionError(f"a size of {self.size} is not {self.aspect}: change one of them, or leave one out.")
        if not re.fullmatch(r"[A-Za-z]+|#[0-9A-Fa-f]{6}", self.pad_color):
            raise OptionError(f"pad_color is {self.pad_color!r}; it must be a name, such as black, or #RRGGBB.")

    @property
    def ratio(self) -> float:
        """Width / height of the result, as displayed."""
        return _ratio(self.aspect or (self.size or "9:16").replace("x", ":"))

    @property
    def pixels(self) -> tuple[int, int] | None:
        """(width, height) of `size`."""
        if self.size is None:
            return None
        width, height = self.size.split("x")
        return int(width), int(height)


@dataclass(frozen=True)
class MomentOptions(Options):
    """Which moments of a video are kept as pictures."""

    count: int = option(5, "how many at most", minimum=1, maximum=100, metavar="N")
    apart: float | None = option(
        None,
        "seconds that two must be apart; default: a quarter of what they would be, evenly spread",
        minimum=0,
        metavar="SECONDS",
    )
    aspect: str | None = option(
        None,
        "crop to this width to height, such as 9:16, where attention is; default: the whole frame",
        metavar="W:H",
    )
    format: str = option("jpeg", "of the pictures", allowed=IMAGE_FORMATS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aspect is not None:
            _ratio(self.aspect)

    @property
    def ratio(self) -> float | None:
        """Width / height of the pictures, as displayed; None: that of the video."""
        return None if self.aspect is None else _ratio(self.aspect)


@dataclass(frozen=True)
class RoiOptions(Options):
    """How strongly an encoder favors what is looked at."""

    strength: float = option(
        4.0,
        "by how many steps of the quantizer the least attended parts are coarser; six halve their precision; 0: encode "
        "all alike",
        minimum=0,
        maximum=12,
        metavar="STEPS",
    )


GROUPS: dict[str, dict[str, type[Options]]] = {
    "annotate": {"inference": InferenceOptions, "render": RenderOptions, "encoder": EncoderOptions},
    "analyze": {"inference": InferenceOptions},
    "reframe": {"inference": InferenceOptions, "encoder": EncoderOptions, "crop": ReframeOptions},
    "moments": {"inference": InferenceOptions, "moments": MomentOptions},
    "encode": {"inference": InferenceOptions, "encoder": EncoderOptions, "roi": RoiOptions},
}
"""What can be done with a video, and the options of each, by the field of a `Job` that holds them."""


def _ratio(aspect: str) -> float:
    """Width / height of an aspect such as 9:16. Raises `OptionError` where it is not one."""
    numbers = _two_numbers(aspect, r"(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)")
    if numbers is None:
        raise OptionError(f"aspect is {aspect!r}; it must be width:height, such as 9:16.")
    return numbers[0] / numbers[1]


def _two_numbers(text: str, pattern: str) -> tuple[float, float] | None:
    """The two positive numbers of a text like `pattern`."""
    match = re.fullmatch(pattern, text)
    numbers = (float(match[1]), float(match[2])) if match else (0.0, 0.0)
    return numbers if min(numbers) > 0 else None
