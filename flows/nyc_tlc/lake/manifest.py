"""The manifest of a month. It is written last, and writing it publishes the month. Its counts must add up."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Annotated, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from nyc_tlc.contract.dataset import SourceFormat
from nyc_tlc.errors import ReconciliationError
from nyc_tlc.lake.keys import Keys
from nyc_tlc.month import Color, Month, OfMonth
from nyc_tlc.shown import shown

#: A text that the source or the lake wrote, and that people are shown.
Text = Annotated[str, AfterValidator(shown)]


class Stored(BaseModel):
    """What is stored in the lake as JSON. Unknown fields, from a later version, are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=2).encode() + b"\n"


class FileRecord(Stored):
    """One of the month's files in the lake."""

    key: str
    rows: int
    bytes: int
    sha256: str


F = TypeVar("F", bound=FileRecord)


class SourceRecord(FileRecord):
    """The source file of the month; the lake has its bytes, perhaps under the version of an earlier publication.

    ``verified_by`` says how the download was found complete: by ``size``, ``transfer`` (the end of a chunked or
    gzipped body), ``content`` (the end mark of the file's format), ``etag`` (its MD5 digest), or ``nothing``.
    """

    url: str
    etag: str | None
    last_modified: Text | None
    format: SourceFormat
    columns: tuple[Text, ...]
    verified_by: Text | None = None


class QuarantineRecord(FileRecord):
    """The rejected rows; ``rules`` counts each row under the first rule that it breaks."""

    rules: dict[Text, int]


class Manifest(OfMonth, Stored):
    """The files of a month, their row counts, and what they were made from.

    ``published_at`` is when the lake got this version of the month. A version is a source file, so cleaning it again
    does not change the time. ``replaces`` is when the version before it was published; None if there was none.
    ``revision`` counts how often the manifest was written again without other changes, before the removal of files
    that it does not name.

    Raises:
        ReconciliationError: when its counts don't add up.
    """

    color: Color
    month: str
    source: SourceRecord
    clean: FileRecord
    quarantine: QuarantineRecord
    daily: tuple[FileRecord, ...] = ()
    warnings: dict[Text, int]
    drift: tuple[Text, ...]
    missing: tuple[Text, ...] = ()
    contract_version: Text
    rules_version: Text
    code_version: Text
    flow_run_id: Text | None
    seconds: dict[Text, float] = {}
    started_at: datetime
    finished_at: datetime
    published_at: datetime = Field(default_factory=lambda data: data["finished_at"])
    replaces: datetime | None = None
    revision: int = 0

    @property
    def month_keys(self) -> Keys:
        return Keys(self.color, Month.parse(self.month))

    @property
    def version(self) -> str:
        """The 12 digits in the keys of its publication's files."""
        return self.month_keys.of_version_in(self.clean.key).version

    @property
    def history_folder(self) -> str:
        """The folder in which the version is kept when a changed source replaces it."""
        return f"{self.month_keys.history}{self.published_at.astimezone(UTC):%Y%m%dT%H%M%S%fZ}.{self.version}"

    def with_keys(self, new_key: Callable[[str], str]) -> Manifest:
        """Return the manifest of the same files under other keys."""

        def rename(file: F) -> F:
            return file.model_copy(update={"key": new_key(file.key)})

        files = {"source": rename(self.source), "clean": rename(self.clean), "quarantine": rename(self.quarantine)}
        return self.model_copy(update={**files, "daily": tuple(map(rename, self.daily))})

    @property
    def files(self) -> tuple[FileRecord, ...]:
        return (self.source, self.clean, self.quarantine, *self.daily)

    @property
    def labels(self) -> dict[str, str]:
        """What a file of the month says about itself, in its Parquet metadata and as an object of a bucket."""
        return {
            "color": self.color,
            "month": self.month,
            "source_sha256": self.source.sha256,
            "contract_version": self.contract_version,
            "rules_version": self.rules_version,
        }

    @property
    def file_keys(self) -> frozenset[str]:
        return frozenset(file.key for file in self.files)

    @property
    def rejected_share(self) -> float:
        """The share of the source's rows that are quarantined, 0 to 1."""
        return self.quarantine.rows / max(1, self.source.rows)

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
                    f"{self.name}: the row counts don't add up: {account}", expected=f"{left:,}", got=f"{right:,}"
                )
        return self

    def require_files_of(self, keys: Keys) -> None:
        """Check that it is the month's manifest, and that each key is the one that its file has in a lake.

        Raises:
            ValueError: when it is not.
        """
        if (self.color, self.month) != (keys.color, str(keys.month)):
            raise ValueError(f"it is of {self.name}")
        source, clean, quarantine = map(keys.of_version_in, (self.source.key, self.clean.key, self.quarantine.key))
        expected = [source.raw(self.source.format), clean.clean, quarantine.quarantine]
        for each in self.daily:
            day = date.fromisoformat(each.key.removeprefix(keys.daily_folder)[:10])
            expected.append(keys.of_version_in(each.key).daily(day))
        found = [file.key for file in self.files]
        if found != expected or len(set(found)) != len(found) or not all(map(keys.owns, found)):
            raise ValueError("a key in it is not one of the month's files")
