"""Write a fetched month's clean and quarantined rows to files, in one pass and with limited memory.

While one row group is encoded and written, the next is read and checked. The libraries were chosen by measurements
(tests/benchmarks): polars compiles casts and rules, pyarrow reads and writes Parquet.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from nyc_tlc import __version__
from nyc_tlc.cleaning.read import READ_BATCH_ROWS, MonthReader
from nyc_tlc.cleaning.rules import BAD_VALUE, CheckedBatch, RuleCheck
from nyc_tlc.cleaning.times import TIME_FORM
from nyc_tlc.contract.dataset import Contract
from nyc_tlc.errors import ConfigurationError, ContractError
from nyc_tlc.lake.keys import FileKeys, Keys, Layout
from nyc_tlc.lake.manifest import F, FileRecord, Manifest, QuarantineRecord, SourceRecord
from nyc_tlc.shown import shown
from nyc_tlc.source.fetch import FetchedFile, digest_file

log = logging.getLogger(__name__)

#: A process cleans one month at a time, because each one can use all cores and much memory.
_cleaning_lock = threading.Lock()

#: A row group has at least so many rows: a block of CSV with an odd line is read in many small batches.
GROUP_ROWS = READ_BATCH_ROWS // 2
#: The number of a day's rows to collect before they are written: the rows of a month can be in any order.
DAY_ROWS = 1 << 14
#: Columns, besides times, whose values rarely repeat. A dictionary of them would cost much time and save little space.
DISTINCT_COLUMNS = frozenset(
    {"source_row", "pickup_longitude", "pickup_latitude", "dropoff_longitude", "dropoff_latitude"}
)

#: Columns, besides times, whose minimum and maximum let readers skip row groups.
STATISTICS_COLUMNS = frozenset({"pickup_location_id", "dropoff_location_id", "file_month", "source_row"})


@dataclass(frozen=True)
class CleanedMonth:
    """A cleaned month.

    Attributes:
        manifest: Its manifest, without the run that makes it and the time when that began.
        files: Key -> path of the files to publish: the source file, unless the lake has it, and those with its rows.
    """

    manifest: Manifest
    files: dict[str, Path]


def clean_month(
    fetched: FetchedFile, contract: Contract, folder: Path, *, layout: Layout = "month", strict: bool = False
) -> CleanedMonth:
    """Clean a month: write its clean and quarantined rows to files in a folder.

    Args:
        layout: ``day`` also writes a file for each pick-up date.

    Raises:
        ContractError: when the file breaks the contract.
        SourceError: when the file is damaged.
        ConfigurationError: when the folder can't be written.
    """
    began = time.monotonic()
    keys = Keys(contract.color, fetched.remote.month)
    reader = MonthReader(fetched, contract, strict=strict)
    for kind, names in (("unknown to the contract", reader.column_map.drift), ("missing", reader.column_map.missing)):
        if names:
            log.warning("%s: columns %s: %s", keys.name, kind, ", ".join(map(shown, names)))
    check = RuleCheck(contract, keys.month)
    labels = {
        "color": contract.color,
        "month": str(keys.month),
        "source_sha256": fetched.sha256,
        "contract_version": contract.contract_version,
        "rules_version": contract.rules_version,
    }
    file_keys = keys.of_new_version()
    try:
        with _cleaning_lock:
            clean, quarantine, days = _write_files(folder, file_keys, reader, check, labels, layout)
    except OSError as error:
        reason = error.strerror or str(error)
        fix = "make room, or set TLC_HOME"
        raise ConfigurationError(f"{keys.name}: cannot write to {folder}", got=reason, fix=fix) from error
    times = [column.name for column in contract.columns if column.type == "timestamp"]
    unread = sum(check.rejected.get(f"{BAD_VALUE}{name}", 0) for name in times)
    if not clean.rows and 2 * unread > reader.rows:
        examples = pq.read_table(quarantine.path, columns=["raw"])["raw"].drop_null()
        raise ContractError(
            f"{keys.name}: no trip has times that can be read: {TIME_FORM}",
            got=shown(examples[0].as_py()) if fetched.remote.may_be_quoted else "",
        )
    counts = (f"{rows:,}" for rows in (reader.rows, clean.rows, quarantine.rows))
    log.info("%s: %s rows read, %s clean, %s quarantined", keys.name, *counts)
    raw = file_keys.raw(fetched.format)
    finished = datetime.now(UTC)
    manifest = Manifest(
        color=contract.color,
        month=str(keys.month),
        source=SourceRecord(
            url=fetched.remote.shown,
            etag=fetched.remote.etag,
            last_modified=fetched.remote.last_modified,
            bytes=fetched.bytes,
            sha256=fetched.sha256,
            format=fetched.format,
            rows=reader.rows,
            columns=tuple(reader.columns),
            key=fetched.key or raw,
            verified_by=fetched.verified_by,
        ),
        clean=clean.describe(FileRecord),
        quarantine=quarantine.describe(QuarantineRecord, rules=check.rejected),
        daily=tuple(days[day].describe(FileRecord) for day in sorted(days)),
        warnings=dict(check.warned),
        drift=reader.column_map.drift,
        missing=reader.column_map.missing,
        contract_version=contract.contract_version,
        rules_version=contract.rules_version,
        code_version=__version__,
        flow_run_id=None,
        seconds={"fetch": round(fetched.seconds, 3), "clean": round(time.monotonic() - began, 3)},
        started_at=finished,
        finished_at=finished,
    )
    files = {sink.key: sink.path for sink in (clean, quarantine, *days.values())}
    return CleanedMonth(manifest, files if fetched.key else {raw: fetched.path, **files})


class ParquetSink:
    """Writes data frames of one schema to a Parquet file; the end of its ``with`` block closes the file.

    Attributes:
        rows: The number of rows in the closed file.
    """

    rows: int

    def __init__(self, folder: Path, key: str, schema: pa.Schema, labels: Mapping[str, str], gather: int = 0) -> None:
        """Create the file.

        Args:
            gather: The number of rows to collect before they are written as a row group.
        """
        self.key, self.path, self._schema, self._gather = key, folder / key, schema, gather
        self._gathered: list[pl.DataFrame] = []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        times = {field.name for field in schema if pa.types.is_timestamp(field.type)}
        # These are encodings of Parquet's first version, which every reader knows, also BigQuery.
        self._writer = pq.ParquetWriter(
            self.path,
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=[name for name in schema.names if name not in times | DISTINCT_COLUMNS],
            # Every row group has extreme amounts, so their minimum and maximum would not let a reader skip any.
            write_statistics=[name for name in schema.names if name in times | STATISTICS_COLUMNS],
            store_schema=False,
        )
        self._writer.add_key_value_metadata({f"nyc_tlc.{name}": label for name, label in labels.items()})

    def write(self, frame: pl.DataFrame) -> None:
        self._gathered.append(frame)
        if sum(map(len, self._gathered)) >= self._gather:
            self._flush()

    def _flush(self) -> None:
        if self._gathered:
            table = pl.concat(self._gathered).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(self._schema)
            self._writer.write_table(table, row_group_size=max(1, len(table)))
            self._gathered = []

    def __enter__(self) -> ParquetSink:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        """Write the remaining rows and the footer, and close the file."""
        try:
            if not failure:
                self._flush()
                self._writer.close()
                self.rows = pq.read_metadata(self.path).num_rows
        finally:
            # After a failed write the footer can't be written either; the writer's destructor would try to.
            self._writer.is_open = False

    def describe(self, kind: type[F], **more: Any) -> F:
        """Return the closed file's record for the manifest."""
        size, digest = self.path.stat().st_size, digest_file(self.path)
        return kind(key=self.key, rows=self.rows, bytes=size, sha256=digest, **more)


