"""File -> stream of contract-typed batches. Nothing is dropped: all batches together are the file's rows."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from nyc_tlc.cleaning.conform import Batch, Conformer, dictionary_columns
from nyc_tlc.cleaning.csv_records import CsvRecords, read_header
from nyc_tlc.contract.contract import Contract, FileFormat
from nyc_tlc.errors import ContractError, SourceError
from nyc_tlc.source.fetch import FetchedFile

#: Rows of a batch: what is read, judged and written together, a row group of the clean file.
BATCH_ROWS = 1 << 18
#: Read column chunks through a small buffer, not whole: one row group can hold the entire month.
READ_BUFFER = 1 << 20


class MonthReader:
    """Reads one fetched month.

    Attributes:
        terms: The contract it is read to.
        columns: The file's own column names.
        column_map: How they map onto the contract.
        rows: Rows in the file: by its footer where it is Parquet, else the lines read so far.
    """

    def __init__(self, fetched: FetchedFile, terms: Contract, *, strict: bool = False) -> None:
        """Look at the file's columns and map them.

        Args:
            fetched: The file.
            terms: The colour's contract.
            strict: Whether a column unknown to the contract is an error.

        Raises:
            ContractError: when a required column is missing, or when strict and one is unknown.
        """
        self._fetched, self.terms, month = fetched, terms, fetched.remote.month
        if fetched.format == "parquet":
            footer = pq.read_metadata(fetched.path)
            schema, self.rows = footer.schema.to_arrow_schema(), footer.num_rows
        else:
            with _open_text(fetched.path) as file:
                schema, self.rows = pa.schema([(name, pa.string()) for name in read_header(file.readline())]), 0
        self.columns = schema.names
        layout_format: FileFormat = "parquet" if fetched.format == "parquet" else "csv"
        self.column_map = terms.map_columns(self.columns, month, layout_format)
        published = terms.layout(month, layout_format).columns
        unexpected = [name for name in self.column_map.drift if name not in published]
        if strict and unexpected:
            raise ContractError(
                f"{fetched.remote.name}: the file has columns the contract doesn't know",
                got=", ".join(unexpected),
                fix=f"add them to datasets/{terms.color}.yaml or unset TLC_STRICT",
            )
        self._dictionaries = dictionary_columns(terms, self.column_map, schema)
        self._conform = Conformer(terms, self.column_map, schema, month)

    def __iter__(self) -> Iterator[Batch]:
        """The file's rows in order.

        Raises:
            SourceError: when the file turns out to be damaged.
        """
        first_row = 0
        try:
            for data, raw in self._parquet() if self._fetched.format == "parquet" else self._csv():
                yield self._conform(data, first_row, raw)
                first_row += data.num_rows
        except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
            raise SourceError(
                f"{self._fetched.remote.name}: the file is damaged after row {first_row:,}",
                got=str(error),
                fix="nothing was written to the lake; fetch it again",
            ) from error

    def _parquet(self) -> Iterator[tuple[pa.RecordBatch, None]]:
        wanted = [name for sources in self.column_map.sources.values() for name in sources]
        with pq.ParquetFile(
            self._fetched.path, read_dictionary=self._dictionaries, pre_buffer=False, buffer_size=READ_BUFFER
        ) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=wanted, use_threads=False):
                yield batch, None

    def _csv(self) -> Iterator[tuple[pa.Table, pl.Series | None]]:
        with _open_text(self._fetched.path) as file:
            file.readline()
            for table, raw in CsvRecords(file, self.columns, self._dictionaries):
                self.rows += table.num_rows
                yield table, raw


def _open_text(path: Path) -> BinaryIO:
    """A CSV file's bytes, unpacked where it is packed."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path) if packed else path.open("rb"))
