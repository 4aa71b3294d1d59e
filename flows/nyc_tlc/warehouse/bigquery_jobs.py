"""BigQuery's load jobs of a month: each replaces the month's partition of one table.

A load job is atomic, and its id can be used only once. The loads of a month take turns, which count up in the ids: two
runs of a month at the same time ask for the same job and share its result, and a run that finds the job of a run that
died continues from there.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
from google.api_core import exceptions as api
from google.api_core import retry
from google.cloud import bigquery

from nyc_tlc.contract import types
from nyc_tlc.month import Month
from nyc_tlc.warehouse.bigquery_errors import TRANSIENT
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.protocol import Load
from nyc_tlc.warehouse.tables import Table

log = logging.getLogger(__name__)

TYPES = {kind: names.bigquery for kind, names in types.TYPES.items()}
#: Right after a job id was refused as taken, BigQuery may not find that job yet (python-bigquery #2134).
NEW_JOB_RETRY = retry.Retry(retry.if_exception_type(api.NotFound, *TRANSIENT), initial=0.1, maximum=5, timeout=30)


@dataclass(frozen=True)
class ParquetFile:
    """A Parquet file for a load job. BigQuery reads it from its bucket; a file elsewhere is uploaded."""

    url: str
    size: int
    open: Callable[[], BinaryIO]

    @classmethod
    def of_month(cls, file: LakeFile) -> ParquetFile:
        return cls(file.url, file.record.bytes, file.open)

    @classmethod
    def of_rows(cls, rows: pa.Table) -> ParquetFile:
        file = io.BytesIO()
        pq.write_table(rows, file)
        return cls("", len(file.getvalue()), lambda: io.BytesIO(file.getvalue()))


@dataclass(frozen=True)
class MonthJobs:
    """The load jobs of a month, for all of its tables.

    Attributes:
        era: When its ledger was made, in milliseconds: ids of jobs outlive their tables.
    """

    client: bigquery.Client
    dataset: bigquery.DatasetReference
    month: Month
    era: int
    labels: dict[str, str]
    location: str

    def load_trips(
        self, trips: Table, file: LakeFile, first: int, count: Callable[[], int]
    ) -> tuple[bigquery.LoadJob, int]:
        """Load the month's trips in the first turn that is free, or find that another run just did.

        The job of another run is accepted if it is the last one, loaded this very file, and the partition has the
        file's rows.

        Returns:
            The job, and its turn.
        """
        source, turn = ParquetFile.of_month(file), first
        while True:
            job, is_ours = self._load_once(trips, source, turn)
            if is_ours or (job.labels == self.labels and not self._is_taken(trips, turn + 1) and count() == file.rows):
                return job, turn
            turn += 1

    def load_in_turn(self, table: Table, source: ParquetFile, turns: Sequence[int]) -> bigquery.LoadJob:
        """Load the month's rows of another table in the turn of its trips, which is the last of the turns.

        The turns before it are taken too if nobody has taken them. So no load can write after one with a later turn.
        """
        return [self._load_once(table, source, turn)[0] for turn in turns][-1]

    def _load_once(self, table: Table, source: ParquetFile, turn: int) -> tuple[bigquery.LoadJob, bool]:
        """Run the load job of a turn, or wait for the one that another run submitted; a failed one leaves the turn.

        Returns:
            The job that succeeded, and whether this run submitted it.
        """
        attempt = 0
        while True:
            job_id = self._id(table, turn, attempt)
            try:
                job = self._submit(source, table, job_id)
            except api.Conflict:
                log.info("%s %s: the load job %s was already submitted", table.name, self.month, job_id)
            else:
                job.result()
                return job, True
            found = cast(bigquery.LoadJob, self.client.get_job(job_id, location=self.location, retry=NEW_JOB_RETRY))
            try:
                found.result()
                return found, False
            except api.GoogleAPICallError:
                if not found.error_result:
                    raise
            attempt += 1

    def _is_taken(self, table: Table, turn: int) -> bool:
        try:
            self.client.get_job(self._id(table, turn), location=self.location)
        except api.NotFound:
            return False
        return True

    def _submit(self, source: ParquetFile, table: Table, job_id: str) -> bigquery.LoadJob:
        """Submit a load job that replaces a month's partition.

        Raises:
            Conflict: when a job with this id exists.
        """
        target = self.dataset.table(f"{table.name}${self.month.year:04d}{self.month.month:02d}")
        config = job_config(table)
        config.create_disposition = bigquery.CreateDisposition.CREATE_NEVER
        config.labels = self.labels
        if source.url.startswith("gs://"):
            return self.client.load_table_from_uri(
                source.url, target, job_id=job_id, location=self.location, job_config=config
            )
        with source.open() as content:
            return self.client.load_table_from_file(
                content, target, size=source.size, job_id=job_id, location=self.location, job_config=config
            )

    def _id(self, table: Table, turn: int, attempt: int = 0) -> str:
        return f"nyc_tlc_{table.name}_{self.month}_{self.era}_{turn}_{attempt}"


def next_turn(known: Load | None) -> int:
    """Return the turn after that of a load."""
    return int(known.job_id.split("_")[-2]) + 1 if known and known.job_id else 0


def job_config(table: Table) -> bigquery.LoadJobConfig:
    """Return the configuration of a job that replaces a table, or one of its partitions, by a Parquet file."""
    parquet_options = bigquery.ParquetOptions()  # type: ignore[no-untyped-call]
    # Without this, BigQuery would read a Parquet list as nested records and not as an array.
    parquet_options.enable_list_inference = True
    config = bigquery.LoadJobConfig(
        source_format=bigquery.SourceFormat.PARQUET,
        schema=schema(table),
        write_disposition=bigquery.WriteDisposition.WRITE_TRUNCATE,
    )
    config.parquet_options = parquet_options
    set_partitions(config, table)
    return config


def schema(table: Table) -> list[bigquery.SchemaField]:
    """Return a table's columns for BigQuery."""
    return [
        bigquery.SchemaField(
            field.name,
            TYPES[field.type].removeprefix("ARRAY<").removesuffix(">"),
            mode="REPEATED" if field.type == "strings" else "REQUIRED" if field.required else "NULLABLE",
            description=field.description,
        )
        for field in table.fields
    ]


def set_partitions(of: bigquery.Table | bigquery.LoadJobConfig, table: Table) -> None:
    """Partition what has months by month, and cluster what has trips by pick-up time."""
    if "file_month" in table.names:
        of.time_partitioning = bigquery.TimePartitioning("MONTH", field="file_month")
    if "pickup_datetime" in table.names:
        of.clustering_fields = ["pickup_datetime"]
