"""Render templates to self-contained HTML: style and script are in the page, and it loads nothing from the network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import COLORS, Color
from nyc_tlc.pages.coverage import describe_generated

COVERAGE_PAGE = "coverage.html"
MONTH_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_ENVIRONMENT = Environment(
    loader=PackageLoader("nyc_tlc.pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


_ENVIRONMENT.filters |= {"number": "{:,.0f}".format, "percent": "{:.2%}".format}


class Card(NamedTuple):
    """A figure at the top of a page, with a note under it."""

    label: str
    value: str
    note: str = ""


def trips_page(color: Color) -> str:
    """Return the file name of a colour's page about its trips. All pages are in one folder and link to each other."""
    return f"trips-{color}.html"


def shorten(value: float) -> str:
    """Format a number briefly: ``950``, ``56.6k``, ``3.1M``."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            scaled = value / limit
            return f"{scaled:.0f}{unit}" if scaled >= 100 or scaled == int(scaled) else f"{scaled:.1f}{unit}"
    return f"{value:.0f}" if value == int(value) else f"{value:.1f}"


def write_page(lake: Lake, name: str, template: str, title: str, manifests: Sequence[Manifest], **content: Any) -> str:
    """Render a template, and write the page into the lake's folder ``reports/``. Return its address, for people.

    Args:
        manifests: Of the months that the page is about: it says which of them are generated.
    """
    html = _ENVIRONMENT.get_template(template).render(
        title=title,
        here=name,
        pages=[
            ("Coverage", COVERAGE_PAGE),
            *(("Trips: " + color, trips_page(color)) for color in COLORS if lake.months(color)),
        ],
        generated=describe_generated(manifests),
        lake=lake.url("").rstrip("/"),
        written_at=datetime.now(UTC),
        month_names=MONTH_NAMES,
        **content,
    )
    lake.write(f"reports/{name}", html.encode())
    return lake.url(f"reports/{name}")


def to_json(value: object) -> Markup:
    """Return a value as JSON for a page's script element: nothing in it can end the element."""
    return Markup(json.dumps(value, separators=(",", ":")).replace("<", "\\u003c"))  # noqa: S704  it has no <
