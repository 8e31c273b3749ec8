"""Statistics as files: CSV or JSON lines."""

import csv
import json
from pathlib import Path
from types import TracebackType
from typing import Self

from tinyhd.files import AtomicOutput, cannot_write, check_suffix
from tinyhd.saliency.stats import FrameStats

STATS_SUFFIXES = (".csv", ".jsonl")


class StatsWriter:
    """Writes `FrameStats` to a file, as CSV with a header line or as one JSON object a line; a context manager.

    The file appears at the normal end of the body.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        """
        Raises:
            OptionError: the name ends in neither .csv nor .jsonl.
            OutputError: the file cannot be written.
        """
        check_suffix(path, STATS_SUFFIXES, "statistics")
        self.path = path
        self._as_csv = path.suffix.lower() == ".csv"
        self._csv: csv.DictWriter[str] | None = None
        self._pending = AtomicOutput(path, overwrite=overwrite)
        self._file = self._pending.temporary.open("w", encoding="utf-8", newline="")

    def __enter__(self) -> Self:
        return self

    def write(self, stats: FrameStats) -> None:
        """Append a line."""
        values = stats.to_dict()
        try:
            if not self._as_csv:
                self._file.write(json.dumps(values, ensure_ascii=False) + "\n")
                return
            if self._csv is None:
                self._csv = csv.DictWriter(self._file, list(values), lineterminator="\n")
                self._csv.writeheader()
            self._csv.writerow(values)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        except OSError as failure:
            self._pending.discard()
            raise cannot_write(self.path, failure) from failure
        self._pending.__exit__(kind, error, traceback)
