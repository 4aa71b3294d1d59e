"""Read a CSV month character by character in plain Python: slow, and independent of the project's readers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from nyc_tlc.contract.dataset import Column, Contract
from nyc_tlc.month import Month

LIMITS = {"int8": 2**7, "int16": 2**15, "int32": 2**31}
NULLS = {"na", "n/a", "#n/a", "<na>", "nan", "null", "none", "\\n", "-"}
NEW_YORK = ZoneInfo("America/New_York")


@dataclass
class Row:
    """The expected row.

    Attributes:
        values: The clean columns' values.
        bad: Column -> the text of a value that can't be read.
        raw: The line, if it can't be parsed as a record.
        nulls: The columns with a text that means null, and no value.
    """

    values: dict[str, Any]
    bad: dict[str, str] = field(default_factory=dict)
    raw: str | None = None
    nulls: set[str] = field(default_factory=set)


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


def split_twelve_hours(text: str) -> list[str]:
    """Return the parts of a time of 12 hours: day or month, the other, year, hour, minute, second, half; else none."""
    form = r"(\d\d?)/(\d\d?)/(\d{4}) (\d\d?):(\d\d)(?::(\d\d))? ?([AaPp][Mm])"
    found = re.fullmatch(form, text.strip(" \t"), re.ASCII)
    sound = found and 1 <= int(found[4]) <= 12 and int(found[5]) < 60 and int(found[6] or 0) < 60 and found[3][0] != "0"
    return [part or "0" for part in found.groups()] if found and sound else []


def find_day_first(texts: Iterable[str]) -> bool | None:
    """Return whether the day is before the month in the times of 12 hours; None if it is not certain."""
    parts = [split for text in texts if (split := split_twelve_hours(text))]
    shown = [any(int(split[at]) > 12 for split in parts) for at in (0, 1)]
    return shown[0] if shown[0] != shown[1] else None


def read_time(text: str, day_first: bool | None) -> datetime | None:
    """Return the time that a text is, None if it can't be read."""
    form = r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(?: ?-(0[45])(?::?00)?)?"
    found = re.fullmatch(form, text, re.ASCII)
    try:
        if found:
            *parts, fraction, offset = found.groups()
            moment = datetime(*(int(part or 0) for part in parts), int((fraction or "0").ljust(6, "0")[:6]))  # type: ignore[arg-type]
            if offset is None:
                return moment
            instant = moment.replace(tzinfo=UTC) + timedelta(hours=int(offset))
            return moment if instant.astimezone(NEW_YORK).replace(tzinfo=None) == moment else None
        first, second, year, hour, *rest, half = map(str, split_twelve_hours(text) or [""] * 7)
        if not half or day_first is None:
            return None
        day, month = (first, second) if day_first else (second, first)
        at = int(hour) % 12 + (12 if half.upper() == "PM" else 0)
        return datetime(int(year), int(month), int(day), at, *map(int, rest))
    except ValueError:
        return None


def is_null(text: str, column: Column) -> bool:
    """Return whether a field's text is one that other tools write for null."""
    text = text.strip(" \t")
    return text.lower() in NULLS and text.upper() not in column.text_codes


def read_value(text: str, column: Column, day_first: bool | None = None) -> tuple[Any, bool]:
    """Return a field's value, and whether it can be read."""
    null = is_null(text, column)
    text = text.strip(" \t")
    if not text or null:
        return None, True
    if column.type == "timestamp":
        time = read_time(text, day_first)
        return time, time is not None
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


def read_record(line: bytes, width: int) -> list[str] | None:
    """Return a record's fields; None if the line is not a record."""
    try:
        text = line.decode().removesuffix("\r")
    except UnicodeDecodeError:
        return None
    fields = None if "\r" in text else split_fields(text)
    if fields is None or len(fields) < width or len(fields) > width + 100:
        return None
    return None if any(extra.strip(" \t") for extra in fields[width:]) else fields[:width]


def read_line(
    line: bytes, names: list[str], sources: dict[str, tuple[str, ...]], contract: Contract, day_first: bool | None
) -> Row:
    """Return the expected row of a line."""
    columns = contract.columns[:-2]
    nothing = {column.name: None for column in columns}
    fields = read_record(line, len(names))
    if fields is None:
        return Row(nothing, raw=line.decode("utf-8", "backslashreplace").removesuffix("\r").replace("\0", "\\x00"))
    by_name = dict(zip(names, fields, strict=True))
    row = Row(dict(nothing))
    for column in columns:
        first_bad = None
        for source in sources[column.name]:
            value, sound = read_value(by_name[source], column, day_first)
            if value is not None:
                row.values[column.name] = value
                break
            if not sound and first_bad is None:
                first_bad = by_name[source]
        else:
            if first_bad is not None:
                row.bad[column.name] = first_bad[:256]
            if any(is_null(by_name[source], column) for source in sources[column.name]):
                row.nulls.add(column.name)
    return row


def read_csv(body: bytes, contract: Contract, month: Month, *, whole: bool) -> list[Row]:
    """Return all expected rows of a file."""
    head, _, rest = body.partition(b"\n")
    header = head.decode("utf-8-sig").removesuffix("\r")
    names = split_fields(header)
    assert names is not None
    sources = contract.map_columns(names, month, "csv").sources
    *lines, last = rest.split(b"\n")
    lines = [line for line in lines if line not in (b"", b"\r")]
    first = next((line for line in rest.split(b"\n") if line not in (b"", b"\r")), b"")
    # A last line without an end can be half a line, unless the file is known to be whole.
    half = bool(last.strip(b"\r")) and not (
        whole and read_record(last, len(names)) and width(last) == first_width(first, len(names))
    )
    if last not in (b"", b"\r"):
        lines.append(last)
    times = [name for column in contract.columns if column.type == "timestamp" for name in sources.get(column.name, ())]
    records = [read_record(line, len(names)) for line in (lines[:-1] if half else lines)]
    day_first = find_day_first(fields[names.index(name)] for fields in records if fields for name in times)
    rows = [read_line(line, names, sources, contract, day_first) for line in lines]
    if half and rows[-1].raw is None:
        raw = last.decode("utf-8", "backslashreplace").removesuffix("\r").replace("\0", "\\x00")
        rows[-1] = Row(dict.fromkeys(rows[-1].values), raw=raw)
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
