"""BigQuery: one load job a month, straight from the bucket, into the month's partition; then its row of ``loads``.

A load job is atomic, and its id can be used only once. The id is made from the month's row of ``loads``: two runs of a
month at the same time ask for the same job and share its result, and a run that finds the job of a run that died
continues from there.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import itertools
import logging
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
import requests
from google.api_core import exceptions as api
from google.api_core import retry
from google.auth import exceptions as auth
from google.cloud import bigquery
from google.cloud.bigquery.table import PrimaryKey, TableConstraints

from nyc_tlc.errors import ConfigurationError, LakeError, TlcError, TransientError, first_line
from nyc_tlc.lake.clean_file import CleanFile
from nyc_tlc.lake.lake import Lake
from nyc_tlc.months import Color, Month
from nyc_tlc.settings import read_settings
from nyc_tlc.warehouse.tables import (
    LOADS,
    SCHEMA,
    TRIP_KEY,
    Field,
    Table,
    Type,
    View,
    missing_fields,
    quarantine_table,
    renamed_fields,
    trip_table,
)
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
    "strings": "STRING",
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


#: What BigQuery answers when others write ``loads`` at the same time: two statements run, twenty wait.
LEDGER_IS_BUSY = ("Could not serialize access", "Too many DML statements outstanding")
#: Right after a job id was refused as taken, BigQuery may not find that job yet (python-bigquery #2134).
NEW_JOB_RETRY = retry.Retry(retry.if_exception_type(api.NotFound, *TRANSIENT), initial=0.1, maximum=5, timeout=30)

OLD_ROWS_STAY = "the old rows stay"
JOB_IS_IN_DOUBT = "its load job may still finish; load the month again to find out"
LEDGER_LACKS_ROWS = "the new rows are in the table, but the month's row of loads is missing; load the month again"

ENABLE_BILLING = (
    f"enable billing for the project (the free tier stays), clear the expirations of the dataset {SCHEMA}, and drop its"
    " tables, which keep the old ones"
)

MILLISECONDS_OF_DAY = 86_400_000

#: The locations of multi-regions begin with this.
MULTI_REGIONS = {"US": "US-", "EU": "EUROPE-", "ASIA": "ASIA-"}
#: Where datasets can be for buckets in a location that datasets can't have; the first is for a new dataset.
DATASET_LOCATIONS = {
    "ASIA": ("ASIA-NORTHEAST1",),
    "ASIA1": ("ASIA-NORTHEAST1", "ASIA-NORTHEAST2"),
    "EUR4": ("EUROPE-WEST4", "EUROPE-NORTH1"),
    "EUR5": ("EUROPE-WEST1", "EUROPE-WEST2"),
    "EUR7": ("EUROPE-WEST3", "EUROPE-WEST2"),
    "EUR8": ("EUROPE-WEST3", "EUROPE-WEST6"),
    "NAM4": ("US-CENTRAL1", "US-EAST1"),
}


@dataclass(frozen=True)
class _ParquetFile:
    """A Parquet file for a load job. BigQuery reads it from its bucket; a file elsewhere is uploaded."""

    url: str
    size: int
    open: Callable[[], BinaryIO]


class BigQueryWarehouse:
    """A warehouse in a BigQuery project: the dataset ``ny_taxi``."""

    kind: Kind = "bigquery"

    def __init__(self, client: bigquery.Client, bucket_location: Callable[[], str] | None = None) -> None:
        """Use a project.

        Args:
            client: A client with the roles ``bigquery.jobUser`` on the project and ``bigquery.dataEditor`` on the
                dataset; on the project if the dataset does not exist yet.
            bucket_location: Returns the location of the lake's bucket, or its two regions with a ``+`` between; a
                missing dataset is created there, and loads from elsewhere are refused.
        """
        self._client, self._bucket_location = client, bucket_location
        self.place = f"bigquery://{client.project}/{SCHEMA}"
        self._dataset = bigquery.DatasetReference(client.project, SCHEMA)

    def loads(self) -> dict[tuple[Color, Month], Load]:
        """Return the loaded months."""
        with self._translate_errors("the list of loads"):
            found = self._find_table(LOADS.name)
            return self._read_ledger(LOADS, [field.name for field in found.schema]) if found else {}

    def prepare(self, tables: Sequence[Table], lookups: Sequence[Lookup], views: Sequence[View]) -> None:
        """Create what is missing. Trip tables are partitioned by month and clustered by pick-up time."""
        with self._translate_errors("the tables"):
            self._prepare_dataset()
            changed = [self._prepare(table) for table in tables]
            for lookup in lookups:
                if self._find_table(lookup.table.name) is None:
                    self._replace_lookup(lookup)
            for view in views:
                self._prepare_view(view, anew=any(changed))

    def replace_month(self, file: CleanFile, flow_run_id: str | None, *, force: bool = False) -> tuple[Load, bool]:
        """Replace the month's rows by those of the files: one load job for each file, then the row of ``loads``.

        If the job of the trips fails, the old rows stay. If a later step fails, the new rows are there without their
        row of ``loads``, and the error says so; the next load of the month finds the finished job.
        """
        trips, quarantine = trip_table(file.contract), quarantine_table(file.contract)
        with self._translate_errors(file.name, OLD_ROWS_STAY):
            known = self._read_ledger().get((file.manifest.color, file.month))
            if known and known.is_of(file.manifest) and not force:
                counts = (self._count(trips, file.month), self._count(quarantine, file.month))
                if counts == (known.row_count, known.quarantine_rows):
                    return known, False
        with self._translate_errors(file.name, OLD_ROWS_STAY, in_doubt=JOB_IS_IN_DOUBT):
            job = self._run_load_job(file, trips, known)
        with self._translate_errors(file.name, LEDGER_LACKS_ROWS):
            self._reconcile(job, file, trips)
            self._reconcile(self._run_load_job(file.quarantine, quarantine, known), file.quarantine, quarantine)
            load = Load.of(file, job.ended, flow_run_id, job.job_id)
            self._record(load)
        return load, True

    def _reconcile(self, job: bigquery.LoadJob, file: CleanFile, table: Table) -> None:
        counted = {"loaded": job.output_rows or 0, "found": self._count(table, file.month)}
        if counted["found"] == 0 < file.rows == counted["loaded"]:
            raise ConfigurationError(
                f"{file.name}: {self.place}: the rows vanished as they were loaded, because the partitions of"
                f" {table.name} expire",
                expected=f"{file.rows:,}",
                got="0",
                fix=ENABLE_BILLING,
            )
        reconcile(file, self.place, outcome="the month there is neither the old nor the new one", **counted)

    def replace_lookups(self, lookups: Sequence[Lookup]) -> None:
        """Replace all rows of the lookup tables."""
        with self._translate_errors("the lookups"):
            for lookup in lookups:
                self._replace_lookup(lookup)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a SELECT. Table names need the dataset: ``ny_taxi.loads``."""
        with self._translate_errors("a query"):
            return [tuple(row.values()) for row in self._client.query_and_wait(sql)]

    def check(self, lake: Lake) -> str:
        """Load one row from the lake into a scratch table and a scratch ``loads``, as a real load does; drop both."""
        name = f"connection_check_{uuid.uuid4().hex}"
        with self._translate_errors("a check"), contextlib.ExitStack() as scratch:
            self._client.query_and_wait("SELECT 1")
            location, made = self._prepare_dataset(scratch)
            ledger, trips = replace(LOADS, name=f"{name}_loads"), _scratch_table(name)
            for table in (ledger, trips):
                scratch.callback(self._client.delete_table, self._dataset.table(table.name), not_found_ok=True)
                self._prepare(table)
            key, content, month = f"scratch/{name}.parquet", _scratch_rows(), Month(2024, 1)
            scratch.callback(lake.remove, key)
            lake.write(key, content)
            source = _ParquetFile(lake.url(key), len(content), lambda: io.BytesIO(content))
            job = self._submit(source, trips, month, name, {}, location)
            job.result()
            load = Load("green", month, job.output_rows or 0, 1, 0, "none", "none", datetime.now(UTC), job_id=name)
            self._record(load, ledger)
            if (self._count(trips, month), self._read_ledger(ledger)) != (1, {("green", month): load}):
                raise TlcError(f"a check: {self.place} returned other rows than were written")
        where = f"will be made in {location} by the first load" if made else f"is in {location}"
        return f"answers, and tables can be made; a row was loaded from {lake.url('')}; the dataset {where}"

    def _prepare_dataset(self, scratch: contextlib.ExitStack | None = None) -> tuple[str, bool]:
        """Create the dataset if it is missing, and check that loads into it are possible and stay.

        Args:
            scratch: Removes a dataset that was created here.

        Returns:
            Its location, and whether it was created.

        Raises:
            ConfigurationError: when BigQuery can't load from the bucket into it, or its tables expire.
        """
        bucket, made = self._bucket_location().upper() if self._bucket_location else None, False
        best = _places(bucket)[0] if bucket else read_settings().bigquery_location
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
        if bucket and not _can_load(location.upper(), bucket):
            raise ConfigurationError(
                f"{self.place} and the lake's bucket are in different places",
                expected=f"a dataset in {best}",
                got=location,
                fix=f"make the bucket in {location}, or drop the dataset: the first load makes it in {best}",
            )
        return location, made

    def _qualify(self, name: str) -> str:
        return f"`{self._dataset.project}.{SCHEMA}.{name}`"

    def _find_table(self, name: str) -> bigquery.Table | None:
        with contextlib.suppress(api.NotFound):
            return self._client.get_table(self._dataset.table(name))
        return None

    def _prepare(self, table: Table) -> bool:
        """Create a table, or add its missing columns. Return whether the table changed."""
        found = self._find_table(table.name)
        if found is None:
            made = bigquery.Table(self._dataset.table(table.name), _schema(table))
            made.description = table.description
            made.table_constraints = TableConstraints(PrimaryKey(list(table.key)), None)
            if table.key == TRIP_KEY:
                made.time_partitioning = bigquery.TimePartitioning("MONTH", field="file_month")
                made.clustering_fields = ["pickup_datetime"]
            self._client.create_table(made, exists_ok=True)
            return True
        renamed = self._rename(table, found)
        there = {renamed.get(field.name, field.name): _name_in_types(field.field_type) for field in found.schema}
        gained = missing_fields(table, there, TYPES, self.place)
        if renamed:
            found = self._client.get_table(found)
            found.description = table.description
            found = self._client.update_table(found, ["description"])
        if gained:
            names = {field.name for field in gained}
            found.schema = [*found.schema, *(field for field in _schema(table) if field.name in names)]
            self._client.update_table(found, ["schema"])
        return bool(gained)

    def _rename(self, table: Table, found: bigquery.Table) -> dict[str, str]:
        """Rename columns that have an old name. Return old name -> new name."""
        renamed = renamed_fields(table, [field.name for field in found.schema])
        for old, new in renamed.items():
            try:
                self._client.query_and_wait(f"ALTER TABLE {self._qualify(table.name)} RENAME COLUMN `{old}` TO `{new}`")
                log.info("%s: the column %s of %s.%s is now called %s", self.place, old, SCHEMA, table.name, new)
            except api.BadRequest:
                # Another load may have done it in the meantime.
                if all(field.name != new for field in self._client.get_table(found).schema):
                    raise
        return renamed

    def _prepare_view(self, view: View, *, anew: bool) -> None:
        """Create or replace a view. It is never dropped first, because another load may be using it."""
        found = self._find_table(view.name)
        if found is None:
            made = bigquery.Table(self._dataset.table(view.name))
            made.view_query, made.description = view.sql(self._qualify), view.description
            self._client.create_table(made, exists_ok=True)
        elif anew or tuple(field.name for field in found.schema) != view.columns:
            self._client.query_and_wait(
                f"CREATE OR REPLACE VIEW {self._qualify(view.name)} AS {view.sql(self._qualify)}"
            )

    def _run_load_job(self, file: CleanFile, table: Table, known: Load | None) -> bigquery.LoadJob:
        """Run the month's load job, or return the job of another run that did the same.

        A job's id is made from the load that it replaces and a number. BigQuery keeps ids longer than tables, so an id
        may belong to a job of another file or of a dropped dataset. A job that exists already is accepted only if it
        is the last one, loaded this very file, and the partition has the file's rows; otherwise the number goes up.
        """
        manifest, month = file.manifest, file.month
        replaces = known.job_id or known.clean_sha256 if known else "nothing"
        base = hashlib.sha256(f"instead of {replaces}".encode()).hexdigest()[:16]
        labels = {
            "color": manifest.color,
            "month": manifest.month,
            "clean_sha256": manifest.clean.sha256[:63],
            "source_sha256": manifest.source.sha256[:63],
        }
        size = self._size(file)
        source = _ParquetFile(file.url, size, file.open)
        location = str(self._client.get_dataset(self._dataset).location)
        name = table.name.removesuffix("_trip_data")
        ids = (f"nyc_tlc_{name}_{month.year:04d}_{month.month:02d}_{base}_{n}" for n in itertools.count())
        for job_id, next_id in itertools.pairwise(ids):
            try:
                job = self._submit(source, table, month, job_id, labels, location)
            except api.Conflict:
                log.info("%s: the load job %s was already asked for", file.name, job_id)
            else:
                job.result()
                return job
            found = cast(bigquery.LoadJob, self._client.get_job(job_id, location=location, retry=NEW_JOB_RETRY))
            try:
                found.result()
            except api.GoogleAPICallError:
                if not found.error_result:
                    raise
                continue
            is_the_last = found.labels == labels and not self._has_job(next_id, location)
            if is_the_last and self._count(table, month) == file.rows:
                return found
        raise AssertionError("unreachable: itertools.count() never ends")

    def _size(self, file: CleanFile) -> int:
        size = file.record.bytes or file.lake.size(file.record.key)
        if size is None:
            raise LakeError(f"{file.name}: there is no {file.url}", fix="make the month again with --force")
        return size

    def _has_job(self, job_id: str, location: str) -> bool:
        try:
            self._client.get_job(job_id, location=location)
        except api.NotFound:
            return False
        return True

    def _submit(
        self, source: _ParquetFile, table: Table, month: Month, job_id: str, labels: dict[str, str], location: str
    ) -> bigquery.LoadJob:
        """Submit a load job that replaces a month's partition.

        Raises:
            Conflict: when a job with this id exists.
        """
        target = self._dataset.table(f"{table.name}${month.year:04d}{month.month:02d}")
        parquet_options = bigquery.ParquetOptions()  # type: ignore[no-untyped-call]
        parquet_options.enable_list_inference = True
        config = bigquery.LoadJobConfig(
            source_format=bigquery.SourceFormat.PARQUET,
            schema=_schema(table),
            write_disposition=bigquery.WriteDisposition.WRITE_TRUNCATE,
            create_disposition=bigquery.CreateDisposition.CREATE_NEVER,
            time_partitioning=bigquery.TimePartitioning("MONTH", field="file_month"),
            clustering_fields=["pickup_datetime"],
            labels=labels,
        )
        # Without this, BigQuery would read a Parquet list as nested records and not as an array.
        config.parquet_options = parquet_options
        if source.url.startswith("gs://"):
            return self._client.load_table_from_uri(
                source.url, target, job_id=job_id, location=location, job_config=config
            )
        with source.open() as content:
            return self._client.load_table_from_file(
                content, target, size=source.size, job_id=job_id, location=location, job_config=config
            )

    def _count(self, table: Table, month: Month) -> int:
        sql = f"SELECT COUNT(*) FROM {self._qualify(table.name)} WHERE file_month = DATE '{month.first_day}'"
        return int(next(iter(self._client.query_and_wait(sql)))[0])

    def _read_ledger(
        self, ledger: Table = LOADS, columns: Collection[str] = LOADS.names
    ) -> dict[tuple[Color, Month], Load]:
        """Return all loads. The table may still have a column's old name until the next load renames it."""
        old_names = {name: old for old, name in renamed_fields(ledger, columns).items()}
        there = {name: old_names.get(name, name) for name in ledger.names}
        names = ", ".join(f"`{there[name]}`" if there[name] in columns else "NULL" for name in ledger.names)
        rows = self._client.query_and_wait(f"SELECT {names} FROM {self._qualify(ledger.name)}")
        return {(load.color, load.month): load for load in (Load.from_row(row.values()) for row in rows)}

    def _record(self, load: Load, ledger: Table = LOADS) -> None:
        """Write a month's row of ``loads``, unless a later load wrote it. Wait while other loads write theirs."""
        parameters = [
            bigquery.ScalarQueryParameter(field.name, PARAMETERS.get(TYPES[field.type], TYPES[field.type]), value)
            for field, value in zip(ledger.fields, load.to_row(), strict=True)
        ]
        sql = (
            f"MERGE INTO {self._qualify(ledger.name)} t"
            " USING (SELECT @color AS new_color, @file_month AS new_month) s"
            " ON t.color = s.new_color AND t.file_month = s.new_month"
            " WHEN MATCHED AND t.loaded_at <= @loaded_at"
            f" THEN UPDATE SET {', '.join(f'`{name}` = @{name}' for name in ledger.names)}"
            f" WHEN NOT MATCHED THEN INSERT ({', '.join(f'`{name}`' for name in ledger.names)})"
            f" VALUES ({', '.join(f'@{name}' for name in ledger.names)})"
        )
        config = bigquery.QueryJobConfig(query_parameters=parameters)
        patiently = retry.Retry(_ledger_is_busy, initial=0.5, maximum=30, timeout=read_settings().warehouse_wait)
        patiently(functools.partial(self._client.query_and_wait, sql, job_config=config))()

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
    def _translate_errors(self, what: str, outcome: str = "", in_doubt: str | None = None) -> Iterator[None]:
        """Translate the client's errors into errors that say what to do.

        Args:
            what: What was being done.
            outcome: The state of the data if BigQuery refused it.
            in_doubt: The state of the data if BigQuery did not answer; ``outcome`` if left out.
        """
        try:
            yield
        except FAILURES as error:
            raise _explain(error, what, self.place, outcome, outcome if in_doubt is None else in_doubt) from error


