"""A data lake in a Google Cloud Storage bucket: uploads that are finished only when a month is published.

An upload streams while the month is cleaned and is no object before its last chunk, which is held back
until publication. Every object that publication writes or deletes must still have the generation it had
when the run began, so of two runs of one month at most one gets past the first object.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

import requests
from google.api_core import exceptions as api
from google.api_core.retry import Retry
from google.auth import exceptions as auth
from google.cloud.storage import Blob, Bucket
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.fileio import BlobWriter
from urllib3.util import Retry as HttpRetry

from nyc_tlc.errors import ConfigurationError, LakeError, TlcError, TransientError
from nyc_tlc.lake.keys import Keys, months_of
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.staging import StagedFile, begin, conflict, end
from nyc_tlc.months import Color, Month
from nyc_tlc.settings import read_settings

log = logging.getLogger(__name__)

CONTENT_TYPES = {
    ".parquet": "application/vnd.apache.parquet",
    ".json": "application/json",
    ".gz": "application/gzip",
    ".csv": "text/csv",
}
PRECONDITION_FAILED = 412
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
#: What the Google clients raise when something is wrong on the way or at the other end.
FAILURES = (api.GoogleAPIError, auth.GoogleAuthError, InvalidResponse, DataCorruption, requests.RequestException)
#: GCS takes the chunks of an upload in multiples of this.
CHUNK_UNIT = 1 << 18
#: Many days are written side by side, so each gets a smaller buffer.
DAY_CHUNKS_SMALLER = 8


class GcsLake:
    """A data lake in a bucket, under a folder of it."""

    def __init__(self, bucket: Bucket, folder: str = "") -> None:
        """Use a bucket.

        Args:
            bucket: The bucket, with a client that has the right to read, write and delete its objects.
            folder: The folder in the bucket that is the lake's root.
        """
        self._bucket, self._folder = bucket, PurePosixPath(folder.strip("/"))

    def url(self, key: str) -> str:
        """The ``gs://`` URL."""
        return f"gs://{self._bucket.name}/{self._name(key)}"

    def manifest(self, keys: Keys) -> Manifest | None:
        """The month's manifest, None when the lake doesn't have the month."""
        return self.versioned_manifest(keys)[0]

    def versioned_manifest(self, keys: Keys) -> tuple[Manifest | None, int]:
        """The month's manifest and its generation; None and 0 when there is none."""
        while True:
            with self.explained(keys.name):
                blob = self._bucket.get_blob(self._name(keys.manifest), **self.calls())
                if blob is None:
                    # A listing tells a bucket that isn't there from an object that isn't.
                    next(
                        iter(self._bucket.list_blobs(prefix=self._name(keys.manifest), max_results=1, **self.calls())),
                        None,
                    )
                    return None, 0
                # Gone between the two calls: another run has just retracted it.
                generation = int(blob.generation)
                with contextlib.suppress(api.NotFound, api.PreconditionFailed):
                    content = blob.download_as_bytes(if_generation_match=generation, **self.calls())
                    return Manifest.model_validate_json(content), generation

    def size(self, key: str) -> int | None:
        """An object's size in bytes, None when there is none."""
        with self.explained(key):
            blob = self._bucket.get_blob(self._name(key), **self.calls())
        return blob.size if blob else None

    def generation(self, key: str) -> int:
        """An object's generation, 0 when there is none."""
        blob = self._bucket.get_blob(self._name(key), **self.calls())
        return blob.generation if blob else 0

    def local_path(self, key: str) -> None:
        """Objects of a bucket are not on this machine."""

    def open(self, key: str) -> BinaryIO:
        """An object for reading, range by range, pinned to the generation it has now."""
        with self.explained(key):
            blob = self._bucket.get_blob(self._name(key), **self.calls())
        if blob is None:
            raise LakeError(f"there is no {key} in the lake", got=self.url(""))
        return cast(BinaryIO, blob.open("rb", chunk_size=chunk_size(), **self.calls()))

    def months(self, color: Color) -> list[Month]:
        """The months of a colour the lake has, oldest first."""
        with self.explained(color):
            return months_of(self.keys(f"manifest/{color}/"))

    def read(self, key: str) -> bytes | None:
        """A small object's content, None when there is none."""
        with self.explained(key), contextlib.suppress(api.NotFound):
            return bytes(self.blob(key).download_as_bytes(**self.calls()))
        return None

    def write(self, key: str, content: bytes) -> None:
        """Write a small object, whole or not at all."""
        kind = CONTENT_TYPES.get(PurePosixPath(key).suffix, "application/octet-stream")
        with self.explained(key):
            self.blob(key).upload_from_string(content, content_type=kind, checksum="crc32c", **self.calls())

    def remove(self, key: str) -> None:
        """Delete an object; one that is gone is gone."""
        with self.explained(key), contextlib.suppress(api.NotFound):
            self.blob(key).delete(**self.calls())

    def stage(self, keys: Keys, labels: Mapping[str, str]) -> GcsStaging:
        """Begin a month; its objects carry the labels as their metadata."""
        return GcsStaging(self, keys, labels)

    def keys(self, prefix: str) -> list[str]:
        """The keys of the objects under a prefix."""
        root = self._name("")
        names = (blob.name for blob in self._bucket.list_blobs(prefix=self._name(prefix), **self.calls()))
        return [name.removeprefix(root).lstrip("/") for name in names]

    def blob(self, key: str) -> Blob:
        """A handle on an object that may or may not be there."""
        return self._bucket.blob(self._name(key))

    def delete(self, key: str, generation: int) -> None:
        """Delete an object of a generation; one that is gone is gone."""
        with contextlib.suppress(api.NotFound):
            self.blob(key).delete(if_generation_match=generation, **self.calls())

    def calls(self) -> dict[str, Any]:
        """What every call of the client is given."""
        configured = read_settings()
        retry = Retry(
            predicate=is_transient,
            initial=configured.http_backoff,
            maximum=60,
            timeout=configured.gcs_give_up,
            on_error=_told_to_wait(self.url("")),
        )
        return {"timeout": configured.http_timeout, "retry": retry}

    @contextlib.contextmanager
    def explained(self, name: str) -> Iterator[None]:
        """Turn what the client raises into an error that says what to do."""
        try:
            yield
        except FAILURES as error:
            raise explain(error, name, self.url("")) from error

    def _name(self, key: str) -> str:
        return str(self._folder / key) if str(self._folder) != "." else key


