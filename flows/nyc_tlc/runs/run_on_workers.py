"""Run the planned months of a backfill on workers: runs of a deployment, each with one month or several."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
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

from nyc_tlc.errors import ArgumentError, ConfigurationError, NotPublished
from nyc_tlc.lake.keys import Keys
from nyc_tlc.month import Color
from nyc_tlc.planning.month_plan import MonthPlan
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.planning.record import MonthRecord, read_runs, record_month
from nyc_tlc.planning.troubles import name_trouble_of_run
from nyc_tlc.profiles.opening import open_lake
from nyc_tlc.runs.limits import warn_of_pools
from nyc_tlc.source.location import name_source

log = logging.getLogger(__name__)

#: The server answers with so many runs at most.
MOST_AT_ONCE = 200
#: Seconds between two reads of the runs' states.
POLL_INTERVAL = 2.0
#: Seconds to wait for the automation that schedules a crashed run again, before its months fail.
RESCHEDULE_GRACE = 30.0
#: Seconds after which the months of a run fail if it is due and not running: no worker takes it, its machine was lost
#: before it started, or someone paused it.
NOT_RUNNING_LIMIT = 1800.0

ACTIVE_STATES = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]


def run_on_workers(
    due: Sequence[MonthPlan], options: MonthOptions, via: str, at_once: int, per_run: int = 1
) -> Iterator[MonthRecord]:
    """Run the due months as runs of the deployments ``via/color``; return an iterator of their records as they finish.

    A month that an active run with the same parameters has is not submitted; that run is waited for.

    Args:
        via: The flow's name: one that takes one month, or ``backfill``.
        at_once: How many runs are submitted and not finished at the same time.
        per_run: How many months a run has at most; all are of one colour.

    Raises:
        ArgumentError: when the flow takes one month and ``per_run`` is more.
        ConfigurationError: when there is no server or no deployment, or when this run holds a slot that its runs need.
    """
    if per_run > 1 and via != "backfill":
        raise ArgumentError(f"a run of {via} has one month", fix="use --via backfill with --per-run")
    if not PREFECT_API_URL.value():
        raise ConfigurationError(
            "--via needs a Prefect server with workers", fix="set PREFECT_API_URL to its address, http://…/api"
        )
    batches = split(due, per_run)
    with get_client(sync_client=True) as client:
        deployments = {color: _find_deployment(client, f"{via}/{color}") for color in {plan.color for plan in due}}
        warn_of_pools(client, deployments.values(), at_once, len(batches))
    return _run(batches, deployments, options, at_once, takes_months=via == "backfill")


def _run(
    waiting: list[list[MonthPlan]],
    deployments: dict[Color, DeploymentResponse],
    options: MonthOptions,
    at_once: int,
    takes_months: bool,
) -> Iterator[MonthRecord]:
    """Submit the batches that wait and yield the records of the runs' months."""
    with get_client(sync_client=True) as client:
        running = dict[UUID, list[MonthPlan]]()
        crashed_at: dict[UUID, float] = {}
        while waiting or running:
            active = _read_active(client, deployments.values()) if waiting and len(running) < at_once else []
            while waiting and len(running) < at_once:
                batch = waiting.pop(0)
                runs_of_batch = _submit(batch, deployments[batch[0].color], options, takes_months, active)
                for run_id, months in runs_of_batch.items():
                    running.setdefault(run_id, []).extend(months)
            time.sleep(POLL_INTERVAL)
            ids = FlowRunFilter.model_validate({"id": {"any_": list(running)}})
            runs = {run.id: run for run in client.read_flow_runs(flow_run_filter=ids)}
            for run_id, months in list(running.items()):
                run = runs.get(run_id)
                if run and run.state and run.state.is_crashed():
                    if time.monotonic() - crashed_at.setdefault(run_id, time.monotonic()) <= RESCHEDULE_GRACE:
                        continue
                else:
                    crashed_at.pop(run_id, None)
                if ended := _read_results(months, run, options):
                    del running[run_id]
                    yield from ended


def split(due: Sequence[MonthPlan], size: int) -> list[list[MonthPlan]]:
    """Split months into batches of one colour, the oldest first."""
    by_color: dict[Color, list[MonthPlan]] = {}
    for plan in due:
        by_color.setdefault(plan.color, []).append(plan)
    batches = [months[at : at + size] for months in by_color.values() for at in range(0, len(months), size)]
    return sorted(batches, key=lambda batch: batch[0].month)


