"""Convert a file's columns to the contract's names, types and codes, and mark the values that can't be cast."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from polars.datatypes import IntegerType

from nyc_tlc.contract.contract import OUR_COLUMNS, Column, ColumnMap, Contract
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
#: Blanks around a value, which are not a part of it.
BLANKS = " \t"
#: A number as text: decimal digits, no words like nan.
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
#: A time as TLC writes it, with or without a fraction, or with ISO's T. There is no year 0.
TIME = (
    r"^([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])-[0-9]{2}-[0-9]{2}"
    r"[ T]([01][0-9]|2[0-3])(:[0-5][0-9]){2}(\.[0-9]{1,6})?$"
)
SHORTEST_TIME = len("2024-01-01 00:00:00")
#: The first and the last second of the years 1 to 9999, counted from 1970.
FIRST_SECOND = int(datetime(1, 1, 1, tzinfo=UTC).timestamp())
LAST_SECOND = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
#: The most bytes of a text value. Real ones have a few letters.
LONGEST_TEXT = 256


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of a file, in the contract's columns.

    Attributes:
        frame: The clean columns, including ``file_month`` and ``source_row``.
        bad_values: Column -> mask of the rows whose value can't be cast; it is null in ``frame``.
        raw: The text of lines that are not records, whose columns are all null; null for records. None if all are
            records.
        bad_texts: The source's text of values that can't be cast, as a JSON object by clean column; null for rows
            without such values. None if no row has one.
    """

    frame: pl.DataFrame
    bad_values: dict[str, pl.Series] = field(default_factory=dict)
    raw: pl.Series | None = None
    bad_texts: pl.Series | None = None


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Join consecutive batches into one."""
    if len(batches) == 1:
        return batches[0]

    def join(parts: list[pl.Series | None], filler: bool | None, kind: type[pl.DataType]) -> pl.Series | None:
        if all(part is None for part in parts):
            return None
        return pl.concat(
            pl.repeat(filler, len(batch.frame), dtype=kind, eager=True) if part is None else part
            for part, batch in zip(parts, batches, strict=True)
        )

    names = dict.fromkeys(name for batch in batches for name in batch.bad_values)
    masks = {name: join([batch.bad_values.get(name) for batch in batches], False, pl.Boolean) for name in names}
    return Batch(
        pl.concat(batch.frame for batch in batches),
        {name: mask for name, mask in masks.items() if mask is not None},
        join([batch.raw for batch in batches], None, pl.String),
        join([batch.bad_texts for batch in batches], None, pl.String),
    )


class Conformer:
    """Casts the batches of one file to the contract: created for a file, called for each batch."""

    def __init__(self, contract: Contract, column_map: ColumnMap, schema: pa.Schema, month: Month) -> None:
        """Check the types of the file's columns.

        Args:
            contract: The colour's contract.
            column_map: How the file's columns map onto it.
            schema: The file's own schema.
            month: The file's month.

        Raises:
            ContractError: when values of a column's type can't be read as the contract's type.
        """
        self._sources, self._month = column_map.sources, month
        self._columns = contract.columns[: -len(OUR_COLUMNS)]
        for column in self._columns:
            for name in column_map.sources[column.name]:
                if not _is_readable(schema.field(name).type, column.type):
                    raise ContractError(
                        f"{contract.color} {month}: the column {name} can't be read as {column.type}",
                        got=str(schema.field(name).type),
                    )

    def __call__(self, data: pa.RecordBatch | pa.Table, first_row: int, raw: pl.Series | None = None) -> Batch:
        """Cast a batch.

        Args:
            data: Rows with the file's columns; texts may be dictionaries.
            first_row: The position of the first row in the file, from 0.
            raw: See ``Batch``.
        """
        rows, values, bad_values = data.num_rows, {}, {}
        arrays = [(column, [data[name] for name in self._sources[column.name]]) for column in self._columns]
        # Most columns have one source of numbers or times. They are cast together, which is faster.
        cast = _cast_all([(column, each[0]) for column, each in arrays if len(each) == 1 and _is_simple(each[0].type)])
        for column, each in arrays:
            values[column.name], bad = cast.get(column.name) or _conform(each, column, rows)
            if bad is not None and bad.any():
                bad_values[column.name] = bad
        clean = pl.DataFrame(values).with_columns(
            file_month=pl.lit(self._month.first_day),
            source_row=pl.int_range(first_row, first_row + rows, dtype=pl.Int32),
        )
        return Batch(clean, bad_values, raw, self._collect_bad_texts(data, bad_values) if bad_values else None)

    def _collect_bad_texts(self, data: pa.RecordBatch | pa.Table, bad_values: dict[str, pl.Series]) -> pl.Series:
        texts: dict[int, dict[str, str]] = {}
        for name, mask in bad_values.items():
            rows = mask.arg_true().to_list()
            for source in reversed(self._sources[name]):
                for row, text in zip(rows, _to_texts(data[source].take(pa.array(rows, pa.int64()))), strict=True):
                    if text is not None:
                        texts.setdefault(row, {})[name] = text
        objects: list[str | None] = [None] * data.num_rows
        for row, values in texts.items():
            objects[row] = json.dumps(values, ensure_ascii=False)
        return pl.Series("raw", objects, pl.String)


def dictionary_columns(contract: Contract, column_map: ColumnMap, schema: pa.Schema) -> list[str]:
    """Return the file's columns to read as dictionaries: those with few distinct texts."""
    few = {column.name for column in contract.columns if column.type == "string" or column.text_codes}
    return [
        name
        for clean_name, sources in column_map.sources.items()
        for name in sources
        if clean_name in few and is_text(schema.field(name).type)
    ]


