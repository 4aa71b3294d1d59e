"""File -> stream of contract-typed batches. Nothing is dropped: all batches together are the file's rows.

What is read next is unpacked and parsed in other threads while the rows before it are judged and written.
"""

from __future__ import annotations

import itertools
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from isal import igzip, isal_zlib

from nyc_tlc.cleaning.conform import (
    LONGEST_TEXT,
    Batch,
    Conformer,
    csv_types,
    dictionary_columns,
    is_text,
    join_batches,
)
from nyc_tlc.cleaning.csv_records import DICTIONARY, CsvRecords, count_lines, read_header
from nyc_tlc.contract.contract import Contract, FileFormat
from nyc_tlc.errors import ContractError, SourceError
from nyc_tlc.settings import read_settings
from nyc_tlc.source.fetch import FetchedFile

#: Rows of a batch: what is read, judged and written together, a row group of the clean file.
READ_BATCH_ROWS = 1 << 18
#: Rows that are read together where a text can be much longer in memory than in the file.
TEXT_BATCH_ROWS = 1 << 13
#: Read column chunks through a small buffer, not whole: one row group can hold the entire month.
READ_BUFFER = 1 << 20
#: What a file may unpack to, whatever its size: small files of few different values can shrink to very little.
HARMLESS_BYTES: dict[FileFormat, int] = {"parquet": 1 << 26, "csv": 1 << 22}
#: How blocks are parsed side by side, and how many may wait to be judged.
PARSE_THREADS = 2

#: What reading raises where a file is damaged. A flipped bit in a column's name is no text.
DAMAGED: tuple[type[Exception], ...] = (
    pa.ArrowException,
    OSError,
    EOFError,
    zlib.error,
    cast("type[Exception]", isal_zlib.error),
    UnicodeError,
)

T = TypeVar("T")
Result = TypeVar("Result")


class MonthReader:
    """Reads one fetched month.

    Attributes:
        contract: The contract it is read to.
        columns: The file's own column names.
        column_map: How they map onto the contract.
        rows: Rows in the file: by its footer where it is Parquet, else the lines read so far.
    """

    def __init__(self, fetched: FetchedFile, contract: Contract, *, strict: bool = False) -> None:
        """Look at the file's columns and map them.

        Args:
            fetched: The file.
            contract: The colour's contract.
            strict: Whether a column unknown to the contract is an error.

        Raises:
            ContractError: when a required column is missing, or when strict and one is unknown.
            SourceError: when the file is damaged, or unpacks to more than the settings allow.
        """
        self._fetched, self.contract, month = fetched, contract, fetched.remote.month
        layout_format: FileFormat = "parquet" if fetched.format == "parquet" else "csv"
        self._most_bytes = max(HARMLESS_BYTES[layout_format], read_settings().max_expansion * fetched.bytes)
        try:
            if fetched.format == "parquet":
                footer = pq.read_metadata(fetched.path)
                schema, self.rows = footer.schema.to_arrow_schema(), footer.num_rows
                self._refuse_expansion(footer)
            else:
                with _open_text(fetched.path) as file:
                    schema, self.rows = pa.schema([(name, pa.string()) for name in read_header(file)]), 0
            self.columns = schema.names
        except DAMAGED as error:
            raise self._damaged("the file is damaged", error) from error
        self.column_map = contract.map_columns(self.columns, month, layout_format)
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
        self._conform = Conformer(contract, self.column_map, schema, month)

    def __iter__(self) -> Iterator[Batch]:
        """The file's rows in order.

        Raises:
            SourceError: when the file turns out to be damaged.
        """
        row = 0
        try:
            for batch in self._parquet() if self._fetched.format == "parquet" else self._csv():
                yield batch
                row += len(batch.frame)
        except DAMAGED as error:
            raise self._damaged(f"the file is damaged after row {row:,}", error) from error

    def _damaged(self, what: str, error: Exception) -> SourceError:
        return SourceError(
            f"{self._fetched.remote.name}: {what}",
            got=str(error)[:500],
            fix="nothing was written to the lake; fetch it again",
        )

    def _refuse_expansion(self, footer: pq.FileMetaData) -> None:
        unpacked = sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))
        # A column of one value takes no space in the file; in memory each of its rows does.
        if max(unpacked, footer.num_rows * footer.num_columns) > self._most_bytes:
            raise OSError(f"more than {self._most_bytes:,} bytes unpacked, which TLC_MAX_EXPANSION forbids")

    def _parquet(self) -> Iterator[Batch]:
        row = 0
        for data in _one_ahead(_gathered(self._record_batches())):
            yield self._conform(data, row)
            row += data.num_rows

    def _record_batches(self) -> Iterator[pa.RecordBatch]:
        wanted = [name for sources in self.column_map.sources.values() for name in sources]
        texts = [name for name in wanted if is_text(self._schema.field(name).type)]
        with pq.ParquetFile(self._fetched.path) as file:
            shared = _in_dictionaries(file.metadata, texts)
            dictionaries = [name for name in self._dictionaries if name in shared]
            wide = [name for name in wanted if _is_int96(file, name)]
        rows = READ_BATCH_ROWS if set(texts) <= set(dictionaries) else TEXT_BATCH_ROWS
        with (
            pq.ParquetFile(
                self._fetched.path, read_dictionary=dictionaries, pre_buffer=False, buffer_size=READ_BUFFER
            ) as file,
            pq.ParquetFile(self._fetched.path, coerce_int96_timestamp_unit="ms") as exact,
        ):
            exact_times: Iterable[pa.RecordBatch | None] = itertools.repeat(None)
            if wide:
                exact_times = exact.iter_batches(rows, columns=wide, use_threads=False)
            batches = file.iter_batches(rows, columns=wanted, use_threads=False)
            for batch, times in zip(batches, exact_times, strict=False):
                _check_texts(batch, texts)
                yield batch if times is None else _with_wrapped_times_marked(batch, times)

    def _csv(self) -> Iterator[Batch]:
        remote, whole = self._fetched.remote, self._fetched.format == "csv.gz"
        with _open_text(self._fetched.path) as file:
            read_header(file)
            records = CsvRecords(
                file,
                self.columns,
                csv_types(self.contract, self.column_map, self._dictionaries, DICTIONARY),
                # A gzip file says itself whether it is whole, and raises where it is not.
                whole=whole or remote.bytes == self._fetched.bytes,
                most_bytes=self._most_bytes,
            )

            def number_rows() -> Iterator[tuple[bytes, int]]:
                for lines in records.blocks():
                    yield lines, self.rows
                    self.rows += count_lines(lines)

            def parse(block: tuple[bytes, int]) -> Batch:
                lines, row = block
                batches = []
                for part, table, raw in records.parse(lines):
                    batch = self._conform(table, row, raw)
                    if batch.bad_values and raw is None:
                        # Quarantine keeps what stood in the file, and not the number that was made of it.
                        batch = self._conform(records.parse_texts(part), row)
                    batches.append(batch)
                    row += table.num_rows
                return join_batches(batches)

            yield from _side_by_side(parse, _one_ahead(number_rows()))


