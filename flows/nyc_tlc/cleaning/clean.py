"""A fetched month -> its clean and quarantined rows, staged in a lake: one pass, a bounded part in memory.

While one row group is being encoded and written, the next is read and judged. Which engine does what
was measured (tests/benchmarks): polars compiles casts and rules, pyarrow reads and writes Parquet.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import date
from typing import Literal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from nyc_tlc.cleaning.read import BATCH_ROWS, MonthReader
from nyc_tlc.cleaning.rules import Judge, Verdict
from nyc_tlc.contract.contract import Contract
from nyc_tlc.errors import SourceError
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.manifest import CleanRecord, DayRecord, QuarantineRecord
from nyc_tlc.lake.staging import Lake, StagedFile, Staging
from nyc_tlc.source.fetch import FetchedFile

log = logging.getLogger(__name__)

#: How a month's clean rows lie in the lake: one file, or also a Hive folder per pick-up date.
Layout = Literal["month", "day"]

#: Rows of a day that are gathered before they are written: a month can be in any order.
DAY_ROWS = 1 << 14

#: Columns besides the times by whose least and greatest values readers can skip row groups.
SKIPPED_BY = frozenset({"pickup_location_id", "dropoff_location_id", "file_month", "source_row"})


@dataclass(frozen=True)
class CleanedMonth:
    """A cleaned month, staged.

    Attributes:
        fetched: What it was made of.
        token: Names the staging in its lake.
        raw_key: The key of the untouched source file.
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
    token: str
    raw_key: str
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
    fetched: FetchedFile, terms: Contract, lake: Lake, *, layout: Layout = "month", strict: bool = False
) -> CleanedMonth:
    """Clean a month into a lake's staging; nothing is visible there before it is published.

    Args:
        fetched: The source file.
        terms: The colour's contract.
        lake: Where the month goes.
        layout: ``day`` also writes a file per pick-up date.
        strict: Whether a column unknown to the contract is an error.

    Raises:
        ContractError: when the file breaks the contract.
        SourceError: when the file is damaged, or changed while it was read.
        LakeError: when the lake can't be written.
    """
    began = time.monotonic()
    keys = Keys(terms.color, fetched.remote.month)
    reader = MonthReader(fetched, terms, strict=strict)
    for kind, names in (("unknown to the contract", reader.column_map.drift), ("missing", reader.column_map.missing)):
        if names:
            log.warning("%s: columns %s: %s", keys.name, kind, ", ".join(names))
    judge = Judge(terms, keys.month)
    labels = {
        "color": terms.color,
        "month": str(keys.month),
        "source_sha256": fetched.sha256,
        "contract_version": terms.contract_version,
        "rules_version": terms.rules_version,
    }
    staging = lake.stage(keys, labels)
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="raw") as copier:
            raw = copier.submit(_stage_raw, staging, keys, fetched)
            clean_file, quarantine_file, days = _write(staging, keys, reader, judge, labels, layout)
        raw.result()
    except BaseException:
        staging.discard()
        raise
    log.info(
        "%s: %s rows read, %s clean, %s quarantined",
        keys.name,
        *(f"{rows:,}" for rows in (reader.rows, clean_file.rows, quarantine_file.rows)),
    )
    return CleanedMonth(
        fetched=fetched,
        token=staging.token,
        raw_key=keys.raw(fetched.format),
        source_rows=reader.rows,
        columns=tuple(reader.columns),
        clean=CleanRecord(
            key=keys.clean, rows=clean_file.rows, bytes=clean_file.file.bytes, sha256=clean_file.file.sha256
        ),
        quarantine=QuarantineRecord(key=keys.quarantine, rows=quarantine_file.rows, rules=judge.rejected),
        daily=days,
        warnings=dict(judge.warned),
        drift=reader.column_map.drift,
        missing=reader.column_map.missing,
        seconds=time.monotonic() - began,
    )


def _stage_raw(staging: Staging, keys: Keys, fetched: FetchedFile) -> None:
    with fetched.path.open("rb") as source, staging.create(keys.raw(fetched.format)) as raw:
        shutil.copyfileobj(source, raw, 1 << 20)
    if raw.sha256 != fetched.sha256:
        raise SourceError(f"{keys.name}: {fetched.path} changed while it was read", fix="run it again")


