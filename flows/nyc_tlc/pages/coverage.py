"""List the months in the lake, in each warehouse and, if it was asked, at the source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import COLORS, Color, Month, OfMonth
from nyc_tlc.planning.month_plan import MonthPlan
from nyc_tlc.source.location import source_kind
from nyc_tlc.source.published import is_overdue
from nyc_tlc.text_tables import format_table
from nyc_tlc.warehouse.protocol import Kind, Load, Loads

#: ``changed``: in the lake, but a run would give another result today. ``missing``: published, not in the lake.
State = Literal["in lake", "changed", "missing", "unpublished", "overdue", "unknown"]


@dataclass(frozen=True)
class CoveredMonth(OfMonth):
    """One month of one colour, and where it is.

    Attributes:
        manifest: None when the lake does not have it.
        loads: Warehouse -> its row of ``loads`` there.
        plan: What it needs by its source; None when the source was not asked.
    """

    color: Color
    month: Month
    manifest: Manifest | None = None
    loads: Mapping[Kind, Load] = field(default_factory=dict)
    plan: MonthPlan | None = None

    @property
    def source(self) -> str:
        """What it was made from: ``tlc``, ``dtc``, ``sample``, else the host or ``file``; empty if not in the lake."""
        if self.manifest is None:
            return ""
        kind = source_kind(self.manifest.source.url)
        return kind if kind != "template" else urlsplit(self.manifest.source.url).hostname or "file"

    @property
    def state(self) -> State:
        """Where the month is, in a word or two."""
        need = self.plan.need if self.plan else None
        if self.manifest:
            return "changed" if need in ("reload", "clean again") and self._same_source else "in lake"
        if need in ("unpublished", "overdue"):
            return need
        return "missing" if need == "ingest" else "unknown"

    @property
    def _same_source(self) -> bool:
        """Whether the month was made from the source that was asked."""
        remote = self.plan.remote if self.plan else None
        return bool(remote and self.manifest and source_kind(remote.url) == source_kind(self.manifest.source.url))

    def describe_load(self, kind: Kind) -> str:
        """Compare a warehouse with the lake: ``current``, ``outdated`` (loaded from another file) or empty."""
        load = self.loads.get(kind)
        if load is None:
            return ""
        return "current" if self.manifest and load.clean_sha256 == self.manifest.clean.sha256 else "outdated"


def read_coverage(
    lake: Lake, loads: Loads, plans: Sequence[MonthPlan] = (), colors: Sequence[Color] = COLORS
) -> list[CoveredMonth]:
    """Return all months in the lake, in a warehouse or in the plans, by colour and month."""
    manifests = {(each.color, Month.parse(each.month)): each for each in lake.read_all_manifests(colors)}
    asked = {(plan.color, plan.month): plan for plan in plans}
    every = {*manifests, *asked, *(which for there in loads.values() for which in there)}
    return [
        CoveredMonth(
            color,
            month,
            manifests.get((color, month)),
            {kind: there[color, month] for kind, there in loads.items() if (color, month) in there},
            asked.get((color, month)),
        )
        for color, month in sorted(every, key=lambda each: (COLORS.index(each[0]), each[1]))
        if color in colors
    ]


@dataclass(frozen=True)
class NewestMonth:
    """The newest month of a colour in one place.

    Attributes:
        place: ``lake``, or a kind of warehouse.
        age: Whole months since the month's end.
        is_overdue: Whether the month after it must be published by now. Never for generated months and for ``dtc``,
            which publishes no more.
    """

    color: Color
    place: str
    month: Month
    age: int
    is_overdue: bool

    def __str__(self) -> str:
        age = f"ended {self.age} months ago" if self.age else "ended this month"
        return f"{self.place} {self.month} ({age}{', overdue' if self.is_overdue else ''})"


def find_newest_months(months: Sequence[CoveredMonth], kinds: Sequence[Kind]) -> list[NewestMonth]:
    """Return the newest month of each colour in the lake and in each warehouse that has any, by colour and place."""
    now, found = Month.current(), list[NewestMonth]()
    for color in COLORS:
        for place in ("lake", *kinds):
            there = [
                each
                for each in months
                if each.color == color and (each.manifest if place == "lake" else place in each.loads)
            ]
            if there:
                newest = max(there, key=lambda each: each.month)
                month, goes_on = newest.month, newest.source not in ("sample", "dtc")
                age = max(0, (now.year - month.year) * 12 + now.month - month.month - 1)
                found.append(NewestMonth(color, place, month, age, goes_on and is_overdue(month.plus(1))))
    return found


def find_gaps(months: Sequence[CoveredMonth]) -> list[Month]:
    """Return the months of one colour that the lake lacks between its first and its newest."""
    made = {each.month for each in months if each.manifest}
    return [month for month in min(made).up_to(max(made)) if month not in made] if made else []


def list_facts(manifest: Manifest, lake: Lake) -> dict[str, str]:
    """Return what is known about a month's files and how they were made, by its name for people."""
    source = manifest.source
    seconds = manifest.seconds | {"total": (manifest.finished_at - manifest.started_at).total_seconds()}
    took = ", ".join(f"{step} {each:.1f} s" for step, each in seconds.items())
    return {
        "Source": source.url,
        "Size": f"{source.bytes:,} bytes, {source.format}, {len(source.columns)} columns",
        "Size of the clean file": f"{manifest.clean.bytes:,} bytes",
        "Changed at the source": source.last_modified or "the source does not say",
        "ETag": source.etag or "the source does not say",
        "SHA-256 of the source": source.sha256,
        "SHA-256 of the clean file": manifest.clean.sha256,
        "Made": f"{manifest.finished_at:%Y-%m-%d %H:%M} UTC: {took}",
        "Contract, rules, program": f"{manifest.contract_version}, {manifest.rules_version}, {manifest.code_version}",
        "Clean": lake.url(manifest.clean.key),
        "Quarantine": lake.url(manifest.quarantine.key),
        "Raw": lake.url(source.key),
        "Days": f"{len(manifest.daily)} daily files" if manifest.daily else "none",
    }


