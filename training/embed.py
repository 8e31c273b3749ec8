"""Makes the converted network that the package ships beside a model's file, so that CPUs need no PyTorch.

    python -m training.embed tinyhd/models/NAME.safetensors

It writes NAME.xml and NAME.bin, weights in half precision, and prints what `MODELS` in tinyhd/network/registry.py says
of them. Run it on a processor that computes in bfloat16, for the agreement to be measured.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tinyhd.errors import TinyHDError
from tinyhd.inference.backends import bfloat16_agreement, convert
from tinyhd.network.registry import find_model


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.embed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="the .safetensors file that python -m training.release wrote")
    options = parser.parse_args(arguments)
    path: Path = options.model.with_suffix(".xml")
    try:
        file = find_model(options.model)
        facts = convert(file, path, half=True)
    except TinyHDError as error:
        print(f"embed: {error}", file=sys.stderr)
        return 1
    print(f'sha256="{file.hash.partition(":")[2]}"')
    print(f'converted_sha256="{facts["sha256"]}"')
    print(f"bfloat16_agrees={facts['bfloat16']}  # lowest CC {bfloat16_agreement(path):.6f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
