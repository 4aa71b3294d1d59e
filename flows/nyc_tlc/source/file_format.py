"""What a file is, found by its content: Parquet, CSV, packed CSV, or what came instead."""

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
    """Tell what a file is by its content.

    Args:
        path: The file.
        name: What the message calls the month.
        quote: Whether the message may quote the file's first bytes; not for files of this machine.

    Raises:
        SourceError: when it is not whole Parquet or (gzipped) CSV, naming what came instead.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(2048)
    if head.startswith(b"PAR1"):
        try:
            pq.read_metadata(path)
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise _not_a_month(name, f"a Parquet file cut short ({size:,} bytes, no footer)") from error
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
    """Whether the first line can be a header: names and commas."""
    header = head.partition(b"\n")[0]
    return re.fullmatch(rb'(\xef\xbb\xbf)?[\w ",]+\r?', header) is not None and b"," in header


def _refuse(name: str, head: bytes, size: int, quote: bool) -> SourceFormat:
    text = head.decode("utf-8", "replace").strip()
    if match := re.match(r"version https://git-lfs\S*.*?^size (\d+)", text, re.DOTALL | re.MULTILINE):
        came = f"a Git-LFS pointer to a file of {int(match[1]):,} bytes"
    elif not text:
        came = f"an empty file ({size:,} bytes)"
    elif not quote:
        came = f"{size:,} bytes of something else"
    elif text[:1] == "<":
        title = re.search(r"<(title|code|message)>(.*?)</\1>", text, re.IGNORECASE | re.DOTALL)
        kind = "an HTML page" if re.search(r"<(!doctype )?html", text[:200], re.IGNORECASE) else "an XML document"
        came = kind + (f" ({html.unescape(title[2]).strip()})" if title else "")
    else:
        came = f"{size:,} bytes beginning with {text[:60]!r}"
    raise _not_a_month(name, came)


def _not_a_month(name: str, came: str) -> SourceError:
    return SourceError(
        f"{name}: what came is not a month of trip records",
        expected="Parquet or CSV",
        got=came,
        fix="nothing was written to the lake",
    )