def _open_text(path: Path) -> BinaryIO:
    """A CSV file's bytes, unpacked where it is packed."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, cast(Any, igzip).open(path)) if packed else path.open("rb")


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same, each made in another thread while the one before is worked on."""
    with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
        coming: Future[T | None] = reader.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = reader.submit(next, items, None)
            yield item


def _side_by_side(work: Callable[[T], Result], items: Iterable[T]) -> Iterator[Result]:
    """The results in order; a few items are worked on at once."""
    with ThreadPoolExecutor(PARSE_THREADS, thread_name_prefix="parse") as parsers:
        pending: deque[Future[Result]] = deque()
        for item in items:
            pending.append(parsers.submit(work, item))
            if len(pending) > PARSE_THREADS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Small batches together: a file can have a row group for every few rows."""
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


def _in_dictionaries(footer: pq.FileMetaData, names: list[str]) -> set[str]:
    """Those of the columns whose texts Arrow can read as dictionaries: not the ones stored as differences."""
    positions = {footer.schema.column(index).path: index for index in range(footer.num_columns)}
    fine = set(names) & set(positions)
    for group in range(footer.num_row_groups):
        fine -= {
            name
            for name in fine
            if any(
                encoding.startswith("DELTA") for encoding in footer.row_group(group).column(positions[name]).encodings
            )
        }
    return fine


def _is_int96(file: pq.ParquetFile, name: str) -> bool:
    position = file.schema.to_arrow_schema().get_field_index(name)
    return bool(file.schema.column(position).physical_type == "INT96")


def _check_texts(batch: pa.RecordBatch, names: list[str]) -> None:
    """Refuse texts that are none, and those that are no values of trip records but fill the memory.

    Raises:
        OSError: naming the column.
        ArrowInvalid: where bytes are no UTF-8.
    """
    for name in names:
        column = batch[name]
        texts = column.dictionary if pa.types.is_dictionary(column.type) else column
        texts.validate(full=True)
        longest = pc.max(pc.binary_length(texts)).as_py() or 0
        if longest > LONGEST_TEXT:
            raise OSError(f"a text of {longest:,} bytes in the column {name}, where a value has at most {LONGEST_TEXT}")


def _with_wrapped_times_marked(batch: pa.RecordBatch, exact: pa.RecordBatch) -> pa.RecordBatch:
    """Times that nanoseconds can't hold (before 1677, after 2262) come out in another century: make them no time."""
    for name in exact.schema.names:
        nanoseconds, milliseconds = batch[name].cast(pa.int64()), exact[name].cast(pa.int64())
        floor = pc.cast(pc.floor(pc.divide(pc.cast(nanoseconds, pa.float64(), safe=False), 1e6)), pa.int64())
        near = pc.less_equal(pc.abs(pc.subtract(floor, milliseconds)), 1000)
        times = pc.if_else(near, pc.divide(nanoseconds, 1000), pa.scalar(2**63 - 1, pa.int64()))
        position = batch.schema.get_field_index(name)
        batch = batch.set_column(position, name, times.cast(pa.timestamp("us")))
    return batch
