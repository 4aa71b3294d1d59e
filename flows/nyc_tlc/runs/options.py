"""Types of the flows' parameters."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, WithJsonSchema

YearNumber = Annotated[int, Field(ge=2009, le=2100)]
#: Prefect's command line sends ``-p month=01`` as text, which has to pass its check of the schema.
MonthNumber = Annotated[
    int,
    Field(ge=1, le=12),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 12}, {"type": "string", "pattern": "^0[1-9]$"}]}
    ),
]
