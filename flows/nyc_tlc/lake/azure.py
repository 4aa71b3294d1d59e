"""A data lake in a container of Azure Blob Storage.

An upload sends blocks; they become a blob when their list is committed. A blob's version is its ETag, which changes
with each write. Conditional writes and conditional deletions compare it.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    IncompleteReadError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.storage.blob import BlobBlock, BlobClient, BlobProperties, ContainerClient, ContentSettings

from nyc_tlc.errors import LakeError, TlcError
from nyc_tlc.lake.bucket import BucketLake, FailedCall
from nyc_tlc.lake.lake import NewFile, SwapRefusedError, content_type
from nyc_tlc.retries import RETRIED_STATUSES, call_with_retries
from nyc_tlc.settings import read_settings

T = TypeVar("T")

#: Bytes of an upload's block.
BLOCK_BYTES = 8 << 20
#: The bytes changed during the transfer.
RETRIED_CODES = frozenset({"Md5Mismatch"})
REFUSED = (ResourceExistsError, ResourceModifiedError, ResourceNotFoundError)


def client_options() -> dict[str, float]:
    """Return the timeouts for a lake's client. It does not retry, because the lake does."""
    timeout = read_settings().http_timeout
    return {"retry_total": 0, "connection_timeout": timeout, "read_timeout": timeout}


class AzureLake(BucketLake):
    """A data lake in a folder of a container."""

    def __init__(self, container: ContainerClient, folder: str = "") -> None:
        """Use a container.

        Args:
            container: A client made with ``client_options``, with permission to read, write, list and delete blobs.
            folder: The folder in the container that is the lake's root.
        """
        super().__init__(folder, (AzureError,), explain)
        self._container = container

    def url(self, key: str) -> str:
        """Return a blob's URL, without the shared access signature."""
        return f"{self._container.url.partition('?')[0]}/{self.name(key)}"

    def size(self, key: str) -> int | None:
        """Return a blob's size in bytes; None if it does not exist."""
        found = self.find(key)
        return found.size if found else None

    def read_range(self, key: str, start: int, end: int) -> bytes:
        """Read a part of a blob."""

        def read() -> bytes:
            return self.blob(key).download_blob(start, end - start, max_concurrency=1).readall()

        return self.call(key, read)

    def read_version(self, key: str) -> tuple[bytes, str] | None:
        """Read a small blob. Return its content and version; None if it does not exist."""

        def read() -> tuple[bytes, str] | None:
            try:
                answer = self.blob(key).download_blob(max_concurrency=1)
                return answer.readall(), str(answer.properties.etag)
            except ResourceNotFoundError as error:
                if _code(error) == "BlobNotFound":
                    return None
                raise

        return self.call(key, read)

    def write(self, key: str, content: bytes) -> None:
        """Write a small blob atomically."""
        self.call(key, partial(self._put, key, content, {}, overwrite=True))

    def swap(self, key: str, content: bytes, expected: str | None, labels: Mapping[str, str]) -> None:
        """Write a small blob if its version is the expected one; the labels become its metadata."""

        def put() -> None:
            try:
                if expected is None:
                    self._put(key, content, labels, overwrite=False)
                else:
                    self._put(
                        key,
                        content,
                        labels,
                        overwrite=True,
                        etag=expected,
                        match_condition=MatchConditions.IfNotModified,
                    )
            except REFUSED as error:
                if _code(error) == "ContainerNotFound":
                    raise
                raise SwapRefusedError(key) from error

        self.call(key, put)

    def list_objects(self, prefix: str) -> dict[str, str]:
        """Return the keys that start with a prefix, and their versions."""

        def list_all() -> dict[str, str]:
            blobs = self._container.list_blobs(name_starts_with=self.name(prefix))
            return {self.key(blob.name): f'"{str(blob.etag).strip(chr(34))}"' for blob in blobs}

        return self.call(prefix, list_all)

    def remove(self, key: str, version: str | None = None) -> None:
        """Delete a blob; with a version, only if the blob has it."""
        condition: dict[str, Any] = (
            {"etag": version, "match_condition": MatchConditions.IfNotModified} if version else {}
        )

        def delete() -> None:
            try:
                self.blob(key).delete_blob(**condition)
            except ResourceModifiedError:
                return
            except ResourceNotFoundError as error:
                if _code(error) == "ContainerNotFound":
                    raise

        self.call(key, delete)

    def upload(self, file: NewFile, labels: Mapping[str, str]) -> AzureUpload:
        """Send a file's blocks; ``finish`` commits their list."""
        upload = AzureUpload(self, file, {**labels, "sha256": file.sha256})
        upload.send()
        return upload

    def find(self, key: str) -> BlobProperties | None:
        """Return a blob's properties; None if it does not exist."""

        def find() -> BlobProperties | None:
            try:
                return self.blob(key).get_blob_properties()
            except ResourceNotFoundError:
                return None

        return self.call(key, find)

    def blob(self, key: str) -> BlobClient:
        """Return the client of one blob."""
        return self._container.get_blob_client(self.name(key))

    def call(self, key: str, call: Callable[[], T]) -> T:
        """Make a call about a blob; repeat it after transient failures.

        Raises:
            TlcError: when it failed; the error says what to do.
        """
        with self.translate_errors(key):
            return call_with_retries(call, _read_retry_after, self.url(""))

    def _put(
        self,
        key: str,
        content: bytes,
        metadata: Mapping[str, str],
        *,
        overwrite: bool,
        etag: str | None = None,
        match_condition: MatchConditions | None = None,
    ) -> None:
        condition: dict[str, Any] = {"etag": etag, "match_condition": match_condition} if etag else {}
        self.blob(key).upload_blob(
            content,
            overwrite=overwrite,
            metadata=dict(metadata),
            content_settings=ContentSettings(content_type=content_type(key)),
            validate_content=True,
            **condition,
        )


