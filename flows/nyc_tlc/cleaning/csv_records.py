"""TLC's CSV files -> tables of text, whatever their line ends, quotes, blank lines and row widths.

TLC's records never span lines, so a line is a record. Almost every block of lines is parsed by
Arrow in one go; a block with anything odd in it is gone through line by line, so that no odd line
can shift, swallow or drop another.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

BLOCK = 1 << 24
DICTIONARY = pa.dictionary(pa.int32(), pa.string())


def read_header(line: bytes) -> list[str]:
    """The column names of a header line."""
    return next(csv.reader([line.decode("utf-8-sig", "replace").strip("\r\n")]), [])


class CsvRecords:
    """The records of a CSV file as tables of text, empty fields null.

    A record has the header's fields. Fields beyond those are dropped where they are empty, as in the
    files of 2013-2016 whose rows are two wider than their header. A line with other fields beyond the
    header's, with fewer, with broken quotes or bytes, or cut off at the end of the file is no record:
    all its columns are null and its text is kept.
    """

    def __init__(self, file: BinaryIO, columns: Sequence[str], dictionaries: Sequence[str] = ()) -> None:
        """Take a file that stands behind its header line.

        Args:
            file: The decompressed bytes.
            columns: The header's names.
            dictionaries: Those of them that have few distinct texts.
        """
        self._file, self._columns = file, list(columns)
        self._types = [DICTIONARY if name in dictionaries else pa.string() for name in columns]
        self._row_width: int | None = None

    def __iter__(self) -> Iterator[tuple[pa.Table, pl.Series | None]]:
        """Tables of consecutive records and, where some lines are none, the text of those.

        Raises:
            OSError: when a whole block has no line end.
        """
        for block in self._blocks():
            lines = _without_blank_lines(block)
            if not lines:
                continue
            if self._row_width is None:
                first = _fields(lines.partition(b"\n")[0]) or []
                self._row_width = max(len(self._columns), len(first))
            table = self._at_once(lines)
            yield (table, None) if table is not None else self._line_by_line(lines)

    def _blocks(self) -> Iterator[bytes]:
        """Runs of whole lines, and last what has no line end."""
        rest = b""
        while block := self._file.read(BLOCK):
            rest += block
            end = rest.rfind(b"\n") + 1
            if end:
                yield rest[:end]
                rest = rest[end:]
            elif len(rest) > BLOCK:
                raise OSError(f"no line end in {BLOCK:,} bytes")
        if rest:
            yield rest

    def _at_once(self, lines: bytes) -> pa.Table | None:
        """The lines as one table, or None where one of them needs a closer look."""
        assert self._row_width is not None
        if not _is_text(lines):
            return None
        width = len(self._columns)
        names = [str(index) for index in range(self._row_width)]
        types = self._types + [pa.string()] * (self._row_width - width)
        odd: list[pa_csv.InvalidRow] = []

        def set_aside(row: pa_csv.InvalidRow) -> str:
            odd.append(row)
            return "skip"

        try:
            table = pa_csv.read_csv(
                pa.BufferReader(lines),
                pa_csv.ReadOptions(column_names=names),
                pa_csv.ParseOptions(invalid_row_handler=set_aside),
                pa_csv.ConvertOptions(
                    column_types=dict(zip(names, types, strict=True)),
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=True,
                ),
            )
        except pa.ArrowInvalid:
            return None
        surplus_empty = all(column.null_count == len(column) for column in table.columns[width:])
        if odd or not surplus_empty or table.num_rows != lines.count(b"\n") or not lines.endswith(b"\n"):
            return None
        return table.select(range(width)).rename_columns(self._columns)

    def _line_by_line(self, lines: bytes) -> tuple[pa.Table, pl.Series]:
        """The same for lines of which some are no records."""
        width = len(self._columns)
        records: list[list[str | None]] = []
        raw: list[str | None] = []
        for line in lines.removesuffix(b"\n").split(b"\n"):
            fields = _fields(line)
            cut_off = not lines.endswith(b"\n") and len(fields or ()) != self._row_width
            if fields is None or len(fields) < width or any(map(str.strip, fields[width:])) or cut_off:
                records.append([None] * width)
                raw.append(line.decode("utf-8", "backslashreplace").removesuffix("\r"))
            else:
                records.append([value or None for value in fields[:width]])
                raw.append(None)
        columns = zip(*records, strict=True)
        table = pa.table(
            [pa.array(values, kind) for values, kind in zip(columns, self._types, strict=True)], names=self._columns
        )
        return table, pl.Series("raw", raw, pl.String)


def _without_blank_lines(block: bytes) -> bytes:
    block = block.lstrip(b"\r\n")
    if b"\n\n" in block or b"\n\r\n" in block:
        block = re.sub(rb"\n(?:\r?\n)+", b"\n", block)
    return block


def _is_text(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _fields(line: bytes) -> list[str] | None:
    """The fields of one line, None where it is no CSV."""
    try:
        return next(csv.reader([line.decode().removesuffix("\r")], strict=True), None)
    except (UnicodeDecodeError, csv.Error):
        return None
