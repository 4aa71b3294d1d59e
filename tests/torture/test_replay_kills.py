"""Replays that are killed at any moment, and months larger than memory."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from factories import publish_fetched
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.keys import Keys
from nyc_tlc.month import Month
from nyc_tlc.source.fetch import fetch_month
from nyc_tlc.source.location import RemoteFile
from nyc_tlc.streaming.events import Replay
from nyc_tlc.streaming.sending import open_target, send_events
from nyc_tlc.warehouse.lake_file import LakeFile
from stand_ins.kafka import broker, reading

pytestmark = [pytest.mark.torture, pytest.mark.timeout(3600)]

PROCESSES = multiprocessing.get_context("spawn")


def replay_of(lake: Path, color: Any, name: str) -> Replay:
    folder = FolderLake(lake)
    manifest = folder.manifest(Keys(color, Month(2024, 1)))
    assert manifest is not None
    file = LakeFile(manifest, folder)
    return Replay([file], "dropoff", False, None, None, "ours", "pickup_location_id", name)


def send(lake: Path, to: str, folder: Path) -> None:
    """Send a month in about ten seconds."""
    folder.mkdir(exist_ok=True)
    send_events(replay_of(lake, "green", "killed"), open_target(to, {}), 31 * 86400 / 10, folder, lambda _: None)


def make_sample(folder: Path, color: Any, rows: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a lake with a generated month."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("TLC_SAMPLE_ROWS", str(rows))
    month = RemoteFile(color, Month(2024, 1), f"sample://{color}/2024-01/{rows}")
    publish_fetched(FolderLake(folder / "lake"), fetch_month(month, folder), folder)
    return folder / "lake"


def test_a_replay_killed_three_times_leaves_each_trip_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = make_sample(tmp_path, "green", 20_000, monkeypatch)
    rows = replay_of(lake, "green", "").files[0].rows
    with broker() as kafka, reading(to := kafka.topic("killed")) as consumer:
        for share in (0.2, 0.5, 0.8):
            run = PROCESSES.Process(target=send, args=(lake, to, tmp_path / "scratch"))
            run.start()
            consumer.wait_for(int(rows * share))
            run.kill()
            run.join()
            assert run.exitcode == -signal.SIGKILL
            assert len(consumer.messages) < rows
        send(lake, to, tmp_path / "scratch")
        consumer.wait_for(rows)
    keys = consumer.keys()
    assert len(set(keys)) == rows
    # The broker may have taken a killed run's last messages after the next run had read the end.
    assert len(keys) - rows < 1000
    for messages in consumer.partitions().values():
        once = {each["key"]: each["ts"] for each in reversed(messages)}
        times = list(reversed(once.values()))
        assert times == sorted(times)


def test_a_broker_that_is_away_for_a_minute_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = make_sample(tmp_path, "green", 20_000, monkeypatch)
    replay = replay_of(lake, "green", "")
    with broker() as kafka, reading(to := kafka.topic("away")) as consumer:
        # Fewer messages than there are: the queue is full while the broker is away.
        target = open_target(to, {"queue.buffering.max.messages": "1000"})
        run = threading.Thread(target=send_events, args=(replay, target, None, tmp_path, print))
        with kafka.away():
            run.start()
            run.join(65)
            assert target.sent < 2000
        run.join(120)
        assert target.sent == replay.files[0].rows == len(set(consumer.wait_for(target.sent) and consumer.keys()))
    assert len(consumer.messages) == target.sent


def test_20_million_rows_are_sorted_in_less_than_a_gigabyte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = make_sample(tmp_path, "fhvhv", 20_000_000, monkeypatch)
    run = PROCESSES.Process(target=sort, args=(lake, tmp_path))
    run.start()
    run.join()
    assert run.exitcode == 0


def sort(lake: Path, folder: Path) -> None:
    """Go through a month's events; fail if one is out of order, one is missing or too much memory was used."""
    replay, count, before = replay_of(lake, "fhvhv", ""), 0, [0] * 8
    for _, _, at, partition, _ in replay.events(8, {}, folder):
        assert at >= before[partition]
        before[partition] = at
        count += 1
    assert count == replay.files[0].rows
    # This process's own peak: that of getrusage may be of the process that started it.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert int(peak) < 1 << 20
