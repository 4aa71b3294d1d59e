"""Data quality rules: ours, and those of the user's own file (``TLC_RULES``), compiled to polars expressions.

The file has rules by colour. One that a colour has already only states what is different; docs/rules.md has an example.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator

from nyc_tlc.errors import ArgumentError, ConfigurationError, first_line
from nyc_tlc.month import Color, Month
from nyc_tlc.yaml_files import StrictModel, explain, read_yaml, validate

#: Functions of several rows: an average would be that of the rows that happen to be checked together.
SEVERAL_ROWS = re.compile(r"\b(AVG|COUNT|FIRST|LAST|MAX|MEDIAN|MIN|QUANTILE\w*|STD\w*|SUM|VAR\w*)\s*\(|\bOVER\b", re.I)
Limit = Annotated[str, Field(pattern=r"^\d+(\.\d+)? ?(rows|%)$")]


def _check_name(name: str) -> str:
    # These two stay as they are: a line that is no record, and a row that no day's file could have.
    if name in ("unparseable", "no_pickup_time") or not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise ValueError("not a name for your rule: lowercase letters, digits and _, and not that of a fixed rule")
    return name


#: The user's file: colour -> rule -> what is stated about it.
OWN_RULES: TypeAdapter[dict[Color, dict[str, dict[str, Any] | None] | None]] = TypeAdapter(
    dict[Color, dict[Annotated[str, AfterValidator(_check_name)], dict[str, Any] | None] | None]
)


class RuleTerms(StrictModel):
    """What a YAML file says about a rule. A row for which ``when`` (SQL) is true is rejected, or only counted.

    A rule with ``months`` is about a known fault of these months. The ``when`` of another rule can have its name in
    braces, which is false in other months.

    ``at_least`` and ``at_most`` test the whole month: the rows that the rule counts, or their share of the source's
    rows. Without ``when``, the month's clean rows are counted. A month that fails is not published.
    """

    severity: Literal["reject", "warn"] | None = None
    when: str = ""
    why: Annotated[str, Field(min_length=1)]
    months: tuple[Annotated[str, Field(pattern=r"^\d{4}-\d{2}$")], ...] = ()
    at_least: Limit | None = None
    at_most: Limit | None = None

    @model_validator(mode="after")
    def _check_terms(self) -> RuleTerms:
        if bool(self.when) != bool(self.severity):
            raise ValueError("when and severity go together")
        if not (self.when or self.at_least or self.at_most):
            raise ValueError("it needs when and severity, or at_least or at_most")
        return self


class Rule(RuleTerms):
    """A rule with its name, and the name of the user's file that has or changes it; empty for one of ours."""

    name: str
    file: str = ""

    @property
    def reason(self) -> str:
        """Why there is the rule, with its limits for the month, and whose it is."""
        notes = [f"{which} {limit}" for which, limit in self._limits.items()]
        notes += [f"yours, in {self.file}"] if self.file else []
        return f"{self.why.strip()} ({'; '.join(notes)})" if notes else self.why.strip()

    def is_about(self, month: Month) -> bool:
        """Return whether the rule holds in a month."""
        return not self.months or str(month) in self.months

    def find_failed_limit(self, rows: int, source_rows: int) -> str | None:
        """Return the limit that a number of rows does not keep, like ``at most 5 %``; None if it keeps all."""
        for which, limit in self._limits.items():
            value, bound = 100 * rows / source_rows if limit.endswith("%") else rows, float(limit.rstrip(" rows%"))
            if value < bound if which == "at least" else value > bound:
                return f"{which} {limit}"
        return None

    @property
    def _limits(self) -> dict[str, str]:
        return {which: limit for which, limit in (("at least", self.at_least), ("at most", self.at_most)) if limit}


def read_rules(
    color: Color, ours: Mapping[str, Mapping[str, Any] | None], shared: Mapping[str, Any], own_file: Path | None
) -> tuple[Rule, ...]:
    """Return a colour's rules in their order of precedence: ours as the contract lists them, then new ones of the user.

    Args:
        shared: The rules of ``common.yaml``; what a rule does not state is taken from there.

    Raises:
        ConfigurationError: naming the file and the key of a mistake.
    """
    own = _read_own(own_file, color) if own_file else {}
    rules = []
    for name in {**ours, **own}:
        terms = {**shared.get(name, {}), **(ours.get(name) or {}), **(own.get(name) or {})}
        checked = validate(RuleTerms, terms, own_file or Path(f"{color}.yaml"), (color, name))
        file = own_file.name if own_file and name in own else ""
        rules.append(Rule(name=name, file=file, **checked.model_dump()))
    return tuple(rules)


def _read_own(path: Path, color: Color) -> dict[str, dict[str, Any] | None]:
    """Return the rules that the user's file has for a colour."""
    try:
        return OWN_RULES.validate_python(read_yaml(path) or {}).get(color) or {}
    except ValidationError as error:
        raise explain(error, path, ()) from None


def check_own_conditions(
    rules: Sequence[Rule], codes: Mapping[str, Iterable[int | str]], columns: Mapping[str, pl.DataType], place: str
) -> None:
    """Check the conditions of the user's rules on a table without rows; ``place`` is the file and the colour.

    Raises:
        ConfigurationError: naming the rule whose ``when`` is not SQL, or no condition on a row.
    """
    others = [rule for rule in rules if rule.months]
    for rule in (rule for rule in rules if rule.file and rule.when):
        try:
            month = Month.parse(rule.months[0]) if rule.months else Month(2024, 1)
            *_, condition = compile_rules([*others, rule], month, codes)
            kind = pl.DataFrame(schema=columns).select(condition).dtypes[0]
            got = "" if kind == pl.Boolean else f"a value of the type {kind}"
            got = f"{several[0]}, which is about several rows" if (several := SEVERAL_ROWS.search(rule.when)) else got
        except (pl.exceptions.PolarsError, LookupError, ValueError, ArgumentError) as error:
            got = first_line(error)
        if got:
            expected = "a condition in SQL on the clean columns of one row (docs/data-dictionary.md)"
            raise ConfigurationError(f"{place}.{rule.name}.when: not usable", expected=expected, got=got)


def compile_rules(rules: Sequence[Rule], month: Month, codes: Mapping[str, Iterable[int | str]]) -> list[pl.Expr]:
    """Return an expression for each rule with ``when`` that is about a month; it is true for the rows that break it.

    Args:
        codes: The name of each code table -> its codes.
    """
    moments = {"month_start": month.start, "month_end": month.end, "dst_end": month.dst_end}
    values: dict[str, str] = {name: f"({', '.join(map(repr, table))})" for name, table in codes.items()}
    values |= {name: f"TIMESTAMP '{moment:%Y-%m-%d %H:%M:%S}'" for name, moment in moments.items()}
    values["month"] = str(month.month)
    values |= {
        rule.name: f"COALESCE({rule.when.format(**values)}, FALSE)" if rule.is_about(month) else "FALSE"
        for rule in rules
        if rule.months
    }
    return [
        pl.sql_expr(rule.when.format(**values)).fill_null(False).alias(rule.name)
        for rule in rules
        if rule.when and rule.is_about(month)
    ]
