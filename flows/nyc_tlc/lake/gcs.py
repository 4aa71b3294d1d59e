"""A data lake in a bucket of Google Cloud Storage. An object's version, for conditional writes, is its generation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import requests
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.cloud.storage import Blob, Bucket
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY

from nyc_tlc.errors import first_line
from nyc_tlc.lake.bucket import BAD_CREDENTIALS, LOCKED, NO_BUCKET, NO_PERMISSION, BucketLake, Failure, Refusal
from nyc_tlc.lake.store import Found, content_type
from nyc_tlc.settings import read_settings

#: Bytes of a chunk of an upload, which are in memory while they are sent.
CHUNK_BYTES = 8 << 20
NETWORK_FAILURES = (
    api.RetryError,
    auth.TransportError,
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
)


class GcsLake(BucketLake):
    """A data lake in a folder of a bucket."""

    failures = (api.GoogleAPIError, auth.GoogleAuthError, InvalidResponse, DataCorruption, requests.RequestException)
    refusals = (
        Refusal(401, "", *BAD_CREDENTIALS),
        Refusal(403, "retention", *LOCKED),
        Refusal(403, "billing", "the billing account of {url} is closed or disabled", "enable billing for the project"),
        Refusal(
            403,
            "kms",
            "Cloud Storage may not use the key of {url}",
            "grant the project's Cloud Storage service agent roles/cloudkms.cryptoKeyEncrypterDecrypter on the key",
        ),
        Refusal(403, "", NO_PERMISSION, "grant the service account the role roles/storage.objectUser on the bucket"),
        Refusal(400, "requester pays", "{url} is a requester-pays bucket", "use another one: these are not supported"),
        Refusal(404, "bucket does not exist", *NO_BUCKET),
    )

    def __init__(self, bucket: Bucket, folder: str = "") -> None:
        """Use a bucket whose client may read, write, list and delete its objects."""
        super().__init__(folder)
        self._bucket = bucket

    def url(self, key: str) -> str:
        return f"gs://{self._bucket.name}/{self.name(key)}"

    @classmethod
    def _describe(cls, error: Exception) -> Failure:
        transient = isinstance(error, NETWORK_FAILURES) or getattr(error, "retryable", False)
        status = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "code", None)
        status = 401 if isinstance(error, auth.GoogleAuthError) else status
        return Failure(status, _read_message(error), transient, refused=isinstance(error, api.PreconditionFailed))

    def _head(self, name: str) -> tuple[int, Mapping[str, str]] | None:
        blob = self._bucket.get_blob(name, **_call_options())
        return blob and (blob.size, blob.metadata or {})

    def _get_range(self, name: str, start: int, end: int) -> bytes:
        return bytes(self._bucket.blob(name).download_as_bytes(start=start, end=end - 1, **_call_options()))

    def _get(self, name: str) -> Found:
        while blob := self._bucket.get_blob(name, **_call_options()):
            generation = blob.generation
            # These mean that another run replaced the object between the two calls: read the new one.
            with contextlib.suppress(api.NotFound, api.PreconditionFailed):
                content = blob.download_as_bytes(if_generation_match=generation, **_call_options())
                return Found(bytes(content), str(generation))
        # Raises an error if the bucket itself is missing; the 404 of an object does not show that.
        next(iter(self._bucket.list_blobs(prefix=name, max_results=1, **_call_options())), None)
        return Found()

    def _put(self, name: str, content: bytes, metadata: Mapping[str, str], **condition: int) -> None:
        blob = self._blob(name, metadata)
        blob.upload_from_string(content, content_type=content_type(name), **condition, **_call_options())

    def _require_version(self, expected: str | None) -> dict[str, Any]:
        return {"if_generation_match": int(expected or 0)}

    def _list(self, prefix: str) -> Iterable[str]:
        fields = "items(name),nextPageToken"
        return (blob.name for blob in self._bucket.list_blobs(prefix=prefix, fields=fields, **_call_options()))

    def _delete(self, name: str) -> None:
        with contextlib.suppress(api.NotFound):
            self._bucket.blob(name).delete(**_call_options())

    def _duplicate(self, name: str, to: str) -> bool:
        source, target, token = self._bucket.blob(name), self._bucket.blob(to), None
        with contextlib.suppress(api.NotFound):
            # A large object takes several requests if it has to move.
            while (token := target.rewrite(source, token, **_call_options())[0]) is not None:
                pass
            return True
        return False

    def _send(self, name: str, path: Path, metadata: Mapping[str, str]) -> None:
        blob = self._blob(name, metadata)
        blob.chunk_size = CHUNK_BYTES
        # No other run writes this name, so a request may be repeated without a condition.
        blob.upload_from_filename(str(path), content_type=content_type(name), **_call_options())

    def _blob(self, name: str, metadata: Mapping[str, str]) -> Blob:
        blob = self._bucket.blob(name)
        if metadata:
            blob.metadata = dict(metadata)
        return blob


def _call_options() -> dict[str, Any]:
    """Return the timeout and the retries for a call of the client."""
    settings = read_settings()
    retry = DEFAULT_RETRY.with_delay(initial=settings.http_backoff, maximum=60).with_timeout(settings.gcs_give_up)
    return {"timeout": settings.http_timeout, "retry": retry}


def _read_message(error: Exception) -> str:
    """Return a client's error as one short line: the message in Google's answer, else the exception's."""
    cause = error.cause if isinstance(error, api.RetryError) and error.cause else error
    response = getattr(cause, "response", None)
    if response is not None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return f"HTTP {response.status_code}: {response.json()['error']['message']}"[:300]
        return f"HTTP {response.status_code}"
    return first_line(cause)
