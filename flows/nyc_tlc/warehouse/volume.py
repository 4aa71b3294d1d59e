"""Refuse to load a month with far fewer or far more rows than the twelve months before it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from nyc_tlc.errors import ReconciliationError
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Month
from nyc_tlc.source.location import source_kind

#: The number of months before a month that it is compared with.
TRAILING_MONTHS = 12
#: With fewer known months before it, a month is not judged.
MIN_KNOWN_MONTHS = 6
#: A number of rows below or above these multiples of the median stops a load.
SEVERE_BELOW, SEVERE_ABOVE = 0.2, 5.0


class VolumeError(ReconciliationError):
    """A month has so few or so many rows that it is loaded only with force."""


def read_trailing(lake: Lake, manifest: Manifest) -> list[Manifest]:
    """Read the manifests of up to TRAILING_MONTHS months before one, oldest first, that can be compared with it."""
    month = Month.parse(manifest.month)
    before = [Keys(manifest.color, month.plus(-ago)) for ago in range(TRAILING_MONTHS, 0, -1)]
    return [each for each in lake.read_manifests(before) if is_comparable(each, manifest)]


def is_comparable(one: Manifest, other: Manifest) -> bool:
    """Return whether the row counts of two months can be compared.

    The number of rows of a sample is a setting, so a sample is compared only with samples of the same size.
    """
    kinds = {source_kind(one.source.url), source_kind(other.source.url)}
    return "sample" not in kinds or (len(kinds) == 1 and one.source.rows == other.source.rows)


def check_volume(manifest: Manifest, trailing: Sequence[Manifest]) -> None:
    """Compare a month's number of rows with the months before it, if at least MIN_KNOWN_MONTHS are known.

    Raises:
        VolumeError: when it has less than a fifth or more than five times the median's rows.
    """
    if len(trailing) < MIN_KNOWN_MONTHS:
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
