"""The names of flow runs, the month of a run that starts late, and the final state NotPublished."""

from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import deployment, flow_run
from prefect.states import Completed

from nyc_tlc.errors import NotPublished
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.month import NEW_YORK, Month
from nyc_tlc.planning.month_plan import MonthPlan
from nyc_tlc.settings import read_settings
from nyc_tlc.source.published import PUBLICATION_LAG


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
            client.update_flow_run(flow_run.id, name=f"{month.color}-{month.month}")


def not_published(why: str) -> State[None]:
    """Return the final state of a run whose month, or all of whose months, are not published yet: no failure."""
    return Completed(name=NotPublished.__name__, message=why)
