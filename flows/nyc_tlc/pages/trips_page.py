"""Write a page about each colour's trips from the months' summaries: charts without script, and their numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import polars as pl

from nyc_tlc.contract.dataset import code_tables, read_contract
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Color, Month
from nyc_tlc.pages.charts import DASHES, Line, draw_bars, draw_lines, shorten
from nyc_tlc.pages.rendering import MONTH_NAMES, Card, trips_page, write_page
from nyc_tlc.pages.summary import HISTOGRAMS, read_summaries
from nyc_tlc.warehouse.lookups import read_lookups

#: The number of newest months that distributions, zones and shares cover.
RECENT_MONTHS = 12
#: The number of zones listed.
ZONES_SHOWN = 20
#: The number of days without a trip that are listed.
EMPTY_DAYS_NAMED = 10
#: From this share of the busiest hour on, a heat map cell is dark and its text has the page's colour.
STRONG_FROM = 0.6
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def write_trips_page(lake: Lake, color: Color) -> str | None:
    """Write a colour's page into the lake.

    Returns:
        The address of the page, for people; None when the lake has no month of the colour.
    """
    manifests = lake.read_all_manifests([color])
    if not manifests:
        return None
    contract, summaries = read_contract(color), read_summaries(lake, manifests)
    recent = [each.month for each in manifests[-RECENT_MONTHS:]]
    latest = summaries.filter(pl.col("month").is_in(recent))
    days, by_month = _days(summaries, manifests), _by_month(summaries)
    per_day = {month: row["per_day"] for month, row in by_month.items()}
    return write_page(
        lake,
        trips_page(color),
        "trips.html",
        contract.title,
        contract=contract,
        cards=_cards(manifests, by_month),
        days_chart=_days_chart(color, days),
        empty_days=_empty_days(days, manifests),
        by_month=by_month,
        years_chart=_years_chart(color, per_day),
        by_year=_by_year(per_day),
        recent=recent,
        heat=_heat(latest, recent),
        histograms=list(_histograms(latest)),
        zones=_zones(latest),
        code_shares=_code_shares(latest),
    )


def _days_in(month: str) -> int:
    return (Month.parse(month).end - Month.parse(month).start).days


def _counts(summaries: pl.DataFrame, part: str) -> dict[str, int]:
    """Return key -> trips, over all months."""
    counted = summaries.filter(pl.col("part") == part).group_by("key", maintain_order=True).agg(pl.col("trips").sum())
    return dict(counted.iter_rows())


def _by_month(summaries: pl.DataFrame) -> dict[str, dict[str, float]]:
    """Return month -> its trips, trips a day, revenue and distance; these two are 0 for a colour without them."""
    sums = pl.col("trips", "revenue", "distance").sum()
    counted = summaries.filter(pl.col("part") == "day").group_by("month", maintain_order=True).agg(sums)
    return {
        row["month"]: row | {"per_day": row["trips"] / _days_in(row["month"])} for row in counted.iter_rows(named=True)
    }


def _cards(manifests: Sequence[Manifest], by_month: Mapping[str, Mapping[str, float]]) -> list[Card]:
    trips, days = sum(each.clean.rows for each in manifests), sum(_days_in(each.month) for each in manifests)
    cards = [
        Card("Months in the lake", f"{len(manifests)}", f"{manifests[0].month} to {manifests[-1].month}"),
        Card("Trips", shorten(trips), f"{trips:,}"),
        Card("Trips a day", shorten(trips / days), f"over {days:,} days"),
    ]
    for title, column, unit in (("Revenue a trip", "revenue", "$"), ("Distance a trip", "distance", "mi")):
        total = sum(row[column] for row in by_month.values())
        if total and trips:
            cards.append(Card(title, f"{total / trips:.2f} {unit}", f"{shorten(total)} {unit} in all"))
    return cards


def _days(summaries: pl.DataFrame, manifests: Sequence[Manifest]) -> dict[date, int | None]:
    """Return each day from the first month to the last -> its trips; None if its month is not in the lake."""
    known = {each.month for each in manifests}
    counted = {date.fromisoformat(day): trips for day, trips in _counts(summaries, "day").items() if day != "unknown"}
    day, end = Month.parse(manifests[0].month).first_day, Month.parse(manifests[-1].month).end.date()
    days: dict[date, int | None] = {}
    while day < end:
        days[day] = counted.get(day, 0) if f"{day:%Y-%m}" in known else None
        day += timedelta(days=1)
    return days


def _days_chart(color: Color, days: dict[date, int | None]) -> str:
    places = list(days)
    many = len(places) > 3 * 366
    starts = [(place, day) for place, day in enumerate(places) if day.day == 1 and (day.month == 1 or not many)]
    every = max(1, -(-len(starts) // 12))
    ticks = [(place, f"{day.year}" if many else f"{day:%Y-%m}") for place, day in starts[::every]]
    return draw_lines(f"{color}: trips a day", [Line("trips a day", [trips or None for trips in days.values()])], ticks)


def _empty_days(days: dict[date, int | None], manifests: Sequence[Manifest]) -> str:
    with_rows = {each.month for each in manifests if each.clean.rows}
    empty = [str(day) for day, trips in days.items() if trips == 0 and f"{day:%Y-%m}" in with_rows]
    more = f" and {len(empty) - EMPTY_DAYS_NAMED} more" if len(empty) > EMPTY_DAYS_NAMED else ""
    return ", ".join(empty[:EMPTY_DAYS_NAMED]) + more


def _years_chart(color: Color, per_day: dict[str, float]) -> str:
    years = sorted({month[:4] for month in per_day})[-len(DASHES) :]
    lines = []
    for year in years:
        values = [per_day.get(f"{year}-{number:02d}") for number in range(1, 13)]
        titles = [
            f"{name} {year}: {value:,.0f}" if value else "" for name, value in zip(MONTH_NAMES, values, strict=True)
        ]
        lines.append(Line(year, values, titles))
    title = f"{color}: trips a day, month by month"
    return draw_lines(title, lines, list(enumerate(MONTH_NAMES)), labelled=True)


def _by_year(per_day: Mapping[str, float]) -> dict[str, list[tuple[float | None, str]]]:
    """Return year -> its months: trips a day, and the change from the year before; the newest year first."""
    rows: defaultdict[str, list[tuple[float | None, str]]] = defaultdict(list)
    for year in sorted({month[:4] for month in per_day}, reverse=True):
        for number in range(1, 13):
            now, before = (per_day.get(f"{each:04d}-{number:02d}") for each in (int(year), int(year) - 1))
            rows[year].append((now, f"{now / before - 1:+.0%}" if now is not None and before else ""))
    return rows


def _heat(latest: pl.DataFrame, months: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return weekday -> 24 cells: average trips an hour, and the strength of the colour."""
    weekdays = [0] * 7
    for month in months:
        for day in range(_days_in(month)):
            weekdays[(Month.parse(month).first_day + timedelta(days=day)).weekday()] += 1
    counted = _counts(latest, "hour")
    averages = {
        name: [counted.get(f"{index + 1} {hour:02d}", 0) / weekdays[index] for hour in range(24)]
        for index, name in enumerate(WEEKDAYS)
    }
    top = max(max(row) for row in averages.values()) or 1
    return {
        name: [
            # From 0 to 0.3, then from 0.8 to 1: text can't be read well on a colour between.
            {
                "text": f"{value:.1f}" if top < 100 else f"{value:,.0f}" if top < 10_000 else shorten(value),
                "alpha": f"{(value / top + 1) / 2 if value >= STRONG_FROM * top else value / top / 2:.2f}",
                "strong": value >= STRONG_FROM * top,
            }
            for value in row
        ]
        for name, row in averages.items()
    }


