"""Convert a file's columns to the contract's names, types and codes, and mark the values that can't be cast."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import polars as pl
import pyarrow as pa
from polars.datatypes import IntegerType

from nyc_tlc.cleaning.times import (
    NEW_YORK_ZONES,
    TIME_FORM,
    FindDayFirst,
    read_plain_times,
    read_times,
    read_timestamps,
)
from nyc_tlc.contract.dataset import NULL_TEXTS, OUR_COLUMNS, Column, ColumnMap, Contract
from nyc_tlc.contract.types import TYPES
from nyc_tlc.errors import ContractError
from nyc_tlc.month import Month

#: Blanks around a value, which are not a part of it.
BLANKS = " \t"
#: A number as text: decimal digits, no words like nan.
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
#: The most bytes of a text value. Real ones have a few letters.
LONGEST_TEXT = 256


class Values(NamedTuple):
    """A clean column, and masks of the rows whose value in the source is not a value; None if there are none.

    Attributes:
        bad: The values that can't be read.
        null_texts: The texts that mean null.
    """

    values: pl.Series
    bad: pl.Series | None = None
    null_texts: pl.Series | None = None


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
        null_texts: Column -> number of rows with one of NULL_TEXTS.
    """

    frame: pl.DataFrame
    bad_values: dict[str, pl.Series] = field(default_factory=dict)
    raw: pl.Series | None = None
    bad_texts: pl.Series | None = None
    null_texts: dict[str, int] = field(default_factory=dict)


class Conformer:
    """Casts the batches of one file to the contract: created for a file, called for each batch."""

    def __init__(
        self, contract: Contract, column_map: ColumnMap, schema: pa.Schema, month: Month, find_day_first: FindDayFirst
    ) -> None:
        """Check the types of the file's columns.

        Args:
            find_day_first: Reads the file for the order of day and month.

        Raises:
            ContractError: when values of a column's type can't be read as the contract's type.
        """
        self._sources, self._month, self._find_day_first = column_map.sources, month, find_day_first
        self._columns = contract.columns[: -len(OUR_COLUMNS)]
        for column in self._columns:
            for name in column_map.sources[column.name]:
                if not _is_readable(schema.field(name).type, column):
                    raise ContractError(
                        f"{contract.color} {month}: the column {name} can't be read as {column.type}"
                        + (f": {TIME_FORM}" if column.type == "timestamp" else ""),
                        got=str(schema.field(name).type),
                    )

    def __call__(self, data: pa.Table, first_row: int, raw: pl.Series | None = None) -> Batch:
        """Cast a batch.

        Args:
            data: Rows with the file's columns; texts may be dictionaries.
            first_row: The position of the first row in the file, from 0.
            raw: See ``Batch``.
        """
        rows, values, bad_values, null_texts = data.num_rows, {}, {}, {}
        arrays = [(column, [data[name] for name in self._sources[column.name]]) for column in self._columns]
        # Most columns have one source of numbers or times. They are cast together, which is faster.
        cast = _cast_all([(column, each[0]) for column, each in arrays if len(each) == 1 and _is_simple(each[0].type)])
        for column, each in arrays:
            values[column.name], bad, null = cast.get(column.name) or self._conform(each, column, rows)
            if bad is not None and bad.any():
                bad_values[column.name] = bad
            if null is not None and null.any():
                null_texts[column.name] = int(null.sum())
        clean = pl.DataFrame(values).with_columns(
            file_month=pl.lit(self._month.first_day),
            source_row=pl.int_range(first_row, first_row + rows, dtype=pl.Int32),
        )
        bad_texts = self._collect_bad_texts(data, bad_values) if bad_values else None
        return Batch(clean, bad_values, raw, bad_texts, null_texts)

    def _conform(self, arrays: list[pa.ChunkedArray], column: Column, rows: int) -> Values:
        """Return a clean column. Of several sources the first value is used."""
        if not arrays:
            return Values(pl.repeat(None, rows, dtype=TYPES[column.type].polars, eager=True).alias(column.name))
        values, bad, null_texts = self._conform_array(arrays[0], column)
        for array in arrays[1:]:
            more = self._conform_array(array, column)
            values = pl.select(pl.coalesce(values, more.values)).to_series()
            bad, null_texts = _join(bad, more.bad, values), _join(null_texts, more.null_texts, values)
        return Values(values.alias(column.name), bad, null_texts)

    def _conform_array(self, array: pa.ChunkedArray, column: Column) -> Values:
        if not pa.types.is_dictionary(array.type):
            return self._cast(array, column)
        # Only the few distinct texts are cast, not each row.
        chunks = array.unify_dictionaries().chunks
        if not chunks:
            return self._cast(pa.array([], array.type.value_type), column)
        distinct = self._cast(chunks[0].dictionary, column)
        rows = pl.concat(_to_series(chunk.indices) for chunk in chunks)
        # pyarrow does not check the indexes: in a damaged file they can be outside the dictionary.
        if not rows.is_between(0, len(distinct.values) - 1).all():
            raise pa.ArrowInvalid(f"{column.name}: an index that is not in the column's dictionary")
        masks = (mask if mask is not None and mask.any() else None for mask in (distinct.bad, distinct.null_texts))
        gathered = (mask if mask is None else mask.gather(rows).fill_null(value=False) for mask in masks)
        return Values(distinct.values.gather(rows), *gathered)

    def _cast(self, array: pa.Array | pa.ChunkedArray, column: Column) -> Values:
        if pa.types.is_null(array.type):
            return Values(pl.repeat(None, len(array), dtype=TYPES[column.type].polars, eager=True))
        if column.type == "timestamp" and is_text(array.type):
            times = read_plain_times(array)
            if times is not None:
                return Values(times)
            texts = _to_series(array)
            return _mark(texts, read_times(texts.str.strip_chars(BLANKS), self._find_day_first))
        return _cast_all([(column, array)])[column.name]

    def _collect_bad_texts(self, data: pa.Table, bad_values: dict[str, pl.Series]) -> pl.Series:
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


