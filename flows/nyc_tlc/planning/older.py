"""The months before a catch-up's own that it looks at too: nothing that leaves its window is forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date

from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import COLORS, Color, Month
from nyc_tlc.planning.month_plan import find_outdated
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.source.location import locate, source_kind
from nyc_tlc.warehouse.counts import Wrong
from nyc_tlc.warehouse.protocol import Loads

#: The source is asked for each older month once in so many days: a HEAD request for each on every day is too much.
LOOK_DAYS = 14
#: The files of each month in the lake are read and compared with their digests once in so many days.
VERIFY_DAYS = 28

Months = Iterable[tuple[Color, Month]]


@dataclass(frozen=True)
class WiderPlan:
    """The months that a catch-up plans.

    Attributes:
        months: Those of its window and older ones, oldest first.
        verify: Those of them whose files in the lake are read.
        wrong: Those of them whose rows in a warehouse are not as many as ``loads`` says.
    """

    months: list[tuple[Color, Month]]
    verify: set[tuple[Color, Month]] = field(default_factory=set)
    wrong: Wrong = field(default_factory=dict)


def find_older(
    colors: Sequence[Color],
    before: Month,
    lake: Lake,
    loads: Loads,
    options: MonthOptions,
    troubled: Months,
    today: date,
) -> list[tuple[Color, Month]]:
    """Return the months before one that a catch-up has to plan.

    These are the months that failed before, those that the lake lacks after its first, those that are outdated, and
    those that a warehouse lacks; and of the others today's share, because their source may have changed. Months from
    another source than the catch-up's are left alone.

    Args:
        before: The first month of the catch-up itself.
        today: Decides which share is looked at.
    """
    older = [(color, month) for color, month in troubled if color in colors and month < before]
    for color in colors:
        there = [month for month in lake.months(color) if month < before]
        # One that can't be read is left out, so its month is made again.
        manifests = lake.read_manifests(Keys(color, month) for month in there)
        found = {manifest.month_keys.month: manifest for manifest in manifests}
        first = max(min(there, default=before), read_contract(color).first_month)
        for month in first.up_to(before.plus(-1)):
            manifest = found.get(month)
            if manifest is None or _is_due(manifest, loads, options) or falls_on(color, month, LOOK_DAYS, today):
                older.append((color, month))
    return sorted(set(older), key=lambda each: (each[1], each[0]))


def falls_on(color: Color, month: Month, days: int, today: date) -> bool:
    """Return whether today is the day, of so many days, on which it is a month's turn."""
    return (month.year * 12 + month.month + 5 * COLORS.index(color)) % days == today.toordinal() % days


def _is_due(manifest: Manifest, loads: Loads, options: MonthOptions) -> bool:
    month = Month.parse(manifest.month)
    if source_kind(manifest.source.url) != source_kind(locate(options.source, manifest.color, month)):
        return False
    of_month = [there.get((manifest.color, month)) for there in loads.values()]
    return bool(find_outdated(manifest, options)) or not all(load and load.is_of(manifest) for load in of_month)
