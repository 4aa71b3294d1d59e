"""Build and test the models with dbt, in a subprocess: its dependencies conflict with Prefect's.

dbt gets the profile's credentials as environment variables; the temporary ``profiles.yml`` only names the variables.
``python -m nyc_tlc.runs.dbt show --inline "select …"`` runs a command of dbt's by hand, on the first warehouse of
``TLC_PROFILE``; what it writes is in the folder ``dbt`` of ``TLC_HOME``.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nyc_tlc.errors import ConfigurationError, ReportedError, TlcError
from nyc_tlc.profiles.opening import find_schema, list_warehouses, open_dbt_target, open_warehouse
from nyc_tlc.runs.limits import slot, warehouse_limit
from nyc_tlc.runs.tasks import step, write_artifact
from nyc_tlc.settings import read_settings
from nyc_tlc.text_tables import format_table
from nyc_tlc.warehouse.protocol import Kind

ROOT = Path(__file__).parents[3]
PROJECT = ROOT / "dbt"
#: The path at which ``make dbt`` installs it.
COMMAND = ROOT / ".venv-dbt" / "bin" / "dbt"
#: Statuses of a failed model or test.
FAILED = ("error", "fail", "runtime error")


@dataclass(frozen=True)
class NodeResult:
    """The result of one model or test.

    Attributes:
        kind: model, test or unit_test.
        status: success, pass, warn, fail, error or skipped.
        rows: A model's written rows, or the rows that break a test; None if dbt does not report them.
        sql: A test's SQL; empty for a model.
    """

    name: str
    kind: str
    status: str
    seconds: float
    rows: int | None
    message: str
    sql: str


def find_dbt() -> Path:
    """Return the path of dbt's command. Flows that build models at their end call this first, to fail early.

    Raises:
        ConfigurationError: when dbt is not installed.
    """
    if not COMMAND.exists():
        raise ConfigurationError("dbt is not installed", expected=".venv-dbt/bin/dbt", fix="install it: make dbt")
    return COMMAND


def build_models(profile: str, kinds: Sequence[Kind], *, force: bool = False, before: str = "") -> str:
    """Build and test the models in warehouses, one after the other.

    Args:
        force: Whether to build all months again, and not only those that were loaded, replaced or removed.
        before: The summary of what the run did before; it is also shown when a model fails.

    Returns:
        A summary for the terminal: ``before``, and one line for each warehouse.

    Raises:
        ConfigurationError: when dbt is not installed, or a warehouse has no months yet.
        ReportedError: when a model or a test failed.
    """
    lines = [before] if before else []
    for kind in kinds:
        try:
            lines.append(_build(profile, kind, force))
        except ReportedError as error:
            raise ReportedError(error.what, "\n".join([*lines, error.report])) from None
    return "\n".join(lines)


def _build(profile: str, kind: Kind, force: bool) -> str:
    with slot("taxi-models"), slot(warehouse_limit(kind)):
        # Unlike dbt, this waits for a DuckDB file that another process has open.
        warehouse = open_warehouse(profile, kind)
        if not warehouse.loads():
            raise ConfigurationError(
                f"{warehouse.place} has no months to build models from", fix="load some: flows/etl_month.py"
            )
        dbt = step("dbt {command} {kind}")(run_dbt)
        results = dbt(profile, kind, "run", *["--full-refresh"] * force)
        if not find_failed(results):
            results += dbt(profile, kind, "test")
    write_artifact(f"Models in {kind}", format_results(results), profile, "models", kind)
    models = [result for result in results if result.kind == "model"]
    if failed := find_failed(results):
        names = ", ".join(result.name for result in failed)
        raise ReportedError(
            f"{kind}: {len(failed)} of {len(results)} models and tests failed: {names}", format_results(failed)
        )
    return f"models      {kind}: {len(models)} models are built and {len(results) - len(models)} tests pass"


def run_dbt(profile: str, kind: Kind, command: str, *options: str) -> list[NodeResult]:
    """Run a dbt command on one of the profile's warehouses, and return the result of each model and test.

    Raises:
        ConfigurationError: when dbt is not installed.
        ReportedError: when dbt ends without results.
    """
    with _environment(profile, kind) as (folder, secrets, variables):
        done = subprocess.run(  # noqa: S603  a fixed command, without a shell
            [str(find_dbt()), "--no-use-colors", command, *options],
            cwd=PROJECT,
            env=variables | {"DBT_TARGET_PATH": str(folder / "target")},
            capture_output=True,
            text=True,
            check=False,
        )
        results = folder / "target" / "run_results.json"
        if done.returncode not in (0, 1) or not results.exists():
            printed = _remove_secrets(secrets, done.stdout + done.stderr)
            raise ReportedError(f"{kind}: dbt {command} failed: {_find_error(printed)}", printed)
        return [_read_result(result) for result in json.loads(results.read_bytes())["results"]]


@contextlib.contextmanager
def _environment(profile: str, kind: Kind) -> Iterator[tuple[Path, dict[str, str], dict[str, str]]]:
    """Return a temporary folder with ``profiles.yml``, the variables with secrets, and all variables for dbt."""
    output, secrets = open_dbt_target(profile, kind)
    schema = find_schema(profile)
    output |= {"schema": f"{schema}_models", "threads": 2}
    with tempfile.TemporaryDirectory(prefix="nyc-tlc-dbt-") as name:
        target = {"nyc_tlc": {"target": kind, "outputs": {kind: output}}}
        (Path(name) / "profiles.yml").write_text(yaml.safe_dump(target), encoding="utf-8")
        folders = {"DBT_PROFILES_DIR": name, "DBT_PROJECT_DIR": str(PROJECT), "DBT_LOG_PATH": f"{name}/logs"}
        own = {"TLC_SCHEMA": schema, "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"}
        yield Path(name), secrets, {**os.environ, **secrets, **folders, **own}


def run_by_hand(arguments: Sequence[str]) -> int:
    """Run a command of dbt's on the first warehouse of ``TLC_PROFILE``, at this terminal; return its exit status."""
    settings = read_settings()
    kind = list_warehouses(settings.profile)[0]
    with _environment(settings.profile, kind) as (_, _, variables):
        target = {"DBT_TARGET_PATH": str(settings.home.absolute() / "dbt")}
        command = [str(find_dbt()), *arguments]
        return subprocess.run(command, cwd=PROJECT, env=variables | target, check=False).returncode  # noqa: S603


