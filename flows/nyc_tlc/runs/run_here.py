"""Run the planned months of a backfill in this process, several at the same time, each as one task."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import ThreadPoolTaskRunner

from nyc_tlc.errors import NotPublished, TlcError
from nyc_tlc.planning.month_plan import MonthPlan
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.planning.record import MonthRecord, record_month
from nyc_tlc.planning.troubles import name_trouble
from nyc_tlc.runs import tasks
from nyc_tlc.runs.month import bring_to_lake
from nyc_tlc.runs.progress import BackfillProgress


@dataclass(frozen=True)
class MonthDone:
    """A finished month of a backfill: its number of clean rows, and its duration in seconds."""

    rows: int
    seconds: float


def run_here(plans: Sequence[MonthPlan], options: MonthOptions, at_once: int) -> list[MonthRecord]:
    """Run the due months. A failed month does not stop the others.

    Args:
        plans: All planned months.
        options: The backfill's options.
        at_once: How many months run at the same time.

    Returns:
        The records of the due months, in the order in which they finished.
    """
    due = [plan for plan in plans if plan.is_due]
    runner: ThreadPoolTaskRunner[MonthDone] = ThreadPoolTaskRunner(max_workers=at_once)
    with BackfillProgress(len(due)) as progress, runner:
        futures: dict[PrefectFuture[MonthDone], MonthPlan] = {
            runner.submit(run_month, {"planned": plan, "options": options, "progress": progress}): plan for plan in due
        }
        for future in as_completed(list(futures)):
            outcome = future.result(raise_on_failure=False)
            if isinstance(outcome, MonthDone):
                progress(record_month(futures[future], "done", outcome.rows, outcome.seconds))
            elif isinstance(outcome, NotPublished):
                progress(record_month(futures[future], "unpublished", error=str(outcome)))
            else:
                failed = record_month(futures[future], "failed", error=str(outcome), trouble=name_trouble(outcome))
                progress(failed)
    return progress.ended


@task(task_run_name="{planned.name}", cache_policy=NO_CACHE, persist_result=False)
def run_month(planned: MonthPlan, options: MonthOptions, progress: BackfillProgress) -> MonthDone:
    """Run one planned month: make it in the lake if it is due there, then load it into the warehouses.

    The month is planned again first, because the backfill's plan can be hours old. A warehouse that fails does not keep
    the month from the others.
    """
    began, failures = time.monotonic(), []
    with progress.running(planned.name):
        month = bring_to_lake(planned.color, planned.month, options)
        if month.manifest is None:
            raise NotPublished(month.plan.why)
        for kind in planned.warehouses:
            try:
                tasks.load(month.manifest, replace(options, force=options.force or kind in planned.recount), kind)
            except TlcError as error:
                failures.append(error)
    if failures:
        raise failures[0]
    return MonthDone(month.manifest.clean.rows, time.monotonic() - began)
