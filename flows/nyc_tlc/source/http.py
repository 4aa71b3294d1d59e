"""HTTP requests to a source: one loop tries again what time can heal, and refuses the rest in words."""

from __future__ import annotations

import logging
import random
import re
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import RemoteDisconnected
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, InvalidHeader, LocationValueError, NewConnectionError
from urllib3.util import Timeout

from nyc_tlc.errors import NotPublished, SourceError, TlcError, TransientError
from nyc_tlc.settings import read_settings
from nyc_tlc.source.location import RemoteFile, redact_url, require_scheme

log = logging.getLogger(__name__)

RETRIED = frozenset({429, 500, 502, 503, 504})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 10

#: Seconds to go on trying where the name does not resolve or the port refuses.
UNREACHABLE_SECONDS = 10.0
#: The longest pause of our own, and the longest that a Retry-After is obeyed, in seconds.
MAX_PAUSE = 60.0
MAX_RETRY_AFTER = 600.0

#: Connections are kept and used again; a backfill looks with several threads.
POOL = urllib3.PoolManager(maxsize=16)


class Refused(NotPublished):
    """The source answered 403 or 404; whether that means "not published" depends on the month."""


class _RedactUrls(logging.Filter):
    """Takes secrets out of urllib3's own log lines, and tracebacks with them."""

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
    """How often and how long one look or one transfer is tried.

    Args:
        remote: The month; messages name it.
    """

    def __init__(self, remote: RemoteFile) -> None:
        self._remote, self._settings = remote, read_settings()
        self._ends = time.monotonic() + self._settings.http_deadline
        self._failed = 0
        self._unreachable_since: float | None = None

    @property
    def timeout(self) -> Timeout:
        """How long to wait for a connection and for bytes; never past the deadline."""
        patience = max(0.001, min(self._settings.http_timeout, self._ends - time.monotonic()))
        return Timeout(connect=min(patience, UNREACHABLE_SECONDS), read=patience)

    def renew(self) -> None:
        """Start counting anew: more of the file is here than ever before."""
        self._failed = 0

    def require_time(self) -> None:
        """Stop at the deadline.

        Raises:
            TransientError: when the time is used up.
        """
        if time.monotonic() >= self._ends:
            raise TransientError(
                f"{self._remote.name}: {self._remote.shown} took longer than {self._settings.http_deadline:g} s",
                fix="try again later, or raise TLC_HTTP_DEADLINE",
            )

    def reached(self) -> None:
        """Note that the server answered."""
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
                f"{self._remote.name}: no whole answer from {self._remote.shown} after {tried}",
                got=reason,
                fix="try again later",
            )
        left = allowed - self._failed + 1
        log.warning("%s: %s; trying again in %.1f s (%s left)", self._remote.name, reason, seconds, left)
        time.sleep(seconds)


def described(remote: RemoteFile, headers: Mapping[str, str]) -> RemoteFile:
    """The file as an HTTP answer with the whole of it describes it."""
    modified = headers.get("Last-Modified")
    return RemoteFile(
        remote.color,
        remote.month,
        remote.url,
        etag=headers.get("ETag"),
        last_modified=iso_date(modified) if modified else None,
        bytes=_size(headers.get("Content-Length")),
    )


def _size(length: str | None) -> int | None:
    """A Content-Length in bytes; None where it says nothing. Proxies can repeat it: ``N, N``."""
    sizes = {part.strip() for part in (length or "").split(",")}
    size = sizes.pop()
    return int(size) if not sizes and re.fullmatch(r"[0-9]{1,18}", size) else None


def iso_date(modified: str) -> str:
    """An HTTP date as ISO 8601; one that is no date stays as it is: it is only compared."""
    try:
        return parsedate_to_datetime(modified).astimezone(UTC).isoformat()
    except (ValueError, OverflowError, TypeError):
        return modified


def _retry_after(value: str | None) -> float:
    """Seconds that a Retry-After asks for, at most ten minutes; 0 where it is neither seconds nor a date."""
    value = (value or "").strip()
    if re.fullmatch(r"[0-9]+", value):
        return float(value) if len(value) < 4 and float(value) < MAX_RETRY_AFTER else MAX_RETRY_AFTER
    try:
        seconds = (parsedate_to_datetime(value).astimezone(UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError, TypeError):
        return 0
    return min(max(seconds, 0), MAX_RETRY_AFTER)


def request(
    remote: RemoteFile, method: str, headers: dict[str, str] | None = None, attempts: Attempts | None = None
) -> urllib3.BaseHTTPResponse:
    """Send one request, again where time can heal; the body of a GET is still to be read.

    Raises:
        Refused: for 403 and 404.
        TransientError: when all attempts or the time are used up.
        SourceError: for any other refusal.
    """
    attempts = attempts or Attempts(remote)
    went_away = False
    while True:
        attempts.require_time()
        try:
            response = _send(remote, method, headers or {}, attempts)
        except NewConnectionError as error:
            attempts.pause(reason_of(error), unreachable=True)
            continue
        except HTTPError as error:
            if not went_away and isinstance(
                error.args[-1] if error.args else None, RemoteDisconnected | ConnectionResetError
            ):
                # A server may close a kept connection just when it is used again; that is no failed attempt.
                went_away = True
                continue
            if _is_permanent(error):
                raise SourceError(f"{remote.name}: cannot ask {remote.shown}", got=reason_of(error)) from None
            attempts.pause(reason_of(error))
            continue
        attempts.reached()
        if response.status in (200, 206) or (response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and headers):
            return response
        wait = _retry_after(response.headers.get("Retry-After"))
        _release(response, method)
        if response.status not in RETRIED:
            raise _refusal(remote, response.status)
        attempts.pause(f"HTTP {response.status}", retry_after=wait)


def _send(remote: RemoteFile, method: str, headers: dict[str, str], attempts: Attempts) -> urllib3.BaseHTTPResponse:
    """One attempt; a redirect is a part of it."""
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
            raise SourceError(f"{remote.name}: {remote.shown} redirects to what is no web address")
        require_scheme(scheme, redact_url(url))
    raise SourceError(f"{remote.name}: {remote.shown} redirects more than {MAX_REDIRECTS} times")


def _release(response: urllib3.BaseHTTPResponse, method: str) -> None:
    """Keep the connection after a HEAD, which has no body; a body that nobody wants is not waited for."""
    if method == "HEAD":
        response.drain_conn()
    response.close()


def _is_permanent(error: HTTPError) -> bool:
    """Whether the next attempt would meet the same: a wrong address, a wrong certificate, contradicting headers."""
    wrong_certificate = any(isinstance(cause, ssl.SSLCertVerificationError) for cause in (*error.args, error.__cause__))
    return wrong_certificate or isinstance(error, LocationValueError | InvalidHeader)


def reason_of(error: HTTPError) -> str:
    """What broke, in a line; an address can hold a secret, so it is not repeated."""
    if isinstance(error, LocationValueError):
        return "an address that is not valid"
    reason = " ".join(str(error.args[0] if error.args else error).split())[:300]
    return redact_url(reason) if "://" in reason else reason


def _refusal(remote: RemoteFile, status: int) -> TlcError:
    if status in (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
        return Refused(f"{remote.name} is not published at {remote.shown}", got=f"HTTP {status}")
    return SourceError(f"{remote.name}: {remote.shown} refused", got=f"HTTP {status}")
