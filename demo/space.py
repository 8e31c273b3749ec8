"""What a Space on Hugging Face runs: the demo, from a checkout that is not installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["--host", "0.0.0.0", "--port", "7860", *sys.argv[1:]]))
