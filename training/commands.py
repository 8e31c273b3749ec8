"""What the commands of `training` and `benchmark` have in common."""

import sys
from collections.abc import Callable, Sequence

from tinyhd.errors import TinyHDError


def command(
    run: Callable[[Sequence[str] | None], None], *, resumes: bool = False
) -> Callable[[Sequence[str] | None], int]:
    """The entry point of a command whose work is `run`, which returns the exit status: a `TinyHDError` is one sentence.

    Args:
        run: takes the arguments, the process's own if None.
        resumes: what was done is kept, so that after Ctrl-C the same command goes on.
    """

    def main(arguments: Sequence[str] | None = None) -> int:
        try:
            run(arguments)
        except TinyHDError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            if not resumes:
                raise
            print("interrupted: run the same command again to go on", file=sys.stderr)
            return 130
        return 0

    return main
