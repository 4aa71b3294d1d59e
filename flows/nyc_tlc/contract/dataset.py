"""The contract: a colour's clean columns and rules, and how the columns of each published file map onto them.

Each colour has a YAML file in ``datasets/`` with its columns, the layouts that TLC published, and its rules.
``datasets/common.yaml`` has the rules that colours share and the plausible values, ``codes.yaml`` the code tables. This
module reads them once and derives the Arrow schemas, the mapping of a file's columns, and the versions. A month that
was cleaned with the same versions would have the same rows today.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import yaml

from nyc_tlc.contract.rules import Rule, check_own_conditions, read_rules
from nyc_tlc.contract.types import TYPES, ContractType
from nyc_tlc.errors import ContractError
from nyc_tlc.month import Color, Month
from nyc_tlc.settings import read_settings
from nyc_tlc.yaml_files import StrictModel

FileFormat = Literal["parquet", "csv"]
#: The format of a source file, which is also its file name extension in the lake.
SourceFormat = Literal["parquet", "csv.gz", "csv"]

CONTRACT_FOLDER = Path(__file__).parent
#: Increase it when a change of the reading code gives other clean rows from the same contract.
READER_VERSION = 3
#: Texts that other tools write for null, in upper case; a code table's own text comes first.
NULL_TEXTS = ["NA", "N/A", "#N/A", "<NA>", "NAN", "NULL", "NONE", r"\N", "-"]


class Code(StrictModel):
    """The meaning of a code, and its texts in old files."""

    name: str
    texts: tuple[str, ...] = ()
    note: str = ""


class CodeTable(StrictModel):
    """A table of codes, and where TLC describes them."""

    title: str
    source: str
    codes: dict[int | str, Code]

    @cached_property
    def texts(self) -> dict[str, str]:
        """Upper-case text -> code, both as text."""
        return {text.upper(): str(code) for code, entry in self.codes.items() for text in entry.texts}


class Column(StrictModel):
    """A clean column: its type, its names in source files, and what it holds."""

    name: str
    type: ContractType
    description: str
    unit: str = ""
    required: bool = False
    aliases: tuple[str, ...] = ()
    codes: str = ""
    texts: dict[str, str] = {}

    @property
    def field(self) -> pa.Field:
        return pa.field(self.name, TYPES[self.type].arrow)

    @property
    def text_codes(self) -> Mapping[str, str]:
        """Upper-case text in old files -> the value used today."""
        return code_tables()[self.codes].texts if self.codes else self.texts


class Plausible(StrictModel):
    """The values that a sum or an average can bear, both ends included, and why others can't be right."""

    min: float
    max: float
    unit: str
    because: str

    def sql(self, value: str) -> str:
        """Return the SQL condition that a value is plausible."""
        return f"{value} BETWEEN {self.min:g} AND {self.max:g}"


@dataclass(frozen=True)
class FileLayout:
    """The layout of the files that TLC published from a month on.

    Attributes:
        columns: Exact column name -> name of its Arrow type (``string`` in CSV).
        extra_fields: The number of empty fields that a CSV row has after those of the header.
        quoted: Whether all CSV fields are quoted.
        blank_line: Whether a blank line follows the CSV header.
    """

    since: Month
    columns: dict[str, str]
    extra_fields: int = 0
    quoted: bool = False
    blank_line: bool = False

    @cached_property
    def schema(self) -> pa.Schema:
        alias = {"timestamp": "timestamp[us]"}
        return pa.schema([(name, pa.type_for_alias(alias.get(kind, kind))) for name, kind in self.columns.items()])


@dataclass(frozen=True)
class ColumnMap:
    """How the columns of one file map onto the contract.

    Attributes:
        sources: Clean column -> the file's columns that it is read from; the first value that is not null is used.
        drift: Columns of the file that the contract doesn't know; they are in raw but not in clean.
        missing: Clean columns that the month's layout has but the file lacks; they are null.
    """

    sources: dict[str, tuple[str, ...]]
    drift: tuple[str, ...]
    missing: tuple[str, ...]


#: The two columns that this project adds to every colour; ``(file_month, source_row)`` is a trip's key.
OUR_COLUMNS = (
    Column(name="file_month", type="date", description="First day of the source file's month: the partition"),
    Column(name="source_row", type="int32", description="The row's ordinal in the source file, from 0"),
)
#: The columns of quarantine after the clean ones.
REJECTION_FIELDS = (
    pa.field("rejection_rule", pa.string()),
    pa.field("rejection_rules", pa.list_(pa.string())),
    pa.field("raw", pa.string()),
)


