"""BigQuery: load jobs into the month's partitions, of its trips straight from the bucket, and last of its ledger's row.

No statement changes anything: BigQuery queues those, and needs billing for them.
"""

from __future__ import annotations

import contextlib
import logging
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from google.api_core import exceptions as api
from google.cloud import bigquery
from google.cloud.bigquery.table import PrimaryKey, TableConstraints

from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import ConfigurationError, TlcError
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import COLORS, Color, Month
from nyc_tlc.settings import DEFAULT_SCHEMA, read_settings
from nyc_tlc.warehouse.bigquery_errors import ENABLE_BILLING, FAILURES, explain
from nyc_tlc.warehouse.bigquery_jobs import TYPES, MonthJobs, ParquetFile, job_config, next_turn, schema, set_partitions
from nyc_tlc.warehouse.bigquery_locations import can_load, list_places
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.protocol import Kind, Load, Lookup, reconcile
from nyc_tlc.warehouse.tables import LOADS, TRIP_KEY, Table, View, missing_fields, to_arrow, trip_table

log = logging.getLogger(__name__)

#: The ledger is a table for each colour, partitioned by month as the trips are; ``loads`` shows them together.
LEDGERS: dict[Color, Table] = {color: replace(LOADS, name=f"{color}_loads", key=("file_month",)) for color in COLORS}

OLD_ROWS_STAY = "the old rows stay"
JOB_IS_IN_DOUBT = "its load job may still finish; load the month again to find out"
LEDGER_LACKS_ROWS = "the new rows are in the table, but the month's row of loads is missing; load the month again"

MILLISECONDS_OF_DAY = 86_400_000


