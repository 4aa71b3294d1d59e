"""Colours and months: one month of one colour is fetched, cleaned, published and loaded as a unit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal, get_args
from zoneinfo import ZoneInfo

from nyc_tlc.errors import ArgumentError

Color = Literal["yellow", "green", "fhv", "fhvhv"]
COLORS: tuple[Color, ...] = get_args(Color)

NEW_YORK = ZoneInfo("America/New_York")


@dataclass(frozen=True, order=True)
class Month:
    """A calendar month, ordered, printed as ``2024-01``.

    Raises:
        ArgumentError: for a month outside 1..12.
    """

    year: int
    month: int

    def __post_init__(self) -> None:
        if not 1 <= self.month <= 12:
            raise ArgumentError(f"no such month: {self.month}", expected="1 to 12")
        if not 1 <= self.year <= 9998:
            raise ArgumentError(f"no such year: {self.year}")

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.month:02d}"

    @classmethod
    def parse(cls, text: str) -> Month:
        """Return the month of a text like ``2024-01``."""
        match = re.fullmatch(r"(\d{4})-(\d{2})", text)
        if not match:
            raise ArgumentError(f"not a month: {text!r}", expected="YYYY-MM")
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def current(cls) -> Month:
        """Return the current month in New York."""
        now = datetime.now(NEW_YORK)
        return cls(now.year, now.month)

    def plus(self, months: int) -> Month:
        """Return the month that is ``months`` later; earlier if negative."""
        index = self.year * 12 + self.month - 1 + months
        return Month(index // 12, index % 12 + 1)

    def up_to(self, last: Month, every: int = 1) -> list[Month]:
        """Return the months from this one to the last, or every n-th of them; none if the last is before this one."""
        later = (last.year - self.year) * 12 + last.month - self.month
        return [self.plus(months) for months in range(0, later + 1, every)]

    @property
    def start(self) -> datetime:
        """Midnight of the first day, New York wall-clock time."""
        return datetime(self.year, self.month, 1)  # noqa: DTZ001  TLC's times are naive wall-clock

    @property
    def end(self) -> datetime:
        """Midnight of the next month's first day."""
        return self.plus(1).start

    @property
    def first_day(self) -> date:
        """The first day, which is the value of ``file_month``."""
        return self.start.date()

    @property
    def dst_end(self) -> datetime:
        """The start of the hour that occurs twice in the month's year: 01:00 of the night DST ends.

        In that hour the drop-off of a correct record can be before its pick-up (TLC green 2025-11:
        01:58:21 -> 01:09:31).
        """
        july = datetime(self.year, 7, 1, 1)  # noqa: DTZ001
        nights = (july + timedelta(days=day) for day in range(184))
        never = datetime.max  # noqa: DTZ901  for years without DST
        return next((night for night in nights if _occurs_twice(night)), never)


class OfMonth:
    """What is of one month of one colour, and named after it."""

    color: Color
    month: Month | str

    @property
    def name(self) -> str:
        """The month's name for people, in errors and log lines."""
        return f"{self.color} {self.month}"

    @property
    def id(self) -> str:
        """The month's name in links and parameters, ``green-2024-01``."""
        return f"{self.color}-{self.month}"


def _occurs_twice(wall_clock: datetime) -> bool:
    """Return whether a New York wall-clock time occurs twice, with two UTC offsets."""
    first, second = (wall_clock.replace(tzinfo=NEW_YORK, fold=fold) for fold in (0, 1))
    return first.utcoffset() != second.utcoffset()