def _histograms(latest: pl.DataFrame) -> Iterator[dict[str, Any]]:
    for name, histogram in HISTOGRAMS.items():
        counted = _counts(latest, name)
        # Trips without a value, such as the tip share without a fare, are not on the axis.
        total = sum(counted.get(label, 0) for label in histogram.labels)
        if not total:
            continue
        shown = [label for label in histogram.labels if label != "<0" or counted.get(label)]
        values = [counted.get(label, 0) for label in shown]
        names = [label if not label.isdigit() else f"{label} to {int(label) + histogram.width}" for label in shown]
        yield {
            "histogram": histogram,
            "chart": draw_bars(f"{histogram.title}, {histogram.unit}", shown, values),
            "rows": [(name, trips, trips / total) for name, trips in zip(names, values, strict=True)],
        }


def _rank(summaries: pl.DataFrame, part: str) -> list[tuple[str, int, float]]:
    """Return the keys of a part with their trips and their share of all trips, 0 to 1; the most frequent first."""
    counted = _counts(summaries, part)
    ranked = sorted(((trips, key) for key, trips in counted.items()), reverse=True)
    return [(key, trips, trips / sum(counted.values())) for trips, key in ranked]


def _zones(latest: pl.DataFrame) -> list[tuple[Mapping[str, str], int, float]]:
    """Return the busiest zones, each as its row of the lookup table, with its trips and its share."""
    (zones,) = (lookup.rows for lookup in read_lookups() if lookup.table.name == "zones")
    named = {str(row["location_id"]): row for row in zones.to_pylist()}
    return [(named[zone], trips, share) for zone, trips, share in _rank(latest, "zone") if zone in named][:ZONES_SHOWN]


def _code_shares(latest: pl.DataFrame) -> dict[str, list[tuple[str, str, int, float]]]:
    """Return the title of a code table -> its codes, each with its meaning, trips and share."""
    shares = {}
    for part, table in (("payment", "payment_types"), ("rate", "rate_codes")):
        names = {str(code): entry.name for code, entry in code_tables()[table].codes.items()}
        rows = [
            ("", "Not given", trips, share)
            if code == "unknown"
            else (code, names.get(code, "Not in TLC's data dictionary"), trips, share)
            for code, trips, share in _rank(latest, part)
        ]
        if rows:
            shares[code_tables()[table].title] = rows
    return shares
