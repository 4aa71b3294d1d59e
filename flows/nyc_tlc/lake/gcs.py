"""A data lake in a Google Cloud Storage bucket.

An upload becomes an object with its last chunk, which is sent at publication. An object's version is its generation.
Conditional writes and conditional deletions compare it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import requests
from google.api_core import exceptions as api
from google.api_core.retry import Retry
from google.auth import exceptions as auth
from google.cloud.storage import Blob, Bucket
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.fileio import BlobWriter

from nyc_tlc.errors import TlcError, first_line
from nyc_tlc.lake.bucket import BucketLake, FailedCall
from nyc_tlc.lake.lake import NewFile, SwapRefusedError, content_type
from nyc_tlc.retries import RETRIED_STATUSES, parse_retry_after
from nyc_tlc.settings import read_settings

log = logging.getLogger(__name__)

PRECONDITION_FAILED = 412
#: The Google clients' errors for failures of the network or the service.
FAILURES = (api.GoogleAPIError, auth.GoogleAuthError, InvalidResponse, DataCorruption, requests.RequestException)
#: GCS requires the bytes of a chunk to be a multiple of this.
CHUNK_UNIT = 1 << 18


class GcsLake(BucketLake):
    """A data lake in a folder of a bucket."""

    def __init__(self, bucket: Bucket, folder: str = "") -> None:
        """Use a bucket.

        Args:
            bucket: The bucket, with a client that has permission to read, write, list and delete its objects.
            folder: The folder in the bucket that is the lake's root.
        """
        super().__init__(folder, FAILURES, explain)
        self._bucket = bucket

    def url(self, key: str) -> str:
        """Return an object's ``gs://`` URL."""
        return f"gs://{self._bucket.name}/{self.name(key)}"

    def size(self, key: str) -> int | None:
        """Return an object's size in bytes; None if it does not exist."""
        blob = self.find(key)
        return blob.size if blob else None

    def read_range(self, key: str, start: int, end: int) -> bytes:
        """Read a part of an object."""
        with self.translate_errors(key):
            return bytes(self._blob(key).download_as_bytes(start=start, end=end - 1, **self._call_options()))

    def read_version(self, key: str) -> tuple[bytes, str] | None:
        """Read a small object. Return its content and version; None if it does not exist."""
        while blob := self.find(key):
            generation = int(blob.generation)
            # These mean that another run replaced the object between the two calls: read the new one.
            with self.translate_errors(key), contextlib.suppress(api.NotFound, api.PreconditionFailed):
                content = blob.download_as_bytes(if_generation_match=generation, **self._call_options())
                return bytes(content), str(generation)
        with self.translate_errors(key):
            # Raises an error if the bucket itself is missing; the 404 of an object does not show that.
            next(iter(self._bucket.list_blobs(prefix=self.name(key), max_results=1, **self._call_options())), None)
        return None

    def write(self, key: str, content: bytes) -> None:
        """Write a small object atomically."""
        with self.translate_errors(key):
            self._write(key, content)

    def swap(self, key: str, content: bytes, expected: str | None, labels: Mapping[str, str]) -> None:
        """Write a small object if its version is the expected one; the labels become its metadata."""
        with self.translate_errors(key):
            try:
                self._write(key, content, labels, if_generation_match=int(expected or 0))
            except FAILURES as error:
                if _status(error) == PRECONDITION_FAILED:
                    raise SwapRefusedError(key) from error
                raise

    def list_objects(self, prefix: str) -> dict[str, str]:
        """Return the keys that start with a prefix, and their versions."""
        fields = "items(name,generation),nextPageToken"
        with self.translate_errors(prefix):
            blobs = self._bucket.list_blobs(prefix=self.name(prefix), fields=fields, **self._call_options())
            return {self.key(blob.name): str(blob.generation) for blob in blobs}

    def remove(self, key: str, version: str | None = None) -> None:
        """Delete an object; with a version, only if the object has it."""
        with self.translate_errors(key), contextlib.suppress(api.NotFound, api.PreconditionFailed):
            self._blob(key).delete(if_generation_match=version and int(version), **self._call_options())

    def upload(self, file: NewFile, labels: Mapping[str, str]) -> GcsUpload:
        """Send a file except for its last chunk, which ``finish`` sends; the labels become its metadata."""
        with file.path.open("rb") as content:
            digest = hashlib.file_digest(content, hashlib.md5).digest()
        blob = self._blob(file.key)
        blob.metadata = dict(labels)
        # Google compares the digest before it creates the object.
        blob.md5_hash = base64.b64encode(digest).decode()
        size = max(1, int(read_settings().gcs_chunk_mib * (1 << 20)) // CHUNK_UNIT) * CHUNK_UNIT
        writer = cast(
            BlobWriter,
            blob.open(
                "wb",
                chunk_size=size,
                content_type=content_type(file.key),
                checksum=None,
                **self._call_options(),
            ),
        )
        upload = GcsUpload(self, file.key, writer, blob.md5_hash)
        try:
            with self.translate_errors(file.key):
                for piece in file.pieces():
                    writer.write(piece)
        except BaseException:
            upload.abort()
            raise
        return upload

    def find(self, key: str) -> Blob | None:
        """Return an object's metadata; None if it does not exist."""
        with self.translate_errors(key):
            return self._bucket.get_blob(self.name(key), **self._call_options())

    def _write(self, key: str, content: bytes, labels: Mapping[str, str] | None = None, **condition: int) -> None:
        blob = self._blob(key)
        blob.metadata = dict(labels) if labels else None
        kind = content_type(key)
        blob.upload_from_string(content, content_type=kind, checksum="crc32c", **condition, **self._call_options())

    def _call_options(self) -> dict[str, Any]:
        """Return the timeout and the retries for a call of the client."""
        settings = read_settings()
        retry = Retry(
            predicate=is_transient,
            initial=settings.http_backoff,
            maximum=60,
            timeout=settings.gcs_give_up,
            on_error=_make_on_error(self.url(""), settings.gcs_give_up),
        )
        return {"timeout": settings.http_timeout, "retry": retry}

    def _blob(self, key: str) -> Blob:
        return self._bucket.blob(self.name(key))


class GcsUpload:
    """An upload whose last chunk is not sent yet."""

    def __init__(self, lake: GcsLake, key: str, writer: BlobWriter, md5: str) -> None:
        """Use a writer that has the whole file and has not sent the last chunk."""
        self._lake, self._key, self._writer, self._md5 = lake, key, writer, md5

    def is_there(self) -> bool:
        """Return whether the object has these bytes already, by their MD5."""
        blob = self._lake.find(self._key)
        return blob is not None and blob.md5_hash == self._md5

    def finish(self) -> None:
        """Send the last chunk: the upload becomes the object."""
        with self._lake.translate_errors(self._key):
            self._writer.close()

    def abort(self) -> None:
        """Cancel the upload. If the request fails, Google deletes the sent bytes within a week."""
        if not self._writer.closed:
            with contextlib.suppress(*FAILURES, ValueError):
                self._writer.terminate()
        # After a failure the buffer is still open, and the client would finish the upload at garbage collection.
        self._writer._buffer.close()


def is_transient(error: Exception) -> bool:
    """Return whether a later attempt can succeed."""
    network = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError, ConnectionError)
    return (
        _status(error) in RETRIED_STATUSES
        or isinstance(error, (*network, auth.TransportError))
        or (isinstance(error, auth.RefreshError) and error.retryable)
    )


