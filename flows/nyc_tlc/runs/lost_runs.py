"""Clear what lost processes left: scratch space, and task runs that are Running on the Prefect server."""

from __future__ import annotations

import logging

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import Flow, FlowRun, State, StateType
from prefect.states import Crashed

from nyc_tlc.settings import read_settings
from nyc_tlc.workspace import remove_abandoned

log = logging.getLogger(__name__)


def clear_lost_runs(_flow: Flow, flow_run: FlowRun, _state: State[object]) -> None:
    """Remove abandoned scratch space, and set the task runs of an earlier process to Crashed; an ``on_running`` hook.

    A flow run whose machine was lost starts again with the same id. Its new process creates new task runs, so the old
    ones would stay Running for ever.
    """
    remove_abandoned(read_settings().scratch)
    with get_client(sync_client=True) as client:
        lost = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id])),
            task_run_filter=TaskRunFilter(
                state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING]))
            ),
        )
        for task_run in lost:
            state: State[None] = Crashed(message="Its process was lost; the flow run started again.")
            client.set_task_run_state(task_run.id, state, force=True)
            log.info("%s: set the task run %s of a lost process to Crashed", flow_run.name, task_run.name)
