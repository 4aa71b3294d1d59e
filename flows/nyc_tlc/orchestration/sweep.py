"""Runs the planned months of a backfill: here as tasks side by side, or elsewhere as runs of a deployment."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterName,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL
from prefect.task_runners import ThreadPoolTaskRunner

from nyc_tlc.backfill.plan import MonthPlan
from nyc_tlc.backfill.record import MonthRecord, Result, Run
from nyc_tlc.cleaning.clean import Layout
from nyc_tlc.errors import ConfigurationError, NotPublished
from nyc_tlc.lake.keys import Keys
from nyc_tlc.orchestration import tasks
from nyc_tlc.profiles.opening import open_lake
from nyc_tlc.warehouse.warehouse import Kind

log = logging.getLogger(__name__)

#: How often the runs on workers are asked about, in seconds.
ASK_EVERY = 2.0
#: How often a month whose run crashed is submitted again.
ANEW = 2
#: A run that has crashed may be rescheduled by an automation; so long it is given, in seconds.
GRACE = 30.0

#: A run that a lost machine was about to start stays pending for ever; so long it is waited for, in seconds.
PENDING = 1800.0

ACTIVE = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]


@dataclass(frozen=True)
class Terms:
    """What all months of a backfill have in common; the words are those of its parameters."""

    source: str
    profile: str
    warehouses: tuple[Kind, ...]
    layout: Layout
    force: bool


def begin(plans: Sequence[MonthPlan], terms: Terms, reason: str, started_at: datetime) -> Run:
    """A run's record before its first month."""
    return Run(
        reason=reason,
        flow_run_id=flow_run.id,
        started_at=started_at,
        profile=terms.profile,
        source=terms.source,
        warehouses=terms.warehouses,
        months=tuple(record(plan) for plan in plans),
    )


def finish(run: Run, ended: Iterable[MonthRecord]) -> Run:
    """The record once the months have ended."""
    by_month = {(each.color, each.month): each for each in ended}
    months = tuple(by_month.get((each.color, each.month), each) for each in run.months)
    return run.model_copy(update={"months": months, "finished_at": datetime.now(UTC)})


def record(
    plan: MonthPlan,
    result: Result | None = None,
    rows: int | None = None,
    seconds: float | None = None,
    error: str | None = None,
) -> MonthRecord:
    """What is to be said of a month; one with nothing due is at its end at once."""
    if not plan.is_due:
        result = "unpublished" if plan.need == "unpublished" else "current"
        rows = plan.plan.manifest.clean.rows if plan.plan and plan.plan.manifest else None
    told = {"color": plan.color, "month": str(plan.month), "need": plan.need, "why": plan.why}
    took = None if seconds is None else round(seconds, 2)
    return MonthRecord.model_validate({**told, "result": result, "rows": rows, "seconds": took, "error": error})


def here(plans: Sequence[MonthPlan], terms: Terms, at_once: int) -> list[MonthRecord]:
    """Run the due months in this process, so many at once; one that fails does not stop the rest."""
    due = [plan for plan in plans if plan.is_due]
    progress = _Progress(len(due))
    runner: ThreadPoolTaskRunner[tasks.MonthDone] = ThreadPoolTaskRunner(max_workers=at_once)
    with runner:
        futures: dict[PrefectFuture[tasks.MonthDone], MonthPlan] = {
            runner.submit(
                tasks.month,
                {
                    "planned": plan,
                    "profile": terms.profile,
                    "layout": terms.layout,
                    "warehouses": plan.warehouses,
                    "force": terms.force,
                },
            ): plan
            for plan in due
        }
        for future in as_completed(list(futures)):
            outcome = future.result(raise_on_failure=False)
            if isinstance(outcome, tasks.MonthDone):
                progress(record(futures[future], "done", outcome.rows, outcome.seconds))
            else:
                progress(record(futures[future], "failed", error=str(outcome)))
    return progress.ended


def on_workers(plans: Sequence[MonthPlan], terms: Terms, via: str, at_once: int) -> list[MonthRecord]:
    """Run the due months as runs of a deployment, so many submitted and not yet ended; wait for them all.

    A month that another run is at work on is not submitted a second time but waited for.

    Raises:
        ConfigurationError: without a server or deployments, or when this run holds a slot its children need.
    """
    if not PREFECT_API_URL.value():
        raise ConfigurationError(
            "--via needs a Prefect server with workers", fix="set PREFECT_API_URL to its address, http://…/api"
        )
    due = [plan for plan in plans if plan.is_due]
    progress = _Progress(len(due))
    with get_client(sync_client=True) as client:
        deployments = {color: _deployment(client, f"{via}/{color}") for color in {plan.color for plan in due}}
        waiting = [_Child(plan, deployments[plan.color], terms) for plan in due]
        running: list[_Child] = []
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(waiting.pop(0))
                running[-1].submit(client)
            time.sleep(ASK_EVERY)
            ids = FlowRunFilterId(any_=[child.run_id for child in running])
            runs = {run.id: run for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(id=ids))}
            for child in list(running):
                if ended := child.ended(client, runs.get(child.run_id)):
                    running.remove(child)
                    progress(ended)
    return progress.ended


