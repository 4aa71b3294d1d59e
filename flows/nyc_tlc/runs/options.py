"""Types of the flows' parameters, with their help for the command line and the form in the UI."""

from __future__ import annotations

from typing import Annotated, Any

import cyclopts
from pydantic import Field, GetJsonSchemaHandler, WithJsonSchema

from nyc_tlc.lake.keys import Layout as LayoutName
from nyc_tlc.month import Color as ColorName
from nyc_tlc.warehouse.protocol import Kind


class Help(cyclopts.Parameter):
    """The text about a parameter. cyclopts shows it on the command line, Prefect in the form of a run."""

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Add the text to the schema that Prefect reads."""
        return {**handler(core), "description": self.help}


Color = Annotated[ColorName, Help(help="Which trip records.")]
Year = Annotated[
    Annotated[int, Field(ge=2009, le=2100)] | None,
    Help(help="The month's year; leave year and month out for the newest month."),
]
#: Prefect's command line sends ``-p month=01`` as text, which has to pass its check of the schema.
_MonthNumber = Annotated[
    int,
    Field(ge=1, le=12),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 12}, {"type": "string", "pattern": "^0[1-9]$"}]}
    ),
]
MonthNumber = Annotated[_MonthNumber | None, Help(help="The month, 1 to 12.")]
AsOf = Annotated[
    str | None,
    Help(
        help="Load the version that stood at the end of a day, 2024-06-01, or at a time, in UTC, or the one with these"
        " 12 digits; the current one if left out."
    ),
]
Profile = Annotated[str | None, Help(help="Which set of blocks to use; TLC_PROFILE or local if left out.")]
Source = Annotated[
    str | None,
    Help(
        help="tlc, dtc (the CSV.gz releases, which have ended), sample (generated, offline), a URL template with"
        " {color}, {year} and {month}, or $NAME for the environment variable that has the template; TLC_SOURCE or tlc"
        " if left out."
    ),
]
Layout = Annotated[
    LayoutName, Help(help="month writes one clean file; day also writes a folder for each pick-up date.")
]
Force = Annotated[bool, Help(help="Make and load months again even if they are current.")]
Verify = Annotated[
    bool, Help(help="Compare the digests of the lake's files, not only their sizes, before a month counts as current.")
]
Warehouses = Annotated[
    list[Kind] | None, Help(help="Any of duckdb, postgres and bigquery; all warehouses of the profile if left out.")
]
Models = Annotated[
    bool, Help(help="At the end build the dbt models in these warehouses, for the months that changed; needs make dbt.")
]
