"""Run the planned months of a backfill in this process, several at the same time, each as one task.

The steps of a month are not separate tasks here, because a task costs as much time as a small month.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from nyc_tlc.cleaning.clean import clean_month
from nyc_tlc.cleaning.publish import publish_month
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import NotPublished, TlcError, TransientError
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.planning.month_plan import plan_month
from nyc_tlc.planning.plan import BackfillOptions, MonthPlan
from nyc_tlc.planning.record import MonthRecord, record_month
from nyc_tlc.profiles.opening import open_lake, open_warehouse
from nyc_tlc.runs.limits import warehouse_slot
from nyc_tlc.runs.progress import BackfillProgress
from nyc_tlc.runs.tasks import fetch_planned, report_quality
from nyc_tlc.settings import read_settings
from nyc_tlc.source.fetch import scratch_folder
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.load import load_month
from nyc_tlc.warehouse.protocol import Kind

log = logging.getLogger(__name__)

#: The number of attempts of a load after transient failures, and the seconds before the second attempt.
LOAD_ATTEMPTS, LOAD_PAUSE = 3, 5.0


@dataclass(frozen=True)
class MonthDone:
    """A finished month of a backfill: its number of clean rows, and its duration in seconds."""

    rows: int
    seconds: float


def run_here(plans: Sequence[MonthPlan], options: BackfillOptions, at_once: int) -> list[MonthRecord]:
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
                progress(record_month(futures[future], "failed", error=str(outcome)))
    return progress.ended


@task(task_run_name="{planned.name}", cache_policy=NO_CACHE, persist_result=False)
def run_month(planned: MonthPlan, options: BackfillOptions, progress: BackfillProgress) -> MonthDone:
    """Run one planned month: make it in the lake if it is due there, then load it into the warehouses.

    The month is planned again first, because the backfill's plan can be hours old.
    """
    began = time.monotonic()
    lake = open_lake(options.profile)
    with progress.running(planned.name):
        manifest = _bring_to_lake(planned, options, lake)
        failures = [failure for kind in planned.warehouses if (failure := _load(manifest, options, lake, kind))]
    if failures:
        raise failures[0]
    return MonthDone(manifest.clean.rows, time.monotonic() - began)


def _bring_to_lake(planned: MonthPlan, options: BackfillOptions, lake: Lake) -> Manifest:
    started_at, days = datetime.now(UTC), options.layout == "day"
    plan = plan_month(
        options.source, planned.color, planned.month, lake, days=days, force=options.force, verify=options.verify
    )
    if plan.remote is None:
        raise NotPublished(plan.why)
    if plan.manifest and plan.action in ("current", "kept"):
        return plan.manifest
    contract = read_contract(planned.color)
    with scratch_folder() as folder:
        fetched = fetch_planned(plan, lake, folder)
        if plan.manifest and plan.settled_by(fetched):
            return plan.manifest
        cleaned = clean_month(fetched, contract, folder, layout=options.layout, strict=read_settings().strict)
        manifest = publish_month(cleaned, contract, lake, plan.base, started_at, flow_run.id, force=options.force)
    report_quality(manifest, options.profile)
    return manifest


def _load(manifest: Manifest, options: BackfillOptions, lake: Lake, kind: Kind) -> TlcError | None:
    """Load a month into a warehouse; repeat it after transient failures. Return the error if it failed."""
    file = LakeFile(manifest, lake, read_contract(manifest.color))
    for attempt in range(LOAD_ATTEMPTS):
        try:
            with warehouse_slot(kind):
                load_month(file, open_warehouse(options.profile, kind), flow_run.id, force=options.force)
            return None
        except TransientError as error:
            failure: TlcError = error
            if attempt + 1 < LOAD_ATTEMPTS:
                log.warning("%s: %s; trying again", manifest.name, error)
                time.sleep(LOAD_PAUSE * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311  jitter
        except TlcError as error:
            return error
    return failure
