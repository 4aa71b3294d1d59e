"""Compare two versions of a month: all rows of their sources, the clean and the rejected ones, as multisets.

A row has no key that survives a new file, so rows are compared by a hash of all columns, in DuckDB, which keeps what
does not fit into its memory on disk. Rows that are only on one side are then matched: those that are alone with their
vendor, times and zones, then those that are alone with their times and zones, as a vendor can be filled in later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import ReconciliationError, TlcError, first_line
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.shown import shown
from nyc_tlc.text_tables import format_table

#: What DuckDB may use; reading the files takes some 200 MB more.
CONFIGURATION: dict[str, Any] = {"memory_limit": "600MB", "threads": 4, "preserve_insertion_order": False}
WHO = ("vendor_id", "hvfhs_license_num", "dispatching_base_num")
WHEN_AND_WHERE = ("pickup_datetime", "dropoff_datetime", "pickup_location_id", "dropoff_location_id")
#: The number of a row in its file, and the file's month.
NOT_COMPARED = ("file_month", "source_row")


class ChangedColumn(NamedTuple):
    """A column, in how many rows that match it differs, and pick-up time, old and new value of three of them."""

    name: str
    rows: int
    examples: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Difference:
    """How two versions of a month differ, in rows of their sources.

    Attributes:
        only_old: Those that only the old one has; a row that it has twice and the new one once counts once.
        matched: How many of ``only_old`` have a match in ``only_new``: the same trip with other values.
    """

    old: Manifest
    new: Manifest
    only_old: int
    only_new: int
    both: int
    matched: int
    columns: tuple[ChangedColumn, ...]

    def __str__(self) -> str:
        counted = {"added": self.only_new - self.matched, "dropped": self.only_old - self.matched}
        parts = [f"{self.new.source.rows - self.old.source.rows:+,} rows"]
        parts += [f"{rows:,} {what}" for what, rows in counted.items() if rows]
        parts += [f"{each.name} differs in {each.rows:,}" for each in self.columns]
        return "; ".join(parts) if self.only_old or self.only_new else "the same rows"

    def format(self) -> str:
        """Return the counts as Markdown, also for a terminal."""
        titles = [
            f"{name}: {each.version}, {each.published_at:%Y-%m-%d %H:%M} UTC, from {each.source.url}  "
            for name, each in (("old", self.old), ("new", self.new))
        ]
        names = ("only in the old one", "only in the new one", "in both", "the same trip, other values")
        counts = (self.only_old, self.only_new, self.both, self.matched)
        rows = [(name, f"{count:,}") for name, count in zip(names, counts, strict=True)]
        lines = [f"# {self.old.name}: {self}", "", *titles, ""]
        lines += format_table(("Rows", "Number"), rows, right=("Number",), pad=True)
        header = ("Column that differs", "Rows", "Examples: pick-up time, old and new value")
        examples = ("; ".join(f"{at}: {old} → {new}" for at, old, new in each.examples) for each in self.columns)
        columns = [(each.name, f"{each.rows:,}", text) for each, text in zip(self.columns, examples, strict=True)]
        return "\n".join([*lines, "", *format_table(header, columns, right=("Rows",), pad=True)])


def compare(
    old: tuple[Lake, Manifest], new: tuple[Lake, Manifest], scratch: Path, rows_file: Path | None = None
) -> Difference:
    """Compare two versions of a month, each in its lake.

    Args:
        rows_file: The Parquet file to write, with the rows that only one of them has.

    Raises:
        LakeError: when a file is not the one in its manifest.
        ReconciliationError: when the counts don't add up to the rows of the sources.
    """
    try:
        with duckdb.connect(config=CONFIGURATION | {"temp_directory": str(scratch / "duckdb")}) as connection:
            return _compare(connection, old, new, scratch, rows_file)
    except duckdb.Error as error:
        raise TlcError(f"{old[1].name}: the versions can't be compared", got=first_line(error)) from None


def _compare(
    connection: duckdb.DuckDBPyConnection,
    old: tuple[Lake, Manifest],
    new: tuple[Lake, Manifest],
    scratch: Path,
    rows_file: Path | None,
) -> Difference:
    contract = read_contract(old[1].color)
    compared = [column.name for column in contract.columns if column.name not in NOT_COMPARED]
    where, who = ", ".join(WHEN_AND_WHERE), ", ".join(name for name in compared if name in WHO)
    for side, (lake, manifest) in (("old", old), ("new", new)):
        paths = [scratch / f"{side}-clean", scratch / f"{side}-quarantine"]
        for file, path in zip((manifest.clean, manifest.quarantine), paths, strict=True):
            lake.download(file, manifest.name, path)
        connection.read_parquet(list(map(str, paths)), union_by_name=True).create_view(f"{side}_files")
        connection.execute(
            f"CREATE VIEW {side}_rows AS SELECT *, hash({who}, {where}) AS trip, hash({where}) AS place,"
            f" hash({', '.join(compared)}) AS h FROM {side}_files"
        )
    connection.execute(
        "CREATE TABLE counted AS SELECT trip, place, h, sum(in_old)::BIGINT AS old, sum(in_new)::BIGINT AS new"
        " FROM (SELECT trip, place, h, 1 AS in_old, 0 AS in_new FROM old_rows"
        " UNION ALL SELECT trip, place, h, 0, 1 FROM new_rows) GROUP BY trip, place, h"
    )
    sums = ("greatest(old - new, 0)", "greatest(new - old, 0)", "least(old, new)")
    select = ", ".join(f"coalesce(sum({each}), 0)::BIGINT" for each in sums)
    ((only_old, only_new, both),) = connection.execute(f"SELECT {select} FROM counted").fetchall()
    counted, expected = (only_old + both, only_new + both), (old[1].source.rows, new[1].source.rows)
    if counted != expected:
        what = f"{old[1].name}: the rows compared are not those of the sources"
        raise ReconciliationError(what, expected=f"{expected}", got=f"{counted}")
    connection.execute("CREATE TABLE pairs (old_h UBIGINT, new_h UBIGINT)")
    for key in ("trip", "place"):
        connection.execute(
            "INSERT INTO pairs SELECT max(h) FILTER (old > 0), max(h) FILTER (new > 0) FROM counted"
            " ANTI JOIN (SELECT unnest([old_h, new_h]) AS h FROM pairs) USING (h) WHERE old <> new"
            f" GROUP BY {key} HAVING sum(old) = 1 AND sum(new) = 1"
        )
    ((matched,),) = connection.execute("SELECT count(*) FROM pairs").fetchall()
    columns = _compare_columns(connection, [name for name in compared if name not in WHEN_AND_WHERE])
    if rows_file:
        _write_rows(connection, contract.clean_schema.names, rows_file)
    return Difference(old[1], new[1], only_old, only_new, both, matched, columns)


def _compare_columns(connection: duckdb.DuckDBPyConnection, names: Sequence[str]) -> tuple[ChangedColumn, ...]:
    """Return the columns that differ in rows that match, most rows first."""
    differs = "FILTER (o.{0} IS DISTINCT FROM n.{0})"
    example = "{{'at': o.pickup_datetime, 'old': o.{0}, 'new': n.{0}}}"
    template = f"count(*) {differs}, min_by({example}, (o.pickup_datetime, o.source_row), 3) {differs}"
    (found,) = connection.execute(
        f"SELECT {', '.join(map(template.format, names))} FROM pairs"
        " JOIN old_rows AS o ON o.h = pairs.old_h JOIN new_rows AS n ON n.h = pairs.new_h"
    ).fetchall()

    def show(value: object) -> str:
        return "null" if value is None else shown(str(value))

    return tuple(
        ChangedColumn(name, rows, [(show(each["at"]), show(each["old"]), show(each["new"])) for each in examples])
        for name, rows, examples in sorted(zip(names, found[::2], found[1::2], strict=True), key=lambda it: -it[1])
        if rows
    )


def _write_rows(connection: duckdb.DuckDBPyConnection, names: Sequence[str], path: Path) -> None:
    """Write the rows that only one side has, as often as it has them more than the other."""
    draft = path.with_name(f".{path.name}.part")
    sides = (
        f"SELECT '{side}' AS side, {', '.join(names)} FROM {side}_rows JOIN counted USING (h) WHERE {side} > {other}"
        f" QUALIFY row_number() OVER (PARTITION BY h ORDER BY source_row) <= {side} - {other}"
        for side, other in (("old", "new"), ("new", "old"))
    )
    connection.sql(" UNION ALL ".join(sides)).write_parquet(str(draft), compression="zstd")
    draft.replace(path)
