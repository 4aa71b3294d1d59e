"""The coverage page: a calendar of all months, and every month's detail."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import polars as pl

from nyc_tlc.cleaning.rules import UNPARSEABLE
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.lake.history import list_changed_months, list_versions
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import COLORS, Color, Month
from nyc_tlc.pages.anomalies import find_anomalies
from nyc_tlc.pages.coverage import CoveredMonth, find_newest_months, list_facts
from nyc_tlc.pages.rendering import COVERAGE_PAGE, Card, shorten, to_json, write_page
from nyc_tlc.pages.summary import read_summaries
from nyc_tlc.warehouse.protocol import Kind
from nyc_tlc.warehouse.volume import TRAILING_MONTHS, is_comparable

#: The shades of the calendar: each is used up to this share of quarantined rows.
SHADES = (0.005, 0.01, 0.02, 0.05)
#: Warnings about odd months listed on the page; older ones are in the months' details.
ODD_LISTED = 25
STATES = {
    "in lake": "in the lake",
    "changed": "in the lake, but the source has another file now",
    "missing": "published, but not in the lake",
    "unpublished": "not published yet",
    "overdue": "not at the source, which must have it by now",
    "unknown": "not in the lake; whether it is published is not known",
}


class Cell(NamedTuple):
    """A month of the calendar: its classes for the style sheet, and a mark for each warehouse."""

    id: str
    classes: str
    text: str
    marks: list[str]
    title: str


def write_coverage_page(
    lake: Lake, months: Sequence[CoveredMonth], kinds: Sequence[Kind], notes: Sequence[str] = (), runs_url: str = ""
) -> str:
    """Write the page into the lake. Return its address, for people.

    Args:
        months: By colour and month.
        kinds: The warehouses that answered.
        notes: Lines for the top of the page, about what did not answer.
        runs_url: The address of flow runs, without the id; no links if empty.
    """
    odd = _find_odd(months)
    manifests = [each.manifest for each in months if each.manifest]
    versions = {
        f"{color}-{month}": _list_versions(lake, Keys(color, month))
        for color in COLORS
        for month in list_changed_months(lake, color)
    }
    examples = dict(read_summaries(lake, manifests, _take_examples))
    lines = [(each.id, line) for each in reversed(months) for line in odd.get(each.name, ())]
    lines.sort(key=lambda line: line[0][-7:], reverse=True)
    rules = {color: {rule.name: rule.reason for rule in read_contract(color).rules} for color in COLORS}
    details = {
        "kinds": list(kinds),
        "runs_url": runs_url,
        "rules": rules | {"any": {UNPARSEABLE: "The line is no record; its text is kept."}},
        "months": {
            each.id: _detail(each, kinds, lake, examples.get(each.name, []), odd.get(each.name, []))
            | {"versions": versions.get(each.id, [])}
            for each in months
        },
    }
    return write_page(
        lake,
        COVERAGE_PAGE,
        "coverage.html",
        "New York taxi trips: which months there are",
        manifests,
        cards=_cards(months, kinds),
        notes=notes,
        shades=[f"up to {limit:.1%}" for limit in SHADES] + [f"more than {SHADES[-1]:.0%} quarantined"],
        kinds=kinds,
        calendar=_calendar(months, kinds, {id for id, found in versions.items() if found}),
        titles={color: read_contract(color).title for color in COLORS},
        odd=lines[:ODD_LISTED],
        odd_left_out=max(0, len(lines) - ODD_LISTED),
        drift=_drift(months),
        months=months,
        details=to_json(details),
    )


def _cards(months: Sequence[CoveredMonth], kinds: Sequence[Kind]) -> list[Card]:
    """Return the totals, and each colour's newest month."""
    made = [each.manifest for each in months if each.manifest]
    rows, rejected = sum(each.clean.rows for each in made), sum(each.quarantine.rows for each in made)
    source_rows = max(1, sum(each.source.rows for each in made))
    due = sum(each.state in ("missing", "changed") for each in months)
    cards = [
        Card("In the lake", f"{len(made):,} months", f"{due:,} more to be made" if due else ""),
        Card("Clean rows", shorten(rows), f"{rows:,}"),
        Card("Quarantined", f"{rejected / source_rows:.2%}", f"{rejected:,} rows"),
    ]
    for kind in kinds:
        current = sum(each.describe_load(kind) == "current" for each in months)
        cards.append(Card(f"In {kind}", f"{current:,} months", "as they are in the lake"))
    newest = find_newest_months(months, kinds)
    for lake in (each for each in newest if each.place == "lake"):
        age = f"ended {lake.age} months ago{': the next is overdue' if lake.is_overdue else ''}"
        behind = [str(each) for each in newest if each.color == lake.color and each.month != lake.month]
        cards.append(Card(f"Newest {lake.color}", str(lake.month), ", ".join([age, *behind])))
    return cards


def _calendar(
    months: Sequence[CoveredMonth], kinds: Sequence[Kind], revised: Container[str]
) -> dict[Color, dict[int, list[Cell | None]]]:
    """Return colour -> year -> twelve cells; the newest year first. The source of ``revised`` months changed."""
    cells = {(each.color, each.month): _cell(each, kinds, each.id in revised) for each in months}
    years = {(each.color, each.month.year) for each in months}
    return {
        color: {
            year: [cells.get((color, Month(year, number))) for number in range(1, 13)]
            for _, year in sorted((each for each in years if each[0] == color), reverse=True)
        }
        for color in dict.fromkeys(each.color for each in months)
    }


