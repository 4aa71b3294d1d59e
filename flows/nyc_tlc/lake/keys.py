"""Object keys of one month: POSIX paths under the lake's root, on every platform."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from nyc_tlc.contract.contract import SourceFormat
from nyc_tlc.months import Color, Month


@dataclass(frozen=True)
class Keys:
    """The object keys of one month: POSIX paths under the lake's root, on every platform."""

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
    def partition(self) -> str:
        """The Hive partition of clean and quarantine."""
        return f"{self.color}/year={self.month.year:04d}/month={self.month.month:02d}/{self.file}.parquet"

    def raw(self, source_format: SourceFormat) -> str:
        """The source's untouched bytes."""
        return f"raw/{self.color}/{self.file}.{source_format}"

    @property
    def clean(self) -> str:
        """The clean rows."""
        return f"clean/{self.partition}"

    @property
    def quarantine(self) -> str:
        """The rejected rows."""
        return f"quarantine/{self.partition}"

    def daily(self, day: date) -> str:
        """The clean rows of one pick-up day."""
        return f"daily/{self.color}/pickup_date={day.isoformat()}/{self.file}.parquet"

    @property
    def manifest(self) -> str:
        """The record that makes all of these count."""
        return f"manifest/{self.color}/{self.month}.json"


def months_of(manifests: Iterable[str]) -> list[Month]:
    """The months that manifests' keys name, oldest first."""
    return sorted(Month.parse(key.rpartition("/")[2].removesuffix(".json")) for key in manifests)
