"""What makes the page safe on a network: nothing off this server is named, loaded or fetched.

Gradio's page names a few addresses elsewhere (previews for social networks, and in some versions a script and fonts),
its page is allowed to load from anywhere, and its server fetches addresses that clients name. All of that ends here.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from demo.policy import HEADERS

# Elements of the page's head that name an address elsewhere.
_FOREIGN = re.compile(
    rb"""<meta\b[^>]*\bcontent="https?://[^>]*>|<link\b[^>]*\bhref="(?:https?:)?//[^>]*>"""
    rb"""|<script\b[^>]*\bsrc="(?:https?:)?//[^>]*>\s*</script>""",
    re.IGNORECASE,
)
# Routes by which Gradio's server fetches an address or shows another server's page.
_FETCHING = re.compile(r"/gradio_api/(?:file=\w{2,}:|proxy=)|/(?:file=\w{2,}:|proxy=)", re.IGNORECASE)


def without_foreign_addresses(page: bytes) -> bytes:
    """A page's HTML without elements of its head that name an address elsewhere."""
    return _FOREIGN.sub(b"", page)


class Offline:
    """ASGI middleware: rewrites pages, adds a policy that forbids browsers to load from elsewhere, refuses to fetch."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif _FETCHING.match(unquote(scope["path"])):
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"This server fetches nothing from elsewhere."})
        else:
            await self.app(scope, receive, _rewriting(send))


def _rewriting(send: Send) -> Callable[[Message], Any]:
    start: Message | None = None
    body = b""

    async def rewritten(message: Message) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            if headers.get("content-type", "").startswith("text/html"):
                start = message
                return
        elif message["type"] == "http.response.body" and start is not None:
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            body = without_foreign_addresses(body)
            headers = MutableHeaders(scope=start)
            if "content-length" in headers and headers["content-length"] != "0":
                headers["content-length"] = str(len(body))
            await send(start)
            start = None
            message = {"type": "http.response.body", "body": body}
        await send(message)

    return rewritten


def refuse_addresses(component: Any) -> None:
    """Let a component of the page take uploaded files only: Gradio would download addresses that clients send.

    The address of an upload to this server, which is how agents name one, stands for the file itself.
    """
    import gradio as gr

    move = component.async_move_resource_to_block_cache

    async def uploaded_only(file: Any) -> Any:
        if file is not None and re.match(r"\s*\w[\w+.-]+:", str(file)):
            file = _upload_of(str(file))
            if file is None:
                raise gr.Error("Only files are taken, no addresses: download the video first.", print_exception=False)
        return await move(file)

    component.async_move_resource_to_block_cache = uploaded_only


def _upload_of(address: str) -> str | None:
    """The uploaded file that an address of this server names; None for any other."""
    _, found, name = unquote(address).partition("/gradio_api/file=")
    folder = os.environ.get("GRADIO_TEMP_DIR", "")
    if not found or not folder:
        return None
    path = Path(name).resolve()
    inside = path.is_relative_to(Path(folder).resolve())
    return str(path) if inside and path.is_file() else None
