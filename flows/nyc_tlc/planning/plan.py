"""Plan many months: what each needs, and why."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from datetime import date, timedelta
from types import MappingProxyType

from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import ArgumentError, OverdueError, TlcError, TransientError
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import COLORS, Color, Month
from nyc_tlc.planning.month_plan import MonthPlan, plan_month
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.source.location import locate, redact_url
from nyc_tlc.source.published import PUBLICATION_LAG
from nyc_tlc.threads import ContextPool
from nyc_tlc.warehouse.counts import Wrong
from nyc_tlc.warehouse.protocol import Kind, Loads

log = logging.getLogger(__name__)

#: How many months are looked at in parallel: no more connections than a browser opens to the source.
PARALLEL_LOOKS = 6
#: After so many months in a row without an answer the source is down, and is not asked for the others.
SILENT_MONTHS = 3


def list_months(
    colors: Iterable[Color], start: str | None, end: str | None, every: int, last: int | str | None, now: Month
) -> list[tuple[Color, Month]]:
    """Return the colour-months of a range, oldest first; see ``flows/backfill.py`` for the parameters.

    Args:
        start: ``YYYY-MM`` or a day, as ``end``; the colour's first month if left out.
        last: A number of months, or of days like ``7d``.
        now: The current month, or the month that a late run was scheduled for.

    Raises:
        ArgumentError: when the range has no months.
    """
    newest = now.plus(-PUBLICATION_LAG)
    if last is not None:
        if start or end:
            raise ArgumentError("last can't be combined with start or end")
        if isinstance(last, int):
            start = str(newest.plus(1 - last))
        else:
            first_day, last_day = (newest.end - timedelta(days) for days in (int(last.removesuffix("d")), 1))
            start, end = str(first_day.date()), str(last_day.date())
    first_asked = _find_month(start) if start else None
    last_asked = _find_month(end) if end else newest
    days = [text for text in (start, end) if text and len(text) > len("YYYY-MM")]
    if days:
        if days != sorted(days):
            raise ArgumentError(f"there are no days from {start} to {end}", fix="check --start and --end")
        span = f"from {start or 'the first'} to {end or last_asked}"
        log.info("the days %s are in the months %s to %s", span, first_asked or "the first", last_asked)
    asked: list[tuple[Color, Month]] = []
    for color in dict.fromkeys(colors):
        first = read_contract(color).first_month
        asked += [(color, month) for month in max(first_asked or first, first).up_to(last_asked, every)]
    if not asked:
        raise ArgumentError(f"there are no months from {first_asked} to {last_asked}", fix="check --start and --end")
    return sorted(asked, key=lambda each: (each[1], each[0]))


def _find_month(text: str) -> Month:
    """Return the month of a text like ``2024-01`` or ``2024-01-25``."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return Month.parse(text)
    return Month(day.year, day.month)


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
    options: MonthOptions,
    lake: Lake,
    loads: Loads,
    *,
    verify: Container[tuple[Color, Month]] = (),
    wrong: Wrong = MappingProxyType({}),
    at_look: Callable[[int], None] = lambda _: None,
) -> list[MonthPlan]:
    """Decide what each month needs in the lake and the warehouses; the months are looked at in parallel.

    Args:
        verify: Months whose files in the lake are read and compared with their digests.
        wrong: Months whose rows in a warehouse are not as many as ``loads`` says.
        at_look: Called with the number of months looked at so far.

    Raises:
        ArgumentError: when the source is neither a name nor a template.
        ConfigurationError: when the source's scheme is not allowed.
        TransientError: when the source does not answer for several months in a row.
        OverdueError: when the source has none of several months, of which it must have some by now.
    """
    for color, month in asked[:1]:
        locate(options.source, color, month)
    silent = list[TransientError]()

    def look(which: tuple[Color, Month]) -> MonthPlan:
        if len(silent) >= SILENT_MONTHS:
            return MonthPlan(*which, "unknown", str(silent[0]))
        try:
            plan = plan_month(*which, replace(options, verify=options.verify or which in verify), lake)
            silent.clear()
            return add_loads(plan, loads, wrong, force=options.force)
        except TransientError as error:
            silent.append(error)
            return MonthPlan(*which, "unknown", str(error))
        except OverdueError as error:
            return MonthPlan(*which, "overdue", str(error))
        except TlcError as error:
            return MonthPlan(*which, "unknown", str(error))

    plans: list[MonthPlan] = []
    with ContextPool(PARALLEL_LOOKS, thread_name_prefix="look") as pool:
        for plan in pool.map(look, asked):
            plans.append(plan)
            at_look(len(plans))
    if len(silent) >= SILENT_MONTHS:
        what = f"the source {redact_url(options.source)} is down: no answer for {len(silent)} months in a row"
        raise TransientError(what, got=silent[0].what, fix="nothing is lost; run this again later")
    needs = {plan.need for plan in plans}
    if len(plans) > 1 and "overdue" in needs and needs <= {"overdue", "unpublished"}:
        first, last = min(plan.month for plan in plans), max(plan.month for plan in plans)
        raise OverdueError(
            f"the source {redact_url(options.source)} has none of the {len(plans)} months from {first} to {last}",
            expected="a source that has at least one of them",
            fix="check --source and TLC_SOURCE",
        )
    return plans


def add_loads(plan: MonthPlan, loads: Loads, wrong: Wrong, *, force: bool) -> MonthPlan:
    """Add to the plan for the lake which warehouses the month has to be loaded into."""
    if plan.is_due_in_lake:
        return replace(plan, warehouses=tuple(loads))
    if plan.need != "current" or plan.manifest is None:
        return plan
    which, behind = (plan.color, plan.month), dict[Kind, str]()
    recount = tuple(kind for kind in loads if which in wrong.get(kind, ()))
    for kind, there in loads.items():
        load = there.get(which)
        if kind in recount:
            behind[kind] = wrong[kind][which]
        elif force or load is None or not load.is_of(plan.manifest):
            behind[kind] = f"not in {kind}" if load is None else f"another file of it is in {kind}"
    if not behind:
        return plan
    return replace(plan, need="load", why="; ".join(behind.values()), warehouses=tuple(behind), recount=recount)
