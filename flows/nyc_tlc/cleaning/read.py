"""Read a file in batches with the contract's types. All batches together have all rows of the file.

Other threads unpack and parse the next rows while the previous ones are checked and written.
"""

from __future__ import annotations

import csv
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from isal import igzip, isal_zlib

from nyc_tlc.cleaning.conform import BLANKS, LONGEST_TEXT, Batch, Conformer, dictionary_columns, is_stored_text, is_text
from nyc_tlc.cleaning.csv_records import DICTIONARY, CsvRecords, count_lines, read_header
from nyc_tlc.cleaning.times import find_day_first
from nyc_tlc.contract.dataset import Contract, FileFormat
from nyc_tlc.errors import ContractError, SourceError
from nyc_tlc.settings import read_settings
from nyc_tlc.source.fetch import FetchedFile
from nyc_tlc.threads import prefetch

#: The rows of a batch, which are read, checked and written together, as a row group of the clean file.
READ_BATCH_ROWS = 1 << 17
#: The rows that are read together if their texts can be much longer in memory than in the file.
TEXT_BATCH_ROWS = 1 << 13
#: The bytes to buffer of a column chunk. It is not read whole, because a row group can hold the entire month.
READ_BUFFER = 1 << 16
#: The bytes that a file of any size may unpack to: a file with few different values can be very small.
HARMLESS_BYTES: dict[FileFormat, int] = {"parquet": 1 << 26, "csv": 1 << 22}
#: The number of blocks that are parsed at the same time, and of those that may wait to be checked.
PARSE_THREADS = 2
#: The errors of reading a damaged file. UnicodeError is raised for a flipped bit in a column's name.
DAMAGE_ERRORS: tuple[type[Exception], ...] = (
    pa.ArrowException,
    OSError,
    EOFError,
    zlib.error,
    cast("type[Exception]", isal_zlib.error),
    UnicodeError,
    csv.Error,
)

T = TypeVar("T")
Result = TypeVar("Result")


