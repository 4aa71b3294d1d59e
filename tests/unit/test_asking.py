"""The door to the warehouse: what it answers, and what it refuses. DuckDB; Postgres and BigQuery are in integration."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from factories import green_parquet, make_month, trip
from nyc_tlc.asking import door
from nyc_tlc.asking.describe import describe_tables, list_questions
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import ArgumentError, BusyError, ConfigurationError, TlcError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.warehouse.duckdb import DuckDbWarehouse
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.load import load_month
from warehouse_cases import trips

SECRET = "s3cr3t-in-a-file"
REFUSED = r"""
COPY (SELECT 1) TO '{there}/out.csv'
COPY ny_taxi.loads TO '{there}/out.parquet' (FORMAT parquet)
COPY ny_taxi.loads FROM '{there}/secret.csv'
COPY (SELECT 1) TO '/dev/stdout'
EXPORT DATABASE '{there}/out'
IMPORT DATABASE '{there}/out'
SELECT * FROM read_csv('{there}/secret.csv')
SELECT * FROM READ_CSV_AUTO('{there}/secret.csv')
SELECT * FROM "read_csv"('{there}/secret.csv')
SELECT * FROM read_csv/* a comment */('{there}/secret.csv')
SELECT * FROM main.read_csv('{there}/secret.csv')
SELECT * FROM system.main.read_text('{there}/secret.csv')
SELECT * FROM read_text('{there}/secret.csv')
SELECT * FROM read_blob('{there}/secret.csv')
SELECT * FROM read_json('{there}/secret.csv')
SELECT * FROM read_parquet('{there}/x.parquet')
SELECT * FROM parquet_metadata('{there}/x.parquet')
SELECT * FROM parquet_scan('https://example.com/x.parquet')
SELECT * FROM read_csv('/etc/passwd')
SELECT (SELECT content FROM read_text('/etc/passwd'))
SELECT 1 WHERE EXISTS (SELECT * FROM read_text('/etc/passwd'))
WITH a AS (SELECT * FROM read_text('/etc/passwd')) SELECT * FROM a
WITH RECURSIVE a AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM a, glob('/*')) SELECT * FROM a
SELECT * FROM range(3), LATERAL (SELECT * FROM read_text('/etc/passwd'))
SELECT 1 UNION ALL SELECT size FROM read_text('/etc/passwd')
SELECT 1 ORDER BY (SELECT count(*) FROM read_text('/etc/passwd'))
SELECT * FROM glob('/etc/*')
SELECT * FROM sniff_csv('/etc/passwd')
SELECT * FROM '/etc/passwd'
SELECT * FROM "/etc/passwd"
FROM '{there}/secret.csv'
FROM 'x.parquet'
SELECT * FROM 'https://example.com/x.csv'
FROM 's3://bucket/x.parquet'
DESCRIBE SELECT * FROM read_csv('{there}/secret.csv')
SUMMARIZE '{there}/secret.csv'
SELECT getenv('HOME')
SELECT 'HOME'.getenv()
SELECT current_setting('temp_directory')
SELECT list_transform(['threads'], x -> current_setting(x))
SELECT getvariable('x')
SELECT * FROM duckdb_settings()
SELECT * FROM duckdb_secrets()
SELECT * FROM which_secret('s3://x', 's3')
SELECT * FROM duckdb_logs()
SELECT * FROM duckdb_functions()
SELECT * FROM pragma_database_list()
SELECT * FROM query('SELECT * FROM duckdb_settings()')
SELECT * FROM query_table('ny_taxi.loads')
SELECT * FROM checkpoint()
SELECT * FROM force_checkpoint()
SELECT * FROM truncate_duckdb_logs()
SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))
SELECT json_serialize_plan('SELECT * FROM duckdb_settings()')
SELECT write_log('written')
SELECT * FROM secret_of_the_caller
SELECT 1; SELECT 2
SELECT 1; DROP TABLE ny_taxi.loads
SELECT 1 /* */; /* */ DELETE FROM ny_taxi.loads -- SELECT
DROP TABLE ny_taxi.loads -- SELECT 1
/* SELECT 1 */ DROP SCHEMA ny_taxi CASCADE
-- only a comment
/* only a comment */
;
;;
SELECT
SELECT 1 /* never closed
SELECT 'never closed
SELECT $$never closed
$$SELECT 1$$
SELECT $$a$$; DROP TABLE ny_taxi.loads; SELECT $$b$$
WITH a AS (DELETE FROM ny_taxi.loads RETURNING *) SELECT * FROM a
WITH a AS (INSERT INTO ny_taxi.loads SELECT * FROM ny_taxi.loads RETURNING *) SELECT * FROM a
WITH a AS (SELECT 1) DELETE FROM ny_taxi.loads
INSERT INTO ny_taxi.zones SELECT * FROM ny_taxi.zones
UPDATE ny_taxi.loads SET row_count = 0
DELETE FROM ny_taxi.green_trip_data
MERGE INTO ny_taxi.loads USING (SELECT 1) ON false WHEN NOT MATCHED THEN INSERT DEFAULT VALUES
TRUNCATE ny_taxi.loads
CREATE TABLE t (a INT)
CREATE TEMP TABLE t AS SELECT 1
CREATE OR REPLACE TEMP MACRO sum(x) AS 1
CREATE VIEW v AS SELECT 1
CREATE SECRET s (TYPE s3)
SELECT 1 INTO t
ALTER TABLE ny_taxi.loads ADD COLUMN x INT
COMMENT ON TABLE ny_taxi.loads IS 'x'
ATTACH '{there}/other.duckdb'
ATTACH ':memory:' AS other
DETACH warehouse
USE memory
INSTALL httpfs
LOAD httpfs
LOAD '{there}/evil.duckdb_extension'
SET enable_external_access = true
SET lock_configuration = false
SET VARIABLE x = 1
RESET memory_limit
PRAGMA database_list
PRAGMA enable_external_access
CALL pragma_version()
CALL duckdb_settings()
CHECKPOINT
VACUUM
ANALYZE
BEGIN
COMMIT
ROLLBACK
EXPLAIN SELECT 1
EXPLAIN ANALYZE DELETE FROM ny_taxi.loads
EXPLAIN ANALYZE SELECT 1
PREPARE p AS SELECT 1
EXECUTE p
PREPARE p AS DELETE FROM ny_taxi.loads; EXECUTE p
DEALLOCATE p
SELECT ?
SELECT $1
SELECT nextval('a')
SELECT setseed(0.5)
PIVOT ny_taxi.loads ON color USING count(*)
KILL 1
""".strip().splitlines()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a TLC_HOME whose warehouse has a month of green: three trips, and a row without passengers."""
    folder = tmp_path_factory.mktemp("asking")
    lake = FolderLake(folder / "lake")
    month = make_month(lake, green_parquet(*trips(3), trip(passenger_count=0)), folder)
    load_month(LakeFile(month, lake), DuckDbWarehouse(folder / "warehouse.duckdb"))
    (folder / "secret.csv").write_text(f"secret\n{SECRET}\n")
    return folder


@pytest.fixture(autouse=True)
def at_home(home: Path, own_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLC_HOME", str(home))


def ask(sql: str) -> door.Answer:
    return door.ask(sql, "local", "duckdb")


def look(folder: Path) -> dict[str, str]:
    """Return the files of a folder and their digests."""
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_what_is_no_select_over_the_tables_is_refused_and_leaves_no_trace(home: Path, tmp_path: Path) -> None:
    secret_of_the_caller = read_contract("green").clean_schema.empty_table()  # noqa: F841  DuckDB would find it by name
    assert len(REFUSED) == len(set(REFUSED)) >= 60
    before = look(home), look(tmp_path)
    answered = []
    for sql in REFUSED:
        try:
            answered.append((sql, ask(sql.replace("{there}", str(home)))))
        except TlcError as error:
            assert "\n" not in str(error), sql
            assert SECRET not in str(error), sql
    assert answered == []
    assert (look(home), look(tmp_path)) == before


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE a AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM a) SELECT max(n) FROM a",
        "WITH RECURSIVE a AS (SELECT 1 AS n UNION ALL SELECT 1 FROM a) SELECT count(*) FROM a",
        "SELECT count(*) FROM range(1000000000) a, range(1000000000) b WHERE a.range + b.range = -1",
        "SELECT pg_sleep(1000)",
        "SELECT repeat('x', 4000000000)",
        "SELECT length(repeat('x', 3000000000))",
        "SELECT range(3000000000)",
        "SELECT len(list_transform(range(3000000000), x -> x + 1))",
        "SELECT array_agg(range) FROM range(10000000000)",
        "SELECT string_agg(repeat('x', 100000), '') FROM range(1000000)",
        "SELECT range, repeat('x', 10000) FROM range(1000000000) ORDER BY 2 DESC, 1 DESC",
        "SELECT " + "(" * 5_000 + "1" + ")" * 5_000,
        "SELECT " + "+" * 10_000 + "1",
        "SELECT [" * 3_000,
        "SELECT 1" + " " * 20_000,
        "SELECT '\0'",
        "SELECT '\udc80'",
    ],
    ids=lambda sql: sql[:60].encode("ascii", "replace").decode(),
)
def test_a_query_without_end_or_measure_ends_as_one_line(sql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "SECONDS", 0.2)
    monkeypatch.setattr(door, "MEMORY", 200_000_000)
    monkeypatch.setitem(door.CONFIGURATION, "memory_limit", "200MB")
    began = time.monotonic()
    with pytest.raises(TlcError) as caught:
        ask(sql)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT * FROM range(100000000000)", 1_000),
        ("SELECT repeat('x', 10000) FROM range(100000)", 100),
        ("SELECT * FROM range(1000) a, range(1000) b", 1_000),
        ("WITH RECURSIVE a AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM a) SELECT n FROM a", 1_000),
        ("SELECT repeat('x', 2000000)", 0),
    ],
)
def test_a_large_answer_is_cut(sql: str, rows: int) -> None:
    answer = ask(sql)
    assert answer.is_cut
    assert len(answer.rows) == rows


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT count(*) FROM ny_taxi.green_trip_data", [(3,)]),
        ("select fare_amount from ny_taxi.trips order by 1 -- the smallest first", [(0.0,), (1.0,), (2.0,)]),
        ("SELECT rejection_rule FROM ny_taxi.green_quarantine;", [("zero_passengers",)]),
        ("/* a comment; */ SELECT ';' AS \"DROP TABLE\";  ", [(";",)]),
        ("SELECT $$COPY x TO 'y'; read_csv('z')$$", [("COPY x TO 'y'; read_csv('z')",)]),
        ("WITH a AS (SELECT 1 AS n), b AS (SELECT n + 1 AS n FROM a) SELECT * FROM b", [(2,)]),
        ("WITH RECURSIVE a AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM a WHERE n < 9) SELECT sum(n) FROM a", [(45,)]),
        ("SELECT sum(fare_amount) OVER (ORDER BY fare_amount) FROM ny_taxi.trips ORDER BY 1", [(0.0,), (1.0,), (3.0,)]),
        ("FROM range(2)", [(0,), (1,)]),
        ("VALUES (1), (2)", [(1,), (2,)]),
        ("SELECT unnest([1, 2])", [(1,), (2,)]),
        ("SELECT 1 WHERE false", []),
        ("SELECT 'getenv', 'read_csv(''x'')'", [("getenv", "read_csv('x')")]),
    ],
)
def test_one_select_is_answered(sql: str, rows: list[tuple[object, ...]]) -> None:
    assert ask(sql) == door.Answer(ask(sql).columns, rows, is_cut=False)


