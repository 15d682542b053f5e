"""The web server of the page: which requests it answers, and how gradio is kept from the network and from files."""

import json
import logging
import os
import re
import socket
import tempfile
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hdit_core.errors import UsageError
from hdit_core.play.models import Models
from hdit_core.play.page.build import build_page, style

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LARGEST_UPLOAD = "64mb"
LARGEST_CALL_BYTES = 32 << 20  # with a painted mask
MOST_WAITING = 32
SECONDS_TO_START = 60.0

PATHS = re.compile(
    r"/(?:|config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|(?:assets|static|svelte)/.+|gradio_api/(?:"
    r"info|app_id|startup-events|theme\.css|queue/(?:join|data)|upload|upload_progress|cancel|reset|heartbeat/\w+))/?"
)
"""What a browser needs of gradio. It cannot read files, or call functions by name."""

CALL = "/gradio_api/queue/join"
"""Calls a function of the page. Gradio opens any file, and fetches any address, that the values in the call name."""

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'none'; "
    "base-uri 'self'; form-action 'self'; object-src 'none'"
)
"""The browser loads nothing from other servers and sends nothing to them."""

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Guard:
    """ASGI middleware: answers only what the page needs, only to the page itself, and adds headers.

    Args:
        app: the ASGI application.
        uploads: the folder of uploads; no other file may be named in a call.
        hosts: names by which the server may be called; None for any. Other sites cannot reach a server on this machine
            by giving its address a name of theirs.
    """

    def __init__(self, app: Any, uploads: Path, hosts: tuple[str, ...] | None) -> None:
        self.app, self.uploads, self.hosts = app, uploads.resolve(), hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        if reason := self.refusal(scope):
            await _refuse(send, *reason)
            return
        if scope["path"].rstrip("/") == CALL:
            body = await _read_body(receive)
            if body is None or not names_only_files_in(self.uploads, body):
                await _refuse(send, 403, "a call may name uploaded files only")
                return
            receive = _again(body, receive)

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message["headers"] if pair[0].lower().decode() not in HEADERS]
                message["headers"] = kept + [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        await self.app(scope, receive, with_headers)

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return status and reason for a request that is refused; None if it is answered."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if self.hosts is not None and re.sub(r":\d+$", "", host).strip("[]") not in self.hosts:
            return 403, "this page is for its own machine; start hdit play with --host to serve others"
        origin = headers.get("origin")
        if origin not in (None, f"http://{host}", f"https://{host}"):
            return 403, "requests of other sites are refused"
        if not PATHS.fullmatch(scope["path"]):
            return 404, "there is no such page"
        return None


async def _read_body(receive: Receive) -> bytes | None:
    """Return the body of a request; None if it is too large, or the client is gone."""
    body = bytearray()
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if len(body) > LARGEST_CALL_BYTES:
            return None
        if not message.get("more_body"):
            return bytes(body)
    return None


def _again(body: bytes, receive: Receive) -> Receive:
    """Return a function that gives a body that was read once more, and then what else is received."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> MutableMapping[str, Any]:
        return left.pop() if left else await receive()

    return receive_again


def names_only_files_in(folder: Path, body: bytes) -> bool:
    """Return whether all paths in a call are those of files in a folder."""
    try:
        left = [json.loads(body)]
        while left:
            value = left.pop()
            left += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            path = value.get("path") if isinstance(value, dict) else None
            if path is not None and not Path(path).resolve().is_relative_to(folder):
                return False
    except (ValueError, TypeError, OSError, RuntimeError):  # no JSON, nested too deeply, or no path
        return False
    return True


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    headers += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})


def check_gradio() -> None:
    """Refuse, without importing it, that gradio is missing.

    Raises:
        UsageError: it is not installed.
    """
    if find_spec("gradio") is None:
        raise UsageError("hdit play needs gradio; install it with pip install 'hdit-toolkit[play]'")


@contextmanager
def private_gradio() -> Iterator[None]:
    """Let gradio send nothing to anybody, and keep uploads in a folder that is removed at the end.

    Raises:
        UsageError: gradio is not installed.
    """
    check_gradio()
    before = {name: value for name, value in os.environ.items() if name.startswith(("GRADIO_", "HF_HUB_DISABLE_TEL"))}
    for name in before:
        del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="hdit-play-") as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"gradio\.")  # of its own dependencies
        ours = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_TEMP_DIR": folder}
        os.environ.update(ours)
        try:
            for name in ("httpx", "httpcore"):
                logging.getLogger(name).setLevel(logging.WARNING)
            yield
        finally:
            for name in ours:
                os.environ.pop(name, None)
            os.environ.update(before)


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address.

    Raises:
        UsageError: the port is in use, or there is no such address.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except (OSError, OverflowError, UnicodeError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise UsageError(
            f"--host {host} --port {port}: cannot be served ({reason}); choose another --port, or 0 for any free one"
        ) from None
    return listening


def address_of(listening: socket.socket) -> str:
    """Return the address of the page for a browser on this machine."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{host}:{port}"


def build_server(models: Models, host: str) -> Any:
    """Return the server of the page, a `uvicorn.Server`."""
    import fastapi
    import gradio as gr
    import uvicorn

    blocks = build_page(models).queue(max_size=MOST_WAITING, default_concurrency_limit=8, api_open=False)
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(
        app, blocks, "/", max_file_size=LARGEST_UPLOAD, show_error=False, ssr_mode=False, pwa=False, mcp_server=False,
        enable_monitoring=False, **style(),
    )  # fmt: skip
    guarded = Guard(app, Path(os.environ["GRADIO_TEMP_DIR"]), LOOPBACK if host in LOOPBACK else None)
    config = uvicorn.Config(guarded, log_level="warning", timeout_graceful_shutdown=1, lifespan="on", ws="none")
    return uvicorn.Server(config)


@contextmanager
def quiet_end(server: Any) -> Iterator[None]:
    """Log nothing about requests that the server cuts off when it ends: every open page has one."""

    def is_logged(_: logging.LogRecord) -> bool:
        return not server.should_exit

    logger = logging.getLogger("uvicorn.error")
    logger.addFilter(is_logged)
    try:
        yield
    finally:
        logger.removeFilter(is_logged)


@contextmanager
def serving(models: Models, host: str = LOOPBACK[0], port: int = 0) -> Iterator[str]:
    """Serve the page from another thread while the body runs, and yield its address.

    Raises:
        UsageError: gradio is not installed, or the port cannot be used.
    """
    with private_gradio(), open_socket(host, port) as listening:
        server = build_server(models, host)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        with quiet_end(server):
            thread.start()
            try:
                for _ in range(int(SECONDS_TO_START * 20)):
                    if server.started or not thread.is_alive():
                        break
                    thread.join(0.05)
                yield address_of(listening)
            finally:
                server.should_exit = True
                thread.join()


def serve(models: Models, host: str, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve the page until the process is interrupted.

    Args:
        models: of the page.
        host, port: where it listens; port 0 is any free one.
        on_ready: called with the page's address.

    Raises:
        UsageError: gradio is not installed, or the port cannot be used.
    """
    with private_gradio(), open_socket(host, port) as listening:
        server = build_server(models, host)
        listening.listen()
        on_ready(address_of(listening))
        with quiet_end(server):
            server.run(sockets=[listening])
