"""What several tests stand on: the real files, a web source, an environment of one's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stand_ins.http_source import HttpSource

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real TLC files; tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get("TLC_REAL_DATA", ROOT.parent / "shared" / "tlc"))
    if not (folder / "parquet").is_dir():
        pytest.skip(f"no real TLC files at {folder} (TLC_REAL_DATA can name another folder)")
    return folder


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own; no setting of the developer's gets in."""
    for name in [name for name in os.environ if name.startswith("TLC_") and not name.startswith("TLC_TEST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TLC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TLC_HTTP_BACKOFF", "0.01")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def http_source() -> Iterator[HttpSource]:
    """A web source."""
    with HttpSource().running() as source:
        yield source
