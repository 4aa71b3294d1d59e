"""BigQuery on a socket: the calls of its REST API (v2) that the warehouse makes, over an in-memory DuckDB.

Implements, for one project:

* datasets: insert, get, delete.
* tables: insert, get, patch and delete. Flat schemas of STRING, GEOGRAPHY, INTEGER, FLOAT, BOOLEAN, DATE, DATETIME and
  TIMESTAMP; partitioning by the MONTH of a column; clustering and descriptions, which are kept; views.
* load jobs of one Parquet file that replace a table or a partition, from ``gs://`` or from multipart and resumable
  uploads of one part. A job runs in its own thread and takes effect in one transaction, or fails and changes nothing.
* job ids of the client's choice: 409 when repeated, also when the tables are gone.
* datasets and tables: list.
* queries (jobs.query with ``requestId``): SELECT. **Google's own analyzer looks at each first** (``google_sql``), with
  the tables there are; sqlglot puts it into DuckDB's words. For dbt and the tests also INSERT, MERGE, UPDATE, DELETE,
  CREATE OR REPLACE VIEW, CREATE SCHEMA, CREATE TABLE AS and DROP TABLE.
* query jobs, for dbt, which are done when they are answered. A script may DECLARE and SET variables: they are
  parameters of the statements after them. The OPTIONS of tables and views are not looked at.
* what goes wrong: bearer tokens (401), denied permissions (403), and faults, one a request, in the order given.

Everything else is refused: 501.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import duckdb
import pyarrow as pa
from sqlglot import exp
from sqlglot.errors import SqlglotError

from stand_ins.bigquery_statements import STATEMENT_TYPES, Statement, split_script
from stand_ins.bigquery_values import (
    ApiError,
    ParquetSource,
    Resource,
    check_fields,
    name_type,
    read_fields,
    write_rows,
)
from stand_ins.google_sql import GoogleSqlError, analyze
from stand_ins.serving import Server, serving

Answer = tuple[int, dict[str, str], Resource | None]
Key = tuple[str, str]

#: What Google gives a new dataset of a project without billing: 60 days.
SANDBOX_EXPIRATION = dict.fromkeys(("defaultPartitionExpirationMs", "defaultTableExpirationMs"), "5184000000")


@dataclass
class Fault:
    """What goes wrong with one request.

    Attributes:
        kind: ``status``: answer ``status``; ``reset``: reset the connection unheard; ``lost``: do what was asked,
            then reset the connection; ``held``: wait for ``go_on`` before anything is done; ``job``: take the load job,
            and let it fail.
        method: The requests it waits for.
        about: A part of their path, query or body.
        status: The status.
        reason: Its reason, by which the client decides whether to try again.
        message: What it says.
        reached: Set when a request is held.
        go_on: The test sets it to release the request.
    """

    kind: Literal["status", "reset", "lost", "held", "job"]
    method: str = "POST"
    about: str = ""
    status: int = 503
    reason: str = "backendError"
    message: str = "injected"
    reached: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)


@dataclass
class Request:
    """One request, with the names in its path."""

    method: str
    path: str
    query: dict[str, str]
    headers: Any
    body: bytes
    names: dict[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Resource:
        return dict(json.loads(self.body))


@dataclass
class Job:
    """What a job is to do, and how far it is."""

    reference: Resource
    configuration: Resource
    statistics: Resource
    state: Literal["PENDING", "RUNNING", "DONE"] = "PENDING"
    error: ApiError | None = None
    running: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)
    answer: Resource = field(default_factory=dict)

    def finish(self, error: ApiError | None = None, **statistics: Resource | str) -> None:
        self.error = error
        self.statistics = {**self.statistics, "endTime": _now(), **statistics}
        self.state = "DONE"
        self.finished.set()

    @property
    def resource(self) -> Resource:
        failed = {"errorResult": self.error.proto, "errors": [self.error.proto]} if self.error else {}
        return {
            "kind": "bigquery#job",
            "id": "{projectId}:{location}.{jobId}".format(**self.reference),
            "jobReference": self.reference,
            "configuration": self.configuration,
            "status": {"state": self.state, **failed},
            "statistics": self.statistics,
        }


@dataclass(frozen=True)
class Kept:
    """Datasets and tables as a stand-in had them, the SQL that makes them in DuckDB, and their rows."""

    datasets: dict[str, Resource]
    tables: dict[Key, Resource]
    made: list[str]
    rows: dict[Key, pa.Table]


class BigQuery:
    """The stand-in.

    Attributes:
        url: Where it is, for ``BIGQUERY_EMULATOR_HOST``.
        calls: The requests it got, in order.
        faults: Those still to come.
        tokens: The bearer tokens it takes; None when it takes any or none.
        denied: The permissions the caller lacks, as ``tables.create`` or ``jobs.create``.
        pause: While there is one, load jobs stay RUNNING, and change nothing, until it is set.
        bucket_locations: Where buckets are that are elsewhere than the datasets they are loaded into.
        sandbox: Whether the project has no billing: new datasets have ``SANDBOX_EXPIRATION``.
        statements: The statements it got, in order.
    """

    def __init__(self, project: str, read_object: Callable[[str, str], bytes | None] = lambda *_: None) -> None:
        self.project, self.read_object = project, read_object
        self.calls: list[Request] = []
        self.faults: list[Fault] = []
        self.tokens: set[str] | None = None
        self.denied: set[str] = set()
        self.pause: threading.Event | None = None
        self.bucket_locations: dict[str, str] = {}
        self.sandbox = False
        self.statements: list[str] = []
        self.datasets: dict[str, Resource] = {}
        self.tables: dict[tuple[str, str], Resource] = {}
        self.jobs: dict[tuple[str, str], Job] = {}
        self._requests: dict[str, Resource] = {}
        self._uploads: dict[str, Resource] = {}
        # Writers take turns; readers have a snapshot each.
        self._writing, self._job_ids = threading.RLock(), threading.Lock()
        off = "autoinstall_known_extensions autoload_known_extensions python_enable_replacements enable_external_access"
        self._duck = duckdb.connect(":memory:", config=dict.fromkeys(off.split(), "false"))
        self._duck.execute("SET GLOBAL TimeZone = 'UTC'")
        self._duck.execute("SET GLOBAL default_null_order = 'nulls_first_on_asc_last_on_desc'")
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body in one packet, or the second waits for the first one's acknowledgement.
            wbufsize = -1

            def do_GET(self) -> None:
                stand_in._serve(self)

            def log_message(self, *_: object) -> None:
                """Stay quiet."""

        for method in ("POST", "PUT", "PATCH", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.do_GET)
        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[BigQuery]:
        """Serve while the block runs."""
        with serving(self._server):
            try:
                yield self
            finally:
                if self.pause:
                    self.pause.set()

    def kept(self) -> Kept:
        """What datasets and tables there are, with their rows."""
        with self._transaction(writes=False) as cursor:
            made = cursor.execute("SELECT sql FROM duckdb_tables()").fetchall()
            views = "SELECT sql FROM duckdb_views() WHERE NOT internal ORDER BY view_oid"
            made += cursor.execute(views).fetchall()
            stored = [key for key, table in self.tables.items() if table["type"] == "TABLE"]
            rows = {(at, name): cursor.sql(f'SELECT * FROM "{at}"."{name}"').to_arrow_table() for at, name in stored}
        return Kept(dict(self.datasets), dict(self.tables), [sql for (sql,) in made], rows)

    def restore(self, kept: Kept) -> None:
        """Have what another stand-in had."""
        with self._transaction() as cursor:
            for sql in (*(f'CREATE SCHEMA "{name}"' for name in kept.datasets), *kept.made):
                cursor.execute(sql)
            for (dataset, name), rows in kept.rows.items():
                if len(rows):
                    cursor.register("kept", rows)
                    cursor.execute(f'INSERT INTO "{dataset}"."{name}" FROM kept')
        # Tests change what a table has in it.
        self.datasets, self.tables = deepcopy(kept.datasets), deepcopy(kept.tables)

    def jobs_of(self, kind: str) -> list[Job]:
        """The jobs of a kind, ``load`` or ``query``, the oldest first."""
        return [job for job in list(self.jobs.values()) if kind in job.configuration]

    # Requests.

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlsplit(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        request = Request(handler.command, unquote(url.path), dict(parse_qsl(url.query)), handler.headers, body)
        self.calls.append(request)
        text = unquote(handler.path).encode() + body
        fault = self._take_fault(request.method, text, "status", "reset", "lost", "held")
        if fault and fault.kind == "held":
            fault.reached.set()
            fault.go_on.wait(60)
            fault = None
        status, headers, resource = 500, {}, None
        if fault and fault.kind == "status":
            status, resource = fault.status, ApiError(fault.reason, fault.message, fault.status).body
        elif not fault or fault.kind == "lost":
            status, headers, resource = self._answer(request)
        if fault and fault.kind != "status":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.close_connection = True
            handler.connection.close()
            return
        content = b"" if resource is None else json.dumps(resource).encode()
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json; charset=UTF-8", **headers}.items():
            handler.send_header(name, value)
        if status != 204:
            handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _take_fault(self, method: str, text: bytes, *kinds: str) -> Fault | None:
        """The next fault for a request, which is over with that."""
        for fault in self.faults:
            if fault.kind in kinds and fault.method == method and fault.about.encode() in text:
                self.faults.remove(fault)
                return fault
        return None

    def _answer(self, request: Request) -> Answer:
        try:
            if self.tokens is not None and request.headers.get("Authorization", "")[7:] not in self.tokens:
                raise ApiError("authError", "Request had invalid authentication credentials.")
            for methods, pattern, operation, respond in _ROUTES:
                match = re.fullmatch(_PROJECT + pattern, request.path)
                if match and request.method in methods.split():
                    project, *names = match.groups()
                    request.names = match.groupdict()
                    if project != self.project:
                        raise ApiError("notFound", f"Not found: Project {project}")
                    self._permit(operation, *names)
                    answer = respond(self, request)
                    return answer if isinstance(answer, tuple) else (204 if answer is None else 200, {}, answer)
            raise ApiError("notImplemented", f"The stand-in has no {request.method} {request.path}")
        except ApiError as error:
            return error.status, {}, error.body
        except Exception as error:  # noqa: BLE001  a dead connection is tried again for ten minutes, a 501 is not
            return 501, {}, ApiError("notImplemented", f"The stand-in failed: {error!r}").body

    def _permit(self, operation: str, *names: str) -> None:
        if operation in self.denied:
            name = f"{'Table' if len(names) > 1 else 'Dataset'} {self.project}:{'.'.join(names)}"
            name = name if names and not operation.startswith("jobs") else f"Project {self.project}"
            what = f"Permission bigquery.{operation} denied on {name.lower()} (or it may not exist)."
            raise ApiError("accessDenied", f"Access Denied: {name}: {what}")

    @contextmanager
    def _transaction(self, *, writes: bool = True) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._writing if writes else nullcontext(), closing(self._duck.cursor()) as cursor:
            cursor.begin()
            try:
                yield cursor
            except BaseException:
                cursor.rollback()
                raise
            cursor.commit()

    # Datasets.

    def _dataset(self, dataset: str, location: str | None = None) -> Resource:
        found = self.datasets.get(dataset)
        if found is None or (location or found["location"]).upper() != found["location"].upper():
            where = f" was not found in location {location}" if location else ""
            raise ApiError("notFound", f"Not found: Dataset {self.project}:{dataset}{where}")
        return found

    def _new_dataset(self, dataset: str, asked: Resource) -> Resource:
        reference = {"projectId": self.project, "datasetId": dataset}
        identity = {"kind": "bigquery#dataset", "id": f"{self.project}:{dataset}", "datasetReference": reference}
        sandbox = SANDBOX_EXPIRATION if self.sandbox else {}
        return _stamped({"location": "US", "creationTime": _now(), **sandbox, **asked, **identity})

    def _insert_dataset(self, request: Request) -> Resource:
        asked = request.json
        dataset = asked["datasetReference"]["datasetId"]
        with self._transaction() as cursor:
            if dataset in self.datasets:
                raise ApiError("duplicate", f"Already Exists: Dataset {self.project}:{dataset}")
            cursor.execute(f'CREATE SCHEMA "{dataset}"')
            self.datasets[dataset] = self._new_dataset(dataset, asked)
        return self.datasets[dataset]

    def _get_dataset(self, request: Request) -> Resource:
        return self._dataset(request.names["dataset"])

    def _list_datasets(self, _: Request) -> Resource:
        return {"datasets": [each for name, each in self.datasets.items() if not name.startswith("_")]}

    def _list_tables(self, request: Request) -> Resource:
        self._dataset(request.names["dataset"])
        return {"tables": [each for (name, _), each in list(self.tables.items()) if name == request.names["dataset"]]}

    def _delete_dataset(self, request: Request) -> None:
        dataset = request.names["dataset"]
        with self._transaction() as cursor:
            self._dataset(dataset)
            inside = [key for key in self.tables if key[0] == dataset]
            cursor.execute(f'DROP SCHEMA "{dataset}" CASCADE')
            for key in inside:
                del self.tables[key]
            del self.datasets[dataset]

    # Tables.

    def _table(self, dataset: str, table: str) -> Resource:
        self._dataset(dataset)
        if (dataset, table) not in self.tables:
            raise ApiError("notFound", f"Not found: Table {self.project}:{dataset}.{table}")
        return self.tables[dataset, table]

    def _new_table(self, dataset: str, table: str, fields: list[Resource], asked: Resource) -> Resource:
        by = asked.get("timePartitioning")
        if by and (by["type"] != "MONTH" or "field" not in by):
            raise ApiError("notImplemented", "The stand-in partitions by a column's MONTH")
        if by and (expiration := self.datasets[dataset].get("defaultPartitionExpirationMs")):
            asked = {**asked, "timePartitioning": {"expirationMs": expiration, **by}}
        identity = {
            "kind": "bigquery#table",
            "id": f"{self.project}:{dataset}.{table}",
            "tableReference": {"projectId": self.project, "datasetId": dataset, "tableId": table},
            "type": "VIEW" if "view" in asked else "TABLE",
            "location": self.datasets[dataset]["location"],
            "schema": {"fields": fields},
        }
        return _stamped({"creationTime": _now(), **asked, **identity})

    def _insert_table(self, request: Request) -> Resource:
        asked, dataset = request.json, request.names["dataset"]
        table = asked["tableReference"]["tableId"]
        with self._transaction() as cursor:
            self._dataset(dataset)
            if (dataset, table) in self.tables:
                raise ApiError("duplicate", f"Already Exists: Table {self.project}:{dataset}.{table}")
            if "view" in asked:
                fields = self._define_view(cursor, dataset, table, asked["view"])
            else:
                fields = check_fields(asked.get("schema", {}).get("fields", []))
                cursor.execute(_create(dataset, table, fields))
            self.tables[dataset, table] = self._new_table(dataset, table, fields, asked)
        return self.tables[dataset, table]

    def _define_view(
        self, cursor: duckdb.DuckDBPyConnection, dataset: str, table: str, view: Resource
    ) -> list[Resource]:
        statement = self._statement(view["query"], {})
        cursor.execute(f'CREATE OR REPLACE VIEW "{dataset}"."{table}" AS {statement.sql}')
        return _columns(cursor, dataset, table)

    def _get_table(self, request: Request) -> Resource:
        dataset, table = request.names["dataset"], request.names["table"]
        resource = self._table(dataset, table)
        if resource["type"] == "VIEW" or dataset == _RESULTS:
            return resource
        with self._writing, closing(self._duck.cursor()) as cursor:
            rows = cursor.execute(f'SELECT count(*) FROM "{dataset}"."{table}"').fetchall()
        return {**resource, "numRows": str(rows[0][0])}

    def _patch_table(self, request: Request) -> Resource:
        dataset, table = request.names["dataset"], request.names["table"]
        with self._transaction() as cursor:
            found, patch = self._table(dataset, table), request.json
            if "view" in patch:
                patch["schema"] = {"fields": self._define_view(cursor, dataset, table, patch["view"])}
            elif "schema" in patch:
                fields = check_fields(patch["schema"]["fields"])
                self._extend(cursor, found, fields)
                patch["schema"] = {"fields": fields}
            own = ("tableReference", "id", "kind", "location", "type")
            self.tables[dataset, table] = _stamped({**found, **{k: v for k, v in patch.items() if k not in own}})
        return self.tables[dataset, table]

    def _delete_table(self, request: Request) -> None:
        dataset, table = request.names["dataset"], request.names["table"]
        with self._transaction() as cursor:
            resource = self._table(dataset, table)
            cursor.execute(f'DROP {resource["type"]} "{dataset}"."{table}"')
            del self.tables[dataset, table]

    def _extend(self, cursor: duckdb.DuckDBPyConnection, table: Resource, declared: list[Resource]) -> None:
        """Add the columns that a table lacks; it may lose and change none."""
        there = {(f["name"], f["type"], f["mode"]) for f in table["schema"]["fields"]}
        alter = 'ALTER TABLE "{datasetId}"."{tableId}"'.format(**table["tableReference"])
        new = [one for one in declared if (one["name"], one["type"], one["mode"]) not in there]
        if len(declared) - len(new) < len(there) or any(one["mode"] == "REQUIRED" for one in new):
            raise _mismatch(table, "It can only gain columns, which are not required")
        for one in new:
            cursor.execute(f'{alter} ADD COLUMN "{one["name"]}" {name_type(one)}')

    # Jobs.

    def _new_job(self, reference: Resource, configuration: Resource) -> Job:
        job_id = reference.get("jobId") or f"job_{uuid.uuid4().hex}"
        reference = {**reference, "projectId": self.project, "jobId": job_id}
        job, key = Job(reference, configuration, {"creationTime": _now(), "startTime": _now()}), _job_key(reference)
        with self._job_ids:
            if key in self.jobs:
                raise ApiError("duplicate", f"Already Exists: Job {self.project}:{key[0]}.{job_id}")
            self.jobs[key] = job
        return job

    def _start(self, resource: Resource, uploaded: bytes | None = None) -> Job:
        configuration, reference = resource["configuration"], dict(resource.get("jobReference", {}))
        load = configuration.get("load")
        _check_labels(configuration)
        if configuration.get("dryRun"):
            return self._look_at_query(configuration, reference)
        if "query" in configuration:
            return self._run_script(configuration, reference)
        if not load:
            raise ApiError("notImplemented", f"The stand-in has no jobs of {', '.join(configuration)}")
        if load.get("sourceFormat") != "PARQUET" or load.get("writeDisposition") != "WRITE_TRUNCATE":
            raise ApiError("notImplemented", "The stand-in loads PARQUET with WRITE_TRUNCATE")
        dataset = self._dataset(load["destinationTable"]["datasetId"], reference.get("location"))
        job = self._new_job({**reference, "location": dataset["location"]}, configuration)
        threading.Thread(target=self._load, args=(job, load, uploaded), daemon=True).start()
        return job

    def _job(self, request: Request) -> Job:
        # Only the multi-regions are searched unnamed.
        locations = [request.query["location"].upper()] if "location" in request.query else ["US", "EU"]
        for location in locations:
            if (location, request.names["job"]) in self.jobs:
                return self.jobs[location, request.names["job"]]
        raise ApiError("notFound", f"Not found: Job {self.project}:{request.names['job']}")

    def _insert_job(self, request: Request) -> Resource | Answer:
        is_upload = request.path.startswith("/upload")
        return self._upload(request) if is_upload else self._wait_for(self._start(request.json)).resource

    def _get_job(self, request: Request) -> Resource:
        job = self._job(request)
        return self._wait_for(job).resource

    def _wait_for(self, job: Job) -> Job:
        """Wait for a job that nothing pauses: a client told too early sleeps a second before it asks again."""
        if not self.pause:
            job.finished.wait(10)
        return job

    def _upload(self, request: Request) -> Resource | Answer:
        if request.query["uploadType"] == "multipart":
            boundary = re.findall(r'boundary="?([^";]+)', request.headers["Content-Type"])[0]
            parts = request.body.split(b"--" + boundary.encode())[1:-1]
            resource, content = (part.partition(b"\r\n\r\n")[2][:-2] for part in parts)
            return self._wait_for(self._start(json.loads(resource), content)).resource
        upload_id = uuid.uuid4().hex
        self._uploads[upload_id] = request.json
        return 200, {"Location": f"{self.url}{request.path}?uploadType=resumable&upload_id={upload_id}"}, None

    def _finish_upload(self, request: Request) -> Resource:
        return self._wait_for(self._start(self._uploads.pop(request.query["upload_id"]), request.body)).resource

    # Loads.

    def _load(self, job: Job, load: Resource, uploaded: bytes | None) -> None:
        try:
            self._permit("tables.updateData", load["destinationTable"]["datasetId"])
            if uploaded is None:
                (uri,) = load["sourceUris"]
                file = self._source(uri, job.reference["location"])
            else:
                file = ParquetSource("uploaded file", uploaded)
            job.state = "RUNNING"
            job.running.set()
            if self.pause:
                self.pause.wait(60)
            if fault := self._take_fault("POST", json.dumps(job.configuration).encode(), "job"):
                raise ApiError(fault.reason, fault.message)
            with self._transaction() as cursor:
                rows = self._write(cursor, load, file)
            job.finish(load={"outputRows": str(rows)})
        except ApiError as error:
            job.finish(error)
        except (LookupError, ValueError, duckdb.Error) as error:
            job.finish(ApiError("invalid", f"The stand-in failed: {error!r}"))

    def _source(self, uri: str, location: str) -> ParquetSource:
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        source = self.bucket_locations.get(bucket, location)
        if source.upper() != location.upper():
            where = f"source: {source}, destination: {location}"
            raise ApiError("invalid", f"Cannot read and write in different locations: {where}")
        try:
            content = self.read_object(bucket, name)
        except PermissionError as error:
            raise ApiError("accessDenied", f"Access Denied: File {uri}: Access Denied") from error
        if content is None:
            raise ApiError("notFound", f"Not found: URI {uri}")
        return ParquetSource(uri, content)

    def _write(self, cursor: duckdb.DuckDBPyConnection, load: Resource, file: ParquetSource) -> int:
        """Write what a load job reads; returns the number of rows."""
        dataset, decorated = load["destinationTable"]["datasetId"], load["destinationTable"]["tableId"]
        name, _, partition = decorated.partition("$")
        table, target = self.tables.get((dataset, name)), f'"{dataset}"."{name}"'
        declared, by = check_fields(load["schema"]["fields"]), load.get("timePartitioning")
        kept = {"expirationMs": table.get("timePartitioning", {}).get("expirationMs")} if table else {}
        if table and by and {**by, **kept} != {**table.get("timePartitioning", {}), **kept}:
            expected = f"Expects {table.get('timePartitioning')}, but input partitioning specification is {by}"
            raise ApiError("invalid", f"Incompatible table partitioning specification. {expected}")
        if table is None:
            raise ApiError("notFound", f"Not found: Table {self.project}:{dataset}.{name}")
        if partition:
            fields = table["schema"]["fields"]
            if {f["name"]: f["type"] for f in fields} != {f["name"]: f["type"] for f in declared}:
                raise _mismatch(table, "Cannot add fields or change their types")
        else:
            fields = declared
            cursor.execute(_create(dataset, name, fields, replace=True))
        scope = _scope(table, partition)
        incoming = file.cast(fields)
        cursor.register("incoming", incoming)
        if cursor.execute(f"SELECT 1 FROM incoming WHERE NOT ({scope}) LIMIT 1").fetchone():
            message = "Some rows belong to different partitions rather than destination partition"
            raise ApiError("invalid", f"{message} {self.project}:{dataset}.{decorated}")
        cursor.execute(f"DELETE FROM {target} WHERE {scope}")
        columns = ", ".join(f'"{f["name"]}"' for f in fields)
        cursor.execute(f"INSERT INTO {target} ({columns}) SELECT {columns} FROM incoming")
        if (age := kept["expirationMs"]) and partition:
            ends = f"to_timestamp(({_now()} - {age}) / 1000)"
            cursor.execute(f'DELETE FROM {target} WHERE {scope} AND "{table["timePartitioning"]["field"]}" < {ends}')
        self.tables[dataset, name] = _stamped({**table, "schema": {"fields": fields}})
        return int(incoming.num_rows)

    # Queries.

    def _query_now(self, request: Request) -> Resource:
        query = request.json
        request_id = query.get("requestId") or uuid.uuid4().hex
        if request_id not in self._requests:
            statement = self._statement(query["query"], {})
            location = next((self.datasets[dataset]["location"] for dataset, _ in statement.tables), "US")
            job = self._new_job({"location": location}, {"query": query})
            self._requests[request_id] = self._run(statement, {}, job, query.get("formatOptions", {}))
        return self._requests[request_id]

    def _look_at_query(self, configuration: Resource, reference: Resource) -> Job:
        """Say what a query is without running it; a dry run is no job that could be asked for."""
        texts = split_script(configuration["query"]["query"])
        statements = [Statement(text, self.project, {}) for text in texts]
        kind = "SCRIPT" if len(texts) > 1 else STATEMENT_TYPES.get(statements[0].kind, statements[0].kind)
        job = Job({**reference, "projectId": self.project, "location": "US"}, configuration, {"creationTime": _now()})
        job.finish(query={"statementType": kind, "totalBytesProcessed": "0"}, totalBytesProcessed="0")
        return job

    def _run_script(self, configuration: Resource, reference: Resource) -> Job:
        """Run the statements of a query job, one after the other; the answer is the last one's."""
        texts = split_script(configuration["query"]["query"])
        kinds, values = dict[str, str](), dict[str, Any]()
        job = self._new_job({"location": "US", **reference}, configuration)
        statement, answer = None, dict[str, Any]()
        for text in texts:
            if declared := re.fullmatch(r"declare (\w+) (\S+)", text, re.IGNORECASE):
                kinds[declared[1]] = declared[2].upper()
                continue
            # A variable is a parameter whose value is known.
            text = re.sub(rf"\b({'|'.join(kinds) or '^$'})\b", r"@\1", text)
            if assigned := re.fullmatch(r"set \(@(\w+)\) = \((.*)\)", text, re.IGNORECASE | re.DOTALL):
                self._analyze_query(assigned[2], kinds)
                query = re.sub(r"^\s*select as struct", "select", assigned[2], flags=re.IGNORECASE)
                with self._transaction(writes=False) as cursor:
                    ((values[assigned[1]],),) = cursor.execute(self._statement(query, kinds).sql).fetchall()
                continue
            statement = self._statement(text, kinds)
            used = {name: value for name, value in values.items() if f"${name}" in statement.sql}
            answer = self._run(statement, used, job, {"useInt64Timestamp": True})
        kind = "SCRIPT" if len(texts) > 1 or statement is None else STATEMENT_TYPES.get(statement.kind, statement.kind)
        details = {"statementType": kind, "numDmlAffectedRows": answer.get("numDmlAffectedRows")}
        if statement and kind in ("SELECT", "CREATE_TABLE_AS_SELECT"):
            dataset, table = (_RESULTS, job.reference["jobId"]) if kind == "SELECT" else statement.target
            target = {"projectId": self.project, "datasetId": dataset, "tableId": table}
            job.configuration = {"query": {**configuration["query"], "destinationTable": target}}
            if kind == "SELECT":
                self.datasets.setdefault(_RESULTS, self._new_dataset(_RESULTS, {}))
                made = {"numRows": answer["totalRows"]}
                self.tables[dataset, table] = self._new_table(dataset, table, answer["schema"]["fields"], made)
        job.finish(query=details, totalBytesProcessed="0")
        job.answer = {**answer, "totalRows": answer.get("totalRows", "0"), "kind": "bigquery#getQueryResultsResponse"}
        return job

    def _get_query_results(self, request: Request) -> Resource:
        answer = self._job(request).answer
        # Who asks for no rows wants to know whether the job is done.
        without = ["rows"] if request.query.get("maxResults") == "0" else []
        return {name: part for name, part in answer.items() if name not in without}

    def _analyze_query(self, text: str, parameters: dict[str, str]) -> None:
        statement = Statement(text, self.project, parameters)
        self._analyze(text, statement.reads, parameters)

    def _statement(self, text: str, parameters: dict[str, str]) -> Statement:
        """A statement that Google's analyzer takes, in DuckDB's words."""
        self.statements.append(text)
        try:
            statement = Statement(text, self.project, parameters)
        except SqlglotError as error:
            self._analyze(text, [], parameters)
            raise ApiError("notImplemented", f"The stand-in cannot run this statement: {error}") from error
        for dataset, table in statement.reads:
            self._table(dataset, table)
        self._analyze(text, statement.reads, parameters)
        return statement

    def _analyze(self, text: str, keys: list[Key], parameters: dict[str, str]) -> None:
        tables = {}
        for key in keys:
            fields = self.tables[key]["schema"]["fields"]
            arrays = {True: "ARRAY<{}>", False: "{}"}
            columns = tuple((f["name"], arrays[f.get("mode") == "REPEATED"].format(f["type"])) for f in fields)
            tables |= {key: columns, (self.project, *key): columns}
        try:
            analyze(text, tables, parameters)
        except GoogleSqlError as error:
            raise ApiError("invalidQuery", str(error)) from error

    def _run(self, statement: Statement, values: dict[str, Any], job: Job, options: Resource) -> Resource:
        self._permit("tables.getData" if statement.kind == "SELECT" else "tables.updateData")
        answer = {"kind": "bigquery#queryResponse", "jobReference": job.reference, "jobComplete": True}
        try:
            if statement.kind == "SELECT":
                with self._transaction(writes=False) as cursor:
                    rows = cursor.sql(statement.sql, params=values or None).to_arrow_table()
                answer |= {"schema": {"fields": read_fields(rows.schema, results=True)}, **write_rows(rows, options)}
            elif statement.kind in ("MERGE", "UPDATE", "DELETE", "INSERT"):
                answer["numDmlAffectedRows"] = str(self._change(statement, values))
            else:
                self._define(statement)
        except duckdb.Error as error:
            raise ApiError("invalidQuery", str(error).splitlines()[0]) from error
        finally:
            job.finish()
        return answer

    def _change(self, statement: Statement, values: dict[str, Any]) -> int:
        """Run DML; returns the number of rows it changed."""
        with self._transaction() as cursor:
            row = cursor.execute(statement.sql, values or None).fetchone()
        return row[0] if row else 0

    def _define(self, statement: Statement) -> None:
        """Run DDL."""
        (dataset, name), tree = statement.target, statement.tree
        with self._transaction() as cursor:
            if statement.kind == "SCHEMA":
                if tree.this.db not in self.datasets:
                    cursor.execute(f'CREATE SCHEMA "{tree.this.db}"')
                    self.datasets[tree.this.db] = self._new_dataset(tree.this.db, {})
                return
            if statement.kind == "TABLE":
                self._make_table(cursor, statement)
                return
            if statement.kind == "DROP":
                cursor.execute(f'DROP TABLE IF EXISTS "{dataset}"."{name}"')
                self.tables.pop((dataset, name), None)
                return
            cursor.execute(statement.sql)
            view = {"view": {"query": tree.expression.sql("bigquery"), "useLegacySql": False}}
            self.tables[dataset, name] = self._new_table(dataset, name, _columns(cursor, dataset, name), view)

    def _make_table(self, cursor: duckdb.DuckDBPyConnection, statement: Statement) -> None:
        """Run CREATE OR REPLACE TABLE AS."""
        (dataset, name), tree = statement.target, statement.tree
        self._dataset(dataset)
        columns = [each for each in tree.this.expressions if isinstance(each, exp.ColumnDef)]
        query = tree.expression.sql("duckdb")
        asked: Resource = {}
        if by := tree.find(exp.PartitionedByProperty):
            unit, of = by.this.args.get("unit"), by.this.this
            asked["timePartitioning"] = {"type": unit.name.upper() if unit else "DAY", "field": of.name}
        found = self.tables.get((dataset, name))
        if found and found.get("timePartitioning") != asked.get("timePartitioning"):
            raise ApiError("invalid", "Cannot replace a table with a different partitioning spec. Instead, DROP it")
        if columns:
            kinds = ((each.name, each.args["kind"].sql("bigquery")) for each in columns)
            fields = check_fields([{"name": column, "type": kind} for column, kind in kinds])
            cursor.execute(_create(dataset, name, fields, replace=True))
            cursor.execute(f'INSERT INTO "{dataset}"."{name}" {query}')
        else:
            cursor.execute(f'CREATE OR REPLACE TABLE "{dataset}"."{name}" AS {query}')
            fields = _columns(cursor, dataset, name)
        self.tables[dataset, name] = self._new_table(dataset, name, fields, asked)


