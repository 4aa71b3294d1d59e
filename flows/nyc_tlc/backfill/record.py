"""What became of a backfill's months, as the lake keeps it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from nyc_tlc.backfill.plan import Need
from nyc_tlc.errors import ArgumentError, LakeError
from nyc_tlc.lake.staging import Lake
from nyc_tlc.months import Color
from nyc_tlc.warehouse.warehouse import Kind

#: What became of a month.
Result = Literal["done", "current", "unpublished", "failed"]


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class MonthRecord(BaseModel):
    """What became of one month."""

    model_config = ConfigDict(frozen=True)

    color: Color
    month: str
    need: Need
    why: str
    result: Result | None = None
    rows: int | None = None
    seconds: float | None = None
    error: str | None = None


class Run(BaseModel):
    """One run of a backfill. ``finished_at`` is null when it never came to its end."""

    model_config = ConfigDict(frozen=True)

    reason: str
    flow_run_id: str | None
    started_at: datetime
    finished_at: datetime | None = None
    profile: str
    source: str
    warehouses: tuple[Kind, ...]
    months: tuple[MonthRecord, ...]


class Record(BaseModel):
    """A backfill as the lake keeps it under ``backfills/{name}.json``: all its runs, the last one last."""

    model_config = ConfigDict(frozen=True)

    name: str
    runs: tuple[Run, ...]


def key(name: str) -> str:
    """Where the lake keeps a backfill's record.

    Raises:
        ArgumentError: for a name that is no file's.
    """
    if not NAME.fullmatch(name):
        raise ArgumentError(f"{name!r} can't be a backfill's name", expected="letters, digits, dots, dashes")
    return f"backfills/{name}.json"


def runs_so_far(lake: Lake, name: str) -> tuple[Run, ...]:
    """The runs that a backfill of this name had.

    Raises:
        LakeError: when its record can't be read.
    """
    content = lake.read(key(name))
    try:
        return Record.model_validate_json(content).runs if content else ()
    except ValidationError as error:
        raise LakeError(f"the record {lake.url(key(name))} can't be read", fix="take another name") from error


def keep(lake: Lake, name: str, earlier: Sequence[Run], run: Run) -> None:
    """Keep a run with the earlier ones of its name."""
    record = Record(name=name, runs=(*earlier, run))
    lake.write(key(name), record.model_dump_json(indent=2).encode() + b"\n")
