"""Read a CSV month character by character in plain Python: slow, and independent of the project's readers."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from nyc_tlc.contract.contract import Column, Contract
from nyc_tlc.months import Month

LIMITS = {"int8": 2**7, "int16": 2**15, "int32": 2**31}


@dataclass
class Row:
    """The expected row.

    Attributes:
        values: The clean columns' values.
        bad: Column -> the text of a value that can't be read.
        raw: The line, if it can't be parsed as a record.
    """

    values: dict[str, Any]
    bad: dict[str, str] = field(default_factory=dict)
    raw: str | None = None


def split_fields(text: str) -> list[str] | None:
    """Return the fields of a line; None if a quote is not around a whole field."""
    fields, at = [], 0
    while True:
        value = ""
        if text[at : at + 1] == '"':
            at += 1
            while True:
                if at >= len(text):
                    return None
                if text[at] != '"':
                    value += text[at]
                    at += 1
                elif text[at + 1 : at + 2] == '"':
                    value += '"'
                    at += 2
                else:
                    at += 1
                    break
            if at < len(text) and text[at] != ",":
                return None
        else:
            while at < len(text) and text[at] != ",":
                if text[at] == '"':
                    return None
                value += text[at]
                at += 1
        fields.append(value)
        if at >= len(text):
            return fields
        at += 1


def read_value(text: str, column: Column) -> tuple[Any, bool]:
    """Return a field's value, and whether it can be read."""
    text = text.strip(" \t")
    if not text:
        return None, True
    if column.type == "timestamp":
        if not re.fullmatch(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,6})?", text, re.ASCII):
            return None, False
        whole, _, fraction = text.replace("T", " ").partition(".")
        try:
            moment = datetime(*(int(part) for part in re.split("[- :]", whole)))  # type: ignore[arg-type]
        except ValueError:
            return None, False
        return moment.replace(microsecond=int(fraction.ljust(6, "0")) if fraction else 0), True
    text = column.text_codes.get(text.upper(), text)
    if column.type == "string":
        sound = len(text.encode()) <= 256 and "\0" not in text
        return (text if sound else None), sound
    if not re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", text, re.ASCII):
        return None, False
    number = float(text)
    if column.type == "float64":
        return (number, True) if math.isfinite(number) else (None, False)
    limit = LIMITS[column.type]
    sound = math.isfinite(number) and number == int(number) and -limit <= number < limit
    return (int(number) if sound else None), sound


def read_line(line: bytes, names: list[str], sources: dict[str, tuple[str, ...]], contract: Contract) -> Row:
    """Return the expected row of a line, without regard to other lines."""
    columns = contract.columns[:-2]
    nothing = {column.name: None for column in columns}
    raw = line.decode("utf-8", "backslashreplace").removesuffix("\r").replace("\0", "\\x00")
    try:
        text = line.decode().removesuffix("\r")
    except UnicodeDecodeError:
        return Row(nothing, raw=raw)
    fields = None if "\r" in text else split_fields(text)
    if fields is None or len(fields) < len(names) or len(fields) > len(names) + 100:
        return Row(nothing, raw=raw)
    if any(extra.strip(" \t") for extra in fields[len(names) :]):
        return Row(nothing, raw=raw)
    by_name = dict(zip(names, fields, strict=False))
    row = Row(dict(nothing))
    for column in columns:
        first_bad = None
        for source in sources[column.name]:
            value, sound = read_value(by_name[source], column)
            if value is not None:
                row.values[column.name] = value
                break
            if not sound and first_bad is None:
                first_bad = by_name[source]
        else:
            if first_bad is not None:
                row.bad[column.name] = first_bad[:256]
    return row


def read_csv(body: bytes, contract: Contract, month: Month, *, whole: bool) -> list[Row]:
    """Return all expected rows of a file."""
    head, _, rest = body.partition(b"\n")
    header = head.decode("utf-8-sig").removesuffix("\r")
    names = split_fields(header)
    assert names is not None
    sources = contract.map_columns(names, month, "csv").sources
    *lines, last = rest.split(b"\n")
    rows = [read_line(line, names, sources, contract) for line in lines if line not in (b"", b"\r")]
    if last not in (b"", b"\r"):
        # A last line without an end can be half a line, unless the file is known to be whole.
        row = read_line(last, names, sources, contract)
        first = next(line for line in rest.split(b"\n") if line not in (b"", b"\r"))
        if row.raw is None and not (whole and width(last) == first_width(first, len(names))):
            raw = last.decode("utf-8", "backslashreplace").removesuffix("\r").replace("\0", "\\x00")
            row = Row(dict.fromkeys(row.values), raw=raw)
        rows.append(row)
    return rows


def width(line: bytes) -> int:
    """Return the number of a line's fields."""
    return len(split_fields(line.decode().removesuffix("\r")) or ())


def first_width(line: bytes, header: int) -> int:
    """Return the number of fields of the file's rows, from the first row."""
    try:
        text = line.decode().removesuffix("\r")
    except UnicodeDecodeError:
        return header
    fields = None if "\r" in text else split_fields(text)
    return len(fields) if fields and header <= len(fields) <= header + 100 else header
