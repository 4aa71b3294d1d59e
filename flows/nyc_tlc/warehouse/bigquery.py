"""BigQuery: one load job a month, straight from the bucket, into the month's partition.

A job's id is made of what it loads and what the ledger says it replaces. Asked for twice, by a retry or by
two runs at once, it is the same job; and a run that dies between the job and the ledger leaves the next one to
find the job done.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pyarrow.parquet as pq
import requests
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.cloud import bigquery
from google.cloud.bigquery.table import PrimaryKey, TableConstraints

from nyc_tlc.errors import ConfigurationError, TlcError, TransientError
from nyc_tlc.lake.clean_file import CleanFile
from nyc_tlc.months import Color, Month
from nyc_tlc.settings import read_settings
from nyc_tlc.warehouse.tables import LOADS, SCHEMA, TRIP_KEY, Table, Type, View, missing_fields
from nyc_tlc.warehouse.warehouse import Kind, Load, Lookup, reconcile

log = logging.getLogger(__name__)

TYPES: dict[Type, str] = {
    "int8": "INTEGER",
    "int16": "INTEGER",
    "int32": "INTEGER",
    "int64": "INTEGER",
    "float64": "FLOAT",
    "string": "STRING",
    "timestamp": "DATETIME",
    "date": "DATE",
    "instant": "TIMESTAMP",
}

FAILURES = (api.GoogleAPIError, auth.GoogleAuthError, requests.RequestException)
TRANSIENT = (
    api.TooManyRequests,
    api.InternalServerError,
    api.BadGateway,
    api.ServiceUnavailable,
    api.GatewayTimeout,
    api.RetryError,
    auth.TransportError,
    requests.ConnectionError,
    requests.Timeout,
)


class BigQueryWarehouse:
    """A warehouse in a BigQuery project: the dataset ``ny_taxi``."""

    kind: Kind = "bigquery"

    def __init__(self, client: bigquery.Client, bucket_location: Callable[[], str] | None = None) -> None:
        """Use a project.

        Args:
            client: A client with the roles ``bigquery.jobUser`` on the project and ``bigquery.dataEditor`` on the
                dataset, or on the project for the dataset to be made.
            bucket_location: Tells where the lake's bucket is: a dataset that is made is made there.
        """
        self._client, self._bucket_location = client, bucket_location
        self.place = f"bigquery://{client.project}/{SCHEMA}"
        self._dataset = bigquery.DatasetReference(client.project, SCHEMA)

    def loads(self) -> dict[tuple[Color, Month], Load]:
        """The months it has."""
        with self._explained("the list of loads"):
            try:
                self._client.get_table(self._dataset.table(LOADS.name))
            except api.NotFound:
                return {}
            return {(load.color, load.month): load for load in self._ledger()}

    def prepare(self, tables: Sequence[Table], lookups: Sequence[Lookup], views: Sequence[View]) -> None:
        """Create what is missing. Trip tables are partitioned by month and clustered by pick-up time."""
        with self._explained("the tables"):
            try:
                self._client.get_dataset(self._dataset)
            except api.NotFound:
                dataset = bigquery.Dataset(self._dataset)
                dataset.location = self._location()
                self._client.create_dataset(dataset, exists_ok=True)
            changed = [self._prepare(table) for table in tables]
            for lookup in lookups:
                if self._found(lookup.table.name) is None:
                    self._replace_lookup(lookup)
            for view in views:
                self._prepare_view(view, anew=any(changed))

    def replace_month(
        self, file: CleanFile, table: Table, flow_run_id: str | None, *, force: bool = False
    ) -> tuple[Load, bool]:
        """Make the month's rows exactly the file's."""
        with self._explained(file.name):
            which = (file.manifest.color, file.month)
            known = next((load for load in self._ledger() if (load.color, load.month) == which), None)
            if known and known.is_of(file) and not force and self._count(file, table) == known.rows:
                return known, False
            job = self._run(file, table, known)
            reconcile(file, self.place, loaded=job.output_rows or 0, found=self._count(file, table))
            load = Load.of(file, job.ended, flow_run_id, job.job_id)
            self._record(load)
        return load, True

    def replace_lookups(self, lookups: Sequence[Lookup]) -> None:
        """Make the lookup tables exactly these rows."""
        with self._explained("the lookups"):
            for lookup in lookups:
                self._replace_lookup(lookup)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a SELECT; tables without a dataset's name in front are not found."""
        with self._explained("a query"):
            return [tuple(row.values()) for row in self._client.query_and_wait(sql)]

    def check(self) -> str:
        """See that it answers, that jobs may be run and tables made, and that dataset and bucket are in one place."""
        with self._explained("a check"):
            self._client.query_and_wait("SELECT 1")
            try:
                dataset = self._client.get_dataset(self._dataset)
            except api.NotFound:
                where = self._location()
                return f"answers; the dataset {SCHEMA} will be made in {where} by the first load"
            scratch = bigquery.Table(self._dataset.table("connection_check"), [bigquery.SchemaField("one", "INTEGER")])
            self._client.create_table(scratch, exists_ok=True)
            self._client.delete_table(scratch, not_found_ok=True)
        bucket = self._bucket_location() if self._bucket_location else dataset.location
        if not _together(dataset.location, bucket):
            raise ConfigurationError(
                f"{self.place} and the lake's bucket are in different places",
                expected=f"a dataset in {bucket}",
                got=dataset.location,
                fix=f"make the bucket in {dataset.location}, or drop the dataset: the first load makes it in {bucket}",
            )
        return f"answers, and tables can be made; the dataset is in {dataset.location}"

    def _location(self) -> str:
        """Where the dataset is to be made: with the bucket, else as configured."""
        return self._bucket_location() if self._bucket_location else read_settings().bigquery_location

    def _at(self, name: str) -> str:
        return f"`{self._dataset.project}.{SCHEMA}.{name}`"

    def _found(self, name: str) -> bigquery.Table | None:
        with contextlib.suppress(api.NotFound):
            return self._client.get_table(self._dataset.table(name))
        return None

    def _prepare(self, table: Table) -> bool:
        """Create or extend a table; whether it was."""
        found = self._found(table.name)
        if found is None:
            made = bigquery.Table(self._dataset.table(table.name), _schema(table))
            made.description = table.description
            made.table_constraints = TableConstraints(PrimaryKey(list(table.key)), None)
            if table.key == TRIP_KEY:
                made.time_partitioning = bigquery.TimePartitioning("MONTH", field="file_month")
                made.clustering_fields = ["pickup_datetime"]
            self._client.create_table(made, exists_ok=True)
            return True
        there = {field.name: _legacy(field.field_type) for field in found.schema}
        gained = missing_fields(table, there, TYPES, self.place)
        if gained:
            names = {field.name for field in gained}
            found.schema = [*found.schema, *(field for field in _schema(table) if field.name in names)]
            self._client.update_table(found, ["schema"])
        return bool(gained)

    def _prepare_view(self, view: View, *, anew: bool) -> None:
        """Create a view, or put another in its place: it is never away, as another load may just stand on it."""
        found = self._found(view.name)
        if found is None:
            made = bigquery.Table(self._dataset.table(view.name))
            made.view_query, made.description = view.sql(self._at), view.description
            self._client.create_table(made, exists_ok=True)
        elif anew or tuple(field.name for field in found.schema) != view.columns:
            self._client.query_and_wait(f"CREATE OR REPLACE VIEW {self._at(view.name)} AS {view.sql(self._at)}")

    def _run(self, file: CleanFile, table: Table, known: Load | None) -> bigquery.LoadJob:
        """Run the month's load job, or find it run: the first of its attempts that did not fail."""
        manifest = file.manifest
        replaces = known.job_id or known.clean_sha256 if known else "nothing"
        what = hashlib.sha256(f"{manifest.clean.sha256} instead of {replaces}".encode()).hexdigest()[:16]
        target = self._dataset.table(f"{table.name}${file.month.year:04d}{file.month.month:02d}")
        config = bigquery.LoadJobConfig(
            source_format=bigquery.SourceFormat.PARQUET,
            schema=_schema(table),
            write_disposition=bigquery.WriteDisposition.WRITE_TRUNCATE,
            create_disposition=bigquery.CreateDisposition.CREATE_NEVER,
            time_partitioning=bigquery.TimePartitioning("MONTH", field="file_month"),
            clustering_fields=["pickup_datetime"],
            labels={
                "color": manifest.color,
                "month": manifest.month,
                "clean_sha256": manifest.clean.sha256[:63],
                "source_sha256": manifest.source.sha256[:63],
            },
        )
        location = self._client.get_dataset(self._dataset).location
        for attempt in range(100):
            job_id = f"nyc_tlc_{manifest.color}_{file.month.year:04d}_{file.month.month:02d}_{what}_{attempt}"
            try:
                job = self._submit(file, target, config, job_id, location)
            except api.Conflict:
                job = cast(bigquery.LoadJob, self._client.get_job(job_id, location=location))
                log.info("%s: the load job %s was already asked for", file.name, job_id)
                if job.done() and job.error_result:
                    continue
            job.result()
            return job
        raise TlcError(f"{file.name}: a hundred load jobs into {self.place} have failed", fix="see their errors")

    def _submit(
        self,
        file: CleanFile,
        target: bigquery.TableReference,
        config: bigquery.LoadJobConfig,
        job_id: str,
        location: str,
    ) -> bigquery.LoadJob:
        if file.url.startswith("gs://"):
            return self._client.load_table_from_uri(
                file.url, target, job_id=job_id, location=location, job_config=config
            )
        with file.open() as source:
            return self._client.load_table_from_file(
                source, target, size=file.manifest.clean.bytes, job_id=job_id, location=location, job_config=config
            )

    def _count(self, file: CleanFile, table: Table) -> int:
        sql = f"SELECT COUNT(*) FROM {self._at(table.name)} WHERE file_month = DATE '{file.month.first_day}'"
        return int(next(iter(self._client.query_and_wait(sql)))[0])

    def _ledger(self) -> list[Load]:
        rows = self._client.query_and_wait(f"SELECT {', '.join(LOADS.names)} FROM {self._at(LOADS.name)}")
        return [Load.from_row(row.values()) for row in rows]

    def _record(self, load: Load) -> None:
        """Write the ledger's row, unless a later job has written it."""
        values = zip(LOADS.fields, load.to_row(), strict=True)
        parameters = [
            bigquery.ScalarQueryParameter(field.name, PARAMETERS.get(TYPES[field.type], TYPES[field.type]), value)
            for field, value in values
        ]
        assignments = ", ".join(f"{name} = @{name}" for name in LOADS.names)
        sql = (
            f"MERGE INTO {self._at(LOADS.name)} t"
            " USING (SELECT @color AS new_color, @file_month AS new_month) s"
            " ON t.color = s.new_color AND t.file_month = s.new_month"
            f" WHEN MATCHED AND t.loaded_at <= @loaded_at THEN UPDATE SET {assignments}"
            f" WHEN NOT MATCHED THEN INSERT ({', '.join(LOADS.names)})"
            f" VALUES ({', '.join(f'@{name}' for name in LOADS.names)})"
        )
        self._client.query_and_wait(sql, job_config=bigquery.QueryJobConfig(query_parameters=parameters))

    def _replace_lookup(self, lookup: Lookup) -> None:
        self._prepare(lookup.table)
        content = io.BytesIO()
        pq.write_table(lookup.rows, content)
        config = bigquery.LoadJobConfig(
            source_format=bigquery.SourceFormat.PARQUET,
            schema=_schema(lookup.table),
            write_disposition=bigquery.WriteDisposition.WRITE_TRUNCATE,
        )
        target = self._dataset.table(lookup.table.name)
        self._client.load_table_from_file(content, target, rewind=True, job_config=config).result()

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn what the client raises into an error that says what to do."""
        try:
            yield
        except FAILURES as error:
            raise _explain(error, what, self.place) from error


#: What query parameters call a type that tables call otherwise.
PARAMETERS = {"INTEGER": "INT64", "FLOAT": "FLOAT64"}


def _schema(table: Table) -> list[bigquery.SchemaField]:
    return [
        bigquery.SchemaField(
            field.name,
            TYPES[field.type],
            mode="REQUIRED" if field.required else "NULLABLE",
            description=field.description,
        )
        for field in table.fields
    ]


def _legacy(kind: str) -> str:
    """The one of a type's two names that ``TYPES`` has."""
    return {"INT64": "INTEGER", "FLOAT64": "FLOAT"}.get(kind, kind)


