"""The Prefect tasks: names, retries and artifacts around the library's plain functions.

Tasks exchange paths and small records. Transfers are retried inside the library, which can resume them and obeys
Retry-After.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import re
import time
from collections.abc import Callable, Sequence
from functools import partial, wraps
from itertools import groupby
from pathlib import Path
from typing import ParamSpec, TypeVar
from urllib.parse import quote

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.context import TaskRunContext
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL

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
from nyc_tlc.pages.coverage import CoveredMonth, NewestMonth, find_gaps, format_coverage, read_coverage
from nyc_tlc.planning.month_plan import MonthPlan, find_published, plan_month
from nyc_tlc.planning.older import WiderPlan
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.planning.plan import plan_months
from nyc_tlc.planning.report import format_plan
from nyc_tlc.profiles.connections import check_part
from nyc_tlc.profiles.opening import name_lake, open_lake, open_warehouse
from nyc_tlc.runs.flow_runs import newest_allowed, rename_run
from nyc_tlc.runs.limits import slot, source_limit, warehouse_limit
from nyc_tlc.runs.lineage import tell_loaded, tell_published
from nyc_tlc.runs.month_report import format_answers_markdown, format_quality_report
from nyc_tlc.runs.progress import bar
from nyc_tlc.runs.run_logs import join_prefect
from nyc_tlc.server import SERVER_FIX, find_weaknesses
from nyc_tlc.settings import read_settings
from nyc_tlc.source.fetch import FetchedFile, fetch_month, scratch_folder
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.load import Answer, ask_where_trips_began, load_month
from nyc_tlc.warehouse.lookups import read_lookups
from nyc_tlc.warehouse.protocol import Kind, Load, Loads
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
    with slot(source_limit(plan.remote)), bar(f"fetch {plan.name}", "bytes") as progress:
        return fetch_month(plan.remote, folder, progress)


@step("clean {plan.name}")
def clean(fetched: FetchedFile, plan: MonthPlan, options: MonthOptions, folder: Path) -> CleanedMonth:
    """Clean the month: write its files of clean and quarantined rows to a local folder."""
    contract = read_contract(plan.color)
    return clean_month(fetched, contract, folder, layout=options.layout, strict=read_settings().strict)


@step("publish {plan.name}")
def publish(cleaned: CleanedMonth, plan: MonthPlan, options: MonthOptions) -> Manifest:
    """Check the row counts and publish the month, if the lake still has the month that the plan found."""
    contract, lake = read_contract(plan.color), open_lake(options.profile)
    version, began = plan.manifest_version, plan.planned_at
    manifest = publish_month(cleaned, contract, lake, version, began, flow_run.id, force=options.force)
    tell_published(manifest, lake, options.profile)
    return manifest


@step("report {manifest.name}")
def report(manifest: Manifest, profile: str) -> None:
    """Write the quality report as an artifact, one key for each lake and month, and log a warning for each anomaly."""
    lake = open_lake(profile)
    for anomaly in find_anomalies(manifest, read_trailing(lake, manifest)):
        log.warning("%s", anomaly)
    markdown = format_quality_report(manifest, lake) + _link_to_months(manifest.color, profile)
    write_artifact(f"Quality report of {manifest.name}", markdown, profile, manifest.color, manifest.month, "quality")


@step("load {manifest.name} into {kind}")
def load(manifest: Manifest, options: MonthOptions, kind: Kind) -> tuple[Load, bool]:
    """Replace the month's rows in a warehouse by those of the lake; repeat it after transient failures.

    Returns:
        The month's row of ``loads``, and whether it is new.
    """
    warehouse = open_warehouse(options.profile, kind)
    file = LakeFile(manifest, open_lake(options.profile))

    def attempt() -> tuple[Load, bool]:
        with slot(warehouse_limit(kind)):
            return load_month(file, warehouse, flow_run.id, force=options.force)

    loaded, new = repeat_load(manifest.name, attempt)
    if new:
        tell_loaded(manifest, warehouse, options.profile)
    return loaded, new


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
def find(color: Color, month: Month | None, profile: str, as_of: str | None = None) -> Manifest:
    """Return the manifest of a month in the lake, of the newest if month is None, in the version of ``as_of``."""
    manifest = find_published(open_lake(profile), color, month, profile, as_of)
    rename_run(manifest)
    return manifest


@step("copy {color} {month} to {to}")
def copy(color: Color, month: Month, profile: str, to: str, force: bool) -> Copied:
    """Copy a month from one profile's lake to another's, byte for byte."""
    with scratch_folder() as folder:
        return copy_month(open_lake(profile), open_lake(to), color, month, folder, force=force)


@step("load lookups into {kind}")
def load_lookups(zones: bytes | None, shapes: bytes | None, profile: str, kind: Kind) -> str:
    """Replace the rows of the lookup tables. Return the warehouse's place."""
    warehouse = open_warehouse(profile, kind)
    rows = read_lookups(zones, shapes)
    warehouse.prepare(month_tables(), rows, list_views(warehouse.schema))
    warehouse.replace_lookups(rows)
    return warehouse.place


check = step("check {part} of {profile}")(check_part)


@step("check the server")
def check_server() -> tuple[bool, str]:
    """Check the settings of the Prefect server that this run belongs to, in the form of ``check``."""
    url = PREFECT_API_URL.value() or ""
    with get_client(sync_client=True) as client:
        wrong = list(find_weaknesses(url, client))
    if wrong:
        return False, "\n".join(f"FAIL  server    {why}\n{'':16}{SERVER_FIX}" for why in wrong)
    return True, f"ok    server    {url}"


