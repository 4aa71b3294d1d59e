"""A backfill's plan and its outcome as tables, for a terminal and for an artifact."""

from __future__ import annotations

from collections.abc import Sequence

from nyc_tlc.backfill.plan import MonthPlan
from nyc_tlc.backfill.record import BackfillRun


def format_plan(plans: Sequence[MonthPlan]) -> str:
    """The plan as Markdown, which reads well on a terminal too: what is due first, the rest counted."""
    counts: dict[str, int] = {}
    for plan in plans:
        counts[plan.need] = counts.get(plan.need, 0) + 1
    lines = [", ".join(f"{count} {need}" for need, count in sorted(counts.items())), ""]
    lines += _table(("Month", "Need", "Why"), [(plan.name, plan.need, plan.why) for plan in plans])
    return "\n".join(lines)


def format_report(name: str, run: BackfillRun) -> str:
    """What became of every month, and what to run again."""
    counts: dict[str, int] = {}
    for month in run.months:
        counts[month.result or "not reached"] = counts.get(month.result or "not reached", 0) + 1
    rows = [
        (
            f"{month.color} {month.month}",
            month.need,
            month.result or "not reached",
            "" if month.rows is None else f"{month.rows:,}",
            "" if month.seconds is None else f"{month.seconds:.1f}",
            month.error or month.why,
        )
        for month in run.months
    ]
    lines = [f"backfill {name}: " + ", ".join(f"{count} {result}" for result, count in sorted(counts.items())), ""]
    lines += _table(("Month", "Need", "Result", "Rows", "Seconds", "Why"), rows)
    if again := [month for month in run.months if month.result in ("failed", None)]:
        colors = " ".join(sorted({month.color for month in again}))
        first, last = min(month.month for month in again), max(month.month for month in again)
        lines += ["", "run again; it does only what is left:"]
        more = f" --profile {run.profile} --source '{run.source}' --name {name}"
        more += f" --warehouses {' '.join(run.warehouses)}" if run.warehouses else " --empty-warehouses"
        lines += [f"    python flows/backfill.py --colors {colors} --start {first} --end {last}{more}"]
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(header, *cells, strict=True)]
    widths[-1] = len(header[-1])

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"

    return [line(header), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, cells)]
