"""The tasks that build the models: one a dbt command, and an artifact of what came out."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from nyc_tlc.errors import ConfigurationError, ReportedError
from nyc_tlc.orchestration.dbt import NodeResult, find_bad, format_results, run_dbt
from nyc_tlc.orchestration.limits import place_for_models, place_in_warehouse
from nyc_tlc.orchestration.tasks import artifact_key
from nyc_tlc.profiles.opening import open_warehouse
from nyc_tlc.warehouse.warehouse import Kind


def build_models(profile: str, kinds: Sequence[Kind], *, force: bool = False) -> str:
    """Build the models in warehouses, one after the other, and test them.

    Args:
        profile: The profile.
        kinds: Which of its warehouses.
        force: Build all months again; without it only those that were loaded, replaced or removed.

    Returns:
        What was done, for people: a line a warehouse.

    Raises:
        ConfigurationError: when dbt is not installed, or a warehouse has no months yet.
        ReportedError: when a model failed or a test did not pass.
    """
    return "\n".join(_build(profile, kind, force) for kind in kinds)


def _build(profile: str, kind: Kind, force: bool) -> str:
    with place_for_models(), place_in_warehouse(kind):
        # dbt does not wait for a DuckDB file that another process has open; opening it here does.
        warehouse = open_warehouse(profile, kind)
        if not warehouse.loads():
            raise ConfigurationError(
                f"{warehouse.place} has no months to build models of", fix="load some: flows/etl_month.py"
            )
        results = dbt("run", profile, kind, ["--full-refresh"] if force else [])
        if not find_bad(results):
            results += dbt("test", profile, kind, [])
    report_models(profile, kind, results)
    models = [result for result in results if result.kind == "model"]
    if bad := find_bad(results):
        names = ", ".join(result.name for result in bad)
        raise ReportedError(
            f"{kind}: {len(bad)} of {len(results)} models and tests failed: {names}", format_results(bad)
        )
    return f"models      {kind}: {len(models)} models are built and {len(results) - len(models)} tests pass"


@task(task_run_name="dbt {command} {kind}", cache_policy=NO_CACHE, persist_result=False)
def dbt(command: str, profile: str, kind: Kind, options: list[str]) -> list[NodeResult]:
    """Run one dbt command."""
    return run_dbt(profile, kind, command, *options)


@task(task_run_name="report models {kind}", cache_policy=NO_CACHE, persist_result=False)
def report_models(profile: str, kind: Kind, results: list[NodeResult]) -> None:
    """Leave the results as an artifact."""
    create_markdown_artifact(
        key=artifact_key("models", profile, kind), markdown=format_results(results), description=f"Models in {kind}"
    )
