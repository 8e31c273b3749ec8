"""What the page's buttons and its API do, and what the player is told."""

import base64
import contextlib
import html
import json
import logging
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from demo.downloads import Encoded, encode, finish, make
from demo.jobs import Job, JobStore
from demo.limits import Limits, TooLongError, public_sentence
from demo.moments import plot_line
from demo.waiting import Ticket, WaitingLine
from demo.work import Models, Step, analyze
from tinyhd.applications.crop import CropPath
from tinyhd.errors import InputError, TinyHDError
from tinyhd.options import EncoderOptions, RenderOptions, RoiOptions

log = logging.getLogger("tinyhd.demo")

QUEUE_SIZE = 8
_BUG = "Something went wrong on the server; its log says what."
_STOPPED = "Stopped."
_PHASES = {
    "looking": "Looking",
    "encoding": "Encoding the download",
    "comparing": "Encoding alike all over, to compare",
}
_PROGRESS = gr.Progress()


# ---- what the player is told


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _address(path: Path) -> str:
    return "gradio_api/file=" + quote(str(path))


def idle() -> str:
    """The empty player."""
    return json.dumps({"state": "idle"})


def waiting(ahead: int) -> str:
    """The player in the queue; `ahead`: how many come first."""
    others = "1 visitor is" if ahead == 1 else f"{ahead} visitors are"
    return json.dumps({"state": "waiting", "doing": f"Number {ahead} in the queue: {others} served before you"})


def failed(message: str, trim: float = 0.0) -> str:
    """What went wrong, and what can be done: try again, or only the first `trim` seconds."""
    return json.dumps({"state": "failed", "message": message, "trim": trim})


def working(step: Step | None) -> str:
    """What the player shows during work; None: nothing is known yet."""
    if step is None:
        return json.dumps({"state": "working", "done": 0, "total": None, "doing": "Reading the file", "fresh": True})
    state = "working" if step.phase == "looking" else "encoding"
    part, parts = step.part
    # of all parts, so that the bar and the time left are those of the whole
    total = step.total and parts * step.total
    done = (part - 1) * (step.total or 0) + step.done
    value: dict[str, Any] = {"state": state, "done": done, "total": total, "doing": _PHASES[step.phase]}
    if step.done:
        value["doing"] += f": frame {step.done}" + (f" of {step.total}" if step.total else "")
    if step.frames_per_second:
        rate = f"{step.frames_per_second:.{0 if step.frames_per_second >= 9.95 else 1}f} frames/s"
        if total:
            rate += f" · {max(0, total - done) / step.frames_per_second:.0f} s left"
        value["rate"] = rate
    if step.picture:
        value["picture"] = _data_uri(step.picture)
    return json.dumps(value)


def ready(job: Job, *, download: Path | None = None, made: str = "", problem: str = "") -> str:
    """What the player needs to show a result.

    Args:
        download: what the browser shall save.
        made: what is to be said of it.
        problem: why it could not be made.
    """
    info, track = job.facts(), job.track
    assert track is not None
    assert job.original is not None
    assert job.curve is not None
    notes = _warnings(job)
    if job.is_copy:
        notes.insert(0, "Not every browser plays this kind of file; what you see is a copy in H.264.")
    if job.end is not None:
        notes.insert(0, f"These are the first {job.end:g} seconds.")
    size = f"{info.width}×{info.height}"
    facts = ["photo", size] if info.is_still else [f"{job.seconds:.1f} s", size, f"{len(job.stats)} frames"]
    value = {
        "state": "ready",
        "job": job.name,
        "still": info.is_still,
        "aspect": info.width * float(info.sample_aspect_ratio) / info.height,
        "original": _address(job.original),
        "maps": _address(job.browser_maps),
        "count": len(job.stats),
        "shape": job.map_shape,
        "ranges": {"video": track.value_range, "none": [0, track.display_scale]},
        "seconds": job.seconds,
        "line": plot_line(job.curve),
        "focus": round(_mean_focus(job)),
        "moments": [
            {
                "time": peak.time_seconds,
                "focus": round(peak.focus),
                "picture": _data_uri(picture),
            }
            for peak, picture in job.moments
        ],
        "crops": {aspect: _places(job, crop) for aspect, crop in job.crops.items()},
        "facts": " · ".join([job.stem, *facts, job.model]),
        "notes": notes,
        "made": made,
        "problem": problem,
    }
    if download:
        value["download"] = {"address": _address(download), "name": download.name}
    return json.dumps(value)


