"""Profiles: a name can't lead to another profile's blocks, and a missing package is named with its lock file."""

import sys
import tomllib
from functools import partial

import pytest

from conftest import ROOT
from nyc_tlc.errors import ArgumentError, ConfigurationError
from nyc_tlc.profiles.opening import list_warehouses, open_dbt_target, open_lake, open_warehouse
from nyc_tlc.profiles.registering import read_blocks

GIVEN = {"S3_BUCKET": "lake", "AZURE_CONTAINER": "lake", "AZURE_ACCOUNT_URL": "https://lake.example.com"}


@pytest.mark.parametrize("profile", ["x/../private", "../private", "private?", "Private", "", "x\n"])
def test_a_name_that_could_lead_to_other_blocks_is_refused_before_a_server_is_asked(profile: str) -> None:
    for open_it in (
        open_lake,
        list_warehouses,
        partial(open_warehouse, kind="postgres"),
        partial(open_warehouse, kind="bigquery"),
        partial(open_dbt_target, kind="postgres"),
    ):
        with pytest.raises(ArgumentError, match="not a valid profile name"):
            open_it(profile)


@pytest.mark.parametrize("extra", ["aws", "azure"])
def test_without_its_package_a_profile_names_the_extra_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, extra: str
) -> None:
    package = f"prefect_{extra}"
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError, match=rf"no {package}; install it: make extra NAME={extra}$"):
        read_blocks(ROOT / f"blocks/profiles/{extra}.yaml", GIVEN)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(each.startswith(f"prefect-{extra}") for each in extras[extra])
