"""Format a backfill's plan and results as Markdown tables, for a terminal and for an artifact."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence

from nyc_tlc.planning.month_plan import MonthPlan
from nyc_tlc.planning.record import BackfillRun
from nyc_tlc.text_tables import format_table


def format_plan(plans: Sequence[MonthPlan]) -> str:
    """Format the plan. Months that are not published are only counted."""
    shown = [plan for plan in plans if plan.need != "unpublished"]
    lines = [_count(plan.need for plan in plans)]
    if shown:
        lines += [
            "",
            *format_table(("Month", "Need", "Why"), [(plan.name, plan.need, plan.why) for plan in shown], pad=True),
        ]
    return "\n".join(lines)


def format_report(name: str, run: BackfillRun) -> str:
    """Format the result of every month, and the command for the months that are left."""
    rows = [
        (
            month.name,
            month.need,
            month.result or "not reached",
            "" if month.rows is None else f"{month.rows:,}",
            "" if month.seconds is None else f"{month.seconds:.1f}",
            month.error or month.why,
        )
        for month in run.months
        if month.result != "unpublished"
    ]
    lines = [f"backfill {name}: {_count(month.result or 'not reached' for month in run.months)}"]
    if rows:
        lines += ["", *format_table(("Month", "Need", "Result", "Rows", "Seconds", "Why"), rows, pad=True)]
    if any(month.result in ("failed", None) for month in run.months):
        lines += ["", "to do the rest:", f"    {format_command(name, run)}"]
    return "\n".join(lines)


def format_command(name: str, run: BackfillRun) -> str:
    """Return the shell command for the months that a run has left, with the same options."""
    left = [month.id for month in run.months if month.result in ("failed", None)]
    words = ["python", "flows/backfill.py", "--months", *left, "--profile", run.profile, "--source", run.source]
    words += ["--warehouses", *run.warehouses] if run.warehouses else ["--lake-only"]
    words += ["--layout", run.layout] if run.layout != "month" else []
    words += ["--force"] if run.force else []
    words += ["--via", run.via] if run.via else []
    return shlex.join([*words, "--name", name])


def _count(words: Iterable[str]) -> str:
    return ", ".join(f"{count} {word}" for word, count in sorted(Counter(words).items()))
