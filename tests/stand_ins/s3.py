"""Amazon S3 on a socket: moto's server in memory, with what it leaves out and what goes wrong in front.

moto implements objects, their metadata, multipart uploads, ranges, listing, conditional writes and deletions of single
objects, and ETags as S3 makes them. In front of it, this adds: Content-MD5 is checked, requests take effect one after
the other, and faults. Neither checks signatures and rights, nor that a completed multipart upload has a condition.
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

#: moto's state is the process's; a bucket of a test's own needs a name of its own.
_numbers = iter(range(1, 1 << 30))
_naming = threading.Lock()


@cache
def _moto() -> WSGIApplication:
    return create_backend_app("s3")


class S3(ObjectStore):
    """The stand-in, with one bucket."""

    def __init__(self) -> None:
        super().__init__(_moto())
        with _naming:
            self.bucket = f"taxi-lake-{next(_numbers)}"
        self._clients: dict[bool, S3Client] = {}
        self._backend = s3_backends["123456789012"]["aws"]
        self._backend.create_bucket(self.bucket, "us-east-1")

    def client(self, *, held: bool = False) -> S3Client:
        """The real client, as a profile's block makes it; making one takes a tenth of a second, so they are kept."""
        if held not in self._clients:
            session = boto3.Session("AKIAIOSFODNN7EXAMPLE", "a secret", region_name="us-east-1")
            config = client_config(Config(user_agent_extra=HELD if held else "test"))
            self._clients[held] = session.client("s3", endpoint_url=self.url, config=config)
        return self._clients[held]

    def names(self) -> set[str]:
        """The objects of the bucket."""
        return set(self._backend.buckets[self.bucket].keys)

    def read(self, name: str) -> bytes:
        """An object's content."""
        return bytes(self._backend.get_object(self.bucket, name).value)  # type: ignore[union-attr]

    def unfinished(self) -> int:
        """How many multipart uploads wait for their last step."""
        return len(self._backend.buckets[self.bucket].multiparts)

    def refuse(self, status: int, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
        """An error as S3 words it."""
        code = {503: "SlowDown", 400: "BadDigest", 403: "AccessDenied", 409: "ConditionalRequestConflict"}
        error = f"<Error><Code>{code.get(status, 'InternalError')}</Code><Message>injected</Message></Error>"
        return error.encode(), headers | {"Content-Type": "application/xml"}
