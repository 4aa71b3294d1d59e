"""Plan many months: what each needs, and why."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import ArgumentError, TlcError
from nyc_tlc.lake.keys import Layout
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import COLORS, Color, Month
from nyc_tlc.planning.month_plan import Action, Plan, plan_month
from nyc_tlc.source.published import PUBLICATION_LAG
from nyc_tlc.threads import ContextPool
from nyc_tlc.warehouse.protocol import Kind, Load

log = logging.getLogger(__name__)

#: The actions, and ``load``: in the lake but not in a warehouse; ``unknown``: the source or the lake gave an error.
Need = Action | Literal["load", "unknown"]

#: How many months are looked at in parallel: no more connections than a browser opens to the source.
PARALLEL_LOOKS = 6


@dataclass(frozen=True)
class BackfillOptions:
    """The options of all months of a backfill, named as the flow's parameters."""

    source: str
    profile: str
    warehouses: tuple[Kind, ...]
    layout: Layout
    force: bool
    verify: bool = False
    via: str | None = None


@dataclass(frozen=True)
class MonthPlan:
    """What one month needs.

    Attributes:
        color: The colour.
        month: The month.
        need: What has to be done.
        why: The reason, for people.
        plan: The plan for the lake; None when it could not be made.
        warehouses: The warehouses to load it into.
    """

    color: Color
    month: Month
    need: Need
    why: str
    plan: Plan | None = None
    warehouses: tuple[Kind, ...] = ()

    @property
    def name(self) -> str:
        """The month's name in errors and log lines."""
        return f"{self.color} {self.month}"

    @property
    def is_due(self) -> bool:
        """Whether anything has to be done."""
        return self.need not in ("current", "kept", "unpublished")


def list_months(
    colors: Iterable[Color], start: str | None, end: str | None, every: int, last: int | None, now: Month
) -> list[tuple[Color, Month]]:
    """Return the colour-months of a range, oldest first.

    Args:
        colors: The colours.
        start: The first month, ``YYYY-MM``; the colour's first one if left out.
        end: The last month; the newest that can be published if left out.
        every: Take only every n-th month, counted from the first.
        last: Instead of start and end: the number of months up to the newest that can be published.
        now: The current month, or the month that a late run was scheduled for.

    Raises:
        ArgumentError: when the range has no months.
    """
    newest = now.plus(-PUBLICATION_LAG)
    if last is not None:
        if start or end:
            raise ArgumentError("last can't be combined with start or end")
        first_asked: Month | None = newest.plus(1 - last)
        last_asked = newest
    else:
        first_asked = Month.parse(start) if start else None
        last_asked = Month.parse(end) if end else newest
    asked: list[tuple[Color, Month]] = []
    for color in dict.fromkeys(colors):
        month = max(first_asked or read_contract(color).first_month, read_contract(color).first_month)
        while month <= last_asked:
            asked.append((color, month))
            month = month.plus(every)
    if not asked:
        raise ArgumentError(f"there are no months from {first_asked} to {last_asked}", fix="check --start and --end")
    return sorted(asked, key=lambda each: (each[1], each[0]))


def parse_months(names: Iterable[str]) -> list[tuple[Color, Month]]:
    """Parse names like ``green-2024-01`` into colour-months, oldest first.

    Raises:
        ArgumentError: for a name that is not a colour and a month, or a month that is before the colour's first.
    """
    asked: set[tuple[Color, Month]] = set()
    for name in names:
        color, _, month = name.partition("-")
        known = next((each for each in COLORS if each == color), None)
        if known is None:
            raise ArgumentError(f"not a colour and a month: {name!r}", expected="names like green-2024-01")
        parsed = Month.parse(month)
        if parsed < read_contract(known).first_month:
            raise ArgumentError(
                f"there is no {known} {parsed}: the records begin in {read_contract(known).first_month}"
            )
        asked.add((known, parsed))
    return sorted(asked, key=lambda each: (each[1], each[0]))


def plan_months(
    asked: Sequence[tuple[Color, Month]],
    source: str,
    lake: Lake,
    loads: Mapping[Kind, Mapping[tuple[Color, Month], Load]],
    *,
    days: bool = False,
    force: bool = False,
    verify: bool = False,
    at_look: Callable[[int], None] = lambda _: None,
) -> list[MonthPlan]:
    """Decide what each month needs; the months are looked at in parallel.

    Args:
        asked: The months.
        source: A source's name or a template.
        lake: The lake.
        loads: Warehouse -> its loads.
        days: Whether daily folders are wanted.
        force: Whether to make months again even when they are current.
        verify: Whether to compare the lake's files with their digests.
        at_look: Called with the number of months looked at so far.
    """

    def look(which: tuple[Color, Month]) -> MonthPlan:
        color, month = which
        try:
            plan = plan_month(source, color, month, lake, days=days, force=force, verify=verify)
        except TlcError as error:
            return MonthPlan(color, month, "unknown", str(error))
        return plan_loads(color, month, plan, loads, force=force)

    plans: list[MonthPlan] = []
    with ContextPool(PARALLEL_LOOKS, thread_name_prefix="look") as pool:
        for plan in pool.map(look, asked):
            plans.append(plan)
            at_look(len(plans))
    return plans


def plan_loads(
    color: Color,
    month: Month,
    plan: Plan,
    loads: Mapping[Kind, Mapping[tuple[Color, Month], Load]],
    *,
    force: bool,
) -> MonthPlan:
    """Decide which warehouses to load a month into, after the plan for the lake."""
    if plan.action in ("kept", "unpublished"):
        return MonthPlan(color, month, plan.action, plan.why, plan)
    if plan.action != "current" or plan.manifest is None:
        return MonthPlan(color, month, plan.action, plan.why, plan, tuple(loads))
    behind: dict[Kind, str] = {}
    for kind, there in loads.items():
        load = there.get((color, month))
        if force or load is None or not load.is_of(plan.manifest):
            lacks_quarantine = load is not None and load.quarantine_rows is None
            state = f"its quarantine is not in {kind}" if lacks_quarantine else f"another file of it is in {kind}"
            behind[kind] = f"not in {kind}" if load is None else state
    if behind:
        return MonthPlan(color, month, "load", "; ".join(behind.values()), plan, tuple(behind))
    return MonthPlan(color, month, "current", plan.why, plan)
