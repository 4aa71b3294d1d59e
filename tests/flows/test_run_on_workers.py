"""A backfill's runs on workers. The test plays the worker: it sets the states of the runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.states import Completed, Crashed, Failed, Running, Scheduled

from conftest import PrefectServer
from factories import JANUARY
from nyc_tlc.errors import ArgumentError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.month import Month
from nyc_tlc.planning.month_plan import MonthPlan
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.planning.record import MonthRecord, Result, finish_run, record_month, start_run, write_run
from nyc_tlc.runs.flow_runs import clear_lost_runs
from nyc_tlc.runs.run_here import run_month
from nyc_tlc.runs.run_on_workers import run_on_workers
from waiting import eventually

OPTIONS = MonthOptions("sample", "local", ("duckdb",), "month", False)


@pytest.fixture
def client(prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncPrefectClient]:
    """Return a client of the server; flows in this process use the same server."""
    monkeypatch.setattr("nyc_tlc.runs.run_on_workers.POLL_INTERVAL", 0.1)
    settings = {PREFECT_API_URL: prefect_server.url, PREFECT_HOME: prefect_server.home}
    with temporary_settings(settings), get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def deployment(client: SyncPrefectClient, request: pytest.FixtureRequest) -> Iterator[UUID]:
    """Create a deployment for the test, ``NAME/green``, that no worker serves; for a batch it is ``backfill/green``."""
    flow_id = client.create_flow_from_name("backfill" if "batch" in request.node.name else request.node.name)
    made = client.create_deployment(flow_id=flow_id, name="green")
    yield made
    client.delete_deployment(made)


@pytest.fixture
def backfill(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Return a function that starts a backfill with a number of months, and a number of them at the same time."""
    via = request.node.name

    @flow(name=f"backfill of {via}")
    def body(months: int, at_once: int, per_run: int) -> list[MonthRecord]:
        plans = [
            MonthPlan("green", JANUARY.plus(number), "ingest", "new", warehouses=("duckdb",))
            for number in range(months)
        ]
        return list(run_on_workers(plans, OPTIONS, "backfill" if per_run > 1 else via, at_once, per_run))

    with ThreadPoolExecutor(1) as pool:
        yield lambda *numbers, per_run=1: pool.submit(copy_context().run, body, *numbers, per_run)


