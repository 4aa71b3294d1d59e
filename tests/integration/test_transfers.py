"""Downloads from servers that break the rules of HTTP, over real sockets, compared with the published bytes.

A server's behaviour is a list of raw answers. Two results are correct: the file on disk is one complete version of the
server's file, or the error is one line. Another file, a traceback or a wait beyond the limit is a bug.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from factories import JANUARY, green_parquet, trip
from nyc_tlc.errors import ArgumentError, ConfigurationError, NotPublished, SourceError, TlcError, TransientError
from nyc_tlc.months import Month
from nyc_tlc.source.fetch import FetchedFile, fetch_month
from nyc_tlc.source.file_format import identify
from nyc_tlc.source.location import locate, redact_url
from nyc_tlc.source.published import find_newest, look_at, require_unpublished
from stand_ins.http_source import HttpSource, PublishedFile, RawAnswer, RawSource

OLD = green_parquet(*(trip(trip_distance=number / 7) for number in range(20_000)))
NEW = green_parquet(*(trip(trip_distance=number / 9) for number in range(20_000)))
CSV = b"VendorID,lpep_pickup_datetime\r\n" + b"2,2024-01-05 10:00:00\r\n" * 20_000
PATH = "/green_tripdata_2024-01.parquet"
DATED = "Last-Modified: Mon, 18 Mar 2024 15:30:12 GMT"


def get(source: RawSource, folder: Path) -> FetchedFile:
    return fetch_month(look_at(source.template, "green", JANUARY), folder)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLC_HTTP_TIMEOUT", "0.5")
    monkeypatch.setenv("TLC_HTTP_RETRIES", "3")
    monkeypatch.setenv("TLC_HTTP_BACKOFF", "0.001")
    monkeypatch.setenv("TLC_HTTP_DEADLINE", "10")


def whole(body: bytes, *headers: str, etag: str | None = '"1"') -> RawAnswer:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers, *([f"ETag: {etag}"] if etag else [])]
    return RawAnswer(lines, body)


def part(body: bytes, start: int, *, etag: str = '"1"', span: str | None = None, end: int | None = None) -> RawAnswer:
    rest = body[start:end]
    shown = span or f"bytes {start}-{start + len(rest) - 1}/{len(body)}"
    lines = ["HTTP/1.1 206 Partial", f"Content-Length: {len(rest)}", f"ETag: {etag}", f"Content-Range: {shown}"]
    return RawAnswer(lines, rest)


def cut(answer: RawAnswer, after: int) -> RawAnswer:
    return RawAnswer(answer.head, answer.body[:after])


@pytest.mark.parametrize(
    "second",
    [
        part(NEW, 100_000, etag='"2"'),
        part(OLD, 100_000, span=f"bytes 0-{len(OLD) - 1}/{len(OLD)}"),
        part(OLD, 100_000, span=f"bytes 100000-{len(OLD) - 1}/{len(OLD) + 5}"),
        part(OLD, 100_000, end=120_000),
        part(OLD, 50_000),
        RawAnswer(["HTTP/1.1 416 Range Not Satisfiable", "Content-Length: 0"]),
    ],
    ids=["another ETag", "wrong start", "another total", "a shorter part", "wrong offset", "416"],
)
def test_a_part_of_something_else_is_never_glued_on(second: RawAnswer, tmp_path: Path) -> None:
    with RawSource([whole(OLD)], [cut(whole(OLD), 100_000), second, whole(OLD)]).running() as source:
        assert get(source, tmp_path).path.read_bytes() == OLD
    assert [request.range for request in source.gets] == [None, "bytes=100000-", None]


@pytest.mark.parametrize("kind", ["announces more than it sends", "damaged chunks", "cuts without ranges"])
def test_a_transfer_that_always_breaks_at_one_place_is_given_up(kind: str, tmp_path: Path) -> None:
    chunked = RawAnswer(["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"], b"10\r\n0123456789abcdef\r\nXYZ\r\n")
    broken = {
        "announces more than it sends": RawAnswer(["HTTP/1.1 200 OK", f"Content-Length: {len(OLD) + 9}"], OLD),
        "damaged chunks": chunked,
        "cuts without ranges": cut(whole(OLD), 100_000),
    }[kind]
    with (
        RawSource([RawAnswer(["HTTP/1.1 200 OK"])], [broken]).running() as source,
        pytest.raises(TransientError, match="attempts"),
    ):
        get(source, tmp_path)
    # The first one is ahead of all before, so the count starts once more: 1 + 3 retries, and one.
    assert len(source.gets) <= 5


def test_a_byte_a_time_is_given_up_at_the_deadline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TLC_HTTP_DEADLINE", "1")
    slow = whole(OLD)
    slow.seconds_a_byte = 0.05
    with RawSource([whole(OLD)], [slow]).running() as source, pytest.raises(TransientError, match="DEADLINE"):
        get(source, tmp_path)


def test_half_a_csv_is_noticed_by_the_size_that_only_the_look_had(tmp_path: Path) -> None:
    half = RawAnswer(["HTTP/1.1 200 OK", 'ETag: "1"', "Connection: close"], CSV[: len(CSV) // 2])
    with RawSource([whole(CSV)], [half]).running() as source, pytest.raises(TransientError):
        get(source, tmp_path)


def test_what_nothing_verifies_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bare = ["HTTP/1.1 200 OK", "Connection: close"]
    with RawSource([RawAnswer(bare)], [RawAnswer(bare, CSV)]).running() as source:
        assert get(source, tmp_path).verified_by == "nothing"
    assert "cannot check that the file is complete" in caplog.text


HOSTILE = {
    "two equal lengths": ["HTTP/1.1 200 OK", f"Content-Length: {len(OLD)}, {len(OLD)}"],
    "two lengths": ["HTTP/1.1 200 OK", f"Content-Length: {len(OLD)}, 7"],
    "a wordy length": ["HTTP/1.1 200 OK", "Content-Length: abc", "Connection: close"],
    "a negative length": ["HTTP/1.1 200 OK", "Content-Length: -5", "Connection: close"],
    "a long length": ["HTTP/1.1 200 OK", "Content-Length: " + "9" * 5_000],
    "year 9999": ["HTTP/1.1 200 OK", f"Content-Length: {len(OLD)}", "Last-Modified: Fri, 31 Dec 9999 23:59:59 -0100"],
    "a bad redirect": ["HTTP/1.1 302 Found", "Location: http://[::bad/", "Content-Length: 0"],
    "a redirect to a file": ["HTTP/1.1 302 Found", "Location: file:///etc/passwd", "Content-Length: 0"],
    "a redirect to itself": ["HTTP/1.1 302 Found", f"Location: {PATH}", "Content-Length: 0"],
    "a long Retry-After": ["HTTP/1.1 503 No", "Retry-After: " + "9" * 5_000, "Content-Length: 0"],
    "a fractional Retry-After": ["HTTP/1.1 503 No", "Retry-After: 1.5", "Content-Length: 0"],
    "a negative Retry-After": ["HTTP/1.1 503 No", "Retry-After: -1", "Content-Length: 0"],
    "a wordy Retry-After": ["HTTP/1.1 503 No", "Retry-After: soon", "Content-Length: 0"],
    "a status of words": ["HTTP/1.1 abc"],
    "no HTTP": ["SSH-2.0-OpenSSH"],
    "many headers": ["HTTP/1.1 200 OK", *(f"X-{number}: 1" for number in range(500))],
    "a long header": ["HTTP/1.1 200 OK", "X: " + "x" * 100_000],
    "a header without a name": ["HTTP/1.1 200 OK", ": what", f"Content-Length: {len(OLD)}"],
    "no such status": ["HTTP/1.1 799 What", "Content-Length: 0"],
}


@pytest.mark.parametrize("head", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_answer_is_the_file_or_one_line(
    head: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answer = RawAnswer(head, OLD if "200" in head[0] else b"")
    with RawSource([answer], [answer]).running() as source:
        judge(lambda: get(source, tmp_path), {OLD})
    assert all("\n" not in record.getMessage() and not record.exc_info for record in caplog.records)


def judge(fetch: Callable[[], FetchedFile], versions: set[bytes]) -> None:
    """Check that the fetch gives one complete version, or an error of one line."""
    try:
        fetched = fetch()
    except TlcError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 1_000
    else:
        assert fetched.path.read_bytes() in versions


def behave(seed: int) -> RawSource:
    """Return a server with random behaviour: two versions of a file, cuts, parts, wrong headers and refusals."""
    chance = random.Random(seed)

    def answer() -> RawAnswer:
        body, etag = chance.choice([(OLD, '"1"'), (OLD, '"1"'), (NEW, '"2"')])
        kind = chance.randrange(8)
        if kind < 3:
            made = whole(body, *chance.choice([[], [DATED]]), etag=etag)
        elif kind < 5:
            made = part(body, chance.choice([0, 10, 100_000, 110_000]), etag=etag)
        elif kind == 5:
            made = RawAnswer([f"HTTP/1.1 {chance.choice([416, 429, 500, 503])} No", "Content-Length: 0"])
        elif kind == 6:
            made = RawAnswer(chance.choice(list(HOSTILE.values())), body)
        else:
            made = RawAnswer(["HTTP/1.1 200 OK", "Connection: close", f"ETag: {etag}"], body)
        if chance.random() < 0.5:
            made = cut(made, chance.choice([0, 10, 100_000, 110_000, len(made.body)]))
        return made

    return RawSource([whole(OLD, DATED)], [answer() for _ in range(chance.randint(1, 5))])


@pytest.mark.parametrize("seed", range(20))
def test_a_random_server_gives_a_whole_version_or_one_line(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nyc_tlc.source.http.MAX_RETRY_AFTER", 0.01)
    with behave(seed).running() as source:
        judge(lambda: get(source, tmp_path), {OLD, NEW})


SECRETS = ("hush-user", "hush-word", "hush-query")


@pytest.mark.parametrize(
    "url",
    [
        "http://hush-user:hush-word@host/{year}/{month}?signature=hush-query",
        "http://hush-user:hush-word/hush-word@host/{year}",
        "http://hush-user:hush-word?hush-word@host/{year}",
        "hush-user:hush-word@host/{year}?hush-query",
        "http://hush-user@[::bad/?hush-query#hush-query",
    ],
)
def test_no_secret_is_left_in_a_url_for_people(url: str) -> None:
    assert not [secret for secret in SECRETS if secret in redact_url(url)]


def test_a_url_without_secrets_is_shown_as_it_is() -> None:
    for url in ("https://host:8080/a@b/{color}_{year:04d}.parquet", "http://[::1]:9/{year}", "tlc", "file:///data/x"):
        assert redact_url(url) == url


@contextmanager
def everything_emitted() -> Iterator[list[str]]:
    """Record the lines of all loggers, including urllib3's."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(self.format(record))

    root, handler, web = logging.getLogger(), Keep(logging.DEBUG), logging.getLogger("urllib3.connectionpool")
    before = root.level, web.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    web.setLevel(logging.DEBUG)
    try:
        yield said
    finally:
        root.removeHandler(handler)
        root.setLevel(before[0])
        web.setLevel(before[1])


