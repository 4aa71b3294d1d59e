"""Find a file's format from its content: Parquet, CSV, gzipped CSV, or none of them."""

from __future__ import annotations

import codecs
import gzip
import html
import re
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nyc_tlc.contract.dataset import SourceFormat
from nyc_tlc.errors import SourceError

#: The first bytes of other formats -> what they are.
OTHER_FORMATS = {
    b"\x1f\x8b": "a file that was gzipped twice",
    b"PAR1": "a gzipped Parquet file",
    b"PK\x03\x04": "a zip archive",
    b"\xd0\xcf\x11\xe0": "an Excel file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"{": "JSON",
    b"[": "JSON",
}
#: Characters that other tools write between the values.
OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def identify(path: Path, name: str, *, quote: bool = True) -> SourceFormat:
    """Return a file's format, found from its content.

    Args:
        quote: Whether the message may quote the file's first bytes; see ``RemoteFile.may_be_quoted``.

    Raises:
        SourceError: when it is not complete Parquet or (gzipped) CSV; the message says what it is.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(2048)
    packed = head.startswith(b"\x1f\x8b")
    try:
        if head.startswith(b"PAR1"):
            pq.read_metadata(path)
            return "parquet"
        if packed:
            with gzip.open(path) as unpacked:
                head = unpacked.read(2048)
        if _is_csv(head):
            return "csv.gz" if packed else "csv"
        what = _describe(head, size, quote)
    except (pa.ArrowException, EOFError, OSError, UnicodeError, zlib.error) as error:
        what = f"an incomplete Parquet file ({size:,} bytes, no footer)"
        if packed:
            what = f"a gzip file that can't be unpacked ({size:,} bytes: {error})"
    raise SourceError(
        f"{name}: the file is not a month of trip records",
        expected="Parquet, or UTF-8 text with commas between the values (CSV)",
        got=what,
        fix="nothing was written to the lake",
    )


def _is_csv(head: bytes) -> bool:
    """Return whether the first line can be a header: names and commas.

    A line with other characters in it has to name the pick-up, so that no other text is taken for a header.
    """
    header = head.partition(b"\n")[0].removeprefix(codecs.BOM_UTF8).removesuffix(b"\r")
    plain = re.fullmatch(rb'[\w ",]+', header) is not None
    names = plain or (_names_pickup(header) and not header.startswith(b"<"))
    return b"," in header and names and not _name_other(head)


def _names_pickup(header: bytes) -> bool:
    return b"pickup" in re.sub(rb"[^a-z]", b"", header.lower())


def _name_other(head: bytes) -> str | None:
    """Return what the file is, if it is known and not Parquet or CSV."""
    found = next((what for start, what in OTHER_FORMATS.items() if head.startswith(start)), None)
    if found == "a zip archive" and (b"[Content_Types].xml" in head or b"docProps/" in head):
        return "an Excel file"
    header = head.partition(b"\n")[0]
    if found or not _names_pickup(header):
        return found
    if b"\0" in header:
        return "text in UTF-16"
    if b"\r" in header.removesuffix(b"\r"):
        return "text with carriage returns as line ends"
    try:
        # The head can end within a character.
        text, _ = codecs.utf_8_decode(header, "strict", False)
    except UnicodeDecodeError:
        return "text that is not UTF-8"
    separator = max((",", *OTHER_SEPARATORS), key=text.count)
    return f"text with {OTHER_SEPARATORS[separator]} between the values" if separator != "," else None


def _describe(head: bytes, size: int, quote: bool) -> str:
    """Return what the file is, if it is not a month."""
    text = head.decode("utf-8", "replace").strip()
    if match := re.match(r"version https://git-lfs\S*.*?^size (\d+)", text, re.DOTALL | re.MULTILINE):
        return f"a Git-LFS pointer to a file of {int(match[1]):,} bytes"
    if not text:
        return f"an empty file ({size:,} bytes)"
    if other := _name_other(head):
        # The text of a service's error is worth reading.
        return f"{other} ({size:,} bytes)" + (f" beginning with {text[:60]!r}" if quote and other == "JSON" else "")
    if not quote:
        return f"{size:,} bytes of another format"
    if text[:1] != "<":
        return f"{size:,} bytes beginning with {text[:60]!r}"
    title = re.search(r"<(title|code|message)>(.*?)</\1>", text, re.IGNORECASE | re.DOTALL)
    kind = "an HTML page" if re.search(r"<(!doctype )?html", text[:200], re.IGNORECASE) else "an XML document"
    return kind + (f" ({html.unescape(title[2]).strip()})" if title else "")
