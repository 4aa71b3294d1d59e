"""Where a month is published, and whether it is there: one look, no download."""

from __future__ import annotations

import logging
import string
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.util import Retry, Timeout

from nyc_tlc.contract.contract import contract
from nyc_tlc.errors import ArgumentError, NotPublished, SourceError, TlcError, TransientError
from nyc_tlc.months import Color, Month
from nyc_tlc.settings import settings

log = logging.getLogger(__name__)

SOURCES = {
    "tlc": "https://d37ci6vzurychx.cloudfront.net/trip-data/{color}_tripdata_{year:04d}-{month:02d}.parquet",
    "dtc": "https://github.com/DataTalksClub/nyc-tlc-data/releases/download/{color}/"
    "{color}_tripdata_{year:04d}-{month:02d}.csv.gz",
    "sample": "sample://{color}/{year:04d}-{month:02d}",
}

#: Raised when the sample's rows change, so that months made of older ones are redone.
SAMPLE_VERSION = 1

RETRIED = frozenset({429, 500, 502, 503, 504})
POOL = urllib3.PoolManager()

#: TLC publishes a month about two months late.
PUBLICATION_LAG = 2
#: How far back to look for the newest published month before giving up.
NEWEST_WITHIN = 24


@dataclass(frozen=True)
class RemoteFile:
    """A month at its source, as the last look found it.

    Attributes:
        color: The colour.
        month: The month.
        url: Where it is.
        etag: The source's own identity of these bytes, where it tells.
        last_modified: When the source says it changed, ISO 8601 in UTC, where it tells.
        bytes: Its size, where the source tells.
    """

    color: Color
    month: Month
    url: str
    etag: str | None = None
    last_modified: str | None = None
    bytes: int | None = None

    @property
    def name(self) -> str:
        """What errors and log lines call the month."""
        return f"{self.color} {self.month}"

    @property
    def shown(self) -> str:
        """The URL without what can hold a secret: user, password and query."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def requested_month(color: Color, year: int | None, month: int | None) -> Month | None:
    """The month that was asked for, None for the newest.

    Raises:
        ArgumentError: for half a month, one before the colour's first, or one in the future.
    """
    if year is None and month is None:
        return None
    if year is None or month is None:
        raise ArgumentError(
            "year and month go together", got=f"year={year}, month={month}", fix="leave both out for the newest month"
        )
    asked, first, current = Month(year, month), contract(color).first_month, Month.current()
    if asked < first:
        raise ArgumentError(f"there is no {color} {asked}: the records begin in {first}")
    if asked > current:
        raise ArgumentError(f"there is no {color} {asked} yet: it is in the future", expected=f"{current} or before")
    return asked


def locate(source: str, color: Color, month: Month) -> str:
    """The URL of a month at a source: a known name or a template.

    Raises:
        ArgumentError: when the template has unknown fields, lacks one, or isn't http(s) or file.
    """
    template = SOURCES.get(source, source)
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
        url = template.format(color=color, year=month.year, month=month.month)
    except (ValueError, LookupError, AttributeError) as error:
        raise ArgumentError(f"the source {source!r} is not a usable template: {error}", fix=_TEMPLATE_HELP) from None
    if urlsplit(url).scheme not in ("http", "https", "file", "sample") or not {"year", "month"} <= fields:
        raise ArgumentError(f"the source {source!r} is neither a name nor a template", fix=_TEMPLATE_HELP)
    return url


_TEMPLATE_HELP = (
    "use tlc, dtc, sample, or an http, https or file URL like "
    "file:///data/{color}_tripdata_{year:04d}-{month:02d}.parquet"
)


def look(source: str, color: Color, month: Month) -> RemoteFile:
    """Look at a month where it is published: one request, no download.

    Raises:
        NotPublished: when it isn't there; TLC answers 403 for that, others 404.
        TransientError: when the source doesn't answer after all retries.
        SourceError: when it refuses for good.
    """
    url = locate(source, color, month)
    parts = urlsplit(url)
    if parts.scheme == "sample":
        rows = settings().sample_rows
        return RemoteFile(color, month, f"{url}/{rows}", etag=f"sample-{SAMPLE_VERSION}-{rows}")
    if parts.scheme == "file":
        return _look_at_file(RemoteFile(color, month, url))
    remote = RemoteFile(color, month, url)
    response = request(remote, "HEAD")
    response.close()
    return described(remote, response.headers, response.headers.get("Content-Length"))


def newest(source: str, color: Color, up_to: Month | None = None) -> RemoteFile:
    """Look at the newest month the source has published.

    Args:
        source: A source's name or a template.
        color: The colour.
        up_to: The latest month it may be; the current one if left out.

    Raises:
        NotPublished: when it has none of the last two years.
    """
    current = up_to or Month.current()
    if source == "sample":
        return look(source, color, up_to or current.plus(-PUBLICATION_LAG))
    for months_ago in range(NEWEST_WITHIN):
        month = current.plus(-months_ago)
        try:
            return look(source, color, month)
        except NotPublished:
            log.debug("%s %s is not published yet", color, month)
    raise NotPublished(f"there is no {color} month since {current.plus(1 - NEWEST_WITHIN)} at the source")


def file_path(remote: RemoteFile) -> Path:
    """The path a ``file://`` URL names."""
    parts = urlsplit(remote.url)
    return Path(unquote(parts.netloc + parts.path))


def _look_at_file(remote: RemoteFile) -> RemoteFile:
    path = file_path(remote)
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise NotPublished(f"{remote.name} is not at {path}") from None
    except OSError as error:
        raise SourceError(f"{remote.name}: cannot read {path}", got=str(error.strerror)) from None
    modified = datetime.fromtimestamp(stat.st_mtime_ns / 1e9, UTC).isoformat()
    return RemoteFile(remote.color, remote.month, remote.url, last_modified=modified, bytes=stat.st_size)


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

    configured = settings()
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
            timeout=Timeout(settings().http_timeout),
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
        f"{remote.name}: no answer from {remote.shown} after {settings().http_retries + 1} attempts",
        got=str(reason),
        fix="try again later",
    )
