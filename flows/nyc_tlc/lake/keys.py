"""Object keys of a month: POSIX paths relative to the lake's root, on every platform."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

from nyc_tlc.contract.dataset import SourceFormat
from nyc_tlc.month import Color, Month, OfMonth

#: The files of a month's clean rows: one file, or also a Hive folder for each pick-up date.
Layout = Literal["month", "day"]

_MONTH_IN_KEY = re.compile(r"(?:^manifest/(\w+)/|(?:^|/)\.?(\w+)_tripdata_)(\d{4}-\d{2})\.")

_VERSION_IN_KEY = re.compile(r"\.([0-9a-f]{12})\.")


def describe_key(key: str) -> str:
    """Return an object's name for errors and log lines: its month, or its key if it is no month's file."""
    found = _MONTH_IN_KEY.search(key)
    return f"{found[1] or found[2]} {found[3]}" if found else key


@dataclass(frozen=True)
class Keys(OfMonth):
    """The keys of one month of one colour that do not depend on the version of its files."""

    color: Color
    month: Month

    @property
    def file(self) -> str:
        """TLC's name of the month's file, without the extension."""
        return f"{self.color}_tripdata_{self.month}"

    @property
    def manifest(self) -> str:
        """The manifest, which names the month's files."""
        return f"manifest/{self.color}/{self.month}.json"

    @property
    def history(self) -> str:
        """The prefix of the versions that a changed source replaced."""
        return f"history/{self.color}/{self.month}/"

    def partition(self, rows: Literal["clean", "quarantine"]) -> str:
        """Return the Hive partition of the clean or of the rejected rows."""
        return f"{rows}/{self.color}/year={self.month.year:04d}/month={self.month.month:02d}/"

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The prefixes of all the month's files. Clean pick-ups are at most one day outside the month."""
        neighbours = (self.month.first_day - timedelta(days=1), self.month.plus(1).first_day)
        days = (f"{self.month}-", *(f"{day.isoformat()}/" for day in neighbours))
        return (
            f"raw/{self.color}/{self.file}.",
            self.partition("clean"),
            self.partition("quarantine"),
            *(f"{self.daily_folder}{day}" for day in days),
        )

    @property
    def daily_folder(self) -> str:
        """The prefix of the Hive partitions by pick-up date."""
        return f"daily/{self.color}/pickup_date="

    def owns(self, key: str) -> bool:
        """Return whether a key is one of the month's files, or the draft of one, whose name starts with a dot."""
        folder, _, name = key.rpartition("/")
        name = name.removeprefix(".")
        return name.startswith(f"{self.file}.") and f"{folder}/{name}".startswith(self.prefixes)

    def of_version_in(self, key: str) -> FileKeys:
        """Return the keys of the publication that a key is of.

        Raises:
            ValueError: when the key has no version.
        """
        if found := _VERSION_IN_KEY.search(key):
            return FileKeys(self, found[1])
        raise ValueError("a key without a version")

    def of_new_version(self) -> FileKeys:
        """Return the keys for the files of one publication. No other publication has the same ones."""
        return FileKeys(self, secrets.token_hex(6))


@dataclass(frozen=True)
class FileKeys:
    """The keys of the files of one publication of a month; ``version`` has 12 hexadecimal digits."""

    month: Keys
    version: str

    def raw(self, source_format: SourceFormat) -> str:
        """Return the key of the source file's unchanged bytes."""
        return f"raw/{self.month.color}/{self._name}.{source_format}"

    @property
    def clean(self) -> str:
        return f"{self.month.partition('clean')}{self._name}.parquet"

    @property
    def quarantine(self) -> str:
        return f"{self.month.partition('quarantine')}{self._name}.parquet"

    def of(self, key: str) -> str:
        """Return the key that a file of another version has in this one."""
        return _VERSION_IN_KEY.sub(f".{self.version}.", key)

    def daily(self, day: date) -> str:
        """Return the key of one pick-up date's clean rows."""
        return f"{self.month.daily_folder}{day.isoformat()}/{self._name}.parquet"

    @property
    def _name(self) -> str:
        return f"{self.month.file}.{self.version}"
