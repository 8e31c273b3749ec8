"""`python -m tinyhd`: the same as the command `tinyhd-annotate`."""

import sys

from tinyhd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