#: Where the results of queries are: a hidden dataset.
_RESULTS = "_results"


def _job_key(reference: Resource) -> Key:
    return reference["location"].upper(), reference["jobId"]


def _now() -> str:
    return str(time.time_ns() // 1_000_000)


def _stamped(resource: Resource) -> Resource:
    """A resource that changed now."""
    return {**resource, "lastModifiedTime": _now()}


def _mismatch(table: Resource, why: str) -> ApiError:
    return ApiError("invalid", f"Provided Schema does not match Table {table['id']}. {why}")


def _check_labels(resource: Resource) -> None:
    for name, value in (resource.get("labels") or {}).items():
        if not (re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name) and re.fullmatch(r"[a-z0-9_-]{0,63}", value)):
            rule = "lowercase letters, digits, underscores and dashes, at most 63, and a key begins with a letter"
            raise ApiError("invalid", f"Invalid label {name}={value}: {rule}.")


def _columns(cursor: duckdb.DuckDBPyConnection, dataset: str, table: str) -> list[Resource]:
    """The fields of a table or view that SQL defined."""
    rows = cursor.sql(f'SELECT * FROM "{dataset}"."{table}" LIMIT 0').to_arrow_table()
    fields = read_fields(rows.schema, results=True)
    described = cursor.execute(f'DESCRIBE "{dataset}"."{table}"').fetchall()
    required = {name for name, _, nullable, *_ in described if nullable == "NO"}
    return [{**one, "mode": "REQUIRED"} if one["name"] in required else one for one in fields]


