"""Runs the planned months of a backfill in this process, some at once, each as one task.

The steps of a month are no tasks of their own here: a task costs as much as a small month.
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

from nyc_tlc.backfill.month_plan import plan_month
from nyc_tlc.backfill.plan import BackfillOptions, MonthPlan
from nyc_tlc.backfill.record import MonthRecord, record_month
from nyc_tlc.cleaning.clean import clean_month
from nyc_tlc.cleaning.publish import publish_month
from nyc_tlc.contract.contract import read_contract
from nyc_tlc.errors import NotPublished, TlcError, TransientError
from nyc_tlc.lake.clean_file import CleanFile
from nyc_tlc.lake.lake import Lake
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.orchestration.limits import place_at_source, place_in_warehouse
from nyc_tlc.orchestration.progress import BackfillProgress
from nyc_tlc.orchestration.tasks import report_quality
from nyc_tlc.profiles.opening import open_lake, open_warehouse
from nyc_tlc.reports.anomalies import check_volume, read_trailing
from nyc_tlc.settings import read_settings
from nyc_tlc.source.fetch import fetch_month, scratch_folder
from nyc_tlc.warehouse.load import load_month
from nyc_tlc.warehouse.warehouse import Kind

log = logging.getLogger(__name__)

#: How often a load is tried that time can heal, and the seconds before the second attempt.
LOAD_ATTEMPTS, LOAD_PAUSE = 3, 5.0


@dataclass(frozen=True)
class MonthDone:
    """A month of a backfill that is done: its clean rows, and how long it took."""

    rows: int
    seconds: float


def run_here(plans: Sequence[MonthPlan], options: BackfillOptions, at_once: int) -> list[MonthRecord]:
    """Run the due months, so many at once; one that fails does not stop the rest.

    Args:
        plans: All planned months.
        options: What they have in common.
        at_once: How many are under way side by side.
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
    """One planned month all the way: into the lake where it is due there, then into the warehouses.

    It is looked at again first: the plan of many months can be hours old.
    """
    began = time.monotonic()
    lake = open_lake(options.profile)
    with progress.running(planned.name):
        manifest = _bring_to_lake(planned, options, lake)
        if planned.warehouses:
            check_volume(manifest, read_trailing(lake, manifest), force=options.force)
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
        with place_at_source(plan.remote):
            fetched = fetch_month(plan.remote, folder)
        if plan.manifest and plan.settled_by(fetched):
            return plan.manifest
        cleaned = clean_month(fetched, contract, folder, layout=options.layout, strict=read_settings().strict)
        manifest = publish_month(cleaned, contract, lake, plan.base, started_at, flow_run.id, force=options.force)
    report_quality(manifest, options.profile)
    return manifest


def _load(manifest: Manifest, options: BackfillOptions, lake: Lake, kind: Kind) -> TlcError | None:
    """Load a month into a warehouse, a few times where time can heal; why it could not be, if so."""
    file = CleanFile(manifest, lake, read_contract(manifest.color))
    for attempt in range(LOAD_ATTEMPTS):
        try:
            with place_in_warehouse(kind):
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
