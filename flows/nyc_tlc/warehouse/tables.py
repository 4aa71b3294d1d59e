"""The tables and views of every warehouse. Those of trips are made from the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from nyc_tlc.contract.dataset import Contract, read_contract
from nyc_tlc.contract.types import TYPES, Type
from nyc_tlc.errors import ContractError
from nyc_tlc.month import COLORS, Color


@dataclass(frozen=True)
class Field:
    """A column of a table. A required one has a value in every row."""

    name: str
    type: Type
    description: str
    required: bool = False


@dataclass(frozen=True)
class Table:
    """A table. The columns of the key identify a row."""

    name: str
    description: str
    fields: tuple[Field, ...]
    key: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)

    @property
    def comments(self) -> dict[str, str]:
        """Column -> what it holds."""
        return {field.name: field.description for field in self.fields}


def to_arrow(rows: Sequence[Sequence[object]], table: Table) -> pa.Table:
    """Return rows as an Arrow table. They go through polars, because pyarrow would import pandas here."""
    schema = pa.schema([pa.field(field.name, TYPES[field.type].arrow) for field in table.fields])
    return pl.DataFrame(rows, schema=list(table.names), orient="row").to_arrow().cast(schema)


TRIP_KEY = ("file_month", "source_row")

LOADS = Table(
    "loads",
    "The months in this warehouse: one row per colour and month. DuckDB and Postgres write it in one transaction with"
    " the month's rows, BigQuery right after the load job that brought them. In Postgres, a REPEATABLE READ transaction"
    " that reads it first and trips later can find an old row here beside new trips",
    (
        Field("color", "string", "The colour", required=True),
        Field("file_month", "date", "First day of the month", required=True),
        Field("row_count", "int64", "The manifest's clean rows, counted here too", required=True),
        Field("source_rows", "int64", "Rows of the source file: row_count and quarantine_rows together"),
        Field("quarantine_rows", "int64", "Rows of the month in the quarantine table"),
        Field("clean_sha256", "string", "SHA-256 of the lake's clean file they came from", required=True),
        Field("source_sha256", "string", "SHA-256 of the source file that the clean file was made from", required=True),
        Field("loaded_at", "instant", "When, in UTC", required=True),
        Field("flow_run_id", "string", "The Prefect flow run that loaded it"),
        Field("job_id", "string", "The BigQuery load job; null in other warehouses"),
        Field("source_kind", "string", "The kind of source: tlc, dtc, sample or template"),
        Field("source_url", "string", "The source file's URL, without what can be secret"),
        Field("version", "string", "The lake's version of the month: the 12 digits in the names of its files"),
    ),
    ("color", "file_month"),
)


def trip_table(contract: Contract) -> Table:
    """Return the table of a colour's trips: the clean columns of the contract."""
    fields = tuple(
        Field(
            column.name,
            column.type,
            f"{column.description} ({column.unit})" if column.unit else column.description,
            required=column.name in TRIP_KEY,
        )
        for column in contract.columns
    )
    description = f"{contract.title}: one row per trip; (file_month, source_row) is its key"
    return Table(f"{contract.color}_trip_data", description, fields, TRIP_KEY)


def quarantine_table(contract: Contract) -> Table:
    """Return the table of a colour's rejected rows: the clean columns, and why each row was rejected."""
    trips = trip_table(contract)
    fields = (
        *trips.fields,
        Field("rejection_rule", "string", "The first rule that the row breaks"),
        Field("rejection_rules", "strings", "All rules that the row breaks"),
        Field("raw", "string", "The source's text of what could not be read"),
    )
    description = f"{contract.title}: rejected rows, one row each; (file_month, source_row) is its key"
    return Table(f"{contract.color}_quarantine", description, fields, TRIP_KEY)


def trip_tables() -> dict[Color, Table]:
    """Return the tables of all colours' trips."""
    return {color: trip_table(read_contract(color)) for color in COLORS}


