"""Write a page about each colour's trips from the months' summaries: charts without script, and their numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Any

import polars as pl

from nyc_tlc.contract.dataset import code_tables, read_contract
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Color, Month
from nyc_tlc.pages.charts import DASHES, Line, draw_bars, draw_lines, shorten
from nyc_tlc.pages.rendering import MONTH_NAMES, trips_page, write_page
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

    Args:
        lake: The lake.
        color: The colour.

    Returns:
        The address of the page, for people; None when the lake has no month of the colour.
    """
    manifests = lake.read_all_manifests([color])
    if not manifests:
        return None
    contract, summaries = read_contract(color), read_summaries(lake, manifests)
    recent = [each.month for each in manifests[-RECENT_MONTHS:]]
    latest = summaries.filter(pl.col("month").is_in(recent))
    days = _days(summaries, manifests)
    per_day = {month: trips / _days_in(month) for month, trips in _by_month(summaries, "trips").items()}
    return write_page(
        lake,
        trips_page(color),
        "trips.html",
        contract.title,
        contract=contract,
        cards=_cards(manifests, summaries),
        days_chart=_days_chart(color, days),
        empty_days=_empty_days(days, manifests),
        by_month=_month_rows(summaries),
        years_chart=_years_chart(color, per_day),
        by_year=_year_rows(per_day),
        recent=recent,
        heat=_heat(latest, recent),
        histograms=list(_histograms(latest)),
        zones=_zones(latest),
        code_shares=_code_shares(latest),
    )


def _days_in(month: str) -> int:
    """Return the number of days of a month."""
    return (Month.parse(month).end - Month.parse(month).start).days


def _counts(summaries: pl.DataFrame, part: str) -> dict[str, int]:
    """Return key -> trips, over all months."""
    counted = summaries.filter(pl.col("part") == part).group_by("key", maintain_order=True).agg(pl.col("trips").sum())
    return dict(counted.iter_rows())


def _by_month(summaries: pl.DataFrame, column: str) -> dict[str, float]:
    """Return month -> a column's sum over its days."""
    days = summaries.filter((pl.col("part") == "day") & pl.col(column).is_not_null())
    return dict(days.group_by("month", maintain_order=True).agg(pl.col(column).sum()).iter_rows())


def _cards(manifests: Sequence[Manifest], summaries: pl.DataFrame) -> list[dict[str, str]]:
    trips, days = sum(each.clean.rows for each in manifests), sum(_days_in(each.month) for each in manifests)
    cards = [
        {
            "label": "Months in the lake",
            "value": f"{len(manifests)}",
            "note": f"{manifests[0].month} to {manifests[-1].month}",
        },
        {"label": "Trips", "value": shorten(trips), "note": f"{trips:,}"},
        {"label": "Trips a day", "value": shorten(trips / days), "note": f"over {days:,} days"},
    ]
    for title, column, unit in (("Revenue a trip", "revenue", "$"), ("Distance a trip", "distance", "mi")):
        total = sum(_by_month(summaries, column).values())
        if total and trips:
            cards.append(
                {"label": title, "value": f"{total / trips:.2f} {unit}", "note": f"{shorten(total)} {unit} in all"}
            )
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


def _month_rows(summaries: pl.DataFrame) -> list[dict[str, str]]:
    revenue, distance = _by_month(summaries, "revenue"), _by_month(summaries, "distance")
    return [
        {
            "month": month,
            "trips": f"{trips:,.0f}",
            "per_day": f"{trips / _days_in(month):,.0f}",
            "revenue": f"{revenue[month]:,.0f}" if month in revenue else "",
            "distance": f"{distance[month]:,.0f}" if month in distance else "",
        }
        for month, trips in reversed(_by_month(summaries, "trips").items())
    ]


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


def _year_rows(per_day: dict[str, float]) -> dict[str, list[tuple[str, str] | None]]:
    """Return year -> its months: trips a day, and the change from the year before; the newest year first."""
    rows: dict[str, list[tuple[str, str] | None]] = {}
    for year in sorted({month[:4] for month in per_day}, reverse=True):
        rows[year] = []
        for number in range(1, 13):
            now, before = (per_day.get(f"{each:04d}-{number:02d}") for each in (int(year), int(year) - 1))
            change = f"{now / before - 1:+.0%}" if now is not None and before else ""
            rows[year].append(None if now is None else (f"{now:,.0f}", change))
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
            "title": histogram.title,
            "unit": histogram.unit,
            "chart": draw_bars(f"{histogram.title}, {histogram.unit}", shown, values),
            "rows": [(label, f"{trips:,}", f"{trips / total:.1%}") for label, trips in zip(names, values, strict=True)],
        }


def _zones(latest: pl.DataFrame) -> list[dict[str, Any]]:
    (zones,) = (lookup.rows for lookup in read_lookups() if lookup.table.name == "zones")
    named = {str(row["location_id"]): row for row in zones.to_pylist()}
    counted = _counts(latest, "zone")
    total = sum(counted.values())
    known = sorted(((trips, zone) for zone, trips in counted.items() if zone in named), reverse=True)[:ZONES_SHOWN]
    return [
        {
            "zone": named[zone]["zone"],
            "borough": named[zone]["borough"],
            "trips": f"{trips:,}",
            "share": f"{trips / total:.1%}",
            "width": f"{100 * trips / known[0][0]:.1f}",
        }
        for trips, zone in known
    ]


def _code_shares(latest: pl.DataFrame) -> dict[str, list[dict[str, str]]]:
    shares = {}
    for part, table in (("payment", "payment_types"), ("rate", "rate_codes")):
        counted, codes = _counts(latest, part), code_tables()[table].codes
        total = sum(counted.values())
        names = {str(code): entry.name for code, entry in codes.items()} | {"unknown": "Not given"}
        rows = sorted(((trips, code) for code, trips in counted.items()), reverse=True)
        if rows:
            shares[code_tables()[table].title] = [
                {
                    "code": "" if code == "unknown" else code,
                    "name": names.get(code, "Not in TLC's data dictionary"),
                    "trips": f"{trips:,}",
                    "share": f"{trips / total:.1%}",
                    "width": f"{100 * trips / rows[0][0]:.1f}",
                }
                for trips, code in rows
            ]
    return shares
