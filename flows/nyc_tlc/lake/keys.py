"""Object keys of a month: POSIX paths under the lake's root, on every platform."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

from nyc_tlc.contract.contract import SourceFormat
from nyc_tlc.months import Color, Month

#: How a month's clean rows lie in the lake: one file, or also a Hive folder per pick-up date.
Layout = Literal["month", "day"]

_MONTH_IN_KEY = re.compile(r"(?:^manifest/(\w+)/|(?:^|/)\.?(\w+)_tripdata_)(\d{4}-\d{2})\.")


def describe_key(key: str) -> str:
    """What errors and log lines call an object: by its month where it is one's file, else by its key."""
    found = _MONTH_IN_KEY.search(key)
    return f"{found[1] or found[2]} {found[3]}" if found else key


@dataclass(frozen=True)
class Keys:
    """The keys of one month of one colour, whatever its files are made of."""

    color: Color
    month: Month

    @property
    def name(self) -> str:
        """What errors and log lines call the month."""
        return f"{self.color} {self.month}"

    @property
    def file(self) -> str:
        """TLC's own name of the month's file, without extension."""
        return f"{self.color}_tripdata_{self.month}"

    @property
    def manifest(self) -> str:
        """The record that says which files are the month."""
        return f"manifest/{self.color}/{self.month}.json"

    @property
    def clean_folder(self) -> str:
        """The Hive partition of the clean rows."""
        return f"clean/{self._partition}"

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Where all files of the month are. Clean pick-ups are at most a day outside the month."""
        neighbours = (self.month.first_day - timedelta(days=1), self.month.plus(1).first_day)
        days = (f"{self.month}-", *(f"{day.isoformat()}/" for day in neighbours))
        return (
            f"raw/{self.color}/{self.file}.",
            self.clean_folder,
            f"quarantine/{self._partition}",
            *(f"{self.daily_folder}{day}" for day in days),
        )

    @property
    def daily_folder(self) -> str:
        """How the Hive partitions of pick-up dates begin."""
        return f"daily/{self.color}/pickup_date="

    def owns(self, key: str) -> bool:
        """Whether a key is one of the month's files; those of an unfinished upload to a folder begin with a dot."""
        folder, _, name = key.rpartition("/")
        name = name.removeprefix(".")
        return name.startswith(f"{self.file}.") and f"{folder}/{name}".startswith(self.prefixes)

    def of_version(self, version: str) -> FileKeys:
        """The keys of the files of one version.

        Args:
            version: A digest of all that decides their bytes.
        """
        return FileKeys(self, version)

    @property
    def _partition(self) -> str:
        return f"{self.color}/year={self.month.year:04d}/month={self.month.month:02d}/"


@dataclass(frozen=True)
class FileKeys:
    """The keys of a month's files. Other inputs have other keys, so a file is never replaced by another."""

    month: Keys
    version: str

    def raw(self, source_format: SourceFormat) -> str:
        """The source's untouched bytes."""
        return f"raw/{self.month.color}/{self._name}.{source_format}"

    @property
    def clean(self) -> str:
        """The clean rows."""
        return f"{self.month.clean_folder}{self._name}.parquet"

    @property
    def quarantine(self) -> str:
        """The rejected rows."""
        return f"quarantine/{self.month.clean_folder.partition('/')[2]}{self._name}.parquet"

    def daily(self, day: date) -> str:
        """The clean rows of one pick-up day."""
        return f"{self.month.daily_folder}{day.isoformat()}/{self._name}.parquet"

    @property
    def _name(self) -> str:
        return f"{self.month.file}.{self.version}"
