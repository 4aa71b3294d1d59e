"""Write docs/reference.md: each flow's options, from its signature, and the settings. Run by ``make docs``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from prefect.utilities.callables import parameter_schema

from nyc_tlc.settings import Settings

FLOWS = (
    "etl_web_to_gcs etl_month etl_gcs_to_duckdb etl_gcs_to_postgres etl_gcs_to_bq backfill months history diff report"
    " transform load_lookups check_connections copy_lake replay"
).split()
HEAD = """\
# Reference

Written by `make docs` from the flows' signatures and the settings; `python flows/….py --help` shows the same.
Every script also has `--verbose`. The exit status is 0 when the month was made or was current, 1 when it failed, 2 for
wrong arguments, 3 when the month is not published yet, and 130 when it was interrupted.
"""
SETTINGS = """
## Settings

Environment variables, or `.env` in the clone. A relative `TLC_HOME` is below the clone. `HTTP_PROXY`, `HTTPS_PROXY`,
`ALL_PROXY` and `NO_PROXY` are obeyed.

| Variable | Default | |
|---|---|---|
"""


def make_reference() -> str:
    """Return the page as Markdown."""
    settings = []
    for name, field in Settings.model_fields.items():
        variable = field.validation_alias or f"TLC_{name.upper()}"
        settings.append(f"| `{variable}` | {_show_default(field.default)} | {field.description} |")
    return HEAD + "".join(map(_describe_flow, FLOWS)) + SETTINGS + "\n".join(settings) + "\n"


def _describe_flow(name: str) -> str:
    flow = getattr(importlib.import_module(name), name)
    about = " ".join((flow.fn.__doc__ or "").partition("\n\n    Args:")[0].split())
    rows = [_describe_option(option, about_it) for option, about_it in parameter_schema(flow).properties.items()]
    return "\n".join([f"\n## {name}\n", about, "", "| Option | Default | |", "|---|---|---|", *rows, ""])


def _describe_option(name: str, schema: dict[str, Any]) -> str:
    default = _show_default(schema["default"]) if "default" in schema else "`required`"
    text = " ".join(schema.get("description", "").split()).replace("|", "\\|")
    choices = schema.get("enum") or schema.get("items", {}).get("enum") or []
    if choices:
        text = f"{text} One of {', '.join(f'`{choice}`' for choice in choices)}."
    return f"| `--{name.strip('_').replace('_', '-')}` | {default} | {text} |"


def _show_default(value: object) -> str:
    shown = "" if value is None else _show(value)
    return f"`{shown}`" if shown else ""


def _show(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(make_reference(), encoding="utf-8")
