"""Google's own analyzer of GoogleSQL, from PyPI's ``zetasql``, compiled to WebAssembly.

Like BigQuery it refuses wrong syntax, reserved words, unknown names and wrong types. It does not check the columns in
ALTER TABLE, limits and permissions, and it accepts some statements that BigQuery does not have.
"""

from __future__ import annotations

import importlib
import re
import threading
from collections.abc import Mapping
from functools import cache, lru_cache
from types import ModuleType
from typing import Any

import wasmtime

#: A table's columns and their types, with the names of BigQuery's API.
Columns = tuple[tuple[str, str], ...]

_KINDS = {"INTEGER": "INT64", "FLOAT": "DOUBLE", "FLOAT64": "DOUBLE", "BOOLEAN": "BOOL"}
#: The analyzer is not thread-safe.
_turn = threading.RLock()


class GoogleSqlError(Exception):
    """Google's analyzer refused a statement."""


def analyze(sql: str, tables: Mapping[tuple[str, ...], Columns], parameters: Mapping[str, str]) -> None:
    """Check a statement with Google's analyzer.

    Args:
        sql: The statement.
        tables: The existing tables and views, by the parts of their names.
        parameters: The query parameters' types.

    Raises:
        GoogleSqlError: when it is refused.
    """
    with _turn:
        why = _refusal(sql, tuple(sorted(tables.items())), tuple(sorted(parameters.items())))
    if why:
        raise GoogleSqlError(why)


class _CachingConfig(wasmtime.Config):
    """Keep the compiled module in the user's cache: it takes half a minute at first, half a second later."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = True


@cache
def _zetasql() -> tuple[ModuleType, ModuleType, Any]:
    """Load the analyzer's two modules and the language options, when first needed."""
    importlib.import_module("zetasql.core.wasm_client").Config = _CachingConfig
    types = importlib.import_module("zetasql.types")
    language = types.LanguageOptions.maximum_features()
    # BigQuery has what the analyzer counts as unfinished.
    for feature in ("WITH_PARTITION_COLUMNS", "WITH_TABLE_ELEMENT_LIST"):
        language.enabled_language_features.append(types.LanguageFeature[f"FEATURE_CREATE_EXTERNAL_TABLE_{feature}"])
    language.product_mode = types.ProductMode.PRODUCT_EXTERNAL
    return importlib.import_module("zetasql.api"), types, language


@lru_cache(10_000)
def _refusal(
    sql: str, tables: tuple[tuple[tuple[str, ...], Columns], ...], parameters: tuple[tuple[str, str], ...]
) -> str | None:
    zetasql, types, language = _zetasql()
    functions = types.ZetaSQLBuiltinFunctionOptions(language_options=language)
    catalog = types.SimpleCatalog(name="catalog", builtin_function_options=functions)
    for path, columns in tables:
        _add(catalog, path, columns)
        if len(path) > 1:
            # In backquotes, the whole path is one name.
            _add(catalog, (".".join(path),), columns)
    declared = [types.AnalyzerOptions.QueryParameter(name=name, type=_type(kind)) for name, kind in parameters]
    options = types.AnalyzerOptions(language_options=language, query_parameters=declared)
    try:
        zetasql.Analyzer(options, catalog).analyze_statement(sql)
    except importlib.import_module("zetasql.core.exceptions").ZetaSQLError as error:
        return re.sub(r"^\[\w+\] ", "", str(error))
    return None


def _add(catalog: Any, path: tuple[str, ...], columns: Columns) -> None:
    types = _zetasql()[1]
    for part in path[:-1]:
        inner = next((each for each in catalog.catalog if each.name == part), None)
        if inner is None:
            inner = types.SimpleCatalog(name=part)
            catalog.catalog.append(inner)
        catalog = inner
    fields = [types.SimpleColumn(name=name, type=_type(kind), is_writable_column=True) for name, kind in columns]
    catalog.table.append(types.SimpleTable(name=path[-1], column=fields))


def _type(kind: str) -> Any:
    zetasql, types, _ = _zetasql()
    if kind.startswith("ARRAY<"):
        return zetasql.TypeFactory.create_array_type(_type(kind[len("ARRAY<") : -1]))
    return zetasql.TypeFactory.create_simple_type(types.TypeKind[f"TYPE_{_KINDS.get(kind, kind)}"])
