"""The Prefect tasks: names and artifacts around the library's plain functions.

Tasks exchange paths and small records. Prefect persists no results: they are in the data lake, described by its
manifests. Transfers are retried inside the library, which can resume them and obeys Retry-After. Only a load, which is
one transaction, is retried as a whole task.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Literal

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.settings import PREFECT_UI_URL
from prefect.tasks import exponential_backoff

from nyc_tlc.cleaning.clean import CleanedMonth, clean_month
from nyc_tlc.cleaning.publish import publish_month
from nyc_tlc.cleaning.raw import fetch_raw
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import BusyError, ConfigurationError, TlcError, TransientError
from nyc_tlc.lake.copying import Copied, copy_month
from nyc_tlc.lake.keys import Layout
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.publication import remove_leftovers
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Color, Month
from nyc_tlc.pages.anomalies import find_anomalies
from nyc_tlc.pages.coverage import format_coverage, read_coverage
from nyc_tlc.planning.month_plan import Plan, plan_month
from nyc_tlc.planning.plan import MonthPlan, plan_months
from nyc_tlc.planning.report import format_plan
from nyc_tlc.profiles.connections import Finding, check_part
from nyc_tlc.profiles.opening import open_lake, open_warehouse
from nyc_tlc.runs.limits import source_slot, warehouse_slot
from nyc_tlc.runs.month_report import format_answers_markdown, format_quality_report
from nyc_tlc.runs.progress import Bar, DownloadProgress
from nyc_tlc.runs.run_logs import join_prefect
from nyc_tlc.runs.run_names import newest_allowed
from nyc_tlc.settings import read_settings
from nyc_tlc.source.fetch import FetchedFile, Progress, fetch_month, scratch_folder
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.load import Answer, ask_where_trips_began, find_published, load_month
from nyc_tlc.warehouse.lookups import read_lookups
from nyc_tlc.warehouse.protocol import Kind
from nyc_tlc.warehouse.tables import list_views, month_tables, trip_tables
from nyc_tlc.warehouse.volume import read_trailing

log = logging.getLogger(__name__)


@task(task_run_name="look for {color} {month}", cache_policy=NO_CACHE, persist_result=False)
def look(
    color: Color, month: Month | None, source: str, profile: str, layout: Layout, force: bool, verify: bool
) -> Plan:
    """Look at the source and the lake, and return what has to be done. Remove what killed runs left."""
    lake, days, up_to = open_lake(profile), layout == "day", newest_allowed()
    plan = plan_month(source, color, month, lake, days=days, force=force, verify=verify, up_to=up_to)
    if plan.action == "kept" and plan.remote:
        raise ConfigurationError(
            f"{plan.remote.name}: {plan.why}", fix="or use another TLC_HOME or profile for samples"
        )
    if plan.action == "current" and plan.manifest and plan.base:
        remove_leftovers(lake, plan.manifest, plan.base)
    return plan


@task(task_run_name="fetch {plan.remote.name}", cache_policy=NO_CACHE, persist_result=False)
def fetch(plan: Plan, profile: str, folder: Path) -> FetchedFile:
    """Bring the month's file to a local folder and verify it."""
    assert plan.remote is not None
    with Bar(f"fetch {plan.remote.name}", "bytes") as bar:
        return fetch_planned(plan, open_lake(profile), folder, DownloadProgress(plan.remote.name, bar))


def fetch_planned(plan: Plan, lake: Lake, folder: Path, progress: Progress = lambda done, total: None) -> FetchedFile:
    """Bring the month's file to a local folder: from its source, or from the lake if it is only cleaned again."""
    if plan.action == "clean again" and plan.manifest:
        return fetch_raw(plan.manifest, lake, folder)
    assert plan.remote is not None
    with source_slot(plan.remote):
        return fetch_month(plan.remote, folder, progress)


@task(task_run_name="clean {fetched.remote.name}", cache_policy=NO_CACHE, persist_result=False)
def clean(fetched: FetchedFile, folder: Path, layout: Layout) -> CleanedMonth:
    """Clean the month: write its files of clean and quarantined rows to a local folder."""
    contract = read_contract(fetched.remote.color)
    return clean_month(fetched, contract, folder, layout=layout, strict=read_settings().strict)


@task(task_run_name="publish {cleaned.fetched.remote.name}", cache_policy=NO_CACHE, persist_result=False)
def publish(cleaned: CleanedMonth, plan: Plan, profile: str, force: bool, started_at: datetime) -> Manifest:
    """Check the row counts and publish the month, if the lake still has the month that the plan found."""
    contract = read_contract(cleaned.fetched.remote.color)
    return publish_month(cleaned, contract, open_lake(profile), plan.base, started_at, flow_run.id, force=force)


@task(task_run_name="report {manifest.name}", cache_policy=NO_CACHE, persist_result=False)
def report(manifest: Manifest, profile: str) -> None:
    """Write the quality report as an artifact, and log a warning for each anomaly of the month."""
    report_quality(manifest, profile)


def report_quality(manifest: Manifest, profile: str) -> None:
    """Write the quality report as an artifact, one key for each month, and log a warning for each anomaly."""
    lake = open_lake(profile)
    for anomaly in find_anomalies(manifest, read_trailing(lake, manifest)):
        log.warning("%s", anomaly)
    create_markdown_artifact(
        key=f"{manifest.color}-{manifest.month}-quality",
        markdown=format_quality_report(manifest, lake) + _link_to_months(manifest.color, profile),
        description=f"Quality report of {manifest.name}",
    )