def is_text(kind: pa.DataType) -> bool:
    """Return whether an Arrow type has texts as its values."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value))


def is_stored_text(kind: pa.DataType) -> bool:
    """Return whether an Arrow type has texts in another form: views, or bytes as Spark and Hive can write them."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = pa.types.is_string_view, pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view
    return any(test(value) for test in tests)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal128(kind))


def _is_simple(kind: pa.DataType) -> bool:
    return _is_number(kind) or bool(pa.types.is_timestamp(kind))


def _is_readable(kind: pa.DataType, column: Column) -> bool:
    if pa.types.is_null(kind) or is_text(kind) or is_stored_text(kind):
        return True
    if column.type == "timestamp":
        return bool(pa.types.is_timestamp(kind)) and kind.tz in (None, *NEW_YORK_ZONES)
    return _is_number(kind) or (pa.types.is_boolean(kind) and "TRUE" in column.text_codes)


def _join(one: pl.Series | None, other: pl.Series | None, values: pl.Series) -> pl.Series | None:
    """Join the masks of two sources; a row that has a value is not marked."""
    masks = [mask for mask in (one, other) if mask is not None]
    return pl.select(pl.any_horizontal(masks)).to_series() & values.is_null() if masks else None


def _cast_all(arrays: Sequence[tuple[Column, pa.Array | pa.ChunkedArray]]) -> dict[str, Values]:
    """Return column -> its values, null if missing or unreadable, with the masks."""
    frame = pl.DataFrame({column.name: _to_series(array) for column, array in arrays})
    # Nearly always all of a column's numbers are valid. To find that out and cast them is faster than to check each.
    fits = frame.select(_all_fit(column.name, array.type, column).alias(column.name) for column, array in arrays)
    values = frame.select(
        pl.col(column.name).cast(TYPES[column.type].polars, wrap_numerical=True)
        if fits[column.name].item()
        else _read_value(column.name, array.type, column).alias(column.name)
        for column, array in arrays
    )
    return {column.name: _mark(frame[column.name], values[column.name]) for column, _ in arrays}


def _mark(given: pl.Series, values: pl.Series) -> Values:
    """Return values with the masks of the source's values that are null in them."""
    # If the cast adds no nulls, all values were readable, and no mask is needed.
    if values.null_count() == given.null_count():
        return Values(values)
    lost = given.is_not_null() & values.is_null()
    if given.dtype.is_float():
        return Values(values, lost & given.is_not_nan())
    if given.dtype != pl.String:
        return Values(values, lost)
    texts = given.str.strip_chars(BLANKS)
    null_texts = lost & texts.str.to_uppercase().is_in(NULL_TEXTS)
    return Values(values, lost & ~null_texts & (texts != ""), null_texts)


def _to_series(array: pa.Array | pa.ChunkedArray) -> pl.Series:
    series = pl.from_arrow(array)
    assert isinstance(series, pl.Series)
    return series


def _all_fit(name: str, kind: pa.DataType, column: Column) -> pl.Expr:
    """Return an expression that is true only if all values of a column of numbers are valid in the contract's type."""
    wanted = TYPES[column.type].polars
    if pa.types.is_floating(kind) and column.type == "float64":
        # A sum is finite only if all of its values are.
        return pl.col(name).sum().is_finite()
    if pa.types.is_integer(kind) and isinstance(wanted, IntegerType):
        return (pl.col(name).min() >= wanted.min()) & (pl.col(name).max() <= wanted.max())
    return pl.lit(value=False)


def _read_value(name: str, kind: pa.DataType, column: Column) -> pl.Expr:
    """Return the contract's value, null if missing or unreadable."""
    wanted = TYPES[column.type].polars
    if column.type == "timestamp":
        return read_timestamps(name, kind)
    if is_text(kind):
        text = pl.col(name).str.strip_chars(BLANKS)
        value: pl.Expr = pl.when(text != "").then(text)
    elif pa.types.is_boolean(kind):
        value = pl.col(name).cast(pl.String)
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
        if is_text(kind):
            valid &= ~value.str.to_uppercase().is_in(NULL_TEXTS)
        return pl.when(valid).then(value).cast(wanted)
    if is_text(kind):
        value = pl.when(value.str.contains(NUMBER)).then(value).cast(pl.Float64, strict=False)
    if is_text(kind) or pa.types.is_floating(kind):
        value = pl.when(value.is_finite()).then(value)
    if column.type == "float64":
        return value.cast(wanted, strict=False)
    return value.cast(wanted, strict=False) if pa.types.is_integer(kind) else _to_integer(value, wanted)


def _to_integer(value: pl.Expr, wanted: pl.DataType) -> pl.Expr:
    """Return a number as an integer, null if it has a fraction or doesn't fit."""
    whole = value.cast(wanted, strict=False)
    return pl.when(whole.cast(pl.Float64) == value.cast(pl.Float64)).then(whole)


def _to_texts(values: pa.ChunkedArray) -> list[str | None]:
    if pa.types.is_timestamp(values.type):
        # A time that can't be a value may have no text form either.
        values = values.cast(pa.int64())
    texts = [None if value is None else str(value) for value in values.to_pylist()]
    return [text[:LONGEST_TEXT] if text and text.strip(BLANKS) else None for text in texts]