def explain(error: Exception, name: str, url: str) -> TlcError:
    """Return the error to raise for a client's error."""
    status, call = _status(error), FailedCall(name, url, _describe(error))
    if is_transient(error) or isinstance(error, api.RetryError):
        return call.without_answer()
    if status == 401 or isinstance(error, auth.GoogleAuthError):
        return call.with_bad_credentials()
    if status == 403:
        return call.without_permission("grant the service account the role roles/storage.objectUser on the bucket")
    if status == 404 and "bucket does not exist" in call.got:
        return call.without_bucket()
    is_lost = status in (404, 410) and isinstance(error, InvalidResponse)
    return call.of_lost_upload() if is_lost else call.of_other_kind()


def _status(error: BaseException | None) -> int | None:
    """Return a failure's HTTP status; None if it has none."""
    return getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "code", None)


def _describe(error: Exception) -> str:
    """Return a client's error as one short line: the message in Google's answer, else the exception's."""
    cause = error.cause if isinstance(error, api.RetryError) and error.cause else error
    response = getattr(cause, "response", None)
    if response is not None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return f"HTTP {response.status_code}: {response.json()['error']['message']}"[:300]
        return f"HTTP {response.status_code}"
    return first_line(cause)


def _make_on_error(url: str, give_up: float) -> Callable[[Exception], None]:
    """Return a function that, before a retry, logs the error and waits as long as its Retry-After asks."""

    def wait(error: Exception) -> None:
        headers = getattr(getattr(error, "response", None), "headers", None) or {}
        seconds = parse_retry_after(headers.get("Retry-After", ""))
        if seconds > give_up:
            log.warning("%s: %s asks to wait %.0f s, longer than TLC_GCS_GIVE_UP", url, _status(error), seconds)
            raise error
        log.warning("%s: %s; trying again", url, _status(error) or type(error).__name__)
        time.sleep(seconds)

    return wait