#: Types that have another name in query parameters than in tables.
PARAMETERS = {"INTEGER": "INT64", "FLOAT": "FLOAT64"}


def find_location(client: bigquery.Client) -> str:
    """Where the tables are.

    Raises:
        TlcError: when there are none yet, or BigQuery does not tell.
    """
    place = f"bigquery://{client.project}/{SCHEMA}"
    try:
        return str(client.get_dataset(bigquery.DatasetReference(client.project, SCHEMA)).location)
    except FAILURES as error:
        raise _explain(error, "the location of the tables", place, "", "") from error


def _schema(table: Table) -> list[bigquery.SchemaField]:
    return [
        bigquery.SchemaField(
            field.name,
            TYPES[field.type],
            mode="REPEATED" if field.type == "strings" else "REQUIRED" if field.required else "NULLABLE",
            description=field.description,
        )
        for field in table.fields
    ]


def _name_in_types(kind: str) -> str:
    """Return the name that ``TYPES`` uses for a type with two names."""
    return {"INT64": "INTEGER", "FLOAT64": "FLOAT"}.get(kind, kind)


def _places(bucket: str) -> Sequence[str]:
    """Return where datasets for a bucket can be; the first is for a new one."""
    return DATASET_LOCATIONS.get(bucket) or bucket.split("+")


