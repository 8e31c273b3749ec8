"""One of many videos: what is to be done with it, as plain data, and the one function that does it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from tinyhd.errors import OptionError
from tinyhd.inference.backends import Backend, open_backend
from tinyhd.options import EncoderOptions, InferenceOptions, Options, RenderOptions, field_types
from tinyhd.pipeline.analyze import Progress, Seconds, analyze
from tinyhd.pipeline.annotate import AnnotateResult, annotate

ACTIONS = ("annotate", "analyze")


@dataclass(frozen=True)
class Job:
    """What is to be done with one video; see `annotate` and `analyze` for the fields.

    Raises:
        OptionError: there is no such action.
    """

    input: Path
    output: Path | None = None
    action: str = "annotate"
    inference: InferenceOptions = field(default_factory=InferenceOptions)
    render: RenderOptions = field(default_factory=RenderOptions)
    encoder: EncoderOptions = field(default_factory=EncoderOptions)
    track: Path | None = None
    start: Seconds | None = None
    end: Seconds | None = None
    save_maps: str | None = None
    stats: str | None = None
    regions: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise OptionError(f"the action is {self.action!r}; it must be one of {', '.join(ACTIONS)}.")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """From a row of a list, with the options of all groups side by side, text or not.

        Raises:
            OptionError: an unknown name, or a value that is not allowed.
        """
        groups: dict[str, type[Options]] = {
            "inference": InferenceOptions,
            "render": RenderOptions,
            "encoder": EncoderOptions,
        }
        left = {name: value for name, value in values.items() if value is not None and value != ""}
        given: dict[str, Any] = {}
        for group, kind in groups.items():
            own = {name: left.pop(name) for name in field_types(kind) if name in left}
            given[group] = kind.from_mapping(own)
        known = {entry.name for entry in fields(cls)} - set(groups)
        if unknown := sorted(set(left) - known):
            raise OptionError(f"there is no option {unknown[0]!r}.")
        given |= {name: Path(left.pop(name)) for name in ("input", "output", "track") if name in left}
        return cls(**left, **given)


def run_job(
    job: Job,
    *,
    backend: Backend | None = None,
    progress: Progress | None = None,
) -> AnnotateResult:
    """Do a job.

    Args:
        backend: what `open_backend` gave for the job's options, to be used for one job after another.
        progress: as for `annotate`.

    Raises:
        TinyHDError: as `annotate` and `analyze`; nothing half-written is left.
    """
    common: dict[str, Any] = {
        "inference": job.inference,
        "start": job.start,
        "end": job.end,
        "overwrite": job.overwrite,
        "progress": progress,
    }
    if job.track is None:
        common["backend"] = backend or open_backend(job.inference)
    if job.action == "annotate":
        return annotate(
            job.input,
            job.output,
            render=job.render,
            encoder=job.encoder,
            track=job.track,
            save_maps=job.save_maps,
            stats=job.stats,
            regions=job.regions,
            **common,
        )
    began = time.perf_counter()
    if job.output is None:
        raise OptionError("a job that analyzes needs an output.")
    with analyze(job.input, job.output, **common) as track:
        info = track.info
    return AnnotateResult(
        input=job.input,
        output=job.output,
        frames=info.source.frames,
        elapsed_seconds=time.perf_counter() - began,
        damaged=info.damaged,
        warnings=info.warnings,
    )
