"""A web server that publishes months like TLC's server, with faults.

Implements, over real sockets: HEAD and GET with ETag, Last-Modified and Content-Length; Range with If-Range (206 and
Content-Range); 403 for missing files, as TLC's CloudFront answers; and faults, one for each request, in order: a
status (with headers such as Retry-After), a truncated body, a body that stalls, a connection reset, another body with
status 200.

Does not implement: HTTP/2, chunked bodies, several ranges in one request, conditional GETs.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Literal

from stand_ins.serving import Server, serving


@dataclass
class Fault:
    """A fault that one request meets.

    Attributes:
        kind: ``status``: answer ``status``; ``cut``: close after ``after`` bytes of the body; ``reset``: the
            same with a TCP reset; ``stall``: stop sending after ``after`` bytes until released.
        status: The status.
        headers: Its headers.
        after: Bytes of the body before the fault.
    """

    kind: Literal["status", "cut", "reset", "stall"]
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    after: int = 0


@dataclass
class Request:
    """A request that the server got; ``port`` is the client's, one for each connection."""

    method: str
    path: str
    range: str | None
    at: float
    port: int = 0


@dataclass
class PublishedFile:
    """A file on the server. Another ``body`` gives another ETag, unless the ETag is fixed or None."""

    body: bytes
    last_modified: str | None = "Mon, 18 Mar 2024 15:30:12 GMT"
    etag: str | None = "from the body"
    content_type: str = "binary/octet-stream"
    faults: list[Fault] = field(default_factory=list)
    resumable: bool = True
    length_told: bool = True

    def headers(self) -> dict[str, str]:
        """Return ETag and Last-Modified as headers."""
        etag = f'"{hashlib.md5(self.body).hexdigest()}"' if self.etag == "from the body" else self.etag
        values = {"ETag": etag, "Last-Modified": self.last_modified, "Content-Type": self.content_type}
        return {name: value for name, value in values.items() if value is not None}


class HttpSource:
    """The server; ``files`` maps paths to files.

    Attributes:
        requests: The requests it got, in order.
        release: The test sets it to let stalled bodies continue.
        stalled: Set when a body has stalled.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.files: dict[str, PublishedFile] = {}
        self.requests: list[Request] = []
        self.release, self.stalled = threading.Event(), threading.Event()
        source = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                source.answer(self, body_wanted=False)

            def do_GET(self) -> None:
                source.answer(self, body_wanted=True)

            def log_message(self, *_: object) -> None:
                """Stay quiet."""

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}"
        self.template = self.url + "/{color}_tripdata_{year:04d}-{month:02d}.parquet"

    def answer(self, handler: BaseHTTPRequestHandler, *, body_wanted: bool) -> None:
        """Answer one request."""
        wanted = handler.headers.get("Range")
        port = handler.client_address[1]
        self.requests.append(Request(handler.command, handler.path, wanted, time.monotonic(), port))
        file = self.files.get(handler.path)
        if file is None:
            refusal = b"<Error><Code>AccessDenied</Code></Error>"
            self._send(handler, 403, {"Content-Type": "application/xml"}, refusal, body_wanted=body_wanted)
            return
        fault = file.faults.pop(0) if file.faults and (body_wanted or file.faults[0].kind == "status") else None
        if fault and fault.kind == "status":
            self._send(handler, fault.status, fault.headers, b"")
            return
        status, headers, body = 200, file.headers(), file.body
        if wanted and file.resumable and handler.headers.get("If-Range") in (None, headers.get("ETag")):
            start, _, end = wanted.removeprefix("bytes=").partition("-")
            status, body = 206, file.body[int(start) : int(end) + 1 if end else None]
            headers["Content-Range"] = f"bytes {start}-{int(start) + len(body) - 1}/{len(file.body)}"
        self._send(handler, status, headers, body, body_wanted=body_wanted, fault=fault, length_told=file.length_told)

    def _send(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        body: bytes,
        *,
        body_wanted: bool = True,
        fault: Fault | None = None,
        length_told: bool = True,
    ) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if length_told:
            handler.send_header("Content-Length", str(len(body)))
        else:
            handler.send_header("Connection", "close")
        handler.end_headers()
        if not body_wanted:
            return
        if not fault:
            handler.wfile.write(body)
            return
        handler.wfile.write(body[: fault.after])
        handler.wfile.flush()
        if fault.kind == "stall":
            self.stalled.set()
            self.release.wait(60)
        elif fault.kind == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.close_connection = True
        handler.connection.close()

    @contextmanager
    def running(self) -> Iterator[HttpSource]:
        """Serve while the block runs."""
        with serving(self._server, self.release):
            yield self


@dataclass
class RawAnswer:
    """An answer that is sent byte for byte; then the connection is closed.

    Attributes:
        head: The status line and the headers.
        body: The body; not sent for HEAD.
        seconds_a_byte: The pause after each byte; 0 to send all at once.
    """

    head: list[str]
    body: bytes = b""
    seconds_a_byte: float = 0


class RawSource:
    """A server that breaks HTTP's rules: it sends the given answers in order, and then repeats the last one.

    Attributes:
        gets: The GET requests it got, in order.
    """

    def __init__(self, looks: list[RawAnswer], transfers: list[RawAnswer]) -> None:
        self._answers = {"HEAD": looks, "GET": transfers}
        self._stopped = threading.Event()
        self.gets: list[Request] = []
        source = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    source.answer(self)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.template = self.url + "/{color}_tripdata_{year:04d}-{month:02d}.parquet"

    def answer(self, handler: socketserver.StreamRequestHandler) -> None:
        """Answer the one request of a connection."""
        lines = [line.decode().strip() for line in iter(handler.rfile.readline, b"\r\n") if line]
        if not lines:
            return
        method, path, _ = lines[0].split()
        wanted = [line.partition(": ")[2] for line in lines if line.startswith("Range: ")]
        if method == "GET":
            self.gets.append(Request(method, path, wanted[0] if wanted else None, time.monotonic()))
        answers = self._answers[method]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        handler.wfile.write("\r\n".join([*answer.head, "", ""]).encode())
        if method == "HEAD":
            return
        if not answer.seconds_a_byte:
            handler.wfile.write(answer.body)
            return
        for byte in answer.body:
            handler.wfile.write(bytes([byte]))
            if self._stopped.wait(answer.seconds_a_byte):
                return

    @contextmanager
    def running(self) -> Iterator[RawSource]:
        """Serve while the block runs."""
        with serving(self._server, self._stopped):
            yield self
