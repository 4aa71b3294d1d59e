"""Read TLC's CSV files as tables, with any line ends, quotes, blank lines and row widths.

TLC's records never span lines, so each line is a record, and is read without regard to the other lines.
``_parse_line_by_line`` defines how. Arrow parses many lines at once, directly to numbers, but only if it is certain
that the result is the same: ``_is_plain`` checks that. A block that is not plain is cut into parts, and only the part
with the unusual line is parsed line by line.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

#: The bytes that are parsed together, and the most lines: a block of short lines has too many rows for one batch.
BLOCK_BYTES = 1 << 24
BLOCK_LINES = 1 << 18
#: The most bytes of a line. Real ones have less than 300.
LONGEST_LINE = 1 << 16
#: A block that is not plain is cut into PARTS again and again; at SMALL_BYTES or less it is parsed line by line.
PARTS = 16
SMALL_BYTES = 2 * LONGEST_LINE
#: The most extra fields that a record can have after those of the header. Real ones have two at most.
MAX_EXTRA_FIELDS = 100

DICTIONARY = pa.dictionary(pa.int32(), pa.string())
#: A field has quotes around all of it, or no quotes.
FIELD = r'(?:"(?:[^"]|"")*"|[^",]*)'
RECORD = re.compile(f"{FIELD}(?:,{FIELD})*")


def read_header(file: BinaryIO) -> list[str]:
    """Read the column names from the first line of a CSV file.

    Raises:
        OSError: when the line is too long for a header.
    """
    line = file.readline(LONGEST_LINE + 1)
    if len(line) > LONGEST_LINE:
        raise OSError(f"a header line of more than {LONGEST_LINE:,} bytes")
    return next(csv.reader([line.decode("utf-8-sig", "replace").strip("\r\n")]), [])


class CsvRecords:
    """Reads the records of a CSV file as tables; empty fields are null.

    A record has the header's fields. Extra fields are dropped if they are empty: the rows of 2013-2016 have two more
    fields than their header. A line is not a record if an extra field is not empty, a field is missing, its quotes or
    bytes are not valid, it contains a carriage return, or the end of the file cuts it off. Then all its columns are
    null and its text is kept.
    """

    def __init__(
        self, file: BinaryIO, columns: Sequence[str], types: dict[str, pa.DataType], *, whole: bool, most_bytes: int
    ) -> None:
        """Use a file whose header line was read.

        Args:
            types: The wanted columns -> their types: doubles, texts or ``DICTIONARY``. A table has texts instead of
                doubles if one of them may not be a number.
            whole: Whether the file is known to be complete, so that a last line without a line end is complete.
        """
        self._file, self._columns, self._types = file, list(columns), types
        self._texts = {name: pa.string() if kind == pa.float64() else kind for name, kind in types.items()}
        self._whole, self._most_bytes = whole, most_bytes
        self._row_width: int | None = None

    def blocks(self) -> Iterator[bytes]:
        """Yield blocks of complete lines without blank lines, and at the end a last line without a line end.

        Raises:
            OSError: when a line is too long for a record, or the file unpacks to too many bytes.
        """
        rest, read = b"", 0
        while block := self._file.read(BLOCK_BYTES):
            read += len(block)
            if read > self._most_bytes:
                raise OSError(f"more than {self._most_bytes:,} bytes unpacked, which TLC_MAX_EXPANSION forbids")
            rest += block
            end = rest.rfind(b"\n") + 1
            _check_line_lengths(rest)
            yield from self._split_block(rest[:end])
            rest = rest[end:]
        yield from self._split_block(rest)

    def _split_block(self, lines: bytes) -> Iterator[bytes]:
        lines = _remove_blank_lines(lines)
        if lines and self._row_width is None:
            first, width = _split_line(lines.partition(b"\n")[0]) or [], len(self._columns)
            self._row_width = len(first) if width <= len(first) <= width + MAX_EXTRA_FIELDS else width
        while lines.count(b"\n") > BLOCK_LINES:
            ends = np.flatnonzero(np.frombuffer(lines, np.uint8) == ord("\n"))
            end = int(ends[BLOCK_LINES - 1]) + 1
            yield lines[:end]
            lines = lines[end:]
        if lines:
            yield lines

    def parse(self, lines: bytes) -> Iterator[tuple[bytes, pa.Table, pl.Series | None]]:
        """Yield a block's tables in order: the lines, the table, and the text of lines that are not records, if any."""
        if _is_plain(lines):
            table = self._parse_at_once(lines, self._types)
            if table is None:
                table = self._parse_at_once(lines, self._texts)
            if table is not None:
                yield lines, table, None
                return
        if len(lines) <= SMALL_BYTES:
            yield lines, *self._parse_line_by_line(lines)
            return
        for part in _cut_into_parts(lines):
            yield from self.parse(part)

    def parse_texts(self, lines: bytes) -> pa.Table:
        """Parse plain lines again, with numbers as texts."""
        table = self._parse_at_once(lines, self._texts)
        assert table is not None
        return table

    def _parse_at_once(self, lines: bytes, types: dict[str, pa.DataType]) -> pa.Table | None:
        """Parse plain lines as one table. Return None if they must be parsed another way."""
        assert self._row_width is not None
        width = len(self._columns)
        extra = [str(index) for index in range(width, self._row_width)]
        wanted = {str(self._columns.index(name)): kind for name, kind in types.items()}
        try:
            table = pa_csv.read_csv(
                pa.BufferReader(lines),
                pa_csv.ReadOptions(column_names=[str(index) for index in range(self._row_width)], use_threads=False),
                convert_options=pa_csv.ConvertOptions(
                    column_types=wanted | dict.fromkeys(extra, pa.string()),
                    include_columns=[*wanted, *extra],
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=True,
                ),
            )
        except pa.ArrowInvalid:
            return None
        if table.num_rows != lines.count(b"\n") or any(table[name].null_count < len(table) for name in extra):
            return None
        for column in table.columns:
            # Arrow reads words like nan and inf as numbers; here they are bad values.
            if pa.types.is_floating(column.type) and pc.all(pc.is_finite(column)).as_py() is False:
                return None
        return table.select(list(wanted)).rename_columns(list(types))

    def _parse_line_by_line(self, lines: bytes) -> tuple[pa.Table, pl.Series]:
        """Parse any lines. Return the table, and the texts of lines that are not records."""
        width = len(self._columns)
        wanted = [self._columns.index(name) for name in self._types]
        records: list[list[str | None]] = []
        positions: list[int | None] = []
        raw: list[str | None] = []
        for line in lines.removesuffix(b"\n").split(b"\n"):
            # With too few commas it is not a record, so it need not be split.
            fields = (_split_line(line) or []) if line.count(b",") >= width - 1 else []
            extra = fields[width:]
            is_record = len(fields) >= width and len(extra) <= MAX_EXTRA_FIELDS
            is_record = is_record and not any(field.strip(" \t") for field in extra)
            if is_record and not lines.endswith(b"\n"):
                is_record = self._whole and len(fields) == self._row_width
            if is_record:
                records.append([fields[index] or None for index in wanted])
            positions.append(len(records) - 1 if is_record else None)
            raw.append(None if is_record else _to_text(line))
        columns = zip(*records, strict=True) if records else [()] * len(wanted)
        rows = pa.array(positions, pa.int32())
        arrays = [pa.array(values, kind).take(rows) for values, kind in zip(columns, self._texts.values(), strict=True)]
        return pa.table(arrays, names=list(self._types)), pl.Series("raw", raw, pl.String)


