"""A clone on people's machines: other folders, other Pythons, other servers, a database of a newer Prefect."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from conftest import ROOT, PrefectServer
from scripts import Scripts

Run = Callable[..., subprocess.CompletedProcess[str]]
SAMPLE = ("--source", "sample", "--year", "2024", "--month", "1")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Copy the part of the clone that scripts need."""
    shutil.copytree(ROOT / "flows", tmp_path / "clone/flows", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "prefect.yaml", tmp_path / "clone")
    return tmp_path / "clone"


def clean() -> dict[str, str]:
    """Return the environment without the settings of Prefect and of this project."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "TLC_"))}


@pytest.fixture
def run(scripts: Scripts) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs Python in a folder, with some variables."""
    return lambda *command, cwd, **more: scripts.run(*map(str, command), environment=clean() | more, cwd=cwd)


def test_every_folder_has_the_clone_s_own_data(clone: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "home.py").write_text("from nyc_tlc.settings import read_settings; print(read_settings().home)")

    def homes(clone: Path, cwd: Path, **more: str) -> str:
        done = run(tmp_path / "home.py", cwd=cwd, PYTHONPATH=str(clone / "flows"), **more)
        assert done.returncode == 0, done.stderr
        return str(done.stdout.strip())

    assert homes(clone, clone) == "data"
    assert homes(clone, tmp_path) == str(clone / "data")
    assert homes(clone, tmp_path, TLC_HOME="data/sample") == str(clone / "data/sample")
    assert homes(clone, tmp_path, TLC_HOME="/elsewhere") == "/elsewhere"
    (tmp_path / ".env").write_text("TLC_HOME=/strange\n")
    (clone / ".env").write_text("TLC_HOME=lake\n")
    assert homes(clone, tmp_path) == str(clone / "lake")


def test_a_script_started_elsewhere_says_which_lake_it_uses(
    clone: Path, tmp_path: Path, prefect_server: PrefectServer, run: Run
) -> None:
    api = {"PREFECT_API_URL": prefect_server.url, "PREFECT_HOME": str(prefect_server.home), "TLC_SAMPLE_ROWS": "1000"}
    done = run(clone / "flows/etl_web_to_gcs.py", *SAMPLE, cwd=tmp_path, **api)
    assert done.returncode == 0, done.stderr
    assert f"the lake is {clone / 'data/lake'}, the clone's" in done.stderr
    assert (clone / "data/lake/manifest/yellow/2024-01.json").is_file()
    assert not (tmp_path / "data").exists()


def test_a_python_without_the_packages_is_told_how_to_get_them(clone: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    bare = [tmp_path / "bare/bin/python", "flows/etl_month.py"]
    done = subprocess.run(bare, cwd=clone, env=clean(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: {tmp_path}/bare/bin/python does not have this project's packages; use make -C {clone} run, "
        f"and from then on {clone}/.venv/bin/python flows/etl_month.py\n"
    )


@pytest.mark.parametrize("command", [[ROOT / "flows/etl_web_to_gcs.py"], ["-m", "nyc_tlc.runs.own_server"]])
def test_a_database_of_a_newer_prefect_is_one_line_within_seconds(
    command: list[object], tmp_path: Path, run: Run
) -> None:
    home = tmp_path / "prefect"
    home.mkdir()
    with contextlib.closing(sqlite3.connect(home / "prefect.db")) as database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES ('20991231abcd')")
        database.commit()
    flows = tmp_path / "flows"
    shutil.copytree(ROOT / "flows", flows, ignore=shutil.ignore_patterns("__pycache__"))
    began = time.monotonic()
    done = run(*command, cwd=tmp_path, PREFECT_HOME=str(home), PYTHONPATH=str(flows))
    assert time.monotonic() - began < 20
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "| INFO" not in line]
    assert line.startswith(f"error: {home / 'prefect.db'} is of a newer Prefect than 3")
    # Others of the machine could read it before.
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_what_is_no_prefect_api_is_one_line(tmp_path: Path, run: Run) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        for url in (f"http://127.0.0.1:{other.server_port}/api", "127.0.0.1:4200/api"):
            done = run(ROOT / "flows/etl_web_to_gcs.py", *SAMPLE, cwd=tmp_path, PREFECT_API_URL=url)
            assert done.returncode == 1
            assert done.stderr.startswith(f"error: what is at {url} (PREFECT_API_URL) is no Prefect API; ")
            assert done.stderr.count("\n") == 1
        other.shutdown()


def test_a_failed_run_leaves_no_pickle(tmp_path: Path, prefect_server: PrefectServer, run: Run) -> None:
    broken = tmp_path / "green_2024_1.parquet"
    broken.write_bytes(b"PAR1")
    api = {"PREFECT_API_URL": prefect_server.url, "PREFECT_HOME": str(tmp_path / "prefect"), "TMPDIR": str(tmp_path)}
    arguments = ["--color", "green", "--year", "2024", "--month", "1"]
    source = f"file://{tmp_path}/{{color}}_{{year}}_{{month}}.parquet"
    script = ROOT / "flows/etl_web_to_gcs.py"
    done = run(script, *arguments, "--source", source, cwd=tmp_path, TLC_HOME=str(tmp_path), **api)
    assert done.returncode == 1, done.stdout
    assert "error: green 2024-01" in done.stderr
    assert not (tmp_path / "prefect/storage").exists()
    assert not list(tmp_path.glob("nyc-tlc-??*[!h]"))


def test_pip_and_git_of_other_machines_don_t_break_a_clone() -> None:
    make = ["make", "--no-print-directory", "--eval", "show: ; @echo $$PIP_USER", "show"]
    shown = subprocess.run(
        make, cwd=ROOT, env=os.environ | {"PIP_USER": "1"}, capture_output=True, text=True, check=True
    )
    assert shown.stdout == "0\n"
    scripts = [str(path.relative_to(ROOT)) for path in (ROOT / "docker").rglob("*.sh")]
    command = ["git", "check-attr", "eol", "--", *scripts]
    asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(asked.stdout.splitlines()) == {f"{script}: eol: lf" for script in scripts}
