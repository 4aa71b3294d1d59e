"""What all flows have in common for Prefect."""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import Flow, FlowRun, State, StateType
from prefect.states import Crashed

from nyc_tlc.runs.interruption import at_end
from nyc_tlc.settings import read_settings
from nyc_tlc.workspace import remove_abandoned

log = logging.getLogger(__name__)

# Prefect writes the exception of a failed run to a file, although results are not persisted. Nothing reads it there, so
# the folder ends with the process.
_RESULTS = tempfile.mkdtemp(prefix="nyc-tlc-")
for _register in (atexit.register, at_end.append):
    _register(lambda: shutil.rmtree(_RESULTS, ignore_errors=True))


def clear_lost_runs(_flow: Flow, flow_run: FlowRun, _state: State[object]) -> None:
    """Remove abandoned scratch space, and set the task runs of an earlier process to Crashed; an ``on_running`` hook.

    A flow run whose machine was lost starts again with the same id. Its new process creates new task runs, so the old
    ones would stay Running for ever.
    """
    remove_abandoned(read_settings().scratch)
    with get_client(sync_client=True) as client:
        lost = client.read_task_runs(
            flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [flow_run.id]}}),
            task_run_filter=TaskRunFilter.model_validate({"state": {"type": {"any_": [StateType.RUNNING]}}}),
        )
        for task_run in lost:
            state: State[None] = Crashed(message="Its process was lost; the flow run started again.")
            client.set_task_run_state(task_run.id, state, force=True)
            log.info("%s: set the task run %s of a lost process to Crashed", flow_run.name, task_run.name)


RUN_OPTIONS: dict[str, Any] = {
    "on_running": [clear_lost_runs],
    "persist_result": False,
    "result_storage": Path(_RESULTS),
}
