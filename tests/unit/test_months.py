from datetime import datetime

import pytest

from nyc_tlc.errors import ArgumentError
from nyc_tlc.month import Month


def test_a_month_reads_back_what_it_prints() -> None:
    assert Month.parse(str(Month(2024, 1))) == Month(2024, 1)


@pytest.mark.parametrize("text", ["2024-13", "2024-00", "2024-1", "24-01", "2024/01", "2024-01-01", ""])
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError):
        Month.parse(text)


@pytest.mark.parametrize(
    ("month", "months", "expected"),
    [("2024-01", -1, "2023-12"), ("2023-12", 1, "2024-01"), ("2024-06", -18, "2022-12"), ("2024-06", 0, "2024-06")],
)
def test_arithmetic_crosses_years(month: str, months: int, expected: str) -> None:
    assert str(Month.parse(month).plus(months)) == expected


def test_months_sort_by_time() -> None:
    assert sorted([Month(2024, 2), Month(2023, 12), Month(2024, 1)]) == [
        Month(2023, 12),
        Month(2024, 1),
        Month(2024, 2),
    ]


@pytest.mark.parametrize(
    ("year", "night"),
    # First Sunday in November since 2007 (Energy Policy Act of 2005, section 110).
    [(2009, (11, 1)), (2015, (11, 1)), (2020, (11, 1)), (2024, (11, 3)), (2025, (11, 2))],
)
def test_the_repeated_hour_begins_at_one_on_the_first_sunday_of_november(year: int, night: tuple[int, int]) -> None:
    assert Month(year, 1).dst_end == datetime(year, *night, 1)
