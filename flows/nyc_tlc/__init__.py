"""New York's taxi trip records, month by month: fetched, cleaned, accounted for and loaded.

For notebooks::

    from nyc_tlc import codes, months, plausible, trips, zones

    trips("green", "2023-01", "2023-12", columns=["trip_distance", "tip_amount"], where="trip_distance > 10")

These five are imported when they are first used, and none of them imports Prefect for the profile ``local``.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_FOR_NOTEBOOKS = ("codes", "months", "plausible", "trips", "zones")

__all__ = ["__version__", "codes", "months", "plausible", "trips", "zones"]


def __getattr__(name: str) -> Any:
    """Import what notebooks use when it is first asked for (PEP 562)."""
    if name in _FOR_NOTEBOOKS:
        value = getattr(importlib.import_module("nyc_tlc.notebooks"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the names that an editor completes."""
    return sorted({*globals(), *_FOR_NOTEBOOKS})
