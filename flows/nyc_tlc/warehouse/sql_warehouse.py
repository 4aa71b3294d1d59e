"""What DuckDB and Postgres share: their tables, lookups and ``loads`` are written by the same SQL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import pyarrow as pa

from nyc_tlc.contract.types import Type
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Color, Month
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.protocol import Load, Lookup
from nyc_tlc.warehouse.tables import LOADS, Table, View, missing_fields

#: DuckDB's connection or Postgres' cursor in a transaction. With a type variable, ``typing`` would keep DuckDB's class,
#: which DuckDB reports as a leak when the process ends.
Session = Any


class SqlWarehouse(ABC):
    """A warehouse that writes a month's rows and its row of ``loads`` in one transaction."""

    #: The names of the types.
    types: ClassVar[Mapping[Type, str]]
    place: str
    schema: str

    @abstractmethod
    def _transaction(self, what: str, *, read_only: bool = False) -> AbstractContextManager[Session]:
        """Open a transaction; ``what`` it is for is in errors."""

    @abstractmethod
    def _execute(self, session: Session, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run a statement with a ``?`` for each value. Return the rows of a SELECT."""

    @abstractmethod
    def _find_columns(self, session: Session, table: str) -> dict[str, str]:
        """Return the columns of a table or view and their types; empty if it does not exist."""

    @abstractmethod
    def _create_table(self, session: Session, table: Table) -> None:
        """Create a table."""

    @abstractmethod
    def _insert(self, session: Session, table: Table, rows: pa.Table) -> None:
        """Add rows to a table."""

    def loads(self) -> dict[tuple[Color, Month], Load]:
        with self._transaction("the list of loads", read_only=True) as session:
            return self._read_loads(session) if self._find_table(session, LOADS.name) else {}

    def replace_lookups(self, lookups: Sequence[Lookup]) -> None:
        with self._transaction("the lookups") as session:
            for lookup in lookups:
                self._replace_lookup(session, lookup)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with self._transaction("a query", read_only=True) as session:
            return self._execute(session, sql)

    def check(self, lake: Lake) -> str:
        name = self._qualify("connection_check")
        with self._transaction("a check") as session:
            self._create_schema(session)
            self._execute(session, f"CREATE TABLE {name} (one INTEGER)")
            self._execute(session, f"DROP TABLE {name}")
        return "answers, and tables can be made"

    def _qualify(self, name: str) -> str:
        """Return a name with the schema. All are plain words, so none needs quotes."""
        return f"{self.schema}.{name}"

    def _create_schema(self, session: Session) -> None:
        # Not IF NOT EXISTS, for which Postgres wants a permission even if the schema exists.
        if not self._execute(session, "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = ?", [self.schema]):
            self._execute(session, f"CREATE SCHEMA {self.schema}")

    def _find_table(self, session: Session, table: str) -> dict[str, str]:
        """Return the columns of a table and their types; empty if it does not exist."""
        return self._find_columns(session, table)

    def _create_missing(self, session: Session, tables: Sequence[Table], lookups: Sequence[Lookup]) -> bool:
        """Create missing tables, columns, and lookup tables with their rows. Return whether a month's table changed."""
        changed = [self._prepare_table(session, table) for table in tables]
        for lookup in lookups:
            if not self._find_table(session, lookup.table.name):
                self._replace_lookup(session, lookup)
        return any(changed)

    def _prepare_table(self, session: Session, table: Table) -> bool:
        """Create a table, or add its missing columns. Return whether the table changed."""
        name, found = self._qualify(table.name), self._find_table(session, table.name)
        if not found:
            self._create_table(session, table)
            self._comment(session, f"TABLE {name}", table.description)
        gained = missing_fields(table, found, self.types, self.place)
        for field in gained:
            if found:
                self._execute(session, f"ALTER TABLE {name} ADD COLUMN {field.name} {self.types[field.type]}")
            self._comment(session, f"COLUMN {name}.{field.name}", field.description)
        return bool(gained)

    def _define_columns(self, table: Table) -> str:
        return ", ".join(f"{each.name} {self.types[each.type]}{' NOT NULL' * each.required}" for each in table.fields)

    def _replace_lookup(self, session: Session, lookup: Lookup) -> None:
        self._prepare_table(session, lookup.table)
        self._execute(session, f"DELETE FROM {self._qualify(lookup.table.name)}")
        self._insert(session, lookup.table, lookup.rows)

    def _replace_view(self, session: Session, view: View) -> None:
        self._execute(session, f"CREATE OR REPLACE VIEW {self._qualify(view.name)} AS {view.sql}")
        self._comment(session, f"VIEW {self._qualify(view.name)}", view.description)
        for column, comment in view.comments.items():
            self._comment(session, f"COLUMN {self._qualify(view.name)}.{column}", comment)

    def _comment(self, session: Session, on: str, text: str) -> None:
        quoted = text.replace("'", "''")
        self._execute(session, f"COMMENT ON {on} IS '{quoted}'")

    def _count(self, session: Session, file: LakeFile) -> int:
        sql = f"SELECT count(*) FROM {self._qualify(file.table.name)} WHERE file_month = '{file.month.first_day}'"
        return int(self._execute(session, sql)[0][0])

    def _find_load(self, session: Session, file: LakeFile) -> Load | None:
        """Return the month's row of ``loads`` if exactly the file's rows are there."""
        load = self._read_loads(session).get((file.manifest.color, file.month))
        if load and load.is_of(file.manifest):
            counted = [self._count(session, each) for each in (file, file.quarantine)]
            return load if counted == [load.row_count, load.quarantine_rows] else None
        return None

    def _read_loads(self, session: Session) -> dict[tuple[Color, Month], Load]:
        # An older table has the first of the columns.
        rows = self._execute(session, f"SELECT * FROM {self._qualify(LOADS.name)}")
        return {(load.color, load.month): load for load in map(Load.from_row, rows)}

    def _write_load(self, session: Session, load: Load) -> None:
        row = load.to_row()
        self._execute(session, f"DELETE FROM {self._qualify(LOADS.name)} WHERE color = ? AND file_month = ?", row[:2])
        names, marks = ", ".join(LOADS.names), ", ".join("?" * len(row))
        self._execute(session, f"INSERT INTO {self._qualify(LOADS.name)} ({names}) VALUES ({marks})", row)
