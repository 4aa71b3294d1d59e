"""New York's taxi trip records, month by month: fetched, cleaned, accounted for and loaded.

For notebooks::

    from nyc_tlc import codes, months, trips, zones

    trips("green", "2023-01", "2023-12", columns=["trip_distance", "tip_amount"], where="trip_distance > 10")

These four are imported when they are first used, and none of them imports Prefect for the profile ``local``.

``nyc_tlc.months`` is a module as well, the one with ``Month``. Python sets a submodule as an attribute of its package
only when it first loads it, so it is loaded here, before the attribute is given to the function: from then on ``from
nyc_tlc import months`` is the function and ``from nyc_tlc.months import Month`` is the module, in any order. Only
``import nyc_tlc.months as name`` would give the function; write ``from nyc_tlc.months import …`` instead.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_FOR_NOTEBOOKS = ("codes", "months", "trips", "zones")

__all__ = ["__version__", "codes", "months", "trips", "zones"]

importlib.import_module("nyc_tlc.months")
# The submodule is loaded; from here on its name in the package is the function's.
globals().pop("months", None)


def __getattr__(name: str) -> Any:
    """Import what notebooks use when it is first asked for (PEP 562)."""
    if name in _FOR_NOTEBOOKS:
        value = getattr(importlib.import_module("nyc_tlc.notebooks.tables"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What completion offers."""
    return sorted({*globals(), *_FOR_NOTEBOOKS})
