"""Where a month is: sources by name or template, and what is known of a file there."""

from __future__ import annotations

import os
import re
import string
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from nyc_tlc.contract.contract import read_contract
from nyc_tlc.errors import ArgumentError, ConfigurationError
from nyc_tlc.months import Color, Month
from nyc_tlc.settings import read_settings

SOURCES = {
    "tlc": "https://d37ci6vzurychx.cloudfront.net/trip-data/{color}_tripdata_{year:04d}-{month:02d}.parquet",
    "dtc": "https://github.com/DataTalksClub/nyc-tlc-data/releases/download/{color}/"
    "{color}_tripdata_{year:04d}-{month:02d}.csv.gz",
    "sample": "sample://{color}/{year:04d}-{month:02d}",
}

#: The schemes a source's URL can have.
SCHEMES = ("https", "http", "file", "sample")

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
        """The URL without what can hold a secret."""
        return redact_url(self.url)


def redact_url(url: str) -> str:
    """A URL or a template of URLs for people to read: without user, password, query and fragment.

    It takes any text, also one that is no valid URL. Where a password could be left, more is cut.
    """
    scheme, colon, rest = url.partition("://")
    if not colon:
        return re.split(r"[?#]", url.rpartition("@")[2])[0]
    place = re.split(r"[?#]", rest)[0]
    authority, slash, path = place.partition("/")
    host = authority.rpartition("@")[2]
    # "me:pass/word@host" and "me:pass?word@host": what stands after the colon is no port.
    if "@" in rest and re.search(r":(?!\d*$)(?!\{)", re.sub(r"^\[.*?\]", "", host)):
        return f"{scheme}://…"
    return f"{scheme}://{host}{slash}{path}"


def read_requested_month(color: Color, year: int | None, month: int | None) -> Month | None:
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
        ArgumentError: when the template has unknown fields, lacks one, or is no usable URL.
        ConfigurationError: when ``TLC_SOURCE_SCHEMES`` does not allow its scheme.
    """
    template = SOURCES.get(source) or _read_variable(source)
    shown = redact_url(source)
    try:
        fields = _read_fields(template)
        url = template.format(color=color, year=month.year, month=month.month)
        parts = urlsplit(url)
        usable = url.isprintable() and " " not in url and (parts.port is None or bool(parts.hostname))
    except (ValueError, LookupError):
        raise ArgumentError(f"the source {shown!r} is not a usable template", fix=_TEMPLATE_HELP) from None
    if parts.scheme not in SCHEMES or not {"year", "month"} <= fields or not usable:
        raise ArgumentError(f"the source {shown!r} is neither a name nor a template", fix=_TEMPLATE_HELP)
    require_scheme(parts.scheme, shown)
    return url


def _read_variable(source: str) -> str:
    """The template in the environment variable that ``$NAME`` names; any other source as it is."""
    if not source.startswith("$"):
        return source
    template = os.environ.get(source[1:])
    if not template:
        raise ArgumentError(f"the variable {source} is not set, which is to name the source", fix=_TEMPLATE_HELP)
    return template


def name_source(source: str) -> str:
    """A source as it may be kept: one with a user, password or query by the variable that has to hold it instead."""
    return source if redact_url(source) == source else "$TLC_SOURCE"


def _read_fields(template: str) -> set[str]:
    """The template's fields; attributes, items and long widths of them are not allowed."""
    fields = set()
    for _, field, spec, _ in string.Formatter().parse(template):
        if field is None:
            continue
        if field not in ("color", "year", "month") or not re.fullmatch(r"(0?\d?d?)?", spec or ""):
            raise ValueError(field)
        fields.add(field)
    return fields


def require_scheme(scheme: str, shown: str) -> None:
    """Refuse a scheme that ``TLC_SOURCE_SCHEMES`` does not name.

    Raises:
        ConfigurationError: naming the setting.
    """
    allowed = read_settings().source_schemes
    if scheme not in allowed.split(","):
        raise ConfigurationError(
            f"the source {shown!r} is not allowed here",
            expected=f"one of the schemes {allowed}",
            got=scheme,
            fix="use another source, or add the scheme to TLC_SOURCE_SCHEMES",
        )


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
