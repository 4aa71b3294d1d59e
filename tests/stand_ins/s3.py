"""Amazon S3 on a socket: moto's server in memory, behind a proxy that adds missing features and faults.

moto implements objects, their metadata, multipart uploads, ranges, listing, conditional writes and deletions of single
objects, and ETags like S3's. The proxy checks Content-MD5, lets requests take effect one after the other, and adds
faults. Neither checks signatures and permissions, nor that a completed multipart upload has a condition.
"""

from __future__ import annotations

import threading
from functools import cache
from wsgiref.types import WSGIApplication

import boto3
from botocore.config import Config
from moto.moto_server.werkzeug_app import create_backend_app
from moto.s3.models import s3_backends
from mypy_boto3_s3.client import S3Client

from nyc_tlc.lake.s3 import client_config
from stand_ins.object_store import HELD, ObjectStore

#: moto keeps one state for the whole process, so each test's bucket needs its own name.
_numbers = iter(range(1, 1 << 30))
_naming = threading.Lock()


@cache
def _moto() -> WSGIApplication:
    return create_backend_app("s3")


class S3(ObjectStore):
    """The stand-in for S3, with one bucket."""

    def __init__(self) -> None:
        super().__init__(_moto())
        with _naming:
            self.bucket = f"taxi-lake-{next(_numbers)}"
        self._clients: dict[bool, S3Client] = {}
        self._backend = s3_backends["123456789012"]["aws"]
        self._backend.create_bucket(self.bucket, "us-east-1")

    def client(self, *, held: bool = False) -> S3Client:
        """Return the real client, as a profile's block makes it. Making one takes 0.1 seconds, so they are cached."""
        if held not in self._clients:
            session = boto3.Session("AKIAIOSFODNN7EXAMPLE", "a secret", region_name="us-east-1")
            config = client_config(Config(user_agent_extra=HELD if held else "test"))
            self._clients[held] = session.client("s3", endpoint_url=self.url, config=config)
        return self._clients[held]

    def names(self) -> set[str]:
        """Return the names of the bucket's objects."""
        return set(self._backend.buckets[self.bucket].keys)

    def read(self, name: str) -> bytes:
        """Return an object's content."""
        return bytes(self._backend.get_object(self.bucket, name).value)  # type: ignore[union-attr]

    def unfinished(self) -> int:
        """Return the number of unfinished multipart uploads."""
        return len(self._backend.buckets[self.bucket].multiparts)

    def refuse(self, status: int, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
        """Return the body and the headers of an error of S3."""
        code = {503: "SlowDown", 400: "BadDigest", 403: "AccessDenied", 409: "ConditionalRequestConflict"}
        error = f"<Error><Code>{code.get(status, 'InternalError')}</Code><Message>injected</Message></Error>"
        return error.encode(), headers | {"Content-Type": "application/xml"}
