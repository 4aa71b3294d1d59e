"""Where a month is: sources by name or template, and what is known of a file there."""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from nyc_tlc.contract.contract import read_contract
from nyc_tlc.errors import ArgumentError
from nyc_tlc.months import Color, Month

SOURCES = {
    "tlc": "https://d37ci6vzurychx.cloudfront.net/trip-data/{color}_tripdata_{year:04d}-{month:02d}.parquet",
    "dtc": "https://github.com/DataTalksClub/nyc-tlc-data/releases/download/{color}/"
    "{color}_tripdata_{year:04d}-{month:02d}.csv.gz",
    "sample": "sample://{color}/{year:04d}-{month:02d}",
}

#: Raised when the sample's rows change, so that months made of older ones are redone.
SAMPLE_VERSION = 1


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
    asked, first, current = Month(year, month), read_contract(color).first_month, Month.current()
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


def source_kind(url: str) -> str:
    """Which source a month's URL belongs to: ``tlc``, ``dtc``, ``sample``, or ``template`` for any other."""
    starts = {name: template.partition("{")[0] for name, template in SOURCES.items()}
    return next((name for name, start in starts.items() if url.startswith(start)), "template")


_TEMPLATE_HELP = (
    "use tlc, dtc, sample, or an http, https or file URL like "
    "file:///data/{color}_tripdata_{year:04d}-{month:02d}.parquet"
)


def file_path(remote: RemoteFile) -> Path:
    """The path a ``file://`` URL names."""
    parts = urlsplit(remote.url)
    return Path(unquote(parts.netloc + parts.path))
