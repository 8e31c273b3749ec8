"""The command line."""

from tinyhd.cli.main import annotate_main as annotate_main
from tinyhd.cli.main import main as main
