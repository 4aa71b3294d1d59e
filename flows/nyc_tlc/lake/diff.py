"""Compare two versions of a month: all rows of their sources, the clean and the rejected ones, as multisets.

A row has no key that survives a new file, so rows are compared by a hash of all columns, in DuckDB, which keeps what
does not fit into its memory on disk. Rows that are only on one side are then matched: those that are alone with their
vendor, times and zones, then those that are alone with their times and zones, as a vendor can be filled in later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import LakeError, ReconciliationError, TlcError, first_line
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.shown import shown
from nyc_tlc.text_tables import format_table

#: What DuckDB may use; reading the files takes some 200 MB more.
MEMORY = "600MB"
THREADS = 4
WHO = ("vendor_id", "hvfhs_license_num", "dispatching_base_num")
WHEN_AND_WHERE = ("pickup_datetime", "dropoff_datetime", "pickup_location_id", "dropoff_location_id")
#: The number of a row in its file, and the file's month.
NOT_COMPARED = ("file_month", "source_row")


class MonthVersion(NamedTuple):
    """A version of a month, and the lake that has its files."""

    lake: Lake
    manifest: Manifest

    @property
    def title(self) -> str:
        """Its name for people."""
        source, since = self.manifest.source, self.manifest.published_at
        return f"{self.manifest.version}, {since:%Y-%m-%d %H:%M} UTC, from {source.url}"


class ChangedColumn(NamedTuple):
    """A column that differs in rows that match.

    Attributes:
        rows: In how many.
        examples: Pick-up time, old value and new value of some.
    """

    name: str
    rows: int
    examples: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Difference:
    """How two versions of a month differ.

    Attributes:
        only_old: How many rows only the old one has; a row that it has twice and the new one once counts once.
        both: How many both have.
        matched: How many rows of ``only_old`` have a match in ``only_new``: the same trip with other values.
        columns: In which columns these differ.
    """

    old: MonthVersion
    new: MonthVersion
    only_old: int
    only_new: int
    both: int
    matched: int
    columns: tuple[ChangedColumn, ...]

    def __str__(self) -> str:
        parts = [f"{self.new.manifest.source.rows - self.old.manifest.source.rows:+,} rows"]
        counted = {"added": self.only_new - self.matched, "dropped": self.only_old - self.matched}
        parts += [f"{rows:,} {what}" for what, rows in counted.items() if rows]
        parts += [f"{each.name} differs in {each.rows:,}" for each in self.columns]
        return "; ".join(parts) if self.only_old or self.only_new else "the same rows"

    def format(self) -> str:
        """Return the counts as Markdown, also for a terminal."""
        counts = {
            "only in the old one": self.only_old,
            "only in the new one": self.only_new,
            "in both": self.both,
            "the same trip, other values": self.matched,
        }
        columns = [
            (each.name, f"{each.rows:,}", "; ".join(f"{at}: {old} → {new}" for at, old, new in each.examples))
            for each in self.columns
        ]
        lines = [f"# {self.old.manifest.name}: {self}", "", f"old: {self.old.title}  ", f"new: {self.new.title}", ""]
        rows = [(what, f"{count:,}") for what, count in counts.items()]
        lines += format_table(("Rows", "Number"), rows, right=("Number",), pad=True)
        if columns:
            header = ("Column that differs", "Rows", "Examples: pick-up time, old and new value")
            lines += ["", *format_table(header, columns, right=("Rows",), pad=True)]
        return "\n".join(lines)


def compare(old: MonthVersion, new: MonthVersion, scratch: Path, rows_file: Path | None = None) -> Difference:
    """Compare two versions of a month.

    Args:
        scratch: A folder for DuckDB, and for the files of a bucket.
        rows_file: The Parquet file to write, with the rows that only one of them has.

    Raises:
        ReconciliationError: when the counts don't add up to the manifests' source rows.
        LakeError: when a file is not the one in its manifest.
    """
    names = [column.name for column in read_contract(old.manifest.color).columns]
    compared = [name for name in names if name not in NOT_COMPARED]
    who = [name for name in compared if name in WHO]
    where = ", ".join(WHEN_AND_WHERE)
    with _connect(old.manifest.name, scratch) as connection:
        for side, version in (("old", old), ("new", new)):
            files = _find_files(version, scratch / side)
            connection.execute(
                f"CREATE VIEW {side}_rows AS SELECT {', '.join(names)}, hash({', '.join(who)}, {where}) AS trip,"
                f" hash({where}) AS place, hash({', '.join(compared)}) AS h"
                f" FROM read_parquet([{', '.join(files)}], union_by_name = true, hive_partitioning = false)"
            )
        connection.execute(
            "CREATE TABLE counted AS SELECT trip, place, h, sum(in_old)::BIGINT AS old, sum(in_new)::BIGINT AS new"
            " FROM (SELECT trip, place, h, 1 AS in_old, 0 AS in_new FROM old_rows"
            " UNION ALL SELECT trip, place, h, 0, 1 FROM new_rows) GROUP BY trip, place, h"
        )
        ((only_old, only_new, both),) = connection.execute(
            "SELECT coalesce(sum(greatest(old - new, 0)), 0)::BIGINT, coalesce(sum(greatest(new - old, 0)), 0)::BIGINT,"
            " coalesce(sum(least(old, new)), 0)::BIGINT FROM counted"
        ).fetchall()
        for version, rows in ((old, only_old + both), (new, only_new + both)):
            _check_rows(version, rows)
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
            _write_rows(connection, names, rows_file)
    return Difference(old, new, only_old, only_new, both, matched, columns)


def _compare_columns(connection: duckdb.DuckDBPyConnection, names: Sequence[str]) -> tuple[ChangedColumn, ...]:
    """Compare the columns of rows that match, each with three examples."""
    differs = "FILTER (o.{0} IS DISTINCT FROM n.{0})"
    example = "{{'at': o.pickup_datetime, 'old': o.{0}, 'new': n.{0}}}"
    template = f"count(*) {differs}, min_by({example}, (o.pickup_datetime, o.source_row), 3) {differs}"
    (found,) = connection.execute(
        f"SELECT {', '.join(template.format(name) for name in names)} FROM pairs"
        " JOIN old_rows AS o ON o.h = pairs.old_h JOIN new_rows AS n ON n.h = pairs.new_h"
    ).fetchall()
    counted = zip(names, found[::2], found[1::2], strict=True)
    return tuple(
        ChangedColumn(name, rows, [[shown(str(value)) for value in each.values()] for each in examples])
        for name, rows, examples in sorted(counted, key=lambda column: -column[1])
        if rows
    )


def _write_rows(connection: duckdb.DuckDBPyConnection, names: Sequence[str], path: Path) -> None:
    """Write the rows that only one side has, as often as it has them more than the other."""
    draft = path.with_name(f".{path.name}.part")
    sides = (
        f"SELECT '{side}' AS side, {', '.join(names)} FROM {side}_rows JOIN counted USING (h)"
        f" WHERE {side} > {other} QUALIFY row_number() OVER (PARTITION BY h ORDER BY source_row) <= {side} - {other}"
        for side, other in (("old", "new"), ("new", "old"))
    )
    connection.execute(f"COPY ({' UNION ALL '.join(sides)}) TO {_quote(draft)} (FORMAT parquet, COMPRESSION zstd)")
    draft.replace(path)


def _find_files(version: MonthVersion, scratch: Path) -> list[str]:
    """Return the paths of the clean and the rejected rows as SQL. A bucket's files are copied to ``scratch``."""
    paths, (lake, manifest) = [], version
    scratch.mkdir()
    for number, file in enumerate((manifest.clean, manifest.quarantine)):
        path = lake.local_path(file.key)
        if path is None:
            path = scratch / str(number)
            lake.download(file, manifest.name, path)
        elif lake.size(file.key) != file.bytes:
            raise LakeError(f"{manifest.name}: {lake.url(file.key)} is not the file in the manifest")
        paths.append(_quote(path))
    return paths


def _check_rows(version: MonthVersion, rows: int) -> None:
    if rows != version.manifest.source.rows:
        raise ReconciliationError(
            f"{version.manifest.name}: the rows compared are not those of {version.title}",
            expected=f"{version.manifest.source.rows:,}",
            got=f"{rows:,}",
        )


def _quote(path: Path) -> str:
    text = str(path).replace("'", "''")
    return f"'{text}'"


@contextmanager
def _connect(name: str, scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    configuration: dict[str, Any] = {
        "memory_limit": MEMORY,
        "threads": THREADS,
        "temp_directory": str(scratch / "duckdb"),
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
    }
    connection = duckdb.connect(":memory:", config=configuration)
    try:
        yield connection
    except duckdb.Error as error:
        raise TlcError(f"{name}: the versions can't be compared", got=first_line(error)) from None
    finally:
        connection.close()
