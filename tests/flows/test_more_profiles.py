"""Profiles with a lake on S3 or Azure, with a broker, and asked a question: registered, flows run with them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from conftest import ROOT, PrefectServer, Profile
from factories import green_parquet, make_month, trip
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.profiles.opening import open_lake
from nyc_tlc.profiles.registering import read_blocks, register
from stand_ins.azure import ACCOUNT, KEY, Azure
from stand_ins.kafka import broker, reading
from stand_ins.s3 import S3

SECRET = "planted-5ecretAccessKey"


@pytest.fixture(params=["aws", "azure"])
def store(request: pytest.FixtureRequest) -> S3 | Azure:
    """Serve S3 at its own address, like MinIO, or Azure."""
    return request.getfixturevalue("s3" if request.param == "aws" else "azure")  # type: ignore[no-any-return]


@pytest.fixture
def profile(prefect_server: PrefectServer, clear_environment: dict[str, str], store: S3 | Azure) -> Iterator[Profile]:
    """Return the store's profile, registered."""
    if isinstance(store, S3):
        variables = {
            "S3_BUCKET": store.bucket,
            "S3_FOLDER": "tlc",
            "S3_ENDPOINT_URL": store.url,
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }
    else:
        account = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
        connection = f"{account}BlobEndpoint={store.url}/{ACCOUNT};"
        variables = {"AZURE_CONTAINER": store.container, "AZURE_FOLDER": "tlc", "AZURE_CONNECTION_STRING": connection}
    name = "aws" if isinstance(store, S3) else "azure"
    profile = Profile(name, prefect_server, variables, clear_environment)
    with temporary_settings({PREFECT_API_URL: prefect_server.url, PREFECT_HOME: prefect_server.home}):
        made = register(name, *read_blocks(ROOT / f"blocks/profiles/{name}.yaml", variables))
        assert set(made.values()) == {"created"}
        yield profile
    profile.unregister()


def test_the_lake_of_the_registered_profile_takes_a_month(profile: Profile, store: S3 | Azure, tmp_path: Path) -> None:
    make_month(open_lake(profile.name), green_parquet(trip()), tmp_path)
    assert "tlc/manifest/green/2024-01.json" in store.names()


@pytest.mark.torture
def test_a_month_is_made_loaded_checked_and_copied(profile: Profile, store: S3 | Azure) -> None:
    month = ("--color", "green", "--year", "2024", "--month", "1", "--source", "sample")
    for flow, arguments in {
        "check_connections": ("--source", "sample"),
        "etl_month": (*month, "--warehouses", "duckdb"),
        "copy_lake": ("--color", "green", "--to", "local"),
    }.items():
        ran = profile.run(flow, *arguments)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "green 2024-01  copied" in ran.stdout
    assert "tlc/manifest/green/2024-01.json" in store.names()
    shown = "".join(done.stdout + done.stderr for done in profile.server.ran)
    assert SECRET not in shown
    assert KEY not in shown
    shutil.rmtree(Path(profile.environment["TLC_HOME"]) / "lake")


def test_a_profile_of_blocks_is_asked_in_its_first_warehouse(dev: Profile) -> None:
    with temporary_settings({PREFECT_API_URL: dev.server.url, PREFECT_HOME: dev.server.home}):
        register("dev", *read_blocks(ROOT / "blocks/profiles/dev.yaml", dev.variables))
    done = dev.server.run(
        *("-m", "nyc_tlc", "ask", "SELECT current_user::text AS who", "--csv", "--profile", "dev"),
        **dev.environment,
        PYTHONPATH=str(ROOT / "flows"),
    )
    assert done.stdout == f"who\n{dev.variables['POSTGRES_USER']}\n", done.stderr


def test_a_month_is_replayed_with_the_profiles_broker_and_to_stdout(dev: Profile, tmp_path: Path) -> None:
    password = "planted-9c1b7a55"
    month = ("--color", "green", "--year", "2024", "--month", "1")
    with broker() as kafka:
        to = kafka.topic("script")
        settings = {"KAFKA_SERVERS": kafka.servers, "KAFKA_USERNAME": "me", "KAFKA_PASSWORD": password}
        with temporary_settings({PREFECT_API_URL: dev.server.url, PREFECT_HOME: dev.server.home}):
            made = register("dev", *read_blocks(ROOT / "blocks/profiles/dev.yaml", dev.variables | settings))
        assert made["secret/taxi-dev"] == "created"
        make_month(FolderLake(Path(dev.variables["LAKE_FOLDER"])), green_parquet(*[trip()] * 40), tmp_path)
        with reading(to) as consumer:
            done = dev.run("replay", *month, "--to", "kafka:///script", "--name", "first")
            assert done.returncode == 0, done.stderr
            consumer.wait_for(40)
            assert len(set(consumer.keys())) == 40
    assert f"40 events to {to}" in done.stdout
    lines = dev.run("replay", *month, "--to", "-", "--names", "tlc").stdout.splitlines()
    assert [json.loads(line)["value"].keys() >= {"PULocationID"} for line in lines] == [True] * 40
    assert all(password not in ran.stdout + ran.stderr for ran in dev.server.ran)
