"""TLC's CSV files -> tables, whatever their line ends, quotes, blank lines and row widths.

TLC's records never span lines, so a line is a record. What a line is does not depend on the lines beside it:
``_line_by_line`` says what each is. Arrow parses lines by the million, straight to numbers, but only where
it provably reads what ``_line_by_line`` would: ``_is_plain`` says where. A block in which something is in doubt
is cut into parts, and only the part with the doubtful line is read slowly.
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

#: Bytes that are parsed together, and the most lines: a block of short lines has too many rows for one batch.
BLOCK_BYTES = 1 << 24
BLOCK_LINES = 1 << 18
#: The longest line. Real ones have less than 300 bytes.
LONGEST_LINE = 1 << 16
#: A block in doubt is cut into so many parts, until they are as small as this: then it goes line by line.
PARTS = 16
SMALL_BYTES = 2 * LONGEST_LINE
#: How many empty fields a record can have beyond the header's. Real ones have two at most.
MOST_SURPLUS = 100

DICTIONARY = pa.dictionary(pa.int32(), pa.string())
#: A field is quoted from end to end or has no quote at all.
FIELD = r'(?:"(?:[^"]|"")*"|[^",]*)'
RECORD = re.compile(f"{FIELD}(?:,{FIELD})*")


def read_header(file: BinaryIO) -> list[str]:
    """The column names: the first line of a CSV file.

    Raises:
        OSError: when the line is longer than any header.
    """
    line = file.readline(LONGEST_LINE + 1)
    if len(line) > LONGEST_LINE:
        raise OSError(f"a header line of more than {LONGEST_LINE:,} bytes")
    return next(csv.reader([line.decode("utf-8-sig", "replace").strip("\r\n")]), [])


class CsvRecords:
    """The records of a CSV file as tables, empty fields null.

    A record has the header's fields. Fields beyond those are dropped where they are empty, as in the
    files of 2013-2016 whose rows are two wider than their header. A line with other fields beyond the
    header's, with fewer, with broken quotes or bytes, with a carriage return inside, or cut off at the end of the
    file is no record: all its columns are null and its text is kept.
    """

    def __init__(
        self, file: BinaryIO, columns: Sequence[str], types: dict[str, pa.DataType], *, whole: bool, most_bytes: int
    ) -> None:
        """Take a file that stands behind its header line.

        Args:
            file: The decompressed bytes.
            columns: The header's names.
            types: Those of them that are wanted, and what they hold: doubles, texts or ``DICTIONARY``. A
                column of doubles is a column of texts where a text in it may be no number.
            whole: Whether the file is known to be all there, so that a last line without an end is a line.
            most_bytes: More bytes than this are not read.
        """
        self._file, self._columns, self._types = file, list(columns), types
        self._texts = {name: pa.string() if kind == pa.float64() else kind for name, kind in types.items()}
        self._whole, self._most_bytes = whole, most_bytes
        self._row_width: int | None = None

    def blocks(self) -> Iterator[bytes]:
        """Runs of whole lines, none of them blank, and last what has no line end.

        Raises:
            OSError: when a line is too long to be a record, or the file unpacks to too much.
        """
        rest, read = b"", 0
        while block := self._file.read(BLOCK_BYTES):
            read += len(block)
            if read > self._most_bytes:
                raise OSError(f"more than {self._most_bytes:,} bytes unpacked, which TLC_MAX_EXPANSION forbids")
            rest += block
            end = rest.rfind(b"\n") + 1
            _refuse_long_lines(rest)
            yield from self._pieces(rest[:end])
            rest = rest[end:]
        yield from self._pieces(rest)

    def _pieces(self, lines: bytes) -> Iterator[bytes]:
        lines = _without_blank_lines(lines)
        if lines and self._row_width is None:
            first, width = _fields(lines.partition(b"\n")[0]) or [], len(self._columns)
            self._row_width = len(first) if width <= len(first) <= width + MOST_SURPLUS else width
        while lines.count(b"\n") > BLOCK_LINES:
            ends = np.flatnonzero(np.frombuffer(lines, np.uint8) == ord("\n"))
            end = int(ends[BLOCK_LINES - 1]) + 1
            yield lines[:end]
            lines = lines[end:]
        if lines:
            yield lines

    def parse(self, lines: bytes) -> Iterator[tuple[bytes, pa.Table, pl.Series | None]]:
        """A block's tables in order: their lines, their rows, and the text of lines that are no records, if any."""
        if _is_plain(lines):
            table = self._at_once(lines, self._types)
            if table is None:
                table = self._at_once(lines, self._texts)
            if table is not None:
                yield lines, table, None
                return
        if len(lines) <= SMALL_BYTES:
            yield lines, *self._line_by_line(lines)
            return
        for part in _cut(lines):
            yield from self.parse(part)

    def parse_texts(self, lines: bytes) -> pa.Table:
        """The rows of lines that were parsed without a doubt, once more, with numbers as the texts they were."""
        table = self._at_once(lines, self._texts)
        assert table is not None
        return table

    def _at_once(self, lines: bytes, types: dict[str, pa.DataType]) -> pa.Table | None:
        """Plain lines as one table, or None where one of them needs a closer look."""
        assert self._row_width is not None
        width = len(self._columns)
        surplus = [str(index) for index in range(width, self._row_width)]
        wanted = {str(self._columns.index(name)): kind for name, kind in types.items()}
        try:
            table = pa_csv.read_csv(
                pa.BufferReader(lines),
                pa_csv.ReadOptions(column_names=[str(index) for index in range(self._row_width)], use_threads=False),
                convert_options=pa_csv.ConvertOptions(
                    column_types=wanted | dict.fromkeys(surplus, pa.string()),
                    include_columns=[*wanted, *surplus],
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=True,
                ),
            )
        except pa.ArrowInvalid:
            return None
        if table.num_rows != lines.count(b"\n") or any(table[name].null_count < len(table) for name in surplus):
            return None
        for column in table.columns:
            # Words like nan and inf are numbers for Arrow, not for us.
            if pa.types.is_floating(column.type) and pc.all(pc.is_finite(column)).as_py() is False:
                return None
        return table.select(list(wanted)).rename_columns(list(types))

    def _line_by_line(self, lines: bytes) -> tuple[pa.Table, pl.Series]:
        """The same for any lines."""
        width = len(self._columns)
        wanted = [self._columns.index(name) for name in self._types]
        records: list[list[str | None]] = []
        places: list[int | None] = []
        raw: list[str | None] = []
        for line in lines.removesuffix(b"\n").split(b"\n"):
            # With too few commas it is no record, whatever else is in it.
            fields = (_fields(line) or []) if line.count(b",") >= width - 1 else []
            surplus = fields[width:]
            sound = len(fields) >= width and len(surplus) <= MOST_SURPLUS and not any(map(_without_blanks, surplus))
            if sound and not lines.endswith(b"\n"):
                sound = self._whole and len(fields) == self._row_width
            if sound:
                records.append([fields[index] or None for index in wanted])
            places.append(len(records) - 1 if sound else None)
            raw.append(None if sound else _shown(line))
        columns = zip(*records, strict=True) if records else [()] * len(wanted)
        rows = pa.array(places, pa.int32())
        arrays = [pa.array(values, kind).take(rows) for values, kind in zip(columns, self._texts.values(), strict=True)]
        return pa.table(arrays, names=list(self._types)), pl.Series("raw", raw, pl.String)