def _create(dataset: str, table: str, fields: list[Resource], *, replace: bool = False) -> str:
    required = {"REQUIRED": " NOT NULL"}
    columns = ", ".join(f'"{f["name"]}" {name_type(f)}{required.get(f["mode"], "")}' for f in fields)
    return f'CREATE {"OR REPLACE " if replace else ""}TABLE "{dataset}"."{table}" ({columns})'


def _scope(table: Resource, partition: str) -> str:
    """The rows of a partition, or all, in SQL."""
    if not partition:
        return "true"
    by = table.get("timePartitioning")
    if not by:
        raise ApiError("invalid", f"Cannot use a partition decorator: {table['id']} is not partitioned")
    return f"strftime(\"{by['field']}\", '%Y%m') = '{partition}'"


_PROJECT = r"(?:/upload)?/bigquery/v2/projects/([^/]+)"
_DATASET = r"/datasets/(?P<dataset>[^/]+)"
_TABLE = _DATASET + r"/tables/(?P<table>[^/:]+)"
# Methods, path, the permission, who answers.
_ROUTES: list[tuple[str, str, str, Callable[[BigQuery, Request], Any]]] = [
    ("POST", "/datasets", "datasets.create", BigQuery._insert_dataset),
    ("GET", "/datasets", "datasets.get", BigQuery._list_datasets),
    ("GET", _DATASET, "datasets.get", BigQuery._get_dataset),
    ("DELETE", _DATASET, "datasets.delete", BigQuery._delete_dataset),
    ("GET", _DATASET + "/tables", "tables.list", BigQuery._list_tables),
    ("GET", _DATASET + "/routines", "routines.list", lambda *_: {"routines": []}),
    ("POST", _DATASET + "/tables", "tables.create", BigQuery._insert_table),
    ("GET", _TABLE, "tables.get", BigQuery._get_table),
    ("PATCH", _TABLE, "tables.update", BigQuery._patch_table),
    ("DELETE", _TABLE, "tables.delete", BigQuery._delete_table),
    ("POST", "/jobs", "jobs.create", BigQuery._insert_job),
    ("PUT", "/jobs", "jobs.create", BigQuery._finish_upload),
    ("GET", "/jobs/(?P<job>[^/]+)", "jobs.get", BigQuery._get_job),
    ("POST", "/queries", "jobs.create", BigQuery._query_now),
    ("GET", "/queries/(?P<job>[^/]+)", "jobs.get", BigQuery._get_query_results),
]
