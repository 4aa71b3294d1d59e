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
from nyc_tlc.planning.troubles import name_trouble_of_run
from nyc_tlc.profiles.opening import open_lake
from nyc_tlc.source.location import name_source

log = logging.getLogger(__name__)

#: Seconds between two reads of the runs' states.
POLL_INTERVAL = 2.0
#: Seconds to wait for the automation that schedules a crashed run again, before its month fails.
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
        waiting, running = list(due), dict[UUID, MonthPlan]()
        crashed_at: dict[UUID, float] = {}
        while waiting or running:
            while waiting and len(running) < at_once:
                plan = waiting.pop(0)
                running[_submit(client, plan, deployments[plan.color], options)] = plan
            time.sleep(POLL_INTERVAL)
            ids = FlowRunFilter.model_validate({"id": {"any_": list(running)}})
            runs = {run.id: run for run in client.read_flow_runs(flow_run_filter=ids)}
            for run_id, plan in list(running.items()):
                run = runs.get(run_id)
                if run and run.state and run.state.is_crashed():
                    if time.monotonic() - crashed_at.setdefault(run_id, time.monotonic()) <= RESCHEDULE_GRACE:
                        continue
                else:
                    crashed_at.pop(run_id, None)
                if ended := _read_result(plan, run, options):
                    del running[run_id]
                    yield ended


def _submit(client: SyncPrefectClient, plan: MonthPlan, deployment: DeploymentResponse, options: MonthOptions) -> UUID:
    """Submit a month's run, unless it has an active one. Return the run's id."""
    name = f"{plan.color}-{plan.month}"
    parameters: dict[str, Any] = {
        "color": plan.color,
        "year": plan.month.year,
        "month": plan.month.month,
        "warehouses": list(plan.warehouses),
        "profile": options.profile,
        # Everyone can read parameters, so workers get a source with a secret from their own variable.
        "source": name_source(options.source),
        "layout": options.layout,
        "force": options.force,
        "verify": options.verify,
    }
    active = client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate(
            {"name": {"any_": [name]}, "state": {"type": {"any_": ACTIVE_STATES}}}
        ),
        deployment_filter=DeploymentFilter.model_validate({"id": {"any_": [deployment.id]}}),
    )
    # A run with other parameters (another source, another warehouse) does something else.
    if same := [run for run in active if parameters.items() <= run.parameters.items()]:
        log.info("%s: waiting for its run that is active already", plan.name)
        return same[0].id
    run = run_deployment(
        deployment.id,
        parameters=parameters,
        flow_run_name=name,
        timeout=0,
        as_subflow=True,
        # If this run is retried, its months get new runs; by default Prefect would return the failed ones.
        idempotency_key=f"{flow_run.id}-{flow_run.run_count}-{name}",
    )
    return cast(FlowRun, run).id


def _read_result(plan: MonthPlan, run: FlowRun | None, options: MonthOptions) -> MonthRecord | None:
    """Return the month's record, None while its run is not finished; the run is None if someone deleted it."""
    if run is None or run.state is None:
        return record_month(plan, "failed", error="its run was deleted")
    if not run.state.is_final():
        if not run.state.is_running() and _seconds_due(run) > NOT_RUNNING_LIMIT:
            why = f"its run is {run.state.name} and has not been running for {NOT_RUNNING_LIMIT:.0f} s"
            return record_month(plan, "failed", error=f"{why}: check its worker, and whether it is paused")
        return None
    took = run.total_run_time.total_seconds()
    if run.state.name == NotPublished.__name__:
        return record_month(plan, "unpublished", seconds=took, error=run.state.message)
    if run.state.is_completed():
        manifest = open_lake(options.profile).manifest(Keys(plan.color, plan.month))
        return record_month(plan, "done", manifest.clean.rows if manifest else None, took)
    why = str(run.state.message or run.state.name)
    return record_month(plan, "failed", seconds=took, error=why, trouble=name_trouble_of_run(why))


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
