"""GoogleSQL statements in DuckDB's words."""

from __future__ import annotations

import itertools

import sqlglot
from sqlglot import exp

from stand_ins.bigquery_values import NEW_NAMES, TYPES, ApiError

_STATEMENTS: dict[str, type[exp.Expr]] = {
    "SELECT": exp.Query,
    "MERGE": exp.Merge,
    "INSERT": exp.Insert,
    "UPDATE": exp.Update,
    "DELETE": exp.Delete,
    "VIEW": exp.Create,
    "DROP": exp.Drop,
}


_NEED_NO_TARGET = ("VIEW", "TABLE", "SCHEMA", "DROP")


#: What the API calls a statement that has another name here.
STATEMENT_TYPES = {"VIEW": "CREATE_VIEW", "TABLE": "CREATE_TABLE_AS_SELECT", "SCHEMA": "CREATE_SCHEMA"}


class Statement:
    """A GoogleSQL statement in DuckDB's words.

    Attributes:
        kind: SELECT, MERGE, INSERT, UPDATE, DELETE, VIEW, TABLE or SCHEMA (it creates one), or DROP.
        tree: What sqlglot read.
        sql: The statement for DuckDB.
        tables: The tables and views that it names, each a dataset and a name.
        target: The one that it changes or creates.
        reads: Those that must be there.
    """

    def __init__(self, text: str, project: str, parameters: dict[str, str]) -> None:
        self.tree = sqlglot.parse_one(text, read="bigquery")
        self.kind = next((kind for kind, of in _STATEMENTS.items() if isinstance(self.tree, of)), "")
        if self.kind == "VIEW":
            self.kind = {"VIEW": "VIEW", "SCHEMA": "SCHEMA"}.get(self.tree.args["kind"], "")
            if self.tree.args["kind"] == "TABLE" and self.tree.expression:
                self.kind = "TABLE"
        if not self.kind or (self.kind == "DROP" and self.tree.args["kind"] != "TABLE"):
            raise sqlglot.ParseError(f"The stand-in has no {type(self.tree).__name__}")
        names = {cte.alias for cte in self.tree.find_all(exp.CTE)}
        named = [table for table in self.tree.find_all(exp.Table) if table.db or table.name not in names]
        if self.kind == "SCHEMA":
            named = []
        for table in named:
            if table.catalog not in ("", project) or not table.db:
                raise ApiError("accessDenied", f"Access Denied: Table {table.sql()}: it may not exist")
            table.set("catalog", None)
        self.tables = list(dict.fromkeys((table.db, table.name) for table in named))
        changed = self.tree.args["tables"][0] if self.kind == "DROP" else self.tree.this
        target = changed.find(exp.Table) if self.kind != "SELECT" else None
        self.target = (target.db, target.name) if target else ("", "")
        self.reads = [key for key in self.tables if self.kind not in _NEED_NO_TARGET or key != self.target]
        for parameter in list(self.tree.find_all(exp.Parameter)):
            kind = parameters.get(parameter.name)
            if kind:
                element = kind.removeprefix("ARRAY<").removesuffix(">")
                kind = TYPES[NEW_NAMES.get(element, element)][0] + "[]" * (element != kind)
                parameter.replace(exp.cast(parameter.copy(), kind, dialect="duckdb"))
        words = self.tree.copy()
        # DuckDB has no partitions and no OPTIONS.
        words.set("properties", None)
        self.sql = words.sql("duckdb")


def split_script(script: str) -> list[str]:
    """The statements of a script, without the comments before them."""
    tokens = sqlglot.tokenize(script, read="bigquery")
    ends = [token.start for token in tokens if token.token_type == sqlglot.TokenType.SEMICOLON]
    texts = []
    for start, end in itertools.pairwise([-1, *ends, len(script)]):
        inside = [token for token in tokens if start < token.start < end]
        if inside:
            texts.append(script[inside[0].start : inside[-1].end + 1])
    return texts
