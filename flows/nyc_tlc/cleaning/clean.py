"""Write a fetched month's clean and quarantined rows to files, in one pass and with limited memory.

While one row group is encoded and written, the next is read and judged. The libraries were chosen by measurements
(tests/benchmarks): polars compiles casts and rules, pyarrow reads and writes Parquet.
"""

from __future__ import annotations

import hashlib
import io
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from nyc_tlc.cleaning.read import READ_BATCH_ROWS, MonthReader
from nyc_tlc.cleaning.rules import BAD_VALUE, Judge, Verdict
from nyc_tlc.cleaning.times import TIME_FORM
from nyc_tlc.contract.dataset import Contract
from nyc_tlc.errors import ConfigurationError, ContractError
from nyc_tlc.lake.keys import FileKeys, Keys, Layout
from nyc_tlc.lake.manifest import CleanRecord, FileRecord, QuarantineRecord
from nyc_tlc.lake.store import NewFile
from nyc_tlc.shown import shown
from nyc_tlc.source.fetch import FetchedFile

log = logging.getLogger(__name__)

#: A process cleans one month at a time, because each one can use all cores and much memory.
_cleaning_lock = threading.Lock()

#: The number of a day's rows to collect before they are written: the rows of a month can be in any order.
DAY_ROWS = 1 << 14

#: The bytes to collect before they are written to a file.
WRITE_BYTES = 1 << 20

#: Columns, besides times, whose values rarely repeat. A dictionary of them would cost much time and save little space.
DISTINCT_COLUMNS = frozenset(
    {"source_row", "pickup_longitude", "pickup_latitude", "dropoff_longitude", "dropoff_latitude"}
)

#: Columns, besides times, whose minimum and maximum let readers skip row groups.
STATISTICS_COLUMNS = frozenset({"pickup_location_id", "dropoff_location_id", "file_month", "source_row"})


@dataclass(frozen=True)
class CleanedMonth:
    """A cleaned month, in files on this machine.

    Attributes:
        fetched: The source file.
        raw_key: The key of the unchanged source file in the lake.
        files: The files to publish: the source file, unless the lake has it already, and those with its rows.
        source_rows: The number of rows in the source file, from its footer or its lines.
        columns: The source's column names.
        clean: The clean file.
        quarantine: The quarantine file.
        daily: The day files, if the layout is ``day``.
        warnings: Warning rule -> rows.
        drift: Columns the contract doesn't know.
        missing: Clean columns that the month's layout has but the file lacks.
        seconds: How long the cleaning took.
    """

    fetched: FetchedFile
    raw_key: str
    files: tuple[NewFile, ...]
    source_rows: int
    columns: tuple[str, ...]
    clean: CleanRecord
    quarantine: QuarantineRecord
    daily: tuple[FileRecord, ...]
    warnings: dict[str, int]
    drift: tuple[str, ...]
    missing: tuple[str, ...]
    seconds: float