def _places(job: Job, crop: CropPath) -> dict[str, Any]:
    """A crop as the page takes it: its size, and left and top at each frame, as fractions of the picture."""
    boxes = [crop.at(numbers.time_seconds) for numbers in job.stats]
    width, height = crop.size
    places = [part for x, y, _, _ in boxes for part in (round(x / width, 5), round(y / height, 5))]
    return {"size": [boxes[0][2] / width, boxes[0][3] / height], "places": places}


def _mean_focus(job: Job) -> float:
    return sum(s.focus for s in job.stats) / len(job.stats)


def sizes(name: str, numbers: dict[str, int]) -> str:
    """What is said of an encoded file; `numbers` as `downloads.Encoded` has them."""

    def size(prefix: str) -> str:
        rate = numbers[f"{prefix}bits_per_second"]
        bits = f"{rate / 1e6:.1f} Mbit/s" if rate >= 1e6 else f"{rate / 1e3:.0f} kbit/s"
        return f"{numbers[f'{prefix}bytes'] / 1e6:.2f} MB, {bits}"

    text = f"{name}: {size('')}"
    if "plain_bytes" in numbers:
        saved = round(100 - 100 * numbers["bytes"] / numbers["plain_bytes"])
        text += f"; {abs(saved)} % {'more' if saved < 0 else 'less'} than encoded alike all over ({size('plain_')})"
    if "source_bytes" in numbers:
        text += f". The file that came has {numbers['source_bytes'] / 1e6:.2f} MB"
    return f"{text}."


def _warnings(job: Job) -> list[str]:
    return [text.replace(str(job.folder), "") for text in job.warnings]


def summary(job: Job) -> dict[str, Any]:
    """What the API tells about a video."""
    info = job.facts()
    return {
        "job": job.name,
        "model": job.model,
        "frames": len(job.stats),
        "width": info.width,
        "height": info.height,
        "mean_focus": round(_mean_focus(job), 1),
        "mean_entropy_bits": round(sum(s.entropy_bits for s in job.stats) / len(job.stats), 4),
        "mean_spread": round(sum(s.spread for s in job.stats) / len(job.stats), 5),
        "moments": [
            {"time_seconds": peak.time_seconds, "focus": round(peak.focus, 1), "prominence": round(peak.prominence, 1)}
            for peak, _ in job.moments
        ],
        "aspects": list(job.crops),
        "warnings": _warnings(job),
    }


# ---- what is done


def _sentence(error: Exception) -> str:
    """What to tell about an error: one sentence without paths; what is a bug is logged."""
    if isinstance(error, TinyHDError):
        return public_sentence(error)
    log.error("the demo failed", exc_info=error)
    return _BUG


@contextlib.contextmanager
def clean_errors() -> Iterator[None]:
    """Whatever goes wrong reaches a client of the API as one sentence, without tags: Gradio shows it as HTML."""
    try:
        yield
    except gr.Error:
        raise
    except Exception as error:
        raise gr.Error(html.escape(_sentence(error), quote=False), print_exception=False) from None


def _in_turn(ticket: Ticket, progress: gr.Progress) -> None:
    while ahead := ticket.wait():
        progress(0, desc=f"Number {ahead} in the queue")


_Making = Generator[Step, None, tuple[Path, str]]
"""Says how far it is; in the end a file, and what is said of it."""


