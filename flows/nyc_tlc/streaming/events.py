"""The events of a replay: months of clean rows in the order of event time, as keys and JSON.

DuckDB sorts on disk. The position of an event in that order (its time, month, row, and step: 0 for a trip's start, 1
for its end) can be read from its message, so a replay can go on after the last message of each partition.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa

from nyc_tlc.errors import ArgumentError
from nyc_tlc.warehouse.lake_file import LakeFile

By = Literal["dropoff", "pickup"]
Names = Literal["ours", "tlc"]
PartitionBy = Literal["pickup_location_id", "dropoff_location_id", "source_row"]
#: Key, JSON, event time (milliseconds of the wall-clock time since 1970), partition, and month, ``2024-01``.
Event = tuple[str, str, int, int, str]
#: Of the type that the client takes.
Headers = dict[str, str | bytes | None]
#: A message that was sent: key, JSON and headers.
Message = tuple[str, str, Headers]
Position = tuple[datetime, str, int, int]

BATCH_ROWS = 1 << 13
#: What DuckDB holds while it sorts.
SORTING: dict[str, Any] = {"memory_limit": "400MB", "threads": 2, "preserve_insertion_order": False}
#: The columns that are known when a trip starts.
KNOWN_AT_START = """vendor_id pickup_datetime passenger_count pickup_location_id trip_type pickup_longitude
    pickup_latitude hvfhs_license_num dispatching_base_num originating_base_num affiliated_base_number request_datetime
    on_scene_datetime shared_request_flag access_a_ride_flag wav_request_flag sr_flag file_month source_row""".split()


@dataclass(frozen=True)
class Replay:
    """The clean rows of months, oldest first, and how they are sent; flows/replay.py describes the options."""

    files: Sequence[LakeFile]
    by: By
    pairs: bool
    start: datetime | None
    end: datetime | None
    names: Names
    partition_by: PartitionBy
    name: str

    def headers(self, partitions: int) -> dict[str, Headers]:
        """Return the headers of each month's messages; a named replay's say what its order depends on."""
        ours: Headers = {}
        if self.name:
            what = f"{'pairs' if self.pairs else self.by}, {self.names}, {self.partition_by} of {partitions}"
            ours = {"replay": self.name, "order": f"{what}, from {self.start or self.files[0].month}"}
        headers: dict[str, Headers] = {}
        for file in self.files:
            version = file.manifest.month_keys.of_version_in(file.record.key).version
            headers[str(file.month)] = {"month": file.name, "version": version, **ours}
        return headers

    def find_position(self, message: Message, partitions: int) -> Position:
        """Return the position of one of this replay's messages.

        Raises:
            ArgumentError: when it was sent with other options, or the month has another version now.
        """
        key, value, headers = message
        name, _, row = key.rpartition("-")
        month = name.partition("-")[2]
        expected = self.headers(partitions).get(month)
        if headers != expected:
            what = f"the replay {self.name} was begun with other options, or its months were made again since"
            raise ArgumentError(what, expected=str(expected), got=str(headers), fix="use another --name")
        fields, columns = json.loads(value), self._columns()
        step = int(fields["event"] == "ended") if self.pairs else int(self.by == "dropoff")
        at = (step and fields[columns["dropoff_datetime"]]) or fields[columns["pickup_datetime"]]
        return datetime.fromisoformat(at), month, int(row), step

    def events(self, partitions: int, ends: Mapping[int, Position], folder: Path) -> Iterator[Event]:
        """Yield the events after ``ends``, the last position in each partition; ``folder`` is for sorting."""
        contract = self.files[0].contract
        steps = [0, 1] if self.pairs else [int(self.by == "dropoff")]
        first = (self.start or datetime.min, "0001-01", -1, 0)  # noqa: DTZ901
        after = [max(first, ends.get(partition, first)) for partition in range(partitions)]
        cases = " ".join(
            f"WHEN {partition} THEN (TIMESTAMP '{at}', DATE '{month}-01', {row}, {step})"
            for partition, (at, month, row, step) in enumerate(after)
        )
        query = f"""
            SELECT concat('{contract.color}-', month, '-', source_row),
                CASE step WHEN 0 THEN {self._to_json(0)} ELSE {self._to_json(1)} END,
                epoch_ms(event_at), partition, month
            FROM (
                SELECT *, strftime(file_month, '%Y-%m') AS month,
                    coalesce({self.partition_by}, 0) % {partitions} AS partition,
                    coalesce(CASE step WHEN 1 THEN dropoff_datetime END, pickup_datetime) AS event_at
                FROM (SELECT *, unnest({steps}) AS step FROM trips)
                WHERE (event_at, file_month, source_row, step) > CASE partition {cases} END
                    AND event_at < TIMESTAMP '{self.end or datetime.max}'
                ORDER BY event_at, file_month, source_row, step
            )
        """  # noqa: DTZ901
        with duckdb.connect(config=SORTING | {"temp_directory": str(folder)}) as connection:
            # It would be on stdout, among the events.
            connection.execute("SET enable_progress_bar = false")
            batches = chain.from_iterable(file.batches() for file in self.files)
            connection.register("trips", pa.RecordBatchReader.from_batches(contract.clean_schema, batches))
            for batch in connection.sql(query).to_arrow_reader(BATCH_ROWS):
                yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def _columns(self) -> dict[str, str]:
        """Return clean column -> its name in messages. TLC's names are those of its Parquet files, the newest one's."""
        contract, columns = self.files[0].contract, dict[str, str]()
        if self.names == "ours":
            return {name: name for name in contract.clean_schema.names}
        for file in self.files:
            published = list(contract.layout(file.month, "parquet").columns)
            sources = contract.map_columns(published, file.month, "parquet").sources
            columns |= {name: found[0] for name, found in sources.items() if found}
        return columns

    def _to_json(self, step: int) -> str:
        """Return the SQL of the JSON of a trip's start or end."""
        fields = [f"'event': '{('started', 'ended')[step]}'"] if self.pairs else []
        for name, shown in self._columns().items():
            if step or not self.pairs or name in KNOWN_AT_START:
                # JSON has no infinity.
                is_float = pa.types.is_floating(self.files[0].schema.field(name).type)
                fields.append(f"'{shown}': " + (f"CASE WHEN isfinite({name}) THEN {name} END" if is_float else name))
        return f"to_json({{{', '.join(fields)}}})"
