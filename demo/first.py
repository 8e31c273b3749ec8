"""The page before the page: Gradio takes seconds to start, and a visitor can choose a file meanwhile.

The file is kept in the visitor's browser, where the page finds it once it is there (see page/player.js).
"""

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from demo.policy import HEADERS

_PAGE = Path(__file__).parent / "page" / "first.html"


class FirstPage:
    """Serves it until `close`, which frees the port at once.

    Attributes:
        port: where it is served.
    """

    def __init__(self, host: str, port: int, sentence: str) -> None:
        """
        Args:
            host, port: where to listen; port 0: any free one.
            sentence: what files are taken.

        Raises:
            OSError: the port is taken.
        """
        page = _PAGE.read_text("utf-8").replace("SENTENCE", sentence).encode()
        self._server = _server(host, port, page)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="first page", daemon=True).start()

    def close(self) -> None:
        """Stop serving; the second time it does nothing."""
        self._server.shutdown()
        self._server.server_close()


def _server(host: str, port: int, page: bytes) -> ThreadingHTTPServer:
    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True
        block_on_close = False

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # to programs the server is not there yet; browsers show the page all the same
            self.send_response(503)
            for name, value in {**HEADERS, "Retry-After": "2", "Content-Type": "text/html; charset=utf-8"}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    return Server((host, port), Handler)
