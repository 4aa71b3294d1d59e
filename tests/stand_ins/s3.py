"""Amazon S3 on a socket: moto's server in memory, behind a proxy that adds missing features and faults.

moto implements objects, their metadata, multipart uploads, ranges, listing, conditional writes of single objects, and
ETags like S3's. The proxy checks Content-MD5 and the digest of the body that a request is signed with, lets requests
take effect one after the other, and adds faults. Neither checks signatures and permissions.
"""

from __future__ import annotations

import ssl
import threading
from functools import cache
from wsgiref.types import WSGIApplication

import boto3
from botocore.config import Config
from moto.moto_server.werkzeug_app import create_backend_app
from moto.s3.models import s3_backends
from mypy_boto3_s3.client import S3Client

from nyc_tlc.lake.s3 import client_config
from stand_ins.gcs import Fault
from stand_ins.object_store import HELD, ObjectStore

#: moto keeps one state for the whole process, so each test's bucket needs its own name.
_numbers = iter(range(1, 1 << 30))
_naming = threading.Lock()


@cache
def _moto() -> WSGIApplication:
    return create_backend_app("s3")


class S3(ObjectStore):
    """The stand-in for S3, with one bucket."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(_moto(), tls)
        with _naming:
            self.bucket = f"taxi-lake-{next(_numbers)}"
        self._clients: dict[bool, S3Client] = {}
        self._backend = s3_backends["123456789012"]["aws"]
        self._backend.create_bucket(self.bucket, "us-east-1")

    def client(self, *, held: bool = False, own_endpoint: bool = False) -> S3Client:
        """Return the real client, as a profile's block makes it. Making one takes 0.1 seconds, so they are cached.

        Args:
            held: Whether its requests are those of the held run.
            own_endpoint: Whether it is configured for a store that is not Amazon's.
        """
        if held not in self._clients:
            session = boto3.Session("AKIAIOSFODNN7EXAMPLE", "a secret", region_name="us-east-1")
            agent = Config(user_agent_extra=HELD if held else "test")
            config = client_config(agent, self.url if own_endpoint else None)
            # The certificate of a stand-in with TLS is its own.
            verify = None if self.url.startswith("http:") else False
            self._clients[held] = session.client("s3", endpoint_url=self.url, config=config, verify=verify)
        return self._clients[held]

    def forget_clients(self) -> None:
        """Make new clients from now on, with the settings as they are then."""
        self._clients = {}

    def names(self) -> set[str]:
        """Return the names of the bucket's objects."""
        return set(self._backend.buckets[self.bucket].keys)

    def read(self, name: str) -> bytes:
        """Return an object's content."""
        return bytes(self._backend.get_object(self.bucket, name).value)  # type: ignore[union-attr]

    def unfinished(self) -> int:
        """Return the number of unfinished multipart uploads."""
        return len(self._backend.buckets[self.bucket].multiparts)

    def refuse(self, fault: Fault) -> tuple[bytes, dict[str, str]]:
        """Return the body and the headers of an error of S3. The fault's message is the code, and more after it."""
        codes = {503: "SlowDown", 400: "BadDigest", 403: "AccessDenied", 409: "ConditionalRequestConflict"}
        code, _, message = fault.message.partition(" ")
        if code == "injected":
            code = codes.get(fault.status, "InternalError")
        error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        return error.encode(), fault.headers | {"Content-Type": "application/xml"}
