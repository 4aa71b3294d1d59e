"""Apply the contract's rules, compiled to polars expressions, to all rows of a batch at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import polars as pl

from nyc_tlc.cleaning.conform import Batch
from nyc_tlc.contract.dataset import Contract, list_codes
from nyc_tlc.contract.rules import compile_rules
from nyc_tlc.month import Month

#: The rule for lines that are not records, and the prefix of the rules for values that can't be cast.
UNPARSEABLE = "unparseable"
BAD_VALUE = "bad_value:"
#: The prefixes of the warnings of texts that mean null, by column, and of vendors with one minute, by vendor.
NULL_TEXT = "null_text:"
ONE_MINUTE = "one_minute:"
#: With fewer trips, a vendor can have one minute by chance.
MIN_VENDOR_TRIPS = 10


@dataclass(frozen=True)
class CheckedBatch:
    """A batch's rows: those that no rule rejects, and the others with REJECTION_FIELDS."""

    clean: pl.DataFrame
    quarantine: pl.DataFrame


class RuleCheck:
    """Checks the batches of one month, and counts rows by rule."""

    def __init__(self, contract: Contract, month: Month) -> None:
        rules = [rule for rule in contract.rules if rule.is_about(month)]
        self.expressions = compile_rules(contract.rules, month, list_codes())
        self.rejects = [rule.name for rule in rules if rule.severity == "reject"]
        self._warnings = [rule.name for rule in rules if rule.severity == "warn"]
        self._first_rules: Counter[str] = Counter()
        self._warned: Counter[str] = Counter(dict.fromkeys(self._warnings, 0))
        self._has_vendors = "vendor_id" in contract.clean_schema.names
        self._vendor_minutes: dict[int, set[int]] = {}
        self._vendor_trips: Counter[int] = Counter()

    @property
    def rejected(self) -> dict[str, int]:
        """Rejecting rule -> number of rows, each counted for its first rule; the contract's rules are always listed."""
        return dict.fromkeys(self.rejects, 0) | dict(self._first_rules)

    @property
    def warned(self) -> Counter[str]:
        """Warning -> number of rows, rejected or not; the contract's warnings for the month are always listed."""
        one_minute = {
            f"{ONE_MINUTE}{vendor}": self._vendor_trips[vendor]
            for vendor, minutes in self._vendor_minutes.items()
            if len(minutes) == 1 and self._vendor_trips[vendor] >= MIN_VENDOR_TRIPS
        }
        return Counter(self._warned | one_minute)

    def __call__(self, batch: Batch) -> CheckedBatch:
        """Split a batch into clean and quarantine, and count its rows."""
        broken = batch.frame.select(self.expressions)
        counts = broken.select(pl.col(self._warnings).sum()).row(0)
        self._warned.update(dict(zip(self._warnings, counts, strict=True)))
        self._warned.update({f"{NULL_TEXT}{column}": rows for column, rows in batch.null_texts.items()})
        faults = {f"{BAD_VALUE}{column}": mask for column, mask in batch.bad_values.items()}
        if batch.raw is not None:
            faults = {UNPARSEABLE: batch.raw.is_not_null(), **faults}
        broken = broken.select(*(mask.alias(name) for name, mask in faults.items()), *self.rejects)
        rejected = broken.select(pl.any_horizontal(pl.all())).to_series()
        # Joined and split again, because a list of many texts, most of them null, is much slower to make.
        reasons = broken.filter(rejected).select(
            rejection_rules=pl.concat_str(
                [pl.when(pl.col(name)).then(pl.lit(name)) for name in broken.columns], separator="\n", ignore_nulls=True
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
        clean = batch.frame.filter(~rejected)
        if self._has_vendors:
            self._count_minutes(clean)
        return CheckedBatch(clean, pl.concat([rows, reasons], how="horizontal"))

    def _count_minutes(self, clean: pl.DataFrame) -> None:
        """Collect the minutes of the pick-ups of vendors that had one minute only until now."""
        varied = [vendor for vendor, minutes in self._vendor_minutes.items() if len(minutes) > 1]
        other = clean.select("vendor_id", "pickup_datetime").filter(~pl.col("vendor_id").is_in(varied))
        minutes = other.group_by("vendor_id").agg(pl.col("pickup_datetime").dt.minute().unique(), trips=pl.len())
        for vendor, found, trips in minutes.rows():
            self._vendor_minutes.setdefault(vendor, set()).update(found)
            self._vendor_trips[vendor] += trips
