"""Run the planned months of a backfill on workers: one run of a deployment for each month."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL

from nyc_tlc.errors import ConfigurationError, NotPublished
from nyc_tlc.lake.keys import Keys
from nyc_tlc.planning.month_plan import MonthPlan
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.planning.record import MonthRecord, record_month
from nyc_tlc.profiles.opening import open_lake
from nyc_tlc.source.location import name_source

log = logging.getLogger(__name__)

#: Seconds between two reads of the runs' states.
POLL_INTERVAL = 2.0
#: How many times a month whose run crashed is submitted again.
RESUBMISSIONS = 2
#: Seconds to wait for an automation to reschedule a crashed run, before the month is submitted again.
RESCHEDULE_GRACE = 30.0
#: Seconds after which a month fails if its run is due and not running: no worker takes it, its machine was lost before
#: it started, or someone paused it.
NOT_RUNNING_LIMIT = 1800.0

ACTIVE_STATES = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]


def run_on_workers(due: Sequence[MonthPlan], options: MonthOptions, via: str, at_once: int) -> Iterator[MonthRecord]:
    """Run the due months as runs of the deployments ``via/color``, and yield their records as they finish.

    A month that already has an active run with the same parameters is not submitted; that run is waited for.

    Args:
        due: The months.
        options: The backfill's options.
        via: The flow's name.
        at_once: How many runs are submitted and not finished at the same time.

    Raises:
        ConfigurationError: when there is no server or no deployment, or when this run holds a slot that its runs need.
    """
    if not PREFECT_API_URL.value():
        raise ConfigurationError(
            "--via needs a Prefect server with workers", fix="set PREFECT_API_URL to its address, http://…/api"
        )
    with get_client(sync_client=True) as client:
        deployments = {color: _find_deployment(client, f"{via}/{color}") for color in {plan.color for plan in due}}
        waiting = [_MonthRun(plan, deployments[plan.color], options) for plan in due]
        running: list[_MonthRun] = []
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(waiting.pop(0))
                running[-1].submit(client)
            time.sleep(POLL_INTERVAL)
            ids = FlowRunFilter.model_validate({"id": {"any_": [child.run_id for child in running]}})
            runs = {run.id: run for run in client.read_flow_runs(flow_run_filter=ids)}
            for child in list(running):
                if ended := child.read_result(client, runs.get(child.run_id)):
                    running.remove(child)
                    yield ended


class _MonthRun:
    """One month on a worker.

    Attributes:
        run_id: The id of the month's run.
    """

    def __init__(self, plan: MonthPlan, deployment: DeploymentResponse, options: MonthOptions) -> None:
        self._plan, self._deployment, self._options = plan, deployment, options
        self._attempt, self._crashed_at = 0, 0.0
        self.run_id = UUID(int=0)

    def submit(self, client: SyncPrefectClient) -> None:
        """Submit a run, unless the month has an active one."""
        plan = self._plan
        name = f"{plan.color}-{plan.month}"
        parameters: dict[str, Any] = {
            "color": plan.color,
            "year": plan.month.year,
            "month": plan.month.month,
            "warehouses": list(plan.warehouses),
            "profile": self._options.profile,
            # Everyone can read parameters, so workers get a source with a secret from their own variable.
            "source": name_source(self._options.source),
            "layout": self._options.layout,
            "force": self._options.force,
            "verify": self._options.verify,
        }
        active = client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate(
                {"name": {"any_": [name]}, "state": {"type": {"any_": ACTIVE_STATES}}}
            ),
            deployment_filter=DeploymentFilter.model_validate({"id": {"any_": [self._deployment.id]}}),
        )
        # A run with other parameters (another source, another warehouse) does something else.
        if same := [run for run in active if parameters.items() <= run.parameters.items()]:
            self.run_id = same[0].id
            log.info("%s: waiting for its run that is active already", plan.name)
            return
        self._attempt += 1
        run = run_deployment(
            self._deployment.id,
            parameters=parameters,
            flow_run_name=name,
            timeout=0,
            as_subflow=True,
            # A new key for each attempt, or Prefect would return the failed run.
            idempotency_key=f"{flow_run.id}-{flow_run.run_count}-{name}-{self._attempt}",
        )
        self.run_id = cast(FlowRun, run).id

    def read_result(self, client: SyncPrefectClient, run: FlowRun | None) -> MonthRecord | None:
        """Return the month's record, None while its run is not finished. Submit it again if the run crashed.

        ``run`` is None if someone deleted the run.
        """
        if run is None or run.state is None:
            return record_month(self._plan, "failed", error="its run was deleted")
        if not run.state.is_final():
            self._crashed_at = 0.0
            if not run.state.is_running() and _seconds_due(run) > NOT_RUNNING_LIMIT:
                why = f"its run is {run.state.name} and has not been running for {NOT_RUNNING_LIMIT:.0f} s"
                return record_month(self._plan, "failed", error=f"{why}: check its worker, and whether it is paused")
            return None
        took = run.total_run_time.total_seconds()
        if run.state.is_completed():
            if run.state.name == NotPublished.__name__:
                return record_month(self._plan, "unpublished", seconds=took, error=run.state.message)
            return record_month(self._plan, "done", self._read_rows(), took)
        if run.state.is_crashed() and self._attempt <= RESUBMISSIONS:
            # Wait for an automation that may reschedule the run, or the month would run twice.
            self._crashed_at = self._crashed_at or time.monotonic()
            if time.monotonic() - self._crashed_at > RESCHEDULE_GRACE:
                log.warning("%s: its run crashed; submitting it again", self._plan.name)
                self.submit(client)
            return None
        return record_month(self._plan, "failed", seconds=took, error=run.state.message or run.state.name)

    def _read_rows(self) -> int | None:
        manifest = open_lake(self._options.profile).manifest(Keys(self._plan.color, self._plan.month))
        return manifest.clean.rows if manifest else None


def _seconds_due(run: FlowRun) -> float:
    """Return for how many seconds a run has been in its state and due to start."""
    moments = (run.state.timestamp if run.state else None, run.next_scheduled_start_time)
    return min((datetime.now(UTC) - moment).total_seconds() for moment in moments if moment)


def _find_deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse:
    """Return a deployment whose runs this run can wait for.

    Raises:
        ConfigurationError: when it does not exist, or when it has this run's work pool: this run would hold a slot
            while its runs wait for one, possibly for ever.
    """
    try:
        deployment = client.read_deployment_by_name(name)
    except ObjectNotFound:
        raise ConfigurationError(
            f"the server has no deployment {name}", fix="create it: prefect --no-prompt deploy --all"
        ) from None
    pool = client.read_flow_run(UUID(flow_run.id)).work_pool_name
    if pool and pool == deployment.work_pool_name:
        raise ConfigurationError(
            f"this run holds a slot of the work pool {pool}, which the runs of {name} need too",
            fix="run it as a script, or from a deployment with another work pool",
        )
    return deployment
