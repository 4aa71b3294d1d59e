"""Users register a profile from a file and run flows with it; all services are stand-ins on sockets."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess

import psycopg2
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from conftest import ROOT, Profile
from factories import without_version
from stand_ins.gcs import Fault
from stand_ins.google_tokens import GoogleCloud

JANUARY = ("--color", "green", "--year", "2024", "--month", "1")
FILE = "clean/green/year=2024/month=01/green_tripdata_2024-01.parquet"
Runs = dict[str, CompletedProcess[str]]


@pytest.fixture(scope="module")
def runs(gcp: Profile, dev: Profile) -> Runs:
    """Run commands with both profiles at the same time; those of one profile one after the other."""

    def run_all(runs: dict[str, Callable[[], CompletedProcess[str]]]) -> Runs:
        return {name: run() for name, run in runs.items()}

    with ThreadPoolExecutor() as side_by_side:
        with_gcp, with_dev = side_by_side.map(
            run_all,
            (
                {
                    "register gcp": gcp.register,
                    "into the bucket": lambda: gcp.run("etl_web_to_gcs", *JANUARY, "--source", "sample"),
                    "from the bucket": lambda: gcp.run("etl_gcs_to_bq", *JANUARY),
                },
                {
                    "register dev": dev.register,
                    "into Postgres": lambda: dev.run("etl_month", *JANUARY, "--source", "sample"),
                    "check dev": lambda: dev.run("check_connections", "--source", "sample"),
                    "nobody": lambda: dev.server.run("flows/load_lookups.py", "--offline", "--profile", "nobody"),
                },
            ),
        )
        both = side_by_side.map(
            lambda arguments: gcp.run(*arguments),
            (
                ("load_lookups", "--offline"),
                ("check_connections", "--source", "sample"),
            ),
        )
        return with_gcp | with_dev | dict(zip(("lookups", "check gcp"), both, strict=True))


def done(run: CompletedProcess[str]) -> str:
    """Check that a run succeeded. Return its output."""
    assert run.returncode == 0, run.stderr
    assert not [line for line in run.stderr.splitlines() if "Warning" in line], "a warning nobody can act on"
    return run.stdout


def test_registering_makes_the_blocks_a_profile_has(runs: Runs) -> None:
    assert done(runs["register gcp"]).split() == [
        *("created", "gcp-credentials/taxi-gcp", "created", "gcs-bucket/taxi-gcp"),
        *("created", "bigquery-warehouse/taxi-gcp"),
    ]
    assert done(runs["register dev"]).split() == [
        *("created", "local-file-system/taxi-dev", "created", "sqlalchemy-connector/taxi-dev")
    ]


def test_a_month_goes_into_the_folder_of_the_bucket_as_the_account_of_the_block(
    runs: Runs, google: GoogleCloud
) -> None:
    output = done(runs["into the bucket"])
    assert output.startswith("green 2024-01: 2,000 rows in, ")
    assert f"gs://taxi-lake/tlc/{FILE}" in without_version(output)
    green = {without_version(name) for name in google.gcs.names("taxi-lake") if "green" in name}
    assert green == {
        f"tlc/{FILE}",
        f"tlc/quarantine/{FILE.removeprefix('clean/')}",
        "tlc/raw/green/green_tripdata_2024-01.parquet",
        "tlc/manifest/green/2024-01.json",
    }
    assert google.tokens.assertions
    assert set(google.tokens.turned_away) <= {"iamcredentials.googleapis.com:443"}, "nothing else leaves this machine"


def test_bigquery_loads_a_month_straight_from_the_bucket(runs: Runs, google: GoogleCloud) -> None:
    rows = re.findall(r"([\d,]+) clean", done(runs["into the bucket"]))[0]
    assert done(runs["from the bucket"]).startswith(f"green 2024-01: {rows} rows loaded into bigquery://taxis/ny_taxi")
    loads = [job.configuration["load"] for job in google.bigquery.jobs.values() if "load" in job.configuration]
    months = [load for load in loads if load["destinationTable"]["tableId"] == "green_trip_data$202401"]
    assert [list(map(without_version, load["sourceUris"])) for load in months] == [[f"gs://taxi-lake/tlc/{FILE}"]]
    uploads = [call.body for call in google.bigquery.calls if call.path.startswith("/upload/")]
    assert not [body for body in uploads if b"trip_data$" in body], "only lookup tables and rows of loads are uploaded"


def test_bigquery_has_a_month_with_its_zones_views_and_record(runs: Runs, google: GoogleCloud) -> None:
    assert done(runs["lookups"]) == "zones and code tables are in bigquery://taxis/ny_taxi\n"
    assert {"green_trip_data", "zones", "trips", "loads"} <= {table for _, table in google.bigquery.tables}


def test_a_month_goes_all_the_way_from_the_source_into_a_folder_and_postgres(runs: Runs, dev: Profile) -> None:
    output = done(runs["into Postgres"])
    lake, database = Path(dev.variables["LAKE_FOLDER"]), dev.variables["POSTGRES_DB"]
    assert [without_version(path.name) for path in (lake / FILE).parent.iterdir()] == [Path(FILE).name]
    (rows,) = re.findall(r"2024-01: ([\d,]+) rows loaded into postgresql://", output)
    with psycopg2.connect(
        host=dev.variables["POSTGRES_HOST"],
        port=dev.variables["POSTGRES_PORT"],
        dbname=database,
        user=dev.variables["POSTGRES_USER"],
        password=dev.variables["POSTGRES_PASSWORD"],
    ) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT count(*) FROM ny_taxi.green_trip_data")
        assert f"{cursor.fetchone()[0]:,}" == rows
    connection.close()


def test_check_connections_lists_what_a_profile_has(runs: Runs) -> None:
    lake, bigquery, source, disk = done(runs["check gcp"]).splitlines()
    assert lake == "ok    lake      gs://taxi-lake/tlc: wrote, read back, deleted"
    assert bigquery.startswith("ok    bigquery  bigquery://taxis/ny_taxi: answers, and tables can be made; ")
    assert source.startswith("ok    source    sample: yellow ")
    assert disk.startswith("ok    disk      ")
    lake, postgres, *_ = done(runs["check dev"]).splitlines()
    assert lake.startswith("ok    lake      /")
    assert postgres.startswith("ok    postgres  postgresql://")


@pytest.mark.usefixtures("runs")
def test_runs_without_a_month_are_named_by_what_they_do_and_the_profile(dev: Profile) -> None:
    with temporary_settings({PREFECT_API_URL: dev.server.url}), get_client(sync_client=True) as client:
        names = {run.name for run in client.read_flow_runs(limit=200)}
    assert {"check-connections-dev", "check-connections-gcp", "load-lookups-gcp", "load-lookups-nobody"} <= names


@pytest.mark.usefixtures("runs")
def test_a_notebook_reads_a_bucket_by_the_profile_of_its_blocks(gcp: Profile, tmp_path: Path) -> None:
    script = (
        "from nyc_tlc import months, trips\n"
        "found = trips('green', '2024-01', columns=['source_row'], where='trip_distance > 2', profile='gcp')\n"
        "every = trips('green', '2024-01', profile='gcp', as_='polars')\n"
        "assert found['source_row'].tolist() == every.filter(every['trip_distance'] > 2)['source_row'].to_list()\n"
        "known = months('green', profile='gcp')\n"
        "assert known['bigquery'].notna().tolist() == [True], known\n"
        "print(len(found), len(every), *known['lake'])\n"
    )
    (tmp_path / "cell.py").write_text(script)
    done = gcp.server.run(str(tmp_path / "cell.py"), **gcp.environment, PYTHONPATH=str(ROOT / "flows"))
    assert done.returncode == 0, done.stderr
    found, every, place = done.stdout.split()
    assert 0 < int(found) < int(every)
    assert place.startswith("gs://taxi-lake/tlc/clean/green/year=2024/month=01/")


@pytest.mark.usefixtures("runs")
def test_check_connections_says_the_one_thing_to_do_about_each_part_that_fails(
    gcp: Profile, google: GoogleCloud
) -> None:
    google.gcs.faults = [Fault("status", "POST", "uploadType", 403)]
    google.bigquery.datasets["ny_taxi"]["location"] = "europe-west1"
    failed = gcp.run("check_connections", "--source", "sample")
    google.bigquery.datasets["ny_taxi"]["location"] = "US"
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1] == "error: the profile gcp can't be used: see the lines with FAIL"
    lake, to_lake, bigquery, to_bigquery, *_ = failed.stdout.splitlines()
    assert re.match(r"FAIL  lake      .* a permission is missing in gs://taxi-lake/tlc; got HTTP 403", lake)
    assert to_lake.strip() == "grant the service account the role roles/storage.objectUser on the bucket"
    assert bigquery == (
        "FAIL  bigquery  bigquery://taxis/ny_taxi and the lake's bucket are in different places; "
        "expected a dataset in US; got europe-west1"
    )
    assert to_bigquery.strip().startswith("make the bucket in europe-west1, or drop the dataset")


def test_a_name_that_leads_to_another_profile_s_blocks_is_refused(dev: Profile) -> None:
    refused = dev.server.run("flows/load_lookups.py", "--offline", "--profile", "x/../taxi-dev")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "error: not a valid profile name: 'x/../taxi-dev'; expected" in refused.stderr


def test_a_profile_nobody_registered_is_named_with_the_command_that_makes_it(runs: Runs) -> None:
    assert (runs["nobody"].returncode, runs["nobody"].stdout) == (1, "")
    assert runs["nobody"].stderr == (
        "error: the profile nobody has no block gcs-bucket/taxi-nobody or s3-bucket/taxi-nobody or"
        " azure-blob-storage-container/taxi-nobody or local-file-system/taxi-nobody; "
        "register it: .venv/bin/python blocks/register.py nobody\n"
    )
