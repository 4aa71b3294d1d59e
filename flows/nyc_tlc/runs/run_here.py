"""Run the planned months of a backfill in this process, several at the same time, each as one task."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

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
from nyc_tlc.runs.progress import line


def run_here(due: Sequence[MonthPlan], options: MonthOptions, at_once: int) -> Iterator[MonthRecord]:
    """Run the due months and yield their records as they finish. A failed month does not stop the others."""
    runner: ThreadPoolTaskRunner[MonthRecord] = ThreadPoolTaskRunner(max_workers=at_once)
    with runner:
        futures: dict[PrefectFuture[MonthRecord], MonthPlan] = {
            runner.submit(run_month, {"planned": plan, "options": options}): plan for plan in due
        }
        for future in as_completed(list(futures)):
            outcome = future.result(raise_on_failure=False)
            if isinstance(outcome, MonthRecord):
                yield outcome
            else:
                is_failed = not isinstance(outcome, NotPublished)
                trouble = name_trouble(outcome) if is_failed else None
                result = "failed" if is_failed else "unpublished"
                yield record_month(futures[future], result, error=str(outcome), trouble=trouble)


@task(task_run_name="{planned.name}", cache_policy=NO_CACHE, persist_result=False)
def run_month(planned: MonthPlan, options: MonthOptions) -> MonthRecord:
    """Run one planned month: make it in the lake if it is due there, then load it into the warehouses.

    The month is planned again first, because the backfill's plan can be hours old. A warehouse that fails does not keep
    the month from the others.
    """
    began, failures = time.monotonic(), []
    with line(planned.name):
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
    return record_month(planned, "done", month.manifest.clean.rows, time.monotonic() - began)
