"""Makes the files of a model that comes with the package: converted for OpenVINO, so that CPUs need no PyTorch, which
reads its weights from them too.

    python -m training.embed runs/mine/released.safetensors tinyhd/models/NAME.xml

It writes NAME.xml and NAME.bin, weights in half precision, and prints what `MODELS` in tinyhd/network/registry.py says
of them. Run it on a processor that computes in bfloat16, for the agreement to be measured.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tinyhd.inference.backends import bfloat16_agreement, convert
from tinyhd.network.registry import find_model
from training.commands import command


def run(arguments: Sequence[str] | None = None) -> None:
    """What the command does. Raises `TinyHDError` for what the user can put right."""
    parser = argparse.ArgumentParser(
        prog="python -m training.embed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="the .safetensors file that python -m training.release wrote")
    parser.add_argument("out", type=Path, help="file to write, .xml; the .bin goes beside it")
    options = parser.parse_args(arguments)
    file = find_model(options.model)
    facts = convert(file, options.out, half=True)
    print(f'sha256="{facts["sha256"]}"')
    print(f"bfloat16_agrees={facts['bfloat16']}  # lowest CC {bfloat16_agreement(options.out):.6f}")


main = command(run)


if __name__ == "__main__":
    sys.exit(main())
