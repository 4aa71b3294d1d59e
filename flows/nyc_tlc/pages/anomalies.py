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
from nyc_tlc.errors import ReconciliationError
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Month
from nyc_tlc.pages.summary import read_each
from nyc_tlc.source.location import source_kind

#: The number of months before a month that it is compared with.
TRAILING_MONTHS = 12
#: With fewer known months before it, a month is not judged.
MIN_KNOWN_MONTHS = 6
#: The robust z-score from which on a value is odd.
ODD_Z_SCORE = 3.5
#: A number of rows below or above these multiples of the median stops a load.
SEVERE_BELOW, SEVERE_ABOVE = 0.2, 5.0
#: The smallest MAD used: as a share of the median; for a rule's share, also as a value.
LEAST_SPREAD, LEAST_SHARE_SPREAD = 0.05, 0.001


class VolumeError(ReconciliationError):
    """A month has so few or so many rows that it is loaded only with force."""


@dataclass(frozen=True)
class Trend:
    """One value of a month, compared with the months before it.

    Attributes:
        name: What it is: ``rows``, ``rejected`` or a rule.
        value: The month's.
        median: The median of the months before it.
        z: Its robust z-score.
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


def read_trailing(lake: Lake, manifest: Manifest) -> list[Manifest]:
    """Read the manifests of up to TRAILING_MONTHS months before one, oldest first, that can be compared with it."""
    month = Month.parse(manifest.month)
    trailing = read_each(lake, [Keys(manifest.color, month.plus(-ago)) for ago in range(TRAILING_MONTHS, 0, -1)])
    return [each for each in trailing if is_comparable(each, manifest)]


def is_comparable(one: Manifest, other: Manifest) -> bool:
    """Return whether the row counts of two months can be compared.

    The number of rows of a sample is a setting, so a sample is compared only with samples of the same size.
    """
    kinds = {source_kind(one.source.url), source_kind(other.source.url)}
    return "sample" not in kinds or (len(kinds) == 1 and one.source.rows == other.source.rows)


def compute_trends(manifest: Manifest, trailing: Sequence[Manifest]) -> list[Trend]:
    """Compare a month's rows, its share of rejected rows and the share of each rule with the months before it.

    Args:
        manifest: The month.
        trailing: The months before it.
    """
    if not trailing:
        return []
    trends = [
        _trend("rows", manifest.source.rows, [each.source.rows for each in trailing], least=0.0),
        _trend("rejected", _rejected_share(manifest), [_rejected_share(each) for each in trailing]),
    ]
    for rule in {**manifest.quarantine.rules, **manifest.warnings}:
        if rule.startswith(ONE_MINUTE):
            continue
        trends.append(_trend(rule, _rule_share(manifest, rule), [_rule_share(each, rule) for each in trailing]))
    return trends


def _trend(name: str, value: float, before: Sequence[float], least: float = LEAST_SHARE_SPREAD) -> Trend:
    median = statistics.median(before)
    spread = statistics.median(abs(each - median) for each in before)
    believed = max(spread, LEAST_SPREAD * median, least) or 1.0
    return Trend(name, value, median, 0.6745 * (value - median) / believed, len(before))


def _rejected_share(manifest: Manifest) -> float:
    return manifest.quarantine.rows / max(1, manifest.source.rows)


def _rule_share(manifest: Manifest, rule: str) -> float:
    rows = manifest.quarantine.rules.get(rule, 0) + manifest.warnings.get(rule, 0)
    return rows / max(1, manifest.source.rows)


def find_anomalies(manifest: Manifest, trailing: Sequence[Manifest]) -> list[str]:
    """Return one line about each odd value of a month, with the numbers, and each vendor with one minute only.

    Args:
        manifest: The month.
        trailing: The months before it.
    """
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


def check_volume(manifest: Manifest, trailing: Sequence[Manifest], *, force: bool = False) -> None:
    """Raise an error for a month that is far too small or too large to be loaded.

    Args:
        manifest: The month.
        trailing: The months before it; with fewer than MIN_KNOWN_MONTHS nothing is checked.
        force: Whether to load it anyway.

    Raises:
        VolumeError: when it has less than a fifth or more than five times the median's rows.
    """
    if force or len(trailing) < MIN_KNOWN_MONTHS:
        return
    rows, median = manifest.source.rows, statistics.median(each.source.rows for each in trailing)
    if not SEVERE_BELOW * median <= rows <= SEVERE_ABOVE * median:
        raise VolumeError(
            f"{manifest.name}: not loaded, its number of rows is far from usual",
            expected=f"{SEVERE_BELOW * median:,.0f} to {SEVERE_ABOVE * median:,.0f} rows ({SEVERE_BELOW:.0%} to"
            f" {SEVERE_ABOVE:.0%} of the median {median:,.0f} of the {len(trailing)} months before)",
            got=f"{rows:,} rows ({rows / max(1.0, median):.0%})",
            fix="look at the month; if it is right, load it with --force",
        )


def format_trend(manifest: Manifest, trailing: Sequence[Manifest]) -> str:
    """Format the trends as a Markdown section of the month's report; empty if no month before it is known.

    Args:
        manifest: The month.
        trailing: The months before it.
    """
    trends = compute_trends(manifest, trailing)
    if not trends:
        return ""
    lines = ["## Beside the months before", ""]
    lines += [f"**Warning**: {line}." for line in find_anomalies(manifest, trailing)]
    lines += [
        "",
        f"| | This month | Median of {trends[0].months} months before | Robust z-score |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {trend.name if trend.name in ('rows', 'rejected') else f'`{trend.name}`'} | {trend.show(trend.value)} |"
        f" {trend.show(trend.median)} | {f'**{trend.z:+.1f}**' if trend.is_odd else f'{trend.z:+.1f}'} |"
        for trend in trends
    ]
    lines += ["", "| Month | Rows | Rejected |", "|---|---:|---:|"]
    lines += [
        f"| {each.month} | {each.source.rows:,} | {_rejected_share(each):.2%} |" for each in (*trailing, manifest)
    ]
    lines += ["", f"A robust z-score is odd from {ODD_Z_SCORE} on, up or down, with {MIN_KNOWN_MONTHS} months known."]
    return "\n".join(lines) + "\n"
