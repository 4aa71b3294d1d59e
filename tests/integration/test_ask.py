"""The door to Postgres and BigQuery, and the commands ``nyc-tlc ask`` and ``nyc-tlc mcp``."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from mcp import Client, StdioServerParameters

from conftest import ROOT
from factories import green_parquet, make_month, trip
from nyc_tlc.asking import door
from nyc_tlc.asking.describe import list_questions
from nyc_tlc.errors import ConfigurationError, TlcError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.warehouse.bigquery import BigQueryWarehouse
from nyc_tlc.warehouse.duckdb import DuckDbWarehouse
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.load import load_month
from nyc_tlc.warehouse.postgres import PostgresWarehouse
from nyc_tlc.warehouse.protocol import Warehouse
from scripts import Scripts
from stand_ins.bigquery import BigQuery
from warehouse_cases import client, trips

REFUSED = r"""
COPY (SELECT 1) TO '/tmp/out.csv'
COPY (SELECT 1) TO PROGRAM 'true'
SELECT 1; SELECT 2
SELECT 1; COMMIT; DROP TABLE ny_taxi.loads
SELECT 1) AS a; DROP TABLE ny_taxi.loads; SELECT * FROM (SELECT 1
SELECT 1; -- a comment
SELECT 1) AS a FOR UPDATE; --
SELECT $$a$$; DROP TABLE ny_taxi.loads; SELECT $$b$$
$answer$; DROP TABLE ny_taxi.loads; $answer$
-- only a comment
SELECT 1 /* never closed
WITH a AS (DELETE FROM ny_taxi.loads RETURNING *) SELECT * FROM a
WITH a AS (SELECT 1) DELETE FROM ny_taxi.loads
DELETE FROM ny_taxi.loads RETURNING *
INSERT INTO ny_taxi.loads SELECT * FROM ny_taxi.loads RETURNING *
UPDATE ny_taxi.loads SET row_count = 0 RETURNING *
SELECT 1 INTO t
SELECT * FROM ny_taxi.loads FOR UPDATE
SELECT set_config('transaction_read_only', 'off', true)
SELECT query_to_xml('DELETE FROM ny_taxi.loads RETURNING *', true, true, '')
SELECT query_to_xml('COMMIT', true, true, '')
SELECT query_to_xml('SET transaction_read_only = off', true, true, '')
SELECT pg_read_file('/etc/passwd')
SELECT pg_read_binary_file('/etc/passwd')
SELECT * FROM pg_ls_dir('/')
SELECT lo_import('/etc/passwd')
SELECT lo_export(1, '/tmp/out')
SELECT lo_create(0)
SELECT * FROM pg_read_server_files
SELECT pg_reload_conf()
SELECT rolpassword FROM pg_authid
EXPLAIN ANALYZE DELETE FROM ny_taxi.loads
EXPLAIN SELECT 1
SHOW data_directory
SET statement_timeout = 0
RESET ALL
PREPARE p AS SELECT 1
EXECUTE p
DO $$ BEGIN DELETE FROM ny_taxi.loads; END $$
CALL nothing()
LOCK TABLE ny_taxi.loads
LISTEN x
VACUUM
CREATE TEMP TABLE t (a int)
SELECT DATE '20000-01-01'
SELECT repeat('x', 2000000000)
SELECT %s
SELECT $1
""".strip().splitlines()


def load_green(warehouse: Warehouse, folder: Path) -> None:
    """Load a month of three trips, and a row without passengers."""
    lake = FolderLake(folder / "lake")
    month = make_month(lake, green_parquet(*trips(3), trip(passenger_count=0)), folder)
    load_month(LakeFile(month, lake), warehouse)


@pytest.fixture
def reader(postgres: dict[str, str], tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return libpq's parameters of the role that docs/ask.md makes, in a database with a month of green."""
    load_green(PostgresWarehouse(postgres), tmp_path)
    statements = (ROOT / "docs/ask.md").read_text(encoding="utf-8").partition("```sql\n")[2].partition("```")[0]
    role = f"reader_{postgres['dbname']}"
    statements = statements.replace("nyc_tlc_reader", role).replace(
        "ON DATABASE ny_taxi", f"ON DATABASE {postgres['dbname']}"
    )
    with closing(psycopg2.connect(**postgres)) as connection, connection.cursor() as cursor:
        cursor.execute(statements)
        connection.commit()
        yield postgres | {"user": role, "password": "…"}
        cursor.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        connection.commit()


def test_postgres_answers_selects_and_refuses_all_else(
    reader: dict[str, str], postgres: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "libpq_parameters", lambda profile: reader)

    def ask(sql: str) -> door.Answer:
        return door.ask(sql, "dev", "postgres")

    for sql in REFUSED:
        with pytest.raises(TlcError) as caught:
            ask(sql)
        assert "\n" not in str(caught.value), sql
    assert ask("SELECT row_count, quarantine_rows FROM ny_taxi.loads;").rows == [(3, 1)]
    assert ask("SELECT 1 AS a, 'b%s' AS a -- both").rows == [(1, "b%s")]
    assert ask("SELECT 1 AS one WHERE false") == door.Answer(["one"], [], is_cut=False)
    assert len(ask("SELECT generate_series(1, 1000000)").rows) == door.MOST_ROWS
    for question in list_questions("ny_taxi"):
        assert ask(question["sql"]).rows
    monkeypatch.setattr(door, "SECONDS", 1)
    for endless in (
        "SELECT pg_sleep(100)",
        "SELECT set_config('statement_timeout', '0', false), pg_sleep(100)",
    ):
        with pytest.raises(TlcError, match="took longer than 1 seconds"):
            ask(endless)


def test_a_user_who_may_read_the_servers_files_is_refused(
    postgres: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "libpq_parameters", lambda profile: postgres)
    with pytest.raises(ConfigurationError, match="role with SELECT only"):
        door.ask("SELECT 1", "dev", "postgres")


def test_bigquery_is_asked_what_a_query_is_before_it_runs(
    big_query: BigQuery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    google = client(big_query.url)
    load_green(BigQueryWarehouse(google), tmp_path)
    monkeypatch.setattr(door, "open_bigquery", lambda profile: (None, google))

    def ask(sql: str) -> door.Answer:
        return door.ask(sql, "gcp", "bigquery")

    assert ask("SELECT row_count FROM ny_taxi.loads").rows == [(3,)]
    for question in list_questions("ny_taxi"):
        assert ask(question["sql"]).rows
    ran = len(big_query.statements)
    for sql in ("DROP TABLE ny_taxi.green_loads", "SELECT 1; SELECT 2", "DELETE FROM ny_taxi.green_loads WHERE true"):
        with pytest.raises(TlcError):
            ask(sql)
    assert len(big_query.statements) == ran
    limits = [
        job.configuration["query"].get("maximumBytesBilled")
        for job in big_query.jobs.values()
        if "query" in job.configuration
    ]
    assert str(10 << 30) in limits


@pytest.fixture
def home(own_environment: Path, tmp_path: Path) -> Path:
    """Return a TLC_HOME with a month of green in its lake and in DuckDB."""
    own_environment.mkdir()
    load_green(DuckDbWarehouse(own_environment / "warehouse.duckdb"), own_environment)
    return own_environment


def test_the_command_prints_an_answer_or_one_line(home: Path, scripts: Scripts) -> None:
    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"PYTHONPATH": str(ROOT / "flows"), "TLC_HOME": str(home), "HOME": str(home)}
        return scripts.run("-m", "nyc_tlc", "ask", *arguments, environment=environment)

    query = "SELECT fare_amount, CAST(file_month AS varchar) AS month FROM ny_taxi.trips ORDER BY 1"
    assert json.loads(ask(query, "--json").stdout)[2] == {"fare_amount": 2.0, "month": "2024-01-01"}
    refused = ask("DROP TABLE ny_taxi.loads")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "error: the query can't be run; expected one SELECT; got DROP\n"


def test_an_agent_asks_over_stdio_and_a_load_succeeds_meanwhile(home: Path, tmp_path: Path) -> None:
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "nyc_tlc", "mcp"],
        env={"PYTHONPATH": str(ROOT / "flows"), "TLC_HOME": str(home), "HOME": str(tmp_path)},
    )

    async def talk() -> None:
        async with Client(server) as agent:

            async def call(tool: str, **arguments: str) -> tuple[bool, str]:
                result = await agent.call_tool(tool, arguments)
                return bool(result.is_error), result.content[0].text  # type: ignore[union-attr]

            assert {tool.name for tool in (await agent.list_tools()).tools} == {
                "months",
                "describe",
                "query",
                "questions",
            }
            _, months = await call("months")
            (month,) = json.loads(months)
            assert (month["color"], month["month"], month["rows"]) == ("green", "2024-01", 3)
            assert "ny_taxi.green_trip_data" in (await call("describe"))[1]
            questions = re.findall(r"```sql\n(.*?)```", (await call("questions"))[1], re.DOTALL)
            assert len(questions) == 5
            for question in questions:
                failed, answer = await call("query", sql=question)
                assert not failed
                assert json.loads(answer)["rows"]
            failed, why = await call("query", sql="COPY (SELECT 1) TO 'out.csv'")
            assert failed
            assert "expected one SELECT; got COPY" in why
            lake = FolderLake(tmp_path / "other")
            month = LakeFile(make_month(lake, green_parquet(*trips(5)), tmp_path), lake)
            await asyncio.to_thread(load_month, month, DuckDbWarehouse(home / "warehouse.duckdb"))
            _, answer = await call("query", sql="SELECT count(*) AS n FROM ny_taxi.trips")
            assert json.loads(answer) == {"columns": ["n"], "rows": [[5]], "is_cut": False}
            uris = {str(each.uri) for each in (await agent.list_resources()).resources}
            texts = {uri: (await agent.read_resource(uri)).contents[0].text for uri in uris}  # type: ignore[union-attr]
            assert texts["nyc-tlc://data-dictionary"] == (ROOT / "docs/data-dictionary.md").read_text(encoding="utf-8")
            assert texts["nyc-tlc://questions"].count("```sql") == 5

    asyncio.run(asyncio.wait_for(talk(), 180))
