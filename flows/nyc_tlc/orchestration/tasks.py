"""The Prefect tasks: names, progress and artifacts around the library's plain functions.

Tasks exchange paths and small records. Nothing is persisted: the data lake is where results are, and
its manifests say which. What time can heal is retried further down, where a transfer can go on from
where it broke and a Retry-After is honoured; only a load, which is one transaction, is run again as a whole.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar, cast
from urllib.parse import urlsplit
from uuid import UUID

from prefect import Task, task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.runtime import deployment, flow_run
from prefect.states import Completed
from prefect.tasks import exponential_backoff

from nyc_tlc.backfill.month_plan import Plan, plan_month
from nyc_tlc.backfill.plan import MonthPlan, plan_months
from nyc_tlc.backfill.report import plan_table
from nyc_tlc.cleaning.clean import CleanedMonth, Layout, clean_month
from nyc_tlc.cleaning.publish import publish_month
from nyc_tlc.contract.contract import read_contract
from nyc_tlc.errors import NotPublished, TransientError
from nyc_tlc.lake.clean_file import CleanFile
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.months import NEW_YORK, Color, Month
from nyc_tlc.orchestration.progress import Bar
from nyc_tlc.orchestration.report import markdown, queryable_markdown
from nyc_tlc.orchestration.run_logs import join_prefect
from nyc_tlc.profiles.connections import Finding, check_part
from nyc_tlc.profiles.opening import open_lake, open_warehouse
from nyc_tlc.settings import read_settings
from nyc_tlc.source.fetch import FetchedFile, fetch_month, scratch_folder
from nyc_tlc.source.location import RemoteFile
from nyc_tlc.source.published import PUBLICATION_LAG
from nyc_tlc.warehouse.load import Answer, ask, load_month, published
from nyc_tlc.warehouse.lookups import read_lookups
from nyc_tlc.warehouse.tables import LOADS, trip_tables, views
from nyc_tlc.warehouse.warehouse import Kind, Load, Warehouse

#: One month at a time is cleaned in a process: it has the processor's cores and the memory to itself.
_cleaning = threading.Lock()


@task(task_run_name="look for {color} {month}", cache_policy=NO_CACHE, persist_result=False)
def look(color: Color, month: Month | None, source: str, profile: str, layout: Layout, force: bool) -> Plan:
    """Look at the source and the lake: is there anything to do?"""
    days = layout == "day"
    return plan_month(source, color, month, open_lake(profile), days=days, force=force, up_to=_up_to())


@task(task_run_name="fetch {remote.name}", cache_policy=NO_CACHE, persist_result=False)
def fetch(remote: RemoteFile, folder: Path) -> FetchedFile:
    """Bring the month to local disk and verify that it is what it says."""
    host = urlsplit(remote.url).hostname
    with _in_turn(f"taxi-source-{host}") if host else nullcontext(), Bar(f"fetch {remote.name}") as bar:
        return fetch_month(remote, folder, _Progress(remote, bar))


@task(task_run_name="clean {fetched.remote.name}", cache_policy=NO_CACHE, persist_result=False)
def clean(fetched: FetchedFile, profile: str, layout: Layout) -> CleanedMonth:
    """Read, judge and write the month: clean and quarantine, staged in the lake."""
    terms = read_contract(fetched.remote.color)
    with _cleaning:
        return clean_month(fetched, terms, open_lake(profile), layout=layout, strict=read_settings().strict)


@task(task_run_name="publish {cleaned.fetched.remote.name}", cache_policy=NO_CACHE, persist_result=False)
def publish(cleaned: CleanedMonth, profile: str, started_at: datetime) -> Manifest:
    """Check the accounts, make the staged month the month, and write its manifest last."""
    terms = read_contract(cleaned.fetched.remote.color)
    return publish_month(cleaned, terms, open_lake(profile), started_at, flow_run.id)


@task(task_run_name="report {manifest.name}", cache_policy=NO_CACHE, persist_result=False)
def report(manifest: Manifest, profile: str) -> None:
    """Leave the quality report as an artifact, one key a month."""
    create_markdown_artifact(
        key=f"{manifest.color}-{manifest.month}-quality",
        markdown=markdown(manifest, open_lake(profile)),
        description=f"What was done with {manifest.name}",
    )


@task(task_run_name="find {color} {month} in the lake", cache_policy=NO_CACHE, persist_result=False)
def find(color: Color, month: Month | None, profile: str) -> Manifest:
    """A month the lake has; None is the newest."""
    return published(open_lake(profile), color, month, profile)


def _in_turn(limit: str) -> AbstractContextManager[None]:
    """Wait for a place where the server has such a limit.

    Prefect would take that there is none for an answer too, but only to an attempt to take a place, which is a write:
    on a busy SQLite it is refused and tried again after two seconds.
    """
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(limit)
        except ObjectNotFound:
            return nullcontext()
    return concurrency(limit)


def _time_can_heal(_task: object, _run: object, state: State[object]) -> bool:
    return isinstance(state.result(raise_on_failure=False), TransientError)


@task(
    task_run_name="load {manifest.name} into {kind}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_delay_seconds=exponential_backoff(backoff_factor=5),
    retry_jitter_factor=1,
    retry_condition_fn=_time_can_heal,
)
def load(manifest: Manifest, profile: str, kind: Kind, force: bool) -> Answer:
    """Make the month's rows in a warehouse those of the lake, and ask it a first question."""
    warehouse = open_warehouse(profile, kind)
    loaded, new = _load_into(warehouse, manifest, profile, force)
    return ask(loaded, new, warehouse)


