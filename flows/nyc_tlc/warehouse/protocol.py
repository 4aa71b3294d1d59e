"""The protocol of a warehouse. A load replaces a month's rows by those of the lake's file, or changes nothing.

Three modules implement it: ``duckdb``, ``postgres`` and ``bigquery``. The table ``loads`` lists the loaded months:
DuckDB and Postgres write it in one transaction with the rows, BigQuery after the load job.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TypeVar

import pyarrow as pa

from nyc_tlc.errors import BusyError, ReconciliationError
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Color, Month
from nyc_tlc.settings import read_settings
from nyc_tlc.source.location import source_kind
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.tables import Table, View

log = logging.getLogger(__name__)

T = TypeVar("T")

Kind = Literal["duckdb", "postgres", "bigquery"]


@dataclass(frozen=True)
class Load:
    """A month in a warehouse: a row of ``loads``, whose columns ``tables.LOADS`` describes."""

    color: Color
    month: Month
    row_count: int
    source_rows: int | None
    quarantine_rows: int | None
    clean_sha256: str
    source_sha256: str
    loaded_at: datetime
    flow_run_id: str | None = None
    job_id: str | None = None
    source_kind: str | None = None
    source_url: str | None = None
    version: str | None = None

    @classmethod
    def of(cls, file: LakeFile, loaded_at: datetime, flow_run_id: str | None, job_id: str | None = None) -> Load:
        """Return the row for a file that was loaded."""
        manifest = file.manifest
        return cls(
            color=manifest.color,
            month=file.month,
            row_count=manifest.clean.rows,
            source_rows=manifest.source.rows,
            quarantine_rows=manifest.quarantine.rows,
            clean_sha256=manifest.clean.sha256,
            source_sha256=manifest.source.sha256,
            loaded_at=loaded_at,
            flow_run_id=flow_run_id,
            job_id=job_id,
            source_kind=source_kind(manifest.source.url),
            source_url=manifest.source.url,
            version=manifest.version,
        )

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Load:
        """Read a row of ``loads`` with the columns in order."""
        color, first_day, *rest = row
        values: list[Any] = [_in_utc(value) if isinstance(value, datetime) else value for value in rest]
        return cls(color, Month(first_day.year, first_day.month), *values)

    def to_row(self) -> tuple[Any, ...]:
        """Return the row of ``loads`` with the columns in order."""
        color, month, *rest = (getattr(self, field.name) for field in fields(self))
        return color, month.first_day, *rest

    def is_of(self, manifest: Manifest) -> bool:
        """Return whether exactly the files of this manifest were loaded."""
        return (self.clean_sha256, self.quarantine_rows) == (manifest.clean.sha256, manifest.quarantine.rows)


@dataclass(frozen=True)
class Lookup:
    """A small table and all its rows."""

    table: Table
    rows: pa.Table


class Warehouse(Protocol):
    """A database that months are loaded into and queried in.

    Attributes:
        place: Its address for messages, without secrets.
        schema: The schema or dataset of its tables.
    """

    kind: Kind
    place: str
    schema: str

    def loads(self) -> dict[tuple[Color, Month], Load]:
        """Return the loaded months; none if the tables do not exist yet."""

    def prepare(self, tables: Sequence[Table], lookups: Sequence[Lookup], views: Sequence[View]) -> None:
        """Create missing tables, columns, lookup tables with their rows, and views.

        Raises:
            ContractError: when a table there has an unknown column or another type.
        """

    def replace_month(self, file: LakeFile, flow_run_id: str | None, *, force: bool = False) -> tuple[Load, bool]:
        """Replace the month's rows in the prepared tables of trips and of quarantine by those of the lake's files.

        Returns:
            The month's row of ``loads``, and whether it is new: a file that is loaded already is only loaded by force.

        Raises:
            ReconciliationError: when the row counts differ.
            TransientError: when a later attempt can succeed.
            ConfigurationError: when a permission or a block is missing.
        """

    def replace_lookups(self, lookups: Sequence[Lookup]) -> None:
        """Replace all rows of the lookup tables."""

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a SELECT."""

    def check(self, lake: Lake) -> str:
        """Check that the user has the permissions that loads from a lake need. Return a message about what works.

        Raises:
            ConfigurationError: when something is missing; it says what to do.
        """


#: Warehouse -> month -> its row of ``loads``.
Loads = Mapping[Kind, Mapping[tuple[Color, Month], Load]]


class Patience:
    """How long a warehouse still waits for its other users: TLC_WAREHOUSE_WAIT for all of its waits together."""

    def __init__(self) -> None:
        self._waited = 0.0

    def repeat(self, attempt: Callable[[], T], pauses: tuple[float, float]) -> T:
        """Return what ``attempt`` returns. While it raises a BusyError, try again after a pause.

        Args:
            pauses: The shortest and the longest pause, in seconds.

        Raises:
            BusyError: when no time is left.
        """
        began, seconds = time.monotonic(), read_settings().warehouse_wait - self._waited
        warned = False
        try:
            while True:
                try:
                    return attempt()
                except BusyError as error:
                    pause = random.uniform(*pauses)  # noqa: S311  nothing secret
                    if time.monotonic() + pause > began + seconds:
                        spent = f"still so after {read_settings().warehouse_wait:g} seconds (TLC_WAREHOUSE_WAIT)"
                        raise BusyError(error.what, got=spent, fix=error.fix) from error.__cause__
                    if not warned:
                        log.warning("%s; waiting for up to %.0f seconds", error.what, seconds)
                    warned = True
                    time.sleep(pause)
        finally:
            self._waited += time.monotonic() - began


def _in_utc(moment: datetime) -> datetime:
    """Return a time in UTC. One without a zone is in UTC already: DuckDB stores it so."""
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def reconcile(file: LakeFile, place: str, *, outcome: str = "the month there stays as it was", **counted: int) -> None:
    """Check that every count equals the manifest's number of rows.

    Args:
        outcome: The state of the month there if a count differs.
        **counted: How the rows were counted -> their number.

    Raises:
        ReconciliationError: naming the count that differs.
    """
    for who, rows in counted.items():
        if rows != file.rows:
            raise ReconciliationError(
                f"{file.name}: {place}: the number of rows {who} differs from the manifest; {outcome}",
                expected=f"{file.rows:,}",
                got=f"{rows:,}",
            )