class Actions:
    """What the page's and the API's events call."""

    def __init__(self, store: JobStore, models: Models, limits: Limits) -> None:
        self.store, self.models, self.limits = store, models, limits
        self.line, self.encoders = WaitingLine(QUEUE_SIZE), WaitingLine(QUEUE_SIZE)

    # The page's events are generators over (player, job).

    def analyze(
        self, path: str | None, model: str, style: str, colormap: str, opacity: float, normalize: str, old: str
    ) -> Any:
        """Let a model look at a file, and show the result."""
        if not path:
            yield gr.skip(), gr.skip()
            return
        self.store.discard(old)
        yield working(None), ""
        try:
            job = self.store.create(Path(path))
        except Exception as error:
            yield failed(_sentence(error)), ""
            return
        yield from self._look(job, model, RenderOptions(style, colormap, opacity, normalize))

    def analyze_again(
        self, trim: bool, model: str, style: str, colormap: str, opacity: float, normalize: str, old: str
    ) -> Any:
        """Look at the same file again, or with `trim` at as much of it as is taken."""
        if not old:
            yield gr.skip(), gr.skip()
            return
        try:
            with self.store.using(old) as before:
                if before.ready() and before.model == model:  # lists tell of a choice when they are only passed by
                    yield gr.skip(), gr.skip()
                    return
                yield working(None), old
                job = self.store.create(before.source, stem=before.stem)
                job.end, job.trim = before.trim if trim else before.end, before.trim
        except Exception as error:
            yield failed(_sentence(error)), ""
            return
        self.store.discard(old)
        yield from self._look(job, model, RenderOptions(style, colormap, opacity, normalize))

    def _look(self, job: Job, model: str, render: RenderOptions) -> Any:
        name = job.name
        try:
            with self.store.using(name), self.line.ticket() as ticket:
                while ahead := ticket.wait():
                    yield waiting(ahead), name
                yield working(None), name
                job.model = model
                for step in analyze(job, self.models.get(model), self.limits, render, self.models.options):
                    yield working(step), name
        except TooLongError as error:
            job.trim = error.seconds
            yield failed(_sentence(error), error.seconds), name
        except Exception as error:
            yield failed(_sentence(error)), name
        else:
            yield ready(job), name

    def download(
        self, kind: str, aspect: str, style: str, colormap: str, opacity: float, normalize: str, name: str
    ) -> Any:
        """Make a file, if need be, and have the browser save it."""

        def steps(job: Job) -> _Making:
            return (yield from make(job, kind, RenderOptions(style, colormap, opacity, normalize), aspect)), ""

        yield from self._make(name, steps)

    def download_encoded(self, codec: str, strength: float, crf: str | None, bitrate: str | None, name: str) -> Any:
        """Encode with more bits where people look, have the browser save it, and say what that has saved."""

        def steps(job: Job) -> _Making:
            encoded = yield from self._encode(job, codec, strength, crf, bitrate)
            return encoded.path, sizes(encoded.path.name, encoded.numbers)

        yield from self._make(name, steps)

    def _encode(
        self, job: Job, codec: str, strength: float, crf: str | None, bitrate: str | None
    ) -> Generator[Step, None, Encoded]:
        encoder = EncoderOptions.from_mapping({"codec": codec, "crf": crf, "bitrate": bitrate})
        self.limits.check_rate(encoder)
        return (yield from encode(job, RoiOptions(strength=strength), encoder))

    def _make(self, name: str, start: Callable[[Job], _Making]) -> Any:
        if not name:
            yield gr.skip(), gr.skip()
            return
        try:
            with self.store.using(name) as job, self.encoders.ticket() as ticket:
                try:
                    while ahead := ticket.wait():
                        yield json.dumps({"state": "encoding", "doing": f"Number {ahead} in the queue"}), name
                    yield working(Step("encoding", 0, len(job.stats))), name
                    steps = start(job)
                    try:
                        while True:
                            yield working(next(steps)), name
                    except StopIteration as end:
                        file, made = end.value
                        yield ready(job, download=file, made=made), name
                except TinyHDError as error:
                    yield ready(job, problem=_sentence(error)), name
        except Exception as error:
            yield failed(_sentence(error)), name

    def stop(self, name: str) -> Any:
        """Show what there is once the work was ended: a result as before, or that it can be tried again."""
        try:
            with self.store.using(name) as job:
                return (ready(job) if job.ready() else failed(_STOPPED)), name
        except InputError:
            return idle(), ""

    def forget(self, old: str) -> Any:
        """Empty the player."""
        self.store.discard(old)
        return idle(), ""

    # The API. Docstrings are what its documentation, and clients of the Model Context Protocol, are shown.

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
        """Shows where people look in a video or picture: a heat map over each frame, predicted by a saliency model.

        Args:
            file: A video or a picture.
            model: Which model looks at it.
            style: How its maps are drawn: heat map over the frame, alone, beside it, or the rest dimmed (spotlight).
            colormap: Colors of the heat map.
            opacity: Of the most attention, 0 to 1.
            normalize: What is drawn as full attention: each frame's maximum, the whole video's, or a fixed value.

        Returns:
            The annotated video (H.264 mp4; PNG for a picture), the heat map alone, the raw maps (npz: `maps`, float16
            (frames, 192, 256), and `time_seconds`), a table with a line for each frame (csv), and a summary: the focus
            (5 to 100: percent of the attention on the most attended twentieth of the frame), the most attended moments,
            and `job`, which /render wants.
        """
        with clean_errors():
            if not file:
                raise InputError("There is no file: give a video or a picture.")
            job, render = self.store.create(Path(file)), RenderOptions(style, colormap, opacity, normalize)
            try:
                with self.store.using(job.name):
                    with self.line.ticket() as ticket:
                        _in_turn(ticket, progress)
                        job.model = model
                        progress(0, desc="Reading the file")
                        for step in analyze(job, self.models.get(model), self.limits, render, self.models.options):
                            progress((step.done, step.total), desc="Looking", unit="frames")
                    return *self._files(job, render, ("result", "heatmap", "maps", "stats"), progress), summary(job)
            except BaseException:
                self.store.discard(job.name)
                raise

    def render(
        self, job: str, style: str, colormap: str, opacity: float, normalize: str, progress: gr.Progress = _PROGRESS
    ) -> tuple[str, ...]:
        """Draws a video that /annotate has seen in another way, from the kept maps, without running the model again.

        Args:
            job: From the summary of /annotate; files are kept for half an hour after their last use.
            style: How the maps are drawn: heat map over the frame, alone, beside it, or the rest dimmed (spotlight).
            colormap: Colors of the heat map.
            opacity: Of the most attention, 0 to 1.
            normalize: What is drawn as full attention: each frame's maximum, the whole video's, or a fixed value.

        Returns:
            The annotated video and the heat map alone.
        """
        with clean_errors(), self.store.using(job) as kept:
            render = RenderOptions(style, colormap, opacity, normalize)
            return self._files(kept, render, ("result", "heatmap"), progress)

    def reframe(self, job: str, aspect: str, progress: gr.Progress = _PROGRESS) -> str:
        """Cuts a video that /annotate has seen to another aspect, by a crop that follows attention.

        Args:
            job: From the summary of /annotate; files are kept for half an hour after their last use.
            aspect: Width to height of the result; the summary of /annotate lists those that the video allows.

        Returns:
            The reframed video, with its sound; PNG for a picture.
        """
        with clean_errors(), self.store.using(job) as kept:
            return self._files(kept, RenderOptions(), ("reframed",), progress, aspect)[0]

    def moments(self, job: str, progress: gr.Progress = _PROGRESS) -> str:
        """Picks key moments of a video that /annotate has seen: sharp frames on which attention is gathered.

        Args:
            job: From the summary of /annotate; files are kept for half an hour after their last use.

        Returns:
            A zip file of pictures, with a contact sheet and a JSON file that says when they are.
        """
        with clean_errors(), self.store.using(job) as kept:
            return self._files(kept, RenderOptions(), ("moments",), progress)[0]

    def report(self, job: str, progress: gr.Progress = _PROGRESS) -> str:
        """Writes a report of attention in a video that /annotate has seen: film strip, attention over time, focus.

        Args:
            job: From the summary of /annotate; files are kept for half an hour after their last use.

        Returns:
            One HTML file, which needs nothing else.
        """
        with clean_errors(), self.store.using(job) as kept:
            return self._files(kept, RenderOptions(), ("report",), progress)[0]

    def encode(
        self,
        job: str,
        codec: str,
        strength: float,
        crf: str | None = None,
        bitrate: str | None = None,
        progress: gr.Progress = _PROGRESS,
    ) -> tuple[str, dict[str, int]]:
        """Encodes a video that /annotate has seen anew, with more of its bits where people look.

        Args:
            job: From the summary of /annotate; files are kept for half an hour after their last use.
            codec: Of the result.
            strength: By how many steps of the quantizer the least attended parts are coarser, 0 to 12.
            crf: Quality, lower is better (x264's or x265's scale); left out: the package's own.
            bitrate: In bits a second, such as 800k or 2.5M, instead of crf.

        Returns:
            The encoded video (mp4, with its sound), and its bytes and bits_per_second; without a bitrate also those
            (plain_bytes, plain_bits_per_second) of the video encoded at the same crf alike all over, and the bytes of
            the file that came (source_bytes).
        """
        with clean_errors(), self.store.using(job) as kept, self.encoders.ticket() as ticket:
            _in_turn(ticket, progress)
            encoded = finish(self._encode(kept, codec, strength, crf, bitrate))
            return str(encoded.path), encoded.numbers

    def _files(
        self, job: Job, render: RenderOptions, kinds: tuple[str, ...], progress: gr.Progress, aspect: str = ""
    ) -> tuple[str, ...]:
        with self.encoders.ticket() as ticket:
            _in_turn(ticket, progress)
            return tuple(str(finish(make(job, kind, render, aspect))) for kind in kinds)