def _load_into(warehouse: Warehouse, manifest: Manifest, profile: str, force: bool) -> tuple[Load, bool]:
    file = CleanFile(manifest, open_lake(profile), read_contract(manifest.color))
    with _in_turn(f"taxi-warehouse-{warehouse.kind}"):
        return load_month(file, warehouse, flow_run.id, force=force)


@task(task_run_name="load lookups into {kind}", cache_policy=NO_CACHE, persist_result=False)
def load_lookups(zones: bytes | None, profile: str, kind: Kind) -> str:
    """Make the lookup tables those of today; says where."""
    warehouse = open_warehouse(profile, kind)
    tables = trip_tables()
    rows = read_lookups(zones)
    warehouse.prepare((*tables.values(), LOADS), rows, views(tables))
    warehouse.replace_lookups(rows)
    return warehouse.place


@task(task_run_name="check {part} of {profile}", cache_policy=NO_CACHE, persist_result=False)
def check(part: Literal["lake"] | Kind, profile: str) -> Finding:
    """Try one part of a profile as a run would use it."""
    return check_part(part, profile)


@task(task_run_name="plan", cache_policy=NO_CACHE, persist_result=False)
def plan(
    asked: list[tuple[Color, Month]],
    source: str,
    profile: str,
    warehouses: Sequence[Kind],
    layout: Layout,
    force: bool,
) -> list[MonthPlan]:
    """Decide what each of many months needs, and leave the table as an artifact."""
    lake = open_lake(profile)
    loads = {kind: open_warehouse(profile, kind).loads() for kind in warehouses}
    with Bar("plan") as bar:
        plans = plan_months(
            asked, source, lake, loads, days=layout == "day", force=force, at_look=lambda done: bar(done, len(asked))
        )
    create_markdown_artifact(key="backfill-plan", markdown=plan_table(plans), description="What each month needs")
    return plans


@dataclass(frozen=True)
class MonthDone:
    """A month of a backfill that is done: its clean rows, and how long it took."""

    rows: int
    seconds: float


@task(task_run_name="{planned.name}", cache_policy=NO_CACHE, persist_result=False)
def month(planned: MonthPlan, profile: str, layout: Layout, warehouses: Sequence[Kind], force: bool) -> MonthDone:
    """One planned month all the way: into the lake where it is due there, then into the warehouses.

    Its steps are no tasks of their own: a task costs what a small month does.
    """
    if planned.plan is None:
        raise TransientError(planned.why)
    began = time.monotonic()
    manifest, _ = ingest(planned.plan, profile, layout, datetime.now(UTC), as_tasks=False)
    for kind in warehouses:
        _load_into(open_warehouse(profile, kind), manifest, profile, force)
    return MonthDone(manifest.clean.rows, time.monotonic() - began)


def report_backfill(name: str, told: str) -> None:
    """Leave what became of every month as an artifact, one key a backfill."""
    key = "backfill-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    create_markdown_artifact(key=key, markdown=told, description=f"What became of the months of backfill {name}")


