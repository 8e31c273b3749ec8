"""The command in processes of their own with a stub for every model, and what it leaves."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from fakes import GrayModel

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
"""For processes that import the project and what its tests share."""


def stub_command(*arguments: str, seconds: float = 0.0, before: str = "pass") -> list[str]:
    """`tinyhd` with these arguments, as a program to start.

    Args:
        seconds: that the stub takes for each batch of clips.
        before: code that is run first.
    """
    program = f"{before}\nimport sys, commands\nsys.exit(commands.run_stubbed(sys.argv[1:], {seconds}))"
    return [sys.executable, "-c", program, *arguments]


def run_stubbed(arguments: list[str], seconds: float) -> int:
    """What `stub_command` runs."""
    import time

    import tinyhd.inference.backends
    from tinyhd.cli.main import main

    class Slow(GrayModel):
        def __call__(self, clips: np.ndarray) -> np.ndarray:
            time.sleep(seconds)
            return super().__call__(clips)

    tinyhd.inference.backends.open_backend = lambda _: Slow()  # type: ignore[assignment]
    return main(arguments)


def manifest_lines(out: Path) -> list[dict[str, Any]]:
    """What stands in the manifests of a folder; a line that was not written to its end is left out."""
    lines = (line for file in sorted(out.glob("tinyhd-manifest*.jsonl")) for line in file.read_text().splitlines())
    return [json.loads(line) for line in lines if line.endswith("}")]
