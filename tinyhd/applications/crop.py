"""A crop that moves over a video: where it lies at each moment, as files that can be edited."""

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyhd.errors import InputError, OptionError
from tinyhd.files import AtomicOutput, StrPath, check_suffix

COLUMNS = ("time_seconds", "x", "y", "width", "height")
PATH_SUFFIXES = (".csv", ".json", ".sendcmd")
"""Of files that `write_path` makes; `read_path` reads the first two."""

_SLACK_SECONDS = 1e-6
_SENDCMD_LEAD_SECONDS = 1e-3  # before the frame, so that no rounding makes a command a frame late


@dataclass(frozen=True)
class CropPath:
    """Where the crop lies: at its knots, and between them in proportion, unless the next one is a jump."""

    size: tuple[int, int]
    """(width, height) of the upright source, pixels."""
    times: np.ndarray
    """float64 (N,): seconds after the container's start, increasing."""
    boxes: np.ndarray
    """float64 (N, 4): x, y, width and height in pixels of the upright source."""
    jumps: np.ndarray
    """bool (N,): from this knot's time on the crop lies there; the one before holds until then."""
    warnings: tuple[str, ...] = ()
    """Sentences about what could not be done."""

    def at(self, time: float) -> tuple[int, int, int, int]:
        """x, y, width and height at a time, whole pixels inside the source; the first and last knots are held."""
        after = int(np.searchsorted(self.times, time + _SLACK_SECONDS, side="right"))
        before = max(after - 1, 0)
        box = self.boxes[before]
        if 0 < after < len(self.times) and not self.jumps[after]:
            weight = (time - self.times[before]) / (self.times[after] - self.times[before])
            box = box + (self.boxes[after] - box) * max(weight, 0.0)
        width, height = (min(max(round(float(n)), 1), m) for n, m in zip(box[2:], self.size, strict=True))
        x, y = (
            min(max(round(float(n)), 0), m - taken)
            for n, m, taken in zip(box[:2], self.size, (width, height), strict=True)
        )
        return x, y, width, height


class PathWriter(AtomicOutput):
    """Writes a crop, a row a frame; a context manager. The file appears at the normal end of the body.

    .csv has the columns `COLUMNS`; .json has the same in "frames", and "source_size" and "output_size"; .sendcmd is a
    script for FFmpeg's filter of that name:

        ffmpeg -i in.mp4 -vf "sendcmd=f=crop.sendcmd,crop=w=404:h=720:x=0:y=0,scale=404:720" out.mp4
    """

    def __init__(
        self, path: StrPath, size: tuple[int, int], output_size: tuple[int, int], *, overwrite: bool = False
    ) -> None:
        """
        Args:
            path: must end in one of `PATH_SUFFIXES`.
            size, output_size: (width, height) of the upright source and of the result, pixels.

        Raises:
            OptionError: another ending.
            OutputError: the file cannot be written.
        """
        check_suffix(Path(path), PATH_SUFFIXES, "the path of a crop")
        super().__init__(Path(path), overwrite=overwrite)
        self._size, self._output_size = size, output_size
        self._rows: list[tuple[float, tuple[int, int, int, int]]] = []

    def write(self, time: float, box: tuple[int, int, int, int]) -> None:
        """Append the crop of the frame at `time`, seconds after the container's start."""
        self._rows.append((time, box))

    def _complete(self) -> None:
        make = {".csv": self._csv, ".json": self._json, ".sendcmd": self._sendcmd}[self.path.suffix.lower()]
        self.temporary.write_text(make(), encoding="utf-8", newline="")

    def _csv(self) -> str:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows((f"{time:.6f}", *box) for time, box in self._rows)
        return text.getvalue()

    def _json(self) -> str:
        frames = [dict(zip(COLUMNS, (round(time, 6), *box), strict=True)) for time, box in self._rows]
        return json.dumps({"source_size": self._size, "output_size": self._output_size, "frames": frames}, indent=1)

    def _sendcmd(self) -> str:
        lines: list[str] = []
        last: dict[str, int] = {}
        for time, (x, y, width, height) in self._rows:
            # the filter limits x and y by the width and height that it has
            now = {"w": width, "h": height, "x": x, "y": y}
            if changed := [f"crop {name} {value}" for name, value in now.items() if last.get(name) != value]:
                lines.append(f"{max(time - _SENDCMD_LEAD_SECONDS, 0):.6f} {', '.join(changed)};\n")
            last = now
        return "".join(lines)


