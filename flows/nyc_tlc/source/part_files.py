"""A month as a folder of part files, as Spark writes it: the parts are joined to one file in the order of their names."""

from __future__ import annotations

import gzip
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from nyc_tlc.errors import SourceError
from nyc_tlc.source.file_format import identify


def list_parts(folder: Path) -> list[Path]:
    """Return a folder's part files: all entries but markers and checksums, whose names begin with _ or a dot."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(("_", ".")))


def are_parts(parts: Sequence[Path]) -> bool:
    """Return whether there are parts, and all of them are files."""
    return bool(parts) and all(part.is_file() for part in parts)


def describe_parts(parts: Sequence[Path]) -> str:
    """Return a digest of the parts' names, sizes and times, which changes with the parts."""
    facts = [(part.name, part.stat().st_size, part.stat().st_mtime_ns) for part in parts]
    return f"parts-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}"


def join_parts(parts: Sequence[Path], path: Path, name: str) -> None:
    """Write the rows of all parts to one file.

    Args:
        parts: The parts; empty files have no rows.
        path: The file to write: Parquet, or gzipped CSV.
        name: The month's name in messages.

    Raises:
        SourceError: when a part is damaged, or the parts differ in format or schema.
    """
    filled = [part for part in parts if part.stat().st_size] or parts
    formats = {identify(part, f"{name}, {part.name}", quote=False) for part in filled}
    if len(formats) > 1:
        raise SourceError(f"{name}: the parts have several formats", got=", ".join(sorted(formats)))
    try:
        (_join_parquet if formats == {"parquet"} else _join_csv)(filled, path, name)
    except (pa.ArrowException, EOFError) as error:
        raise SourceError(f"{name}: a part is damaged", got=str(error)[:500]) from error


def _join_parquet(parts: Sequence[Path], path: Path, name: str) -> None:
    schema = _open_parquet(parts[0]).schema_arrow.remove_metadata()
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer:
        for part in parts:
            with _open_parquet(part) as file:
                _require_equal(name, parts[0], part, schema, file.schema_arrow.remove_metadata())
                for batch in file.iter_batches(1 << 17):
                    writer.write_batch(batch.replace_schema_metadata())


def _open_parquet(path: Path) -> pq.ParquetFile:
    return pq.ParquetFile(path, coerce_int96_timestamp_unit="us")


def _join_csv(parts: Sequence[Path], path: Path, name: str) -> None:
    header = None
    with path.open("wb") as target, gzip.GzipFile("", "wb", 1, target, mtime=0) as joined:
        for part in parts:
            with part.open("rb") as file:
                packed = file.read(2) == b"\x1f\x8b"
            with cast(BinaryIO, gzip.open(part)) if packed else part.open("rb") as rows:
                first = rows.readline(1 << 16).rstrip(b"\r\n")
                if header is None:
                    header = first
                    joined.write(header)
                _require_equal(name, parts[0], part, header, first)
                joined.write(b"\n")
                shutil.copyfileobj(rows, joined, 1 << 20)


def _require_equal(name: str, first: Path, part: Path, expected: object, found: object) -> None:
    if found != expected:
        raise SourceError(f"{name}: the parts {first.name} and {part.name} have different columns")
