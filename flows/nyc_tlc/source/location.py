"""Where a month is: sources by name or URL template, and what is known about a file there."""

from __future__ import annotations

import os
import re
import string
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from nyc_tlc.errors import ArgumentError, ConfigurationError
from nyc_tlc.month import Color, Month, OfMonth
from nyc_tlc.settings import read_settings

SOURCES = {
    "tlc": "https://d37ci6vzurychx.cloudfront.net/trip-data/{color}_tripdata_{year:04d}-{month:02d}.parquet",
    "dtc": "https://github.com/DataTalksClub/nyc-tlc-data/releases/download/{color}/"
    "{color}_tripdata_{year:04d}-{month:02d}.csv.gz",
    "sample": "sample://{color}/{year:04d}-{month:02d}",
}

#: The schemes a source's URL can have.
SCHEMES = ("https", "http", "file", "sample")
#: Increase it when the sample's rows change, so that months made from older ones are made again.
SAMPLE_VERSION = 1


@dataclass(frozen=True)
class RemoteFile(OfMonth):
    """A month's file at its source, as the last request described it.

    Attributes:
        etag: The source's identifier of these bytes, if it has one.
        last_modified: When the file changed, in ISO 8601 and UTC, if the source states it.
        bytes: Its size in bytes, if the source states it.
        redirected: Whether the answer came from another host.
    """

    color: Color
    month: Month
    # Debug logs show values by their repr, and a URL can have a signature.
    url: str = field(repr=False)
    etag: str | None = None
    last_modified: str | None = None
    bytes: int | None = None
    redirected: bool = False

    @property
    def is_local(self) -> bool:
        """Whether it is a file on this machine, which is read where it is."""
        return self.url.startswith("file:")

    @property
    def may_be_quoted(self) -> bool:
        """Whether errors may quote the file: whoever names a URL may not read what only this machine can."""
        return not self.is_local and not self.redirected

    @property
    def shown(self) -> str:
        """The URL without parts that can hold a secret."""
        return redact_url(self.url)


def redact_url(url: str) -> str:
    """Return a URL or a URL template without user, password, query and fragment, to show it to people.

    The text need not be a valid URL. If a password could remain, more is removed.
    """
    scheme, colon, rest = url.partition("://")
    if not colon:
        return re.split(r"[?#]", url.rpartition("@")[2])[0]
    authority, slash, path = re.split(r"[?#]", rest)[0].partition("/")
    host = authority.rpartition("@")[2]
    # "me:pass/word@host" and "me:pass?word@host": the text after the colon is not a port.
    if "@" in rest and re.search(r":(?!\d*$)(?!\{)", re.sub(r"^\[.*?\]", "", host)):
        return f"{scheme}://…"
    return f"{scheme}://{host}{slash}{path}"


def locate(source: str, color: Color, month: Month) -> str:
    """Return the URL of a month at a source, which is a known name or a template.

    Raises:
        ArgumentError: when the template has unknown fields, lacks one, or gives no valid URL.
        ConfigurationError: when ``TLC_SOURCE_SCHEMES`` does not allow its scheme.
    """
    template = SOURCES.get(source) or _read_variable(source)
    shown = redact_url(source)
    try:
        fields = _read_fields(template)
        url = template.format(color=color, year=month.year, month=month.month)
        parts = urlsplit(url)
        usable = url.isprintable() and " " not in url and (parts.port is None or bool(parts.hostname))
        if parts.scheme == "file":
            usable = usable and "\0" not in unquote(url)
    except (ValueError, LookupError):
        raise ArgumentError(f"the source {shown!r} is not a usable template", fix=_TEMPLATE_HELP) from None
    if parts.scheme not in SCHEMES or not {"year", "month"} <= fields or not usable:
        raise ArgumentError(f"the source {shown!r} is neither a name nor a template", fix=_TEMPLATE_HELP)
    if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        raise ArgumentError(f"the source {shown!r} names a host", fix="write file:///, then the path from /")
    require_scheme(parts.scheme, shown)
    return url


def _read_variable(source: str) -> str:
    """Return the value of the environment variable that ``$NAME`` names; other sources are returned unchanged."""
    if not source.startswith("$"):
        return source
    template = os.environ.get(source[1:])
    if not template:
        raise ArgumentError(f"the variable {source}, which has to hold the source, is not set", fix=_TEMPLATE_HELP)
    return template


def name_source(source: str) -> str:
    """Return a source as it may be stored: one with a user, password or query has to be in a variable instead."""
    return source if redact_url(source) == source else "$TLC_SOURCE"


def _read_fields(template: str) -> set[str]:
    fields = set()
    for _, name, spec, _ in string.Formatter().parse(template):
        if name is None:
            continue
        if name not in ("color", "year", "month") or not re.fullmatch(r"(0?\d?d?)?", spec or ""):
            raise ValueError(name)
        fields.add(name)
    return fields


def require_scheme(scheme: str, shown: str) -> None:
    """Check that ``TLC_SOURCE_SCHEMES`` allows a scheme.

    Raises:
        ConfigurationError: when it does not.
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
    """Return the source of a month's URL: ``tlc``, ``dtc``, ``sample``, or ``template`` for any other."""
    starts = {name: template.partition("{")[0] for name, template in SOURCES.items()}
    return next((name for name, start in starts.items() if url.startswith(start)), "template")


_TEMPLATE_HELP = (
    "use tlc, dtc, sample, or an http, https or file URL like "
    "file:///data/{color}_tripdata_{year:04d}-{month:02d}.parquet"
)


def file_path(remote: RemoteFile) -> Path:
    """Return the path of a ``file://`` URL."""
    return Path(unquote(urlsplit(remote.url).path))
