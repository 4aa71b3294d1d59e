"""What a catch-up does besides the months of its window: it plans older months, counts rows, and tells of troubles."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.states import Completed, Failed

from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import NEW_YORK, Color, Month
from nyc_tlc.pages.anomalies import compute_trends
from nyc_tlc.planning.older import VERIFY_DAYS, WiderPlan, falls_on, find_older
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.planning.record import remove_old_records
from nyc_tlc.planning.troubles import (
    Trouble,
    compare_troubles,
    find_trouble,
    format_news,
    format_troubles,
    read_troubles,
    write_troubles,
)
from nyc_tlc.profiles.opening import name_lake, open_warehouse
from nyc_tlc.warehouse.counts import Wrong, find_wrong_counts
from nyc_tlc.warehouse.protocol import Loads
from nyc_tlc.warehouse.volume import read_trailing

log = logging.getLogger(__name__)

#: The name of the failed state of a catch-up with open troubles. Their event tells of them, not the state.
TROUBLED = "Troubled"
#: The weekday on which the rows of the warehouses are counted: Monday.
COUNT_DAY = 0


def widen(asked: Sequence[tuple[Color, Month]], lake: Lake, loads: Loads, options: MonthOptions) -> WiderPlan:
    """Add to the months of the window the older ones that have to be looked at today."""
    today = datetime.now(NEW_YORK).date()
    colors, before = list(dict.fromkeys(color for color, _ in asked)), min(month for _, month in asked)
    troubled = [(each.color, Month.parse(each.month)) for each in read_troubles(lake) if each.color and each.month]
    wrong = count_rows(options.profile, loads) if today.weekday() == COUNT_DAY or options.verify else {}
    verify = {
        (color, month) for color in colors for month in lake.months(color) if falls_on(color, month, VERIFY_DAYS, today)
    }
    older = {*find_older(colors, before, lake, loads, options, troubled, today), *verify}
    older |= {which for months in wrong.values() for which in months if which[0] in colors}
    return WiderPlan(sorted({*asked, *older}, key=lambda each: (each[1], each[0])), verify, wrong)


def count_rows(profile: str, loads: Loads) -> Wrong:
    """Return the months whose rows in a warehouse are not as many as ``loads`` says."""
    return {kind: find_wrong_counts(open_warehouse(profile, kind), there) for kind, there in loads.items()}


def find_in_lake(lake: Lake, colors: Sequence[Color]) -> list[Trouble]:
    """Return the troubles that the newest month of each colour shows: unknown columns, an odd number of rows."""
    found = []
    for color in colors:
        newest = max(lake.months(color), default=None)
        manifest = lake.manifest(Keys(color, newest)) if newest else None
        if manifest is None:
            continue
        if manifest.drift:
            columns = ", ".join(manifest.drift)
            text = f"{manifest.name}: unknown columns {columns}: in raw and not in clean; add them to the contract"
            found.append(find_trouble("unknown column", text, color, place=columns))
        for trend in compute_trends(manifest, read_trailing(lake, manifest)):
            if trend.name == "rows" and trend.is_odd:
                usual = f"the median of the {trend.months} months before is {trend.show(trend.median)}"
                text = f"{manifest.name}: {trend.show(trend.value)} rows, {usual}: compare it with the source"
                found.append(find_trouble("odd volume", text, color, manifest.month))
    return found


def end_catch_up(lake: Lake, profile: str, found: Sequence[Trouble], report: str = "") -> State[None] | None:
    """Keep the table of troubles, tell what is new about them, and return the state of a run with open troubles.

    The event ``nyc-tlc.troubles`` is what an automation makes a notification of.
    """
    known = read_troubles(lake)
    troubles, news = compare_troubles(known, found)
    if news:
        text = format_news(news)
        log.warning("%s", text)
        emit_event(
            "nyc-tlc.troubles",
            {"prefect.resource.id": f"nyc-tlc.lake.{name_lake(profile)}", "prefect.resource.name": name_lake(profile)},
            payload={"subject": f"{len(troubles)} troubles are open, {len(news)} have changed", "text": text},
        )
    if troubles or known:
        write_troubles(lake, troubles)
    remove_old_records(lake)
    if not troubles:
        return None
    message = f"{troubles[0].text}\n\n{format_troubles(troubles)}\n\n{report}"
    if all(each.kind == "source down" and each.told is None for each in troubles):
        return Completed(name="SourceDown", message=message)
    return Failed(name=TROUBLED, message=message)