def _read_result(result: dict[str, Any]) -> NodeResult:
    kind, _, name = result["unique_id"].split(".")[:3]
    affected = (result.get("adapter_response") or {}).get("rows_affected")
    rows = result.get("failures") if "test" in kind else affected
    return NodeResult(
        name=result["unique_id"].split(".")[-1] if kind == "unit_test" else name,
        kind=kind,
        status=str(result["status"]),
        seconds=float(result["execution_time"]),
        rows=rows if isinstance(rows, int) and rows >= 0 else None,
        message=str(result.get("message") or ""),
        sql=str(result.get("compiled_code") or "") if "test" in kind else "",
    )


def find_failed(results: Sequence[NodeResult]) -> list[NodeResult]:
    """Return the models and tests that failed."""
    return [result for result in results if result.status in FAILED]


def format_results(results: Sequence[NodeResult]) -> str:
    """Format results as Markdown: models and tests with rows and seconds, and each failed test with its SQL."""
    rows = [
        (f"`{each.name}`", each.status, "" if each.rows is None else f"{each.rows:,}", f"{each.seconds:.1f}")
        for each in results
    ]
    lines = format_table(("Model or test", "Status", "Rows", "Seconds"), rows, right=("Rows", "Seconds"))
    for result in find_failed(results):
        lines += ["", f"**{result.name}**: {result.message}"]
        if result.sql:
            lines += ["", "```sql", result.sql.strip(), "```"]
    return "\n".join(lines)


def _find_error(printed: str) -> str:
    """Return the error in dbt's output as one line; the output's last line if there is none."""
    lines = printed.strip().splitlines()
    after = [number for number, line in enumerate(lines, 1) if "Encountered an error" in line]
    return " ".join(" ".join(lines[after[-1] :][:2] if after else lines[-1:]).split())[:300]


def _remove_secrets(secrets: dict[str, str], text: str) -> str:
    """Return a text with the secrets replaced by asterisks."""
    for secret in secrets.values():
        if len(secret) > 3:
            text = text.replace(secret, "***")
    return text


if __name__ == "__main__":
    try:
        sys.exit(run_by_hand(sys.argv[1:]))
    except TlcError as error:
        sys.exit(f"error: {error}")
