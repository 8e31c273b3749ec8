"""The command `tinyhd-annotate`: arguments, log lines, progress and exit status. The work is done in `pipeline`.

Modules that need PyTorch are imported when work begins, so that `--help` and mistakes are answered at once.
"""

import argparse
import contextlib
import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tinyhd
from tinyhd.errors import OptionError, TinyHDError
from tinyhd.files import OUTPUT_TAG, check_target, distinct_stems, expand_inputs, make_folder

if TYPE_CHECKING:
    from tinyhd.pipeline.annotate import AnnotateResult

log = logging.getLogger("tinyhd.cli")

DONE, FAILED, USAGE, DAMAGED, INTERRUPTED = 0, 1, 2, 3, 130
TERMINATED = 143

# The modules that know these take long to import; a test compares.
CODECS = ("h264", "hevc", "av1", "vp9")
STYLES = ("overlay", "heatmap", "side-by-side", "spotlight")
NORMALIZATIONS = ("frame", "video", "none")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
WINDOWINGS = ("crossfade", "published")
BACKENDS = ("auto", "openvino", "torch")

_PROGRESS_SECONDS = 10.0  # between lines where there is no terminal

_DESCRIPTION = """Show where people look in a video.

Writes input.saliency.mp4 (for a picture, input.saliency.png) beside the input: the input with a heat map of visual
attention laid over it, as predicted by TinyHD. Sound, time stamps and metadata are kept."""

