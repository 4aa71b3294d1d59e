"""The tasks that build the models: one a dbt command, and an artifact of what came out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from nyc_tlc.errors import ConfigurationError, ReportedError
from nyc_tlc.orchestration.dbt import NodeResult, find_bad, format_results, run_dbt
from nyc_tlc.orchestration.limits import place_for_models, place_in_warehouse
from nyc_tlc.profiles.opening import open_warehouse
from nyc_tlc.warehouse.warehouse import Kind


def transform_warehouses(profile: str, kinds: Sequence[Kind], *, force: bool = False) -> str:
    """Build the models in some warehouses, one after the other, then test them.

    Returns:
        What was done, for people.

    Raises:
        ConfigurationError: when dbt is missing, or a warehouse has no months yet.
        ReportedError: when a model failed or a test did not pass.
    """
    return "\n".join(_transform(profile, kind, force) for kind in kinds)


def _transform(profile: str, kind: Kind, force: bool) -> str:
    with place_for_models(), place_in_warehouse(kind):
        # It waits for who is at work on a DuckDB file, which dbt does not.
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
    key = re.sub(r"[^a-z0-9]+", "-", f"models-{profile}-{kind}".lower())
    create_markdown_artifact(key=key, markdown=format_results(results), description=f"Models in {kind}")
