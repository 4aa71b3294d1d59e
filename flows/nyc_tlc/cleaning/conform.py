"""One era's columns -> the contract's: names, types and codes, vectorised, with what can't be cast marked."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa

from nyc_tlc.contract.contract import Column, ColumnMap, Contract
from nyc_tlc.errors import ContractError
from nyc_tlc.months import Month

POLARS_TYPES: dict[str, pl.DataType] = {
    "int8": pl.Int8(),
    "int16": pl.Int16(),
    "int32": pl.Int32(),
    "float64": pl.Float64(),
    "string": pl.Categorical(),
    "timestamp": pl.Datetime("us"),
    "date": pl.Date(),
}
#: As TLC writes times as text, with or without a fraction.
TIMESTAMP_FORMAT = "%Y-%m-%d %H:%M:%S%.f"


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of a file, in the contract's columns.

    Attributes:
        frame: The clean columns, ``file_month`` and ``source_row`` included.
        bad_values: Column -> which rows hold a value there that can't be cast; it is null in ``frame``.
        raw: The text of rows that aren't records at all (null in every column), null for the others;
            None where all are records.
    """

    frame: pl.DataFrame
    bad_values: dict[str, pl.Series] = field(default_factory=dict)
    raw: pl.Series | None = None


class Conformer:
    """Casts the batches of one file to the contract. Built once a file, called once a batch."""

    def __init__(self, terms: Contract, column_map: ColumnMap, schema: pa.Schema, month: Month) -> None:
        """Compile the casts.

        Args:
            terms: The colour's contract.
            column_map: How the file's columns map onto it.
            schema: The file's own schema.
            month: The file's month.

        Raises:
            ContractError: when a column's type can't hold what the contract wants there.
        """
        self._sources = column_map.sources
        self._columns = {column.name: column for column in terms.columns}
        self._casts: dict[str, pl.Expr] = {}
        self._unreadable: dict[str, pl.Expr] = {}
        for column in terms.columns:
            sources = column_map.sources.get(column.name, ())
            refuse_type = f"{terms.color} {month}: the column {{}} can't be read as {column.type}"
            for name in sources:
                if not _readable(schema.field(name).type, column.type):
                    raise ContractError(refuse_type.format(name), got=str(schema.field(name).type))
            if sources:
                casts = [_cast(name, schema.field(name).type, column) for name in sources]
                cast = casts[0] if len(casts) == 1 else pl.coalesce(casts)
                present = pl.any_horizontal([_present(name, schema.field(name).type) for name in sources])
                self._casts[column.name] = cast.alias(column.name)
                self._unreadable[column.name] = (present & cast.is_null()).alias(column.name)
            else:
                self._casts[column.name] = pl.lit(None, POLARS_TYPES[column.type]).alias(column.name)
        self._casts["file_month"] = pl.lit(month.first_day).alias("file_month")

    def __call__(self, data: pa.RecordBatch | pa.Table, first_row: int, raw: pl.Series | None = None) -> Batch:
        """Cast a batch.

        Args:
            data: Rows with the file's columns.
            first_row: The ordinal of the first of them in the file.
            raw: As ``Batch.raw``.
        """
        frame = pl.from_arrow(data)
        assert isinstance(frame, pl.DataFrame)
        rows = pl.int_range(first_row, first_row + data.num_rows, dtype=pl.Int32).alias("source_row")
        clean = frame.select(**self._casts | self._as_they_are(data) | {"source_row": rows})
        # As many nulls after the cast as before: then nothing was lost, and no row need be looked at.
        suspects = [
            name
            for name, sources in self._sources.items()
            if sources and (len(sources) > 1 or clean[name].null_count() != frame[sources[0]].null_count())
        ]
        unreadable = frame.select(self._unreadable[name] for name in suspects)
        return Batch(clean, {mask.name: mask for mask in unreadable if mask.any()}, raw)

    def _as_they_are(self, data: pa.RecordBatch | pa.Table) -> dict[str, pl.Expr]:
        """Texts that need no cast in this batch: a look at the few distinct values spares one at every row."""
        tidy = {}
        for name, sources in self._sources.items():
            column = self._columns[name]
            if column.type == "string" and len(sources) == 1 and pa.types.is_dictionary(data[sources[0]].type):
                texts = _distinct(data[sources[0]])
                if all(text and text == text.strip() and text.upper() not in column.text_codes for text in texts):
                    tidy[name] = pl.col(sources[0])
        return tidy


def dictionary_columns(terms: Contract, column_map: ColumnMap, schema: pa.Schema) -> list[str]:
    """The file's columns to read as dictionaries: those of few distinct texts."""
    texts = {column.name for column in terms.columns if column.type == "string"}
    return [
        name
        for clean_name, sources in column_map.sources.items()
        for name in sources
        if clean_name in texts and _is_text(schema.field(name).type)
    ]


def _distinct(column: pa.Array | pa.ChunkedArray) -> set[str]:
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return {text for chunk in chunks for text in chunk.dictionary.to_pylist()}


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _readable(kind: pa.DataType, wanted: str) -> bool:
    """Whether an Arrow type can hold a contract type's values."""
    if pa.types.is_null(kind) or _is_text(kind):
        return True
    if wanted == "timestamp":
        return bool(pa.types.is_timestamp(kind)) and kind.tz is None
    return _is_number(kind)


def _text(name: str) -> pl.Expr:
    """A text column without the blanks around it; nothing but blanks is null."""
    text = pl.col(name).cast(pl.String).str.strip_chars()
    return pl.when(text != "").then(text)


def _present(name: str, kind: pa.DataType) -> pl.Expr:
    """Whether there is a value to read."""
    if _is_text(kind):
        return _text(name).is_not_null()
    if pa.types.is_floating(kind):
        return pl.col(name).fill_nan(None).is_not_null()
    return pl.col(name).is_not_null()


def _cast(name: str, kind: pa.DataType, column: Column) -> pl.Expr:
    """The contract's value, null where there is none or it can't be read."""
    wanted = POLARS_TYPES[column.type]
    if pa.types.is_null(kind):
        return pl.lit(None, wanted)
    if column.type == "timestamp":
        if _is_text(kind):
            return _text(name).str.to_datetime(TIMESTAMP_FORMAT, time_unit="us", strict=False)
        return pl.col(name).cast(wanted, strict=False)
    if _is_text(kind):
        value = _text(name)
    elif column.type == "string":
        value = _whole(pl.col(name), pl.Int64()).cast(pl.String)
    else:
        value = pl.col(name).fill_nan(None) if pa.types.is_floating(kind) else pl.col(name)
    if column.text_codes and (_is_text(kind) or column.type == "string"):
        known = list(column.text_codes)
        codes = value.str.to_uppercase().replace_strict(known, list(column.text_codes.values()), default=None)
        value = pl.coalesce([codes, value])
    if column.type == "string":
        return value.cast(wanted)
    if _is_text(kind):
        value = value.cast(pl.Float64, strict=False)
        value = pl.when(value.is_finite()).then(value)
    if column.type == "float64":
        return value.cast(wanted, strict=False)
    return value.cast(wanted, strict=False) if pa.types.is_integer(kind) else _whole(value, wanted)


def _whole(value: pl.Expr, wanted: pl.DataType) -> pl.Expr:
    """A number as an integer, null where it has a fraction or doesn't fit."""
    whole = value.cast(wanted, strict=False)
    return pl.when(whole.cast(pl.Float64) == value.cast(pl.Float64)).then(whole)
