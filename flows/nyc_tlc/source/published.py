"""Find out whether a month is published, without downloading it."""

from __future__ import annotations

import logging
import os
import stat
from datetime import UTC, datetime
from urllib.parse import urlsplit

from nyc_tlc.errors import NotPublished, OverdueError, SourceError
from nyc_tlc.month import Color, Month
from nyc_tlc.settings import read_settings
from nyc_tlc.source.http import look
from nyc_tlc.source.location import SAMPLE_VERSION, RemoteFile, file_path, locate
from nyc_tlc.source.part_files import describe_parts

log = logging.getLogger(__name__)

#: TLC publishes a month after about this many months, sometimes after one or two more.
PUBLICATION_LAG = 2
#: The number of months in which to look for the newest published one.
NEWEST_WITHIN = 24


def look_at(source: str, color: Color, month: Month) -> RemoteFile:
    """Ask a source for a month, without downloading it.

    Raises:
        NotPublished: when it isn't there; TLC then answers 403, other sources 404.
        TransientError: when the source doesn't answer after all retries.
        SourceError: when it refuses for another reason.
    """
    url = locate(source, color, month)
    parts = urlsplit(url)
    if parts.scheme == "sample":
        rows = read_settings().sample_rows
        return RemoteFile(color, month, f"{url}/{rows}", etag=f"sample-{SAMPLE_VERSION}-{rows}")
    if parts.scheme == "file":
        return _look_at_file(RemoteFile(color, month, url))
    return look(RemoteFile(color, month, url))


def require_unpublished(refusal: NotPublished, month: Month, *, known: bool) -> None:
    """Check that a refused month may not be published yet.

    Raises:
        OverdueError: when the lake has the month, or it is too old to be unpublished.
    """
    if not known and not is_overdue(month):
        return
    overdue = f"it is overdue: it ended {read_settings().publication_lag} or more months ago (TLC_PUBLICATION_LAG)"
    why = "the lake has it, so it has been published" if known else overdue
    what = refusal.what.replace(" is not published at ", ": no file at ")
    outage = "this is an outage, a block or a signature that expired: check the URL in a browser"
    raise OverdueError(f"{what}; {why}", got=refusal.got, fix=outage if refusal.got else "check the path")


def is_overdue(month: Month) -> bool:
    """Return whether a month ended so long ago that a source must have it by now: ``TLC_PUBLICATION_LAG`` months."""
    return month.plus(1 + read_settings().publication_lag) <= Month.current()


def find_newest(source: str, color: Color, latest: Month | None = None) -> RemoteFile:
    """Find the newest month that the source has published.

    Args:
        latest: The latest month to look for; the current one if left out.

    Raises:
        OverdueError: when it has none of the last two years.
    """
    if source == "sample":
        return look_at(source, color, latest or Month.current().plus(-PUBLICATION_LAG))
    for months_ago in range(NEWEST_WITHIN):
        month = (latest or Month.current()).plus(-months_ago)
        try:
            return look_at(source, color, month)
        except NotPublished as error:
            last = error
            log.debug("%s %s is not published yet", color, month)
    require_unpublished(last, month, known=False)
    raise last


def _look_at_file(remote: RemoteFile) -> RemoteFile:
    path = file_path(remote)
    try:
        found = path.stat()
        if parts := describe_parts(path):
            return RemoteFile(remote.color, remote.month, remote.url, etag=parts)
        if not stat.S_ISREG(found.st_mode):
            raise SourceError(f"{remote.name}: {path} is not a file", expected="a Parquet or CSV file")
        # Check that it can be read. This is not done for a FIFO or a device, because opening it could wait forever.
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise NotPublished(f"{remote.name} is not published at {path}") from None
    except OSError as error:
        raise SourceError(f"{remote.name}: cannot read {path}", got=os.strerror(error.errno or 0)) from None
    try:
        modified = datetime.fromtimestamp(found.st_mtime_ns / 1e9, UTC).isoformat()
    except (ValueError, OverflowError):
        raise SourceError(f"{remote.name}: {path} was changed after the year 9999", fix=f"touch {path}") from None
    return RemoteFile(remote.color, remote.month, remote.url, last_modified=modified, bytes=found.st_size)
