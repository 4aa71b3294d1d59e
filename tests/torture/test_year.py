"""A year of mornings: the catch-up under a moved clock, against a source that is late, rewrites, fails and lies.

Whatever goes wrong comes from a script with a seed. The script knows which version of each month is published when and
what is broken, so it says what must be in the lake and the warehouse, and of what people must be told.
"""

from __future__ import annotations

import io
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW, temporary_settings

import backfill
from conftest import PrefectServer
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.keys import Keys
from nyc_tlc.month import NEW_YORK, Color, Month
from nyc_tlc.runs import catch_up
from nyc_tlc.source.sample import write_sample
from stand_ins.http_source import Fault, HttpSource, PublishedFile

pytestmark = pytest.mark.torture

COLORS: list[Color] = ["green", "yellow"]
FIRST, MORNINGS, ROWS = date(2025, 1, 6), 365, 300
#: The modules whose clock is moved.
CLOCKS = ("month", "planning.month_plan", "planning.record", "planning.troubles", "runs.catch_up")


class MovedClock(datetime):
    """A datetime whose ``now`` is a morning of the year."""

    today = FIRST

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return datetime.combine(cls.today, time(6, 10), NEW_YORK).astimezone(tz)


@dataclass
class Trouble:
    """What people must be told of: when it begins, by when they must know, and when it ends."""

    kind: str
    about: str
    begins: int
    known_by: int
    ends: int


