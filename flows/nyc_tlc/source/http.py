"""HTTP requests to a source: transient errors are retried, the others are reported in one line."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import random
import re
import socket
import ssl
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from nyc_tlc.errors import ConfigurationError, NotPublished, SourceError, TlcError, TransientError
from nyc_tlc.settings import read_settings
from nyc_tlc.shown import shown
from nyc_tlc.source.location import RemoteFile, redact_url, require_scheme

log = logging.getLogger(__name__)

# Their lines have whole URLs in them, with signatures.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)

MAX_REDIRECTS = 10
#: The statuses after which a later attempt can succeed.
RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
#: The statuses of servers that answer GET but not HEAD; for HEAD, a pre-signed URL answers 403.
HEAD_REFUSED = frozenset({403, 405, 501})
#: Seconds to wait for a connection, and the number of retries if the name does not resolve or the port refuses.
CONNECT_SECONDS = 10.0
UNREACHABLE_RETRIES = 3
#: The longest pause between attempts, and the longest one that a Retry-After header gets, in seconds.
MAX_PAUSE = 60.0
MAX_RETRY_AFTER = 600.0


class Connections:
    """A thread's HTTP client and the sockets that it has opened."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        headers = {"Accept-Encoding": "identity", "User-Agent": "nyc-tlc-flows"}
        try:
            self.client = httpx.Client(verify=read_certificates(), headers=headers)
        except (ImportError, ValueError, httpx.InvalidURL):
            raise ConfigurationError(
                "the proxy in HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or NO_PROXY is not usable",
                expected="an address like http://proxy:3128, and hosts in NO_PROXY",
            ) from None

    def watch(self, event: str, info: dict[str, Any]) -> None:
        """Keep a socket that was opened; called by httpx with each step of a request."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            opened = info["return_value"].get_extra_info("socket")
            self._sockets = [each for each in self._sockets if each.fileno() >= 0] + [opened]

    def hang_up(self) -> None:
        """End what the sockets are receiving."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                # Not SSLSocket's own method, which must not be called while another thread reads.
                socket.socket.shutdown(each, socket.SHUT_RDWR)


#: Each thread has its own connections, so that a deadline ends those of one transfer.
_own = threading.local()


def own_connections() -> Connections:
    """Return the connections of this thread.

    Raises:
        ConfigurationError: when a variable with a proxy is not usable.
    """
    if not hasattr(_own, "connections"):
        _own.connections = Connections()
    connections: Connections = _own.connections
    return connections


@cache
def read_certificates() -> ssl.SSLContext:
    """Return the certificates to trust: httpx's own, and the system's, to which a company adds its proxy's."""
    context = httpx.create_ssl_context()
    context.load_default_certs()
    return context


def describe_route(url: str) -> str:
    """Return how a URL is reached, for people: over TLS or not, and through which proxy."""
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http"):
        return "on this machine"
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    tls = "over TLS" if parts.scheme == "https" else "without TLS"
    return f"{tls}, {f'through the proxy {redact_url(proxy)}' if proxy else 'without a proxy'}"


class Attempts:
    """Limits the attempts and the time of one look or one transfer; to be closed at its end."""

    def __init__(self, remote: RemoteFile) -> None:
        self._remote, self._settings = remote, read_settings()
        self._seconds = self._settings.http_deadline
        self._ends = time.monotonic() + self._seconds
        self._failed = 0
        # httpx limits the time of each read, but not the number of reads.
        self._alarm = threading.Timer(min(self._seconds, threading.TIMEOUT_MAX), own_connections().hang_up)
        self._alarm.daemon = True
        self._alarm.start()

    def close(self) -> None:
        self._alarm.cancel()

    @property
    def timeout(self) -> httpx.Timeout:
        """The time to wait for a connection and for bytes; it never exceeds the deadline."""
        patience = max(0.001, min(self._settings.http_timeout, self._ends - time.monotonic()))
        return httpx.Timeout(patience, connect=min(patience, CONNECT_SECONDS))

    def renew(self) -> None:
        """Count failed attempts from 0 again, because more of the file was received than before."""
        self._failed = 0

    def require_time(self) -> None:
        """Raise a TransientError if the deadline has passed."""
        if time.monotonic() >= self._ends:
            raise TransientError(
                f"{self._remote.name}: {self._remote.shown} took longer than {self._seconds:g} s",
                fix="try again later, or raise TLC_HTTP_DEADLINE",
            )

    def pause(self, reason: str, *, retry_after: float = 0, unreachable: bool = False) -> None:
        """Wait before the next attempt: longer each time, with jitter.

        Raises:
            TransientError: when no attempt or no time is left.
        """
        self.require_time()
        self._failed += 1
        allowed = self._settings.http_retries
        allowed = min(allowed, UNREACHABLE_RETRIES) if unreachable else allowed
        longest = min(MAX_PAUSE, self._settings.http_backoff * 2 ** min(self._failed - 1, 16))
        seconds = max(longest * random.uniform(0.5, 1), retry_after)  # noqa: S311 - spreads load, hides nothing
        if self._failed > allowed or time.monotonic() + seconds >= self._ends:
            tried = "1 attempt" if self._failed == 1 else f"{self._failed} attempts"
            network = "check the network, or use --source sample, which needs none"
            raise TransientError(
                f"{self._remote.name}: no complete answer from {self._remote.shown} after {tried}",
                got=reason,
                fix=network if unreachable else "try again later",
            )
        left = allowed - self._failed + 1
        # Without a connection, the error says it, seconds later.
        level = logging.DEBUG if unreachable else logging.WARNING
        log.log(level, "%s: %s; trying again in %.1f s (%s left)", self._remote.name, reason, seconds, left)
        time.sleep(seconds)


