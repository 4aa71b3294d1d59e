"""BigQuery on a socket: the calls of its REST API (v2) that a warehouse needs, over an in-memory DuckDB.

Implements, for one project:

* datasets: insert, get, list, delete (``deleteContents``); a ``location`` each.
* tables: insert, get and delete (also of one partition), list, patch and update (``If-Match``), testIamPermissions.
  Flat schemas of STRING, INTEGER, FLOAT, BOOLEAN, NUMERIC, DATE, DATETIME and TIMESTAMP, NULLABLE or REQUIRED; time
  partitioning by a column; clustering, labels, descriptions and constraints, which are kept and returned; views.
* load jobs of Parquet files, from ``gs://`` URIs and from multipart and resumable uploads: dispositions, partition
  decorators, explicit schemas, ``schemaUpdateOptions``, ``ignoreUnknownValues``. A job runs in its own thread and
  takes effect in one transaction, or fails and changes nothing.
* jobs: ids of the client's choice (409 when repeated), get and cancel by location, list.
* queries: jobs.insert, jobs.query (``requestId``), getQueryResults in pages, dry runs, named scalar parameters.
* what goes wrong: bearer tokens (401), denied permissions (403), and faults, one a request, in the order given.

GoogleSQL is rewritten for DuckDB as far as it has to be: quoted names, strings, comments, types, parameters,
``DATE_TRUNC`` and its like, CURRENT_TIMESTAMP(), SAFE_CAST, ``* EXCEPT``, the short forms of MERGE, INSERT and
DELETE. Else DuckDB decides what is an error and what it says; the API's own messages are as like BigQuery's as known.

Does not implement: several projects; scripts, sessions and transactions of several statements; legacy SQL; arrays,
structs, positional parameters; PARTITION BY, CLUSTER BY, OPTIONS and keys in CREATE TABLE; INFORMATION_SCHEMA,
pseudo-columns, wildcard tables; destination tables of queries; tabledata; copy, extract and external tables;
streaming inserts and the Storage APIs; wildcards in URIs, formats other than Parquet, REPEATED and RECORD columns;
ingestion-time and range partitioning, partition filters, expiry; pages in lists; quotas, costs and bytes.
"""

from __future__ import annotations

import io
import json
import re
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

Resource = dict[str, Any]
Answer = tuple[int, dict[str, str], Resource | None]

# BigQuery's type: DuckDB's, Arrow's, and what BigQuery's reader of Parquet calls it in its errors.
_TYPES: dict[str, tuple[str, pa.DataType, str]] = {
    "STRING": ("VARCHAR", pa.string(), "STRING"),
    "INTEGER": ("BIGINT", pa.int64(), "INT64"),
    "FLOAT": ("DOUBLE", pa.float64(), "DOUBLE"),
    "BOOLEAN": ("BOOLEAN", pa.bool_(), "BOOL"),
    "NUMERIC": ("DECIMAL(38,9)", pa.decimal128(38, 9), "NUMERIC"),
    "DATE": ("DATE", pa.date32(), "DATE"),
    "DATETIME": ("TIMESTAMP", pa.timestamp("us"), "DATETIME"),
    "TIMESTAMP": ("TIMESTAMPTZ", pa.timestamp("us", "UTC"), "TIMESTAMP"),
}
_NEW_NAMES = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN", "DECIMAL": "NUMERIC"}
_PARTITION_FORMATS = {"YEAR": "%Y", "MONTH": "%Y%m", "DAY": "%Y%m%d", "HOUR": "%Y%m%d%H"}
_PAGE_ROWS = 50_000
_STATUSES = {"authError": 401, "accessDenied": 403, "notFound": 404, "duplicate": 409, "conditionNotMet": 412}
_STATUSES |= {"internalError": 500, "notImplemented": 501}


@dataclass
class Fault:
    """What goes wrong with one request.

    Attributes:
        kind: ``status``: answer ``status``; ``reset``: reset the connection unheard; ``lost``: do what was asked,
            then reset the connection.
        method: The requests it waits for.
        about: A part of their path, query or body.
        status: The status.
        reason: Its reason, by which the client decides whether to try again.
        headers: Its headers.
    """

    kind: Literal["status", "reset", "lost"]
    method: str = "POST"
    about: str = ""
    status: int = 503
    reason: str = "backendError"
    headers: dict[str, str] = field(default_factory=dict)


