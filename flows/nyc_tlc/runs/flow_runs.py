"""What all flow runs have in common: options, names, results, and the month of a run that starts late."""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import Flow, FlowRun, State, StateType
from prefect.runtime import deployment, flow_run
from prefect.states import Completed, Crashed

from nyc_tlc.errors import NotPublished
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.month import NEW_YORK, Month
from nyc_tlc.planning.month_plan import MonthPlan
from nyc_tlc.runs.interruption import at_end
from nyc_tlc.settings import read_settings
from nyc_tlc.source.published import PUBLICATION_LAG
from nyc_tlc.workspace import remove_abandoned

log = logging.getLogger(__name__)

# Prefect writes the exception of a failed run to a file, although results are not persisted. Nothing reads it there, so
# the folder ends with the process.
_RESULTS = tempfile.mkdtemp(prefix="nyc-tlc-")
for _register in (atexit.register, at_end.append):
    _register(lambda: shutil.rmtree(_RESULTS, ignore_errors=True))


@dataclass(frozen=True)
class Outcome:
    """The result of a flow.

    Attributes:
        manifest: The month's manifest in the lake now; None for a flow that is not about one month.
    """

    text: str
    manifest: Manifest | None = None

    def _repr_markdown_(self) -> str:
        """Return the Markdown for a notebook: a table as a table, other text as on a terminal."""
        return self.text if "\n|" in f"\n{self.text}" else f"```\n{self.text}\n```"


def clear_lost_runs(_flow: Flow, run: FlowRun, _state: State[object]) -> None:
    """Remove abandoned scratch space, and set the task runs of an earlier process to Crashed; an ``on_running`` hook.

    A flow run whose machine was lost starts again with the same id. Its new process creates new task runs, so the old
    ones would stay Running for ever.
    """
    remove_abandoned(read_settings().scratch)
    with get_client(sync_client=True) as client:
        lost = client.read_task_runs(
            flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [run.id]}}),
            task_run_filter=TaskRunFilter.model_validate({"state": {"type": {"any_": [StateType.RUNNING]}}}),
        )
        for task_run in lost:
            state: State[None] = Crashed(message="Its process was lost; the flow run started again.")
            client.set_task_run_state(task_run.id, state, force=True)
            log.info("%s: set the task run %s of a lost process to Crashed", run.name, task_run.name)


RUN_OPTIONS: dict[str, Any] = {
    "on_running": [clear_lost_runs],
    "persist_result": False,
    "result_storage": Path(_RESULTS),
}


def scheduled_month() -> Month | None:
    """Return the month in which a deployment's run was scheduled to start, not the actual month; None for a script."""
    if deployment.id is None:
        return None
    started = flow_run.scheduled_start_time.astimezone(NEW_YORK)
    return Month(started.year, started.month)


def newest_allowed() -> Month | None:
    """Return the latest month that a deployment's run may take as the newest; None for a script.

    A run that starts late must not take a later month than it would have taken on time.
    """
    month = scheduled_month()
    return month and month.plus(-PUBLICATION_LAG)


def backfill_name() -> str:
    """Return a backfill's name: the given one, else one made from its months and the time."""
    given = flow_run.parameters
    if given.get("name"):
        return str(given["name"])
    if given.get("months"):
        which = f"{len(given['months'])}-months"
    elif given.get("last"):
        which = f"{'-'.join(given['colors'])}-last-{given['last']}"
    else:
        which = f"{'-'.join(given['colors'])}-{given.get('start') or 'first'}-{given.get('end') or 'newest'}"
    return f"{which}-{flow_run.scheduled_start_time:%Y%m%dT%H%M%S}"


def profile_run_name() -> str:
    """Return the name of a run that is about a profile and no month: ``check-connections-local``."""
    return f"{flow_run.flow_name}-{flow_run.parameters.get('profile') or read_settings().profile}"


def run_name() -> str:
    """Return the name of a month's flow run, from its parameters."""
    given = flow_run.parameters
    year, month = given.get("year"), given.get("month")
    return f"{given['color']}-{Month(year, month)}" if year and month else f"{given['color']}-newest"


def rename_run(month: MonthPlan | Manifest) -> None:
    """Rename the flow run to its month, if it was named before the month was known."""
    if flow_run.name == f"{month.color}-newest":
        with get_client(sync_client=True) as client:
            client.update_flow_run(flow_run.id, name=month.id)


def not_published(why: str) -> State[None]:
    """Return the final state of a run whose month, or all of whose months, are not published yet: no failure."""
    return Completed(name=NotPublished.__name__, message=why)
