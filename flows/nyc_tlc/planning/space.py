"""Compare the disk space that a plan's months need with the free space."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from nyc_tlc.errors import DiskFullError
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import COLORS
from nyc_tlc.planning.month_plan import MonthPlan
from nyc_tlc.settings import read_settings
from nyc_tlc.warehouse.protocol import Kind

#: Bytes in the lake, and in a warehouse, for each byte that is fetched. Measured on a yellow month of 3,000,000 rows
#: (lake 2.1, DuckDB 2.2, Postgres 10.1) and on green 2024-01 (1.9, 2.7, 7.5). BigQuery needs no disk here.
LAKE_RATIO = 2.1
WAREHOUSE_RATIOS: dict[Kind, float] = {"duckdb": 2.7, "postgres": 10.2}


def describe_space(plans: Sequence[MonthPlan], lake: Lake, kinds: Sequence[Kind]) -> str:
    """Return one line about the months and gigabytes that are due, and the free space."""
    fetched, unknown = _bytes_to_fetch(plans)
    due = sum(plan.is_due for plan in plans)
    parts = [
        f"{due} months are due: {_gigabytes(fetched)} to fetch",
        f"about {_gigabytes(LAKE_RATIO * fetched)} in the lake",
    ]
    parts += [
        f"{_gigabytes(ratio * fetched)} in {kind}"
        for kind, ratio in WAREHOUSE_RATIOS.items()
        if kind in kinds and fetched
    ]
    if unknown:
        parts.append(f"the source does not say how large {unknown} of them are")
    place = lake.local_path("") or read_settings().home
    free = shutil.disk_usage(_nearest_existing(place)).free
    return f"{', '.join(parts)}; {_gigabytes(free)} are free at {place}"


def check_space(plans: Sequence[MonthPlan], lake: Lake, kinds: Sequence[Kind]) -> None:
    """Check that the months that are due fit on this machine's disk, if they are written to it.

    Raises:
        DiskFullError: when they don't.
    """
    _require_space(_bytes_to_fetch(plans)[0], lake, kinds, "the months that are due")


def check_next_months(lake: Lake, kinds: Sequence[Kind]) -> str:
    """Check that a month of each colour, as large as the newest in the lake, fits on this machine's disk; say so.

    Raises:
        DiskFullError: when they don't.
    """
    newest = [Keys(color, max(months)) for color in COLORS if (months := lake.months(color))]
    fetched = sum(manifest.source.bytes for manifest in lake.read_manifests(newest))
    return _require_space(fetched, lake, kinds, "the next months")


def _require_space(fetched: int, lake: Lake, kinds: Sequence[Kind], what: str) -> str:
    folder = lake.local_path("")
    needed = (LAKE_RATIO if folder else 0) + (WAREHOUSE_RATIOS["duckdb"] if "duckdb" in kinds else 0)
    place = _nearest_existing(folder or read_settings().home)
    free = shutil.disk_usage(place).free
    if needed * fetched > free:
        raise DiskFullError(
            f"the disk of {place} is too small for {what}",
            expected=f"about {_gigabytes(needed * fetched)} free",
            got=_gigabytes(free),
            fix="make room, set TLC_HOME to another disk, or ask for fewer months",
        )
    return f"{_gigabytes(free)} are free at {place}; {what} need about {_gigabytes(needed * fetched)}"


def _bytes_to_fetch(plans: Sequence[MonthPlan]) -> tuple[int, int]:
    """Return the bytes to fetch, and the number of months whose size the source does not give."""
    remotes = [plan.remote for plan in plans if plan.need in ("ingest", "reload") and plan.remote]
    return sum(remote.bytes or 0 for remote in remotes), sum(remote.bytes is None for remote in remotes)


def _nearest_existing(path: Path) -> Path:
    """Return the path, or its nearest parent folder that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