def clean_month(
    fetched: FetchedFile, contract: Contract, folder: Path, *, layout: Layout = "month", strict: bool = False
) -> CleanedMonth:
    """Clean a month: write its clean and quarantined rows to files.

    Args:
        fetched: The source file.
        contract: The colour's contract.
        folder: The folder to write to.
        layout: ``day`` also writes a file for each pick-up date.
        strict: Whether a column unknown to the contract is an error.

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
    judge = Judge(contract, keys.month)
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
            clean_file, quarantine_file, days = _write_files(folder, file_keys, reader, judge, labels, layout)
    except OSError as error:
        raise ConfigurationError(
            f"{keys.name}: cannot write to {folder}", got=error.strerror or str(error), fix="make room, or set TLC_HOME"
        ) from error
    times = [column.name for column in contract.columns if column.type == "timestamp"]
    unread = sum(judge.rejected.get(f"{BAD_VALUE}{name}", 0) for name in times)
    if not clean_file.rows and 2 * unread > reader.rows:
        examples = pq.read_table(quarantine_file.describe().path, columns=["raw"])["raw"].drop_null()
        raise ContractError(
            f"{keys.name}: no trip has times that can be read: {TIME_FORM}",
            got=shown(examples[0].as_py()) if fetched.remote.may_be_quoted else "",
        )
    raw = NewFile(file_keys.raw(fetched.format), fetched.path, fetched.bytes, fetched.sha256)
    clean, quarantine = clean_file.describe(), quarantine_file.describe()
    log.info(
        "%s: %s rows read, %s clean, %s quarantined",
        keys.name,
        *(f"{rows:,}" for rows in (reader.rows, clean_file.rows, quarantine_file.rows)),
    )
    return CleanedMonth(
        fetched=fetched,
        raw_key=fetched.key or raw.key,
        files=(*(() if fetched.key else (raw,)), clean, quarantine, *(sink.describe() for sink in days.values())),
        source_rows=reader.rows,
        columns=tuple(reader.columns),
        clean=CleanRecord(key=clean.key, rows=clean_file.rows, bytes=clean.size, sha256=clean.sha256),
        quarantine=QuarantineRecord(
            key=quarantine.key,
            rows=quarantine_file.rows,
            rules=judge.rejected,
            bytes=quarantine.size,
            sha256=quarantine.sha256,
        ),
        daily=tuple(
            FileRecord(key=day.key, rows=sink.rows, bytes=day.size, sha256=day.sha256)
            for day, sink in ((sink.describe(), sink) for _, sink in sorted(days.items()))
        ),
        warnings=dict(judge.warned),
        drift=reader.column_map.drift,
        missing=reader.column_map.missing,
        seconds=time.monotonic() - began,
    )


class DigestedFile(io.BufferedIOBase):
    """A file that is written from start to end, and counts and digests its bytes.

    Attributes:
        path: Its path.
        bytes: The number of bytes written so far.
        sha256: Its digest, after it is closed.
    """

    def __init__(self, path: Path) -> None:
        """Create the file and its folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.bytes, self.sha256 = path, 0, ""
        self._file, self._digest = path.open("wb"), hashlib.sha256()
        self._abandoned = False

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: object) -> int:
        """Write all of ``data``."""
        view = memoryview(data)  # type: ignore[arg-type]
        if not self._abandoned:
            self._file.write(view)
            self._digest.update(view)
            self.bytes += view.nbytes
        return view.nbytes

    def abandon(self) -> None:
        """Ignore later writes: the file has failed, but its writer must still be closed."""
        self._abandoned = True

    def close(self) -> None:
        """Close the file and set its digest."""
        if not self.closed:
            self._file.close()
            self.sha256 = self._digest.hexdigest()
            super().close()


