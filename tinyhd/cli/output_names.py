"""Where the outputs of a command for many go."""

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyhd.cli.arguments import read_options
from tinyhd.errors import OptionError, OutputError
from tinyhd.files import ENCODED_TAG, OUTPUT_TAG, REFRAMED_TAG, check_target, make_folder
from tinyhd.options import BatchOptions

if TYPE_CHECKING:
    from tinyhd.pipeline.batch import Job


class OutputNames:
    """Where the outputs of each input go."""

    def __init__(self, files: Sequence[Path], is_batch: bool, options: argparse.Namespace) -> None:
        """
        Args:
            files: the inputs.
            is_batch: whether there may be several.

        Raises:
            OutputError: a folder cannot be made.
            OptionError: nothing can be written to such an address.
        """
        from tinyhd.pipeline.addresses import as_path, is_address
        from tinyhd.pipeline.inputs import distinct_stems

        self._options, self.inputs, self._is_batch = options, files, is_batch
        self._folder = None if options.output_dir is None else _folder(options.output_dir)
        self._output = None if getattr(options, "output", None) is None else as_path(options.output)
        self._stems = dict(zip(files, distinct_stems(files, self._folder), strict=True))
        # files from anywhere lie side by side in the folders for maps and statistics
        self._beside = {name: getattr(options, name, None) for name in ("save_maps", "stats")}
        side_stems = distinct_stems(files, Path()) if any(self._beside.values()) else [""] * len(files)
        self._side_stems = dict(zip(files, side_stems, strict=True))
        self._identities: set[tuple[int, int]] | None = None
        if is_batch:
            for target in self._beside.values():
                if target is not None:
                    _folder(target)
        self.has_address = any(is_address(name) for name in (self._folder, self._output, *files))

    def of(self, file: Path) -> dict[str, Any]:
        """Fields of `Job` for what is written beside the output of an input."""
        names: dict[str, Any] = {}
        for name, target in self._beside.items():
            if target is not None and self._is_batch:
                target = os.path.join(target, self._side_stems[file] + (os.sep if name == "save_maps" else ".csv"))
            if target is not None:
                names[name] = target
        return names

    def check(self, job: "Job") -> None:
        """Refuse an output that is there already or, whatever the options, one of the inputs. Raises `OutputError`."""
        from tinyhd.pipeline.addresses import is_address
        from tinyhd.pipeline.manifest import exists

        if job.output is None:
            return
        if is_address(job.output):
            name = repr(os.fspath(job.output))
            if job.output in self._stems:
                raise OutputError(f"the output {name} is an input: choose another name, inputs are never overwritten.")
            if not job.overwrite and exists(job.output):
                raise OutputError(f"{name} exists already: choose another name, or overwrite it with --overwrite.")
            return
        is_input = False
        if os.path.exists(job.output):
            if self._identities is None:
                self._identities = {_identity(file) for file in self.inputs if not is_address(file) and file.exists()}
            is_input = _identity(job.output) in self._identities
        check_target(job.output, [job.output] if is_input else [], job.overwrite)

    def with_output(self, job: "Job") -> "Job":
        """The job with the name of its output, where that is not the default name. Raises `OptionError`."""
        return job if job.output is not None else dataclasses.replace(job, output=self._of(job.input))

    def _of(self, file: Path) -> Path | None:
        from tinyhd.pipeline.addresses import is_address
        from tinyhd.pipeline.inputs import is_still
        from tinyhd.pipeline.moments import MOMENTS_SUFFIX
        from tinyhd.saliency.track import TRACK_SUFFIX

        command = self._options.command
        if self._output is not None:
            return self._output
        if self._folder is None and is_address(file):
            raise OptionError(f"{str(file)!r} is at an address: say where its output goes, with --output-dir.")
        if command == "annotate" and not (self._is_batch or self._folder):
            return None
        if command == "analyze":
            ending = TRACK_SUFFIX
        elif command == "moments":
            ending = MOMENTS_SUFFIX
        elif command == "encode":
            ending = f"{ENCODED_TAG}.mp4"
        elif getattr(self._options, "path_only", False):
            ending = f"{REFRAMED_TAG}.csv"
        else:
            tag = OUTPUT_TAG if command == "annotate" else REFRAMED_TAG
            ending = tag + (".png" if is_still(file, read_options(self._options, BatchOptions)) else ".mp4")
        return (self._folder or file.parent) / f"{self._stems[file]}{ending}"


def _identity(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_dev, status.st_ino


def _folder(name: str) -> Path:
    """A folder for outputs, which is made where it is one of this machine."""
    from tinyhd.pipeline.addresses import as_path, check_writable, is_address

    if is_address(name):
        return as_path(check_writable(name))
    return make_folder(Path(name))