@pytest.mark.parametrize("head", [*HOSTILE.values(), ["HTTP/1.1 403 No"], ["HTTP/1.1 401 No"]])
def test_no_secret_of_a_source_is_ever_said(head: list[str], tmp_path: Path) -> None:
    answer = RawAnswer(head, b"hello")
    with everything_emitted() as said, RawSource([answer], [answer]).running() as source:
        template = source.template.replace("//", "//hush-user:hush-word@") + "?signature=hush-query"
        for ask in (lambda: look_at(template, "green", JANUARY), lambda: locate(template + "{", "green", JANUARY)):
            try:
                ask()
            except TlcError as error:
                said.append(str(error))
    assert said
    assert not [line for line in said for secret in SECRETS if secret in line]


def test_a_refusal_is_not_published_only_for_a_new_month_that_the_lake_lacks(http_source: HttpSource) -> None:
    new = Month.current().plus(-2)
    with pytest.raises(NotPublished) as refusal:
        look_at(http_source.template, "green", new)
    require_unpublished(refusal.value, new, known=False)
    with pytest.raises(SourceError, match=f"green {new}.*the lake has it.*HTTP 403"):
        require_unpublished(refusal.value, new, known=True)
    with pytest.raises(SourceError, match="more than 6 months old"):
        require_unpublished(refusal.value, JANUARY, known=False)


