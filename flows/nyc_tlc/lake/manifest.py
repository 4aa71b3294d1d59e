"""The record of what was done with a month: written last, it is the commit. One that doesn't add up can't be made."""

from __future__ import annotations

from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from nyc_tlc.contract.contract import SourceFormat
from nyc_tlc.errors import ReconciliationError
from nyc_tlc.lake.keys import Keys
from nyc_tlc.months import Color, Month


class Part(BaseModel):
    """A part of a manifest. Fields that a later version adds are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class SourceRecord(Part):
    """The file the month was made from, byte for byte in the lake under ``key``.

    ``verified_by`` says what showed that it came whole: ``size``, ``transfer`` (a body of chunks with its end),
    ``content`` (a format with an end of its own), or ``nothing``.
    """

    url: str
    etag: str | None
    last_modified: str | None
    bytes: int
    sha256: str
    format: SourceFormat
    rows: int
    columns: tuple[str, ...]
    key: str
    verified_by: str | None = None


class CleanRecord(Part):
    """The month's clean rows."""

    key: str
    rows: int
    bytes: int
    sha256: str


class QuarantineRecord(Part):
    """The rejected rows; ``rules`` counts each under the first rule it broke."""

    key: str
    rows: int
    rules: dict[str, int]
    bytes: int | None = None
    sha256: str | None = None


class DayRecord(Part):
    """One day of the clean rows (layout ``day``)."""

    key: str
    rows: int
    bytes: int | None = None
    sha256: str | None = None


class Manifest(Part):
    """What was done with a month.

    ``revision`` counts how often the manifest was written again as it is, to remove files that it does not name.

    Raises:
        ReconciliationError: when its counts don't add up.
    """

    color: Color
    month: str
    source: SourceRecord
    clean: CleanRecord
    quarantine: QuarantineRecord
    daily: tuple[DayRecord, ...] = ()
    warnings: dict[str, int]
    drift: tuple[str, ...]
    missing: tuple[str, ...] = ()
    contract_version: str
    rules_version: str
    code_version: str
    flow_run_id: str | None
    seconds: dict[str, float] = {}
    started_at: datetime
    finished_at: datetime
    revision: int = 0

    @property
    def month_keys(self) -> Keys:
        """The month's keys."""
        return Keys(self.color, Month.parse(self.month))

    @property
    def digests(self) -> dict[str, str | None]:
        """The keys of the month's files, with their digests as far as they are known."""
        files: tuple[SourceRecord | CleanRecord | QuarantineRecord | DayRecord, ...]
        files = (self.source, self.clean, self.quarantine, *self.daily)
        return {file.key: file.sha256 for file in files}

    @property
    def file_keys(self) -> frozenset[str]:
        """The keys of the month's files."""
        return frozenset(self.digests)

    @property
    def name(self) -> str:
        """What errors and log lines call the month."""
        return f"{self.color} {self.month}"

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        accounts = {
            "source rows = clean + quarantine": (self.source.rows, self.clean.rows + self.quarantine.rows),
            "quarantine rows = sum of its rules": (self.quarantine.rows, sum(self.quarantine.rules.values())),
        }
        if self.daily:
            accounts["clean rows = sum of the days"] = (self.clean.rows, sum(day.rows for day in self.daily))
        for account, (left, right) in accounts.items():
            if left != right:
                raise ReconciliationError(
                    f"{self.name}: the accounts don't add up: {account}", expected=f"{left:,}", got=f"{right:,}"
                )
        return self

    def to_json(self) -> bytes:
        """The manifest as it is in the lake."""
        return self.model_dump_json(indent=2).encode() + b"\n"