class GcsStaging:
    """A month on its way into a bucket: uploads short of their last chunk."""

    def __init__(self, lake: GcsLake, keys: Keys, labels: Mapping[str, str]) -> None:
        """Begin; see ``GcsLake.stage``."""
        self._lake, self._keys = lake, keys
        self.token = uuid.uuid4().hex[:12]
        self._labels = {**labels, "run": self.token}
        self._uploads: dict[str, BlobWriter] = {}
        self._finished: dict[str, int] = {}
        self._found_clean = 0
        self._old_manifest, self._found = lake.versioned_manifest(keys)
        begin(self)

    @contextlib.contextmanager
    def create(self, key: str) -> Iterator[StagedFile]:
        """Open an object for writing. It is staged when the block ends, and gone when it fails."""
        with self._lake.explained(self._keys.name):
            upload = self._upload(key)
        try:
            with self._lake.explained(self._keys.name), StagedFile(cast(BinaryIO, _HeldBack(upload))) as staged:
                yield staged
        except BaseException:
            _cancel(upload)
            raise
        self._uploads[key] = upload

    def publish(self, manifest: Manifest) -> None:
        """Make the staged objects and the manifest the month, replacing what was there."""
        try:
            with self._lake.explained(self._keys.name):
                self._publish(manifest)
        except BaseException:
            self._withdraw()
            raise
        finally:
            self.discard()

    def discard(self) -> None:
        """Drop what was staged."""
        for upload in self._uploads.values():
            _cancel(upload)
        self._uploads = {}
        end(self.token)

    def _publish(self, manifest: Manifest) -> None:
        lake, keys = self._lake, self._keys
        if lake.generation(keys.manifest) != self._found:
            raise conflict(keys)
        if self._found:
            with self._contended():
                lake.blob(keys.manifest).delete(if_generation_match=self._found, **lake.calls())
        # Clean comes first: whatever two runs differ in, for that object they contend.
        for key in sorted(self._uploads, key=lambda key: key != keys.clean):
            with self._contended():
                self._finish(key)
        self._remove_strays()
        with self._contended():
            blob = lake.blob(keys.manifest)
            blob.metadata = self._labels
            options = {"content_type": CONTENT_TYPES[".json"], "checksum": "crc32c", "if_generation_match": 0}
            blob.upload_from_string(manifest.to_json(), **options, **lake.calls())
            self._finished[keys.manifest] = blob.generation
        if any(lake.generation(key) != generation for key, generation in self._finished.items()):
            raise conflict(keys)

    def _finish(self, key: str) -> None:
        """Send an upload's last chunk, which makes it an object.

        The client compares its own crc32c with the server's; should they differ, what arrived is removed.
        An upload that can't be finished stays among those that ``discard`` gives up.
        """
        blob, calls = self._lake.blob(key), self._lake.calls()
        try:
            self._uploads[key].close()
        except DataCorruption:
            blob.reload(**calls)
            blob.delete(if_generation_match=blob.generation, **calls)
            raise
        del self._uploads[key]
        blob.reload(**calls)
        if (blob.metadata or {}).get("run") != self.token:
            raise conflict(self._keys)
        self._finished[key] = int(blob.generation)

    def _withdraw(self) -> None:
        """After a failure, let no manifest stand for objects that are not those it names."""
        lake, keys = self._lake, self._keys
        try:
            if self._finished:
                standing = lake.generation(keys.manifest)
                ours = any(lake.generation(key) == generation for key, generation in self._finished.items())
                if standing and ours:
                    lake.delete(keys.manifest, standing)
            elif self._old_manifest and lake.generation(keys.clean) == self._found_clean:
                lake.blob(keys.manifest).upload_from_string(
                    self._old_manifest.to_json(),
                    content_type=CONTENT_TYPES[".json"],
                    if_generation_match=0,
                    **lake.calls(),
                )
        except FAILURES as error:
            if _status(error) != PRECONDITION_FAILED:
                log.warning("%s: the month is without a manifest until it is made again: %s", keys.name, error)

    def _remove_strays(self) -> None:
        """Remove the month's objects of an earlier run that this one did not write."""
        keys = self._keys
        days = (key for key in self._lake.keys(f"daily/{keys.color}/") if key.endswith(f"/{keys.file}.parquet"))
        raws = self._lake.keys(f"raw/{keys.color}/{keys.file}.")
        for key in {*days, *raws} - self._finished.keys():
            if generation := self._lake.generation(key):
                self._lake.delete(key, generation)

    def _upload(self, key: str) -> BlobWriter:
        blob = self._lake.blob(key)
        blob.metadata = self._labels
        generation = self._lake.generation(key)
        if key == self._keys.clean:
            self._found_clean = generation
        size = chunk_size()
        return cast(
            BlobWriter,
            blob.open(
                "wb",
                chunk_size=max(CHUNK_UNIT, size // DAY_CHUNKS_SMALLER) if key.startswith("daily/") else size,
                content_type=CONTENT_TYPES[PurePosixPath(key).suffix],
                checksum="crc32c",
                if_generation_match=generation,
                **self._lake.calls(),
            ),
        )

    @contextlib.contextmanager
    def _contended(self) -> Iterator[None]:
        """Take an object that is not as it was when the run began for another run's."""
        try:
            yield
        except FAILURES as error:
            if _status(error) in (PRECONDITION_FAILED, 404):
                raise conflict(self._keys) from error
            raise


class _HeldBack:
    """A sink into an upload that does not finish it when it is closed."""

    def __init__(self, upload: BlobWriter) -> None:
        self.write = upload.write

    def close(self) -> None:
        """Leave the last chunk unsent."""


def _cancel(upload: BlobWriter) -> None:
    """Give an upload up: what was sent never becomes an object."""
    with contextlib.suppress(*FAILURES, ValueError):
        upload.terminate()
    # Were its buffer left open, as after a failure, the client would finish the upload when it is garbage collected.
    upload._buffer.close()


def chunk_size() -> int:
    """The configured chunk size, in the multiples GCS takes."""
    return max(1, int(read_settings().gcs_chunk_mib * (1 << 20)) // CHUNK_UNIT) * CHUNK_UNIT


def is_transient(error: Exception) -> bool:
    """Whether time can heal what a call failed of."""
    network = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError, ConnectionError)
    return _status(error) in RETRIED or isinstance(error, (*network, auth.TransportError))


def _status(error: BaseException | None) -> int | None:
    """The HTTP status a failure came with."""
    return getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "code", None)


