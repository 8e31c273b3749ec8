"""`python -m demo`: serve the page."""

import argparse
import gc
import ipaddress
import os
import signal
import sys
import threading

from demo.first import FirstPage
from demo.limits import Limits
from tinyhd.choices import choices
from tinyhd.errors import TinyHDError
from tinyhd.options import InferenceOptions

USER, PASSWORD = "TINYHD_DEMO_USER", "TINYHD_DEMO_PASSWORD"


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        login = login_from(os.environ)
        inference = InferenceOptions.from_mapping(dict(pair.partition("=")[::2] for pair in options.set))
    except (ValueError, TinyHDError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    if login is None and not _is_loopback(options.host):
        print(
            f"demo: anybody who reaches {options.host} can use this page; {USER} and {PASSWORD} set a login.",
            file=sys.stderr,
        )
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())

    limits = Limits(megabytes=options.max_megabytes, seconds=options.max_seconds)
    try:
        first = FirstPage(options.host, options.port, limits.sentence())
        gc.disable()  # importing makes many objects that stay: a tenth of its time would go into looking for others
        from demo.app import serving  # Gradio takes seconds, in which the first page is there
        from demo.work import Models

        with serving(
            host=options.host,
            port=first.port,
            limits=limits,
            login=login,
            models=Models(inference),
            mcp=options.mcp,
            before=first.close,
        ) as url:
            gc.freeze()
            gc.enable()
            print(f"tinyhd's demo is at {url} (Ctrl-C ends it)", flush=True)
            stopped.wait()
    except OSError as error:
        print(f"demo: the page cannot be served there: {error}", file=sys.stderr)
        return 1
    return 0


def login_from(environment: "os._Environ[str] | dict[str, str]") -> tuple[str, str] | None:
    """(user, password) that visitors must give, or None. Raises ValueError where only one of both is set."""
    user, password = environment.get(USER, ""), environment.get(PASSWORD, "")
    if bool(user) != bool(password):
        raise ValueError(f"set both {USER} and {PASSWORD}, or none of them.")
    return (user, password) if user else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _parser() -> argparse.ArgumentParser:
    limits = Limits()
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="Serve a page on which a video is dropped and played back with where people look in it.",
        epilog=f"The environment variables {USER} and {PASSWORD} ask visitors for a login.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="port; 0: any free one (default: %(default)s)")
    parser.add_argument(
        "--max-megabytes", type=int, default=limits.megabytes, metavar="N", help="largest file (default: %(default)s)"
    )
    parser.add_argument(
        "--max-seconds", type=float, default=limits.seconds, metavar="N", help="longest video (default: %(default)g)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"how models compute, such as device=cuda, repeatable: {', '.join(choices(InferenceOptions))}",
    )
    parser.add_argument("--mcp", action="store_true", help="serve the API to agents too, at /gradio_api/mcp/")
    return parser


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # all is cleaned up; waiting for a model at work takes seconds