class MonthReader:
    """Reads one fetched month.

    Attributes:
        rows: The number of rows in a Parquet file; of a CSV file, the lines read so far.
    """

    def __init__(self, fetched: FetchedFile, contract: Contract, *, strict: bool = False) -> None:
        """Read the names of the file's columns and map them.

        Raises:
            ContractError: when a required column is missing, or a column is unknown and ``strict`` is set.
            SourceError: when the file is damaged, or unpacks to more bytes than the settings allow.
        """
        self._fetched, self.contract, month = fetched, contract, fetched.remote.month
        layout_format: FileFormat = "parquet" if fetched.format == "parquet" else "csv"
        self._most_bytes = max(HARMLESS_BYTES[layout_format], read_settings().max_expansion * fetched.bytes)
        try:
            if fetched.format == "parquet":
                footer = pq.read_metadata(fetched.path)
                schema, self.rows = footer.schema.to_arrow_schema(), footer.num_rows
                self._check_expansion(footer)
            else:
                with _open_text(fetched.path) as file:
                    schema, self.rows = pa.schema([(name, pa.string()) for name in read_header(file)]), 0
            self.columns = schema.names
        except DAMAGE_ERRORS as error:
            raise self._explain_damage("the file is damaged", error) from error
        try:
            self.column_map = contract.map_columns(self.columns, month, layout_format)
        except ContractError as error:
            got = error.got if fetched.remote.may_be_quoted else f"{len(self.columns)} columns"
            raise ContractError(error.what, expected=error.expected, got=got, fix=error.fix) from None
        published = contract.layout(month, layout_format).columns
        unexpected = [name for name in self.column_map.drift if name not in published]
        if strict and unexpected:
            raise ContractError(
                f"{fetched.remote.name}: the file has columns the contract doesn't know",
                got=", ".join(unexpected),
                fix=f"add them to datasets/{contract.color}.yaml or unset TLC_STRICT",
            )
        self._schema = schema
        self._dictionaries = dictionary_columns(contract, self.column_map, schema)
        self._times = [
            name
            for column in contract.columns
            if column.type == "timestamp"
            for name in self.column_map.sources[column.name]
            if is_text(schema.field(name).type) or is_stored_text(schema.field(name).type)
        ]
        # Threads may ask at the same time; then the file is read more than once.
        self._conform = Conformer(contract, self.column_map, schema, month, cache(self._find_day_first))

    def __iter__(self) -> Iterator[Batch]:
        """Yield the file's rows in order.

        Raises:
            SourceError: when the file is damaged.
        """
        row = 0
        try:
            for batch in self._read_parquet() if self._fetched.format == "parquet" else self._read_csv():
                yield batch
                row += len(batch.frame)
        except DAMAGE_ERRORS as error:
            raise self._explain_damage(f"the file is damaged after row {row:,}", error) from error

    def _explain_damage(self, what: str, error: Exception) -> SourceError:
        # Arrow's errors have the row in them.
        quotable = self._fetched.remote.may_be_quoted or not isinstance(error, pa.ArrowException)
        return SourceError(
            f"{self._fetched.remote.name}: {what}",
            got=str(error)[:500] if quotable else type(error).__name__,
            fix="nothing was written to the lake; fetch it again",
        )

    def _check_expansion(self, footer: pq.FileMetaData) -> None:
        unpacked = sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))
        # A column with a single value takes no space in the file, but in memory each row does.
        if max(unpacked, footer.num_rows * footer.num_columns) > self._most_bytes:
            raise OSError(f"more than {self._most_bytes:,} bytes unpacked, which TLC_MAX_EXPANSION forbids")

    def _read_parquet(self) -> Iterator[Batch]:
        row = 0
        # Encoding takes longer than reading and checking: another thread for reading would only slow it down.
        wanted = [name for sources in self.column_map.sources.values() for name in sources]
        for data in _join_small_batches(self._read_record_batches(wanted)):
            yield self._conform(data, row)
            row += data.num_rows

    def _read_record_batches(self, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        types = {name: self._schema.field(name).type for name in wanted}
        stored = [name for name, kind in types.items() if is_stored_text(kind)]
        texts = [name for name, kind in types.items() if is_text(kind)] + stored
        readable = _find_dictionary_columns(pq.read_metadata(self._fetched.path), texts)
        dictionaries = [name for name in self._dictionaries if name in readable]
        rows = READ_BATCH_ROWS if set(texts) <= set(dictionaries) else TEXT_BATCH_ROWS
        with pq.ParquetFile(
            self._fetched.path,
            read_dictionary=dictionaries,
            pre_buffer=False,
            buffer_size=READ_BUFFER,
            # Nanoseconds could not hold years before 1677 and after 2262.
            coerce_int96_timestamp_unit="us",
        ) as file:
            for batch in file.iter_batches(rows, columns=wanted, use_threads=False):
                for name in stored:
                    column = batch[name].cast(pa.string())
                    batch = batch.set_column(batch.schema.get_field_index(name), name, column)
                _check_texts(batch, texts)
                yield batch

    def _open_records(self, file: BinaryIO, types: dict[str, pa.DataType]) -> CsvRecords:
        read_header(file)
        # A gzip file has its size and checksum: reading an incomplete one is an error.
        whole = self._fetched.format == "csv.gz" or self._fetched.remote.bytes == self._fetched.bytes
        return CsvRecords(file, self.columns, types, whole=whole, most_bytes=self._most_bytes)

    def _find_day_first(self) -> bool | None:
        columns = (column for batch in self._read_times() for column in batch.columns)
        return find_day_first(pl.Series(column.cast(pa.string())).str.strip_chars(BLANKS) for column in columns)

    def _read_times(self) -> Iterator[pa.RecordBatch | pa.Table]:
        if self._fetched.format == "parquet":
            yield from self._read_record_batches(self._times)
            return
        with _open_text(self._fetched.path) as file:
            records = self._open_records(file, dict.fromkeys(self._times, pa.string()))
            for lines in records.blocks():
                for _, table, _ in records.parse(lines):
                    yield table

    def _read_csv(self) -> Iterator[Batch]:
        with _open_text(self._fetched.path) as file:
            names = [name for sources in self.column_map.sources.values() for name in sources]
            types = dict.fromkeys(names, pa.float64()) | dict.fromkeys(self._times, pa.string())
            records = self._open_records(file, types | dict.fromkeys(self._dictionaries, DICTIONARY))

            def number_rows() -> Iterator[tuple[bytes, int]]:
                for lines in records.blocks():
                    yield lines, self.rows
                    self.rows += count_lines(lines)

            def parse(block: tuple[bytes, int]) -> list[Batch]:
                lines, row = block
                batches = []
                for part, table, raw in records.parse(lines):
                    batch = self._conform(table, row, raw)
                    if batch.bad_values and raw is None:
                        # Quarantine keeps the text in the file, not the number that was read from it.
                        batch = self._conform(records.parse_texts(part), row)
                    batches.append(batch)
                    row += table.num_rows
                return batches

            for batches in _map_in_threads(parse, prefetch(number_rows())):
                yield from batches


def _open_text(path: Path) -> BinaryIO:
    """Open a CSV file; one that is gzipped is unpacked while it is read."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, cast(Any, igzip).open(path)) if packed else path.open("rb")


def _map_in_threads(work: Callable[[T], Result], items: Iterable[T]) -> Iterator[Result]:
    """Yield the results in order; threads work on a few items at the same time."""
    with ThreadPoolExecutor(PARSE_THREADS, thread_name_prefix="parse") as parsers:
        pending: deque[Future[Result]] = deque()
        for item in items:
            pending.append(parsers.submit(work, item))
            if len(pending) > PARSE_THREADS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _join_small_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield small batches joined: a file can have a row group for every few rows."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        if held and rows + batch.num_rows > READ_BATCH_ROWS:
            yield pa.Table.from_batches(held)
            held, rows = [], 0
        held.append(batch)
        rows += batch.num_rows
    if held:
        yield pa.Table.from_batches(held)


def _find_dictionary_columns(footer: pq.FileMetaData, names: list[str]) -> set[str]:
    """Return the columns whose texts Arrow can read as dictionaries: all that are not stored as differences."""
    positions = {footer.schema.column(index).path: index for index in range(footer.num_columns)}
    found = set(names) & set(positions)
    for group in range(footer.num_row_groups):
        chunks = {name: footer.row_group(group).column(positions[name]) for name in found}
        found -= {name for name, chunk in chunks.items() if any(each.startswith("DELTA") for each in chunk.encodings)}
    return found


def _check_texts(batch: pa.RecordBatch, names: list[str]) -> None:
    """Check that texts are valid and not too long for a trip record; long ones could fill the memory.

    Raises:
        OSError: naming the column of a text that is too long.
        ArrowInvalid: when a text is not valid UTF-8.
    """
    for name in names:
        column = batch[name]
        texts = column.dictionary if pa.types.is_dictionary(column.type) else column
        texts.validate(full=True)
        longest = pc.max(pc.binary_length(texts)).as_py() or 0
        if longest > LONGEST_TEXT:
            raise OSError(f"a text of {longest:,} bytes in the column {name}, where a value has at most {LONGEST_TEXT}")
