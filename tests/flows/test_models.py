"""Build the models with the secrets of a profile: only dbt gets them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from backfill import backfill
from conftest import ROOT, PrefectServer, Profile
from etl_month import etl_month
from nyc_tlc.errors import ConfigurationError
from nyc_tlc.runs import dbt
from stand_ins.google_tokens import GoogleCloud

JANUARY = ("--color", "green", "--year", "2024", "--month", "1", "--source", "sample")
#: Lets every temporary folder stay, so that what dbt was given and what it wrote can be looked at.
KEEP = """
import tempfile
tempfile.TemporaryDirectory.cleanup = lambda self: None
tempfile.TemporaryDirectory._cleanup = classmethod(lambda *_, **__: None)
"""


@pytest.fixture
def kept(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which all temporary files are kept, in one folder."""
    if not dbt.COMMAND.exists():
        pytest.skip("dbt is not installed: make dbt")
    (tmp_path / "python").mkdir()
    (tmp_path / "kept").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(KEEP)
    return {"PYTHONPATH": str(tmp_path / "python"), "TMPDIR": str(tmp_path / "kept"), "PREFECT_LOGGING_LEVEL": "DEBUG"}


def run(profile: Profile, flow: str, *arguments: str, kept: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a flow in a process of its own, which imports ``sitecustomize``; a fork of the tests' would not."""
    done = subprocess.run(
        [sys.executable, str(ROOT / f"flows/{flow}.py"), *arguments, "--profile", profile.name, "--models"],
        env=profile.server.environment(**profile.environment | kept),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    profile.server.ran.append(done)
    return done


def read_all(server: PrefectServer, kept: dict[str, str]) -> dict[str, str]:
    """Return all texts that could have a secret: the output, Prefect's records, and the temporary files."""
    settings = {PREFECT_API_URL: server.url, PREFECT_HOME: server.home}
    with temporary_settings(settings), get_client(sync_client=True) as client:
        answers = [*client.read_artifacts(), *client.read_logs(), *client.read_task_runs(), *client.read_flow_runs()]
    files = {str(path): path.read_text(errors="replace") for path in Path(kept["TMPDIR"]).rglob("*") if path.is_file()}
    shown = "\n".join(run.stdout + run.stderr for run in server.ran)
    return files | {"shown": shown, "Prefect": "\n".join(each.model_dump_json() for each in answers)}


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_a_password_and_a_key_reach_dbt_and_no_file_log_or_artifact(
    dev: Profile, gcp: Profile, google: GoogleCloud, kept: dict[str, str], postgres_server: dict[str, str]
) -> None:
    assert dev.register().returncode == 0
    built = run(dev, "etl_month", *JANUARY, kept=kept)
    assert built.returncode == 0, built.stdout + built.stderr
    assert re.search(r"models +postgres: 12 models are built and \d\d tests pass", built.stdout)
    database = postgres_server | {"dbname": dev.variables["POSTGRES_DB"]}
    with closing(psycopg2.connect(**database)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("UPDATE ny_taxi_models.fct_daily_trips SET trips = trips + 1")
    failed = run(dev, "etl_month", *JANUARY, kept=kept)
    assert "rows were loaded already, nothing to do: postgresql://" in failed.stdout, "what was done is not lost"
    assert "daily_trips_are_the_loads" in failed.stdout
    assert failed.returncode == 1
    assert re.fullmatch(
        r"error: postgres: 1 of \d\d models and tests failed: daily_trips_are_the_loads",
        failed.stderr.splitlines()[-1],
    )
    assert "Traceback" not in failed.stdout + failed.stderr
    assert gcp.register().returncode == 0
    built = run(gcp, "backfill", "--months", "green-2024-01", "--source", "sample", kept=kept)
    assert built.returncode == 0, built.stdout + built.stderr
    assert re.search(r"models +bigquery: 12 models are built and \d\d tests pass", built.stdout)
    # Signed with the key, as nothing else gets a token.
    assert google.tokens.assertions
    key = google.tokens.key["private_key"].splitlines()[1:-2]
    secrets = (dev.variables["POSTGRES_PASSWORD"].rpartition("'")[2], google.tokens.token, *key)
    read = read_all(dev.server, kept)
    for marker in ("profiles.yml", "dbt.log", "manifest.json"):
        assert any(name.endswith(marker) for name in read)
    assert "fct_daily_trips" in read["Prefect"]
    assert "models are built" in read["shown"]
    for secret in secrets:
        assert [name for name, text in read.items() if secret in text] == []


@pytest.mark.parametrize(
    "run",
    [
        lambda: etl_month.fn("green", 2024, 1, source="sample", models=True),
        lambda: backfill.fn(["green"], "2024-01", "2024-01", source="sample", models=True),
    ],
    ids=["etl_month", "backfill"],
)
def test_without_dbt_models_are_refused_before_a_month_is_fetched(
    run: Callable[[], object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dbt, "COMMAND", tmp_path / "dbt")
    with pytest.raises(ConfigurationError, match="install it: make dbt"):
        run()
    assert not Path(os.environ["TLC_HOME"]).exists()


def test_what_dbt_says_of_an_error_is_one_line() -> None:
    said = "17:46:01  Running with dbt\n17:46:02  Encountered an error:\nDatabase Error\n  no such\n  dataset\nmore\n"
    assert dbt._find_error(said) == "Database Error no such"
    assert dbt._find_error("command not found\n") == "command not found"