def csv_types(
    contract: Contract, column_map: ColumnMap, dictionaries: Sequence[str], dictionary: pa.DataType
) -> dict[str, pa.DataType]:
    """Return the types for a CSV file's wanted columns: dictionaries of few distinct texts, texts, or numbers."""
    types = {}
    for column in contract.columns:
        for name in column_map.sources.get(column.name, ()):
            plain = pa.string() if column.type == "timestamp" else pa.float64()
            types[name] = dictionary if name in dictionaries else plain
    return types


def is_text(kind: pa.DataType) -> bool:
    """Return whether an Arrow type has texts as its values."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal128(kind))


def _is_simple(kind: pa.DataType) -> bool:
    return _is_number(kind) or bool(pa.types.is_timestamp(kind))


def _is_readable(kind: pa.DataType, wanted: str) -> bool:
    """Return whether values of an Arrow type can be read as a contract type."""
    if pa.types.is_null(kind) or is_text(kind):
        return True
    if wanted == "timestamp":
        return bool(pa.types.is_timestamp(kind)) and kind.tz is None
    return _is_number(kind)


def _conform(arrays: list[pa.Array | pa.ChunkedArray], column: Column, rows: int) -> tuple[pl.Series, pl.Series | None]:
    """Return a clean column, and a mask of values that can't be read. Of several sources the first value is used."""
    kind = POLARS_TYPES[column.type]
    if not arrays:
        return pl.repeat(None, rows, dtype=kind, eager=True).alias(column.name), None
    values, bad = _conform_array(arrays[0], column)
    for array in arrays[1:]:
        more, more_bad = _conform_array(array, column)
        faults = [mask for mask in (bad, more_bad) if mask is not None]
        values = pl.select(pl.coalesce(values, more)).to_series()
        bad = pl.select(pl.any_horizontal(faults)).to_series() & values.is_null() if faults else None
    return values.alias(column.name), bad


def _conform_array(array: pa.Array | pa.ChunkedArray, column: Column) -> tuple[pl.Series, pl.Series | None]:
    if not pa.types.is_dictionary(array.type):
        return _cast(array, column)
    # Only the few distinct texts are cast, not each row.
    chunks = array.unify_dictionaries().chunks if isinstance(array, pa.ChunkedArray) else [array]
    if not chunks:
        return _cast(pa.array([], array.type.value_type), column)
    values, bad = _cast(chunks[0].dictionary, column)
    rows = pl.concat(_to_series(chunk.indices) for chunk in chunks)
    # pyarrow does not check the indexes: in a damaged file they can be outside the dictionary.
    if not rows.is_between(0, len(values) - 1).all():
        raise pa.ArrowInvalid(f"{column.name}: an index that is not in the column's dictionary")
    return values.gather(rows), bad.gather(rows).fill_null(value=False) if bad is not None and bad.any() else None


def _cast(array: pa.Array | pa.ChunkedArray, column: Column) -> tuple[pl.Series, pl.Series | None]:
    """Return the contract's values, null if missing or unreadable, and a mask of the unreadable ones."""
    if pa.types.is_null(array.type):
        return pl.repeat(None, len(array), dtype=POLARS_TYPES[column.type], eager=True), None
    if column.type == "timestamp" and is_text(array.type):
        times = _cast_times(array)
        if times is not None:
            return times, None
    return _cast_all([(column, array)])[column.name]


def _cast_all(
    arrays: Sequence[tuple[Column, pa.Array | pa.ChunkedArray]],
) -> dict[str, tuple[pl.Series, pl.Series | None]]:
    """Return column -> the contract's values, null if missing or unreadable, and a mask of the unreadable ones."""
    frame = pl.DataFrame({column.name: _to_series(array) for column, array in arrays})
    # Nearly always all of a column's numbers are valid. To find that out and cast them is faster than to check each.
    fits = frame.select(_all_fit(column.name, array.type, column).alias(column.name) for column, array in arrays)
    values = frame.select(
        pl.col(column.name).cast(POLARS_TYPES[column.type], wrap_numerical=True)
        if fits[column.name].item()
        else _read_value(column.name, array.type, column).alias(column.name)
        for column, array in arrays
    )
    # If the cast adds no nulls, all values were readable, and no mask is needed.
    bad = {
        column.name: _has_value(column.name, array.type) & pl.lit(values[column.name]).is_null()
        for column, array in arrays
        if values[column.name].null_count() > frame[column.name].null_count()
    }
    masks = frame.select(**bad)
    return {name: (values[name], masks[name] if name in bad else None) for name in values.columns}


