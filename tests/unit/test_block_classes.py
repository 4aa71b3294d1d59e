"""Blocks of optional packages: without its package, a block says how to install it."""

import sys

import pytest

from conftest import ROOT
from nyc_tlc.errors import ConfigurationError
from nyc_tlc.profiles.block_classes import import_class
from nyc_tlc.profiles.sections import SECTIONS


@pytest.mark.parametrize(
    ("slug", "package", "lock"),
    [
        ("s3-bucket", "prefect_aws", "requirements-aws.lock"),
        ("azure-blob-storage-credentials", "prefect_azure", "requirements-azure.lock"),
    ],
)
def test_without_its_package_a_block_names_the_lock_file_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, slug: str, package: str, lock: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError, match=lock) as refused:
        import_class(slug)
    assert str(refused.value).count("\n") == 0
    with pytest.raises(ConfigurationError, match=f"no {package}"):
        _ = SECTIONS[slug].block
    assert (ROOT / lock).is_file()