def _read_active(client: SyncPrefectClient, deployments: Iterable[DeploymentResponse]) -> list[FlowRun]:
    """Return the deployments' runs that have not ended."""
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": ACTIVE_STATES}}}),
        deployment_filter=DeploymentFilter.model_validate({"id": {"any_": [each.id for each in deployments]}}),
    )


def _submit(
    batch: list[MonthPlan],
    deployment: DeploymentResponse,
    options: MonthOptions,
    takes_months: bool,
    active: Sequence[FlowRun],
) -> dict[UUID, list[MonthPlan]]:
    """Submit a run for the months of a batch which no active run has. Return the months by the ids of their runs."""
    shared: dict[str, Any] = {
        "warehouses": [kind for kind in options.warehouses if any(kind in plan.warehouses for plan in batch)],
        "profile": options.profile,
        # Everyone can read parameters, so workers get a source with a secret from their own variable.
        "source": name_source(options.source),
        "layout": options.layout,
        "force": options.force,
        "verify": options.verify or any(plan.recount for plan in batch),
    }
    runs: dict[UUID, list[MonthPlan]] = {}
    rest = []
    for plan in batch:
        # A run with other parameters (another source, another warehouse) does something else.
        one = _one_month(plan)
        same = [
            run.id
            for run in active
            if shared.items() <= run.parameters.items()
            and (one.items() <= run.parameters.items() or plan.id in (run.parameters.get("months") or ()))
        ]
        if same:
            log.info("%s: waiting for its run that is active already", plan.name)
            runs.setdefault(same[0], []).append(plan)
        else:
            rest.append(plan)
    if rest:
        first, last = rest[0], rest[-1]
        name, parameters = first.id, shared | _one_month(first)
        if takes_months:
            name = f"{name}-to-{last.month}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
            parameters = shared | {"months": [plan.id for plan in rest], "name": name}
        run = run_deployment(
            deployment.id,
            parameters=parameters,
            flow_run_name=name,
            timeout=0,
            as_subflow=True,
            # If this run is retried, its months get new runs; by default Prefect would return the failed ones.
            idempotency_key=f"{flow_run.id}-{flow_run.run_count}-{first.id}",
        )
        runs[cast(FlowRun, run).id] = rest
    return runs


def _one_month(plan: MonthPlan) -> dict[str, Any]:
    return {"color": plan.color, "year": plan.month.year, "month": plan.month.month}


def _read_results(months: Sequence[MonthPlan], run: FlowRun | None, options: MonthOptions) -> list[MonthRecord]:
    """Return the records of a run's months, none while it is not finished; the run is None if someone deleted it."""
    if run is None or run.state is None:
        return [record_month(plan, "failed", error="its run was deleted") for plan in months]
    if not run.state.is_final():
        if run.state.is_running() or _seconds_due(run) <= NOT_RUNNING_LIMIT:
            return []
        why = f"its run is {run.state.name} and has not been running for {NOT_RUNNING_LIMIT:.0f} s"
        error = f"{why}: check its worker, and whether it is paused"
        return [record_month(plan, "failed", error=error) for plan in months]
    took = run.total_run_time.total_seconds() / len(months)
    lake = open_lake(options.profile)
    if "months" in run.parameters:
        # The run has kept its own record, of all its months.
        kept = read_runs(lake, run.parameters["name"])
        by_month = {(each.color, each.month): each for each in (kept[-1].months if kept else ()) if each.result}
        lost = run.state.message or run.state.name
        return [
            by_month.get((plan.color, str(plan.month))) or record_month(plan, "failed", error=lost) for plan in months
        ]
    (plan,) = months
    if run.state.name == NotPublished.__name__:
        return [record_month(plan, "unpublished", seconds=took, error=run.state.message)]
    if run.state.is_completed():
        manifest = lake.manifest(Keys(plan.color, plan.month))
        return [record_month(plan, "done", manifest.clean.rows if manifest else None, took)]
    why = str(run.state.message or run.state.name)
    return [record_month(plan, "failed", seconds=took, error=why, trouble=name_trouble_of_run(why))]


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