def look(remote: RemoteFile) -> RemoteFile:
    """Ask for a file's description: by HEAD, or by a GET of the first byte if the server refuses HEAD.

    Raises:
        NotPublished: for 403 and 404.
        TransientError: when no attempt or no time is left.
        SourceError: for any other refusal.
    """
    with contextlib.closing(Attempts(remote)) as attempts:
        response = request(remote, "HEAD", attempts)
        if response.status_code in HEAD_REFUSED:
            response = request(remote, "GET", attempts, {"Range": "bytes=0-0"})
        response.close()
    if response.status_code not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        raise make_refusal(remote, response)
    return describe_file(remote, response)


def describe_file(remote: RemoteFile, response: httpx.Response) -> RemoteFile:
    """Return the file as the headers of a response describe it."""
    headers = response.headers
    modified, size = headers.get("Last-Modified"), headers.get("Content-Length", "")
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        size = headers.get("Content-Range", "").rpartition("/")[2]
    return replace(
        remote,
        etag=headers.get("ETag"),
        last_modified=iso_date(modified) if modified else None,
        bytes=int(size) if re.fullmatch(r"[0-9]{1,18}", size) and not is_gzipped(response) else None,
        redirected=response.url.host != httpx.URL(remote.url).host,
    )


def is_gzipped(response: httpx.Response) -> bool:
    """Return whether the body is the file compressed on the way; its length is then not the file's."""
    return response.headers.get("Content-Encoding", "").strip().lower() in ("gzip", "x-gzip")


def iso_date(modified: str) -> str:
    """Return an HTTP date as ISO 8601; other text is returned unchanged, because it is only compared."""
    try:
        return parsedate_to_datetime(modified).astimezone(UTC).isoformat()
    except (ValueError, OverflowError, TypeError):
        return shown(modified)


def request(
    remote: RemoteFile, method: str, attempts: Attempts, headers: dict[str, str] | None = None
) -> httpx.Response:
    """Send a request, and retry it after transient errors. The caller reads the body of a GET and closes it.

    Raises:
        TransientError: when no attempt or no time is left.
        SourceError: when it can't be sent.
    """
    was_closed = False
    while True:
        attempts.require_time()
        try:
            response = _send(remote, method, headers or {}, attempts.timeout)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            if not was_closed and isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
                # A server may close a connection at the moment it is reused; that does not count as a failed attempt.
                was_closed = True
            elif _is_permanent(error):
                raise SourceError(f"{remote.name}: cannot request {remote.shown}", got=describe_error(error)) from None
            else:
                attempts.pause(describe_error(error), unreachable=isinstance(error, httpx.ConnectError))
            continue
        if response.status_code not in RETRIED_STATUSES:
            return response
        response.close()
        attempts.pause(f"HTTP {response.status_code}", retry_after=_read_retry_after(response))


def _send(remote: RemoteFile, method: str, headers: dict[str, str], timeout: httpx.Timeout) -> httpx.Response:
    """Send a request once, and follow its redirects without reading their bodies."""
    connections = own_connections()
    trace = {"trace": connections.watch}
    step = connections.client.build_request(method, remote.url, headers=headers, timeout=timeout, extensions=trace)
    for _ in range(MAX_REDIRECTS + 1):
        require_scheme(step.url.scheme, redact_url(str(step.url)))
        # A HEAD is read to its end, which is at once, so that its connection can be used again.
        response = connections.client.send(step, stream=method != "HEAD")
        if response.next_request is None:
            return response
        response.close()
        step = response.next_request
        if not _is_public(step.url) and _is_public(httpx.URL(remote.url)):
            raise SourceError(f"{remote.name}: {remote.shown} redirects to an address that is not public")
    raise SourceError(f"{remote.name}: {remote.shown} redirects more than {MAX_REDIRECTS} times")


def _is_public(url: httpx.URL) -> bool:
    """Return whether no address of the URL's host is a private, a link-local or the machine's own one."""
    try:
        found = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except OSError:
        # Only a proxy can reach it, or nobody.
        return True
    return all(ipaddress.ip_address(address[0]).is_global for *_, address in found)


def _read_retry_after(response: httpx.Response) -> float:
    """Return the seconds of a Retry-After header, which is a number or a date; 0 if it is neither."""
    text = response.headers.get("Retry-After", "")
    try:
        seconds = float(text) if text.isdecimal() else (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError, TypeError):
        return 0
    return min(MAX_RETRY_AFTER, max(0, seconds))


def _find_cause(error: BaseException) -> BaseException:
    """Return the operating system's or TLS's error beneath one of httpx."""
    while beneath := error.__cause__ or error.__context__:
        error = beneath
    return error


def _is_permanent(error: Exception) -> bool:
    if isinstance(error, httpx.ProxyError):
        return str(error).startswith("4")
    wrong_certificate = isinstance(_find_cause(error), ssl.SSLCertVerificationError)
    return wrong_certificate or isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol)


def describe_error(error: Exception) -> str:
    """Return an error in one line, without the secrets that an address can hold."""
    # What follows is the answer's bytes.
    reason = shown(str(error).partition(": bytearray(")[0], 300) or type(error).__name__
    if isinstance(cause := _find_cause(error), socket.gaierror):
        return f"its name, or its proxy's, cannot be resolved ({cause.strerror})"
    if isinstance(error, httpx.ProxyError):
        return f"{reason} from the proxy"
    return redact_url(reason) if "://" in reason else reason


def make_refusal(remote: RemoteFile, response: httpx.Response) -> TlcError:
    """Return the error for an answer without the file."""
    answer = f"HTTP {response.status_code}"
    if response.status_code in (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
        return NotPublished(f"{remote.name} is not published at {remote.shown}", got=answer)
    return SourceError(f"{remote.name}: {remote.shown} refused", got=answer)
