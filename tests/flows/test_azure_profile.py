"""A user registers a profile with a lake on Azure, and makes and loads a month."""

from __future__ import annotations

import pytest

from conftest import PrefectServer, Profile
from stand_ins.azure import ACCOUNT, KEY, Azure


def test_a_month_is_made_and_loaded(
    prefect_server: PrefectServer,
    clear_environment: dict[str, str],
    azure: Azure,
    request: pytest.FixtureRequest,
) -> None:
    account = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
    variables = {
        "AZURE_CONTAINER": azure.container,
        "AZURE_FOLDER": "tlc",
        "AZURE_CONNECTION_STRING": f"{account}BlobEndpoint={azure.url}/{ACCOUNT};",
    }
    profile = Profile("azure", prefect_server, variables, clear_environment)
    request.addfinalizer(profile.unregister)
    kinds = ("azure-blob-storage-credentials", "azure-blob-storage-container")
    assert profile.register().stdout == "".join(f"created  {kind}/taxi-azure\n" for kind in kinds)
    month = ("--color", "green", "--year", "2024", "--month", "1")
    made = profile.run("etl_month", *month, "--source", "sample", "--warehouses", "duckdb")
    assert made.returncode == 0, made.stderr
    assert "tlc/manifest/green/2024-01.json" in azure.names()
    assert not [done for done in prefect_server.ran if KEY in done.stdout + done.stderr]
