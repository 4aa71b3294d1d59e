"""A fetched month -> files of its clean and quarantined rows, in one pass with a bounded part in memory.

While one row group is being encoded and written, the next is read and judged. Which engine does what
was measured (tests/benchmarks): polars compiles casts and rules, pyarrow reads and writes Parquet.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from nyc_tlc import __version__
from nyc_tlc.cleaning.read import READ_BATCH_ROWS, MonthReader
from nyc_tlc.cleaning.rules import Judge, Verdict
from nyc_tlc.contract.contract import Contract
from nyc_tlc.errors import ConfigurationError
from nyc_tlc.lake.keys import FileKeys, Keys, Layout
from nyc_tlc.lake.lake import NewFile
from nyc_tlc.lake.manifest import CleanRecord, DayRecord, QuarantineRecord
from nyc_tlc.source.fetch import FetchedFile

log = logging.getLogger(__name__)

#: One month at a time is cleaned in a process: it has the processor's cores and the memory to itself.
_cleaning = threading.Lock()

#: Rows of a day that are gathered before they are written: a month can be in any order.
DAY_ROWS = 1 << 14

#: Columns besides the times by whose least and greatest values readers can skip row groups.
SKIPPED_BY = frozenset({"pickup_location_id", "dropoff_location_id", "file_month", "source_row"})


@dataclass(frozen=True)
class CleanedMonth:
    """A cleaned month, in files on this machine.

    Attributes:
        fetched: What it was made of.
        files: The files to be published, the untouched source file first.
        labels: What they say of themselves.
        source_rows: Rows in the source file, by its own footer or its lines.
        columns: The source's column names.
        clean: The clean file.
        quarantine: The quarantine file.
        daily: The day files, with the layout ``day``.
        warnings: Warning rule -> rows.
        drift: Columns the contract doesn't know.
        missing: Clean columns that the layout has and the file lacks.
        seconds: How long it took.
    """

    fetched: FetchedFile
    files: tuple[NewFile, ...]
    labels: dict[str, str]
    source_rows: int
    columns: tuple[str, ...]
    clean: CleanRecord
    quarantine: QuarantineRecord
    daily: tuple[DayRecord, ...]
    warnings: dict[str, int]
    drift: tuple[str, ...]
    missing: tuple[str, ...]
    seconds: float


def clean_month(
    fetched: FetchedFile, contract: Contract, folder: Path, *, layout: Layout = "month", strict: bool = False
) -> CleanedMonth:
    """Clean a month into files.

    Args:
        fetched: The source file.
        contract: The colour's contract.
        folder: Where the files go.
        layout: ``day`` also writes a file per pick-up date.
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
            log.warning("%s: columns %s: %s", keys.name, kind, ", ".join(names))
    judge = Judge(contract, keys.month)
    labels = {
        "color": contract.color,
        "month": str(keys.month),
        "source_sha256": fetched.sha256,
        "contract_version": contract.contract_version,
        "rules_version": contract.rules_version,
    }
    file_keys = keys.of_version(files_version(labels))
    try:
        with _cleaning:
            clean_file, quarantine_file, days = _write(folder, file_keys, reader, judge, labels, layout)
    except OSError as error:
        raise ConfigurationError(
            f"{keys.name}: cannot write to {folder}", got=error.strerror or str(error), fix="make room, or set TLC_HOME"
        ) from error
    raw = NewFile(file_keys.raw(fetched.format), fetched.path, fetched.bytes, fetched.sha256)
    clean, quarantine = clean_file.describe(), quarantine_file.describe()
    log.info(
        "%s: %s rows read, %s clean, %s quarantined",
        keys.name,
        *(f"{rows:,}" for rows in (reader.rows, clean_file.rows, quarantine_file.rows)),
    )
    return CleanedMonth(
        fetched=fetched,
        files=(raw, clean, quarantine, *(sink.describe() for sink in days.values())),
        labels=labels,
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
            DayRecord(key=day.key, rows=sink.rows, bytes=day.size, sha256=day.sha256)
            for day, sink in ((sink.describe(), sink) for _, sink in sorted(days.items()))
        ),
        warnings=dict(judge.warned),
        drift=reader.column_map.drift,
        missing=reader.column_map.missing,
        seconds=time.monotonic() - began,
    )


def files_version(labels: Mapping[str, str]) -> str:
    """A digest of all that decides the bytes of a month's files: what they are made of, and by which versions.

    Args:
        labels: The source's digest, and the versions of contract and rules.
    """
    writers = {name: version(name) for name in ("polars", "pyarrow")} | {"nyc_tlc": __version__}
    return hashlib.sha256(json.dumps([dict(labels), writers], sort_keys=True).encode()).hexdigest()[:12]