class BigQueryWarehouse:
    """A warehouse in a BigQuery project: a dataset, which is its schema."""

    kind: Kind = "bigquery"

    def __init__(
        self, client: bigquery.Client, bucket_location: Callable[[], str] | None = None, schema: str = DEFAULT_SCHEMA
    ) -> None:
        """Use a dataset of a project.

        Args:
            client: A client with the roles ``bigquery.jobUser`` on the project and ``bigquery.dataEditor`` on the
                dataset; on the project if the dataset does not exist yet.
            bucket_location: Returns the location of the lake's bucket, or its two regions with a ``+`` between; a
                missing dataset is created there, and loads from elsewhere are refused.
        """
        self._client, self._bucket_location, self.schema = client, bucket_location, schema
        self.place = f"bigquery://{client.project}/{schema}"
        self._dataset = bigquery.DatasetReference(client.project, schema)

    def loads(self) -> dict[tuple[Color, Month], Load]:
        with self._translate_errors("the list of loads"):
            return self._read_ledger(LOADS.name) if self._find_table(LOADS.name) else {}

    def find_location(self) -> str:
        """Return the dataset's location.

        Raises:
            TlcError: when there is no dataset yet, or BigQuery does not answer.
        """
        with self._translate_errors("the location of the tables"):
            return str(self._client.get_dataset(self._dataset).location)

    def prepare(self, tables: Sequence[Table], lookups: Sequence[Lookup], views: Sequence[View]) -> None:
        """Create what is missing. Trip tables are partitioned by month and clustered by pick-up time."""
        with self._translate_errors("the tables"):
            self._prepare_dataset()
            own = [table for table in tables if table != LOADS]
            if LOADS in tables:
                own, views = [*own, *LEDGERS.values()], [self._view_ledgers(), *views]
            changed = [self._prepare(table) for table in own]
            for lookup in lookups:
                if self._find_table(lookup.table.name) is None:
                    self._replace_lookup(lookup)
            for view in views:
                self._prepare_view(view, anew=any(changed))

    def replace_month(self, file: LakeFile, flow_run_id: str | None, *, force: bool = False) -> tuple[Load, bool]:
        """Replace the month's rows by those of the files: one load job for each file, then one for the ledger's row.

        If the job of the trips fails, the old rows stay. If a later step fails, the new rows are there without their
        row of ``loads``, and the error says so; the next load of the month finds the finished job.
        """
        color, month = file.manifest.color, file.month
        trips, quarantine, ledger = file.table, file.quarantine.table, LEDGERS[color]
        with self._translate_errors(file.name, OLD_ROWS_STAY):
            known = self._read_ledger(ledger.name, month).get((color, month))
            if known and known.is_of(file.manifest) and not force:
                counts = (self._count(trips, month), self._count(quarantine, month))
                if counts == (known.row_count, known.quarantine_rows):
                    return known, False
            jobs, first = self._month_jobs(file, ledger), next_turn(known)
        with self._translate_errors(file.name, OLD_ROWS_STAY, in_doubt=JOB_IS_IN_DOUBT):
            job, turn = jobs.load_trips(trips, file, first, partial(self._count, trips, month))
        with self._translate_errors(file.name, LEDGER_LACKS_ROWS):
            self._reconcile(job, file)
            turns, rejected = range(first, turn + 1), ParquetFile.of_month(file.quarantine)
            self._reconcile(jobs.load_in_turn(quarantine, rejected, turns), file.quarantine)
            load = Load.of(file, job.ended, flow_run_id, job.job_id)
            jobs.load_in_turn(ledger, ParquetFile.of_rows(to_arrow([load.to_row()], ledger)), turns)
        return load, True

    def _reconcile(self, job: bigquery.LoadJob, file: LakeFile) -> None:
        counted = {"loaded": job.output_rows or 0, "found": self._count(file.table, file.month)}
        if counted["found"] == 0 < file.rows == counted["loaded"]:
            raise ConfigurationError(
                f"{file.name}: {self.place}: the rows vanished as they were loaded, because the partitions of"
                f" {file.table.name} expire",
                expected=f"{file.rows:,}",
                got="0",
                fix=ENABLE_BILLING,
            )
        reconcile(
            file, self.place, outcome="the month's table differs from the lake's file; load the month again", **counted
        )

    def replace_lookups(self, lookups: Sequence[Lookup]) -> None:
        with self._translate_errors("the lookups"):
            for lookup in lookups:
                self._replace_lookup(lookup)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a SELECT. Table names need the dataset."""
        with self._translate_errors("a query"):
            return [tuple(row.values()) for row in self._client.query_and_wait(sql)]

    def check(self, lake: Lake) -> str:
        """Load one row from the lake into a scratch table and a scratch ledger, as a real load does; drop both."""
        name = f"connection_check_{uuid.uuid4().hex}"
        with self._translate_errors("a check"), contextlib.ExitStack() as scratch:
            self._client.query_and_wait("SELECT 1")
            location, made = self._prepare_dataset(scratch)
            trips = replace(trip_table(read_contract("green")), name=name)
            ledger = replace(LEDGERS["green"], name=f"{name}_loads")
            for table in (ledger, trips):
                scratch.callback(self._client.delete_table, self._dataset.table(table.name), not_found_ok=True)
                self._prepare(table)
            month = Month(2024, 1)
            nulls = [None] * (len(trips.fields) - len(TRIP_KEY))
            row = ParquetFile.of_rows(to_arrow([(*nulls, month.first_day, 0)], trips))
            key, content = f"scratch/{name}.parquet", row.open().read()
            scratch.callback(lake.remove, key)
            lake.write(key, content)
            jobs = MonthJobs(self._client, self._dataset, month, 0, {}, location)
            job = jobs.load_in_turn(trips, replace(row, url=lake.url(key)), range(1))
            load = Load(
                "green", month, job.output_rows or 0, 1, 0, "none", "none", datetime.now(UTC), job_id=job.job_id
            )
            jobs.load_in_turn(ledger, ParquetFile.of_rows(to_arrow([load.to_row()], ledger)), range(1))
            found = self._read_ledger(ledger.name, month)
            if (self._count(trips, month), found) != (1, {("green", month): load}):
                raise TlcError(f"a check: {self.place} returned other rows than were written")
        where = f"will be made in {location} by the first load" if made else f"is in {location}"
        return f"answers, and tables can be made; a row was loaded from {lake.url('')}; the dataset {where}"

    def _prepare_dataset(self, scratch: contextlib.ExitStack | None = None) -> tuple[str, bool]:
        """Create the dataset if it is missing, and check that loads into it are possible and stay.

        Returns:
            Its location, and whether it was created.

        Raises:
            ConfigurationError: when BigQuery can't load from the bucket into it, or its tables expire.
        """
        bucket, made = self._bucket_location().upper() if self._bucket_location else None, False
        best = list_places(bucket)[0] if bucket else read_settings().bigquery_location
        try:
            dataset = self._client.get_dataset(self._dataset)
        except api.NotFound:
            dataset = bigquery.Dataset(self._dataset)
            dataset.location = best
            dataset, made = self._client.create_dataset(dataset, exists_ok=True), True
            if scratch:
                scratch.callback(self._client.delete_dataset, self._dataset, not_found_ok=True)
        if expiration := dataset.default_partition_expiration_ms or dataset.default_table_expiration_ms:
            days = f"{expiration / MILLISECONDS_OF_DAY:g} days"
            raise ConfigurationError(
                f"{self.place}: tables and partitions expire after {days}, so older months vanish as they are loaded",
                fix=ENABLE_BILLING,
            )
        location = str(dataset.location)
        if bucket and not can_load(location.upper(), bucket):
            raise ConfigurationError(
                f"{self.place} and the lake's bucket are in different places",
                expected=f"a dataset in {best}",
                got=location,
                fix=f"make the bucket in {location}, or drop the dataset: the first load makes it in {best}",
            )
        return location, made

    def _view_ledgers(self) -> View:
        """Return the view ``loads`` over the ledgers of all colours."""
        ledgers = (f"SELECT {', '.join(LOADS.names)} FROM {self.schema}.{each.name}" for each in LEDGERS.values())
        return View(LOADS.name, LOADS.description, LOADS.comments, " UNION ALL ".join(ledgers))

    def _qualify(self, sql: str) -> str:
        """Add the project to the names of tables."""
        return re.sub(rf"\b{self.schema}\.(\w+)", rf"`{self._dataset.project}.{self.schema}.\1`", sql)

    def _find_table(self, name: str) -> bigquery.Table | None:
        with contextlib.suppress(api.NotFound):
            return self._client.get_table(self._dataset.table(name))
        return None

    def _prepare(self, table: Table) -> bool:
        """Create a table, or add its missing columns. Return whether the table changed."""
        found = self._find_table(table.name)
        if found is None:
            made = bigquery.Table(self._dataset.table(table.name), schema(table))
            made.description = table.description
            made.table_constraints = TableConstraints(PrimaryKey(list(table.key)), None)
            set_partitions(made, table)
            self._client.create_table(made, exists_ok=True)
            return True
        there = {field.name: _name_type(field) for field in found.schema}
        gained = missing_fields(table, there, TYPES, self.place)
        if gained:
            names = {field.name for field in gained}
            found.schema = [*found.schema, *(field for field in schema(table) if field.name in names)]
            self._client.update_table(found, ["schema"])
        return bool(gained)

    def _prepare_view(self, view: View, *, anew: bool) -> None:
        """Create or replace a view. It is never dropped first, because another load may be using it."""
        found = self._find_table(view.name)
        made = bigquery.Table(self._dataset.table(view.name))
        made.view_query, made.description = self._qualify(view.sql), view.description
        if found is None:
            made = self._client.create_table(made, exists_ok=True)
        elif anew or tuple(field.name for field in found.schema) != view.columns:
            made = self._client.update_table(made, ["view_query", "description"])
        else:
            return
        # Only a view that is there has columns that can be described.
        described = [field.to_api_repr() | {"description": view.comments[field.name]} for field in made.schema]
        made.schema = [bigquery.SchemaField.from_api_repr(field) for field in described]
        self._client.update_table(made, ["schema"])

    def _month_jobs(self, file: LakeFile, ledger: Table) -> MonthJobs:
        manifest, there = file.manifest, self._client.get_table(self._dataset.table(ledger.name))
        labels = {
            "color": manifest.color,
            "month": manifest.month,
            "clean_sha256": manifest.clean.sha256[:63],
            "source_sha256": manifest.source.sha256[:63],
        }
        era = int(there.created.timestamp() * 1000)
        return MonthJobs(self._client, self._dataset, file.month, era, labels, str(there.location))

    def _count(self, table: Table, month: Month) -> int:
        sql = f"SELECT COUNT(*) FROM {self.schema}.{table.name} WHERE file_month = DATE '{month.first_day}'"
        return int(next(iter(self._client.query_and_wait(self._qualify(sql))))[0])

    def _read_ledger(self, name: str, month: Month | None = None) -> dict[tuple[Color, Month], Load]:
        """Return the loads of a month, or all."""
        only = f" WHERE file_month = DATE '{month.first_day}'" if month else ""
        # An older table has the first of the columns.
        sql = self._qualify(f"SELECT * FROM {self.schema}.{name}{only}")
        return {
            (load.color, load.month): load
            for load in (Load.from_row(row.values()) for row in self._client.query_and_wait(sql))
        }

    def _replace_lookup(self, lookup: Lookup) -> None:
        self._prepare(lookup.table)
        content = ParquetFile.of_rows(lookup.rows).open()
        target = self._dataset.table(lookup.table.name)
        config = job_config(lookup.table)
        self._client.load_table_from_file(content, target, rewind=True, job_config=config).result()

    @contextlib.contextmanager
    def _translate_errors(self, what: str, outcome: str = "", in_doubt: str | None = None) -> Iterator[None]:
        """Translate the client's errors into errors that say what to do.

        Args:
            outcome: The state of the data if BigQuery refused it.
            in_doubt: The state of the data if BigQuery did not answer; ``outcome`` if left out.
        """
        try:
            yield
        except FAILURES as error:
            raise explain(error, what, self.place, outcome, outcome if in_doubt is None else in_doubt) from error


def _name_type(field: bigquery.SchemaField) -> str:
    """Return GoogleSQL's name of a column's type; the API uses older ones."""
    kind = {"INTEGER": "INT64", "FLOAT": "FLOAT64"}.get(field.field_type, field.field_type)
    return f"ARRAY<{kind}>" if field.mode == "REPEATED" else kind