def _list_versions(lake: Lake, keys: Keys) -> list[tuple[str, str, int, int, str]]:
    """Return a month's versions: name, since when, rows, bytes and digest; none if there is only the current one."""
    found = [each.manifest for each in list_versions(lake, keys)]
    rows = [(each.version, _minute(each.published_at), each.source) for each in found if len(found) > 1]
    return [(version, since, source.rows, source.bytes, source.sha256) for version, since, source in rows]


def _cell(month: CoveredMonth, kinds: Sequence[Kind], revised: bool) -> Cell:
    manifest = month.manifest
    title, classes = f"{month.name}: {STATES[month.state]}", month.state.replace(" ", "-")
    text, marks = {"missing": "+", "unpublished": "-", "overdue": "!"}.get(month.state, "?"), []
    if manifest:
        shade = sum(manifest.rejected_share > limit for limit in SHADES)
        classes, text = f"{classes} shade{shade}", shorten(manifest.clean.rows)
        title += f", {manifest.clean.rows:,} rows, {manifest.rejected_share:.2%} quarantined"
    if revised:
        classes, title = f"{classes} revised", f"{title}, its source changed"
    if manifest or month.loads:
        marks = [month.describe_load(kind) or "absent" for kind in kinds]
        title += "".join(f", {kind}: {month.describe_load(kind) or 'not loaded'}" for kind in kinds)
    return Cell(month.id, classes, text, marks, title)


def _drift(months: Sequence[CoveredMonth]) -> dict[str, list[str]]:
    """Return unexpected column -> the months that have it."""
    columns: defaultdict[str, list[str]] = defaultdict(list)
    for each in months:
        for column in each.manifest.drift if each.manifest else ():
            columns[column].append(each.id)
    return dict(columns)


def _find_odd(months: Sequence[CoveredMonth]) -> dict[str, list[str]]:
    """Return month -> its warnings from the comparison with the months before it."""
    made = {(each.color, each.month): each.manifest for each in months if each.manifest}
    odd = {}
    for (color, month), manifest in made.items():
        before = [made.get((color, month.plus(-ago))) for ago in range(TRAILING_MONTHS, 0, -1)]
        lines = find_anomalies(manifest, [each for each in before if each and is_comparable(each, manifest)])
        if lines:
            odd[manifest.name] = [line.partition(": ")[2] for line in lines]
    return odd


def _take_examples(manifest: Manifest, summary: pl.DataFrame) -> tuple[str, list[tuple[str, str]]]:
    """Return a month's name, and the rejected rows in its summary: rule and JSON."""
    return manifest.name, summary.filter(pl.col("part") == "example").select("key", "text").rows()


def _detail(
    month: CoveredMonth, kinds: Sequence[Kind], lake: Lake, examples: Sequence[tuple[str, str]], odd: Sequence[str]
) -> dict[str, Any]:
    """Return a month's details for the page's script."""
    state = STATES[month.state] + (f": {month.plan.why}" if month.plan and month.state != "in lake" else "")
    words = [month.color, str(month.month), month.state, "odd" if odd else ""]
    words += [f"{kind}-{month.describe_load(kind) or 'absent'}" for kind in kinds]
    detail: dict[str, Any] = {
        "state": state[:1].upper() + state[1:] + ".",
        "odd": odd,
        "rows": None,
        "rules": [],
        "examples": examples,
        "facts": [],
        "drift": [],
        "loads": [_load(month, kind) for kind in kinds],
        "runs": [],
    }
    if manifest := month.manifest:
        counted = (("reject", manifest.quarantine.rules), ("warn", manifest.warnings))
        rules = [(name, severity, rows) for severity, each in counted for name, rows in each.items() if rows]
        detail |= {
            "rows": [manifest.source.rows, manifest.clean.rows, manifest.quarantine.rows],
            "rules": rules,
            "facts": list(list_facts(manifest, lake).items()),
            "drift": manifest.drift,
            "runs": _runs(month, manifest),
        }
        words += [month.source, *(name for name, _, _ in rules)]
        words += ["drift", *manifest.drift] if manifest.drift else []
    return detail | {"words": " ".join(words).lower()}


def _load(month: CoveredMonth, kind: Kind) -> tuple[object, ...]:
    load = month.loads.get(kind)
    if load is None:
        return (kind, "", None, "", "")
    return (kind, month.describe_load(kind), load.row_count, _minute(load.loaded_at), load.flow_run_id or "")


def _runs(month: CoveredMonth, manifest: Manifest) -> list[tuple[str, str, str]]:
    """Return the known flow runs that made and loaded the month: what each did, its id and when."""
    runs = [("into the lake", manifest.flow_run_id, manifest.finished_at)]
    runs += [(f"into {kind}", load.flow_run_id, load.loaded_at) for kind, load in month.loads.items()]
    return [(step, run, _minute(at)) for step, run, at in runs if run]


def _minute(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"