def count_lines(lines: bytes) -> int:
    """How many lines a block has."""
    return lines.count(b"\n") + (not lines.endswith(b"\n"))


def _refuse_long_lines(lines: bytes) -> None:
    start = 0
    while len(lines) - start > LONGEST_LINE:
        start = lines.rfind(b"\n", start, start + LONGEST_LINE + 1) + 1
        if not start:
            raise OSError(f"a line of more than {LONGEST_LINE:,} bytes")


def _without_blank_lines(block: bytes) -> bytes:
    start = 0
    while block.startswith((b"\n", b"\r\n"), start):
        start += 1 + block.startswith(b"\r", start)
    block = block[start:]
    if b"\n\n" in block or b"\n\r\n" in block:
        block = re.sub(rb"(?m)^\r?\n", b"", block)
    return b"" if block == b"\r" else block


def _cut(lines: bytes) -> Iterator[bytes]:
    """Lines in parts of about the same size."""
    start = 0
    for part in range(1, PARTS + 1):
        end = lines.find(b"\n", max(start, len(lines) * part // PARTS - 1)) + 1 or len(lines)
        if end > start:
            yield lines[start:end]
            start = end


def _is_plain(lines: bytes) -> bool:
    """Whether Arrow can only see the lines and fields that ``_fields`` sees.

    That is: valid text that Arrow takes for no byte order mark, whole lines, no carriage return but in a line
    end, no NUL, and quotes only around whole fields, without quotes or line ends inside.
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


def _fields(line: bytes) -> list[str] | None:
    """The fields of one line, None where it is no CSV."""
    try:
        text = line.decode().removesuffix("\r")
    except UnicodeDecodeError:
        return None
    if "\r" in text:
        return None
    if '"' not in text:
        return text.split(",")
    return next(csv.reader([text])) if RECORD.fullmatch(text) else None


def _without_blanks(field: str) -> str:
    return field.strip(" \t")


def _shown(line: bytes) -> str:
    """A line that is no record, as text that any warehouse takes."""
    return line.decode("utf-8", "backslashreplace").removesuffix("\r").replace("\0", r"\x00")
