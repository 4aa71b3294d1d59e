"""Tiny files that unpack to huge data, and the memory that reading them needs.

``python -m torture.bombs NAME FOLDER`` makes the bomb, reads it in its own process, and prints the highest memory use
in MiB, and the outcome.
"""

from __future__ import annotations

import gzip
import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from factories import GREEN_2024, JANUARY, green_parquet, trip
from nyc_tlc.cleaning.read import MonthReader
from nyc_tlc.cleaning.rules import RuleCheck
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import TlcError
from nyc_tlc.source.fetch import FetchedFile
from nyc_tlc.source.file_format import identify
from nyc_tlc.source.location import RemoteFile

HEADER = ",".join(GREEN_2024).encode()
LINE = b"2,2024-01-15 12:00:00,2024-01-15 12:10:00,N,1,74,75,1,1.5,10,1,0.5,2,0,,1,14.5,1,1,0"
MIB = 1 << 20


def packed(*pieces: bytes | tuple[bytes, int]) -> bytes:
    """Return pieces, some of them repeated, as one gzip file."""
    sink = io.BytesIO()
    with gzip.open(sink, "wb", compresslevel=6) as file:
        for piece in pieces:
            data, times = piece if isinstance(piece, tuple) else (piece, 1)
            for _ in range(times):
                file.write(data)
    return sink.getvalue()


def parquet(column: str, values: pa.Array, **options: Any) -> bytes:
    """Return a Parquet file that repeats one trip, with other values in one column."""
    rows = len(values)
    columns = {
        name: pa.repeat(pa.scalar(trip()[name], field), rows) if name != column else values
        for name, field in GREEN_2024.items()
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd", store_schema=False, **options)
    return sink.getvalue()


def repeated(text: str, rows: int) -> pa.Array:
    """Return an array with one text in every row, in little memory."""
    return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), rows), [text])


BOMBS: dict[str, Callable[[], bytes]] = {
    "a million commas in the header": lambda: packed(HEADER, b"," * 1_000_000, b"\n", LINE, b"\n"),
    "a million commas in the first row": lambda: packed(HEADER, b"\n", b"," * 1_000_000, b"\n"),
    "a million commas in a later row": lambda: packed(HEADER, b"\n", (LINE + b"\n", 50), b"," * 1_000_000, b"\n"),
    "sixty thousand commas in every row": lambda: packed(HEADER, b"\n", (b"," * 60_000 + b"\n", 60)),
    "an endless header": lambda: packed(HEADER, (b"x" * MIB, 1_000)),
    "an endless line": lambda: packed(HEADER, b"\n", (b"x" * MIB, 1_000)),
    "an endless quoted field": lambda: packed(HEADER, b"\n", b'"', (b"x\n" * MIB, 50)),
    "nothing but blank lines": lambda: packed(HEADER, b"\n", (b"\r\n" * MIB, 500)),
    "a row and five hundred million line ends": lambda: packed(HEADER, b"\n", LINE, (b"\n" * MIB, 500)),
    "eight million junk lines": lambda: packed(HEADER, b"\n", (b"x\n" * MIB, 8)),
    "two million junk lines, not packed": lambda: HEADER + b"\n" + b"x\n" * 2_000_000,
    "quotes alone, not packed": lambda: HEADER + b"\n" + (b'"' * 1_000 + b"\n") * 5_000,
    "lines of NULs": lambda: packed(HEADER, b"\n", (b"\0" * 60_000 + b"\n", 5_000)),
    "the same row ten million times": lambda: packed(HEADER, b"\n", ((LINE + b"\n") * 10_000, 1_000)),
    "fifty gzip members": lambda: packed(HEADER, b"\n") + packed((b"x" * 60_000 + b"\n", 100)) * 50,
    "long flags by dictionary": lambda: parquet("store_and_fwd_flag", repeated("x" * 20_000, 400_000)),
    "long times by dictionary": lambda: parquet("lpep_pickup_datetime", repeated("x" * 20_000, 400_000)),
    "long numbers by dictionary": lambda: parquet("fare_amount", repeated("1" * 20_000, 400_000)),
    "long flags as differences": lambda: parquet(
        "store_and_fwd_flag",
        pa.array("x" * 20_000 + str(number) for number in range(12_000)),
        use_dictionary=False,
        column_encoding={"store_and_fwd_flag": "DELTA_BYTE_ARRAY"},
    ),
    "long flags, plain": lambda: parquet("store_and_fwd_flag", pa.array(["x" * 20_000] * 8_000), use_dictionary=False),
    "five million rows of one value": lambda: parquet("fare_amount", pa.repeat(10.0, 5_000_000)),
    "a Parquet file of thousands of columns": lambda: green_parquet(
        trip(), types={f"extra_{number}": pa.float64() for number in range(20_000)}
    ),
}


def make(name: str, path: Path) -> None:
    """Write a bomb."""
    path.write_bytes(BOMBS[name]())


def run(name: str, folder: Path) -> tuple[str, int]:
    """Read a bomb in a separate process. Return the outcome, and its highest memory use in MiB."""
    done = subprocess.run(
        [sys.executable, "-m", "torture.bombs", name, str(folder)],
        cwd=Path(__file__).parents[1],
        env={"PYTHONPATH": f"{Path(__file__).parents[2] / 'flows'}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    peak, _, outcome = done.stdout.strip().partition(" ")
    return outcome, int(peak)


def main() -> None:
    """Run the command that the module describes."""
    path = Path(sys.argv[2]) / "bomb"
    if not path.exists():
        # In a process of its own: making it can take more memory than reading it.
        command = "import sys, pathlib; from torture import bombs; bombs.make(sys.argv[1], pathlib.Path(sys.argv[2]))"
        subprocess.run([sys.executable, "-c", command, sys.argv[1], str(path)], check=True)
    size = path.stat().st_size
    remote = RemoteFile("green", JANUARY, path.as_uri(), bytes=size)
    contract = read_contract("green")
    rule_check, rows = RuleCheck(contract, JANUARY), 0
    try:
        file_format = identify(path, remote.name)
        for batch in MonthReader(FetchedFile(remote, path, file_format, size, "", 0), contract):
            rule_check(batch)
            rows += len(batch.frame)
        outcome = f"{rows} rows"
    except TlcError as error:
        outcome = f"{type(error).__name__}: {error}"
    # What getrusage says begins with the peak of the process that started this one.
    peak = int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) >> 10
    sys.stdout.write(f"{peak} {outcome}\n")


if __name__ == "__main__":
    main()