class ParquetSink:
    """Writes data frames of one schema to a Parquet file.

    Attributes:
        rows: The number of rows in the footer, after the file is closed.
    """

    def __init__(self, folder: Path, key: str, schema: pa.Schema, labels: Mapping[str, str], gather: int = 0) -> None:
        """Create the file.

        Args:
            folder: The folder to write to.
            key: Its key in the lake, which is also its path in the folder.
            schema: Its columns.
            labels: Its key-value metadata.
            gather: The number of rows to collect before they are written as a row group.
        """
        self._key, self._file, self.rows = key, DigestedFile(folder.joinpath(*key.split("/"))), 0
        self._schema, self._gather = schema, gather
        self._gathered: list[pl.DataFrame] = []
        self._footer: list[pq.FileMetaData] = []
        # The encodings are the oldest ones, which every reader knows, also BigQuery.
        times = {field.name for field in schema if pa.types.is_timestamp(field.type)}
        # A call from the writer's thread into Python waits for the other threads, so there are few calls.
        self._buffer = pa.BufferedOutputStream(pa.PythonFile(self._file, mode="w"), WRITE_BYTES)
        self._writer = pq.ParquetWriter(
            self._buffer,
            self._schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=[name for name in schema.names if name not in times | DISTINCT_COLUMNS],
            # Every row group has extreme amounts, so their minimum and maximum would not let a reader skip any.
            write_statistics=[name for name in schema.names if name in times | STATISTICS_COLUMNS],
            store_schema=False,
            metadata_collector=self._footer,
        )
        self._writer.add_key_value_metadata({f"nyc_tlc.{name}": label for name, label in labels.items()})

    def write(self, frame: pl.DataFrame) -> None:
        """Add rows."""
        self._gathered.append(frame)
        if sum(map(len, self._gathered)) >= self._gather:
            self._flush()

    def _flush(self) -> None:
        if not self._gathered:
            return
        table = pl.concat(self._gathered).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(self._schema)
        self._writer.write_table(table, row_group_size=max(1, len(table)))
        self._gathered = []

    def __enter__(self) -> ParquetSink:
        """Return the sink; the end of the block closes the file."""
        return self

    def describe(self) -> NewFile:
        """Return the closed file."""
        return NewFile(self._key, self._file.path, self._file.bytes, self._file.sha256)

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        """Write the remaining rows and the footer, and close the file."""
        if failure:
            self._file.abandon()
            # After a failed write there is no footer to collect.
            with suppress(RuntimeError):
                self._writer.close()
        else:
            self._flush()
            self._writer.close()
            self._buffer.close()
            self.rows = self._footer[0].num_rows
        self._file.close()


class DaySinks:
    """Writes the clean rows to a file for each pick-up date, with few rows of each day in memory."""

    def __init__(self, open_day: Callable[[date], ParquetSink]) -> None:
        """Prepare to write.

        Args:
            open_day: Creates the file of a date.
        """
        self._open_day = open_day
        self.sinks: dict[date, ParquetSink] = {}

    def write(self, frame: pl.DataFrame) -> None:
        """Add rows of any dates."""
        by_day = frame.with_columns(pl.col("pickup_datetime").dt.date().alias("day")).partition_by(
            "day", as_dict=True, include_key=False
        )
        for (day,), rows in by_day.items():
            if day not in self.sinks:
                self.sinks[day] = self._open_day(day)
            self.sinks[day].write(rows)


def _write_files(
    folder: Path, keys: FileKeys, reader: MonthReader, judge: Judge, labels: Mapping[str, str], layout: Layout
) -> tuple[ParquetSink, ParquetSink, dict[date, ParquetSink]]:
    """Read, judge and write the month in one pass. Return the sinks of clean, quarantine and days."""
    clean_schema = pa.schema([_encode_as_dictionary(field) for field in reader.contract.clean_schema])
    with ExitStack() as files:

        def open_sink(key: str, schema: pa.Schema, gather: int = 0) -> ParquetSink:
            return files.enter_context(ParquetSink(folder, key, schema, labels, gather))

        clean_sink = open_sink(keys.clean, clean_schema)
        quarantine_sink = open_sink(keys.quarantine, reader.contract.quarantine_schema, READ_BATCH_ROWS)
        days = DaySinks(lambda day: open_sink(keys.daily(day), clean_schema, DAY_ROWS)) if layout == "day" else None

        def encode(verdict: Verdict) -> None:
            clean_sink.write(verdict.clean)
            quarantine_sink.write(verdict.quarantine)
            if days:
                days.write(verdict.clean)

        with ThreadPoolExecutor(1, thread_name_prefix="encode") as encoder:
            pending: Future[None] | None = None
            for verdict in map(judge, reader):
                if pending:
                    pending.result()
                pending = encoder.submit(encode, verdict)
            if pending:
                pending.result()
    return clean_sink, quarantine_sink, days.sinks if days else {}


def _encode_as_dictionary(field: pa.Field) -> pa.Field:
    """Return a text field as a dictionary, which is how polars stores texts; in the file they are texts."""
    texts = pa.types.is_string(field.type)
    return field.with_type(pa.dictionary(pa.uint32(), pa.large_string())) if texts else field