_EPILOG = """exit status: 0 done, 1 something failed, 2 wrong usage, 3 damaged input, annotated as far as it decodes,
130 interrupted. A name that starts with a dash goes behind --, as in: tinyhd-annotate -- -x.mp4"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (the process's own if None) and return its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    handler = _set_up_logging(options.json_log, options.quiet)
    try:
        with _terminated_like_interrupted():
            if options.list_models:
                return _list_models()
            if not options.inputs:
                parser.error("name at least one video, picture, folder or glob")
            return _run(options)
    except KeyboardInterrupt:
        log.error("Interrupted; no unfinished file was left.")
        return INTERRUPTED
    except _Terminated:
        return TERMINATED
    except OptionError as error:
        log.error("%s", error)
        return USAGE
    except TinyHDError as error:
        log.error("%s", error)
        return FAILED
    finally:
        logging.getLogger("tinyhd").removeHandler(handler)


# ---- arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "tinyhd-annotate",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("inputs", nargs="*", metavar="INPUT", help="videos, pictures, folders or globs")
    add("--version", action="version", version=f"tinyhd {tinyhd.__version__}")
    add("--list-models", action="store_true", help="print the names that --model knows, and end")

    add = parser.add_argument_group("output").add_argument
    add("-o", "--output", metavar="FILE", help="where to write, for one input")
    add("--output-dir", metavar="DIR", help="write all outputs into this folder (made if it is not there)")
    add("--overwrite", action="store_true", help="replace outputs that exist; an input is never overwritten")
    add("--codec", default="h264", choices=CODECS, help="default: h264")
    add(
        "--encoder",
        metavar="NAME",
        help="any video encoder of FFmpeg, such as h264_nvenc, instead of --codec; auto: NVENC for --codec where this "
        "machine's GPU has it, otherwise as without",
    )
    add("--crf", type=float, metavar="N", help="quality, lower is better; the scale is the encoder's")
    add("--preset", metavar="NAME", help="the encoder's name for how much time it takes")

    add = parser.add_argument_group("look").add_argument
    add("--style", default="overlay", choices=STYLES, help="default: overlay")
    add("--colormap", default="turbo", metavar="NAME", help="turbo (default), inferno, viridis, jet, gray ...")
    add("--opacity", type=float, metavar="X", help="of the most attention, 0 to 1 (default: the style's own)")
    add(
        "--normalize",
        default="frame",
        choices=NORMALIZATIONS,
        help="what is full attention: the frame's maximum, smoothed over 1 s (frame, default), the whole video's "
        "(video; takes two passes), or a value kept with the model (none)",
    )

    add = parser.add_argument_group("what is kept beside it").add_argument
    add(
        "--save-maps",
        metavar="TO",
        help="raw maps: maps.npz (float16), a folder/ of 16-bit PNGs (value x 65535), or gray.mp4 (as displayed); "
        "with many inputs a folder",
    )
    add(
        "--stats",
        metavar="TO",
        help="stats.csv or .jsonl: time, peak, centre of mass, spread and entropy of every frame; with many inputs a "
        "folder",
    )
    add(
        "--regions",
        metavar="FILE",
        help='for --stats, the share of attention in places: {"units": "fractions" or "pixels", "regions": '
        '{"name": [left, top, right, bottom], "other": [[x, y], [x, y], [x, y], ...]}}',
    )

    add = parser.add_argument_group("input").add_argument
    add("--start", type=_seconds, metavar="TIME", help="only from here on: seconds or [HH:]MM:SS")
    add("--end", type=_seconds, metavar="TIME", help="only up to here")

    add = parser.add_argument_group("model").add_argument
    add("--model", metavar="NAME", help="a name of --list-models or a file (.safetensors, or a published .pth)")
    add("--device", default="auto", help="auto (default), cpu, cuda, cuda:N or mps")
    add("--precision", default="auto", choices=PRECISIONS, help="default: auto")
    add(
        "--backend",
        default="auto",
        choices=BACKENDS,
        help="what computes; auto (default): OpenVINO on CPUs, PyTorch elsewhere",
    )
    add("--batch-size", type=int, metavar="N", help="windows that are computed at once (default: 1 for M, 4 for S)")
    add(
        "--windowing",
        default="crossfade",
        choices=WINDOWINGS,
        help="crossfade (default), or as the authors run it (published), which pulses",
    )
    add("--overlap", type=int, metavar="N", help="frames that neighbouring windows share, 0 to 15")
    add("--no-cuts", dest="cuts", action="store_false", help="do not look for shot cuts")

    add = parser.add_argument_group("messages").add_argument
    add("--quiet", action="store_true", help="say nothing but errors")
    add("--json-log", action="store_true", help="messages and progress as one JSON object a line, on stderr")
    return parser


def _seconds(text: str) -> Fraction:
    """90, 90.5, 1:30 or 0:01:30.5 -> seconds."""
    match = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)", text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: give seconds or [HH:]MM:SS")
    hours, minutes, seconds = match.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + Fraction(seconds)


# ---- the work


def _run(options: argparse.Namespace) -> int:
    # late, because they need PyTorch
    from tinyhd.inference.backends import open_backend
    from tinyhd.options import InferenceOptions
    from tinyhd.render.colors import color_table
    from tinyhd.video.encoders import EncoderSettings

    files, is_batch = expand_inputs(options.inputs)
    if options.output is not None and (is_batch or options.output_dir is not None):
        raise OptionError("-o is for one input; with several, a folder or a glob, or with --output-dir, leave it out.")
    # what would fail for every input fails here
    EncoderSettings(options.codec, options.encoder, options.crf, options.preset)
    color_table(options.style, options.colormap, options.opacity if options.opacity is not None else 1)
    names = _OutputNames(files, is_batch, options)
    model = open_backend(
        InferenceOptions(
            model=options.model, device=options.device, backend=options.backend, precision=options.precision
        )
    )

    began, failed, damaged = time.perf_counter(), 0, 0
    for file in files:
        try:
            damaged += _annotate_one(file, names, model, options).damaged
        except TinyHDError as error:
            if not is_batch:
                raise
            failed += 1
            log.error("%s", error, extra=_data("failed", input=file, error=str(error)))
        except Exception:
            failed += 1
            log.exception("%s failed in an unexpected way, which is a bug in tinyhd; please report it.", file)
    if is_batch:
        _summarize(len(files), failed, damaged, time.perf_counter() - began)
    return FAILED if failed else DAMAGED if damaged else DONE


def _annotate_one(file: Path, names: "_OutputNames", model: Any, options: argparse.Namespace) -> "AnnotateResult":
    from tinyhd.pipeline.annotate import annotate

    with _Progress(file.name, options) as progress:
        result = annotate(
            file,
            names.output(file),
            model=model,
            precision=options.precision,
            backend=options.backend,
            batch_size=options.batch_size,
            style=options.style,
            colormap=options.colormap,
            opacity=options.opacity,
            normalize=options.normalize,
            codec=options.codec,
            encoder=options.encoder,
            crf=options.crf,
            preset=options.preset,
            start=options.start,
            end=options.end,
            windowing=options.windowing,
            overlap=options.overlap,
            cuts=options.cuts,
            save_maps=names.maps(file),
            stats=names.stats(file),
            regions=options.regions,
            overwrite=options.overwrite,
            progress=progress,
        )
    for warning in result.warnings:
        log.warning("%s: %s", file, warning, extra=_data("warning", input=file))
    seconds = result.elapsed_seconds
    log.info(
        "%s -> %s: %d frame%s in %.1f s (%.1f frames/s)",
        *(file, result.output, result.frames, "s" * (result.frames != 1), seconds, result.frames / seconds),
        extra=_data(
            "done",
            input=file,
            output=result.output,
            frames=result.frames,
            elapsed_seconds=round(seconds, 3),
            damaged=result.damaged,
            maps=result.maps,
            stats=result.stats,
        ),
    )
    return result


class _OutputNames:
    """Where the outputs of each input go."""

    def __init__(self, files: Sequence[Path], is_batch: bool, options: argparse.Namespace) -> None:
        self._options, self._files, self._is_batch = options, files, is_batch
        self._folder = None if options.output_dir is None else make_folder(Path(options.output_dir))
        self._stems = dict(zip(files, distinct_stems(files, self._folder), strict=True))
        # files from anywhere lie side by side in the folders for maps and statistics
        self._side_stems = dict(zip(files, distinct_stems(files, Path()), strict=True))
        if is_batch:
            for target in (options.save_maps, options.stats):
                if target is not None:
                    make_folder(Path(target))

    def output(self, file: Path) -> Path | None:
        """None: the default name."""
        name: Path | None = None if self._options.output is None else Path(self._options.output)
        if self._is_batch or self._folder:
            from tinyhd.pipeline.outputs import default_output
            from tinyhd.video.reader import probe

            default = default_output(file, probe(file).is_still)
            name = (self._folder or file.parent) / f"{self._stems[file]}{OUTPUT_TAG}{default.suffix}"
        if name is not None:
            check_target(name, self._files, self._options.overwrite)  # the other inputs are not to be overwritten too
        return name

    def maps(self, file: Path) -> str | None:
        target: str | None = self._options.save_maps
        if target is None or not self._is_batch:
            return target
        return os.path.join(target, self._side_stems[file], "")

    def stats(self, file: Path) -> str | None:
        target: str | None = self._options.stats
        if target is None or not self._is_batch:
            return target
        return os.path.join(target, f"{self._side_stems[file]}.csv")


def _summarize(count: int, failed: int, damaged: int, seconds: float) -> None:
    parts = [f"{count - failed} annotated"]
    if damaged:
        parts[0] += f" ({damaged} of them damaged)"
    if failed:
        parts.append(f"{failed} failed")
    data = _data("summary", inputs=count, failed=failed, damaged=damaged, elapsed_seconds=round(seconds, 3))
    log.info("%d input%s in %.1f s: %s.", count, "s" * (count != 1), seconds, ", ".join(parts), extra=data)


def _list_models() -> int:
    from tinyhd.network.registry import DEFAULT_MODEL, MODELS

    for name, info in MODELS.items():
        mark = " (default)" if name == DEFAULT_MODEL else ""
        print(f"{name}{mark}: {info.provenance}; licence: {info.licence}")
    return DONE


# ---- messages


def _data(event: str, **values: Any) -> dict[str, Any]:
    """`extra` of a log record: what --json-log adds to its message."""
    return {"data": {"event": event, **{k: str(v) if isinstance(v, Path) else v for k, v in values.items()}}}


class _LogHandler(logging.StreamHandler):
    """Lines on stderr, above the progress bar where there is one."""

    bar: Any = None

    def emit(self, record: logging.LogRecord) -> None:
        if self.bar is None:
            super().emit(record)
        else:
            self.bar.write(self.format(record), file=self.stream)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "data", {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        mark = {logging.ERROR: "error: ", logging.WARNING: "warning: "}.get(record.levelno, "")
        return mark + super().format(record)


def _set_up_logging(as_json: bool, quiet: bool) -> _LogHandler:
    handler = _LogHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if as_json else _TextFormatter("%(message)s"))
    logger = logging.getLogger("tinyhd")
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR if quiet else logging.INFO)
    logger.propagate = False
    return handler


class _Progress:
    """A bar on a terminal; elsewhere a line now and then."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self._name, self._shows = name, not options.quiet
        self._wants_bar = self._shows and not options.json_log and sys.stderr.isatty()
        self._bar: Any = None
        self._began: float | None = None  # with the first frame: what comes before says nothing of those to come

    def __enter__(self) -> "_Progress":
        return self

    def __call__(self, done: int, total: int | None) -> None:
        if self._wants_bar:
            self._draw(done, total)
            return
        now = time.monotonic()
        if self._began is None:
            self._began = self._last = now
            self._before = done
        elif self._shows and now - self._last >= _PROGRESS_SECONDS:
            self._last = now
            rate = (done - self._before) / max(now - self._began, 1e-9)
            parts = [f"{self._name}: {done}{f'/{total}' if total else ''} frames, {rate:.1f} frames/s"]
            left = (total - done) / rate if total and total > done else None
            if left is not None:
                parts.append(f"{left:.0f} s left")
            numbers = {"done": done, "total": total, "frames_per_second": round(rate, 2), "seconds_left": left}
            log.info("%s", ", ".join(parts), extra=_data("progress", input=self._name, **numbers))

    def _draw(self, done: int, total: int | None) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(desc=self._name, total=total, unit=" frames", file=sys.stderr, leave=False)
            _set_bar(self._bar)
        self._bar.total = max(total, done) if total else total  # the header's count may be too low
        self._bar.update(done - self._bar.n)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
            _set_bar(None)


def _set_bar(bar: Any) -> None:
    for handler in logging.getLogger("tinyhd").handlers:
        if isinstance(handler, _LogHandler):
            handler.bar = bar


# ---- signals


class _Terminated(BaseException):
    """SIGTERM: unwinds as Ctrl-C does, so that nothing unfinished is left."""


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    def stop(_signal: int, _frame: object) -> None:
        raise _Terminated

    try:
        previous = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread, which alone gets signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
