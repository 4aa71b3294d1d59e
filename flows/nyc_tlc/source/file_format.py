"""Find a file's format from its content: Parquet, CSV, gzipped CSV, or none of them."""

from __future__ import annotations

import gzip
import html
import re
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nyc_tlc.contract.contract import SourceFormat
from nyc_tlc.errors import SourceError


def identify(path: Path, name: str, *, quote: bool = True) -> SourceFormat:
    """Return a file's format, found from its content.

    Args:
        path: The file.
        name: The month's name in messages.
        quote: Whether the message may quote the file's first bytes; not if it is a file of this machine.

    Raises:
        SourceError: when it is not complete Parquet or (gzipped) CSV; the message says what it is.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(2048)
    if head.startswith(b"PAR1"):
        try:
            pq.read_metadata(path)
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise _not_a_month(name, f"an incomplete Parquet file ({size:,} bytes, no footer)") from error
        return "parquet"
    if head.startswith(b"\x1f\x8b"):
        try:
            with gzip.open(path) as unpacked:
                head = unpacked.read(2048)
        except (EOFError, OSError, zlib.error) as error:
            raise _not_a_month(name, f"a gzip file that can't be unpacked ({size:,} bytes: {error})") from error
        return "csv.gz" if _is_csv(head) else _refuse(name, head, size, quote)
    return "csv" if _is_csv(head) else _refuse(name, head, size, quote)


def _is_csv(head: bytes) -> bool:
    """Return whether the first line can be a header: names and commas."""
    header = head.partition(b"\n")[0]
    return re.fullmatch(rb'(\xef\xbb\xbf)?[\w ",]+\r?', header) is not None and b"," in header


def _refuse(name: str, head: bytes, size: int, quote: bool) -> SourceFormat:
    """Raise an error that says what the file is."""
    text = head.decode("utf-8", "replace").strip()
    if match := re.match(r"version https://git-lfs\S*.*?^size (\d+)", text, re.DOTALL | re.MULTILINE):
        actual = f"a Git-LFS pointer to a file of {int(match[1]):,} bytes"
    elif not text:
        actual = f"an empty file ({size:,} bytes)"
    elif not quote:
        actual = f"{size:,} bytes of another format"
    elif text[:1] == "<":
        title = re.search(r"<(title|code|message)>(.*?)</\1>", text, re.IGNORECASE | re.DOTALL)
        kind = "an HTML page" if re.search(r"<(!doctype )?html", text[:200], re.IGNORECASE) else "an XML document"
        actual = kind + (f" ({html.unescape(title[2]).strip()})" if title else "")
    else:
        actual = f"{size:,} bytes beginning with {text[:60]!r}"
    raise _not_a_month(name, actual)


def _not_a_month(name: str, actual: str) -> SourceError:
    return SourceError(
        f"{name}: the file is not a month of trip records",
        expected="Parquet or CSV",
        got=actual,
        fix="nothing was written to the lake",
    )
