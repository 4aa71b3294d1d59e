"""Compare a month with the twelve months before it: its number of rows, and the share of each rule.

The distance is the robust z-score: ``0.6745 * (value - median) / MAD``, where MAD is the median of the absolute
differences from the median. For normally distributed values it equals the z-score, but one odd month among the twelve
hardly moves either median. From ODD_Z_SCORE on (3.5, the limit of Iglewicz and Hoaglin, 1993) a value is odd. The MAD
counts as at least a share of the median, so that a small difference is not odd when the months before hardly differ.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from nyc_tlc.cleaning.rules import ONE_MINUTE
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.text_tables import format_table
from nyc_tlc.warehouse.volume import MIN_KNOWN_MONTHS

#: The robust z-score from which on a value is odd.
ODD_Z_SCORE = 3.5
#: The smallest MAD used: as a share of the median; for a rule's share, also as a value.
LEAST_SPREAD, LEAST_SHARE_SPREAD = 0.05, 0.001


@dataclass(frozen=True)
class Trend:
    """One value of a month, compared with the months before it.

    Attributes:
        name: ``rows``, ``rejected`` or a rule.
        value: The month's number of rows, or its share, 0 to 1.
        months: How many months before it are known.
    """

    name: str
    value: float
    median: float
    z: float
    months: int

    @property
    def is_odd(self) -> bool:
        """Whether it is far from the median, with enough months known."""
        return self.months >= MIN_KNOWN_MONTHS and abs(self.z) >= ODD_Z_SCORE

    def show(self, value: float) -> str:
        """Format a value: rows as a number, everything else as a percentage."""
        return f"{value:,.0f}" if self.name == "rows" else f"{value:.2%}"


def compute_trends(manifest: Manifest, trailing: Sequence[Manifest]) -> list[Trend]:
    """Compare a month's rows, its share of rejected rows and the share of each rule with the months before it."""
    if not trailing:
        return []
    trends = [
        _trend("rows", manifest.source.rows, [each.source.rows for each in trailing], least=0.0),
        _trend("rejected", manifest.rejected_share, [each.rejected_share for each in trailing]),
    ]
    for rule in {**manifest.quarantine.rules, **manifest.warnings}:
        if not rule.startswith(ONE_MINUTE):
            trends.append(_trend(rule, _rule_share(manifest, rule), [_rule_share(each, rule) for each in trailing]))
    return trends


def _trend(name: str, value: float, before: Sequence[float], least: float = LEAST_SHARE_SPREAD) -> Trend:
    median = statistics.median(before)
    spread = statistics.median(abs(each - median) for each in before)
    believed = max(spread, LEAST_SPREAD * median, least) or 1.0
    return Trend(name, value, median, 0.6745 * (value - median) / believed, len(before))


def _rule_share(manifest: Manifest, rule: str) -> float:
    rows = manifest.quarantine.rules.get(rule, 0) + manifest.warnings.get(rule, 0)
    return rows / max(1, manifest.source.rows)


def find_anomalies(manifest: Manifest, trailing: Sequence[Manifest]) -> list[str]:
    """Return one line about each odd value of a month, with the numbers, and each vendor with one minute only."""
    lines = [
        f"{manifest.name}: all {rows:,} trips of vendor {rule.removeprefix(ONE_MINUTE)} begin in the same minute of the"
        " hour, so the minutes of its times are lost"
        for rule, rows in manifest.warnings.items()
        if rule.startswith(ONE_MINUTE)
    ]
    return lines + [
        f"{manifest.name}: {trend.name} {trend.show(trend.value)} is far from usual: the median of the"
        f" {trend.months} months before is {trend.show(trend.median)} (robust z-score {trend.z:+.1f})"
        for trend in compute_trends(manifest, trailing)
        if trend.is_odd
    ]


def format_trend(manifest: Manifest, trailing: Sequence[Manifest]) -> str:
    """Format the trends as a Markdown section of the quality report; empty if no month before it is known."""
    trends = compute_trends(manifest, trailing)
    if not trends:
        return ""
    header = ("", "This month", f"Median of {len(trailing)} months before", "Robust z-score")
    compared = [
        (
            trend.name if trend.name in ("rows", "rejected") else f"`{trend.name}`",
            trend.show(trend.value),
            trend.show(trend.median),
            f"**{trend.z:+.1f}**" if trend.is_odd else f"{trend.z:+.1f}",
        )
        for trend in trends
    ]
    months = [(each.month, f"{each.source.rows:,}", f"{each.rejected_share:.2%}") for each in (*trailing, manifest)]
    lines = [
        "## Compared with the months before",
        "",
        *(f"**Warning**: {line}." for line in find_anomalies(manifest, trailing)),
        "",
        *format_table(header, compared, right=header[1:]),
        "",
        *format_table(("Month", "Rows", "Rejected"), months, right=("Rows", "Rejected")),
        "",
        f"A robust z-score is odd from {ODD_Z_SCORE} on, up or down, with {MIN_KNOWN_MONTHS} months known.",
    ]
    return "\n".join(lines) + "\n"
