"""Runs the planned months of a backfill on workers: one run of a deployment a month, wherever a worker takes it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

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
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL

from nyc_tlc.backfill.plan import BackfillOptions, MonthPlan
from nyc_tlc.backfill.record import MonthRecord, record_month
from nyc_tlc.errors import ConfigurationError, NotPublished
from nyc_tlc.lake.keys import Keys
from nyc_tlc.orchestration.progress import BackfillProgress
from nyc_tlc.profiles.opening import open_lake
from nyc_tlc.source.location import name_source

log = logging.getLogger(__name__)

#: Seconds between two looks at the runs on workers.
POLL_INTERVAL = 2.0
#: How often a month whose run crashed is submitted again.
RESUBMISSIONS = 2
#: Seconds that an automation has to reschedule a run that has crashed, before it is submitted again.
RESCHEDULE_GRACE = 30.0
#: Seconds after which a month is given up whose run is due and not running: no worker takes it, its machine was lost
#: before it started, or someone has paused it.
NOT_RUNNING_LIMIT = 1800.0

ACTIVE_STATES = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]


def run_on_workers(plans: Sequence[MonthPlan], options: BackfillOptions, via: str, at_once: int) -> list[MonthRecord]:
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
    progress = BackfillProgress(len(due))
    with get_client(sync_client=True) as client:
        deployments = {color: _deployment(client, f"{via}/{color}") for color in {plan.color for plan in due}}
        waiting = [_MonthRun(plan, deployments[plan.color], options) for plan in due]
        running: list[_MonthRun] = []
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(waiting.pop(0))
                running[-1].submit(client)
            time.sleep(POLL_INTERVAL)
            ids = FlowRunFilterId(any_=[child.run_id for child in running])
            runs = {run.id: run for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(id=ids))}
            for child in list(running):
                if ended := child.read_result(client, runs.get(child.run_id)):
                    running.remove(child)
                    progress(ended)
    return progress.ended


class _MonthRun:
    """One month on a worker.

    Attributes:
        run_id: The deployment's run that is at work on it.
    """

    def __init__(self, plan: MonthPlan, deployment: DeploymentResponse, options: BackfillOptions) -> None:
        self._plan, self._deployment, self._options = plan, deployment, options
        self._attempt, self._crashed_at = 0, 0.0
        self.run_id = UUID(int=0)

    def submit(self, client: SyncPrefectClient) -> None:
        """Ask for a run, unless one is at work on the month."""
        plan = self._plan
        name = f"{plan.color}-{plan.month}"
        parameters: dict[str, Any] = {
            "color": plan.color,
            "year": plan.month.year,
            "month": plan.month.month,
            "warehouses": list(plan.warehouses),
            "profile": self._options.profile,
            # Parameters are there for all to read, so a secret reaches workers by a variable of theirs.
            "source": name_source(self._options.source),
            "layout": self._options.layout,
            "force": self._options.force,
            "verify": self._options.verify,
        }
        at_work = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                name=FlowRunFilterName(any_=[name]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=ACTIVE_STATES)),
            ),
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[self._deployment.id])),
        )
        # One that does something else (another source, another warehouse) is not this month's run.
        if same := [run for run in at_work if parameters.items() <= run.parameters.items()]:
            self.run_id = same[0].id
            log.info("%s: a run is at work on it already", plan.name)
            return
        self._attempt += 1
        run = run_deployment(
            self._deployment.id,
            parameters=parameters,
            flow_run_name=name,
            timeout=0,
            as_subflow=True,
            # Another attempt is another key: a month that failed can be asked for again.
            idempotency_key=f"{flow_run.id}-{flow_run.run_count}-{name}-{self._attempt}",
        )
        self.run_id = cast(FlowRun, run).id

    def read_result(self, client: SyncPrefectClient, run: FlowRun | None) -> MonthRecord | None:
        """What became of the month, None while it is under way; one whose run crashed is submitted again.

        Args:
            client: The server's.
            run: The run as it is now, None when someone has deleted it.
        """
        if run is None or run.state is None:
            return record_month(self._plan, "failed", error="its run was deleted")
        if not run.state.is_final():
            self._crashed_at = 0.0
            if not run.state.is_running() and _seconds_due(run) > NOT_RUNNING_LIMIT:
                why = f"its run is {run.state.name} and has not been running for {NOT_RUNNING_LIMIT:.0f} s"
                return record_month(self._plan, "failed", error=f"{why}: is a worker there, is it paused?")
            return None
        took = run.total_run_time.total_seconds()
        if run.state.is_completed():
            if run.state.name == NotPublished.__name__:
                return record_month(self._plan, "unpublished", seconds=took, error=run.state.message)
            return record_month(self._plan, "done", self._rows(), took)
        if run.state.is_crashed() and self._attempt <= RESUBMISSIONS:
            # An automation may be about to reschedule it, and the same month is not to be done twice.
            self._crashed_at = self._crashed_at or time.monotonic()
            if time.monotonic() - self._crashed_at > RESCHEDULE_GRACE:
                log.warning("%s: its run crashed; submitting it again", self._plan.name)
                self.submit(client)
            return None
        return record_month(self._plan, "failed", seconds=took, error=run.state.message or run.state.name)

    def _rows(self) -> int | None:
        manifest = open_lake(self._options.profile).manifest(Keys(self._plan.color, self._plan.month))
        return manifest.clean.rows if manifest else None


def _seconds_due(run: FlowRun) -> float:
    """For how long a run is in its state, as far as it is due."""
    moments = (run.state.timestamp if run.state else None, run.next_scheduled_start_time)
    return min((datetime.now(UTC) - moment).total_seconds() for moment in moments if moment)


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