class _Child:
    """One month on a worker.

    Attributes:
        run_id: The deployment's run that is at work on it.
    """

    def __init__(self, plan: MonthPlan, deployment: DeploymentResponse, terms: Terms) -> None:
        self._plan, self._deployment, self._terms = plan, deployment, terms
        self._attempt, self._crashed_at = 0, 0.0
        self.run_id = UUID(int=0)

    def submit(self, client: SyncPrefectClient) -> None:
        """Ask for a run, unless one is at work on the month."""
        plan, terms = self._plan, self._terms
        name = f"{plan.color}-{plan.month}"
        at_work = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                name=FlowRunFilterName(any_=[name]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=ACTIVE)),
            ),
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[self._deployment.id])),
            limit=1,
        )
        if at_work:
            self.run_id = at_work[0].id
            log.info("%s: a run is at work on it already", plan.name)
            return
        self._attempt += 1
        run = run_deployment(
            self._deployment.id,
            parameters={
                "color": plan.color,
                "year": plan.month.year,
                "month": plan.month.month,
                "warehouses": list(plan.warehouses),
                "profile": terms.profile,
                "source": terms.source,
                "layout": terms.layout,
                "force": terms.force,
            },
            flow_run_name=name,
            timeout=0,
            as_subflow=True,
            # Another attempt is another key: a month that failed can be asked for again.
            idempotency_key=f"{flow_run.id}-{flow_run.run_count}-{name}-{self._attempt}",
        )
        self.run_id = cast(FlowRun, run).id

    def ended(self, client: SyncPrefectClient, run: FlowRun | None) -> MonthRecord | None:
        """What became of the month, None while it is under way; one whose run crashed is submitted again."""
        if run is None or run.state is None or not run.state.is_final():
            self._crashed_at = 0.0
            if run and run.state and run.state.is_pending() and _age(run.state) > PENDING:
                return record(self._plan, "failed", error=f"pending for {PENDING:.0f} s; is its machine lost?")
            return None
        took = run.total_run_time.total_seconds()
        if run.state.is_completed():
            if run.state.name == NotPublished.__name__:
                return record(self._plan, "unpublished", seconds=took, error=run.state.message)
            return record(self._plan, "done", self._rows(), took)
        if run.state.is_crashed() and self._attempt <= ANEW:
            # An automation may be about to reschedule it, and the same month is not to be done twice.
            self._crashed_at = self._crashed_at or time.monotonic()
            if time.monotonic() - self._crashed_at > GRACE:
                log.warning("%s: its run crashed; submitting it again", self._plan.name)
                self.submit(client)
            return None
        return record(self._plan, "failed", seconds=took, error=run.state.message or run.state.name)

    def _rows(self) -> int | None:
        manifest = open_lake(self._terms.profile).manifest(Keys(self._plan.color, self._plan.month))
        return manifest.clean.rows if manifest else None


def _age(state: State) -> float:
    return (datetime.now(UTC) - state.timestamp).total_seconds()


def _deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse:
    """A deployment whose runs this one may wait for.

    Raises:
        ConfigurationError: when there is none, or when it has this run's work pool: a run that waits in a slot for
            runs that wait for a slot waits for ever.
    """
    try:
        deployment = client.read_deployment_by_name(name)
    except ObjectNotFound:
        raise ConfigurationError(
            f"the server has no deployment {name}", fix="make them: prefect --no-prompt deploy --all"
        ) from None
    pool = client.read_flow_run(UUID(flow_run.id)).work_pool_name
    if pool and pool == deployment.work_pool_name:
        raise ConfigurationError(
            f"this run has a slot of the work pool {pool} that the runs of {name} need",
            fix="run it as a script, or from a deployment with another work pool",
        )
    return deployment


class _Progress:
    """Tells how far a backfill is: in the log, and in the UI.

    Attributes:
        ended: What became of the months so far.
    """

    def __init__(self, total: int) -> None:
        self.ended: list[MonthRecord] = []
        self._total = total
        told = f"{total} months to do"
        self._artifact = cast(UUID, create_progress_artifact(progress=0.0, description=told)) if total else None

    def __call__(self, ended: MonthRecord) -> None:
        self.ended.append(ended)
        done = len(self.ended)
        if self._artifact:
            update_progress_artifact(self._artifact, progress=100 * done / self._total)
        level = logging.WARNING if ended.result == "failed" else logging.INFO
        told = ended.error if ended.result == "failed" else f"{ended.rows or 0:,} rows"
        log.log(level, "%s %s: %s, %s (%s of %s)", ended.color, ended.month, ended.result, told, done, self._total)
