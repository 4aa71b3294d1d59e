"""The Prefect tasks: names, retries and artifacts around the library's plain functions.

Tasks exchange paths and small records. Transfers are retried inside the library, which can resume them and obeys
Retry-After.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import groupby
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.runtime import flow_run
from prefect.settings import PREFECT_UI_URL

from nyc_tlc.cleaning.clean import CleanedMonth, clean_month
from nyc_tlc.cleaning.publish import publish_month
from nyc_tlc.cleaning.raw import fetch_raw
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import BusyError, ConfigurationError, TlcError, TransientError
from nyc_tlc.lake.copying import Copied, copy_month
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.publication import remove_leftovers
from nyc_tlc.month import Color, Month
from nyc_tlc.pages.anomalies import find_anomalies
from nyc_tlc.pages.coverage import format_coverage, read_coverage
from nyc_tlc.planning.month_plan import MonthPlan, plan_month
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.planning.plan import plan_months
from nyc_tlc.planning.report import format_plan
from nyc_tlc.profiles.connections import Finding, check_part
from nyc_tlc.profiles.opening import open_lake, open_warehouse
from nyc_tlc.runs.limits import source_slot, warehouse_slot
from nyc_tlc.runs.month_report import format_answers_markdown, format_quality_report
from nyc_tlc.runs.progress import Bar, DownloadProgress
from nyc_tlc.runs.run_logs import join_prefect
from nyc_tlc.runs.run_names import newest_allowed, rename_run
from nyc_tlc.settings import read_settings
from nyc_tlc.source.fetch import FetchedFile, fetch_month, scratch_folder
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.load import Answer, ask_where_trips_began, find_published, load_month
from nyc_tlc.warehouse.lookups import read_lookups
from nyc_tlc.warehouse.protocol import Kind, Load
from nyc_tlc.warehouse.tables import list_views, month_tables
from nyc_tlc.warehouse.volume import read_trailing

P = ParamSpec("P")
R = TypeVar("R")

#: Seconds before the second and the third attempt of a load.
LOAD_PAUSES = (5.0, 10.0)

log = logging.getLogger(__name__)


def step(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function a Prefect task of this name; its result is not persisted, because it is in the lake.

    Inside another task, as in a month of a backfill, it is called as it is: a task takes as long as a small month.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        as_task = task(task_run_name=name, cache_policy=NO_CACHE, persist_result=False)(function)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return (function if TaskRunContext.get() else as_task)(*args, **kwargs)

        return call

    return decorate


@step("look for {color} {month}")
def look(color: Color, month: Month | None, options: MonthOptions) -> MonthPlan:
    """Look at the source and the lake, and return what has to be done. Remove what killed runs left."""
    lake = open_lake(options.profile)
    plan = plan_month(color, month, options, lake, newest_allowed())
    if plan.need == "kept":
        raise ConfigurationError(f"{plan.name}: {plan.why}", fix="or use another TLC_HOME or profile for samples")
    if plan.need != "unpublished":
        rename_run(plan)
    if plan.need == "current" and plan.manifest and plan.manifest_version:
        remove_leftovers(lake, plan.manifest, plan.manifest_version)
    return plan


@step("fetch {plan.name}")
def fetch(plan: MonthPlan, options: MonthOptions, folder: Path) -> FetchedFile:
    """Bring the month's file to a local folder: from its source, or from the lake if it is only cleaned again."""
    if plan.need == "clean again" and plan.manifest:
        return fetch_raw(plan.manifest, open_lake(options.profile), folder)
    assert plan.remote is not None
    with source_slot(plan.remote), DownloadProgress(plan.name) as progress:
        return fetch_month(plan.remote, folder, progress)


@step("clean {plan.name}")
def clean(fetched: FetchedFile, plan: MonthPlan, options: MonthOptions, folder: Path) -> CleanedMonth:
    """Clean the month: write its files of clean and quarantined rows to a local folder."""
    contract = read_contract(plan.color)
    return clean_month(fetched, contract, folder, layout=options.layout, strict=read_settings().strict)


