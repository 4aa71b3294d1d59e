"""DuckDB as a warehouse: behaviour that the other warehouses do not have."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest

from nyc_tlc.errors import TransientError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.warehouse.duckdb import DuckDbWarehouse
from nyc_tlc.warehouse.load import load_month
from waiting import eventually
from warehouse_cases import OLD_LEDGER, OLD_LOAD, check_renamed, in_lake, trips


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of the warehouse's file."""
    return tmp_path / "warehouse.duckdb"


def test_a_ledger_with_the_old_column_rows_is_renamed_and_loses_nothing(
    path: Path, lake: FolderLake, tmp_path: Path
) -> None:
    with duckdb.connect(path) as connection:
        connection.execute("CREATE SCHEMA ny_taxi")
        connection.execute(OLD_LEDGER.format(text="VARCHAR", instant="TIMESTAMP"))
        connection.execute(OLD_LOAD.format(now="2024-01-05 06:07:08"))
    check_renamed(DuckDbWarehouse(path), in_lake(lake, tmp_path, *trips(3)))


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


def test_tables_and_columns_say_what_they_hold(path: Path, lake: FolderLake, tmp_path: Path) -> None:
    warehouse = DuckDbWarehouse(path)
    load_month(in_lake(lake, tmp_path, *trips(1)), warehouse)
    sql = "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'green_trip_data'"
    comments = dict(warehouse.query(sql))
    assert comments["trip_distance"] == "Distance the taximeter reported (miles)"
    assert comments["source_row"] == "The row's ordinal in the source file, from 0"