class ApiError(Exception):
    """What BigQuery refuses to do, as an error of the API or of a job."""

    def __init__(self, reason: str, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.proto = {"reason": reason, "message": message, "domain": "global"}
        self.status = status or _STATUSES.get(reason, 400)
        self.body = {"error": {"code": self.status, "message": message, "errors": [self.proto]}}


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
    rows: pa.Table | None = None
    finished: threading.Event = field(default_factory=threading.Event)

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


@dataclass
class Upload:
    """A resumable upload: the job it is for, and what of it has come."""

    resource: Resource
    received: bytes = b""
    job: Job | None = None


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
    """

    def __init__(self, project: str, read_object: Callable[[str, str], bytes | None] = lambda *_: None) -> None:
        self.project, self.read_object = project, read_object
        self.calls: list[Request] = []
        self.faults: list[Fault] = []
        self.tokens: set[str] | None = None
        self.denied: set[str] = set()
        self.pause: threading.Event | None = None
        self.bucket_locations: dict[str, str] = {}
        self.datasets: dict[str, Resource] = {}
        self.tables: dict[tuple[str, str], Resource] = {}
        self.jobs: dict[tuple[str, str], Job] = {}
        self._requests: dict[str, Job] = {}
        self._uploads: dict[str, Upload] = {}
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
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[BigQuery]:
        """Serve while the block runs."""
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield self
        finally:
            if self.pause:
                self.pause.set()
            self._server.shutdown()
            self._server.server_close()

    # Requests.

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlsplit(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        request = Request(handler.command, unquote(url.path), dict(parse_qsl(url.query)), handler.headers, body)
        self.calls.append(request)
        text = unquote(handler.path).encode() + body
        fault = next((f for f in self.faults if f.method == request.method and f.about.encode() in text), None)
        if fault:
            self.faults.remove(fault)
        status, headers, resource = 500, {}, None
        if fault and fault.kind == "status":
            status, headers = fault.status, fault.headers
            resource = ApiError(fault.reason, "injected", status).body
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
        except (LookupError, ValueError, duckdb.Error) as error:
            # A status that the client does not try again for ten minutes.
            return 501, {}, ApiError("notImplemented", f"The stand-in failed: {error!r}").body

    def _permit(self, operation: str, *names: str) -> None:
        if operation in self.denied:
            name = f"{'Table' if len(names) > 1 else 'Dataset'} {self.project}:{'.'.join(names)}"
            name = name if names and not operation.startswith("jobs") else f"Project {self.project}"
            what = f"Permission bigquery.{operation} denied on {name.lower()} (or it may not exist)."
            raise ApiError("accessDenied", f"Access Denied: {name}: {what}")

    @contextmanager
    def _transaction(self, *, writes: bool = True, keep: bool = True) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._writing if writes else nullcontext(), closing(self._duck.cursor()) as cursor:
            cursor.begin()
            try:
                yield cursor
            except BaseException:
                cursor.rollback()
                raise
            if keep:
                cursor.commit()
            else:
                cursor.rollback()

    # Datasets.

    def _dataset(self, dataset: str, location: str | None = None) -> Resource:
        found = self.datasets.get(dataset)
        if found is None or (location or found["location"]).upper() != found["location"].upper():
            where = f" was not found in location {location}" if location else ""
            raise ApiError("notFound", f"Not found: Dataset {self.project}:{dataset}{where}")
        return found

    def _new_dataset(self, dataset: str, asked: Resource) -> Resource:
        reference = {"projectId": self.project, "datasetId": dataset}
        told = {"kind": "bigquery#dataset", "id": f"{self.project}:{dataset}", "datasetReference": reference}
        return _stamped({"location": "US", "creationTime": _now(), **asked, **told})

    def _insert_dataset(self, request: Request) -> Resource:
        asked = request.json
        dataset = asked["datasetReference"]["datasetId"]
        if not re.fullmatch(r"\w{1,1024}", dataset, re.ASCII):
            raise ApiError("invalid", f'Invalid dataset ID "{dataset}". Dataset IDs must be alphanumeric.')
        _check_labels(asked)
        with self._transaction() as cursor:
            if dataset in self.datasets:
                raise ApiError("duplicate", f"Already Exists: Dataset {self.project}:{dataset}")
            cursor.execute(f'CREATE SCHEMA "{dataset}"')
            self.datasets[dataset] = self._new_dataset(dataset, asked)
        return self.datasets[dataset]

    def _get_dataset(self, request: Request) -> Resource:
        return self._dataset(request.names["dataset"])

    def _list_datasets(self, _: Request) -> Resource:
        return {"datasets": list(self.datasets.values())}

    def _delete_dataset(self, request: Request) -> None:
        dataset = request.names["dataset"]
        with self._transaction() as cursor:
            self._dataset(dataset)
            inside = [key for key in self.tables if key[0] == dataset]
            if inside and request.query.get("deleteContents", "").lower() != "true":
                raise ApiError("resourceInUse", f"Dataset {self.project}:{dataset} is still in use")
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
        if unknown := asked.keys() & {"rangePartitioning", "externalDataConfiguration", "materializedView"}:
            raise ApiError("notImplemented", f"The stand-in has no {', '.join(unknown)}")
        _check_labels(asked)
        by = asked.get("timePartitioning")
        if by and (by["type"] not in _PARTITION_FORMATS or "field" not in by):
            raise ApiError("notImplemented", "The stand-in partitions by a column's YEAR, MONTH, DAY or HOUR")
        for name in ([by["field"]] if by else []) + asked.get("clustering", {}).get("fields", []):
            if name not in {f["name"] for f in fields}:
                what = "partitioning" if by and name == by["field"] else "clustering"
                raise ApiError("invalid", f"The field specified for {what} cannot be found in the schema: {name}")
        told = {
            "kind": "bigquery#table",
            "id": f"{self.project}:{dataset}.{table}",
            "tableReference": {"projectId": self.project, "datasetId": dataset, "tableId": table},
            "type": "VIEW" if "view" in asked else "TABLE",
            "location": self.datasets[dataset]["location"],
            "schema": {"fields": fields},
        }
        return _stamped({"creationTime": _now(), **asked, **told})

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
                fields = _checked_fields(asked.get("schema", {}).get("fields", []))
                cursor.execute(_create(dataset, table, fields))
            self.tables[dataset, table] = self._new_table(dataset, table, fields, asked)
        return self.tables[dataset, table]

    def _define_view(
        self, cursor: duckdb.DuckDBPyConnection, dataset: str, table: str, view: Resource
    ) -> list[Resource]:
        if view.get("useLegacySql", True):
            raise ApiError("invalid", "The stand-in has no legacy SQL: set useLegacySql to false")
        statement = Statement(view["query"], self.project)
        with self._google_errors(statement.sql, dataset):
            cursor.execute(f'CREATE OR REPLACE VIEW "{dataset}"."{table}" AS {statement.sql}')
            return _columns(cursor, dataset, table)

    def _get_table(self, request: Request) -> Resource:
        dataset, (table, _, partition) = request.names["dataset"], request.names["table"].partition("$")
        resource = self._table(dataset, table)
        if resource["type"] == "VIEW":
            return resource
        count = f'SELECT count(*) FROM "{dataset}"."{table}" WHERE {_scope(resource, partition)}'
        with closing(self._duck.cursor()) as cursor:
            try:
                rows = cursor.execute(count).fetchall()
            except duckdb.CatalogException:
                # Already listed, and its transaction is about to end.
                with self._writing:
                    rows = cursor.execute(count).fetchall()
            return {**resource, "numRows": str(rows[0][0])}

    def _list_tables(self, request: Request) -> Resource:
        self._dataset(request.names["dataset"])
        tables = [table for (dataset, _), table in self.tables.items() if dataset == request.names["dataset"]]
        return {"tables": tables, "totalItems": len(tables)}

    def _patch_table(self, request: Request) -> Resource:
        dataset, table = request.names["dataset"], request.names["table"]
        with self._transaction() as cursor:
            found, patch = self._table(dataset, table), request.json
            if request.headers.get("If-Match", found["etag"]) != found["etag"]:
                raise ApiError("conditionNotMet", "Precondition check failed.")
            if "timePartitioning" in patch and patch["timePartitioning"] != found.get("timePartitioning"):
                raise ApiError("invalid", "Cannot change partitioning spec for a partitioned table.")
            if "labels" in patch:
                labels = {**found.get("labels", {}), **(patch["labels"] or {})}
                patch["labels"] = {name: value for name, value in labels.items() if value is not None}
                _check_labels(patch)
            if found["type"] == "VIEW" and "view" in patch:
                patch["schema"] = {"fields": self._define_view(cursor, dataset, table, patch["view"])}
            elif found["type"] == "TABLE" and "schema" in patch:
                declared = _checked_fields(patch["schema"].get("fields", []))
                told = {f["name"].lower(): f for f in declared}
                fields = self._evolve(cursor, found, declared, {"ADDITION", "RELAXATION"})
                for one in fields:
                    if one["name"].lower() not in told:
                        raise _mismatch(found, f"Field {one['name']} is missing in new schema")
                    one["description"] = told[one["name"].lower()].get("description")
                patch["schema"] = {"fields": fields}
            own = ("tableReference", "etag", "id", "kind", "location", "type")
            self.tables[dataset, table] = _stamped({**found, **{k: v for k, v in patch.items() if k not in own}})
        return self.tables[dataset, table]

    def _delete_table(self, request: Request) -> None:
        dataset, (table, _, partition) = request.names["dataset"], request.names["table"].partition("$")
        with self._transaction() as cursor:
            resource = self._table(dataset, table)
            if partition:
                cursor.execute(f'DELETE FROM "{dataset}"."{table}" WHERE {_scope(resource, partition)}')
            else:
                cursor.execute(f'DROP {resource["type"]} "{dataset}"."{table}"')
                del self.tables[dataset, table]

    def _test_permissions(self, request: Request) -> Resource:
        self._table(request.names["dataset"], request.names["table"])
        return {"permissions": [p for p in request.json["permissions"] if p[len("bigquery.") :] not in self.denied]}

    def _evolve(
        self, cursor: duckdb.DuckDBPyConnection, table: Resource, declared: list[Resource], allowed: set[str]
    ) -> list[Resource]:
        """Change a table's fields to what is declared, as far as allowed; returns the fields it has then."""
        fields = {f["name"].lower(): dict(f) for f in table["schema"]["fields"]}
        alter = 'ALTER TABLE "{datasetId}"."{tableId}"'.format(**table["tableReference"])
        for new in declared:
            name, old = new["name"], fields.get(new["name"].lower())
            if old is None:
                if "ADDITION" not in allowed:
                    raise _mismatch(table, f"Cannot add fields (field: {name})")
                if new["mode"] == "REQUIRED":
                    raise _mismatch(table, f"Cannot add required fields to an existing schema. (field: {name})")
                cursor.execute(f'{alter} ADD COLUMN "{name}" {_TYPES[new["type"]][0]}')
                fields[name.lower()] = dict(new)
            elif old["type"] != new["type"]:
                raise _mismatch(table, f"Field {name} has changed type from {old['type']} to {new['type']}")
            elif old["mode"] != new["mode"]:
                if new["mode"] == "REQUIRED" or "RELAXATION" not in allowed:
                    raise _mismatch(table, f"Field {name} has changed mode from {old['mode']} to {new['mode']}")
                cursor.execute(f'{alter} ALTER COLUMN "{name}" DROP NOT NULL')
                old["mode"] = "NULLABLE"
        return list(fields.values())

    # Jobs.

    def _start(self, resource: Resource, uploaded: bytes | None = None) -> Job:
        configuration, reference = resource["configuration"], dict(resource.get("jobReference", {}))
        query, load = configuration.get("query"), configuration.get("load")
        location, dry_run = reference.get("location"), bool(query and configuration.get("dryRun"))
        _check_labels(configuration)
        if query:
            location = self._location(query, location)
        elif load:
            location = self._dataset(load["destinationTable"]["datasetId"], location)["location"]
            if load.get("sourceFormat") != "PARQUET" or not (load.get("sourceUris") or uploaded is not None):
                raise ApiError("notImplemented", "The stand-in loads PARQUET, from sourceUris or an upload")
        else:
            raise ApiError("notImplemented", f"The stand-in has no jobs of {', '.join(configuration)}")
        job_id = reference.get("jobId") or f"job_{uuid.uuid4().hex}"
        if not re.fullmatch(r"[\w-]{1,1024}", job_id, re.ASCII):
            raise ApiError("invalid", f'Invalid job ID "{job_id}". Job IDs must be alphanumeric (plus _ and -).')
        reference |= {"projectId": self.project, "jobId": job_id, "location": location}
        job = Job(reference, configuration, {"creationTime": _now(), "startTime": _now()})
        with self._job_ids:
            if (location.upper(), job_id) in self.jobs:
                raise ApiError("duplicate", f"Already Exists: Job {self.project}:{location}.{job_id}")
            if not dry_run:
                self.jobs[location.upper(), job_id] = job
        if load:
            threading.Thread(target=self._load, args=(job, load, uploaded), daemon=True).start()
            return job
        try:
            statistics, job.rows = self._execute(configuration["query"], location, keep=not dry_run)
            job.finish(query=statistics, totalBytesProcessed="0")
        except ApiError as error:
            if dry_run:
                raise
            job.finish(error)
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
        return self._upload(request) if is_upload else self._start(request.json).resource

    def _get_job(self, request: Request) -> Resource:
        job = self._job(request)
        if not self.pause:
            # About what an answer takes from afar; a client told too early sleeps a second before it asks again.
            job.finished.wait(0.2)
        return job.resource

    def _list_jobs(self, _: Request) -> Resource:
        return {"jobs": [{**job.resource, "state": job.state} for job in reversed(self.jobs.values())]}

    def _cancel_job(self, request: Request) -> Resource:
        job = self._job(request)
        with self._writing:
            if job.state != "DONE":
                job.finish(ApiError("stopped", "Job execution was cancelled: User requested cancellation"))
        return {"job": job.resource}

    def _upload(self, request: Request) -> Resource | Answer:
        if request.query["uploadType"] == "multipart":
            boundary = re.findall(r'boundary="?([^";]+)', request.headers["Content-Type"])[0]
            parts = request.body.split(b"--" + boundary.encode())[1:-1]
            resource, content = (part.partition(b"\r\n\r\n")[2][:-2] for part in parts)
            return self._start(json.loads(resource), content).resource
        upload_id = uuid.uuid4().hex
        self._uploads[upload_id] = Upload(request.json)
        return 200, {"Location": f"{self.url}{request.path}?uploadType=resumable&upload_id={upload_id}"}, None

    def _upload_chunk(self, request: Request) -> Resource | Answer:
        upload = self._uploads[request.query["upload_id"]]
        span, _, total = request.headers["Content-Range"].removeprefix("bytes ").partition("/")
        start = int(span.partition("-")[0]) if span != "*" else len(upload.received)
        if upload.job is None and start <= len(upload.received):
            upload.received = upload.received[:start] + request.body
        if upload.job is None and total == str(len(upload.received)):
            upload.job = self._start(upload.resource, upload.received)
        if upload.job:
            return upload.job.resource
        return 308, {"Range": f"bytes=0-{len(upload.received) - 1}"} if upload.received else {}, None

    # Loads.

    def _load(self, job: Job, load: Resource, uploaded: bytes | None) -> None:
        try:
            self._permit("tables.updateData", load["destinationTable"]["datasetId"])
            if uploaded is None:
                files = [self._source(uri, job.reference["location"]) for uri in load["sourceUris"]]
            else:
                files = [ParquetSource("uploaded file", uploaded)]
            if job.state == "PENDING":
                job.state = "RUNNING"
            if self.pause:
                self.pause.wait(60)
            with self._transaction() as cursor:
                if job.state == "DONE":
                    return
                rows = self._write(cursor, load, files)
            counts = {"inputFiles": len(files), "inputFileBytes": sum(f.size for f in files), "outputRows": rows}
            job.finish(load={name: str(count) for name, count in counts.items()})
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

    def _write(self, cursor: duckdb.DuckDBPyConnection, load: Resource, files: list[ParquetSource]) -> int:
        """Write what a load job reads; returns the number of rows."""
        dataset, decorated = load["destinationTable"]["datasetId"], load["destinationTable"]["tableId"]
        name, _, partition = decorated.partition("$")
        table, target = self.tables.get((dataset, name)), f'"{dataset}"."{name}"'
        given = _checked_fields(load["schema"]["fields"]) if "schema" in load else None
        declared = given or files[0].fields
        disposition, by = load.get("writeDisposition", "WRITE_APPEND"), load.get("timePartitioning")
        if table and (by or table.get("timePartitioning")) != table.get("timePartitioning"):
            expected = f"Expects {table.get('timePartitioning')}, but input partitioning specification is {by}"
            raise ApiError("invalid", f"Incompatible table partitioning specification. {expected}")
        if table is None or (disposition == "WRITE_TRUNCATE" and not partition):
            if table is None and load.get("createDisposition") == "CREATE_NEVER":
                raise ApiError("notFound", f"Not found: Table {self.project}:{dataset}.{name}")
            self._permit("tables.create", dataset)
            layout = {**load, **(table or {})}
            layout = {
                key: layout[key] for key in ("timePartitioning", "clustering", "description", "labels") if key in layout
            }
            cursor.execute(_create(dataset, name, declared, replace=True))
            table = self._new_table(dataset, name, declared, layout)
        else:
            allowed = {option.removeprefix("ALLOW_FIELD_") for option in load.get("schemaUpdateOptions", ())}
            table = _stamped({**table, "schema": {"fields": self._evolve(cursor, table, declared, allowed)}})
        fields, scope = table["schema"]["fields"], _scope(table, partition)
        only = None if load.get("ignoreUnknownValues") else given
        incoming = pa.concat_tables([file.cast(fields, only) for file in files])
        cursor.register("incoming", incoming)
        if cursor.execute(f"SELECT 1 FROM incoming WHERE NOT ({scope}) LIMIT 1").fetchone():
            message = "Some rows belong to different partitions rather than destination partition"
            raise ApiError("invalid", f"{message} {self.project}:{dataset}.{decorated}")
        if disposition == "WRITE_EMPTY":
            if cursor.execute(f"SELECT 1 FROM {target} WHERE {scope} LIMIT 1").fetchone():
                raise ApiError("duplicate", f"Already Exists: Table {self.project}:{dataset}.{decorated}")
        elif disposition != "WRITE_APPEND":
            cursor.execute(f"DELETE FROM {target} WHERE {scope}")
        columns = ", ".join(f'"{f["name"]}"' for f in fields)
        cursor.execute(f"INSERT INTO {target} ({columns}) SELECT {columns} FROM incoming")
        self.tables[dataset, name] = table
        return int(incoming.num_rows)

    # Queries.

    def _location(self, query: Resource, location: str | None) -> str:
        text = query["query"] + " " + query.get("defaultDataset", {}).get("datasetId", "")
        named = [dataset for dataset in self.datasets if re.search(rf"\b{dataset}\b", text)]
        for dataset in named:
            self._dataset(dataset, location)
        return location or (self.datasets[named[0]]["location"] if named else "US")

    def _query_now(self, request: Request) -> Resource:
        query = request.json
        job = self._requests.get(query.get("requestId", ""))
        if job is None:
            configuration = {"query": query, "labels": query.get("labels", {}), "dryRun": query.get("dryRun", False)}
            reference = {"location": query.get("location")}
            job = self._start({"configuration": configuration, "jobReference": reference})
            self._requests[query.get("requestId", uuid.uuid4().hex)] = job
        return self._results(job, {**query, **query.get("formatOptions", {})})

    def _get_results(self, request: Request) -> Resource:
        options = {name.removeprefix("formatOptions."): value for name, value in request.query.items()}
        return self._results(self._job(request), options)

    def _results(self, job: Job, options: Resource) -> Resource:
        if job.error:
            raise job.error
        statistics = job.statistics.get("query", {})
        told = {"kind": "bigquery#queryResponse", "jobReference": job.reference, "jobComplete": job.state == "DONE"}
        told |= {name: statistics[name] for name in ("schema", "numDmlAffectedRows") if name in statistics}
        told |= {"totalBytesProcessed": "0", "cacheHit": False}
        return told if job.rows is None else told | _page(job.rows, options)

    def _execute(self, query: Resource, location: str, *, keep: bool) -> tuple[Resource, pa.Table | None]:
        """Run a statement, or see that it would run; returns the job's statistics and the rows of a SELECT."""
        if query.get("useLegacySql", True):
            raise ApiError("invalid", "The stand-in has no legacy SQL: set useLegacySql to false")
        if unknown := query.keys() & {"destinationTable", "connectionProperties", "createSession"}:
            raise ApiError("notImplemented", f"The stand-in's queries have no {', '.join(unknown)}")
        default = query.get("defaultDataset", {}).get("datasetId", "main")
        statement = Statement(query["query"], self.project)
        values = statement.bind(query.get("queryParameters", ()))
        selects = statement.kind == "SELECT"
        self._permit(_NEEDS.get(statement.kind, "tables.updateData"))
        statistics: Resource = {"statementType": statement.kind, "totalBytesProcessed": "0", "cacheHit": False}
        with (
            self._google_errors(statement.sql, default, location),
            self._transaction(writes=not selects, keep=keep) as cursor,
        ):
            cursor.execute(f"SET search_path = '{default}'")
            if len(cursor.extract_statements(statement.sql)) != 1:
                raise ApiError("invalidQuery", "The stand-in takes one statement a query")
            if selects:
                rows = cursor.sql(statement.sql, params=values).to_arrow_table()
                return {**statistics, "schema": {"fields": _fields(rows.schema, results=True)}}, rows
            told = cursor.execute(statement.sql, values).fetchone()
            if statement.kind in ("INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE_TABLE"):
                statistics["numDmlAffectedRows"] = str(told[0] if told else 0)
            elif keep:
                self._adopt(cursor, statement, location)
        return statistics, None

    def _adopt(self, cursor: duckdb.DuckDBPyConnection, statement: Statement, location: str) -> None:
        """Bring the resources in line with what a statement defined, changed or dropped."""
        schemas = cursor.execute("SELECT schema_name FROM duckdb_schemas() WHERE NOT internal").fetchall()
        there = {name for (name,) in schemas} - {"main"}
        for dataset in there - self.datasets.keys():
            self.datasets[dataset] = self._new_dataset(dataset, {"location": location})
        for dataset in self.datasets.keys() - there:
            del self.datasets[dataset]
        listed = cursor.execute(
            "SELECT schema_name, table_name, false FROM duckdb_tables() WHERE NOT internal"
            " UNION ALL SELECT schema_name, view_name, true FROM duckdb_views() WHERE NOT internal"
        ).fetchall()
        for dataset, name, is_view in listed:
            fields, known = _columns(cursor, dataset, name), self.tables.get((dataset, name))
            old = {f["name"]: f for f in known["schema"]["fields"]} if known else {}
            if known is None or statement.replaces == (dataset, name):
                definition = {"view": {"query": statement.body, "useLegacySql": False}} if is_view else {}
                self.tables[dataset, name] = self._new_table(dataset, name, fields, definition)
            elif list(old) != [f["name"] for f in fields]:
                merged = [old.get(f["name"], f) for f in fields]
                self.tables[dataset, name] = _stamped({**known, "schema": {"fields": merged}})
        for key in self.tables.keys() - {(dataset, name) for dataset, name, _ in listed}:
            del self.tables[key]

    @contextmanager
    def _google_errors(self, sql: str, default: str, location: str = "US") -> Iterator[None]:
        """Say DuckDB's errors as BigQuery would."""
        try:
            yield
        except duckdb.Error as error:
            message = str(error).splitlines()[0]
            found = re.search(r'(Table|View|Schema) with name "?(?:(\w+)\.)?(\w+)"? (does not|already)', message)
            if not found:
                syntax = "Syntax error: " if isinstance(error, duckdb.ParserException) else ""
                raise ApiError("invalidQuery", syntax + message) from error
            kind, dataset, name, state = found.groups()
            qualified = re.search(rf'(\w+)"?\."?{name}\b', sql)
            dataset = name if kind == "Schema" else dataset or (qualified[1] if qualified else default)
            is_dataset = kind == "Schema" or dataset not in self.datasets
            thing = f"Dataset {self.project}:{dataset}" if is_dataset else f"Table {self.project}:{dataset}.{name}"
            if state == "already":
                raise ApiError("duplicate", f"Already Exists: {thing}") from error
            raise ApiError("notFound", f"Not found: {thing} was not found in location {location}") from error


class ParquetSource:
    """A Parquet file as BigQuery sees it.

    Attributes:
        fields: Its columns as fields, all NULLABLE.
        size: Its bytes.
    """

    def __init__(self, uri: str, content: bytes) -> None:
        self._uri, self.size = uri, len(content)
        try:
            file = pq.ParquetFile(io.BytesIO(content))
            self._table = file.read()
        except (pa.ArrowInvalid, OSError) as error:
            raise self._unreadable("Input file is not in Parquet format.") from error
        self.fields = _fields(self._table.schema, results=False)
        self._physical = [file.schema.column(i).physical_type for i in range(len(self.fields))]

    def _unreadable(self, why: str) -> ApiError:
        return ApiError("invalid", f"Error while reading data, error message: {why} File: {self._uri}")

    def cast(self, fields: list[Resource], only: list[Resource] | None) -> pa.Table:
        """The rows with a table's columns; with ``only``, a column it does not name is an error."""
        positions = {f["name"].lower(): i for i, f in enumerate(self.fields)}
        if unknown := positions.keys() - {f["name"].lower() for f in only or self.fields}:
            raise self._unreadable(f"No field in the schema for Parquet column '{min(unknown)}'.")
        columns = {}
        for one in fields:
            (_, arrow, cpp), i = _TYPES[one["type"]], positions.get(one["name"].lower())
            column = pa.nulls(self._table.num_rows, arrow) if i is None else self._table.column(i)
            # A time without a zone can be read as UTC; nothing else becomes another type.
            kinds = one["type"] if i is None else self.fields[i]["type"], one["type"]
            if i is not None and kinds[0] != kinds[1] and kinds != ("DATETIME", "TIMESTAMP"):
                types = f"has type {self._physical[i]} which does not match the target cpp_type {cpp}."
                raise self._unreadable(f"Parquet column '{one['name']}' {types}")
            if one["mode"] == "REQUIRED" and column.null_count:
                raise self._unreadable(f"Required field {one['name']} cannot be null.")
            columns[one["name"]] = column.cast(arrow)
        return pa.table(columns)


_TOKEN = r"""
    (?P<comment>--[^\n]*|\#[^\n]*|/\*.*?\*/)
  | (?P<raw>[rR]?)(?P<quote>'|")(?P<text>(?:\\.|(?!(?P=quote)).)*)(?P=quote)
  | (?P<project>`%s`\.|\b%s\.)
  | `(?P<name>[^`]+)`
  | @(?P<parameter>\w+)
  | (?P<word>\b[A-Za-z_]\w*)
"""
_WORDS = {"INT64": "BIGINT", "FLOAT64": "DOUBLE", "STRING": "VARCHAR", "NUMERIC": "DECIMAL(38,9)"}
_WORDS |= {"DATETIME": "TIMESTAMP", "TIMESTAMP": "TIMESTAMPTZ", "SAFE_CAST": "TRY_CAST"}
_REWRITES = [
    (r"\bDATE_TRUNC\(((?:[^()]|\([^()]*\))*),\s*(\w+)\s*\)", r"CAST(date_trunc('\2', \1) AS DATE)"),
    (r"\b(?:DATETIME|TIMESTAMP)_TRUNC\(((?:[^()]|\([^()]*\))*),\s*(\w+)\s*\)", r"date_trunc('\2', \1)"),
    (r"\bCURRENT_TIMESTAMP\(\s*\)", "CURRENT_TIMESTAMP"),
    (r"\*\s*EXCEPT\s*\(", "* EXCLUDE ("),
    (r"\bINSERT\s+ROW\b", "INSERT"),
    (r"^\s*(MERGE|INSERT)\s+(?!INTO\b)", r"\1 INTO "),
    (r"^\s*DELETE\s+(?!FROM\b)", "DELETE FROM "),
]
_VERB = r'(CREATE|DROP|ALTER|TRUNCATE)\s+(OR\s+REPLACE\s+)?(\w+)\s+(?:IF\s+\w+(?:\s+EXISTS)?\s+)?([\w."]+)|\W*(\w+)'
# What the caller needs for a statement; for any other, to change data.
_NEEDS = {"SELECT": "tables.getData", "CREATE_SCHEMA": "datasets.create"}
_NEEDS |= dict.fromkeys(("CREATE_TABLE", "CREATE_VIEW"), "tables.create")


class Statement:
    """A GoogleSQL statement in DuckDB's words.

    Attributes:
        sql: The statement.
        kind: The ``statementType``.
        body: The query of the view it defines.
        replaces: The table or view it defines anew.
    """

    def __init__(self, text: str, project: str) -> None:
        self._project, self._parameters = project, set[str]()
        self.body = re.split(r"\bAS\s+(?=\(?\s*(?:SELECT|WITH)\b)", text, maxsplit=1, flags=re.I)[-1]
        sql = re.sub(_TOKEN % ((re.escape(project),) * 2), self._rewrite, text, flags=re.X | re.S)
        for pattern, replacement in _REWRITES:
            sql = re.sub(pattern, replacement, sql, flags=re.I)
        self.sql = sql.strip()
        words = re.match(_VERB, self.sql, re.I)
        if not words:
            raise ApiError("invalidQuery", "Syntax error: Unexpected end of statement")
        verb, replace, thing, target, first = words.groups()
        self.kind = f"{verb}_{thing}".upper() if verb else first.upper().replace("WITH", "SELECT")
        self.replaces = tuple(target.replace('"', "").split(".")) if replace else None
        if self.kind in ("DELETE", "UPDATE") and not re.search(r"\bWHERE\b", self.sql, re.I):
            raise ApiError("invalidQuery", f"{self.kind} must have a WHERE clause")

    def _rewrite(self, token: re.Match[str]) -> str:
        if token["comment"] or token["project"]:
            return " " if token["comment"] else ""
        if token["quote"]:
            text = token["text"] if token["raw"] else re.sub(r"\\(.)", r"\1", token["text"])
            return "'" + text.replace("'", "''") + "'"
        if token["name"]:
            parts = token["name"].split(".")
            if parts[0] == self._project and len(parts) > 1:
                parts = parts[1:]
            elif len(parts) == 3:
                table = token["name"].replace(".", ":", 1)
                raise ApiError("accessDenied", f"Access Denied: Table {table}: User does not have permission to query.")
            return ".".join(f'"{part}"' for part in parts)
        if token["parameter"]:
            self._parameters.add(token["parameter"])
            return f"${token['parameter']}"
        new = _WORDS.get(token["word"].upper(), token["word"])
        is_call = token.string[token.end() :].lstrip().startswith("(")
        return token["word"] if is_call and new != "TRY_CAST" else new

    def bind(self, parameters: Any) -> dict[str, Any] | None:
        """The values of the parameters, whose types it writes into the statement."""
        given = {p.get("name"): p for p in parameters}
        for name in self._parameters:
            if name not in given:
                raise ApiError("invalidQuery", f"Query parameter '{name}' not found")
            kind = given[name]["parameterType"]["type"]
            kind = _NEW_NAMES.get(kind, kind)
            if kind not in _TYPES:
                raise ApiError("notImplemented", f"The stand-in has no parameters of {kind}")
            self.sql = re.sub(rf"\${name}\b", f"CAST(${name} AS {_TYPES[kind][0]})", self.sql)
        return {name: given[name]["parameterValue"].get("value") for name in self._parameters} or None


def _now() -> str:
    return str(time.time_ns() // 1_000_000)


def _stamped(resource: Resource) -> Resource:
    """A resource with a new time and etag."""
    return {**resource, "lastModifiedTime": _now(), "etag": uuid.uuid4().hex}


def _mismatch(table: Resource, why: str) -> ApiError:
    return ApiError("invalid", f"Provided Schema does not match Table {table['id']}. {why}")


def _check_labels(resource: Resource) -> None:
    for name, value in (resource.get("labels") or {}).items():
        if not (re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name) and re.fullmatch(r"[a-z0-9_-]{0,63}", value)):
            rule = "lowercase letters, digits, underscores and dashes, at most 63, and a key begins with a letter"
            raise ApiError("invalid", f"Invalid label {name}={value}: {rule}.")


def _checked_fields(fields: list[Resource]) -> list[Resource]:
    """Fields of a schema with the names the API answers with."""
    checked = []
    for one in fields:
        kind, mode = one["type"].upper(), (one.get("mode") or "NULLABLE").upper()
        kind = _NEW_NAMES.get(kind, kind)
        if kind not in _TYPES or mode == "REPEATED":
            raise ApiError("notImplemented", f"The stand-in has no {mode} columns of {kind}: {one['name']}")
        checked.append({**one, "type": kind, "mode": mode})
    return checked


def _fields(schema: pa.Schema, *, results: bool) -> list[Resource]:
    """An Arrow schema as fields, that of a query's results or of a file."""
    fields: list[Resource] = []
    unnamed = 0
    for column in schema:
        name = column.name
        if results and not re.fullmatch(r"[A-Za-z_]\w*", name):
            name, unnamed = f"f{unnamed}_", unnamed + 1
        fields.append({"name": name, "type": _field_type(column.type, results=results), "mode": "NULLABLE"})
    return fields


def _field_type(arrow: pa.DataType, *, results: bool) -> str:
    if pa.types.is_dictionary(arrow):
        arrow = arrow.value_type
    if pa.types.is_timestamp(arrow):
        # BigQuery knows no nanoseconds: it takes them for the integers that Parquet stores.
        return "INTEGER" if arrow.unit == "ns" else "TIMESTAMP" if arrow.tz else "DATETIME"
    if pa.types.is_decimal(arrow):
        # DuckDB's sums of integers are decimals without a scale, its literals are decimals of any.
        return "NUMERIC" if arrow.scale == 9 or not results else "FLOAT" if arrow.scale else "INTEGER"
    for kind, tests in {
        "INTEGER": (pa.types.is_integer, pa.types.is_null),
        "FLOAT": (pa.types.is_floating,),
        "BOOLEAN": (pa.types.is_boolean,),
        "STRING": (pa.types.is_string, pa.types.is_large_string),
        "DATE": (pa.types.is_date,),
    }.items():
        if any(test(arrow) for test in tests):
            return kind
    raise ApiError("notImplemented", f"The stand-in has no columns of Arrow's {arrow}")


def _columns(cursor: duckdb.DuckDBPyConnection, dataset: str, table: str) -> list[Resource]:
    """The fields of a table or view that SQL defined."""
    fields = _fields(cursor.sql(f'SELECT * FROM "{dataset}"."{table}" LIMIT 0').to_arrow_table().schema, results=True)
    described = cursor.execute(f'DESCRIBE "{dataset}"."{table}"').fetchall()
    required = {name for name, _, nullable, *_ in described if nullable == "NO"}
    return [{**one, "mode": "REQUIRED" if one["name"] in required else "NULLABLE"} for one in fields]


def _create(dataset: str, table: str, fields: list[Resource], *, replace: bool = False) -> str:
    if not fields:
        raise ApiError("notImplemented", "The stand-in has no tables without columns")
    required = {"REQUIRED": " NOT NULL"}
    columns = ", ".join(f'"{f["name"]}" {_TYPES[f["type"]][0]}{required.get(f["mode"], "")}' for f in fields)
    return f'CREATE {"OR REPLACE " if replace else ""}TABLE "{dataset}"."{table}" ({columns})'


def _scope(table: Resource, partition: str) -> str:
    """The rows of a partition, or all, in SQL."""
    if not partition:
        return "true"
    by = table.get("timePartitioning")
    if not by:
        raise ApiError("invalid", f"Cannot use a partition decorator: {table['id']} is not partitioned")
    layout = _PARTITION_FORMATS[by["type"]]
    if partition != "__NULL__" and not re.fullmatch(rf"\d{{{len(time.strftime(layout))}}}", partition):
        raise ApiError("invalid", f"Invalid partition decorator: {table['id']}${partition}")
    return f"coalesce(strftime(\"{by['field']}\", '{layout}'), '__NULL__') = '{partition}'"


def _page(rows: pa.Table, options: Resource) -> Resource:
    start = int(options.get("pageToken") or options.get("startIndex") or 0)
    size = min(int(options.get("maxResults", _PAGE_ROWS)), _PAGE_ROWS)
    integers = str(options.get("useInt64Timestamp")).lower() == "true"
    part = rows.slice(start, size)
    columns = [_texts(column, integers=integers) for column in part.columns]
    page: Resource = {"totalRows": str(rows.num_rows)}
    if part.num_rows:
        page["rows"] = [{"f": [{"v": value} for value in row]} for row in zip(*columns, strict=True)]
    if size and start + size < rows.num_rows:
        page["pageToken"] = str(start + size)
    return page


def _texts(column: pa.ChunkedArray, *, integers: bool) -> list[str | None]:
    """Values as BigQuery writes them in JSON."""
    kind = _field_type(column.type, results=True)
    writers: dict[str, Callable[[Any], str]] = {
        "INTEGER": lambda value: str(int(value)),
        "FLOAT": lambda value: repr(float(value)).replace("nan", "NaN").replace("inf", "Infinity"),
        "NUMERIC": lambda value: f"{value.normalize():f}",
        "BOOLEAN": lambda value: str(value).lower(),
        "STRING": str,
        "DATE": lambda value: value.isoformat(),
        "DATETIME": lambda value: value.isoformat(),
        "TIMESTAMP": str if integers else lambda value: f"{value / 1e6:.16E}",
    }
    values = column.cast(pa.int64()).to_pylist() if kind == "TIMESTAMP" else column.to_pylist()
    return [None if value is None else writers[kind](value) for value in values]


_PROJECT = r"(?:/upload)?/bigquery/v2/projects/([^/]+)"
_DATASET = r"/datasets/(?P<dataset>[^/]+)"
_TABLE = _DATASET + r"/tables/(?P<table>[^/:]+)"
# Methods, path, the permission, who answers.
_ROUTES: list[tuple[str, str, str, Callable[[BigQuery, Request], Any]]] = [
    ("POST", "/datasets", "datasets.create", BigQuery._insert_dataset),
    ("GET", "/datasets", "datasets.list", BigQuery._list_datasets),
    ("GET", _DATASET, "datasets.get", BigQuery._get_dataset),
    ("DELETE", _DATASET, "datasets.delete", BigQuery._delete_dataset),
    ("POST", _DATASET + "/tables", "tables.create", BigQuery._insert_table),
    ("GET", _DATASET + "/tables", "tables.list", BigQuery._list_tables),
    ("GET", _TABLE, "tables.get", BigQuery._get_table),
    ("PATCH PUT", _TABLE, "tables.update", BigQuery._patch_table),
    ("DELETE", _TABLE, "tables.delete", BigQuery._delete_table),
    ("POST", _TABLE + ":testIamPermissions", "", BigQuery._test_permissions),
    ("POST", "/jobs", "jobs.create", BigQuery._insert_job),
    ("PUT", "/jobs", "jobs.create", BigQuery._upload_chunk),
    ("GET", "/jobs", "jobs.list", BigQuery._list_jobs),
    ("GET", "/jobs/(?P<job>[^/]+)", "jobs.get", BigQuery._get_job),
    ("POST", "/jobs/(?P<job>[^/]+)/cancel", "jobs.update", BigQuery._cancel_job),
    ("POST", "/queries", "jobs.create", BigQuery._query_now),
    ("GET", "/queries/(?P<job>[^/]+)", "jobs.get", BigQuery._get_results),
]