def _write_files(
    folder: Path, keys: FileKeys, reader: MonthReader, check: RuleCheck, labels: Mapping[str, str], layout: Layout
) -> tuple[ParquetSink, ParquetSink, dict[date, ParquetSink]]:
    """Read, check and write the month in one pass. Return the sinks of clean, quarantine and days."""
    clean_schema = pa.schema([_encode_as_dictionary(field) for field in reader.contract.clean_schema])
    days: dict[date, ParquetSink] = {}
    with ExitStack() as files:

        def open_sink(key: str, schema: pa.Schema, gather: int = 0) -> ParquetSink:
            return files.enter_context(ParquetSink(folder, key, schema, labels, gather))

        clean = open_sink(keys.clean, clean_schema, GROUP_ROWS)
        quarantine = open_sink(keys.quarantine, reader.contract.quarantine_schema, READ_BATCH_ROWS)

        def encode(batch: CheckedBatch) -> None:
            clean.write(batch.clean)
            quarantine.write(batch.quarantine)

        def encode_days(batch: CheckedBatch) -> None:
            for day, rows in _split_days(batch.clean):
                if day not in days:
                    days[day] = open_sink(keys.daily(day), clean_schema, DAY_ROWS)
                days[day].write(rows)

        encoders = (encode, encode_days) if layout == "day" else (encode,)
        with ThreadPoolExecutor(len(encoders), thread_name_prefix="encode") as threads:
            pending: list[Future[None]] = []
            for batch in map(check, reader):
                for each in pending:
                    each.result()
                pending = [threads.submit(encoder, batch) for encoder in encoders]
            for each in pending:
                each.result()
    return clean, quarantine, days


def _split_days(frame: pl.DataFrame) -> list[tuple[date, pl.DataFrame]]:
    by_day = frame.with_columns(day=pl.col("pickup_datetime").dt.date()).partition_by(
        "day", as_dict=True, include_key=False
    )
    return [(day, rows) for (day,), rows in by_day.items()]


def _encode_as_dictionary(field: pa.Field) -> pa.Field:
    """Return a text field as a dictionary, which is how polars stores texts; in the file they are texts."""
    texts = pa.types.is_string(field.type)
    return field.with_type(pa.dictionary(pa.uint32(), pa.large_string())) if texts else field