@task(task_run_name="find {color} {month} in the lake", cache_policy=NO_CACHE, persist_result=False)
def find(color: Color, month: Month | None, profile: str) -> Manifest:
    """Return the manifest of a month in the lake; of the newest if month is None."""
    return find_published(open_lake(profile), color, month, profile)


@task(task_run_name="copy {color} {month} to {to}", cache_policy=NO_CACHE, persist_result=False)
def copy(color: Color, month: Month, profile: str, to: str, force: bool) -> Copied:
    """Copy a month from one profile's lake to another's, byte for byte."""
    with scratch_folder() as folder:
        return copy_month(open_lake(profile), open_lake(to), color, month, folder, force=force)


def _is_transient(_task: object, _run: object, state: State[object]) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, TransientError) and not isinstance(error, BusyError)


@task(
    task_run_name="load {manifest.name} into {kind}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_delay_seconds=exponential_backoff(backoff_factor=5),
    retry_jitter_factor=1,
    retry_condition_fn=_is_transient,
)
def load(manifest: Manifest, profile: str, kind: Kind, force: bool) -> Answer:
    """Replace the month's rows in a warehouse by those of the lake, and run an example query."""
    warehouse = open_warehouse(profile, kind)
    file = LakeFile(manifest, open_lake(profile), read_contract(manifest.color))
    with warehouse_slot(kind):
        loaded, new = load_month(file, warehouse, flow_run.id, force=force)
    return ask_where_trips_began(loaded, new, warehouse)


@task(task_run_name="load lookups into {kind}", cache_policy=NO_CACHE, persist_result=False)
def load_lookups(zones: bytes | None, profile: str, kind: Kind) -> str:
    """Replace the rows of the lookup tables. Return the warehouse's place."""
    warehouse = open_warehouse(profile, kind)
    rows = read_lookups(zones)
    warehouse.prepare(month_tables(), rows, list_views(trip_tables()))
    warehouse.replace_lookups(rows)
    return warehouse.place


@task(task_run_name="check {part} of {profile}", cache_policy=NO_CACHE, persist_result=False)
def check(part: Literal["lake"] | Kind, profile: str) -> Finding:
    """Check one part of a profile by using it as a run does."""
    return check_part(part, profile)


@task(task_run_name="plan", cache_policy=NO_CACHE, persist_result=False)
def plan(
    asked: list[tuple[Color, Month]],
    source: str,
    profile: str,
    warehouses: Sequence[Kind],
    layout: Layout,
    force: bool,
    verify: bool,
) -> list[MonthPlan]:
    """Plan many months, and write the plan as an artifact."""
    lake = open_lake(profile)
    loads = {kind: open_warehouse(profile, kind).loads() for kind in warehouses}
    with Bar("plan", "months") as bar:
        plans = plan_months(
            asked,
            source,
            lake,
            loads,
            days=layout == "day",
            force=force,
            verify=verify,
            at_look=lambda done: bar(done, len(asked)),
        )
    create_markdown_artifact(key="backfill-plan", markdown=format_plan(plans), description="What each month needs")
    return plans


def report_months(profile: str, colors: Sequence[Color], kinds: Sequence[Kind]) -> str:
    """Write the tables of months in the lake and the warehouses as artifacts, one key for each profile and colour.

    Returns:
        One table of all colours, as Markdown.

    Raises:
        TlcError: when the lake or one of the warehouses does not answer.
    """
    loads = {kind: open_warehouse(profile, kind).loads() for kind in kinds}
    months = read_coverage(open_lake(profile), loads, colors=colors)
    for color, its_months in groupby(months, key=lambda month: month.color):
        create_markdown_artifact(
            key=artifact_key("months", profile, color),
            markdown=format_coverage(list(its_months), kinds),
            description=f"The months of {color} in the profile {profile}",
        )
    return format_coverage(months, kinds)


@task(task_run_name="list months", cache_policy=NO_CACHE, persist_result=False)
def list_months(profile: str, colors: Sequence[Color], kinds: Sequence[Kind]) -> None:
    """Write the tables of months after this run. If that fails, log a warning: the run itself has not failed."""
    try:
        report_months(profile, colors, kinds)
    except TlcError as error:
        log.warning("%s: the table of months was not written: %s", ", ".join(colors), error)


def report_backfill(name: str, text: str) -> None:
    """Write a backfill's report as an artifact, one key for each backfill."""
    create_markdown_artifact(
        key=artifact_key("backfill", name),
        markdown=text,
        description=f"The result of each month of the backfill {name}",
    )


def _link_to_months(color: Color, profile: str) -> str:
    """Return a Markdown link to the table of a colour's months; empty if the run's server has no UI."""
    ui = PREFECT_UI_URL.value()
    return f"\n[All months of {color}]({ui}/artifacts/key/{artifact_key('months', profile, color)})\n" if ui else ""


def artifact_key(*parts: str) -> str:
    """Return an artifact key that Prefect accepts: lowercase letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def report_load(manifest: Manifest, answers: Sequence[Answer]) -> None:
    """Write the month's loads, with an example query, as an artifact, one key for each month."""
    create_markdown_artifact(
        key=f"{manifest.color}-{manifest.month}-queryable",
        markdown=format_answers_markdown(manifest, answers),
        description=f"Where {manifest.name} can be queried",
    )


join_prefect()
