"""Send a replay's events to a topic, to a file or to stdout, at the speed that is asked for."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from nyc_tlc.errors import ArgumentError, ConfigurationError, TlcError
from nyc_tlc.streaming.events import Headers, Message, Replay

if TYPE_CHECKING:
    from nyc_tlc.streaming.topic import Topic

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  New York's wall-clock


class TextFile:
    """A file, as a topic with one partition: one JSON object a line, with all that a message has."""

    partitions = 1

    def __init__(self, path: Path | None) -> None:
        """Write a file anew; without a path, write to stdout.

        Raises:
            ConfigurationError: when the file can't be opened.
        """
        self.place, self.sent = str(path or "stdout"), 0
        try:
            self._file = path.open("wb") if path else open(sys.stdout.fileno(), "wb", closefd=False)  # noqa: SIM115
        except OSError as error:
            raise ConfigurationError(f"{path} can't be written", got=str(error.strerror)) from None

    def last_messages(self, _name: str) -> dict[int, Message]:
        """Return nothing: a file is written anew."""
        return {}

    def send(self, key: str, value: str, at: int, _partition: int, headers: Headers) -> None:
        line = f'{{"key":"{key}","timestamp":{at},"headers":{json.dumps(headers)},"value":{value}}}\n'
        self._file.write(line.encode())
        self.sent += 1

    def wait(self, seconds: float) -> None:
        """Let readers see what was written, and wait."""
        self._file.flush()
        time.sleep(seconds)

    def finish(self) -> None:
        self._file.close()

    def count_retries(self) -> int:
        """Return 0: nothing is sent again."""
        return 0


def open_target(to: str, settings: Mapping[str, Any], name: str = "") -> Topic | TextFile:
    """Open ``kafka://host:port/topic``, ``file:///….jsonl`` or ``-``.

    If the settings of librdkafka have the broker's address, no other one is allowed: whoever starts a run must not send
    the profile's password elsewhere.

    Raises:
        ArgumentError: when it is none of them, or a file that would have to go on under a replay's name.
        TlcError: when it can't be used.
    """
    parts = urlsplit(to)
    if name and parts.scheme != "kafka":
        raise ArgumentError("only a replay to a topic can go on", fix="leave --name out")
    if to == "-":
        return TextFile(None)
    if parts.scheme == "file" and not parts.netloc and parts.path.endswith(".jsonl"):
        return TextFile(Path(unquote(parts.path)))
    topic, servers = parts.path.removeprefix("/"), settings.get("bootstrap.servers") or parts.netloc
    if parts.scheme != "kafka" or "@" in to or not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", topic):
        expected = "kafka://host:port/topic, file:///….jsonl or -, without a password"
        raise ArgumentError("--to is no place for events", expected=expected)
    if not servers or parts.netloc not in ("", servers):
        raise ArgumentError(
            "--to has another broker than the profile", expected=servers or "host:port", got=parts.netloc
        )
    from nyc_tlc.streaming.topic import Topic

    return Topic(servers, topic, settings)


def send_events(
    replay: Replay, target: Topic | TextFile, speed: float | None, folder: Path, progress: Callable[[int], None]
) -> dict[str, str]:
    """Send a replay's events, after those of its name that the target has.

    Args:
        speed: Seconds of events in a second; None for as fast as the target takes them.

    Returns:
        What a report says. The rate does not count the sort.
    """
    last = target.last_messages(replay.name) if replay.name else {}
    ends = {partition: replay.find_position(message, target.partitions) for partition, message in last.items()}
    headers, began, first, at = replay.headers(target.partitions), 0.0, 0, 0
    try:
        for key, value, at, partition, month in replay.events(target.partitions, ends, folder):
            if not target.sent:
                began, first = time.monotonic(), at
                start = at if ends or not replay.start else (replay.start - EPOCH) // timedelta(milliseconds=1)
            while speed and (early := began + (at - start) / 1000 / speed - time.monotonic()) > 0:
                target.wait(min(early, 1))
            target.send(key, value, at, partition, headers[month])
            if target.sent % 10_000 == 0:
                progress(target.sent)
        target.finish()
    except OSError as error:
        raise TlcError(
            f"{target.place} can't be written after {target.sent:,} events", got=str(error.strerror)
        ) from None
    if not target.sent:
        return {"Sent": f"no events, because none were left, to {target.place}"}
    seconds = time.monotonic() - began
    return {
        "Sent": f"{target.sent:,} events to {target.place}",
        "First event": str(EPOCH + timedelta(milliseconds=first)),
        "Last event": str(EPOCH + timedelta(milliseconds=at)),
        "Rate": f"{target.sent / seconds:,.0f} a second, for {seconds:.1f} seconds",
        "Retries": f"{target.count_retries():,}",
    }