class DigestedFile(io.BufferedIOBase):
    """A file that is written from its beginning to its end, counted and digested on the way.

    Attributes:
        path: Where it is.
        bytes: What was written so far.
        sha256: Its digest, once closed.
    """

    def __init__(self, path: Path) -> None:
        """Begin a file, and the folder it is in."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.bytes, self.sha256 = path, 0, ""
        self._file, self._digest = path.open("wb"), hashlib.sha256()
        self._abandoned = False

    def writable(self) -> bool:
        """Always."""
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
        """Let what is still written go nowhere: the file has failed, but its writer has to be closed."""
        self._abandoned = True

    def close(self) -> None:
        """End the file."""
        if not self.closed:
            self._file.close()
            self.sha256 = self._digest.hexdigest()
            super().close()


class ParquetSink:
    """Writes frames of one schema to a Parquet file.

    Attributes:
        rows: The rows in the file's footer, once finished.
    """

    def __init__(self, folder: Path, key: str, schema: pa.Schema, labels: Mapping[str, str], gather: int = 0) -> None:
        """Begin a file.

        Args:
            folder: Where it goes.
            key: Its key in the lake, and its place in the folder.
            schema: Its columns.
            labels: What it says of itself.
            gather: How many rows to gather before they are written as a row group.
        """
        self._key, self._file, self.rows = key, DigestedFile(folder.joinpath(*key.split("/"))), 0
        self._schema, self._gather = schema, gather
        self._gathered: list[pl.DataFrame] = []
        self._footer: list[pq.FileMetaData] = []
        # A dictionary of distinct seconds or row numbers only costs time and space. The encodings are
        # the oldest: every reader knows them, BigQuery too.
        times = {field.name for field in schema if pa.types.is_timestamp(field.type)}
        self._writer = pq.ParquetWriter(
            self._file,
            self._schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=[name for name in schema.names if name not in times | {"source_row"}],
            # Amounts span their outliers everywhere: their least and greatest would let no reader skip anything.
            write_statistics=[name for name in schema.names if name in times | SKIPPED_BY],
            store_schema=False,
            metadata_collector=self._footer,
        )
        self._writer.add_key_value_metadata({f"nyc_tlc.{name}": label for name, label in labels.items()})

    def write(self, frame: pl.DataFrame) -> None:
        """Take rows."""
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
        """Finish the file when the block ends."""
        return self

    def describe(self) -> NewFile:
        """The file, once finished."""
        return NewFile(self._key, self._file.path, self._file.bytes, self._file.sha256)

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        """Write what is still gathered, and the footer."""
        if failure:
            self._file.abandon()
            # After a write that failed there is no footer to collect.
            with suppress(RuntimeError):
                self._writer.close()
        else:
            self._flush()
            self._writer.close()
            self.rows = self._footer[0].num_rows
        self._file.close()


class DaySinks:
    """The clean rows once more, a file per pick-up date, with few rows of each day in memory."""

    def __init__(
        self, files: ExitStack, folder: Path, keys: FileKeys, schema: pa.Schema, labels: Mapping[str, str]
    ) -> None:
        """Begin; the files are finished when ``files`` unwinds.

        Args:
            files: Owns the open files.
            folder: Where they go.
            keys: Their keys in the lake.
            schema: The clean schema.
            labels: What the files say of themselves.
        """
        self._files, self._folder, self._keys = files, folder, keys
        self._schema, self._labels = schema, labels
        self.sinks: dict[date, ParquetSink] = {}

    def write(self, frame: pl.DataFrame) -> None:
        """Take rows of any days."""
        by_day = frame.with_columns(pl.col("pickup_datetime").dt.date().alias("day")).partition_by(
            "day", as_dict=True, include_key=False
        )
        for (day,), rows in by_day.items():
            if day not in self.sinks:
                sink = ParquetSink(self._folder, self._keys.daily(day), self._schema, self._labels, gather=DAY_ROWS)
                self.sinks[day] = self._files.enter_context(sink)
            self.sinks[day].write(rows)


def _write(
    folder: Path, keys: FileKeys, reader: MonthReader, judge: Judge, labels: Mapping[str, str], layout: Layout
) -> tuple[ParquetSink, ParquetSink, dict[date, ParquetSink]]:
    """Read, judge and write the month in one pass."""
    clean_schema = pa.schema([_dictionary_encoded(field) for field in reader.contract.clean_schema])
    with ExitStack() as files:
        clean_sink = files.enter_context(ParquetSink(folder, keys.clean, clean_schema, labels))
        rejects = files.enter_context(
            ParquetSink(folder, keys.quarantine, reader.contract.quarantine_schema, labels, gather=READ_BATCH_ROWS)
        )
        days = DaySinks(files, folder, keys, clean_schema, labels) if layout == "day" else None

        def encode(verdict: Verdict) -> None:
            clean_sink.write(verdict.clean)
            rejects.write(verdict.quarantine)
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
    return clean_sink, rejects, days.sinks if days else {}


def _dictionary_encoded(field: pa.Field) -> pa.Field:
    """Texts go to the encoder as dictionaries, as polars keeps them; in the file they are texts."""
    texts = pa.types.is_string(field.type)
    return field.with_type(pa.dictionary(pa.uint32(), pa.large_string())) if texts else field
