"""A broker in a process of its own (librdkafka's mock cluster), and kcat as a consumer beside the producer."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from confluent_kafka import Producer

from waiting import eventually

CLUSTER = """
import sys
from confluent_kafka import Producer
cluster = Producer({"bootstrap.servers": "-", "test.mock.num.brokers": 2, "log_level": 0})
print(",".join(f"{each.host}:{each.port}" for each in cluster.list_topics(timeout=30).brokers.values()), flush=True)
sys.stdin.read()
"""


@dataclass
class Broker:
    """A running broker. It keeps the last 5 MB of a partition: whoever reads everything reads beside the producer."""

    servers: str
    process: subprocess.Popen[str]

    def topic(self, name: str) -> str:
        """Create a topic, which has 4 partitions here; return the address for ``--to``."""
        client = Producer({"bootstrap.servers": self.servers, "log_level": 0})
        eventually(lambda: client.list_topics(name, timeout=30).topics[name].partitions)
        return f"kafka://{self.servers}/{name}"

    @contextmanager
    def away(self) -> Iterator[None]:
        """Let it answer nothing while the block runs."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextmanager
def broker() -> Iterator[Broker]:
    """Run a broker."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin and process.stdout
    try:
        yield Broker(process.stdout.readline().strip(), process)
    finally:
        process.kill()
        process.communicate()


@dataclass
class Consumer:
    """What kcat has read from a topic so far, in its order within each partition."""

    messages: list[dict[str, Any]] = field(default_factory=list)

    def wait_for(self, messages: int, seconds: float = 120) -> list[dict[str, Any]]:
        """Return the messages as soon as there are so many."""
        eventually(lambda: len(self.messages) >= messages, seconds, describe=lambda: f"{len(self.messages)}")
        return self.messages

    def values(self) -> list[dict[str, Any]]:
        """Return the messages' JSON."""
        return [json.loads(each["payload"]) for each in self.messages]

    def keys(self) -> list[str]:
        """Return the messages' keys."""
        return [each["key"] for each in self.messages]

    def partitions(self) -> dict[int, list[dict[str, Any]]]:
        """Return the messages by partition."""
        numbers = sorted({each["partition"] for each in self.messages})
        return {number: [each for each in self.messages if each["partition"] == number] for number in numbers}


@contextmanager
def reading(to: str) -> Iterator[Consumer]:
    """Read a topic with kcat from its beginning on; skip the test if there is no kcat."""
    if not shutil.which("kcat"):
        pytest.skip("no kcat (make kcat)")
    servers, _, topic = to.removeprefix("kafka://").partition("/")
    # -E: it goes on when the broker is away.
    command = f"kcat -C -E -b {servers} -t {topic} -o beginning -J -u -q -X fetch.wait.max.ms=20".split()
    process, consumer = (
        subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"KCAT_CONFIG": "/dev/null"}),
        Consumer(),
    )

    def read() -> None:
        assert process.stdout
        for line in process.stdout:
            message = json.loads(line)
            names = message.get("headers", [])
            message["headers"] = dict(zip(names[::2], names[1::2], strict=True))
            consumer.messages.append(message)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield consumer
    finally:
        process.kill()
        process.wait()
        thread.join()
        assert process.stdout
        process.stdout.close()
