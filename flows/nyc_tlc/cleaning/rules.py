"""Apply the contract's rules, compiled to polars expressions, to all rows of a batch at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from nyc_tlc.cleaning.conform import Batch
from nyc_tlc.contract.contract import Contract, code_tables
from nyc_tlc.months import Month

#: The rule for lines that are not records, and the prefix of the rules for values that can't be cast.
UNPARSEABLE = "unparseable"
BAD_VALUE = "bad_value:"


@dataclass(frozen=True)
class Verdict:
    """A judged batch.

    Attributes:
        clean: The rows that no rule rejects.
        quarantine: The other rows, with ``rejection_rule``, ``rejection_rules`` and ``raw``.
    """

    clean: pl.DataFrame
    quarantine: pl.DataFrame


class Judge:
    """Judges the batches of one month, and counts rows by rule.

    Attributes:
        rejected: Rejecting rule -> number of rows; each row is counted for its first rule.
        warned: Warning rule -> number of rows, rejected or not.
    """

    def __init__(self, contract: Contract, month: Month) -> None:
        """Compile the rules for a month."""
        names = _list_rule_values(month)
        expressions = {
            rule.name: pl.sql_expr(rule.when.format(**names)).fill_null(False).alias(rule.name)
            for rule in contract.rules
        }
        self.rejects = [rule.name for rule in contract.rules if rule.severity == "reject"]
        self._warnings = [rule.name for rule in contract.rules if rule.severity == "warn"]
        self.expressions = list(expressions.values())
        self._first_rules: Counter[str] = Counter()
        self.warned: Counter[str] = Counter(dict.fromkeys(self._warnings, 0))

    @property
    def rejected(self) -> dict[str, int]:
        """Rejecting rule -> number of rows, each counted for its first rule; the contract's rules are always listed."""
        return dict.fromkeys(self.rejects, 0) | dict(self._first_rules)

    def __call__(self, batch: Batch) -> Verdict:
        """Split a batch into clean and quarantine, and count its rows."""
        verdicts = batch.frame.select(self.expressions)
        self.warned.update(dict(zip(self._warnings, verdicts.select(pl.col(self._warnings).sum()).row(0), strict=True)))
        faults = {f"{BAD_VALUE}{column}": mask for column, mask in batch.bad_values.items()}
        if batch.raw is not None:
            faults = {UNPARSEABLE: batch.raw.is_not_null(), **faults}
        verdicts = verdicts.select(*(mask.alias(name) for name, mask in faults.items()), *self.rejects)
        rejected = verdicts.select(pl.any_horizontal(pl.all())).to_series()
        # Joined and split again, because a list of many texts, most of them null, is much slower to make.
        reasons = verdicts.filter(rejected).select(
            rejection_rules=pl.concat_str(
                [pl.when(pl.col(name)).then(pl.lit(name)) for name in verdicts.columns],
                separator="\n",
                ignore_nulls=True,
            ).str.split("\n")
        )
        if batch.raw is not None:
            # A line that is not a record breaks only this rule; all its columns are null, so it would break others.
            unparseable = faults[UNPARSEABLE].filter(rejected)
            reasons = reasons.with_columns(
                pl.when(unparseable).then(pl.lit([UNPARSEABLE])).otherwise("rejection_rules").alias("rejection_rules")
            )
        reasons = reasons.select(
            pl.col("rejection_rules").list.first().alias("rejection_rule"),
            "rejection_rules",
            pl.coalesce(
                pl.lit(None if texts is None else texts.filter(rejected), pl.String)
                for texts in (batch.raw, batch.bad_texts)
            ).alias("raw"),
        )
        self._first_rules.update(reasons["rejection_rule"].to_list())
        rows = batch.frame.filter(rejected).with_columns(pl.col(pl.Categorical).cast(pl.String))
        return Verdict(batch.frame.filter(~rejected), pl.concat([rows, reasons], how="horizontal"))


def _list_rule_values(month: Month) -> dict[str, str]:
    """Return the values of the names in braces: the month's limits and the code tables."""
    codes = {name: f"({', '.join(map(repr, table.codes))})" for name, table in code_tables().items()}
    moments = {"month_start": month.start, "month_end": month.end, "dst_end": month.dst_end}
    return codes | {name: _format_timestamp(moment) for name, moment in moments.items()}


def _format_timestamp(moment: datetime) -> str:
    return f"TIMESTAMP '{moment:%Y-%m-%d %H:%M:%S}'"