@dataclass(frozen=True)
class Contract:
    """Everything that is known about one colour's trip records.

    Attributes:
        source: Where these facts were published.
        about: What the trips are, for people.
        notes: What a user of the data should know about the files.
        max_rejected: Percent of a month's rows that may be rejected; None means ``TLC_MAX_REJECTED``.
        columns: The clean columns in order; the last ones are OUR_COLUMNS.
        rules: The rules in order of precedence.
        layouts: File format -> the layouts that TLC published, oldest first.
        contract_version: Changes when the same file would give other columns or values.
        rules_version: Changes when the rules could reject or count other rows.
    """

    color: Color
    title: str
    source: str
    about: str
    notes: str
    first_month: Month
    max_rejected: float | None
    columns: tuple[Column, ...]
    rules: tuple[Rule, ...]
    layouts: dict[FileFormat, tuple[FileLayout, ...]]
    contract_version: str
    rules_version: str

    @cached_property
    def clean_schema(self) -> pa.Schema:
        """The schema of every clean month."""
        return pa.schema([column.field for column in self.columns])

    @cached_property
    def quarantine_schema(self) -> pa.Schema:
        """The clean columns, the rules that rejected the row, and the text of what could not be read."""
        return pa.schema([*self.clean_schema, *REJECTION_FIELDS])

    def layout(self, month: Month, file_format: FileFormat) -> FileLayout:
        """Return the layout of a month's file: the newest one that began in this month or before, else the oldest."""
        layouts = self.layouts[file_format]
        return next((layout for layout in reversed(layouts) if layout.since <= month), layouts[0])

    def map_columns(self, found: Sequence[str], month: Month, file_format: FileFormat) -> ColumnMap:
        """Map a file's columns onto the contract.

        Names are compared without case, and without what is neither a letter nor a digit. Columns whose names are then
        equal are one column, which has the first value that is not null.

        Raises:
            ContractError: when a required column of the month's layout is missing, or the same name occurs twice.
        """
        by_key: dict[str, list[str]] = {}
        for name, count in Counter(found).items():
            if count > 1 and name.strip():
                raise ContractError(f"{self.color} {month}: the file has a column twice", got=name.strip())
            by_key.setdefault(_normalize(name), []).append(name)
        sources: dict[str, tuple[str, ...]] = {}
        missing: list[str] = []
        published = {_normalize(name) for name in self.layout(month, file_format).columns}
        for column in self.columns[: -len(OUR_COLUMNS)]:
            keys = [_normalize(name) for name in (column.name, *column.aliases)]
            sources[column.name] = tuple(name for key in keys for name in by_key.pop(key, ()))
            if not sources[column.name] and published.intersection(keys):
                if column.required:
                    raise ContractError(
                        f"{self.color} {month}: the file lacks the required column {column.name}",
                        expected=" or ".join(dict.fromkeys((*column.aliases, column.name))),
                        got=", ".join(found),
                        fix=f"if TLC renamed it, add the new name to aliases in datasets/{self.color}.yaml",
                    )
                missing.append(column.name)
        drift = (name if name.strip() else "a column without a name" for names in by_key.values() for name in names)
        return ColumnMap(sources, tuple(drift), tuple(missing))


def _normalize(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))


@cache
def code_tables() -> dict[str, CodeTable]:
    """Return the code tables by name."""
    return {name: CodeTable(**table) for name, table in _read_yaml("codes.yaml").items()}


def list_codes() -> dict[str, list[int | str]]:
    """Return the name of each code table -> its codes."""
    return {name: list(table.codes) for name, table in code_tables().items()}


@cache
def plausible_ranges() -> dict[str, Plausible]:
    """Return the plausible values of columns, and of what dbt's models compute, by name."""
    return {name: Plausible(**entry) for name, entry in _read_yaml("datasets/common.yaml")["plausible"].items()}


@cache
def read_contract(color: Color) -> Contract:
    """Read the contract of a colour, with the rules of the file that ``TLC_RULES`` names.

    Raises:
        ConfigurationError: naming the file and the key of a mistake in the user's rules.
    """
    data, own_file = _read_yaml(f"datasets/{color}.yaml"), read_settings().rules
    columns = tuple(Column(name=name, **column) for name, column in data["columns"].items())
    rules = read_rules(color, data["rules"], _read_yaml("datasets/common.yaml")["rules"], own_file)
    types = {column.name: TYPES[column.type].polars for column in columns + OUR_COLUMNS}
    check_own_conditions(rules, list_codes(), types, f"{own_file}: {color}")
    codes = {name: (list(table.codes), table.texts) for name, table in code_tables().items()}
    decides_values = [column.model_dump(exclude={"description", "unit"}) for column in columns]
    decides_rejections = [rule.model_dump(exclude={"why", "file"}, exclude_none=True) for rule in rules]
    return Contract(
        color=color,
        title=data["title"],
        source=data["source"],
        about=data["about"].strip(),
        notes=data["notes"].strip(),
        first_month=Month.parse(data["first_month"]),
        max_rejected=data.get("max_rejected"),
        columns=columns + OUR_COLUMNS,
        rules=rules,
        layouts={name: _read_layouts(name, entries) for name, entries in data["layouts"].items()},
        contract_version=_make_version(data["version"], [READER_VERSION, codes, decides_values]),
        rules_version=_make_version(data["version"], [codes, decides_rejections]),
    )


def _read_yaml(name: str) -> dict[str, Any]:
    # Each run reads contracts, and the loader in C takes a tenth of the time.
    return dict(yaml.load((CONTRACT_FOLDER / name).read_bytes(), Loader=yaml.CSafeLoader))


def _read_layouts(file_format: FileFormat, entries: list[dict[str, Any]]) -> tuple[FileLayout, ...]:
    layouts: list[FileLayout] = []
    for entry in entries:
        since, columns, changes = entry.pop("since"), entry.pop("columns", ""), entry.pop("changes", "")
        names = [name for name in (columns or changes).split(",") if name]
        kinds = dict.fromkeys(names, "string") if file_format == "csv" else dict(name.split() for name in names)
        if not columns:
            before, now = (
                {_normalize(name): (name, kind) for name, kind in each.items()} for each in (layouts[-1].columns, kinds)
            )
            kinds = dict((before | now).values())
        layouts.append(FileLayout(Month.parse(since), kinds, **entry))
    return tuple(layouts)


def _make_version(number: int, content: object) -> str:
    """Return ``1-3fa9c2d1``: a number that a person increases, and a digest that changes with the content."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f"{number}-{digest[:8]}"
