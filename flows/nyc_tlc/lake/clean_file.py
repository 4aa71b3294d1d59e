"""A published month's clean rows, as loads read them: by row groups, never whole in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from nyc_tlc.contract.contract import Contract
from nyc_tlc.errors import LakeError, ReconciliationError
from nyc_tlc.lake.lake import Lake
from nyc_tlc.lake.manifest import CleanRecord, Manifest, QuarantineRecord
from nyc_tlc.months import Month

#: Rows of a batch: what a load holds in memory a few times over.
LOAD_BATCH_ROWS = 1 << 14


@dataclass(frozen=True)
class CleanFile:
    """A month in the lake that is to be loaded.

    Attributes:
        manifest: What was done with it.
        lake: Where it is.
        contract: Its contract.
    """

    manifest: Manifest
    lake: Lake
    contract: Contract

    @property
    def name(self) -> str:
        """What errors and log lines call the month."""
        return self.manifest.name

    @property
    def month(self) -> Month:
        """The month."""
        return Month.parse(self.manifest.month)

    @property
    def quarantine(self) -> QuarantineFile:
        """The month's rejected rows."""
        return QuarantineFile(self.manifest, self.lake, self.contract)

    @property
    def record(self) -> CleanRecord | QuarantineRecord:
        """What the manifest says of the file."""
        return self.manifest.clean

    @property
    def schema(self) -> pa.Schema:
        """Its columns and types."""
        return self.contract.clean_schema

    @property
    def rows(self) -> int:
        """How many rows a load has to bring."""
        return self.record.rows

    @property
    def url(self) -> str:
        """Where the file is, for people, and for BigQuery when it is in a bucket."""
        return self.lake.url(self.record.key)

    @property
    def path(self) -> Path | None:
        """The file on this machine, None when it is in a bucket."""
        return self.lake.local_path(self.record.key)

    def open(self) -> BinaryIO:
        """The file for reading, range by range."""
        return self.lake.open(self.record.key)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows in the file's order, with the schema's columns and types."""
        with self.open() as source, pq.ParquetFile(source) as file:
            # One call for all of them would keep what it has read of the file to the end.
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(LOAD_BATCH_ROWS, row_groups=[group]):
                    same = batch.schema.equals(self.schema)
                    yield batch if same else batch.select(self.schema.names).cast(self.schema)

    def check(self) -> None:
        """See that the file is the manifest's, by its size, its footer's count and what it says it was made of.

        Raises:
            LakeError: when the file is gone or another one.
            ReconciliationError: when it has another number of rows.
        """
        again, size = "make the month again with --force", self.lake.size(self.record.key)
        if size is None or self.record.bytes not in (None, size):
            got = "no file" if size is None else f"{size:,} bytes"
            expected = f"{self.record.bytes:,} bytes" if self.record.bytes else "a file"
            raise LakeError(f"{self.name}: {self.url} is another file", expected=expected, got=got, fix=again)
        with self.open() as source, pq.ParquetFile(source) as file:
            footer = file.metadata
            made_of = (footer.metadata or {}).get(b"nyc_tlc.source_sha256", b"").decode()
            if made_of != self.manifest.source.sha256:
                raise LakeError(f"{self.name}: {self.url} was made of another source file", fix=again)
            if footer.num_rows != self.rows:
                raise ReconciliationError(
                    f"{self.name}: {self.url} and its manifest don't agree",
                    expected=f"{self.rows:,} rows",
                    got=f"{footer.num_rows:,}",
                    fix=again,
                )


@dataclass(frozen=True)
class QuarantineFile(CleanFile):
    """A month's rejected rows, read as the clean ones are."""

    @property
    def record(self) -> QuarantineRecord:
        """What the manifest says of the file."""
        return self.manifest.quarantine

    @property
    def schema(self) -> pa.Schema:
        """Its columns and types."""
        return self.contract.quarantine_schema
