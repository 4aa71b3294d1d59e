"""A profile with a lake on Azure: registered, its lake has a month; flows run with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from conftest import ROOT, PrefectServer, Profile
from factories import green_parquet, make_month, trip
from nyc_tlc.profiles.opening import open_lake
from nyc_tlc.profiles.registering import read_blocks, register
from stand_ins.azure import ACCOUNT, KEY, Azure


@pytest.fixture
def profile(prefect_server: PrefectServer, clear_environment: dict[str, str], azure: Azure) -> Iterator[Profile]:
    """Return the profile ``azure``, not registered yet."""
    account = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
    variables = {
        "AZURE_CONTAINER": azure.container,
        "AZURE_FOLDER": "tlc",
        "AZURE_CONNECTION_STRING": f"{account}BlobEndpoint={azure.url}/{ACCOUNT};",
    }
    profile = Profile("azure", prefect_server, variables, clear_environment)
    yield profile
    profile.unregister()


def test_the_lake_of_the_registered_profile_takes_a_month(profile: Profile, azure: Azure, tmp_path: Path) -> None:
    with temporary_settings({PREFECT_API_URL: profile.server.url, PREFECT_HOME: profile.server.home}):
        made = register("azure", *read_blocks(ROOT / "blocks/profiles/azure.yaml", profile.variables))
        assert list(made) == ["azure-blob-storage-credentials/taxi-azure", "azure-blob-storage-container/taxi-azure"]
        make_month(open_lake("azure"), green_parquet(trip()), tmp_path)
    assert "tlc/manifest/green/2024-01.json" in azure.names()


@pytest.mark.torture
def test_a_month_is_made_and_loaded(profile: Profile, azure: Azure) -> None:
    assert profile.register().returncode == 0
    checked = profile.run("check_connections", "--source", "sample")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    month = ("--color", "green", "--year", "2024", "--month", "1")
    made = profile.run("etl_month", *month, "--source", "sample", "--warehouses", "duckdb")
    assert made.returncode == 0, made.stderr
    assert "tlc/manifest/green/2024-01.json" in azure.names()
    assert not [done for done in profile.server.ran if KEY in done.stdout + done.stderr]
