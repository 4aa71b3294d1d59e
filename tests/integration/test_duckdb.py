"""DuckDB as a warehouse: behaviour that the other warehouses do not have."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest

from factories import JANUARY
from nyc_tlc.errors import BusyError, ConfigurationError, TlcError, TransientError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.runs import tasks
from nyc_tlc.warehouse.duckdb import DuckDbWarehouse
from nyc_tlc.warehouse.load import load_month
from waiting import eventually
from warehouse_cases import fares, half_way, in_lake, trips


@pytest.fixture
def path(tmp_path: Path, prepared_duckdb: Path) -> Path:
    """Return a warehouse's file, in which is what a load prepares."""
    return Path(shutil.copy(prepared_duckdb, tmp_path))


def test_a_file_that_another_process_holds_is_waited_for(
    path: Path, lake: FolderLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = in_lake(lake, tmp_path, *trips(3))
    hold = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setenv("TLC_WAREHOUSE_WAIT", "0")
        with pytest.raises(TransientError, match=f"locked by process {holder.pid}"):
            load_month(file, DuckDbWarehouse(path))
        monkeypatch.setenv("TLC_WAREHOUSE_WAIT", "60")
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(load_month, file, DuckDbWarehouse(path))
            eventually(lambda: loading.done() or "waiting for" in caplog.text)
            holder.stdin.close()
            assert loading.result(60)[1]


HOLD = """
import duckdb, sys
held = duckdb.connect(sys.argv[1], read_only=True)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_notebook_that_reads_keeps_no_reader_waiting(
    path: Path, lake: FolderLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, _ = load_month(in_lake(lake, tmp_path, *trips(3)), DuckDbWarehouse(path))
    monkeypatch.setenv("TLC_WAREHOUSE_WAIT", "0")
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        assert DuckDbWarehouse(path).loads() == {("green", JANUARY): load}
        assert fares(DuckDbWarehouse(path)) == [0, 1, 2]
        holder.stdin.close()


def test_a_read_only_file_system_can_be_read(path: Path, tmp_path: Path, lake: FolderLake) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    path.rename(folder / "warehouse.duckdb")
    load, _ = load_month(in_lake(lake, tmp_path, *trips(3)), DuckDbWarehouse(folder / "warehouse.duckdb"))
    if subprocess.run(["mount", "-o", "bind,ro", folder, folder], check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        warehouse = DuckDbWarehouse(folder / "warehouse.duckdb")
        assert (warehouse.loads(), fares(warehouse)) == ({("green", JANUARY): load}, [0, 1, 2])
        with pytest.raises(ConfigurationError, match=r"cannot open .*ead-only"):
            load_month(in_lake(lake, tmp_path, *trips(4)), warehouse)
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_reader_joins_a_writer_of_its_own_process(path: Path, lake: FolderLake, tmp_path: Path) -> None:
    load_month(in_lake(lake, tmp_path, *trips(3)), DuckDbWarehouse(path))
    with half_way(in_lake(lake, tmp_path, *trips(40)), DuckDbWarehouse(path), None):
        assert fares(DuckDbWarehouse(path)) == [0, 1, 2]
    assert len(fares(DuckDbWarehouse(path))) == 40


def test_another_connection_of_the_process_is_named_with_what_to_do(
    path: Path, lake: FolderLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = in_lake(lake, tmp_path, *trips(3))
    monkeypatch.setenv("TLC_WAREHOUSE_WAIT", "0")
    for how in ({"read_only": True}, {"config": {"threads": "1"}}):
        with duckdb.connect(path, **how), pytest.raises(TransientError, match=r"this process.*restart the kernel"):
            load_month(file, DuckDbWarehouse(path))
    # A connection like the warehouse's own does not matter.
    with duckdb.connect(path):
        assert load_month(file, DuckDbWarehouse(path))[1]


KEEPS_AN_ERROR = """
import sys, threading
from pathlib import Path
from nyc_tlc.errors import TlcError
from nyc_tlc.warehouse.duckdb import DuckDbWarehouse
from nyc_tlc.warehouse.tables import LOADS

def fail():
    try:
        DuckDbWarehouse(Path(sys.argv[1])).prepare([LOADS], [], [])
    except TlcError as error:
        kept = error
        failed.set()
        threading.Event().wait()

failed = threading.Event()
threading.Thread(target=fail, daemon=True).start()
failed.wait()
"""


def test_a_failed_load_ends_without_a_word_about_leaks(tmp_path: Path) -> None:
    path = tmp_path / "warehouse.duckdb"
    with duckdb.connect(path) as connection:
        connection.execute("CREATE SCHEMA ny_taxi; CREATE TABLE ny_taxi.loads (mine INTEGER)")
    program = tmp_path / "program.py"
    program.write_text(KEEPS_AN_ERROR)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "flows")}
    ended = subprocess.run([sys.executable, program, path], env=environment, capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("", "")


def test_tables_and_columns_say_what_they_hold(path: Path) -> None:
    warehouse = DuckDbWarehouse(path)
    sql = "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'green_trip_data'"
    comments = dict(warehouse.query(sql))
    every = "SELECT table_name, column_name FROM duckdb_columns() WHERE schema_name = 'ny_taxi' AND comment IS NULL"
    assert warehouse.query(every) == []
    assert comments["trip_distance"] == "Distance the taximeter reported (miles)"
    assert comments["source_row"] == "The row's ordinal in the source file, from 0"


@pytest.mark.parametrize(("error", "attempts"), [(BusyError("locked"), 1), (TransientError("cut"), 3)])
def test_a_load_that_waited_as_long_as_it_may_is_not_tried_again_at_once(
    error: TlcError, attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "LOAD_PAUSES", (0, 0))
    tried: list[int] = []

    def attempt() -> None:
        tried.append(1)
        raise error

    with pytest.raises(type(error)):
        tasks.repeat_load("green 2024-01", attempt)
    assert len(tried) == attempts
