"""One of many videos: what is to be done with it, as plain data, and the one function that does it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from tinyhd.applications.crop import CropPath
from tinyhd.choices import field_types
from tinyhd.errors import OptionError
from tinyhd.inference.backends import Backend, open_backend
from tinyhd.options import (
    GROUPS,
    EncoderOptions,
    InferenceOptions,
    MomentOptions,
    ReframeOptions,
    RenderOptions,
    RoiOptions,
)
from tinyhd.pipeline.addresses import as_path
from tinyhd.pipeline.analyze import Progress, Seconds, analyze
from tinyhd.pipeline.annotate import annotate
from tinyhd.pipeline.encode import encode
from tinyhd.pipeline.moments import MOMENTS_SUFFIX, moments
from tinyhd.pipeline.outputs import Result
from tinyhd.pipeline.reframe import reframe
from tinyhd.saliency.boxes import MovingBox


@dataclass(frozen=True)
class Job:
    """What is to be done with one video; see the functions of the actions' names for the fields.

    Raises:
        OptionError: there is no such action.
    """

    input: Path
    output: Path | None = None
    action: str = "annotate"
    inference: InferenceOptions = field(default_factory=InferenceOptions)
    render: RenderOptions = field(default_factory=RenderOptions)
    encoder: EncoderOptions = field(default_factory=EncoderOptions)
    crop: ReframeOptions = field(default_factory=ReframeOptions)
    moments: MomentOptions = field(default_factory=MomentOptions)
    roi: RoiOptions = field(default_factory=RoiOptions)
    track: Path | None = None
    start: Seconds | None = None
    end: Seconds | None = None
    save_maps: str | None = None
    stats: str | None = None
    regions: str | None = None
    path: str | CropPath | None = None
    keep: str | Sequence[MovingBox] | None = None
    save_path: str | None = None
    preview: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.action not in GROUPS:
            raise OptionError(f"the action is {self.action!r}; it must be one of {', '.join(GROUPS)}.")

    @property
    def needs_network(self) -> bool:
        """Whether the network has to look at the video."""
        return self.track is None and self.path is None

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """From a row of a list, with the options of all groups side by side, text or not.

        Raises:
            OptionError: an unknown name, or a value that is not allowed.
        """
        left = {name: value for name, value in values.items() if value is not None and value != ""}
        given: dict[str, Any] = {}
        for group, kind in GROUPS.get(left.get("action", "annotate"), {}).items():
            own = {name: left.pop(name) for name in field_types(kind) if name in left}
            given[group] = kind.from_mapping(own)
        known = {entry.name for entry in fields(cls)} - {group for groups in GROUPS.values() for group in groups}
        if unknown := sorted(set(left) - known):
            raise OptionError(f"there is no option {unknown[0]!r}.")
        given |= {name: as_path(left.pop(name)) for name in ("input", "output", "track") if name in left}
        return cls(**left, **given)


def run_job(
    job: Job,
    *,
    backend: Backend | None = None,
    progress: Progress | None = None,
) -> Result:
    """Do a job.

    Args:
        backend: what `open_backend` gave for the job's options, to be used for one job after another.
        progress: as for `annotate`.

    Raises:
        TinyHDError: as the functions named as the actions; nothing half-written is left.
    """
    common: dict[str, Any] = {
        "inference": job.inference,
        "start": job.start,
        "end": job.end,
        "overwrite": job.overwrite,
        "progress": progress,
    }
    if job.needs_network:
        common["backend"] = backend or open_backend(job.inference)
    if job.action == "annotate":
        names = ("render", "encoder", "track", "save_maps", "stats", "regions")
        return annotate(job.input, job.output, **{name: getattr(job, name) for name in names}, **common)
    if job.action == "reframe":
        names = ("encoder", "track", "path", "keep", "preview", "save_path")
        own = {name: getattr(job, name) for name in names}
        return reframe(job.input, job.output, options=job.crop, **own, **common)
    if job.action == "encode":
        own = {"options": job.roi, "encoder": job.encoder, "track": job.track}
        return encode(job.input, job.output, **own, **common)
    if job.output is None:
        raise OptionError(f"a job that is to {job.action} needs an output.")
    if job.action == "moments":
        stem = job.output.name.removesuffix(MOMENTS_SUFFIX)
        return moments(job.input, job.output.parent, stem=stem, options=job.moments, track=job.track, **common)
    began = time.perf_counter()
    with analyze(job.input, job.output, **common) as track:
        info = track.info
    return Result(
        input=job.input,
        output=job.output,
        frames=info.source.frames,
        elapsed_seconds=time.perf_counter() - began,
        damaged=info.damaged,
        warnings=info.warnings,
    )