class ParquetSink:
    """Writes frames of one schema to a staged Parquet file.

    Attributes:
        file: The staged file; its digest is known once it is closed.
        rows: The rows in the file's footer, once finished.
    """

    def __init__(self, file: StagedFile, schema: pa.Schema, labels: Mapping[str, str], gather: int = 0) -> None:
        """Begin a file.

        Args:
            file: Where it goes.
            schema: Its columns.
            labels: What it says of itself.
            gather: How many rows to gather before they are written as a row group.
        """
        self.file, self.rows = file, 0
        self._schema, self._gather = schema, gather
        self._gathered: list[pl.DataFrame] = []
        self._footer: list[pq.FileMetaData] = []
        # A dictionary of distinct seconds or row numbers only costs time and space. The encodings are
        # the oldest: every reader knows them, BigQuery too.
        times = {field.name for field in schema if pa.types.is_timestamp(field.type)}
        self._writer = pq.ParquetWriter(
            file,
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

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        """Write what is still gathered, and the footer."""
        if failure:
            self.file.abandon()
            # After a write that failed there is no footer to collect.
            with suppress(RuntimeError):
                self._writer.close()
            return
        self._flush()
        self._writer.close()
        self.rows = self._footer[0].num_rows


class DaySinks:
    """The clean rows once more, a file per pick-up date, with few rows of each day in memory."""

    def __init__(
        self, files: ExitStack, staging: Staging, keys: Keys, schema: pa.Schema, labels: Mapping[str, str]
    ) -> None:
        """Begin; the files are finished when ``files`` unwinds.

        Args:
            files: Owns the open files.
            staging: Where they are staged.
            keys: The month.
            schema: The clean schema.
            labels: What the files say of themselves.
        """
        self._files, self._staging, self._keys = files, staging, keys
        self._schema, self._labels = schema, labels
        self._sinks: dict[date, ParquetSink] = {}

    def write(self, frame: pl.DataFrame) -> None:
        """Take rows of any days."""
        by_day = frame.with_columns(pl.col("pickup_datetime").dt.date().alias("day")).partition_by(
            "day", as_dict=True, include_key=False
        )
        for (day,), rows in by_day.items():
            if day not in self._sinks:
                file = self._files.enter_context(self._staging.create(self._keys.daily(day)))
                sink = ParquetSink(file, self._schema, self._labels, gather=DAY_ROWS)
                self._sinks[day] = self._files.enter_context(sink)
            self._sinks[day].write(rows)

    def records(self) -> tuple[DayRecord, ...]:
        """What was written, once the files are finished."""
        return tuple(DayRecord(key=self._keys.daily(day), rows=sink.rows) for day, sink in sorted(self._sinks.items()))


def _write(
    staging: Staging, keys: Keys, reader: MonthReader, judge: Judge, labels: Mapping[str, str], layout: Layout
) -> tuple[ParquetSink, ParquetSink, tuple[DayRecord, ...]]:
    """Read, judge and write the month in one pass."""
    clean_schema = pa.schema([_dictionary_encoded(field) for field in reader.terms.clean_schema])
    with ExitStack() as files:
        clean_file = files.enter_context(staging.create(keys.clean))
        clean_sink = files.enter_context(ParquetSink(clean_file, clean_schema, labels))
        rejects_file = files.enter_context(staging.create(keys.quarantine))
        rejects = ParquetSink(rejects_file, reader.terms.quarantine_schema, labels, gather=BATCH_ROWS)
        files.enter_context(rejects)
        days = DaySinks(files, staging, keys, clean_schema, labels) if layout == "day" else None

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
    return clean_sink, rejects, days.records() if days else ()


def _dictionary_encoded(field: pa.Field) -> pa.Field:
    """Texts go to the encoder as dictionaries, as polars keeps them; in the file they are texts."""
    texts = pa.types.is_string(field.type)
    return field.with_type(pa.dictionary(pa.uint32(), pa.large_string())) if texts else field
