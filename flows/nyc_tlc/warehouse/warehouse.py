"""The warehouse: a month's rows there are exactly the lake file's, or what they were before.

Three modules implement one protocol: ``duckdb``, ``postgres`` and ``bigquery``. The table ``loads`` says what
is in the warehouse: DuckDB and Postgres write it in one transaction with the rows, BigQuery after the load job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, get_args

import pyarrow as pa

from nyc_tlc.errors import ReconciliationError
from nyc_tlc.lake.clean_file import CleanFile
from nyc_tlc.lake.lake import Lake
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.months import Color, Month
from nyc_tlc.source.location import source_kind
from nyc_tlc.warehouse.tables import Table, View

Kind = Literal["duckdb", "postgres", "bigquery"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Load:
    """A month in a warehouse: a row of ``loads``.

    Attributes:
        color: The colour.
        month: The month.
        row_count: How many rows it has.
        source_rows: How many the source file has; None if an earlier version loaded it.
        quarantine_rows: How many of them are in the quarantine table; None if an earlier version loaded it.
        clean_sha256: The digest of the lake's clean file.
        source_sha256: The digest of the source file that was made of.
        loaded_at: When, in UTC.
        flow_run_id: Which flow run did it.
        job_id: BigQuery's load job.
        source_kind: The kind of source.
        source_url: The source file's URL, without what can be secret.
    """

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

    @classmethod
    def of(cls, file: CleanFile, loaded_at: datetime, flow_run_id: str | None, job_id: str | None = None) -> Load:
        """The row that says a file was loaded."""
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
        )

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Load:
        """Read a row of ``loads``, its columns in order."""
        values: list[Any] = [_in_utc(value) if isinstance(value, datetime) else value for value in row]
        color, file_month, *rest = values
        return cls(color, Month(file_month.year, file_month.month), *rest)

    def to_row(self) -> tuple[Any, ...]:
        """The row of ``loads``, its columns in order."""
        return (
            self.color,
            self.month.first_day,
            self.row_count,
            self.source_rows,
            self.quarantine_rows,
            self.clean_sha256,
            self.source_sha256,
            self.loaded_at,
            self.flow_run_id,
            self.job_id,
            self.source_kind,
            self.source_url,
        )

    def is_of(self, manifest: Manifest) -> bool:
        """Whether this is the load of just that month's files."""
        return (self.clean_sha256, self.quarantine_rows) == (manifest.clean.sha256, manifest.quarantine.rows)


@dataclass(frozen=True)
class Lookup:
    """A small table and all its rows."""

    table: Table
    rows: pa.Table


class Warehouse(Protocol):
    """Where months are queried.

    Attributes:
        kind: Which of the three.
        place: Where it is, for people, without secrets.
    """

    kind: Kind
    place: str

    def loads(self) -> dict[tuple[Color, Month], Load]:
        """The months it has; none when it has no tables yet."""

    def prepare(self, tables: Sequence[Table], lookups: Sequence[Lookup], views: Sequence[View]) -> None:
        """Create what is missing: tables, columns that tables have yet to gain, lookups with their rows, views.

        Raises:
            ContractError: when a table there differs otherwise.
        """

    def replace_month(self, file: CleanFile, flow_run_id: str | None, *, force: bool = False) -> tuple[Load, bool]:
        """Make the month's rows in the prepared tables of trips and of quarantine exactly those of the lake's files.

        Args:
            file: The month in the lake.
            flow_run_id: The flow run at work.
            force: Whether to load a file that is already loaded.

        Returns:
            The month's row of ``loads``, and whether it is new.

        Raises:
            ReconciliationError: when the counts don't agree.
            TransientError: when time can heal it.
            ConfigurationError: when a right or a block is missing.
        """

    def replace_lookups(self, lookups: Sequence[Lookup]) -> None:
        """Make the lookup tables exactly these rows."""

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a SELECT."""

    def check(self, lake: Lake) -> str:
        """See that loads are possible: an answer to ``SELECT 1`` and the rights that a load needs.

        Args:
            lake: Where loads come from.

        Returns:
            What was found to be fine.

        Raises:
            ConfigurationError: naming the one thing to do.
        """


def _in_utc(moment: datetime) -> datetime:
    """A moment in UTC; one without a zone is in UTC already, as DuckDB keeps them."""
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def reconcile(file: CleanFile, place: str, *, outcome: str = "the month there stays as it was", **counted: int) -> None:
    """See that everyone counted the manifest's rows.

    Args:
        file: The month in the lake.
        place: The warehouse, for people.
        outcome: What the warehouse has if the counts don't agree.
        **counted: What was counted, and how many.

    Raises:
        ReconciliationError: naming who did not.
    """
    for who, rows in counted.items():
        if rows != file.rows:
            raise ReconciliationError(
                f"{file.name}: {place}: rows {who} are not the manifest's; {outcome}",
                expected=f"{file.rows:,}",
                got=f"{rows:,}",
            )
