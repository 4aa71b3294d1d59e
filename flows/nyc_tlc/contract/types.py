"""The types of columns: one row per type, with its name in each system."""

from __future__ import annotations

from typing import Literal, NamedTuple

import polars as pl
import pyarrow as pa

#: The types of the contract's columns.
ContractType = Literal["int8", "int16", "int32", "float64", "string", "timestamp", "date"]
#: The contract's types, and those that other tables have: ``instant`` (a time in UTC), ``strings`` (an array) and
#: ``geography`` (well-known text in degrees).
Type = ContractType | Literal["int64", "instant", "strings", "geography"]


class Names(NamedTuple):
    """A type in each system.

    Attributes:
        arrow: In Parquet files and Arrow tables.
        duckdb: DuckDB's name. Its types with a time zone need an extension that would be downloaded.
        postgres: Postgres' name, as ``format_type`` writes it.
        table_schema: The name in a Data Package's Table Schema.
    """

    arrow: pa.DataType
    polars: pl.DataType
    duckdb: str
    postgres: str
    bigquery: str
    table_schema: str


TYPES: dict[Type, Names] = {
    "int8": Names(pa.int8(), pl.Int8(), "TINYINT", "smallint", "INT64", "integer"),
    "int16": Names(pa.int16(), pl.Int16(), "SMALLINT", "smallint", "INT64", "integer"),
    "int32": Names(pa.int32(), pl.Int32(), "INTEGER", "integer", "INT64", "integer"),
    "int64": Names(pa.int64(), pl.Int64(), "BIGINT", "bigint", "INT64", "integer"),
    "float64": Names(pa.float64(), pl.Float64(), "DOUBLE", "double precision", "FLOAT64", "number"),
    "string": Names(pa.string(), pl.Categorical(), "VARCHAR", "text", "STRING", "string"),
    "strings": Names(pa.list_(pa.string()), pl.List(pl.String()), "VARCHAR[]", "text[]", "ARRAY<STRING>", "array"),
    "geography": Names(pa.string(), pl.String(), "VARCHAR", "text", "GEOGRAPHY", "string"),
    "date": Names(pa.date32(), pl.Date(), "DATE", "date", "DATE", "date"),
    "timestamp": Names(
        pa.timestamp("us"), pl.Datetime("us"), "TIMESTAMP", "timestamp without time zone", "DATETIME", "datetime"
    ),
    "instant": Names(
        pa.timestamp("us", "UTC"),
        pl.Datetime("us", "UTC"),
        "TIMESTAMP",
        "timestamp with time zone",
        "TIMESTAMP",
        "datetime",
    ),
}
