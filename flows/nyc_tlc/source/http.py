"""HTTP requests to a source: one loop retries errors that can pass, and reports the others in one line."""

from __future__ import annotations

import logging
import random
import re
import ssl
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import RemoteDisconnected
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, InvalidHeader, LocationValueError, NewConnectionError
from urllib3.util import Timeout

from nyc_tlc.errors import NotPublished, SourceError, TlcError, TransientError
from nyc_tlc.retries import RETRIED_STATUSES, parse_retry_after
from nyc_tlc.settings import read_settings
from nyc_tlc.source.location import RemoteFile, redact_url, require_scheme

log = logging.getLogger(__name__)

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 10

#: Seconds to retry if the name does not resolve or the port refuses connections.
UNREACHABLE_SECONDS = 10.0
#: The longest pause between attempts, and the longest one that a Retry-After header gets, in seconds.
MAX_PAUSE = 60.0
MAX_RETRY_AFTER = 600.0

#: Connections are reused; a backfill sends requests from several threads.
POOL = urllib3.PoolManager(maxsize=16)


class Refused(NotPublished):
    """The source answered 403 or 404. Whether that means "not published" depends on the month."""


class _RedactUrls(logging.Filter):
    """Removes secrets and tracebacks from urllib3's log lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                redact_url(value) if isinstance(value, str) and re.search(r"[?@]", value) else value
                for value in record.args
            )
        record.exc_info = None
        return True


for _name in ("urllib3.connectionpool", "urllib3.poolmanager", "urllib3.connection"):
    logging.getLogger(_name).addFilter(_RedactUrls())


class Attempts:
    """Limits the attempts and the time of one request or one transfer.

    Args:
        remote: The month, for messages.
    """

    def __init__(self, remote: RemoteFile) -> None:
        self._remote, self._settings = remote, read_settings()
        self._ends = time.monotonic() + self._settings.http_deadline
        self._failed = 0
        self._unreachable_since: float | None = None

    @property
    def timeout(self) -> Timeout:
        """The time to wait for a connection and for bytes; it never exceeds the deadline."""
        patience = max(0.001, min(self._settings.http_timeout, self._ends - time.monotonic()))
        return Timeout(connect=min(patience, UNREACHABLE_SECONDS), read=patience)

    def renew(self) -> None:
        """Count failed attempts from 0 again, because more of the file was received than before."""
        self._failed = 0

    def require_time(self) -> None:
        """Check that there is time left.

        Raises:
            TransientError: when the deadline has passed.
        """
        if time.monotonic() >= self._ends:
            raise TransientError(
                f"{self._remote.name}: {self._remote.shown} took longer than {self._settings.http_deadline:g} s",
                fix="try again later, or raise TLC_HTTP_DEADLINE",
            )

    def mark_reached(self) -> None:
        """Record that the server answered."""
        self._unreachable_since = None

    def pause(self, reason: str, *, retry_after: float = 0, unreachable: bool = False) -> None:
        """Wait before the next attempt: longer each time, with jitter.

        Raises:
            TransientError: when no attempt or no time is left.
        """
        self.require_time()
        self._failed += 1
        allowed = self._settings.http_retries
        longest = min(MAX_PAUSE, self._settings.http_backoff * 2 ** min(self._failed - 1, 16))
        seconds = max(longest * random.uniform(0.5, 1), retry_after)  # noqa: S311 - spreads load, hides nothing
        now = time.monotonic()
        gives_up = self._failed > allowed or now + seconds >= self._ends
        if unreachable:
            self._unreachable_since = self._unreachable_since or now
            gives_up = gives_up or now + seconds - self._unreachable_since > UNREACHABLE_SECONDS
        if gives_up:
            tried = "1 attempt" if self._failed == 1 else f"{self._failed} attempts"
            raise TransientError(
                f"{self._remote.name}: no complete answer from {self._remote.shown} after {tried}",
                got=reason,
                fix="try again later",
            )
        left = allowed - self._failed + 1
        log.warning("%s: %s; trying again in %.1f s (%s left)", self._remote.name, reason, seconds, left)
        time.sleep(seconds)


def describe_file(remote: RemoteFile, headers: Mapping[str, str]) -> RemoteFile:
    """Return the file as the headers of a complete response describe it."""
    modified = headers.get("Last-Modified")
    return RemoteFile(
        remote.color,
        remote.month,
        remote.url,
        etag=headers.get("ETag"),
        last_modified=iso_date(modified) if modified else None,
        bytes=_read_size(headers.get("Content-Length")),
    )


def _read_size(length: str | None) -> int | None:
    """Return a Content-Length in bytes, None if it is not one number. Proxies can repeat it: ``N, N``."""
    sizes = {part.strip() for part in (length or "").split(",")}
    size = sizes.pop()
    return int(size) if not sizes and re.fullmatch(r"[0-9]{1,18}", size) else None


def iso_date(modified: str) -> str:
    """Return an HTTP date as ISO 8601; other text is returned unchanged, because it is only compared."""
    try:
        return parsedate_to_datetime(modified).astimezone(UTC).isoformat()
    except (ValueError, OverflowError, TypeError):
        return modified


def request(
    remote: RemoteFile, method: str, headers: dict[str, str] | None = None, attempts: Attempts | None = None
) -> urllib3.BaseHTTPResponse:
    """Send a request, and retry it after errors that can pass. The caller reads the body of a GET.

    Raises:
        Refused: for 403 and 404.
        TransientError: when no attempt or no time is left.
        SourceError: for any other refusal.
    """
    attempts = attempts or Attempts(remote)
    was_closed = False
    while True:
        attempts.require_time()
        try:
            response = _send(remote, method, headers or {}, attempts)
        except NewConnectionError as error:
            attempts.pause(describe_error(error), unreachable=True)
            continue
        except HTTPError as error:
            if not was_closed and isinstance(
                error.args[-1] if error.args else None, RemoteDisconnected | ConnectionResetError
            ):
                # A server may close a connection at the moment it is reused; that does not count as a failed attempt.
                was_closed = True
                continue
            if _is_permanent(error):
                raise SourceError(f"{remote.name}: cannot request {remote.shown}", got=describe_error(error)) from None
            attempts.pause(describe_error(error))
            continue
        attempts.mark_reached()
        if response.status in (200, 206) or (response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and headers):
            return response
        wait = min(MAX_RETRY_AFTER, parse_retry_after(response.headers.get("Retry-After", "")))
        _release(response, method)
        if response.status not in RETRIED_STATUSES:
            raise _make_refusal(remote, response.status)
        attempts.pause(f"HTTP {response.status}", retry_after=wait)


def _send(remote: RemoteFile, method: str, headers: dict[str, str], attempts: Attempts) -> urllib3.BaseHTTPResponse:
    """Send a request once, and follow its redirects."""
    url = remote.url
    for _ in range(MAX_REDIRECTS + 1):
        response: urllib3.BaseHTTPResponse = POOL.request(
            method,
            url,
            timeout=attempts.timeout,
            headers={"Accept-Encoding": "identity", "User-Agent": "nyc-tlc-flows", **headers},
            preload_content=False,
            retries=False,
            redirect=False,
        )
        location = response.headers.get("Location")
        if response.status not in REDIRECTS or not location:
            if method == "HEAD":
                _release(response, method)
            return response
        _release(response, method)
        try:
            url = urljoin(url, location)
            scheme = urlsplit(url).scheme
        except ValueError:
            scheme = ""
        if scheme not in ("http", "https"):
            raise SourceError(f"{remote.name}: {remote.shown} redirects to an address that is not http or https")
        require_scheme(scheme, redact_url(url))
    raise SourceError(f"{remote.name}: {remote.shown} redirects more than {MAX_REDIRECTS} times")


def _release(response: urllib3.BaseHTTPResponse, method: str) -> None:
    """Close a response. The connection is kept after a HEAD, which has no body; other bodies are not waited for."""
    if method == "HEAD":
        response.drain_conn()
    response.close()


def _is_permanent(error: HTTPError) -> bool:
    """Return whether all attempts would fail: the address or certificate is wrong, or headers contradict each other."""
    wrong_certificate = any(isinstance(cause, ssl.SSLCertVerificationError) for cause in (*error.args, error.__cause__))
    return wrong_certificate or isinstance(error, LocationValueError | InvalidHeader)


def describe_error(error: HTTPError) -> str:
    """Return an error in one line, without the secrets that an address can hold."""
    if isinstance(error, LocationValueError):
        return "an address that is not valid"
    reason = " ".join(str(error.args[0] if error.args else error).split())[:300]
    return redact_url(reason) if "://" in reason else reason


def _make_refusal(remote: RemoteFile, status: int) -> TlcError:
    if status in (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
        return Refused(f"{remote.name} is not published at {remote.shown}", got=f"HTTP {status}")
    return SourceError(f"{remote.name}: {remote.shown} refused", got=f"HTTP {status}")
