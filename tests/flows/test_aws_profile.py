"""A user registers and checks a profile with a lake on S3, and makes, loads and copies a month."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from conftest import ROOT, PrefectServer, Profile
from factories import JANUARY, green_parquet, make_month, trip, without_version
from nyc_tlc.profiles.opening import open_lake
from nyc_tlc.profiles.registering import read_blocks, register
from stand_ins.s3 import S3

SECRET = "planted-5ecretAccessKey"


@pytest.fixture(scope="module")
def store() -> Iterator[S3]:
    """Serve S3 at its own address, like MinIO."""
    with S3().running() as store:
        yield store


@pytest.fixture(scope="module")
def aws(prefect_server: PrefectServer, clear_environment: dict[str, str], store: S3) -> Iterator[Profile]:
    """Return the profile ``aws``, registered."""
    variables = {
        "S3_BUCKET": store.bucket,
        "S3_FOLDER": "tlc",
        "S3_ENDPOINT_URL": store.url,
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }
    profile = Profile("aws", prefect_server, variables, clear_environment)
    with temporary_settings({PREFECT_API_URL: prefect_server.url, PREFECT_HOME: prefect_server.home}):
        made = register("aws", *read_blocks(ROOT / "blocks/profiles/aws.yaml", variables))
        assert made == {"aws-credentials/taxi-aws": "created", "s3-bucket/taxi-aws": "created"}
        yield profile
    profile.unregister()


def test_the_lake_of_the_registered_profile_takes_a_month(aws: Profile, store: S3, tmp_path: Path) -> None:
    lake = open_lake("aws")
    make_month(lake, green_parquet(trip()), tmp_path, JANUARY.plus(1))
    assert lake.url("").startswith(f"s3://{store.bucket}/tlc")
    assert "tlc/manifest/green/2024-02.json" in store.names()


@pytest.mark.torture
def test_a_month_is_made_loaded_checked_and_copied(aws: Profile, store: S3) -> None:
    checked = aws.run("check_connections", "--source", "sample")
    assert checked.returncode == 0, checked.stderr
    assert f"ok    lake      s3://{store.bucket}/tlc" in checked.stdout
    month = ("--color", "green", "--year", "2024", "--month", "1")
    made = aws.run("etl_month", *month, "--source", "sample", "--warehouses", "duckdb")
    assert made.returncode == 0, made.stderr
    assert "tlc/manifest/green/2024-01.json" in store.names()
    copied = aws.run("copy_lake", "--color", "green", "--to", "local")
    assert copied.returncode == 0, copied.stderr
    assert "green 2024-01  copied" in copied.stdout
    lake = Path(aws.environment["TLC_HOME"]) / "lake"
    keys = {without_version(path.relative_to(lake).as_posix()) for path in lake.rglob("*") if path.is_file()}
    assert keys == {without_version(name.removeprefix("tlc/")) for name in store.names()}
    assert not [done for done in aws.server.ran if SECRET in done.stdout + done.stderr]
    shutil.rmtree(lake)
