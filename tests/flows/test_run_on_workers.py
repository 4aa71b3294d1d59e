"""A backfill's runs on workers. The test plays the worker: it sets the states of the runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.states import Completed, Crashed, Running, Scheduled

from conftest import PrefectServer
from factories import JANUARY
from nyc_tlc.planning.month_plan import MonthPlan
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.planning.record import MonthRecord
from nyc_tlc.runs.flow_runs import clear_lost_runs
from nyc_tlc.runs.run_here import run_month
from nyc_tlc.runs.run_on_workers import run_on_workers
from waiting import eventually

OPTIONS = MonthOptions("sample", "local", ("duckdb",), "month", False)


@pytest.fixture
def client(prefect_server: PrefectServer) -> Iterator[SyncPrefectClient]:
    """Return a client of the server; flows in this process use the same server."""
    settings = {PREFECT_API_URL: prefect_server.url, PREFECT_HOME: prefect_server.home}
    with temporary_settings(settings), get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def deployment(client: SyncPrefectClient, request: pytest.FixtureRequest) -> Iterator[UUID]:
    """Create a deployment for the test, ``NAME/green``, that no worker serves."""
    flow_id = client.create_flow_from_name(request.node.name)
    made = client.create_deployment(flow_id=flow_id, name="green")
    yield made
    client.delete_deployment(made)


@pytest.fixture
def backfill(request: pytest.FixtureRequest) -> Iterator[Callable[[int, int], Any]]:
    """Return a function that starts a backfill with a number of months, and a number of them at the same time."""
    via = request.node.name

    @flow(name=f"backfill of {via}")
    def body(months: int, at_once: int) -> list[MonthRecord]:
        plans = [
            MonthPlan("green", JANUARY.plus(number), "ingest", "new", warehouses=("duckdb",))
            for number in range(months)
        ]
        return list(run_on_workers(plans, OPTIONS, via, at_once))

    with ThreadPoolExecutor(1) as pool:
        yield lambda months, at_once: pool.submit(copy_context().run, body, months, at_once)


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
    client: SyncPrefectClient, deployment: UUID, backfill: Callable[[int, int], Any]
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
    client: SyncPrefectClient, deployment: UUID, backfill: Callable[[int, int], Any]
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


def test_a_run_that_someone_deletes_is_a_failed_month(
    client: SyncPrefectClient, deployment: UUID, backfill: Callable[[int, int], Any]
) -> None:
    running = backfill(1, 1)
    (run,) = wait_for_runs(client, deployment, 1)
    client.delete_flow_run(run.id)
    (record,) = running.result(60)
    assert (record.result, record.error) == ("failed", "its run was deleted")


def test_a_run_that_crashes_and_is_not_scheduled_again_fails_its_month_as_one_that_never_runs_does(
    client: SyncPrefectClient,
    deployment: UUID,
    backfill: Callable[[int, int], Any],
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
