"""A data lake in a container of Azure Blob Storage. A blob's version, for conditional writes, is its ETag."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from azure.core import MatchConditions
from azure.core import exceptions as azure
from azure.storage.blob import ContainerClient, ContentSettings, ExponentialRetry

from nyc_tlc.lake.bucket import BAD_CREDENTIALS, LOCKED, NO_BUCKET, NO_PERMISSION, BucketLake, Failure, Refusal
from nyc_tlc.lake.store import Found, content_type
from nyc_tlc.settings import read_settings

#: Bytes of an upload's block, which are in memory while they are sent; a smaller file is sent in one request.
BLOCK_BYTES = 8 << 20
#: The codes for a refused condition. Other refusals with the same statuses are about policies, leases and containers.
CONDITION_REFUSED = frozenset({"BlobAlreadyExists", "BlobNotFound", "ConditionNotMet"})
ROLE = "grant the role Storage Blob Data Contributor on the container"


def client_options() -> dict[str, Any]:
    """Return the timeouts, the retries and the sizes of transfers for a lake's client."""
    settings = read_settings()
    waits: dict[str, Any] = {"initial_backoff": settings.http_backoff, "random_jitter_range": settings.http_backoff}
    return {
        "retry_policy": ExponentialRetry(**waits, increment_base=2, retry_total=settings.http_retries),
        "connection_timeout": settings.http_timeout,
        "read_timeout": settings.http_timeout,
        "max_single_put_size": BLOCK_BYTES,
        "max_block_size": BLOCK_BYTES,
    }


class AzureLake(BucketLake):
    """A data lake in a folder of a container."""

    failures = (azure.AzureError,)
    refusals = (
        Refusal(404, "containernotfound", *NO_BUCKET),
        Refusal(409, "immutable", *LOCKED),
        Refusal(403, "authorizationpermissionmismatch", NO_PERMISSION, ROLE),
        Refusal(403, "authorizationfailure", NO_PERMISSION, ROLE),
        Refusal(403, "", *BAD_CREDENTIALS),
        Refusal(401, "", *BAD_CREDENTIALS),
    )

    def __init__(self, container: ContainerClient, folder: str = "") -> None:
        """Use a container: a client made with ``client_options`` that may read, write, list and delete blobs."""
        super().__init__(folder)
        self._container = container

    def url(self, key: str) -> str:
        # Without the shared access signature.
        return f"{self._container.url.partition('?')[0]}/{self.name(key)}"

    @classmethod
    def _describe(cls, error: Exception) -> Failure:
        status, code = getattr(error, "status_code", None), _code(error)
        if isinstance(error, azure.ClientAuthenticationError):
            status = status or 401
        network = isinstance(error, (azure.ServiceRequestError, azure.ServiceResponseError))
        # When a listing is cut off, the client raises an error without a status.
        cut_off = isinstance(error, azure.IncompleteReadError) or (
            isinstance(error, azure.HttpResponseError) and not status
        )
        text = f"HTTP {status}: {code}" if code else str(error).partition("\n")[0][:300]
        missing = isinstance(error, azure.ResourceNotFoundError) and code != "ContainerNotFound"
        return Failure(status, text, network or cut_off, cut_off, missing, code in CONDITION_REFUSED)

    def _head(self, name: str) -> tuple[int, Mapping[str, str]]:
        found = self._container.get_blob_client(name).get_blob_properties()
        return found.size, found.metadata

    def _get_range(self, name: str, start: int, end: int) -> bytes:
        return self._container.download_blob(name, start, end - start, max_concurrency=1).readall()

    def _get(self, name: str) -> Found:
        answer = self._container.download_blob(name, max_concurrency=1)
        return Found(answer.readall(), str(answer.properties.etag))

    def _put(self, name: str, content: Any, metadata: Mapping[str, str], **options: Any) -> None:
        self._container.upload_blob(
            name,
            content,
            metadata=dict(metadata),
            content_settings=ContentSettings(content_type=content_type(name)),
            validate_content=True,
            **{"overwrite": True} | options,
        )

    def _require_version(self, expected: str | None) -> dict[str, Any]:
        if expected is None:
            return {"overwrite": False}
        return {"etag": expected, "match_condition": MatchConditions.IfNotModified}

    def _list(self, prefix: str) -> Iterable[str]:
        return self._container.list_blob_names(name_starts_with=prefix)

    def _delete(self, name: str) -> None:
        self._container.delete_blob(name)

    def _duplicate(self, name: str, to: str) -> bool:
        copy = self._container.get_blob_client(to)
        copy.start_copy_from_url(self._container.get_blob_client(name).url)
        while (status := copy.get_blob_properties().copy.status) == "pending":
            time.sleep(1)
        if status != "success":
            raise azure.AzureError(f"the copy ended as {status}")
        return True

    def _send(self, name: str, path: Path, metadata: Mapping[str, str]) -> None:
        with path.open("rb") as content:
            self._put(name, content, metadata, length=path.stat().st_size)


def _code(error: BaseException) -> str:
    return str(getattr(getattr(error, "error_code", None), "value", getattr(error, "error_code", "")) or "")
