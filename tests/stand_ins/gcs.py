"""Google Cloud Storage on a socket: an emulator behind a proxy that adds missing features and faults.

The emulator (gcp-storage-emulator, in memory) implements objects' metadata, simple and resumable uploads, ranges,
listing, deletion and checksums. The proxy adds: parallel connections; generation preconditions (412) for uploads,
deletions and reads, checked and applied in one step; a check of the MD5 that an upload announces (400); reads of one
generation; an error for unknown buckets (404); bearer tokens, if set (401); and faults, one for each request, in the
order given: a status with headers, a connection reset before or after the request took effect, a stall, a changed byte.

Neither implements: ACLs and IAM, versioning, metageneration preconditions, signed URLs, gRPC.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.server import RequestHandler, Router
from gcp_storage_emulator.storage import Storage

from stand_ins.serving import Server, serving


@dataclass
class Fault:
    """A fault that one request meets.

    Attributes:
        kind: ``status``: answer ``status``; ``reset``: reset without doing anything; ``lost``: do the request,
            then reset the connection; ``stall``: answer when released; ``corrupt``: change a byte of the request;
            ``damage``: change a byte of the answer; ``cut``: send half of the answer.
        method: The method of the request that meets it.
        about: A part of that request's path or query.
        status: The status.
        headers: Its headers.
        message: The message or the code in its body.
    """

    kind: Literal["status", "reset", "lost", "stall", "corrupt", "damage", "cut"]
    method: str = "PUT"
    about: str = ""
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "injected"


@dataclass(frozen=True)
class Call:
    """A request that the stand-in got."""

    method: str
    path: str
    range: str | None


class Gcs:
    """The stand-in for Google Cloud Storage.

    Attributes:
        calls: The requests it got, in order.
        faults: The faults still to come.
        tokens: The accepted bearer tokens; None to accept any, or none.
        before: Called with each request before it takes effect.
        after: Called with each request after it took effect, before the answer.
        stalled: Set when a request has stalled.
        release: The test sets it to let the request continue.
    """

    def __init__(self, *bucket_names: str) -> None:
        self.calls: list[Call] = []
        self.faults: list[Fault] = []
        self.tokens: set[str] | None = None
        self.before: Callable[[RequestHandler], None] = lambda _: None
        self.after: Callable[[RequestHandler], None] = lambda _: None
        self.stalled, self.release = threading.Event(), threading.Event()
        self.storage = Storage(use_memory_fs=True)
        for name in bucket_names:
            buckets.create_bucket(name, self.storage)
        self._step = threading.Lock()
        self._sent: dict[str, hashlib._Hash] = {}
        self._offsets: dict[str, int] = {}
        self._before_this: dict[str, int] = {}
        gcs = self

        class Handler(RequestHandler):  # type: ignore[misc]
            protocol_version = "HTTP/1.0"

            def __init__(self, *args: Any) -> None:
                super().__init__(gcs.storage, *args)

            def do_GET(self) -> None:  # noqa: N802  http.server's names
                gcs._answer(self)

            do_POST = do_PUT = do_DELETE = do_PATCH = do_GET  # noqa: N815

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[Gcs]:
        """Serve while the block runs."""
        with serving(self._server, self.release):
            yield self

    def names(self, bucket: str) -> set[str]:
        """Return the names of a bucket's objects."""
        files, _ = self.storage.get_file_list(bucket, None, None, None)
        return {file["name"] for file in files}

    def read(self, bucket: str, name: str) -> bytes:
        """Return an object's content."""
        return bytes(self.storage.get_file(bucket, name))

    def metadata(self, bucket: str, name: str) -> dict[str, Any]:
        """Return an object's resource."""
        return dict(self.storage.get_file_obj(bucket, name))

    def _answer(self, handler: RequestHandler) -> None:
        method = handler.command
        self.calls.append(
            Call(method, handler.path, handler.headers.get("Content-Range") or handler.headers.get("Range"))
        )
        self.before(handler)
        fault = next((f for f in self.faults if f.method == method and f.about in unquote(handler.path)), None)
        if fault:
            self.faults.remove(fault)
        if fault and fault.kind == "stall":
            self.stalled.set()
            self.release.wait(60)
        if fault and fault.kind == "reset":
            self._reset(handler)
        elif fault and fault.kind == "status":
            self._refuse(handler, fault.status, fault.message, fault.headers)
        elif not self._has_bucket(handler.path):
            self._refuse(handler, 404, "The specified bucket does not exist.")
        elif self.tokens is not None and handler.headers.get("Authorization", "")[7:] not in self.tokens:
            self._refuse(handler, 401, "Invalid Credentials")
        else:
            if fault and fault.kind == "corrupt":
                body = handler.rfile.read(int(handler.headers["Content-Length"]))
                handler.rfile = io.BytesIO(body[:-1] + bytes([body[-1] ^ 1]))
            answer, handler.wfile = handler.wfile, _Buffer()
            with self._step:
                refusal = self._precondition(handler, method) or self._checksum(handler, method)
                if refusal:
                    self._refuse(handler, *refusal)
                elif persisted := self._persisted(handler):
                    # Google passes over bytes that it has, and says how many these are; the emulator refuses them.
                    handler.send_response(308)
                    handler.send_header("Range", f"bytes=0-{persisted - 1}")
                    handler.send_header("Content-Length", "0")
                    handler.end_headers()
                else:
                    Router(handler).handle(method)
            self.after(handler)
            content, handler.wfile = handler.wfile.getvalue(), answer
            if fault and fault.kind == "lost":
                self._reset(handler)
            else:
                handler.wfile.write(content)

    def _has_bucket(self, path: str) -> bool:
        _, about_a_bucket, rest = urlsplit(path).path.partition("/b/")
        return not about_a_bucket or rest.partition("/")[0] in self.storage.buckets

    def _precondition(self, handler: RequestHandler, method: str) -> tuple[int, str] | None:
        """Return status and reason if the object's state forbids the request."""
        url = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        _, _, rest = url.path.partition("/b/")
        bucket, _, name = rest.partition("/o")
        name = unquote(name.removeprefix("/"))
        if method == "POST":
            # The name of a new object is in the JSON that begins the body.
            body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
            handler.rfile = io.BytesIO(body)
            found = re.search(rb'"name": ("(?:[^"\\]|\\.)*")', body)
            name = json.loads(found[1]) if found else ""
        elif "upload_id" in query:
            name = self.storage.get_resumable_file_obj(query["upload_id"])["name"]
        if not name:
            return None
        if method == "PUT" and handler.headers.get("Content-Range", "").endswith("/*"):
            return None
        try:
            generation = str(self.storage.get_file_obj(bucket, name)["generation"])
        except NotFound:
            generation = "0"
        if query.get("ifGenerationMatch", generation) != generation:
            return 412, "At least one of the pre-conditions you specified did not hold."
        if query.get("generation", generation) != generation:
            return 404, "No such object"
        return None

    def _checksum(self, handler: RequestHandler, method: str) -> tuple[int, str] | None:
        """Return why an upload's last chunk is refused: the MD5 differs from the one announced at the start."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(handler.path).query).items()}
        span = handler.headers.get("Content-Range", "")
        if method != "PUT" or "upload_id" not in query:
            return None
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        handler.rfile = io.BytesIO(body)
        sent = self._sent.setdefault(query["upload_id"], hashlib.md5())
        announced = self.storage.get_resumable_file_obj(query["upload_id"]).get("md5Hash")
        offset = re.match(r"bytes (\d+)-", span)
        if offset is None or int(offset[1]) == self._offsets.get(query["upload_id"], 0):
            sent.update(body)
            self._offsets[query["upload_id"]] = self._offsets.get(query["upload_id"], 0) + len(body)
        else:
            self._before_this[query["upload_id"]] = self._offsets[query["upload_id"]]
        if announced and not span.endswith("/*") and base64.b64encode(sent.digest()).decode() != announced:
            return 400, "Provided MD5 hash does not match calculated MD5 hash."
        return None

    def _persisted(self, handler: RequestHandler) -> int:
        """Return how many bytes of an upload are there, if the request sends some of them again; else 0."""
        upload = parse_qs(urlsplit(handler.path).query).get("upload_id", [""])[0]
        offset = re.match(r"bytes (\d+)-", handler.headers.get("Content-Range", ""))
        there = self._before_this.pop(upload, 0)
        return there if offset and int(offset[1]) < there else 0

    def _refuse(
        self, handler: RequestHandler, status: int, message: str, headers: dict[str, str] | None = None
    ) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        body = json.dumps({"error": {"code": status, "message": message}}).encode()
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _reset(self, handler: RequestHandler) -> None:
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
        handler.wfile = _Nowhere()


class _Buffer(io.BytesIO):
    """An answer that is kept until the hooks have run."""

    def close(self) -> None:
        """Stay readable."""


class _Nowhere:
    """The target of answers that never arrive."""

    closed = False

    def write(self, data: bytes) -> int:
        return len(data)

    def flush(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is open."""
