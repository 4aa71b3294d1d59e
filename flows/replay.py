"""Data lake -> a topic: months of trips as messages, in the order in which they happened."""

from __future__ import annotations

import nyc_tlc.runs.script  # noqa: F401

from datetime import datetime
from typing import Annotated

from prefect import flow
from pydantic import Field

from nyc_tlc.errors import ArgumentError
from nyc_tlc.month import NEW_YORK, Month
from nyc_tlc.planning.month_plan import find_published, read_requested_month
from nyc_tlc.profiles.opening import open_broker_settings, open_lake, optional_packages
from nyc_tlc.runs import command_line, tasks
from nyc_tlc.runs.flow_runs import RUN_OPTIONS, Outcome, run_name
from nyc_tlc.runs.options import Color, Help, MonthNumber, Profile, Year
from nyc_tlc.runs.progress import bar
from nyc_tlc.settings import read_settings
from nyc_tlc.source.fetch import scratch_folder
from nyc_tlc.streaming.events import By, Names, PartitionBy, Replay
from nyc_tlc.streaming.sending import open_target, send_events
from nyc_tlc.text_tables import format_table
from nyc_tlc.warehouse.lake_file import LakeFile


def _check_address(_type: object, to: str) -> None:
    if "@" in to:
        # Before the run, because Prefect stores its parameters.
        raise ArgumentError("--to can't have a password", fix="give it to the profile: docs/streaming.md")


To = Annotated[
    str,
    Help(
        help="kafka://host:port/topic, or kafka:///topic with the profile's address; file:///….jsonl; or - for stdout.",
        allow_leading_hyphen=True,
        validator=_check_address,
    ),
]


@flow(flow_run_name=run_name, **RUN_OPTIONS)
def replay(
    color: Color,
    to: To,
    year: Year = None,
    month: MonthNumber = None,
    *,
    until: str | None = None,
    by: By = "dropoff",
    pairs: bool = False,
    start: datetime | None = None,
    end: datetime | None = None,
    speed: Annotated[float, Field(gt=0)] | None = None,
    names: Names = "ours",
    partition_by: PartitionBy = "pickup_location_id",
    name: str | None = None,
    profile: Profile = None,
) -> Outcome:
    """Send the clean trips of a month to a topic of Kafka, or to a file, in the order of their times.

    Args:
        until: The last month, 2025-12, of a range; only one month if left out.
        by: The time of a trip's event. A trip without a drop-off time has that of its pick-up.
        pairs: Send two events for each trip: started, with what is known then, and ended.
        start: Send only events from this time on, New York time.
        end: Send only events before this time.
        speed: 3600 sends an hour of events in a second. As fast as the broker takes them if left out.
        names: Our names of the columns, or TLC's.
        partition_by: The column whose remainder by the number of partitions is a message's partition.
        name: A replay that is started again under the same name goes on where the topic ends.
    """
    profile = profile or read_settings().profile
    manifest = tasks.find(color, read_requested_month(color, year, month), profile)
    lake, first = open_lake(profile), manifest.month_keys.month
    last = Month.parse(until) if until else first
    if last < first:
        raise ArgumentError(f"there are no months from {first} to {last}")
    later = [find_published(lake, color, each, profile) for each in first.plus(1).up_to(last)]
    files = [LakeFile(each, lake) for each in (manifest, *later)]
    for file in files:
        file.check()
    with optional_packages():
        target = open_target(to, open_broker_settings(profile), name or "")
    events = Replay(files, by, pairs, _in_new_york(start), _in_new_york(end), names, partition_by, name or "")
    total = None if start or end else sum(file.rows for file in files) * (1 + pairs)
    with scratch_folder() as folder, bar(f"replay {color}", "events") as show:
        report = send_events(events, target, speed, folder, lambda done: show(done, total))

    table = "\n".join(format_table(("", ""), list(report.items())))
    tasks.write_artifact(f"The last replay of {manifest.name}", table, profile, "replay", color, manifest.month)
    lines = [f"{label:<13}{value}" for label, value in report.items()]
    # On stdout are only events.
    return Outcome("" if to == "-" else "\n".join(lines))


def _in_new_york(at: datetime | None) -> datetime | None:
    """Return a time as TLC writes it. The form of a run gives one with a zone."""
    return at.astimezone(NEW_YORK).replace(tzinfo=None) if at and at.tzinfo else at


if __name__ == "__main__":
    command_line.run(replay)