def _together(dataset: str, bucket: str) -> bool:
    """Whether BigQuery loads from a bucket into a dataset: from the same place, any into US, Europe's into EU."""
    dataset, bucket = dataset.upper(), bucket.upper()
    return dataset == bucket or dataset == "US" or (dataset == "EU" and bucket.startswith("EUROPE-"))


def _explain(error: Exception, what: str, place: str) -> TlcError:
    """What a client's error means for a person."""
    told = str(error.args[0] if isinstance(error, auth.RefreshError) and error.args else error)
    told = told.partition("\n")[0][:300]
    if isinstance(error, TRANSIENT) or "rateLimitExceeded" in told:
        return TransientError(f"{what}: {place} did not answer", got=told, fix="try again later")
    if isinstance(error, auth.GoogleAuthError | api.Unauthorized):
        fix = "see to the profile's gcp-credentials"
        return ConfigurationError(f"{what}: the credentials for {place} are refused", got=told, fix=fix)
    if isinstance(error, api.Forbidden):
        return ConfigurationError(
            f"{what}: a right is missing in {place}",
            got=told,
            fix=f"grant roles/bigquery.jobUser on the project and roles/bigquery.dataEditor on the dataset {SCHEMA}",
        )
    return TlcError(f"{what}: {place} failed; the old rows stay", got=told)