def _cast_times(array: pa.Array | pa.ChunkedArray) -> pl.Series | None:
    """Cast texts to times all at once. Return None if one of them needs the slower check.

    Arrow also accepts dates without a time and times without seconds; these are found by their length.
    """
    lengths = pc.min_max(pc.binary_length(array)).as_py()
    if lengths["min"] is None or lengths["min"] < SHORTEST_TIME:
        return None
    try:
        times = pc.cast(array, pa.timestamp("us"))
    except pa.ArrowInvalid:
        return None
    return _to_series(times) if pc.min_max(times.cast(pa.int64()))["min"].as_py() >= FIRST_SECOND * 10**6 else None


def _to_series(array: pa.Array | pa.ChunkedArray) -> pl.Series:
    series = pl.from_arrow(array)
    assert isinstance(series, pl.Series)
    return series


def _strip_text(name: str) -> pl.Expr:
    """Return a text column without blanks around its values; a value of only blanks is null."""
    text = pl.col(name).str.strip_chars(BLANKS)
    return pl.when(text != "").then(text)


def _has_value(name: str, kind: pa.DataType) -> pl.Expr:
    """Return an expression that is true where there is a value."""
    if is_text(kind):
        return _strip_text(name).is_not_null()
    if pa.types.is_floating(kind):
        return pl.col(name).fill_nan(None).is_not_null()
    return pl.col(name).is_not_null()


def _all_fit(name: str, kind: pa.DataType, column: Column) -> pl.Expr:
    """Return an expression that is true only if all values of a column of numbers are valid in the contract's type."""
    wanted = POLARS_TYPES[column.type]
    if pa.types.is_floating(kind) and column.type == "float64":
        # A sum is finite only if all of its values are.
        return pl.col(name).sum().is_finite()
    if pa.types.is_integer(kind) and isinstance(wanted, IntegerType):
        return (pl.col(name).min() >= wanted.min()) & (pl.col(name).max() <= wanted.max())
    return pl.lit(value=False)


def _read_value(name: str, kind: pa.DataType, column: Column) -> pl.Expr:
    """Return the contract's value, null if missing or unreadable."""
    wanted = POLARS_TYPES[column.type]
    if column.type == "timestamp":
        return _read_time(name, kind)
    if is_text(kind):
        value = _strip_text(name)
    elif column.type == "string":
        value = _to_integer(pl.col(name), pl.Int64()).cast(pl.String)
    else:
        value = pl.col(name).fill_nan(None) if pa.types.is_floating(kind) else pl.col(name)
    if column.text_codes and (is_text(kind) or column.type == "string"):
        known = list(column.text_codes)
        codes = value.str.to_uppercase().replace_strict(known, list(column.text_codes.values()), default=None)
        value = pl.coalesce([codes, value])
    if column.type == "string":
        # Postgres accepts no text with a NUL.
        valid = (value.str.len_bytes() <= LONGEST_TEXT) & ~value.str.contains("\0", literal=True)
        return pl.when(valid).then(value).cast(wanted)
    if is_text(kind):
        value = pl.when(value.str.contains(NUMBER)).then(value).cast(pl.Float64, strict=False)
    if is_text(kind) or pa.types.is_floating(kind):
        value = pl.when(value.is_finite()).then(value)
    if column.type == "float64":
        return value.cast(wanted, strict=False)
    return value.cast(wanted, strict=False) if pa.types.is_integer(kind) else _to_integer(value, wanted)


def _read_time(name: str, kind: pa.DataType) -> pl.Expr:
    if is_text(kind):
        text = _strip_text(name)
        text = pl.when(text.str.contains(TIME)).then(text.str.replace("T", " ", literal=True))
        return text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False)
    second = {"s": 1_000, "ms": 1_000, "us": 10**6, "ns": 10**9}[kind.unit]
    first, last = FIRST_SECOND * second, (LAST_SECOND + 1) * second - 1
    within = pl.col(name).to_physical().is_between(max(first, -(2**63)), min(last, 2**63 - 1))
    return pl.when(within).then(pl.col(name)).cast(pl.Datetime("us"), strict=False)


def _to_integer(value: pl.Expr, wanted: pl.DataType) -> pl.Expr:
    """Return a number as an integer, null if it has a fraction or doesn't fit."""
    whole = value.cast(wanted, strict=False)
    return pl.when(whole.cast(pl.Float64) == value.cast(pl.Float64)).then(whole)


def _to_texts(values: pa.Array | pa.ChunkedArray) -> list[str | None]:
    """Return values as texts, null if missing."""
    if pa.types.is_timestamp(values.type):
        # A time that can't be a value may have no text form either.
        values = values.cast(pa.int64())
    texts = [None if value is None else str(value) for value in values.to_pylist()]
    return [text[:LONGEST_TEXT] if text and text.strip(BLANKS) else None for text in texts]
