"""Read a published month's rows for a load: by row groups, never the whole file in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from nyc_tlc.contract.dataset import Contract, read_contract
from nyc_tlc.errors import LakeError, ReconciliationError
from nyc_tlc.lake.manifest import FileRecord, Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Month
from nyc_tlc.warehouse.tables import Table, quarantine_table, trip_table

#: Rows of a batch; a load keeps a few batches in memory.
LOAD_BATCH_ROWS = 1 << 14


@dataclass(frozen=True)
class LakeFile:
    """A month's clean or rejected rows in the lake."""

    manifest: Manifest
    lake: Lake
    rows_of: Literal["clean", "quarantine"] = field(default="clean", kw_only=True)

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def month(self) -> Month:
        return Month.parse(self.manifest.month)

    @property
    def contract(self) -> Contract:
        return read_contract(self.manifest.color)

    @property
    def quarantine(self) -> LakeFile:
        return LakeFile(self.manifest, self.lake, rows_of="quarantine")

    @property
    def record(self) -> FileRecord:
        return self.manifest.clean if self.rows_of == "clean" else self.manifest.quarantine

    @property
    def table(self) -> Table:
        return trip_table(self.contract) if self.rows_of == "clean" else quarantine_table(self.contract)

    @property
    def schema(self) -> pa.Schema:
        return self.contract.clean_schema if self.rows_of == "clean" else self.contract.quarantine_schema

    @property
    def rows(self) -> int:
        """The number of rows, from the manifest."""
        return self.record.rows

    @property
    def url(self) -> str:
        """The file's URL, for messages, and for BigQuery when it is in a bucket."""
        return self.lake.url(self.record.key)

    @property
    def path(self) -> Path | None:
        """The file's path on this machine; None when it is in a bucket."""
        return self.lake.local_path(self.record.key)

    def open(self) -> BinaryIO:
        return self.lake.open(self.record.key)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows in the file's order, with the schema's columns and types."""
        with self.open() as source, pq.ParquetFile(source) as file:
            # One call for all row groups would keep in memory everything that it has read.
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(LOAD_BATCH_ROWS, row_groups=[group]):
                    same = batch.schema.equals(self.schema)
                    yield batch if same else batch.select(self.schema.names).cast(self.schema)

    def check(self) -> None:
        """Compare the file with the manifest: its size, and the row count and the source's digest in its footer.

        Raises:
            LakeError: when the file is missing, has another size or was made from another source file.
            ReconciliationError: when it has another number of rows.
        """
        again, size = "make the month again with --force", self.lake.size(self.record.key)
        if size != self.record.bytes:
            raise LakeError(
                f"{self.name}: {self.url} is not the file in the manifest",
                expected=f"{self.record.bytes:,} bytes",
                got="no file" if size is None else f"{size:,} bytes",
                fix=again,
            )
        with self.open() as source, pq.ParquetFile(source) as file:
            footer = file.metadata
            made_from = (footer.metadata or {}).get(b"nyc_tlc.source_sha256", b"").decode()
            if made_from != self.manifest.source.sha256:
                raise LakeError(f"{self.name}: {self.url} was made from another source file", fix=again)
            if footer.num_rows != self.rows:
                raise ReconciliationError(
                    f"{self.name}: {self.url} does not have the number of rows in the manifest",
                    expected=f"{self.rows:,} rows",
                    got=f"{footer.num_rows:,}",
                    fix=again,
                )