class AzureUpload:
    """An upload whose blocks are not committed yet."""

    def __init__(self, lake: AzureLake, file: NewFile, metadata: Mapping[str, str]) -> None:
        """Prepare an upload; nothing is sent yet."""
        self._lake, self._file, self._metadata = lake, file, dict(metadata)
        self._blocks: list[BlobBlock] = []
        # Two uploads of the same blob must not use the same names for their blocks.
        self._name = uuid.uuid4().hex

    def send(self) -> None:
        """Send the file's blocks."""
        unsent = bytearray()
        for piece in self._file.pieces():
            unsent += piece
            while len(unsent) > BLOCK_BYTES:
                self._send_block(bytes(unsent[:BLOCK_BYTES]))
                del unsent[:BLOCK_BYTES]
        if unsent:
            self._send_block(bytes(unsent))

    def is_there(self) -> bool:
        """Return whether the blob has these bytes already, by its size and the digest in its metadata."""
        found = self._lake.find(self._file.key)
        return found is not None and (found.size, found.metadata.get("sha256")) == (self._file.size, self._file.sha256)

    def finish(self) -> None:
        """Commit the blocks: they become the blob."""
        key = self._file.key
        settings = ContentSettings(content_type=content_type(key))

        def commit() -> None:
            self._lake.blob(key).commit_block_list(self._blocks, content_settings=settings, metadata=self._metadata)

        try:
            self._lake.call(key, commit)
        except LakeError as error:
            # An earlier attempt may have committed them and only its answer was lost; a second commit is refused.
            if "InvalidBlockList" not in error.got or not self.is_there():
                raise

    def abort(self) -> None:
        """Do nothing: blocks that are not committed belong to no blob, and Azure deletes them within a week."""

    def _send_block(self, content: bytes) -> None:
        name = base64.b64encode(f"{self._name}-{len(self._blocks):06d}".encode()).decode()
        blob = self._lake.blob(self._file.key)
        self._lake.call(self._file.key, partial(blob.stage_block, name, content, len(content), validate_content=True))
        self._blocks.append(BlobBlock(name))


def is_transient(error: Exception) -> bool:
    """Return whether a later attempt can succeed."""
    if isinstance(error, HttpResponseError) and error.status_code:
        return error.status_code in RETRIED_STATUSES or _code(error) in RETRIED_CODES
    return isinstance(error, (ServiceRequestError, ServiceResponseError, IncompleteReadError))


def explain(error: Exception, name: str, url: str) -> TlcError:
    """Return the error to raise for a client's error."""
    status, code = getattr(error, "status_code", None), _code(error)
    call = FailedCall(name, url, f"HTTP {status}: {code}" if status else str(error).partition("\n")[0][:300])
    if is_transient(error):
        return call.without_answer()
    if status == 403 and code in ("AuthorizationPermissionMismatch", "AuthorizationFailure"):
        return call.without_permission("grant the role Storage Blob Data Contributor on the container")
    if isinstance(error, ClientAuthenticationError) or status in (401, 403):
        return call.with_bad_credentials()
    return call.without_bucket("container") if code == "ContainerNotFound" else call.of_other_kind()


def _read_retry_after(error: Exception) -> str | None:
    """Return a failure's Retry-After header, empty if it has none; None if a later attempt would fail too."""
    if not is_transient(error):
        return None
    response = getattr(error, "response", None)
    return str(response.headers.get("Retry-After", "")) if response is not None else ""


def _code(error: BaseException) -> str:
    return str(getattr(getattr(error, "error_code", None), "value", getattr(error, "error_code", "")) or "")