def runs_of(client: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    only = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
    return sorted(client.read_flow_runs(deployment_filter=only), key=lambda run: run.name)


def wait_for_runs(client: SyncPrefectClient, deployment: UUID, count: int) -> list[FlowRun]:
    return eventually(lambda: runs if len(runs := runs_of(client, deployment)) == count else None)


def end(client: SyncPrefectClient, run: FlowRun) -> None:
    client.set_flow_run_state(run.id, Running(), force=True)
    client.set_flow_run_state(run.id, Completed(), force=True)


def parameters(month: int, **changes: object) -> dict[str, object]:
    """Return the parameters of a month's run."""
    given = {"color": "green", "year": 2024, "month": month, "warehouses": ["duckdb"], "profile": "local"}
    return given | {"source": "sample", "layout": "month", "force": False, "verify": False} | changes


def test_no_more_runs_than_asked_for_are_under_way_at_once(
    client: SyncPrefectClient, deployment: UUID, backfill: Callable[..., Any]
) -> None:
    running = backfill(3, 2)
    first = wait_for_runs(client, deployment, 2)
    assert [run.name for run in first] == ["green-2024-01", "green-2024-02"]
    end(client, first[0])
    (third,) = (run for run in wait_for_runs(client, deployment, 3) if run.name == "green-2024-03")
    end(client, first[1])
    end(client, third)
    assert [record.result for record in running.result(60)] == ["done"] * 3


def test_a_run_that_is_at_work_on_the_same_is_waited_for_and_one_on_something_else_is_not(
    client: SyncPrefectClient, deployment: UUID, backfill: Callable[..., Any]
) -> None:
    same = client.create_flow_run_from_deployment(deployment, parameters=parameters(1), name="green-2024-01")
    other = client.create_flow_run_from_deployment(
        deployment, parameters=parameters(2, source="tlc"), name="green-2024-02"
    )
    for run in (same, other):
        client.set_flow_run_state(run.id, Running(), force=True)
    running = backfill(2, 2)
    runs = wait_for_runs(client, deployment, 3)
    assert [run.name for run in runs] == ["green-2024-01", "green-2024-02", "green-2024-02"]
    (ours,) = (run for run in runs if run.id not in (same.id, other.id))
    assert ours.parameters == parameters(2)
    end(client, client.read_flow_run(same.id))
    end(client, ours)
    assert [record.result for record in running.result(60)] == ["done", "done"]
    assert client.read_flow_run(other.id).state.is_running()  # type: ignore[union-attr]


def test_a_batch_has_several_months_and_its_own_record_says_what_became_of_each(
    client: SyncPrefectClient,
    deployment: UUID,
    backfill: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    own_environment: Path,
) -> None:
    client.create_work_pool(WorkPoolCreate(name="narrow", type="process", concurrency_limit=1), overwrite=True)
    client.update_deployment(deployment, DeploymentUpdate(work_pool_name="narrow"))
    at_work = {"months": ["green-2024-02"], "name": "earlier"} | {
        name: value for name, value in parameters(2).items() if name not in ("color", "year", "month")
    }
    earlier = client.create_flow_run_from_deployment(deployment, parameters=at_work, name="earlier")
    running = backfill(5, 9, per_run=3)
    runs = {tuple(run.parameters["months"]): run for run in wait_for_runs(client, deployment, 3)}
    assert "--at-once 9: only 1 runs will be at work at the same time" in caplog.text
    # Two batches of three and two months; one month is at work already.
    assert set(runs) == {("green-2024-02",), ("green-2024-01", "green-2024-03"), ("green-2024-04", "green-2024-05")}
    kept = FolderLake(own_environment / "lake")
    results: dict[str, Result] = {"2024-01": "done", "2024-02": "current", "2024-03": "failed"}
    for months in (("green-2024-02",), ("green-2024-01", "green-2024-03")):
        plans = [MonthPlan("green", Month.parse(name.removeprefix("green-")), "ingest", "new") for name in months]
        started = start_run(plans, OPTIONS, None, "", None)
        record = finish_run(started, [record_month(plan, results[str(plan.month)], 5) for plan in plans])
        write_run(kept, runs[months].parameters["name"], (), record)
    for run in runs.values():
        client.set_flow_run_state(run.id, Running(), force=True)
        client.set_flow_run_state(run.id, Failed(message="1 of 2 months failed"), force=True)
    records = {record.month: (record.result, record.error) for record in running.result(60)}
    assert records == {
        **{month: (result, None) for month, result in results.items()},
        # Their run has kept nothing.
        **dict.fromkeys(("2024-04", "2024-05"), ("failed", "1 of 2 months failed")),
    }
    assert client.read_flow_run(earlier.id).state_name == "Failed"
    client.delete_work_pool("narrow")


def test_a_flow_of_one_month_takes_no_batch() -> None:
    with pytest.raises(ArgumentError, match="use --via backfill with --per-run"):
        run_on_workers([], OPTIONS, "etl-month", 2, 4)


def test_a_run_that_someone_deletes_is_a_failed_month(
    client: SyncPrefectClient, deployment: UUID, backfill: Callable[..., Any]
) -> None:
    running = backfill(1, 1)
    (run,) = wait_for_runs(client, deployment, 1)
    client.delete_flow_run(run.id)
    (record,) = running.result(60)
    assert (record.result, record.error) == ("failed", "its run was deleted")


def test_a_run_that_crashes_and_is_not_scheduled_again_fails_its_month_as_one_that_never_runs_does(
    client: SyncPrefectClient,
    deployment: UUID,
    backfill: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As long as a person would wait for them.
    monkeypatch.setattr("nyc_tlc.runs.run_on_workers.RESCHEDULE_GRACE", 0.0)
    running = backfill(2, 2)
    first, second = wait_for_runs(client, deployment, 2)
    client.set_flow_run_state(first.id, Crashed(message="No heartbeat"), force=True)
    monkeypatch.setattr("nyc_tlc.runs.run_on_workers.NOT_RUNNING_LIMIT", 0.0)
    crashed, waiting = sorted(running.result(60), key=lambda record: record.month)
    assert (crashed.result, crashed.error) == ("failed", "No heartbeat")
    assert waiting.result == "failed"
    assert "has not been running" in str(waiting.error)
    assert not client.read_flow_run(second.id).state.is_final()  # type: ignore[union-attr]


def test_a_run_that_is_done_again_ends_the_tasks_of_its_lost_process(client: SyncPrefectClient) -> None:
    @flow(on_running=[clear_lost_runs])
    def healed() -> None:
        """Do nothing."""

    run = client.create_flow_run(healed, state=Running())
    lost, other = (
        client.create_task_run(run_month, flow_run_id=each.id, dynamic_key="0", name="load", state=Running())
        for each in (run, client.create_flow_run(healed, state=Running()))
    )
    client.set_flow_run_state(run.id, Crashed(message="No heartbeat"), force=True)
    client.set_flow_run_state(run.id, Scheduled(), force=True)
    run_flow(healed, flow_run=client.read_flow_run(run.id))
    assert client.read_flow_run(run.id).state_name == "Completed"
    ended = client.read_task_run(lost.id).state
    assert ended is not None
    assert (ended.name, ended.message) == ("Crashed", "Its process was lost; the flow run started again.")
    assert client.read_task_run(other.id).state_name == "Running", "another run's task"
