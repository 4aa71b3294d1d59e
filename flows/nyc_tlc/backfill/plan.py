"""Many months: what each needs and why, what became of it, and the record that is kept of both."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nyc_tlc.backfill.month_plan import Action, Plan, plan_month
from nyc_tlc.contract.contract import read_contract
from nyc_tlc.errors import ArgumentError, TlcError
from nyc_tlc.lake.keys import Layout
from nyc_tlc.lake.lake import Lake
from nyc_tlc.months import COLORS, Color, Month
from nyc_tlc.source.published import PUBLICATION_LAG
from nyc_tlc.threads import ContextPool
from nyc_tlc.warehouse.warehouse import Kind, Load

log = logging.getLogger(__name__)

#: Besides what a month can need in the lake: ``load`` is there but not in a warehouse, ``unknown`` is not known.
Need = Action | Literal["load", "unknown"]

#: How many months are looked at side by side: quick for us, and no more than a browser would ask of the source.
LOOKS_AT_ONCE = 6


@dataclass(frozen=True)
class BackfillOptions:
    """What all months of a backfill have in common; the words are those of the flow's parameters."""

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
        need: What is to be done.
        why: Why, in words.
        plan: What the look at source and lake found; None when it is not known.
        warehouses: Those it is to be loaded into.
    """

    color: Color
    month: Month
    need: Need
    why: str
    plan: Plan | None = None
    warehouses: tuple[Kind, ...] = ()

    @property
    def name(self) -> str:
        """What errors and log lines call the month."""
        return f"{self.color} {self.month}"

    @property
    def is_due(self) -> bool:
        """Whether anything is to be done."""
        return self.need not in ("current", "kept", "unpublished")


def list_months(
    colors: Iterable[Color], start: str | None, end: str | None, every: int, last: int | None, now: Month
) -> list[tuple[Color, Month]]:
    """The colour-months of a range, oldest first.

    Args:
        colors: The colours.
        start: The first month, ``YYYY-MM``; a colour's first one if left out.
        end: The last month; the newest that can be published if left out.
        every: Take one month in so many, counted from the first.
        last: Instead of start and end: so many months up to the newest that can be published.
        now: The month it is, or that a late run was meant for.

    Raises:
        ArgumentError: when there are no months in it.
    """
    newest = now.plus(-PUBLICATION_LAG)
    if last is not None:
        if start or end:
            raise ArgumentError("last goes without start and end")
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
        raise ArgumentError(f"there are no months from {first_asked} to {last_asked}", fix="see --start and --end")
    return sorted(asked, key=lambda each: (each[1], each[0]))


def parse_months(names: Iterable[str]) -> list[tuple[Color, Month]]:
    """The colour-months of a list like ``green-2024-01``, oldest first.

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
    """Decide what every month needs: one look at its source each, side by side.

    Args:
        asked: The months.
        source: Where they come from.
        lake: Where they are kept.
        loads: What each warehouse has.
        days: Whether daily folders are wanted.
        force: Whether months are to be redone even when they are current.
        verify: Whether the lake's files are compared with their digests.
        at_look: Told how many were looked at.
    """

    def look(which: tuple[Color, Month]) -> MonthPlan:
        color, month = which
        try:
            plan = plan_month(source, color, month, lake, days=days, force=force, verify=verify)
        except TlcError as error:
            return MonthPlan(color, month, "unknown", str(error))
        return plan_loads(color, month, plan, loads, force=force)

    plans: list[MonthPlan] = []
    with ContextPool(LOOKS_AT_ONCE, thread_name_prefix="look") as pool:
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
    """Decide which warehouses a month is to be loaded into, once it is known what the lake needs."""
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
