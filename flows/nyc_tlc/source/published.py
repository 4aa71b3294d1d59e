"""Whether a month is published: one look at its source, no download."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from urllib.parse import urlsplit

from nyc_tlc.errors import NotPublished, SourceError
from nyc_tlc.months import Color, Month
from nyc_tlc.settings import read_settings
from nyc_tlc.source.http import described, request
from nyc_tlc.source.location import SAMPLE_VERSION, RemoteFile, file_path, locate

log = logging.getLogger(__name__)


#: TLC publishes a month about two months late.
PUBLICATION_LAG = 2


#: How far back to look for the newest published month before giving up.
NEWEST_WITHIN = 24


def look_at(source: str, color: Color, month: Month) -> RemoteFile:
    """Look at a month where it is published: one request, no download.

    Raises:
        NotPublished: when it isn't there; TLC answers 403 for that, others 404.
        TransientError: when the source doesn't answer after all retries.
        SourceError: when it refuses for good.
    """
    url = locate(source, color, month)
    parts = urlsplit(url)
    if parts.scheme == "sample":
        rows = read_settings().sample_rows
        return RemoteFile(color, month, f"{url}/{rows}", etag=f"sample-{SAMPLE_VERSION}-{rows}")
    if parts.scheme == "file":
        return _look_at_file(RemoteFile(color, month, url))
    remote = RemoteFile(color, month, url)
    response = request(remote, "HEAD")
    response.close()
    return described(remote, response.headers, response.headers.get("Content-Length"))


def find_newest(source: str, color: Color, up_to: Month | None = None) -> RemoteFile:
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
        return look_at(source, color, up_to or current.plus(-PUBLICATION_LAG))
    for months_ago in range(NEWEST_WITHIN):
        month = current.plus(-months_ago)
        try:
            return look_at(source, color, month)
        except NotPublished:
            log.debug("%s %s is not published yet", color, month)
    raise NotPublished(f"there is no {color} month since {current.plus(1 - NEWEST_WITHIN)} at the source")


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
