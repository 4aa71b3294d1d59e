"""Types, fields and values as BigQuery's REST API writes them, and its errors."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Resource = dict[str, Any]


# BigQuery's type: DuckDB's, Arrow's.
TYPES: dict[str, tuple[str, pa.DataType]] = {
    "STRING": ("VARCHAR", pa.string()),
    "GEOGRAPHY": ("VARCHAR", pa.string()),
    "INTEGER": ("BIGINT", pa.int64()),
    "FLOAT": ("DOUBLE", pa.float64()),
    "BOOLEAN": ("BOOLEAN", pa.bool_()),
    "DATE": ("DATE", pa.date32()),
    "DATETIME": ("TIMESTAMP", pa.timestamp("us")),
    "TIMESTAMP": ("TIMESTAMPTZ", pa.timestamp("us", "UTC")),
}


#: A file's type, and the other type of a column that it can be loaded into.
READABLE = {("DATETIME", "TIMESTAMP"), ("STRING", "GEOGRAPHY")}

NEW_NAMES = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN"}


_STATUSES = {"authError": 401, "accessDenied": 403, "notFound": 404, "duplicate": 409}


_STATUSES |= {"internalError": 500, "notImplemented": 501}


class ApiError(Exception):
    """What BigQuery refuses to do, as an error of the API or of a job."""

    def __init__(self, reason: str, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.proto = {"reason": reason, "message": message, "domain": "global"}
        self.status = status or _STATUSES.get(reason, 400)
        self.body = {"error": {"code": self.status, "message": message, "errors": [self.proto]}}


class ParquetSource:
    """A Parquet file as BigQuery sees it.

    Attributes:
        fields: Its columns as fields, all NULLABLE.
        size: Its bytes.
    """

    def __init__(self, uri: str, content: bytes) -> None:
        self._uri, self.size = uri, len(content)
        try:
            self._table = pq.read_table(io.BytesIO(content))
        except (pa.ArrowInvalid, OSError) as error:
            raise self._unreadable("Input file is not in Parquet format.") from error
        self.fields = read_fields(self._table.schema, results=False)

    def _unreadable(self, why: str) -> ApiError:
        return ApiError("invalid", f"Error while reading data, error message: {why} File: {self._uri}")

    def cast(self, fields: list[Resource]) -> pa.Table:
        """The rows with a table's columns; a column that it does not have is an error."""
        positions = {f["name"]: i for i, f in enumerate(self.fields)}
        if unknown := positions.keys() - {f["name"] for f in fields}:
            raise self._unreadable(f"No field in the schema for Parquet column '{min(unknown)}'.")
        columns = {}
        for one in fields:
            (_, arrow), i = TYPES[one["type"]], positions.get(one["name"])
            arrow = pa.list_(arrow) if one["mode"] == "REPEATED" else arrow
            column = pa.nulls(self._table.num_rows, arrow) if i is None else self._table.column(i)
            if i is not None and (self.fields[i]["mode"] == "REPEATED") != (one["mode"] == "REPEATED"):
                raise self._unreadable(
                    f"Parquet column '{one['name']}' is a list where the schema has none, or not one."
                )
            # A time without a zone can be read as UTC, a text as a shape; nothing else becomes another type.
            kinds = one["type"] if i is None else self.fields[i]["type"], one["type"]
            if i is not None and kinds[0] != kinds[1] and kinds not in READABLE:
                raise self._unreadable(f"Parquet column '{one['name']}' is {kinds[0]} and not {kinds[1]}.")
            if one["mode"] == "REQUIRED" and column.null_count:
                raise self._unreadable(f"Required field {one['name']} cannot be null.")
            columns[one["name"]] = column.cast(arrow)
        return pa.table(columns)


def check_fields(fields: list[Resource]) -> list[Resource]:
    """Fields of a schema with the names the API answers with."""
    checked = []
    for one in fields:
        kind, mode = one["type"].upper(), (one.get("mode") or "NULLABLE").upper()
        kind = NEW_NAMES.get(kind, kind)
        if kind not in TYPES or (mode, kind) not in {("NULLABLE", kind), ("REQUIRED", kind), ("REPEATED", "STRING")}:
            raise ApiError("notImplemented", f"The stand-in has no {mode} columns of {kind}: {one['name']}")
        checked.append({**one, "type": kind, "mode": mode})
    return checked


def read_fields(schema: pa.Schema, *, results: bool) -> list[Resource]:
    """An Arrow schema as fields, that of a query's results or of a file."""
    fields: list[Resource] = []
    unnamed = 0
    for column in schema:
        name = column.name
        if results and not re.fullmatch(r"[A-Za-z_]\w*", name):
            name, unnamed = f"f{unnamed}_", unnamed + 1
        mode = "REPEATED" if pa.types.is_list(column.type) else "NULLABLE"
        fields.append({"name": name, "type": _field_type(column.type, results=results), "mode": mode})
    return fields


def _field_type(arrow: pa.DataType, *, results: bool) -> str:
    if pa.types.is_dictionary(arrow) or pa.types.is_list(arrow):
        arrow = arrow.value_type
    if pa.types.is_timestamp(arrow):
        # BigQuery knows no nanoseconds: it takes them for the integers that Parquet stores.
        return "INTEGER" if arrow.unit == "ns" else "TIMESTAMP" if arrow.tz else "DATETIME"
    if pa.types.is_decimal(arrow):
        # DuckDB's sums of integers are decimals without a scale, its literals are decimals of any.
        return "FLOAT" if arrow.scale or not results else "INTEGER"
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


def name_type(field: Resource) -> str:
    return TYPES[field["type"]][0] + "[]" * (field.get("mode") == "REPEATED")


def write_rows(rows: pa.Table, options: Resource) -> Resource:
    """All rows in one page."""
    integers = str(options.get("useInt64Timestamp")).lower() == "true"
    columns = [_texts(column, integers=integers) for column in rows.columns]
    values = [{"f": [{"v": value} for value in row]} for row in zip(*columns, strict=True)]
    return {"totalRows": str(rows.num_rows), "rows": values}


def _texts(column: pa.ChunkedArray, *, integers: bool) -> list[Any]:
    """Values as BigQuery writes them in JSON."""
    kind = _field_type(column.type, results=True)
    writers: dict[str, Callable[[Any], str]] = {
        "INTEGER": lambda value: str(int(value)),
        "FLOAT": lambda value: repr(float(value)).replace("nan", "NaN").replace("inf", "Infinity"),
        "BOOLEAN": lambda value: str(value).lower(),
        "STRING": str,
        "DATE": lambda value: value.isoformat(),
        "DATETIME": lambda value: value.isoformat(),
        "TIMESTAMP": str if integers else lambda value: f"{value / 1e6:.16E}",
    }
    if pa.types.is_list(column.type):
        return [[{"v": writers[kind](value)} for value in values or ()] for values in column.to_pylist()]
    values = column.cast(pa.int64()).to_pylist() if kind == "TIMESTAMP" else column.to_pylist()
    return [None if value is None else writers[kind](value) for value in values]