def read_path(path: StrPath, size: tuple[int, int]) -> CropPath:
    """A crop from a .csv or .json file, such as `PathWriter` makes; rows may be changed or left out: between two rows
    the crop moves in proportion, before the first and after the last it is held.

    Args:
        size: (width, height) of the upright source, pixels.

    Raises:
        InputError: the file cannot be read, is not like that, or has a crop that reaches outside the source.
        OptionError: another ending.
    """
    name = repr(os.fspath(path))
    check_suffix(Path(path), PATH_SUFFIXES[:2], "a path to be read")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the path {name} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    try:
        rows = list(_csv_rows(text) if Path(path).suffix.lower() == ".csv" else _json_rows(text, size))
        if not rows:
            raise ValueError("it has no row")
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        why = str(error) if isinstance(error, ValueError | csv.Error) else "a value is missing or of another kind"
        raise InputError(f"the path {name} is not as it should be: {why}.") from error
    table = np.array([row for _, row in rows])
    for (where, row), later in zip(rows, [*table[1:, 0], math.inf], strict=True):
        time, x, y, width, height = row
        if not later > time:
            raise InputError(f"the path {name} is not as it should be: the time after {where} is not later than there.")
        if width < 1 or height < 1 or x < 0 or y < 0 or x + width > size[0] + 1e-6 or y + height > size[1] + 1e-6:
            raise InputError(
                f"the path {name} has a crop in {where} that is not inside the source, which is {size[0]}x{size[1]}."
            )
    return CropPath(size, table[:, 0], table[:, 1:], np.zeros(len(table), bool))


def _csv_rows(text: str) -> Iterator[tuple[str, list[float]]]:
    table = csv.DictReader(io.StringIO(text))
    if missing := [column for column in COLUMNS if column not in (table.fieldnames or ())]:
        raise ValueError(f"the column {missing[0]} is missing")
    for row in table:
        where = f"line {table.line_num}"
        yield where, _numbers([row[column] for column in COLUMNS], where)


def _json_rows(text: str, size: tuple[int, int]) -> Iterator[tuple[str, list[float]]]:
    content = json.loads(text)
    made_for = content.get("source_size", list(size))
    if list(made_for) != list(size):
        raise ValueError(f"it is of a source of {made_for[0]}x{made_for[1]}, but this one is {size[0]}x{size[1]}")
    for number, frame in enumerate(content["frames"], start=1):
        where = f"frame {number}"
        yield where, _numbers([frame[column] for column in COLUMNS], where)


def _numbers(values: Sequence[object], where: str) -> list[float]:
    try:
        numbers = [float(str(value)) for value in values]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{where} has something else than numbers")
    return numbers


def crop_size(size: tuple[int, int], ratio: float, pixel_aspect: float = 1.0) -> tuple[int, int]:
    """The largest crop of an aspect: even (width, height) where the source allows it.

    Args:
        size: (width, height) of the source, pixels.
        ratio: width / height of the crop as displayed.
        pixel_aspect: width / height of a pixel of the source.

    Raises:
        OptionError: the crop would be narrower than 16 pixels.
    """
    width, height = (n - n % 2 if n > 1 else n for n in size)
    stored = ratio / pixel_aspect
    wanted = (height * stored, height) if height * stored <= width else (width, width / stored)
    crop = tuple(min(2 * round(n / 2), m) for n, m in zip(wanted, (width, height), strict=True))
    if min(crop) < min(16, width, height):
        raise OptionError(
            f"a crop of that aspect would be {round(wanted[0])}x{round(wanted[1])} pixels of a source of "
            f"{size[0]}x{size[1]}: choose an aspect nearer to the source's."
        )
    return crop[0], crop[1]
