"""What --dry-run says: the outputs, and how long it would take."""

import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyhd.cli.commands import _Tally
    from tinyhd.pipeline.manifest import Manifest, Plan

_MOST_HEADERS = 500
"""So many files are opened at most to learn how long they are; beyond, their mean counts."""


def say(plans: "Iterable[Plan]", tally: "_Tally", manifest: "Manifest | None", processes: int) -> int:
    """Print it; returns how many inputs cannot be read.

    Args:
        plans: what is to be done.
        tally: counts what cannot be read, and what is done already.
        manifest: of earlier runs, which tells the speed.
        processes: how many would work side by side.
    """
    from tinyhd.pipeline.manifest import output_names

    inputs: list[Path] = []
    for plan in plans:
        outputs: list[str] = []
        with tally.failures(os.fspath(plan.job.input)):
            outputs = output_names(plan.job)
        if outputs:
            inputs.append(plan.job.input)
            print(f"{plan.job.input} -> {', '.join(outputs)}")
    kept = f"; {tally.before_done} are done already" if tally.before_done else ""
    print(f"{len(inputs)} input{'s' * (len(inputs) != 1)} to do{kept}.")
    if inputs:
        print(_how_long(inputs, manifest, processes))
    return tally.failed


def _how_long(inputs: list[Path], manifest: "Manifest | None", processes: int) -> str:
    """A sentence about frames and time, with what it rests on."""
    from tinyhd.errors import InputError
    from tinyhd.pipeline.batch_report import clock
    from tinyhd.video.reader import probe

    sample = inputs if len(inputs) <= _MOST_HEADERS else random.Random(0).sample(inputs, _MOST_HEADERS)
    counts: list[int] = []
    for file in sample:
        try:
            count = probe(file).frame_count
        except InputError:
            continue
        if count is not None:
            counts.append(count)
    if not counts:
        return "How long it would take is not known: their headers do not say how many frames they have."
    frames = round(sum(counts) / len(counts) * len(inputs))
    basis = "" if len(counts) == len(inputs) else f" (by the headers of {len(counts)} of them)"
    if manifest is None or manifest.seconds <= 0:
        return f"About {frames:,} frames{basis}; how long they would take is not known before some are done there."
    rate = manifest.frames / manifest.seconds
    beside = f" in each of {processes} processes" if processes > 1 else ""
    return (
        f"About {frames:,} frames{basis}: {clock(frames / rate / processes)} at the {rate:.1f} frames/s of "
        f"earlier runs there{beside}."
    )
