"""The record of a backfill in the lake: its runs, and the result of each month."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, ValidationError

from nyc_tlc.errors import LONGEST_PART, ArgumentError, LakeError
from nyc_tlc.lake.keys import Layout
from nyc_tlc.lake.manifest import Stored, Text
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Color, Month, OfMonth
from nyc_tlc.planning.month_plan import MonthPlan, Need
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.shown import shown
from nyc_tlc.source.location import name_source
from nyc_tlc.warehouse.protocol import Kind

#: A line that says why, as people are shown it.
Why = Annotated[str, AfterValidator(lambda text: shown(text, LONGEST_PART))]
#: The result of a month.
Result = Literal["done", "current", "kept", "unpublished", "failed"]
#: What is wrong, in a word or two; ``failed`` is for what has no kind of its own.
TroubleKind = Literal[
    "source down",
    "overdue",
    "broken file",
    "unknown column",
    "odd volume",
    "warehouse away",
    "rows missing",
    "disk low",
    "failed",
]


LAST_CATCH_UP = "catch-up.json"
#: How long the record of a catch-up, or of a run that a backfill started, stays in the lake.
KEPT_DAYS = 60

BACKFILL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class MonthRecord(OfMonth, Stored):
    """What one month needed, and its result."""

    color: Color
    month: str
    need: Need
    why: Why
    result: Result | None = None
    rows: int | None = None
    seconds: float | None = None
    error: Why | None = None
    trouble: TroubleKind | None = None


class BackfillRun(Stored):
    """One run of a backfill. ``finished_at`` is null if it was interrupted."""

    reason: Text
    flow_run_id: str | None
    started_at: datetime
    finished_at: datetime | None = None
    profile: str
    source: str
    warehouses: tuple[Kind, ...]
    layout: Layout = "month"
    force: bool = False
    via: str | None = None
    months: tuple[MonthRecord, ...]


class BackfillRecord(Stored):
    """The content of ``backfills/{name}.json``: all runs of a backfill, oldest first."""

    name: str
    runs: tuple[BackfillRun, ...]


def record_key(name: str) -> str:
    """Return the key of a backfill's record.

    Raises:
        ArgumentError: when the name can't be a file name.
    """
    if not BACKFILL_NAME.fullmatch(name):
        raise ArgumentError(f"{name!r} can't be a backfill's name", expected="letters, digits, dots, dashes")
    return f"backfills/{name}.json"


def read_runs(lake: Lake, name: str) -> tuple[BackfillRun, ...]:
    """Read the earlier runs of a backfill.

    Raises:
        LakeError: when the record can't be read.
    """
    content = lake.read(record_key(name))
    try:
        return BackfillRecord.model_validate_json(content).runs if content else ()
    except ValidationError as error:
        raise LakeError(
            f"the record {lake.url(record_key(name))} can't be read", fix="choose another --name"
        ) from error


def write_run(lake: Lake, name: str, earlier: Sequence[BackfillRun], run: BackfillRun) -> None:
    """Write a run into the record, after the earlier ones."""
    lake.write(record_key(name), BackfillRecord(name=name, runs=(*earlier, run)).to_json())


def write_last_catch_up(lake: Lake, run: BackfillRun) -> None:
    """Keep what a catch-up saw, for the report."""
    lake.write(LAST_CATCH_UP, run.to_json())


def read_last_catch_up(lake: Lake) -> list[MonthPlan]:
    """Return what the last catch-up saw of its months, if it was in the last two days; without their files."""
    try:
        run = BackfillRun.model_validate_json(lake.read(LAST_CATCH_UP) or b"")
    except ValidationError:
        return []
    if datetime.now(UTC) - run.started_at > timedelta(days=2):
        return []
    return [MonthPlan(each.color, Month.parse(each.month), each.need, each.why) for each in run.months]


def remove_old_records(lake: Lake) -> None:
    """Remove those after KEPT_DAYS that have the names of a catch-up (``last``) or of a backfill's run on a worker."""
    oldest = f"{datetime.now(UTC) - timedelta(days=KEPT_DAYS):%Y%m%dT%H%M%S}"
    for key in lake.list_keys("backfills/"):
        named = re.search(r"-(?:last-\d+|to-\d{4}-\d\d)-(\d{8}T\d{6})\.json$", key)
        if named and named[1] < oldest:
            lake.remove(key)


def record_month(
    plan: MonthPlan,
    result: Result | None = None,
    rows: int | None = None,
    seconds: float | None = None,
    error: str | None = None,
    trouble: TroubleKind | None = None,
) -> MonthRecord:
    """Return the record of a month. If nothing is due, its result is known already."""
    if not plan.is_due:
        result = "kept" if plan.need == "kept" else "unpublished" if plan.need == "unpublished" else "current"
        rows = plan.manifest.clean.rows if plan.manifest else None
    return MonthRecord(
        color=plan.color,
        month=str(plan.month),
        need=plan.need,
        why=plan.why,
        result=result,
        rows=rows,
        seconds=None if seconds is None else round(seconds, 2),
        error=error,
        trouble=trouble,
    )


def start_run(
    plans: Sequence[MonthPlan], options: MonthOptions, via: str | None, reason: str, flow_run_id: str | None
) -> BackfillRun:
    """Return the record of a run before its first month."""
    return BackfillRun(
        reason=reason,
        flow_run_id=flow_run_id,
        started_at=min(plan.planned_at for plan in plans),
        profile=options.profile,
        source=name_source(options.source),
        warehouses=options.warehouses,
        layout=options.layout,
        force=options.force,
        via=via,
        months=tuple(record_month(plan) for plan in plans),
    )


def finish_run(run: BackfillRun, ended: Iterable[MonthRecord]) -> BackfillRun:
    """Return the record of a run after its last month."""
    by_month = {(each.color, each.month): each for each in ended}
    months = tuple(by_month.get((each.color, each.month), each) for each in run.months)
    return run.model_copy(update={"months": months, "finished_at": datetime.now(UTC)})