def month_tables() -> tuple[Table, ...]:
    """Return all tables that are loaded month by month, and ``loads``."""
    return (*trip_tables().values(), *(quarantine_table(read_contract(color)) for color in COLORS), LOADS)


@dataclass(frozen=True)
class View:
    """A view. Its SQL is the same for all warehouses; tables are named with their schema in it.

    Attributes:
        comments: Column -> what it holds.
    """

    name: str
    description: str
    comments: Mapping[str, str]
    sql: str

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.comments)


def list_views(schema: str) -> tuple[View, ...]:
    """Return the views on the trips in a schema; a view comes after those it uses."""
    tables = trip_tables()
    merged = {
        "color": "The colour of the taxi: yellow or green",
        **tables["yellow"].comments,
        **tables["green"].comments,
    }
    columns = tuple(name for name in merged if name != "color")
    zones = {
        f"{way}_{column}": f"The {name} of the zone of the {end}"
        for way, end in (("pickup", "pick-up"), ("dropoff", "drop-off"))
        for column, name in (("borough", "borough"), ("zone", "name"))
    }
    return (
        *(_source_view(schema, color, table) for color, table in tables.items()),
        View(
            "trips",
            "The trips of yellow and green taxis",
            merged,
            " UNION ALL ".join(_select_trips(schema, color, tables[color], columns) for color in ("yellow", "green")),
        ),
        View(
            "trips_by_zone",
            "The trips of yellow and green taxis, with the boroughs and names of their zones",
            merged | zones,
            f"SELECT {', '.join(f't.{name}' for name in merged)},"
            " p.borough AS pickup_borough, p.zone AS pickup_zone, d.borough AS dropoff_borough, d.zone AS dropoff_zone"
            f" FROM {schema}.trips t"
            f" LEFT JOIN {schema}.zones p ON p.location_id = t.pickup_location_id"
            f" LEFT JOIN {schema}.zones d ON d.location_id = t.dropoff_location_id",
        ),
    )


def _select_trips(schema: str, color: str, table: Table, names: Sequence[str]) -> str:
    columns = ", ".join(name if name in table.names else f"NULL AS {name}" for name in names)
    return f"SELECT '{color}' AS color, {columns} FROM {schema}.{table.name}"


def _source_view(schema: str, color: Color, table: Table) -> View:
    columns, rows = ", ".join(table.names), ", ".join(f"r.{name}" for name in table.names)
    return View(
        f"{color}_source",
        f"All rows of the source files of {color}: trips and quarantined rows, and where they are from",
        {
            **table.comments,
            "is_quarantined": "Whether the row was rejected",
            "rejection_rule": "The first rule that the row breaks; null for a trip",
            **{name: LOADS.comments[name] for name in ("source_kind", "source_url")},
        },
        f"SELECT {rows}, r.is_quarantined, r.rejection_rule, l.source_kind, l.source_url FROM ("
        f"SELECT {columns}, TRUE AS is_quarantined, rejection_rule FROM {schema}.{color}_quarantine"
        f" UNION ALL SELECT {columns}, FALSE, NULL FROM {schema}.{table.name}"
        f") r LEFT JOIN {schema}.{LOADS.name} l ON l.color = '{color}' AND l.file_month = r.file_month",
    )


def missing_fields(table: Table, found: Mapping[str, str], types: Mapping[Type, str], place: str) -> Sequence[Field]:
    """Return the columns that an existing table lacks.

    Args:
        found: Its columns and their types, as the warehouse names them.

    Raises:
        ContractError: when it has an unknown column or another type.
    """
    expected = {field.name: types[field.type] for field in table.fields}
    wrong = [name for name, kind in found.items() if expected.get(name) != kind]
    if wrong:
        raise ContractError(
            f"{place}: the table {table.name} differs from the contract",
            expected=", ".join(f"{name} {expected.get(name, '(no such column)')}" for name in wrong),
            got=", ".join(f"{name} {found[name]}" for name in wrong),
            fix="drop or rename the table, and load its months again",
        )
    return [field for field in table.fields if field.name not in found]
