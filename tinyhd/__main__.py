"""`python -m tinyhd`: the same as the command `tinyhd`."""

import sys

from tinyhd.cli import main

if __name__ == "__main__":
    sys.exit(main())
