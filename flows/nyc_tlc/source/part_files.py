"""A month as a folder of part files, as Spark writes it. The parts are joined in the order of their names."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow.parquet as pq

from nyc_tlc.errors import SourceError
from nyc_tlc.source.file_format import identify


def describe_parts(folder: Path) -> str | None:
    """Return a digest of the names, sizes and times of a folder's parts; None if it has none or also has folders."""
    parts = _list_parts(folder)
    facts = [(part.name, part.stat().st_size, part.stat().st_mtime_ns) for part in parts if part.is_file()]
    return f"parts-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}" if 0 < len(facts) == len(parts) else None


def copy_file(source: Path, path: Path, name: str) -> None:
    """Copy a file, so that nobody changes it while it is cleaned and sent; join a folder's parts, as Parquet or CSV.gz.

    Raises:
        SourceError: when a part is damaged, or they differ in format or columns; ``name`` is the month's.
    """
    parts = [part for part in _list_parts(source) if part.stat().st_size]
    if not parts:
        shutil.copyfile(source, path)
        return
    formats = {identify(part, name, quote=False) for part in parts}
    try:
        (_join_parquet if formats == {"parquet"} else _join_csv)(parts, path)
    # Arrow's errors are ValueErrors, and OSErrors without a number.
    except (ValueError, EOFError, OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        expected = "undamaged parts of one format with the same columns"
        raise SourceError(
            f"{name}: the parts in {source} can't be joined", expected=expected, got=str(error)[:300]
        ) from error


def _list_parts(folder: Path) -> list[Path]:
    """Return what is in a folder but markers and checksums, whose names begin with _ or a dot."""
    return sorted(part for part in folder.iterdir() if part.name[0] not in "_.") if folder.is_dir() else []


def _join_parquet(parts: list[Path], path: Path) -> None:
    files = [pq.ParquetFile(part, coerce_int96_timestamp_unit="us") for part in parts]
    with pq.ParquetWriter(path, files[0].schema_arrow, compression="zstd", compression_level=1) as writer:
        for file in files:
            for batch in file.iter_batches(1 << 17):
                writer.write_batch(batch)
            file.close()


def _join_csv(parts: list[Path], path: Path) -> None:
    header = b""
    with gzip.GzipFile(path, "wb", 1, mtime=0) as joined:
        for part in parts:
            with part.open("rb") as file:
                packed = file.read(2) == b"\x1f\x8b"
            with cast(BinaryIO, gzip.open(part)) if packed else part.open("rb") as rows:
                line = rows.readline().rstrip() + b"\n"
                if part == parts[0]:
                    header = line
                    joined.write(header)
                if line != header:
                    raise ValueError(f"{part.name} has another header than {parts[0].name}")
                shutil.copyfileobj(rows, joined, 1 << 20)
                joined.write(b"\n")
