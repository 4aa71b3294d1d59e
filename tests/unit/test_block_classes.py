"""Blocks of optional packages: without its package, a block says how to install it."""

import sys

import pytest

from conftest import ROOT
from nyc_tlc.errors import ConfigurationError
from nyc_tlc.profiles.registering import read_blocks

GIVEN = {"S3_BUCKET": "lake", "AZURE_CONTAINER": "lake", "AZURE_ACCOUNT_URL": "https://lake.example.com"}


@pytest.mark.parametrize(
    ("profile", "package", "lock"),
    [("aws", "prefect_aws", "requirements-aws.lock"), ("azure", "prefect_azure", "requirements-azure.lock")],
)
def test_without_its_package_a_profile_names_the_lock_file_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, profile: str, package: str, lock: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError, match=rf"no {package}; .*pip install .*{lock}") as refused:
        read_blocks(ROOT / f"blocks/profiles/{profile}.yaml", GIVEN)
    assert str(refused.value).count("\n") == 0
    assert (ROOT / lock).is_file()
