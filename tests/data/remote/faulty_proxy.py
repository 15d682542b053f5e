"""An HTTP proxy in front of a store that fails as networks and stores do, for as many requests as a test asks for."""

import http.client
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

Fault = Callable[[BaseHTTPRequestHandler, bytes], None]


def answer(status: int, code: str, message: str) -> Fault:
    """Return a fault in the form of S3's responses: HEAD has no body."""

    def send(request: BaseHTTPRequestHandler, content: bytes) -> None:
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/xml")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)

    return send


def cut(request: BaseHTTPRequestHandler, content: bytes) -> None:
    """Promise the whole content, send half of it, and close the connection."""
    request.send_response(206)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content[: len(content) // 2])
    request.wfile.flush()
    request.close_connection = True


def hang_up(request: BaseHTTPRequestHandler, content: bytes) -> None:
    """Close the connection without an answer."""
    request.close_connection = True


def stall(request: BaseHTTPRequestHandler, content: bytes) -> None:
    """Send half of the content, then nothing for longer than a client waits."""
    cut(request, content)
    time.sleep(5)


class FaultyProxy:
    """Forwards GET and HEAD, but for requests that are to fail.

    Attributes:
        address: what clients connect to.
        requests: method and path of all requests so far.
    """

    def __init__(self, host: str, port: int) -> None:
        self._upstream = host, port
        self._faults: list[tuple[str, Fault]] = []
        self.requests: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy._serve(self)

            do_HEAD = do_GET

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def fail(self, request: str, fault: Fault, times: int) -> None:
        """Let the next requests fail that contain a text, such as `GET /bucket/faces/shard`."""
        self._faults += [(request, fault)] * times

    def recover(self) -> None:
        """Let no further request fail."""
        self._faults.clear()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        line = f"{request.command} {request.path}"
        self.requests.append(line)
        upstream = http.client.HTTPConnection(*self._upstream)
        upstream.request(request.command, request.path, headers=dict(request.headers))
        response = upstream.getresponse()
        content = response.read()
        upstream.close()
        fault = next((fault for fault in self._faults if fault[0] in line), None)
        with suppress(ConnectionError):
            if fault:
                self._faults.remove(fault)
                fault[1](request, content)
            else:
                self._forward(request, response, content)

    def _forward(self, request: BaseHTTPRequestHandler, response: http.client.HTTPResponse, content: bytes) -> None:
        request.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("connection", "date", "server", "transfer-encoding"):
                request.send_header(name, value)
        request.end_headers()
        request.wfile.write(content)
