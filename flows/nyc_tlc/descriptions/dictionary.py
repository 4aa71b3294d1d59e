"""Write the data dictionary from the contracts: what every clean column holds, and which files have it."""

from __future__ import annotations

from nyc_tlc.contract.dataset import (
    NULL_TEXTS,
    OUR_COLUMNS,
    Column,
    Contract,
    FileFormat,
    code_tables,
    plausible_ranges,
    read_contract,
)
from nyc_tlc.contract.types import TYPES
from nyc_tlc.month import COLORS, Month
from nyc_tlc.text_tables import format_table


def make_dictionary() -> str:
    """Return the dictionary as Markdown."""
    lines = [
        "# Data dictionary",
        "",
        "Written by `make docs` from `flows/nyc_tlc/contract/`: `datasets/` and `codes.yaml`. Every clean file of a",
        "colour has these columns in this order, whatever era it comes from; what the era lacked is null. Times are",
        "New York wall-clock times without zone, amounts are US dollars as published.",
        "",
        "## Types",
        "",
        *format_table(
            ("Here", "Parquet", "DuckDB", "Postgres", "BigQuery"),
            [
                (kind, *(f"`{name}`" for name in (names.arrow, names.duckdb, names.postgres, names.bigquery)))
                for kind, names in TYPES.items()
            ],
        ),
        "",
        "## Files that other tools saved",
        "",
        "Names of columns are compared without case, and without what is neither a letter nor a digit. If two columns",
        "have one name then, the first value that is not null is used.",
        "",
        f"An empty value is null, and so are, in any case, {', '.join(f'`{text}`' for text in NULL_TEXTS)},",
        "unless they stand for a code. The manifest's warnings count these texts as `null_text:<column>`.",
        "",
        "Times are New York wall-clock, like `2024-01-31 23:59:59`. Also read are `T` for the blank, minutes without",
        "seconds, fractions of a second, an offset that New York has at that time, Parquet's zone",
        "`America/New_York`, and times like `01/31/2024 11:59:59 PM` if a day above 12 somewhere in the file shows",
        "the order of day and month. A flag can be a boolean, and a text can be stored as bytes.",
        "",
    ]
    for color in COLORS:
        lines += _describe_color(read_contract(color))
    ranges = [
        (f"`{name}`", f"{each.min:g}", f"{each.max:g}", each.unit, each.because)
        for name, each in plausible_ranges().items()
    ]
    lines += [
        "## Plausible values",
        "",
        "The tables keep every value as published. Sums and averages on the pages, in dbt's models and in the",
        "[questions](questions.md) are of plausible values only, and the number of trips left out stands beside them.",
        "In a notebook, `plausible(trips['trip_distance'])` makes other values missing.",
        "",
        *format_table(("Value", "From", "To", "Unit", "Why"), ranges),
        "",
        "## Codes",
        "",
    ]
    for name, table in code_tables().items():
        codes = [
            (str(code), entry.name + (f". {entry.note.strip()}" if entry.note else ""), ", ".join(entry.texts))
            for code, entry in table.codes.items()
        ]
        lines += [f"### {name}", "", f"{table.title}. {table.source.strip()}", ""]
        lines += [*format_table(("Code", "Meaning", "In old files"), codes), ""]
    return "\n".join(lines)


def _describe_color(contract: Contract) -> list[str]:
    columns = [
        (
            f"`{column.name}`",
            column.type,
            _describe_column(column),
            _list_periods(contract, column, "parquet"),
            _list_periods(contract, column, "csv"),
        )
        for column in contract.columns
    ]
    rules = [
        (
            f"`{rule.name}`" + (f" (only in {', '.join(rule.months)})" if rule.months else ""),
            rule.severity or "month",
            f"`{rule.when.strip()}`" if rule.when else "",
            rule.reason,
        )
        for rule in contract.rules
    ]
    return [
        f"## {contract.color}: {contract.title}",
        "",
        f"{contract.about} {contract.notes}",
        "",
        f"First month: {contract.first_month}.",
        f"Source: {contract.source.strip()}",
        "",
        *format_table(("Column", "Type", "What it holds", "In Parquet", "In CSV"), columns),
        "",
        *format_table(("Rule", "Severity", "A row breaks it when", "Why"), rules),
        "",
    ]


def _describe_column(column: Column) -> str:
    unit = f" ({column.unit})" if column.unit else ""
    codes = f"; see [{column.codes}](#{column.codes})" if column.codes else ""
    return f"{column.description}{unit}{codes}"


def _list_periods(contract: Contract, column: Column, file_format: FileFormat) -> str:
    """Return the periods in which a format has a column."""
    if column in OUR_COLUMNS:
        return "ours"
    periods: list[list[Month | None]] = []
    for layout in contract.layouts[file_format]:
        present = bool(contract.map_columns(list(layout.columns), layout.since, file_format).sources[column.name])
        if present and (not periods or periods[-1][1] is not None):
            periods.append([layout.since, None])
        elif not present and periods and periods[-1][1] is None:
            periods[-1][1] = layout.since.plus(-1)
    return ", ".join(f"{since} to {until}" if until else f"since {since}" for since, until in periods) or "never"
