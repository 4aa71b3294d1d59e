"""Build and test the dbt models: one task for each dbt command, and an artifact with the results."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from nyc_tlc.errors import ConfigurationError, ReportedError
from nyc_tlc.profiles.opening import name_lake, open_warehouse
from nyc_tlc.runs.dbt import NodeResult, find_failed, format_results, run_dbt
from nyc_tlc.runs.limits import models_slot, warehouse_slot
from nyc_tlc.runs.tasks import artifact_key
from nyc_tlc.warehouse.protocol import Kind


def build_models(profile: str, kinds: Sequence[Kind], *, force: bool = False, before: str = "") -> str:
    """Build and test the models in warehouses, one after the other.

    Args:
        profile: The profile.
        kinds: Which of its warehouses.
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
    with models_slot(), warehouse_slot(kind):
        # Unlike dbt, this waits for a DuckDB file that another process has open.
        warehouse = open_warehouse(profile, kind)
        if not warehouse.loads():
            raise ConfigurationError(
                f"{warehouse.place} has no months to build models from", fix="load some: flows/etl_month.py"
            )
        results = dbt("run", profile, kind, ["--full-refresh"] if force else [])
        if not find_failed(results):
            results += dbt("test", profile, kind, [])
    report_models(profile, kind, results)
    models = [result for result in results if result.kind == "model"]
    if failed := find_failed(results):
        names = ", ".join(result.name for result in failed)
        raise ReportedError(
            f"{kind}: {len(failed)} of {len(results)} models and tests failed: {names}", format_results(failed)
        )
    return f"models      {kind}: {len(models)} models are built and {len(results) - len(models)} tests pass"


@task(task_run_name="dbt {command} {kind}", cache_policy=NO_CACHE, persist_result=False)
def dbt(command: str, profile: str, kind: Kind, options: list[str]) -> list[NodeResult]:
    """Run one dbt command."""
    return run_dbt(profile, kind, command, *options)


@task(task_run_name="report models {kind}", cache_policy=NO_CACHE, persist_result=False)
def report_models(profile: str, kind: Kind, results: list[NodeResult]) -> None:
    """Write the results as an artifact."""
    create_markdown_artifact(
        key=artifact_key("models", name_lake(profile), kind),
        markdown=format_results(results),
        description=f"Models in {kind}",
    )
