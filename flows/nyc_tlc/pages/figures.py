"""What the pages count and sum of a colour's trips, as SQL for DuckDB and Postgres.

The months' summaries are counted with this SQL, and the pages show it: on a warehouse it gives the same figures. Sums
and averages are of the values that the contract calls plausible; how many are left out is a figure too.
"""

from __future__ import annotations

from dataclasses import dataclass

from nyc_tlc.contract.dataset import Plausible, plausible_ranges
from nyc_tlc.month import Color

#: The names of all figures; a colour has those of ``figures_of``.
FIGURES = ("revenue", "miles", "minutes", "mph", "tip")
#: The parts of a summary that are not counted by pick-up zone.
NOT_BY_ZONE = ("day", "dropoff")
ZONE = "coalesce(pickup_location_id, 0)"
MINUTES = "extract(epoch FROM dropoff_datetime - pickup_datetime) / 60"


@dataclass(frozen=True)
class Figure:
    """A value of each trip that is summed.

    Attributes:
        title: What its average is called.
        value: Its SQL.
    """

    title: str
    value: str
    plausible: Plausible


@dataclass(frozen=True)
class Histogram:
    """Bins of equal width from 0 up, one bin for smaller and one for larger values."""

    title: str
    unit: str
    width: int
    bins: int

    @property
    def labels(self) -> list[str]:
        """The keys in order: ``<0``, ``0``, ``5``, … and ``60+`` for larger values."""
        edges = [str(self.width * index) for index in range(self.bins)]
        return ["<0", *edges, f"{self.width * self.bins}+"]

    def bin_of(self, value: str) -> str:
        """Return the SQL of a value's bin, from -1 for a negative value to the number of bins."""
        scaled = f"({value}) / {self.width}"
        index = f"CASE WHEN {scaled} < 0 THEN -1 WHEN {scaled} >= {self.bins} THEN {self.bins} ELSE floor({scaled}) END"
        return f"CAST({index} AS SMALLINT)"


HISTOGRAMS = {
    "distance": Histogram("Distance", "miles", 1, 20),
    "duration": Histogram("Duration", "minutes", 5, 12),
    "fare": Histogram("Fare", "dollars", 5, 16),
    "tip_share": Histogram("Tip as a share of the fare", "percent", 5, 10),
}


@dataclass(frozen=True)
class Measures:
    """The columns of a colour that its figures use; empty where the colour has none."""

    distance: str = ""
    fare: str = ""
    tip: str = ""
    revenue: tuple[str, ...] = ()
    payment: str = ""
    rate: str = ""


TAXI = Measures("trip_distance", "fare_amount", "tip_amount", ("total_amount",), "payment_type", "rate_code")
#: What passengers of high-volume services pay.
FARE_AND_FEES = "base_passenger_fare tolls bcf sales_tax congestion_surcharge airport_fee tips cbd_congestion_fee"
MEASURES: dict[Color, Measures] = {
    "yellow": TAXI,
    "green": TAXI,
    "fhv": Measures(),
    "fhvhv": Measures("trip_miles", "base_passenger_fare", "tips", tuple(FARE_AND_FEES.split())),
}


def figures_of(color: Color) -> dict[str, Figure]:
    """Return the figures that a colour has, by name."""
    measures, ranges = MEASURES[color], plausible_ranges()
    figures = {"minutes": Figure("Duration", MINUTES, ranges["trip_duration_minutes"])}
    if measures.distance:
        speed = f"CASE WHEN dropoff_datetime > pickup_datetime THEN {measures.distance} / ({MINUTES}) * 60 END"
        # Tips in cash are not recorded.
        tip = f"CASE WHEN {measures.payment} = 1 THEN {measures.tip} END" if measures.payment else measures.tip
        revenue = " + ".join(f"coalesce({column}, 0)" for column in measures.revenue)
        figures |= {
            "revenue": Figure("Revenue", revenue, ranges["total_amount"]),
            "miles": Figure("Distance", measures.distance, ranges[measures.distance]),
            "mph": Figure("Speed", speed, ranges["trip_speed_mph"]),
            "tip": Figure("Tip by card" if measures.payment else "Tip", tip, ranges[measures.tip]),
        }
    return {name: figures[name] for name in FIGURES if name in figures}


def keys_of(color: Color) -> dict[str, tuple[str, str]]:
    """Return part -> the SQL of its key, a number or a date because these group fast, and of the key as text."""
    measures = MEASURES[color]
    keys = {
        "day": ("CAST(pickup_datetime AS DATE)", "CAST(day AS VARCHAR)"),
        "dropoff": ("dropoff_location_id", "CAST(dropoff AS VARCHAR)"),
        "hour": (
            "CAST(100 * extract(isodow FROM pickup_datetime) + extract(hour FROM pickup_datetime) AS SMALLINT)",
            "printf('%d %02d', hour // 100, hour % 100)",
        ),
    }
    codes = {"payment": measures.payment, "rate": measures.rate}
    keys |= {part: (column, f"CAST({part} AS VARCHAR)") for part, column in codes.items() if column}
    values = {
        "distance": measures.distance,
        "duration": MINUTES,
        "fare": measures.fare,
        "tip_share": _share_of(measures.tip, measures.fare) if measures.fare else "",
    }
    for part, value in values.items():
        if value:
            histogram = HISTOGRAMS[part]
            # The list's first element has the index 1.
            keys[part] = (histogram.bin_of(value), f"{histogram.labels}[{part} + 2]")
    return keys


def _share_of(tip: str, fare: str) -> str:
    """Return the SQL of a tip in percent of its fare; null where one of them is not plausible."""
    ranges = plausible_ranges()
    possible = f"{fare} >= 0.01 AND {ranges[fare].sql(fare)} AND {ranges[tip].sql(tip)}"
    # A decimal, because as floating-point numbers 2.55 of 17 dollars are 14.999999999999998 percent.
    return f"CASE WHEN {possible} THEN CAST(100 * {tip} / {fare} AS numeric(18, 6)) END"


def select_values(color: Color) -> str:
    """Return the SELECT list of the figures' values."""
    return ", ".join(f"{figure.value} AS {name}" for name, figure in figures_of(color).items())


def select_sums(color: Color) -> str:
    """Return the SELECT list of the figures: of each the sum, the number of values in it, and how many are left out."""
    return ",\n    ".join(
        f"sum(CASE WHEN {figure.plausible.sql(name)} THEN {name} END) AS {name}_sum,"
        f" count(CASE WHEN {figure.plausible.sql(name)} THEN 1 END) AS {name}_trips,"
        f" count(CASE WHEN NOT ({figure.plausible.sql(name)}) THEN 1 END) AS {name}_left_out"
        for name, figure in figures_of(color).items()
    )