def describe_generated(manifests: Sequence[Manifest]) -> str:
    """Return a line that says which months are this project's sample and not TLC's data; empty if none is."""
    generated = [each.name for each in manifests if source_kind(each.source.url) == "sample"]
    if not generated:
        return ""
    named = ", ".join(generated[:12]) + (f" and {len(generated) - 12} more" if len(generated) > 12 else "")
    which = "All months" if len(generated) == len(manifests) else f"The months {named}"
    return f"GENERATED DATA. {which} here are made up by this project (source sample). They are not TLC's."


def format_coverage(
    months: Sequence[CoveredMonth],
    kinds: Sequence[Kind],
    name: Callable[[CoveredMonth], str] = lambda month: month.name,
) -> str:
    """Format the months as a Markdown table, also for a terminal, with a column for each warehouse.

    Args:
        months: By colour and month.
        name: What the first column says of a month.
    """
    found = [each for each in months if each.manifest or each.loads]
    header = ("Month", "Rows", "Rejected", "Source", "Made (UTC)", *kinds)
    table = format_table(
        header, [(name(each), *_cells(each, kinds)) for each in found], right=("Rows", "Rejected"), pad=True
    )
    return "\n".join([*_counts(found, kinds), "", *table])


def _counts(months: Sequence[CoveredMonth], kinds: Sequence[Kind]) -> list[str]:
    """Return two lines for each colour: its months and its number of rows; its newest month in each place."""
    newest, lines = find_newest_months(months, kinds), list[str]()
    for color in COLORS:
        made = [each.manifest for each in months if each.color == color and each.manifest]
        if made:
            rows = sum(each.clean.rows for each in made)
            lines.append(f"{color}: {len(made)} months from {made[0].month} to {made[-1].month}, {rows:,} rows  ")
            lines.append(f"newest {color}: {', '.join(str(each) for each in newest if each.color == color)}  ")
    return lines or ["The lake has no months yet."]


def _cells(month: CoveredMonth, kinds: Sequence[Kind]) -> tuple[str, ...]:
    loads = (month.describe_load(kind) for kind in kinds)
    if manifest := month.manifest:
        made = f"{manifest.finished_at:%Y-%m-%d %H:%M}"
        return (f"{manifest.clean.rows:,}", f"{manifest.rejected_share:.2%}", month.source, made, *loads)
    return ("", "", "not in the lake", "", *loads)
