"""Months as a stream: a broker on sockets, kcat beside the producer, and what reaches it."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from factories import green_parquet, make_month, trip
from nyc_tlc.errors import ArgumentError, ConfigurationError, TransientError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.month import Month
from nyc_tlc.profiles.opening import optional_packages
from nyc_tlc.streaming.events import Replay
from nyc_tlc.streaming.sending import open_target, send_events
from nyc_tlc.warehouse.lake_file import LakeFile
from stand_ins.kafka import Broker, Consumer, broker, reading

OPTIONS: dict[str, Any] = {
    "by": "dropoff",
    "pairs": False,
    "start": None,
    "end": None,
    "names": "ours",
    "partition_by": "pickup_location_id",
    "name": "",
}
#: Trips every ten minutes from 12:00 on, in 20 zones, and in the file in another order.
TRIPS = [
    trip(
        lpep_pickup_datetime=datetime(2024, 1, 15, 12) + timedelta(minutes=10 * (7 * i % 40)), PULocationID=40 + i % 20
    )
    for i in range(40)
]


@pytest.fixture(scope="module")
def kafka() -> Iterator[Broker]:
    with broker() as running:
        yield running


@pytest.fixture
def month(lake: FolderLake, tmp_path: Path) -> Manifest:
    return make_month(lake, green_parquet(*TRIPS), tmp_path)


def replay_of(lake: FolderLake, *manifests: Manifest, **options: Any) -> Replay:
    files = [LakeFile(each, lake) for each in manifests]
    return Replay(files, **OPTIONS | options)


def send(replay: Replay, to: str, folder: Path, speed: float | None = None, consumer: Consumer | None = None) -> int:
    """Send a replay; with a consumer, not so fast that the broker drops what it has not read."""
    target, before = open_target(to, {}), len(consumer.messages) if consumer else 0

    def keep_pace(sent: int) -> None:
        if consumer:
            consumer.wait_for(before + sent - 4_000)

    send_events(replay, target, speed, folder, keep_pace)
    return target.sent


def never_goes_back(messages: list[dict[str, Any]]) -> bool:
    times = [each["ts"] for each in messages]
    return times == sorted(times)


def test_a_real_month_arrives_whole_equal_to_its_file_and_in_order(
    kafka: Broker, lake: FolderLake, real_data: Path, tmp_path: Path
) -> None:
    body = (real_data / "parquet/green_tripdata_2025-11.parquet").read_bytes()
    manifest = make_month(lake, body, tmp_path, Month(2025, 11))
    with reading(to := kafka.topic("real")) as consumer:
        assert send(replay_of(lake, manifest), to, tmp_path, consumer=consumer) == manifest.clean.rows
        consumer.wait_for(manifest.clean.rows)
    rows = pq.read_table(lake.local_path(manifest.clean.key), partitioning=None).to_pylist()
    expected = {f"green-2025-11-{row['source_row']}": json.loads(json.dumps(row, default=str)) for row in rows}
    assert len(consumer.messages) == len(expected) == manifest.clean.rows
    assert dict(zip(consumer.keys(), consumer.values(), strict=True)) == expected
    for number, messages in consumer.partitions().items():
        assert never_goes_back(messages)
        assert {json.loads(each["payload"])["pickup_location_id"] % 4 for each in messages} == {number}
    assert len(consumer.partitions()) == 4
    headers = {"month": "green 2025-11", "version": manifest.clean.key.split(".")[-2]}
    assert all(each["headers"] == headers for each in consumer.messages)
    wall_clock = {each["ts"]: json.loads(each["payload"])["dropoff_datetime"] for each in consumer.messages[:99]}
    assert {datetime(1970, 1, 1) + timedelta(milliseconds=ms) for ms in wall_clock} == set(
        map(datetime.fromisoformat, wall_clock.values())
    )


def test_with_tlc_s_names_a_value_reads_as_the_course_s_job_reads_it(
    kafka: Broker, lake: FolderLake, month: Manifest, tmp_path: Path
) -> None:
    with reading(to := kafka.topic("course")) as consumer:
        send(replay_of(lake, month, by="pickup", names="tlc"), to, tmp_path)
        consumer.wait_for(40)
    fields = "lpep_pickup_datetime lpep_dropoff_datetime PULocationID DOLocationID passenger_count trip_distance"
    for value in consumer.values():
        assert {*fields.split(), "tip_amount", "total_amount"} <= value.keys()
        assert "source_row" not in value
    times = {datetime.strptime(value["lpep_pickup_datetime"], "%Y-%m-%d %H:%M:%S") for value in consumer.values()}  # noqa: DTZ007
    assert times == {each["lpep_pickup_datetime"] for each in TRIPS}


def test_pairs_are_a_start_that_does_not_know_the_end_and_an_end(
    kafka: Broker, lake: FolderLake, month: Manifest, tmp_path: Path
) -> None:
    with reading(to := kafka.topic("pairs")) as consumer:
        assert send(replay_of(lake, month, pairs=True), to, tmp_path) == 80
        consumer.wait_for(80)
    assert set(Counter(consumer.keys()).values()) == {2}
    for messages in consumer.partitions().values():
        assert never_goes_back(messages)
        open_trips = set()
        for each in messages:
            value = json.loads(each["payload"])
            if value["event"] == "started":
                open_trips.add(each["key"])
                assert "dropoff_datetime" not in value
                assert "total_amount" not in value
            else:
                open_trips.remove(each["key"])
        assert not open_trips


def test_a_range_of_months_goes_on_in_one_order(kafka: Broker, lake: FolderLake, tmp_path: Path) -> None:
    late = trip(lpep_pickup_datetime=datetime(2024, 2, 1, 0, 30))
    early = trip(lpep_pickup_datetime=datetime(2024, 1, 31, 23, 0))
    months = [
        make_month(lake, green_parquet(*each), tmp_path, Month(2024, number))
        for number, each in enumerate(([late, TRIPS[0]], [early, trip(lpep_pickup_datetime=datetime(2024, 2, 3))]), 1)
    ]
    with reading(to := kafka.topic("range")) as consumer:
        send(replay_of(lake, *months), to, tmp_path)
        consumer.wait_for(4)
    keys = ["green-2024-01-1", "green-2024-02-0", "green-2024-01-0", "green-2024-02-1"]
    assert sorted(consumer.messages, key=lambda each: each["ts"]) == [
        next(each for each in consumer.messages if each["key"] == key) for key in keys
    ]


def test_each_partition_goes_on_where_it_ends_past_the_messages_of_others(
    kafka: Broker, lake: FolderLake, month: Manifest, tmp_path: Path
) -> None:
    mine, other = (replay_of(lake, month, name=name) for name in ("mine", "other"))
    with reading(to := kafka.topic("resumed")) as consumer:
        # A killed run leaves some events in each partition, of some more than of others, and of the last none.
        left, sent = {0: 4, 1: 9, 2: 1, 3: 0}, 0
        target = open_target(to, {})
        for key, value, at, partition, month in mine.events(4, {}, tmp_path):
            if left[partition]:
                left[partition] -= 1
                target.send(key, value, at, partition, mine.headers(4)[month])
                sent += 1
        target.finish()
        assert send(other, to, tmp_path) == 40
        assert send(mine, to, tmp_path) == 40 - sent
        assert send(mine, to, tmp_path) == 0
        consumer.wait_for(80)
    ours = [each for each in consumer.messages if each["headers"]["replay"] == "mine"]
    assert sorted(each["key"] for each in ours) == sorted(f"green-2024-01-{row}" for row in range(40))
    for messages in consumer.partitions().values():
        assert never_goes_back([each for each in messages if each["headers"]["replay"] == "mine"])


def test_what_would_lose_trips_is_refused(kafka: Broker, lake: FolderLake, month: Manifest, tmp_path: Path) -> None:
    to = kafka.topic("refused")
    send(replay_of(lake, month, name="n", end=datetime(2024, 1, 15, 15)), to, tmp_path)
    other = make_month(lake, green_parquet(*TRIPS[1:]), tmp_path)
    for again in (
        replay_of(lake, month, name="n", by="pickup"),
        replay_of(lake, month, name="n", start=datetime(2024, 1, 2)),
        replay_of(lake, other, name="n"),
    ):
        with pytest.raises(ArgumentError, match="the replay n was begun with other options, or its months were made"):
            send(again, to, tmp_path)


def test_an_hour_at_speed_3600_lasts_a_second(kafka: Broker, lake: FolderLake, tmp_path: Path) -> None:
    at = datetime(2024, 1, 15, 12)
    trips = [trip(lpep_pickup_datetime=at + timedelta(seconds=30 * i)) for i in range(240)]
    manifest = make_month(lake, green_parquet(*trips), tmp_path)
    replay = replay_of(lake, manifest, by="pickup", start=at, end=at + timedelta(hours=1))
    report = send_events(replay, open_target(kafka.topic("speed"), {}), 3600, tmp_path, print)
    assert report["Sent"].startswith("120 events")
    assert 0.8 <= float(report["Rate"].split()[-2]) <= 1.2


def test_a_broker_that_is_away_is_waited_for(kafka: Broker, lake: FolderLake, month: Manifest, tmp_path: Path) -> None:
    # Messages that the client has room for: the queue is full while the broker is away.
    target = open_target(kafka.topic("away"), {"queue.buffering.max.messages": "10"})
    running = threading.Thread(target=send_events, args=(replay_of(lake, month), target, None, tmp_path, print))
    with kafka.away():
        running.start()
        running.join(1)
        assert running.is_alive()
        assert target.sent < 40
    running.join(60)
    assert target.sent == 40


def test_giving_up_says_how_many_were_delivered(
    kafka: Broker, lake: FolderLake, month: Manifest, tmp_path: Path
) -> None:
    settings = {"queue.buffering.max.messages": "10", "message.timeout.ms": "1000"}
    target = open_target(kafka.topic("gone"), settings)
    # The client knows the broker by now, so the next ones are on their way when it is gone.
    target.send("first", "{}", 0, 0, [])
    target.finish()
    with kafka.away(), pytest.raises(TransientError, match=r"gone: gave up when 1 events were delivered; .*--name"):
        send_events(replay_of(lake, month), target, None, tmp_path, print)


def test_a_place_that_events_must_not_go_to_is_refused() -> None:
    for to, settings, message in (
        ("kafka://me:secret@host:9092/trips", {}, "--to is no place for events"),
        ("kafka://host:9092", {}, "--to is no place for events"),
        ("file:///etc/passwd", {}, "--to is no place for events"),
        ("kafka:///trips", {}, "expected host:port"),
        ("kafka://evil:9092/trips", {"bootstrap.servers": "good:9092"}, "expected good:9092; got evil:9092"),
    ):
        with pytest.raises(ArgumentError) as caught:
            open_target(to, settings)
        assert message in str(caught.value)
        assert "secret" not in str(caught.value)


def test_a_setting_that_does_not_exist_is_one_line(kafka: Broker) -> None:
    with pytest.raises(ConfigurationError, match=r"a setting of librdkafka can't be used; got .*no.such"):
        open_target(f"kafka://{kafka.servers}/x", {"no.such": "1"})
    with pytest.raises(ConfigurationError, match="can't be written; got No such file"):
        open_target("file:///no/such/folder/x.jsonl", {})


def test_without_its_package_only_topics_are_refused(
    lake: FolderLake, month: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    monkeypatch.delitem(sys.modules, "nyc_tlc.streaming.topic", raising=False)
    with pytest.raises(ConfigurationError, match=r"make extra NAME=kafka"), optional_packages():
        open_target("kafka://localhost:9092/trips", {})
    replay, path = replay_of(lake, month), tmp_path / "trips.jsonl"
    for _ in range(2):
        assert send(replay, path.as_uri(), tmp_path) == 40
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["key"] for line in lines}) == len(lines) == 40
    assert [line["timestamp"] for line in lines] == sorted(line["timestamp"] for line in lines)
    assert lines[0]["value"]["pickup_datetime"] == "2024-01-15 12:00:00"
    with pytest.raises(ArgumentError, match="only a replay to a topic can go on; leave --name out"):
        open_target(path.as_uri(), {}, "n")
