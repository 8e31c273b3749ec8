"""Statistics as files: CSV or JSON lines."""

import contextlib
import csv
import json
from pathlib import Path

from tinyhd.files import AtomicOutput, check_suffix, writing
from tinyhd.saliency.stats import FrameStats

STATS_SUFFIXES = (".csv", ".jsonl")


class StatsWriter(AtomicOutput):
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
        super().__init__(path, overwrite=overwrite)
        self._as_csv = path.suffix.lower() == ".csv"
        self._csv: csv.DictWriter[str] | None = None
        self._file = self.temporary.open("w", encoding="utf-8", newline="")

    def write(self, stats: FrameStats) -> None:
        """Append a line."""
        values = stats.to_dict()
        with writing(self.path):
            if not self._as_csv:
                self._file.write(json.dumps(values, ensure_ascii=False) + "\n")
                return
            if self._csv is None:
                self._csv = csv.DictWriter(self._file, list(values), lineterminator="\n")
                self._csv.writeheader()
            self._csv.writerow(values)

    def _complete(self) -> None:
        self._file.close()

    def discard(self) -> None:
        """Remove what has been written."""
        with contextlib.suppress(OSError):  # what waits to be written
            self._file.close()
        super().discard()
