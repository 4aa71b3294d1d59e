"""Send messages to a topic of Kafka, Redpanda or another broker with their protocol, and read where it ends."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from nyc_tlc.errors import ConfigurationError, TransientError
from nyc_tlc.streaming.events import Headers, Message

log = logging.getLogger(__name__)

#: Seconds for an answer about the topic.
ANSWER = 30.0
#: Milliseconds without any delivery after which a replay gives up.
PATIENCE = "300000"
#: Each partition stays in order and without gaps. If single messages could time out, later ones would arrive without
#: them; so there is no such timeout, and a replay gives up as a whole.
GUARANTEES = {
    "enable.idempotence": True,
    "acks": "all",
    "enable.gapless.guarantee": True,
    "message.timeout.ms": 0,
    "delivery.report.only.error": True,
    "statistics.interval.ms": 500,
}


class Topic:
    """A topic; ``sent`` counts the messages that the client took."""

    def __init__(self, servers: str, topic: str, settings: Mapping[str, Any]) -> None:
        """Connect to a topic with settings of librdkafka; a broker that may creates it.

        Raises:
            ConfigurationError: when a setting is not valid, or there is no such topic.
            TransientError: when no broker answers.
        """
        self.place, self.sent, self._retries = f"kafka://{servers}/{topic}", 0, -1
        self._topic, self._settings = topic, {"log_level": 0, **settings, "bootstrap.servers": servers}
        self._patience = float(settings.get("message.timeout.ms", PATIENCE)) / 1000
        self._delivered, self._progress, self._failed, self._why = 0, 0.0, 0, ""
        callbacks = {"on_delivery": self._fail, "error_cb": self._hear, "stats_cb": self._count}
        try:
            self._producer = Producer({**self._settings, **GUARANTEES, **callbacks})
            give_up = time.monotonic() + ANSWER
            # A topic that is being created has no partitions yet.
            while not (found := self._producer.list_topics(topic, ANSWER).topics[topic].partitions):
                if time.monotonic() > give_up:
                    raise ConfigurationError(
                        f"{self.place}: there is no such topic", fix="create it: docs/streaming.md"
                    )
                time.sleep(0.2)
        except KafkaException as error:
            if error.args[0].code() == KafkaError._INVALID_ARG:
                raise ConfigurationError("a setting of librdkafka can't be used", got=error.args[0].str()) from None
            raise TransientError(f"{self.place}: no answer", got=error.args[0].str()) from None
        self.partitions = len(found)

    def last_messages(self, name: str) -> dict[int, Message]:
        """Return the last message of a replay in each partition. Messages of others are passed over.

        Raises:
            TransientError: when the topic can't be read.
        """
        last: dict[int, Message] = {}
        ours = {"enable.auto.commit": False, "enable.partition.eof": True, "isolation.level": "read_uncommitted"}
        consumer = Consumer({"group.id": "nyc-tlc-flows", **self._settings, **ours})
        try:
            for partition in range(self.partitions):
                low, end = consumer.get_watermark_offsets(TopicPartition(self._topic, partition), ANSWER)
                rows = 100
                while partition not in last and end > low:
                    start = max(low, end - rows)
                    consumer.assign([TopicPartition(self._topic, partition, start)])
                    for message in _read_until(consumer, end):
                        headers = dict(message.headers() or [])
                        if headers.get("replay") == name.encode():
                            texts = {key: value.decode() for key, value in headers.items()}
                            last[partition] = (message.key().decode(), message.value().decode(), texts)
                    end, rows = start, rows * 10
        except KafkaException as error:
            raise TransientError(f"{self.place}: its end can't be read", got=error.args[0].str()) from None
        finally:
            consumer.close()
        return last

    def send(self, key: str, value: str, at: int, partition: int, headers: Headers) -> None:
        """Send a message with a timestamp in milliseconds; wait while the client's queue is full.

        Raises:
            TransientError: when a message was refused, or nothing is delivered any more.
        """
        if self.sent == self._delivered:
            # Nothing was waiting, as after the sort.
            self._progress = time.monotonic()
        while True:
            try:
                self._producer.produce(self._topic, value, key, partition, timestamp=at, headers=headers)
                break
            except BufferError:
                self.wait(0.1)
            except KafkaException as error:
                raise self._give_up(error.args[0].str()) from None
        self.sent += 1
        if self.sent % 1000 == 0:
            self.wait(0)

    def wait(self, seconds: float) -> None:
        """Let the client work; raises as ``send`` does."""
        try:
            self._producer.poll(seconds)
        except KafkaException as error:
            raise self._give_up(error.args[0].str()) from None
        # The client also counts other things as waiting, so more can be delivered, not less.
        delivered, now = self.sent - len(self._producer), time.monotonic()
        if self._failed:
            raise self._give_up(self._why)
        if delivered > self._delivered:
            self._delivered, self._progress, self._why = delivered, now, ""
        elif delivered == self.sent:
            self._progress = now
        elif now > self._progress + self._patience:
            raise self._give_up(self._why or "no answer")

    def finish(self) -> None:
        """Wait until all is delivered; raises as ``send`` does."""
        while len(self._producer):
            self.wait(0.1)

    def count_retries(self) -> int:
        """Wait for the client's next statistics, and return how often it sent messages again."""
        self._retries = -1
        while self._retries < 0:
            self._producer.poll(0.1)
        return self._retries

    def _give_up(self, why: str) -> TransientError:
        delivered = max(self._delivered, self.sent - self._failed - len(self._producer))
        # Without the client nothing is sent later. To flush a client that failed is an error of its own.
        del self._producer
        what = f"{self.place}: gave up when {delivered:,} events were delivered"
        return TransientError(what, got=why, fix="run it again; with a --name it goes on where the topic ends")

    def _fail(self, error: KafkaError, _message: object) -> None:
        self._why = self._why if self._failed else error.str()
        self._failed += 1

    def _hear(self, error: KafkaError) -> None:
        if error.str() != self._why:
            log.warning("%s: %s", self.place, error.str())
            self._why = error.str()

    def _count(self, statistics: str) -> None:
        self._retries = sum(broker["txretries"] for broker in json.loads(statistics)["brokers"].values())


def _read_until(consumer: Consumer, end: int) -> Iterator[Any]:
    """Yield the messages of the assigned partition before an offset."""
    while True:
        message: Any = consumer.poll(ANSWER)
        error = KafkaError(KafkaError._TIMED_OUT) if message is None else message.error()
        if error and error.code() != KafkaError._PARTITION_EOF:
            raise KafkaException(error)
        if error or message.offset() >= end:
            return
        yield message
        if message.offset() == end - 1:
            return
