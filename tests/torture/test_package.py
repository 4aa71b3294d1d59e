"""The package that `pip install .` installs: notebooks, pages and the command work without a clone."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

USE = """
from pathlib import Path
from nyc_tlc import zones
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.pages.coverage_page import write_coverage_page
assert len(zones()) == 265
write_coverage_page(FolderLake(Path("lake")), [], [])
"""


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_the_installed_package_is_whole(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "flows", clone / "flows", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "site"), "."]
    subprocess.run(install, cwd=clone, check=True, timeout=120)
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": ""}
    subprocess.run([sys.executable, "-c", USE], cwd=tmp_path, env=environment, check=True, timeout=60)
    assert (tmp_path / "lake" / "reports" / "coverage.html").is_file()

    def command(*arguments: str) -> str:
        own = environment | {"HOME": str(tmp_path), "TLC_SAMPLE_ROWS": "300"}
        script = [sys.executable, str(tmp_path / "site/bin/nyc-tlc"), *arguments]
        return subprocess.run(
            script, cwd=tmp_path, env=own, check=True, timeout=400, stdout=subprocess.PIPE, text=True
        ).stdout

    assert "etl-web-to-gcs" in command("--help")
    command("etl-month", "--source", "sample", "--color", "green", "--year", "2024", "--month", "1")
    assert command("ask", "SELECT source_rows FROM ny_taxi.loads", "--csv") == "source_rows\n300\n"
    assert "Which months are loaded" in command("ask")
