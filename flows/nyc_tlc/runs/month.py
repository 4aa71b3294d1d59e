"""The steps of a month. In a flow each is a task; in a backfill, where the month is one task, each is a plain call."""

from __future__ import annotations

from dataclasses import dataclass

from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.month import Color, Month
from nyc_tlc.planning.month_plan import MonthPlan, read_requested_month
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.runs import tasks
from nyc_tlc.runs.flow_runs import Outcome
from nyc_tlc.runs.month_report import format_answers
from nyc_tlc.source.fetch import scratch_folder
from nyc_tlc.warehouse.protocol import Kind


@dataclass(frozen=True)
class MonthInLake:
    """A month after a run.

    Attributes:
        manifest: Its manifest in the lake now; None if it is not published yet.
    """

    plan: MonthPlan
    manifest: Manifest | None

    @property
    def is_new(self) -> bool:
        """Whether the run published it."""
        return self.manifest != self.plan.manifest


def bring_to_lake(color: Color, month: Month | None, options: MonthOptions) -> MonthInLake:
    """Bring a month from its source into the lake, if it is not current there; ``None`` is the newest month."""
    plan = tasks.look(color, month, options)
    manifest = plan.manifest
    if plan.is_due_in_lake:
        with scratch_folder() as folder:
            fetched = tasks.fetch(plan, options, folder)
            if manifest is None or not plan.is_current_with(fetched):
                cleaned = tasks.clean(fetched, plan, options, folder)
                manifest = tasks.publish(cleaned, plan, options)
                tasks.report(manifest, options.profile)
    return MonthInLake(plan, manifest)


def load_from_lake(
    kind: Kind, color: Color, year: int | None, month: int | None, as_of: str | None, profile: str | None, force: bool
) -> Outcome:
    """Replace a month's rows in a warehouse by those of the lake: the body of the flows ``etl_gcs_to_*``."""
    options = MonthOptions.of(None, profile, force=force)
    manifest = tasks.find(color, read_requested_month(color, year, month), options.profile, as_of)
    answer = tasks.query(manifest, options, kind, tasks.load(manifest, options, kind))
    tasks.report_load(manifest, options.profile, [answer])
    return Outcome(format_answers(manifest, [answer]), manifest)
