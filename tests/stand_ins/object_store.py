"""A proxy in front of a store's stand-in that records requests, runs hooks and adds faults.

Requests take effect one after the other. A hook can run before and after each, and each can meet one fault, in the
order given: a status with headers, a connection reset before or after the request took effect, a stall, a changed
byte of the request or of the answer, an answer that is cut off.
"""

from __future__ import annotations

import base64
import hashlib
import io
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self
from urllib.parse import unquote
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from werkzeug.serving import WSGIRequestHandler, make_server

from stand_ins.gcs import Call, Fault
from stand_ins.serving import serving

#: Clients with this in their User-Agent header run the hooks.
HELD = "held-run"


class _QuietHandler(WSGIRequestHandler):
    # One connection for each request, so that discarded clients leave none open.
    protocol_version = "HTTP/1.0"

    def make_environ(self) -> WSGIEnvironment:
        """Keep the headers as they came: WSGI has no place for those whose names have an underscore."""
        return super().make_environ() | {"headers": dict(self.headers.items())}

    def log(self, *_: Any) -> None:
        """Say nothing."""


class ObjectStore:
    """A store behind the proxy.

    Attributes:
        calls: The requests it got, in order.
        headers: Their headers.
        faults: The faults still to come.
        before: Called with each request of a held run before it takes effect.
        after: Called with each request of a held run after it took effect, before the answer.
        stalled: Set when a request has stalled.
        release: The test sets it to let the request continue.
    """

    def __init__(self, store: WSGIApplication, tls: ssl.SSLContext | None = None) -> None:
        self.headers: list[dict[str, str]] = []
        self.calls: list[Call] = []
        self.faults: list[Fault] = []
        self.before: Callable[[WSGIEnvironment], None] = lambda _: None
        self.after: Callable[[WSGIEnvironment], None] = lambda _: None
        self.stalled, self.release = threading.Event(), threading.Event()
        self._store, self._step = store, threading.Lock()
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=_QuietHandler, ssl_context=tls
        )
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Serve while the block runs."""
        with serving(self._server, self.release):
            yield self

    def refuse(self, fault: Fault) -> tuple[bytes, dict[str, str]]:
        """Return the body and the headers of an error of this store."""
        return b"", fault.headers

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["RAW_URI"]
        self.calls.append(Call(method, path, environ.get("HTTP_RANGE") or environ.get("HTTP_X_MS_RANGE")))
        self.headers.append(environ["headers"])
        # Always read the body: a client that is still sending does not read the answer.
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        held = HELD in environ.get("HTTP_USER_AGENT", "")
        if held:
            self.before(environ)
        fault = next((f for f in self.faults if f.method == method and f.about in unquote(path)), None)
        if fault:
            self.faults.remove(fault)
        if fault and fault.kind == "stall":
            self.stalled.set()
            self.release.wait(60)
        if fault and fault.kind == "reset":
            raise self._reset(environ)
        if fault and fault.kind == "status":
            status, (content, headers) = f"{fault.status} Injected", self.refuse(fault)
        else:
            status, content, headers = self._pass_on(environ, body, corrupt=bool(fault and fault.kind == "corrupt"))
        if held:
            self.after(environ)
        if fault and fault.kind == "lost":
            raise self._reset(environ)
        if method == "HEAD":
            content = b""
        else:
            headers = {name: value for name, value in headers.items() if name.lower() != "content-length"}
            headers["Content-Length"] = str(len(content))
        if fault and fault.kind == "damage":
            content = content[:-1] + bytes([content[-1] ^ 1])
        if fault and fault.kind == "cut":
            content = content[: len(content) // 2]
        start_response(status, list(headers.items()))
        return [content]

    def _pass_on(self, environ: WSGIEnvironment, body: bytes, *, corrupt: bool) -> tuple[str, bytes, dict[str, str]]:
        if corrupt:
            body = body[:-1] + bytes([body[-1] ^ 1])
        md5, sha256 = environ.get("HTTP_CONTENT_MD5"), environ.get("HTTP_X_AMZ_CONTENT_SHA256", "")
        wrong_md5 = md5 and base64.b64encode(hashlib.md5(body).digest()).decode() != md5
        if wrong_md5 or (len(sha256) == 64 and hashlib.sha256(body).hexdigest() != sha256):
            content, headers = self.refuse(Fault("status", status=400))
            return "400 Bad Digest", content, headers
        answered: list[Any] = []
        with self._step:
            parts = self._store(environ | {"wsgi.input": io.BytesIO(body)}, lambda *start: answered.append(start))  # type: ignore[arg-type,func-returns-value,return-value]
            content = b"".join(parts)
        return answered[0][0], content, dict(answered[0][1])

    def _reset(self, environ: WSGIEnvironment) -> ConnectionResetError:
        connection = environ["werkzeug.socket"]
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        return ConnectionResetError()