@dataclass
class Year:
    """The script of a year."""

    source: HttpSource
    lake: FolderLake
    warehouse: Path
    random: random.Random
    folder: Path
    actions: dict[int, list[Callable[[], object]]] = field(default_factory=dict)
    expected: list[Trouble] = field(default_factory=list)
    #: Month -> the day of its last good version, and how many days a catch-up may take for it.
    due: dict[tuple[Color, Month], tuple[int, int]] = field(default_factory=dict)
    good: dict[tuple[Color, Month], bytes] = field(default_factory=dict)

    def at(self, day: int, action: Callable[[], object]) -> None:
        self.actions.setdefault(day, []).append(action)

    def body(self, color: Color, month: Month, rows: int) -> bytes:
        path = self.folder / "body.parquet"
        write_sample(color, month, rows, path)
        return path.read_bytes()

    def publish(self, color: Color, month: Month, body: bytes, day: int, within: int = 1, *, good: bool = True) -> None:
        self.source.files[f"/{color}_tripdata_{month}.parquet"] = PublishedFile(body)
        if good:
            self.good[color, month], self.due[color, month] = body, (day, within)

    def write(self) -> None:
        """Write the script: every month of the year is published once, and some of them have troubles."""
        draw, first = self.random, Month(FIRST.year, FIRST.month)
        for color in COLORS:
            for ago in range(13, 2, -1):
                month = first.plus(-ago)
                self.at(0, lambda c=color, m=month: self.publish(c, m, self.body(c, m, ROWS), 0))
        months = [(color, first.plus(n)) for n in range(-2, 9) for color in COLORS]
        published = {which: (which[1].plus(1).first_day - FIRST).days + draw.randint(40, 58) for which in months}
        special = dict(
            zip(draw.sample([each for each in months if 20 < published[each] < 260], 5), SPECIALS, strict=True)
        )
        for (color, month), day in published.items():
            special.get((color, month), Year.normal)(self, color, month, max(0, day))
        for begins, days in ((draw.randint(20, 60), 1), (draw.randint(300, 320), 4)):
            self.source_down(begins, days)
        old = [(color, first.plus(-ago)) for color in COLORS for ago in range(8, 13)]
        for color, month in draw.sample(old, 4):
            day = draw.randint(30, 300)
            self.at(day, lambda c=color, m=month, d=day: self.publish(c, m, self.body(c, m, ROWS + 3), d, 16))
        for color, month in draw.sample(old, 2):
            self.delete_rows(color, month, draw.randint(30, 300))
        for color, month in draw.sample(old, 2):
            self.at(draw.randint(30, 300), lambda c=color, m=month: self.damage(c, m))
        self.warehouse_away(draw.randint(270, 290))

    def normal(self, color: Color, month: Month, day: int) -> None:
        rows = ROWS + self.random.randint(-9, 9)
        self.at(day, lambda: self.publish(color, month, self.body(color, month, rows), day))

    def late(self, color: Color, month: Month, day: int) -> None:
        """Publish it seven months late; it is overdue from four months after its end on."""
        overdue = (month.plus(5).first_day - FIRST).days
        come = min(overdue + 90, MORNINGS - 20)
        self.expected.append(Trouble("overdue", f"{color} {month}", overdue, overdue + 1, come))
        self.at(come, lambda: self.publish(color, month, self.body(color, month, ROWS), come))

    def html(self, color: Color, month: Month, day: int) -> None:
        """Publish an HTML page in its place for twelve days."""
        self.expected.append(Trouble("broken file", f"{color} {month}", day, day + 1, day + 12))
        self.at(day, lambda: self.publish(color, month, b"<html>Sorry</html>" * 40, day, good=False))
        self.normal(color, month, day + 12)

    def renamed(self, color: Color, month: Month, day: int) -> None:
        """Publish it with a required column renamed for twenty days."""
        self.expected.append(Trouble("broken file", f"{color} {month}", day, day + 1, day + 20))

        def publish() -> None:
            table = pq.read_table(io.BytesIO(self.body(color, month, ROWS)))
            names = ["pu_zone" if name == "PULocationID" else name for name in table.column_names]
            sink = io.BytesIO()
            pq.write_table(table.rename_columns(names), sink)
            self.publish(color, month, sink.getvalue(), day, good=False)

        self.at(day, publish)
        self.normal(color, month, day + 20)

    def half(self, color: Color, month: Month, day: int) -> None:
        """Publish half of its rows for five days."""
        self.expected.append(Trouble("odd volume", f"{color} {month}", day, day + 1, day + 5))
        self.at(day, lambda: self.publish(color, month, self.body(color, month, ROWS // 2), day))
        self.normal(color, month, day + 5)

    def unknown(self, color: Color, month: Month, day: int) -> None:
        """Publish it with a column that the contract does not know, for thirty days."""
        self.expected.append(Trouble("unknown column", color, day, day + 1, day + 10))

        def publish() -> None:
            table = pq.read_table(io.BytesIO(self.body(color, month, ROWS)))
            sink = io.BytesIO()
            pq.write_table(table.append_column("moon_fee", table["tip_amount"]), sink)
            self.publish(color, month, sink.getvalue(), day)

        self.at(day, publish)
        self.normal(color, month, day + 10)

    def source_down(self, begins: int, days: int) -> None:
        def fail() -> None:
            for file in self.source.files.values():
                file.faults = [Fault("status", 503)] * 100

        def answer() -> None:
            for file in self.source.files.values():
                file.faults = []

        for day in range(begins, begins + days):
            self.at(day, fail)
        self.at(begins + days, answer)
        if days > 2:
            self.expected.append(Trouble("source down", "", begins + 2, begins + 3, begins + days))

    def delete_rows(self, color: Color, month: Month, day: int) -> None:
        """Delete a month's trips behind our back; they are counted on Mondays."""

        def delete() -> None:
            with duckdb.connect(self.warehouse) as connection:
                where = f"file_month = DATE '{month.first_day}'"
                connection.execute(f"DELETE FROM ny_taxi.{color}_trip_data WHERE {where}")

        counted = day + -day % 7
        self.expected.append(Trouble("rows missing", f"{color} {month}", counted, counted + 1, counted + 1))
        self.at(day, delete)

    def damage(self, color: Color, month: Month) -> None:
        """Change bytes of a clean file, which keeps its size."""
        manifest = self.lake.manifest(Keys(color, month))
        assert manifest
        path = self.lake.local_path(manifest.clean.key)
        path.chmod(0o644)
        body = path.read_bytes()
        path.write_bytes(body[:50] + bytes([body[50] ^ 1]) + body[51:])

    def warehouse_away(self, day: int) -> None:
        """Keep the warehouse's file open in another process for three mornings."""
        hold_it = "print('open', flush=True); sys.stdin.read()"
        program = f"import duckdb, sys; c = duckdb.connect({str(self.warehouse)!r}); {hold_it}"
        held: list[subprocess.Popen[str]] = []

        def hold() -> None:
            process = subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True)
            assert process.stdout
            process.stdout.readline()
            held.append(process)

        def let_go() -> None:
            held[0].communicate()

        self.at(day, hold)
        self.at(day + 3, let_go)
        self.expected.append(Trouble("warehouse away", "duckdb", day, day + 1, day + 3))


SPECIALS = [Year.late, Year.html, Year.renamed, Year.half, Year.unknown]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Return the lines that people are told, each with its day."""
    lines: list[tuple[int, str]] = []

    def emit(_: str, __: dict[str, str], payload: dict[str, str]) -> None:
        day = (MovedClock.today - FIRST).days
        lines.extend((day, line) for line in payload["text"].splitlines())

    monkeypatch.setattr(catch_up, "emit_event", emit)
    for name in CLOCKS:
        monkeypatch.setattr(f"nyc_tlc.{name}.datetime", MovedClock)
    monkeypatch.setenv("TLC_HTTP_RETRIES", "0")
    monkeypatch.setenv("TLC_HTTP_BACKOFF", "0")
    monkeypatch.setenv("TLC_WAREHOUSE_WAIT", "0.1")
    return lines


@pytest.fixture
def server(prefect_server: PrefectServer) -> Iterator[None]:
    with temporary_settings({PREFECT_API_URL: prefect_server.url, PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"}):
        yield


def is_current(year: Year, color: Color, month: Month) -> bool:
    """Return whether lake and warehouse have the last good version, by counts of their own."""
    rows = pq.read_metadata(io.BytesIO(year.good[color, month])).num_rows
    manifest = year.lake.manifest(Keys(color, month))
    if manifest is None or manifest.source.rows != rows:
        return False
    clean = pq.read_metadata(year.lake.local_path(manifest.clean.key)).num_rows
    with duckdb.connect(year.warehouse, read_only=True) as connection:
        where = f"WHERE file_month = DATE '{month.first_day}'"
        counts = [
            connection.execute(f"SELECT count(*) FROM ny_taxi.{color}_{table} {where}").fetchall()[0][0]
            for table in ("trip_data", "quarantine")
        ]
    return counts[0] == clean and sum(counts) == rows


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.usefixtures("server")
@pytest.mark.timeout(3600)
def test_a_year_of_mornings(
    seed: int, told: list[tuple[int, str]], http_source: HttpSource, own_environment: Path, tmp_path: Path
) -> None:
    lake = FolderLake(own_environment / "lake")
    year = Year(http_source, lake, own_environment / "warehouse.duckdb", random.Random(seed), tmp_path)
    year.write()
    late: list[str] = []

    # Inside a task the steps of a month are plain calls, which makes a morning fast.
    @task(cache_policy=NO_CACHE, persist_result=False)
    def live() -> None:
        for day in range(MORNINGS):
            MovedClock.today = FIRST + timedelta(days=day)
            for action in year.actions.get(day, ()):
                action()
            last = {"last": 12 if day == 0 else 4, "older": True, "name": f"day-{day}"}
            backfill.backfill.fn(COLORS, source=http_source.template, **last)
            away = any(
                each.kind in ("source down", "warehouse away") and each.begins - 3 <= day <= each.ends
                for each in year.expected
            )
            for which, (published, within) in year.due.items():
                if day == published + within and not away and not is_current(year, *which):
                    late.append(f"{which[0]} {which[1]} of day {published} is not there on day {day}")

    MovedClock.today = FIRST
    live()
    assert late == []
    assert [which for which in year.good if not is_current(year, *which)] == []
    judge(year.expected, told)


def judge(expected: list[Trouble], told: list[tuple[int, str]]) -> None:
    """Check that each trouble was told once in time, weekly while it lasted, and at its end; and nothing else."""
    left = list(told)
    for trouble in expected:
        about = [
            (day, line) for day, line in left if trouble.about in line and trouble.begins <= day <= trouble.ends + 1
        ]
        mine = [(day, line) for day, line in about if trouble.kind in line or line.startswith("over")]
        words = Counter(line.partition(",")[0].partition(":")[0] for _, line in mine)
        weeks = max(0, trouble.ends - 1 - trouble.begins) // 7
        assert words == Counter(new=1, over=1, still=weeks), (trouble, mine)
        assert next(day for day, line in mine if line.startswith("new")) <= trouble.known_by, (trouble, mine)
        left = [each for each in left if each not in mine]
    assert left == [], "told for nothing"