def _can_load(dataset: str, bucket: str) -> bool:
    """Return whether BigQuery can load: into US from anywhere, else from where the dataset is or within Europe or Asia.

    It refuses only what cannot be; of what is left, the load job itself can refuse more.
    """
    places = _places(bucket)
    from_around = bucket in MULTI_REGIONS and dataset.startswith(MULTI_REGIONS[bucket])
    from_within = dataset == "EU" and all(place.startswith(MULTI_REGIONS["EU"]) for place in places)
    return dataset in ("US", *places) or from_around or from_within


def _scratch_table(name: str) -> Table:
    """Return a table that is partitioned and clustered like the tables of trips."""
    fields = (
        Field("file_month", "date", "First day of the month", required=True),
        Field("source_row", "int32", "Its number", required=True),
        Field("pickup_datetime", "timestamp", "A time"),
    )
    return Table(name, "A check of the connection; it may be dropped", fields, TRIP_KEY)


def _scratch_rows() -> bytes:
    """Return one row for the scratch table, as a Parquet file."""
    month, content = Month(2024, 1), io.BytesIO()
    columns = {
        "file_month": pa.array([month.first_day], pa.date32()),
        "source_row": pa.array([0], pa.int32()),
        "pickup_datetime": pa.array([month.start], pa.timestamp("us")),
    }
    pq.write_table(pa.table(columns), content)
    return content.getvalue()