def read_loads(profile: str, kinds: Sequence[Kind]) -> tuple[Loads, dict[Kind, str]]:
    """Return the loads of each warehouse that answers, and for each other one what is wrong."""
    loads, away = dict[Kind, dict[tuple[Color, Month], Load]](), dict[Kind, str]()
    for kind in kinds:
        try:
            loads[kind] = open_warehouse(profile, kind).loads()
        except TransientError as error:
            away[kind] = str(error)
    return loads, away


@step("plan")
def plan(wider: WiderPlan, options: MonthOptions, loads: Loads) -> list[MonthPlan]:
    """Plan many months, and write the plan as an artifact if anything is due."""
    asked, lake = wider.months, open_lake(options.profile)
    with bar("plan", "months") as show:
        plans = plan_months(
            asked,
            options,
            lake,
            loads,
            verify=wider.verify,
            wrong=wider.wrong,
            at_look=lambda done: show(done, len(asked)),
        )
    if any(plan.is_due for plan in plans):
        write_artifact("What each month needs", format_plan(plans), options.profile, "backfill-plan")
    return plans


def report_months(profile: str, colors: Sequence[Color], kinds: Sequence[Kind]) -> str:
    """Write a table of each colour's months as an artifact, one key for each lake and colour; return one of all."""
    loads = {kind: open_warehouse(profile, kind).loads() for kind in kinds}
    months = read_coverage(open_lake(profile), loads, colors=colors)
    for color, of_color in groupby(months, key=lambda month: month.color):
        its_months = list(of_color)
        table = format_coverage(its_months, kinds, partial(_link_to_quality, profile))
        table += _link_to_run_forms(color, find_gaps(its_months))
        write_artifact(f"The months of {color} in the profile {profile}", table, profile, "months", color)
    return format_coverage(months, kinds)


@step("list months")
def list_months(profile: str, colors: Sequence[Color], kinds: Sequence[Kind]) -> None:
    """Write the tables of months after this run. If that fails, log a warning: the run itself has not failed."""
    try:
        report_months(profile, colors, kinds)
    except TlcError as error:
        log.warning("%s: the table of months was not written: %s", ", ".join(colors), error)


def link_to(place: str) -> str:
    """Return an object of a lake as Markdown: a link to its page in the cloud, or a path, which no browser opens."""
    scheme, _, rest = place.partition("://")
    if scheme == "gs":
        return f"[{place}](https://storage.cloud.google.com/{rest})"
    if scheme == "s3":
        bucket, _, key = rest.partition("/")
        return f"[{place}](https://s3.console.aws.amazon.com/s3/object/{bucket}?prefix={key})"
    return f"[{place}]({place})" if rest else f"`{Path(place).absolute()}`"


def tell_age(newest: NewestMonth, profile: str) -> None:
    """Emit an event about a colour's newest month, for automations: ``nyc-tlc.newest-month.usual`` or ``….overdue``."""
    emit_event(
        f"nyc-tlc.newest-month.{'overdue' if newest.is_overdue else 'usual'}",
        {
            "prefect.resource.id": f"nyc-tlc.newest-month.{name_lake(profile)}.{newest.place}.{newest.color}",
            "prefect.resource.name": f"{newest.color} in {newest.place} of {name_lake(profile)}",
        },
        payload={"month": str(newest.month), "age": newest.age, "text": f"{newest.color}: {newest}"},
    )


def _link_to_quality(profile: str, month: CoveredMonth) -> str:
    """Return a month's name as a Markdown link to its quality report; without a UI only the name."""
    ui, key = PREFECT_UI_URL.value(), artifact_key(month.id, "quality", name_lake(profile))
    return f"[{month.name}]({ui}/artifacts/key/{key})" if ui and month.manifest else month.name


def _link_to_run_forms(color: Color, gaps: Sequence[Month]) -> str:
    """Return a line of the missing months, each a Markdown link to the run form of ``etl-month``, if it is deployed."""
    if not gaps:
        return ""
    links = [str(month) for month in gaps]
    with contextlib.suppress(ObjectNotFound), get_client(sync_client=True) as client:
        id = client.read_deployment_by_name(f"etl-month/{color}").id
        form = f"{PREFECT_UI_URL.value()}/deployments/deployment/{id}/run?parameters="
        asked = [json.dumps({"color": color, "year": month.year, "month": month.month}) for month in gaps]
        links = [f"[{month}]({form}{quote(parameters)})" for month, parameters in zip(gaps, asked, strict=True)]
    return f"\n\nMissing: {', '.join(links)}\n"


def _link_to_months(color: Color, profile: str) -> str:
    """Return a Markdown link to the table of a colour's months; empty if the run's server has no UI."""
    ui, key = PREFECT_UI_URL.value(), artifact_key("months", color, name_lake(profile))
    return f"\n[All months of {color}]({ui}/artifacts/key/{key})\n" if ui else ""


def artifact_key(*parts: str) -> str:
    """Return an artifact key that Prefect accepts: lowercase letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def write_artifact(description: str, markdown: str, profile: str, *key: str) -> None:
    """Write an artifact whose key has these parts and the lake's name; with the same key it is a new version of it."""
    create_markdown_artifact(key=artifact_key(*key, name_lake(profile)), markdown=markdown, description=description)


def report_load(manifest: Manifest, profile: str, answers: Sequence[Answer]) -> None:
    """Write the month's loads, with an example query, as an artifact, one key for each lake and month."""
    markdown = format_answers_markdown(manifest, answers)
    key = (manifest.color, manifest.month, "queryable")
    write_artifact(f"Where {manifest.name} can be queried", markdown, profile, *key)


join_prefect()