def test_each_of_the_five_questions_to_try_has_an_answer() -> None:
    questions = list_questions("ny_taxi")
    assert len(questions) == 5
    for question in questions:
        assert question["question"].endswith("?")
        assert ask(question["sql"]).rows


def test_every_column_of_the_warehouse_is_described() -> None:
    described = describe_tables("ny_taxi")
    sections = {part.partition("\n")[0]: part for part in described.removeprefix("## ").split("\n\n## ")}
    found = ask("SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'ny_taxi'").rows
    assert len(found) > 200
    for table, column in found:
        section = sections[f"ny_taxi.{table}"]
        base = re.search(r"\* all columns of (\w+)", section)
        section += sections[f"ny_taxi.{base[1]}"] if base else ""
        assert re.search(rf"^\* (.*, )?{column}\b", section, re.M), (table, column)


def test_a_load_and_a_query_take_turns(home: Path, tmp_path: Path) -> None:
    warehouse, lake = DuckDbWarehouse(home / "warehouse.duckdb"), FolderLake(tmp_path / "lake")
    month = LakeFile(make_month(lake, green_parquet(*trips(5)), tmp_path), lake)
    before = LakeFile(FolderLake(home / "lake").read_all_manifests(["green"])[0], FolderLake(home / "lake"))
    count = "SELECT count(*) FROM ny_taxi.green_trip_data"
    assert ask(count).rows == [(3,)]
    assert load_month(month, warehouse)[1]
    assert ask(count).rows == [(5,)]
    assert load_month(before, warehouse)[1]
    assert ask(count).rows == [(3,)]


def test_a_file_that_another_process_writes_to_is_busy(home: Path) -> None:
    hold = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(home / "warehouse.duckdb")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match="ask again"):
            ask("SELECT 1")
        holder.stdin.close()
        holder.wait(30)
    assert ask("SELECT 1").rows == [(1,)]


def test_without_a_warehouse_the_error_says_what_makes_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TLC_HOME", str(tmp_path / "new"))
    with pytest.raises(ConfigurationError, match="load a month into it"):
        ask("SELECT 1")


def test_a_wrong_name_is_named() -> None:
    with pytest.raises(ArgumentError, match="Table with name nothing does not exist"):
        ask("SELECT * FROM ny_taxi.nothing")