def _ledger_is_busy(error: BaseException) -> bool:
    return isinstance(error, api.GoogleAPIError) and any(part in str(error) for part in LEDGER_IS_BUSY)


def _explain(error: Exception, what: str, place: str, outcome: str, in_doubt: str) -> TlcError:
    """Return the error to raise for a client's error."""
    message = first_line(error) if isinstance(error, auth.GoogleAuthError) else str(error).partition("\n")[0][:300]
    reasons = {each.get("reason") for each in getattr(error, "errors", []) if isinstance(each, dict)}
    refused, unanswered = (f"; {state}" if state else "" for state in (outcome, in_doubt))
    if "quotaExceeded" in reasons:
        return TransientError(
            f"{what}: {place}: a quota is used up{refused}",
            got=message,
            fix="run this again when the quota is reset, after a day at the latest, or ask Google to raise it",
        )
    if "rateLimitExceeded" in reasons or _ledger_is_busy(error):
        return TransientError(
            f"{what}: too many requests to {place} at once{refused}", got=message, fix="try again later"
        )
    if isinstance(error, TRANSIENT):
        return TransientError(f"{what}: {place} did not answer{unanswered}", got=message, fix="try again later")
    if isinstance(error, auth.GoogleAuthError | api.Unauthorized):
        fix = "renew the profile's gcp-credentials and register it again: python blocks/register.py"
        return ConfigurationError(f"{what}: the credentials for {place} are refused", got=message, fix=fix)
    if "billingNotEnabled" in reasons:
        return ConfigurationError(f"{what}: {place} has no billing{refused}", got=message, fix=ENABLE_BILLING)
    if isinstance(error, api.Forbidden) and ("gs://" in message or "storage.objects" in message):
        return ConfigurationError(
            f"{what}: BigQuery may not read the lake's bucket{refused}",
            got=message,
            fix="grant the account of the loads roles/storage.objectUser and roles/storage.legacyBucketReader on it",
        )
    if isinstance(error, api.Forbidden):
        return ConfigurationError(
            f"{what}: a permission is missing in {place}{refused}",
            got=message,
            fix=f"grant roles/bigquery.jobUser on the project and roles/bigquery.dataEditor on the dataset {SCHEMA}",
        )
    return TlcError(f"{what}: {place} failed{refused}", got=message)
