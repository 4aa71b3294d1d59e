"""One HTTP request to a source: retried where time can heal, refused in words."""

from __future__ import annotations

import logging
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Self

import urllib3
from urllib3.util import Retry, Timeout

from nyc_tlc.errors import NotPublished, SourceError, TlcError, TransientError
from nyc_tlc.settings import read_settings
from nyc_tlc.source.location import RemoteFile

log = logging.getLogger(__name__)


RETRIED = frozenset({429, 500, 502, 503, 504})


POOL = urllib3.PoolManager()


def described(remote: RemoteFile, headers: Any, size: str | None) -> RemoteFile:
    """The file as an HTTP answer describes it."""
    modified = headers.get("Last-Modified")
    return RemoteFile(
        remote.color,
        remote.month,
        remote.url,
        etag=headers.get("ETag"),
        last_modified=_iso(modified) if modified else None,
        bytes=int(size) if size is not None else None,
    )


def _iso(modified: str) -> str:
    """An HTTP date as ISO 8601; one that isn't as it is told: it is only compared."""
    try:
        return parsedate_to_datetime(modified).astimezone(UTC).isoformat()
    except ValueError:
        return modified


def retry_policy(name: str) -> Retry:
    """Time-outs, resets, 429 and 5xx are tried again: back-off with jitter, Retry-After honoured."""

    class LoggedRetry(Retry):
        def increment(self, *args: Any, **kwargs: Any) -> Self:
            following = super().increment(*args, **kwargs)
            last = following.history[-1]
            log.warning("%s: %s; trying again (%s left)", name, last.status or last.error, following.total)
            return following

    configured = read_settings()
    return LoggedRetry(
        total=configured.http_retries,
        status_forcelist=RETRIED,
        allowed_methods={"HEAD", "GET"},
        backoff_factor=configured.http_backoff,
        backoff_max=60,
        backoff_jitter=configured.http_backoff / 2,
        retry_after_max=600,
        raise_on_status=False,
    )


def request(
    remote: RemoteFile, method: str, headers: dict[str, str] | None = None, retries: Retry | None = None
) -> urllib3.BaseHTTPResponse:
    """Send one request, retried as ``retry_policy`` says; the body of a GET is still to be read.

    Raises:
        NotPublished: for 403 and 404.
        TransientError: when all retries are used up.
        SourceError: for any other refusal.
    """
    try:
        response = POOL.request(
            method,
            remote.url,
            timeout=Timeout(read_settings().http_timeout),
            headers={"Accept-Encoding": "identity", "User-Agent": "nyc-tlc-flows", **(headers or {})},
            preload_content=False,
            retries=retries or retry_policy(remote.name),
        )
    except urllib3.exceptions.MaxRetryError as error:
        raise gave_up(remote, error.reason) from error
    except urllib3.exceptions.HTTPError as error:
        raise SourceError(f"{remote.name}: cannot ask {remote.shown}", got=str(error)) from error
    if failure := _refusal(remote, response.status):
        response.close()
        raise failure
    return response


def _refusal(remote: RemoteFile, status: int) -> TlcError | None:
    if status in (200, 206):
        return None
    if status in (403, 404):
        return NotPublished(f"{remote.name} is not published at {remote.shown}", got=f"HTTP {status}")
    if status in RETRIED:
        return gave_up(remote, f"HTTP {status}")
    return SourceError(f"{remote.name}: {remote.shown} refused", got=f"HTTP {status}")


def gave_up(remote: RemoteFile, reason: object) -> TransientError:
    """All retries are used up."""
    return TransientError(
        f"{remote.name}: no answer from {remote.shown} after {read_settings().http_retries + 1} attempts",
        got=str(reason),
        fix="try again later",
    )