def report_load(manifest: Manifest, answers: Sequence[Answer]) -> None:
    """Leave what can be queried as an artifact, one key a month."""
    create_markdown_artifact(
        key=f"{manifest.color}-{manifest.month}-queryable",
        markdown=queryable_markdown(manifest, answers),
        description=f"Where {manifest.name} can be queried",
    )


P = ParamSpec("P")
R = TypeVar("R")


def _step(step: Task[P, R], as_task: bool) -> Callable[P, R]:
    return step if as_task else step.fn


def ingest(
    plan: Plan, profile: str, layout: Layout, started_at: datetime, *, as_tasks: bool = True
) -> tuple[Manifest, bool]:
    """Bring a planned month into the lake: fetch, clean, publish, report; nothing where it is current.

    Args:
        plan: What is to be done.
        profile: Where the lake is.
        layout: How the clean rows lie there.
        started_at: When the run began.
        as_tasks: Whether each step is a task of its own.

    Returns:
        The month's manifest, and whether it is new.
    """
    if plan.remote is None:
        raise NotPublished(plan.why)
    if plan.manifest and plan.action == "current":
        return plan.manifest, False
    with scratch_folder() as folder:
        fetched = _step(fetch, as_tasks)(plan.remote, folder)
        if plan.manifest and plan.settled_by(fetched):
            return plan.manifest, False
        cleaned = _step(clean, as_tasks)(fetched, profile, layout)
    manifest = _step(publish, as_tasks)(cleaned, profile, started_at)
    _step(report, as_tasks)(manifest, profile)
    return manifest, True


class _Progress:
    """Shows a download on the terminal, and in the Prefect UI when it takes more than a moment."""

    EVERY = 2.0

    def __init__(self, remote: RemoteFile, bar: Bar) -> None:
        self._remote, self._bar = remote, bar
        self._next = time.monotonic() + self.EVERY
        self._artifact: UUID | None = None

    def __call__(self, done: int, total: int | None) -> None:
        self._bar(done, total)
        finished = done == total and self._artifact is not None
        if not total or (time.monotonic() < self._next and not finished):
            return
        self._next = time.monotonic() + self.EVERY
        percent = 100 * done / total
        if self._artifact is None:
            description = f"Fetching {self._remote.name}: {total:,} bytes"
            self._artifact = cast(UUID, create_progress_artifact(progress=percent, description=description))
        else:
            update_progress_artifact(self._artifact, progress=percent)


def meant_for() -> Month | None:
    """The month in which a deployment's run was to start, however late it does; None for a script."""
    if deployment.id is None:
        return None
    started = flow_run.scheduled_start_time.astimezone(NEW_YORK)
    return Month(started.year, started.month)


def _up_to() -> Month | None:
    """The last month that a deployment's run can be about when none is named: so a late one does no later month."""
    month = meant_for()
    return month and month.plus(-PUBLICATION_LAG)


def backfill_name() -> str:
    """What a backfill is called: as asked, else by its months and the time."""
    given = flow_run.parameters
    if given.get("name"):
        return str(given["name"])
    months = f"last-{given['last']}" if given.get("last") else f"{given.get('start')}-{given.get('end')}"
    return f"{'-'.join(given['colors'])}-{months}-{flow_run.scheduled_start_time:%Y%m%dT%H%M%S}"


def run_name() -> str:
    """The flow run's name: the month that was asked for."""
    given = flow_run.parameters
    year, month = given.get("year"), given.get("month")
    return f"{given['color']}-{Month(year, month)}" if year and month else f"{given['color']}-newest"


def name_run(month: RemoteFile | Manifest) -> None:
    """Name the flow run for its month, where that was only found out now."""
    name = f"{month.color}-{month.month}"
    if flow_run.name != name:
        with get_client(sync_client=True) as client:
            client.update_flow_run(flow_run.id, name=name)


def not_published(plan: Plan) -> State[None]:
    """The end of a run whose month isn't there yet: nothing failed."""
    return Completed(name=NotPublished.__name__, message=plan.why)


def nothing_published(told: str) -> State[None]:
    """The end of a backfill of which no month is there yet."""
    return Completed(name=NotPublished.__name__, message=told)


join_prefect()