@step("publish {plan.name}")
def publish(cleaned: CleanedMonth, plan: MonthPlan, options: MonthOptions) -> Manifest:
    """Check the row counts and publish the month, if the lake still has the month that the plan found."""
    return publish_month(
        cleaned,
        read_contract(plan.color),
        open_lake(options.profile),
        plan.manifest_version,
        plan.planned_at,
        flow_run.id,
        force=options.force,
    )


@step("report {manifest.name}")
def report(manifest: Manifest, profile: str) -> None:
    """Write the quality report as an artifact, one key for each month, and log a warning for each anomaly."""
    lake = open_lake(profile)
    for anomaly in find_anomalies(manifest, read_trailing(lake, manifest)):
        log.warning("%s", anomaly)
    create_markdown_artifact(
        key=f"{manifest.color}-{manifest.month}-quality",
        markdown=format_quality_report(manifest, lake) + _link_to_months(manifest.color, profile),
        description=f"Quality report of {manifest.name}",
    )


@step("load {manifest.name} into {kind}")
def load(manifest: Manifest, options: MonthOptions, kind: Kind) -> tuple[Load, bool]:
    """Replace the month's rows in a warehouse by those of the lake; repeat it after transient failures.

    Returns:
        The month's row of ``loads``, and whether it is new.
    """
    warehouse = open_warehouse(options.profile, kind)
    file = LakeFile(manifest, open_lake(options.profile))

    def attempt() -> tuple[Load, bool]:
        with warehouse_slot(kind):
            return load_month(file, warehouse, flow_run.id, force=options.force)

    return repeat_load(manifest.name, attempt)


def repeat_load(name: str, attempt: Callable[[], R]) -> R:
    """Load; repeat it after transient failures, but not after it has waited as long as it may."""
    for pause in LOAD_PAUSES:
        try:
            return attempt()
        except BusyError:
            raise
        except TransientError as error:
            log.warning("%s: %s; trying again", name, error)
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  jitter
    return attempt()


@step("query {manifest.name} in {kind}")
def query(manifest: Manifest, options: MonthOptions, kind: Kind, loaded: tuple[Load, bool]) -> Answer:
    """Run an example query on a month that was loaded."""
    return ask_where_trips_began(*loaded, open_warehouse(options.profile, kind))


@step("find {color} {month} in the lake")
def find(color: Color, month: Month | None, profile: str) -> Manifest:
    """Return the manifest of a month in the lake; of the newest if month is None."""
    manifest = find_published(open_lake(profile), color, month, profile)
    rename_run(manifest)
    return manifest


@step("copy {color} {month} to {to}")
def copy(color: Color, month: Month, profile: str, to: str, force: bool) -> Copied:
    """Copy a month from one profile's lake to another's, byte for byte."""
    with scratch_folder() as folder:
        return copy_month(open_lake(profile), open_lake(to), color, month, folder, force=force)


@step("load lookups into {kind}")
def load_lookups(zones: bytes | None, profile: str, kind: Kind) -> str:
    """Replace the rows of the lookup tables. Return the warehouse's place."""
    warehouse = open_warehouse(profile, kind)
    rows = read_lookups(zones)
    warehouse.prepare(month_tables(), rows, list_views())
    warehouse.replace_lookups(rows)
    return warehouse.place


@step("check {part} of {profile}")
def check(part: Literal["lake"] | Kind, profile: str) -> Finding:
    """Check one part of a profile by using it as a run does."""
    return check_part(part, profile)


@step("plan")
def plan(asked: list[tuple[Color, Month]], options: MonthOptions) -> list[MonthPlan]:
    """Plan many months, and write the plan as an artifact."""
    loads = {kind: open_warehouse(options.profile, kind).loads() for kind in options.warehouses}
    with Bar("plan", "months") as bar:
        plans = plan_months(
            asked, options, open_lake(options.profile), loads, at_look=lambda done: bar(done, len(asked))
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


@step("list months")
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