def _told_to_wait(url: str) -> Callable[[Exception], None]:
    """What is done before a call is tried again: say so, and wait as long as Retry-After asks for."""

    def wait(error: Exception) -> None:
        log.warning("%s: %s; trying again", url, _status(error) or type(error).__name__)
        headers = getattr(getattr(error, "response", None), "headers", {})
        if "Retry-After" in headers:
            time.sleep(HttpRetry(retry_after_max=600).parse_retry_after(headers["Retry-After"]))

    return wait


def explain(error: Exception, name: str, url: str) -> TlcError:
    """What a client's error means for a person."""
    status = _status(error)
    if status == 401 or (isinstance(error, auth.GoogleAuthError) and not isinstance(error, auth.TransportError)):
        return ConfigurationError(
            f"{name}: the credentials for {url} are refused",
            got=_first_line(error),
            fix="renew them as blocks/README.md says, and register the profile again",
        )
    if status == 403:
        return ConfigurationError(
            f"{name}: no right to {url}",
            got=_first_line(error),
            fix="grant the service account the role roles/storage.objectUser on the bucket",
        )
    if status == 404:
        return ConfigurationError(f"{name}: there is no bucket at {url}", got=_first_line(error))
    if is_transient(error) or isinstance(error, api.RetryError):
        return TransientError(f"{name}: {url} did not answer", got=_first_line(error), fix="try again later")
    return LakeError(f"{name}: {url} failed", got=_first_line(error))


def _first_line(error: Exception) -> str:
    told = error.args[0] if isinstance(error, auth.GoogleAuthError) and error.args else error
    return str(told).partition("\n")[0][:300]