def count_lines(lines: bytes) -> int:
    """Return the number of lines in a block."""
    return lines.count(b"\n") + (not lines.endswith(b"\n"))


def _check_line_lengths(lines: bytes) -> None:
    start = 0
    while len(lines) - start > LONGEST_LINE:
        start = lines.rfind(b"\n", start, start + LONGEST_LINE + 1) + 1
        if not start:
            raise OSError(f"a line of more than {LONGEST_LINE:,} bytes")


def _remove_blank_lines(block: bytes) -> bytes:
    starts_blank = block.startswith((b"\n", b"\r\n"))
    if starts_blank:
        block = b"\n" + block
    # Each pass halves the blank lines: removing them one by one would need much memory for millions of them.
    while b"\n\n" in block or b"\n\r\n" in block:
        block = block.replace(b"\n\r\n", b"\n").replace(b"\n\n", b"\n")
    if starts_blank:
        block = block[1:]
    return b"" if block == b"\r" else block


def _cut_into_parts(lines: bytes) -> Iterator[bytes]:
    start = 0
    for part in range(1, PARTS + 1):
        end = lines.find(b"\n", max(start, len(lines) * part // PARTS - 1)) + 1 or len(lines)
        if end > start:
            yield lines[start:end]
            start = end


def _is_plain(lines: bytes) -> bool:
    """Return whether Arrow finds the same lines and fields as ``_split_line``.

    That is: valid UTF-8 that does not start with a byte order mark, complete lines, carriage returns only in line ends,
    no NUL, and quotes only around whole fields, without quotes or line ends inside.
    """
    if not lines.endswith(b"\n") or b"\0" in lines or lines.count(b"\r") != lines.count(b"\r\n"):
        return False
    if not lines.isascii():
        try:
            lines.decode()
        except UnicodeDecodeError:
            return False
        if lines.startswith(b"\xef\xbb\xbf"):
            return False
    return b'"' not in lines or _is_plainly_quoted(lines)


def _is_plainly_quoted(lines: bytes) -> bool:
    data = np.frombuffer(lines, np.uint8)
    quotes = np.flatnonzero(data == ord('"'))
    if len(quotes) % 2:
        return False
    opening, closing = quotes[::2], quotes[1::2]
    before = data[opening[opening > 0] - 1]
    after = data[closing + 1]
    if not np.isin(before, list(b",\n")).all() or not np.isin(after, list(b",\r\n")).all():
        return False
    ends = np.flatnonzero(data == ord("\n"))
    return bool((np.searchsorted(ends, opening) == np.searchsorted(ends, closing)).all())


def _split_line(line: bytes) -> list[str] | None:
    """Return the fields of a line, None if it is not valid CSV."""
    try:
        text = line.decode().removesuffix("\r")
    except UnicodeDecodeError:
        return None
    if "\r" in text:
        return None
    if '"' not in text:
        return text.split(",")
    return next(csv.reader([text])) if RECORD.fullmatch(text) else None


def _to_text(line: bytes) -> str:
    """Return a line that is not a record as text that every warehouse accepts."""
    return line.decode("utf-8", "backslashreplace").removesuffix("\r").replace("\0", r"\x00")
