"""Run the planned months of a backfill from this process, several at the same time, each as one task."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Literal

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.context import SettingsContext, get_settings_context
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from nyc_tlc.errors import ArgumentError, NotPublished, TlcError, TransientError
from nyc_tlc.planning.month_plan import MonthPlan
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.planning.record import MonthRecord, record_month
from nyc_tlc.planning.troubles import name_trouble
from nyc_tlc.profiles.opening import optional_packages
from nyc_tlc.runs import tasks
from nyc_tlc.runs.interruption import end_with_parent
from nyc_tlc.runs.month import bring_to_lake
from nyc_tlc.runs.progress import line

RunnerName = Literal["threads", "processes", "dask", "ray"]


def open_runner(name: RunnerName, at_once: int, address: str | None = None) -> TaskRunner[Any]:
    """Return one of Prefect's task runners.

    Args:
        at_once: How many at the same time; a cluster that is there already decides that itself.
        address: That of a Dask scheduler or a Ray head; without one, a cluster is started on this machine.

    Raises:
        ArgumentError: when threads or processes get an address.
        ConfigurationError: when the package is not installed.
    """
    if name in ("threads", "processes"):
        if address:
            raise ArgumentError(f"{name} have no address", fix="use --runner dask or ray with --address")
        if name == "threads":
            return ThreadPoolTaskRunner(max_workers=at_once)
        return ProcessPoolTaskRunner(at_once, [_settings_of_this_thread()], initializer=end_with_parent)
    with optional_packages():
        if name == "dask":
            from prefect_dask.task_runners import DaskTaskRunner

            own = {"n_workers": at_once, "threads_per_worker": 1, "dashboard_address": None}
            return DaskTaskRunner(address=address, cluster_kwargs=None if address else own)
        from prefect_ray.task_runners import RayTaskRunner

        own = {"num_cpus": at_once, "include_dashboard": False}
        ray: TaskRunner[Any] = RayTaskRunner(address=address, init_kwargs={} if address else own)
        return ray


def _settings_of_this_thread() -> Any:
    """Return what gives these settings to the thread that sends the processes' log lines to the server.

    Prefect starts that thread without them, so it would start a server of its own, or send no password.
    """
    here = get_settings_context()

    def enter() -> Callable[[str, Any], tuple[str, Any]]:
        SettingsContext(profile=here.profile, settings=here.settings).__enter__()
        return lambda kind, content: (kind, content)

    return enter


def run_here(due: Sequence[MonthPlan], options: MonthOptions, runner: TaskRunner[Any]) -> Iterator[MonthRecord]:
    """Run the due months and yield their records as they finish. A failed month does not stop the others.

    Raises:
        TransientError: when there is no cluster at the runner's address.
    """
    with ExitStack() as running:
        try:
            running.enter_context(runner)
            futures: dict[PrefectFuture[MonthRecord], MonthPlan] = {
                runner.submit(run_month, {"planned": plan, "options": options}): plan for plan in due
            }
        except OSError as error:
            fix = "check --address, and the password or token of the cluster"
            raise TransientError("the runner takes no months", got=str(error), fix=fix) from error
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