def test_a_source_that_refuses_everything_fails(http_source: HttpSource) -> None:
    with pytest.raises(SourceError, match="HTTP 403"):
        find_newest(http_source.template, "green")


def test_a_local_file_is_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "2024-1"
    for content in (b"root:hush-word:0:0", b"<html><title>hush-word</title>"):
        path.write_bytes(content)
        with pytest.raises(SourceError) as caught:
            identify(path, "green 2024-01", quote=False)
        assert "hush-word" not in str(caught.value)


def test_a_scheme_that_is_not_allowed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLC_SOURCE_SCHEMES", "https, sample")
    with pytest.raises(ConfigurationError, match="TLC_SOURCE_SCHEMES"):
        look_at("file:///etc/{year}-{month}", "green", JANUARY)
    assert locate("tlc", "green", JANUARY).startswith("https://")


def test_what_is_no_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "2024-1").mkdir()
    os.mkfifo(tmp_path / "2024-2")
    for month in (JANUARY, JANUARY.plus(1)):
        with pytest.raises(SourceError, match="is not a file"):
            look_at(f"file://{tmp_path}/{{year}}-{{month}}", "green", month)


@pytest.mark.parametrize("end", ["{year[0]}", "\0", "{year:99999999d}", "{color.__class__}"])
def test_a_template_that_is_an_attack_is_refused(end: str) -> None:
    with pytest.raises(ArgumentError):
        locate("https://host/{year}-{month}" + end, "green", JANUARY)


def test_without_retries_a_redirect_is_followed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TLC_HTTP_RETRIES", "0")
    moved = RawAnswer(["HTTP/1.1 302 Found", f"Location: {PATH}?moved", "Content-Length: 0"])
    with RawSource([moved, whole(OLD)], [moved, whole(OLD)]).running() as source:
        assert get(source, tmp_path).path.read_bytes() == OLD


def test_looks_share_a_connection(http_source: HttpSource) -> None:
    http_source.files[PATH] = PublishedFile(OLD)
    with everything_emitted() as said:
        for _ in range(5):
            look_at(http_source.template, "green", JANUARY)
    assert len([line for line in said if "Starting new HTTP connection" in line]) == 1
