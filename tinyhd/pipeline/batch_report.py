"""What a batch has done, from its manifest: one HTML page that needs nothing else, and a table."""

import csv
import io
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from tinyhd.errors import InputError, OptionError
from tinyhd.files import StrPath, check_suffix, check_target, write_file
from tinyhd.pipeline.addresses import Address, is_address
from tinyhd.pipeline.manifest import MANIFEST_NAME, manifests, read_manifest
from tinyhd.pipeline.remote_manifest import fetch_manifests
from tinyhd.version import __version__

TABLE_SUFFIXES = (".csv", ".parquet")
UNFINISHED = "unfinished"
"""The status of an input whose last attempt has no end: the run was killed, or is still at work."""

_SLOWEST, _MOST_ROWS = 20, 2000


@dataclass(frozen=True)
class Row:
    """How the last attempt at an input ended."""

    input: str
    action: str
    status: str
    """done, damaged, failed or unfinished."""
    frames: int | None
    seconds: float | None
    """Of work on it, by the process that did it."""
    frames_per_second: float | None
    attempts: int
    bytes: int
    """Of the input."""
    outputs: str
    """Names, with semicolons between them."""
    reason: str
    """What went wrong, or the warnings."""
    worker: int | None
    finished: str
    """The time, UTC."""


@dataclass(frozen=True)
class BatchReport:
    """What `batch_report` has found and written."""

    output: Path
    table: Path
    rows: tuple[Row, ...]
    counts: dict[str, int]
    """Of inputs, by status."""


def batch_report(
    folder: StrPath, output: StrPath | None = None, *, table: StrPath | None = None, overwrite: bool = False
) -> BatchReport:
    """Write a report about a batch: one HTML page, and a table with a row for each input.

    Args:
        folder: what the batch had as --output-dir, an address included.
        output: ends in .html; None: `tinyhd-report.html` in the folder.
        table: ends in .csv or .parquet, for which PyArrow is needed; None: beside the page, .csv.
        overwrite: replace files that exist.

    Raises:
        InputError: there is no manifest in the folder, or it cannot be read.
        OutputError: a file cannot be written.
        OptionError: another ending, or Jinja or PyArrow is not installed.
    """
    name = os.fspath(folder)
    if is_address(name):
        if output is None:
            raise OptionError(f"{name!r} is at an address: say where the page goes, with -o.")
        with tempfile.TemporaryDirectory(prefix="tinyhd-") as here:
            fetch_manifests(Address(name), Path(here))
            return _report(Path(here), name, output, table, overwrite)
    return _report(Path(folder), name, output, table, overwrite)


def _report(folder: Path, name: str, output: StrPath | None, table: StrPath | None, overwrite: bool) -> BatchReport:
    found = manifests(folder)
    page = folder / "tinyhd-report.html" if output is None else Path(output)
    beside = page.with_suffix(".csv") if table is None else Path(table)
    check_suffix(page, (".html", ".htm"), "a report")
    check_suffix(beside, TABLE_SUFFIXES, "a table")
    for path in (page, beside):
        check_target(path, found, overwrite)
    if not found:
        raise InputError(f"there is no {MANIFEST_NAME} in {name!r}: name the --output-dir of a batch.")
    try:
        rows = _rows(found)
    except OSError as error:
        raise InputError(f"{os.fspath(error.filename)!r} cannot be read: {error.strerror}.") from error
    text = _html(rows, os.path.basename(os.path.abspath(name)))
    content = _parquet(rows) if beside.suffix.lower() == ".parquet" else _csv(rows)
    write_file(page, text.encode())
    write_file(beside, content)
    return BatchReport(page, beside, tuple(rows), dict(Counter(row.status for row in rows)))


def _rows(files: Sequence[Path]) -> list[Row]:
    """One for each input and action, by its last line; in the order in which they were begun."""
    rows: dict[tuple[str, str], Row] = {}
    lines = (line for file in files for line in read_manifest(file))
    for values, entry, _ in sorted(lines, key=lambda line: (line[1].attempt, line[1].time)):
        frames, seconds = values.get("frames"), values.get("seconds")
        rows[values["action"], values["input"]] = Row(
            input=values["input"],
            action=values["action"],
            status=UNFINISHED if entry.status == "started" else entry.status,
            frames=frames,
            seconds=seconds,
            frames_per_second=round(frames / seconds, 2) if frames and seconds else None,
            attempts=entry.attempt,
            bytes=entry.size,
            outputs=";".join(name for name, _ in entry.outputs),
            reason=values.get("error") or " ".join(values.get("warnings", ())),
            worker=values.get("worker"),
            finished=time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(values.get("time", 0))),
        )
    return list(rows.values())


def _html(rows: Sequence[Row], name: str) -> str:
    try:
        import jinja2
    except ImportError as error:
        raise OptionError('reports need the extra "report": pip install "tinyhd[report]".') from error
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(clock=clock, printable=_printable)
    text = resources.files("tinyhd.pipeline").joinpath("batch_report.html").read_text(encoding="utf-8")
    timed = [row for row in rows if row.seconds]
    frames, seconds = sum(row.frames or 0 for row in timed), sum(row.seconds or 0 for row in timed)
    reasons = Counter(_kind(row) for row in rows if row.status == "failed")
    return environment.from_string(text).render(
        name=name,
        rows=rows[:_MOST_ROWS],
        count=len(rows),
        statuses=Counter(row.status for row in rows),
        frames=frames,
        seconds=seconds,
        rate=frames / seconds if seconds else None,
        reasons=reasons.most_common(),
        troubled=[row for row in rows if row.status != "done"][:_MOST_ROWS],
        slowest=sorted(timed, key=lambda row: -(row.seconds or 0))[:_SLOWEST],
        unfinished=UNFINISHED,
        version=__version__,
    )


def _kind(row: Row) -> str:
    """The reason without what differs from input to input."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "…", row.reason.replace(row.input, "…"))
    return re.sub(r"\d+(\.\d+)?", "N", text)


def clock(seconds: float) -> str:
    """75.2 -> 1:15; 5 -> 5.0 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _printable(text: str) -> str:
    """With marks for what no encoding has: names of files may hold any bytes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _csv(rows: Sequence[Row]) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return file.getvalue().encode("utf-8", "surrogateescape")


def _parquet(rows: Sequence[Row]) -> bytes:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise OptionError("tables in Parquet need PyArrow: pip install pyarrow, or name a .csv file.") from error
    kinds = {"frames": "int64", "seconds": "float64", "frames_per_second": "float64", "worker": "int64"}
    columns: dict[str, Any] = {}
    for field in fields(Row):
        values = [getattr(row, field.name) for row in rows]
        if field.type is str:
            values = [_printable(value) for value in values]
        columns[field.name] = pyarrow.array(values, kinds.get(field.name))
    target = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), target)
    return target.getvalue()
