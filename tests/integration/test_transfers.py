"""Downloads from servers that break the rules of HTTP, over real sockets, compared with the published bytes.

A server's behaviour is a list of raw answers. Two results are correct: the file on disk is one complete version of the
server's file, or the error is one line. Another file, a traceback or a wait beyond the limit is a bug.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from factories import JANUARY, green_parquet, trip
from nyc_tlc.cleaning.clean import clean_month
from nyc_tlc.cleaning.publish import publish_month
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import ArgumentError, ConfigurationError, NotPublished, SourceError, TlcError, TransientError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.month import Month
from nyc_tlc.source.fetch import FetchedFile, fetch_month
from nyc_tlc.source.file_format import identify
from nyc_tlc.source.location import locate, redact_url
from nyc_tlc.source.published import find_newest, look_at, require_unpublished
from sample_csv import write_sample_csv
from stand_ins.http_source import Fault, HttpSource, PublishedFile, RawAnswer, RawSource

OLD = green_parquet(*(trip(trip_distance=number / 7) for number in range(20_000)))
NEW = green_parquet(*(trip(trip_distance=number / 9) for number in range(20_000)))
CSV = b"VendorID,lpep_pickup_datetime\r\n" + b"2,2024-01-05 10:00:00\r\n" * 20_000
#: More than any answer may unpack to.
BOMB = bytes((1 << 26) + 1)
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


def chunked(body: bytes, *headers: str, status: str = "200 OK") -> RawAnswer:
    head = [f"HTTP/1.1 {status}", "Transfer-Encoding: chunked", 'ETag: "1"', *headers]
    return RawAnswer(head, b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))


def rest(start: int, *headers: str, more: bytes = b"") -> RawAnswer:
    span = f"Content-Range: bytes {start}-{len(OLD) - 1}/{len(OLD)}"
    return chunked(OLD[start:] + more, span, *headers, status="206 Partial")


NO_RESTS = {
    "longer than it says": rest(100_000, more=b"more"),
    "encoded": rest(100_000, "Content-Encoding: gzip"),
    "several ranges": rest(100_000, "Content-Type: multipart/byteranges; boundary=x"),
    "beyond the size": part(OLD, 100_000, span="bytes 100000-49999/50000"),
}


@pytest.mark.parametrize(
    "second",
    [
        part(NEW, 100_000, etag='"2"'),
        part(bytes(len(OLD)), 100_000, etag='"2"'),
        part(OLD, 100_000, span=f"bytes 0-{len(OLD) - 1}/{len(OLD)}"),
        part(OLD, 100_000, span=f"bytes 100000-{len(OLD) - 1}/{len(OLD) + 5}"),
        part(OLD, 100_000, end=120_000),
        part(OLD, 50_000),
        RawAnswer(["HTTP/1.1 416 Range Not Satisfiable", "Content-Length: 0"]),
        *NO_RESTS.values(),
    ],
    ids=[
        "another ETag",
        "another ETag, the same size",
        "wrong start",
        "another total",
        "a shorter part",
        "wrong offset",
        "416",
        *NO_RESTS,
    ],
)
def test_a_part_of_something_else_is_never_glued_on(second: RawAnswer, tmp_path: Path) -> None:
    with RawSource([whole(OLD)], [cut(whole(OLD), 100_000), second, whole(OLD)]).running() as source:
        assert get(source, tmp_path).path.read_bytes() == OLD
    assert [request.range for request in source.gets] == [None, "bytes=100000-", None]


def test_a_transfer_that_breaks_more_often_than_is_tried_again_ends_if_each_part_brings_more(tmp_path: Path) -> None:
    parts = [cut(part(OLD, 20_000 * number), 20_000) for number in range(1, 6)]
    with RawSource([whole(OLD)], [cut(whole(OLD), 20_000), *parts, part(OLD, 120_000)]).running() as source:
        assert get(source, tmp_path).path.read_bytes() == OLD


def test_a_file_that_became_shorter_has_nothing_of_the_longer_one(tmp_path: Path) -> None:
    short = green_parquet(trip())
    with RawSource([whole(OLD)], [cut(whole(OLD), 100_000), whole(short, etag='"2"')]).running() as source:
        assert get(source, tmp_path).path.read_bytes() == short


@pytest.mark.parametrize("answer", NO_RESTS.values(), ids=NO_RESTS)
@pytest.mark.parametrize("size_known", [True, False])
def test_a_server_without_a_right_rest_is_given_up(answer: RawAnswer, size_known: bool, tmp_path: Path) -> None:
    seen = whole(OLD) if size_known else RawAnswer(["HTTP/1.1 200 OK"])
    first = cut(whole(OLD) if size_known else chunked(OLD), 100_000)
    with RawSource([seen], [first, answer]).running() as source, pytest.raises(TransientError, match="attempts"):
        get(source, tmp_path)
    # The first answer is ahead of all before, so the count starts once more.
    assert len(source.gets) <= 5
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= len(OLD)


def test_a_file_longer_than_its_size_is_given_up(tmp_path: Path) -> None:
    with (
        RawSource([whole(OLD)], [chunked(OLD + b"more")]).running() as source,
        pytest.raises(TransientError, match=f"more than the file's {len(OLD):,} bytes"),
    ):
        get(source, tmp_path)
    assert len(source.gets) == 4
    assert [request.range for request in source.gets] == [None] * 4


def test_a_rest_that_states_the_size_is_checked_against_it(tmp_path: Path) -> None:
    span = f"Content-Range: bytes 100000-{len(CSV) - 1}/{len(CSV)}"
    half = RawAnswer(["HTTP/1.1 206 Partial", 'ETag: "1"', span, "Connection: close"], CSV[100_000:200_000])
    answers = [cut(chunked(CSV), 100_007), half, part(CSV, 200_000)]
    with RawSource([RawAnswer(["HTTP/1.1 200 OK"])], answers).running() as source:
        fetched = get(source, tmp_path)
    assert [request.range for request in source.gets] == [None, "bytes=100000-", "bytes=200000-"]
    assert (fetched.path.read_bytes(), fetched.verified_by) == (CSV, "size")


@pytest.mark.parametrize("body", [OLD, CSV], ids=["Parquet", "CSV"])
@pytest.mark.parametrize("size_known", [True, False])
def test_compression_on_the_way_is_undone(body: bytes, size_known: bool, tmp_path: Path) -> None:
    # Two members, as parallel compressors write them.
    packed = gzip.compress(body[:50_000]) + gzip.compress(body[50_000:])
    sent = whole(packed, "Content-Encoding: gzip")
    with RawSource([whole(body) if size_known else sent], [cut(sent, len(packed) // 2), sent]).running() as source:
        fetched = get(source, tmp_path)
    assert [request.range for request in source.gets] == [None, None]
    assert fetched.path.read_bytes() == body
    assert (fetched.bytes, fetched.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert fetched.verified_by == ("size" if size_known else "transfer")
    assert fetched.remote.bytes == (len(body) if size_known else None)


def test_a_gzipped_file_is_kept_as_it_is(tmp_path: Path) -> None:
    body = gzip.compress(CSV)
    with RawSource([whole(body)], [whole(body, "Content-Type: application/gzip")]).running() as source:
        fetched = get(source, tmp_path)
    assert (fetched.path.read_bytes(), fetched.format) == (body, "csv.gz")


def test_compression_that_cannot_be_undone_is_one_line(tmp_path: Path) -> None:
    encoded = ["HTTP/1.1 200 OK", "Content-Encoding: gzip", "Connection: close"]
    bodies = {"Content-Encoding": gzip.compress(CSV)[:-20], "Not a gzipped": CSV, "MAX_EXPANSION": gzip.compress(BOMB)}
    for reason, body in bodies.items():
        with (
            RawSource([RawAnswer(encoded)], [RawAnswer(encoded, body)]).running() as source,
            pytest.raises(SourceError, match=reason),
        ):
            get(source, tmp_path)
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 1 << 26


@pytest.mark.parametrize("look_too", [True, False])
def test_early_hints_are_no_refusal(look_too: bool, tmp_path: Path) -> None:
    hints = ["HTTP/1.1 103 Early Hints", "Link: </style.css>", ""]
    answer = RawAnswer([*hints, *whole(OLD).head], OLD)
    with RawSource([answer if look_too else whole(OLD)], [answer]).running() as source:
        assert get(source, tmp_path).path.read_bytes() == OLD


@pytest.mark.parametrize("sent", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 90_000])
def test_an_answer_without_an_end_of_its_headers_ends_at_the_deadline(
    sent: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TLC_HTTP_DEADLINE", "0.3")
    endless = RawAnswer(["HTTP/1.1 100 Continue"], sent * 50, seconds_a_byte=0.01)
    began = time.monotonic()
    with RawSource([whole(OLD)], [endless]).running() as source, pytest.raises(TransientError, match="DEADLINE"):
        get(source, tmp_path)
    assert time.monotonic() - began < 3


def test_a_deadline_ends_no_other_transfer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TLC_HTTP_TIMEOUT", "10")
    slow = whole(OLD)
    slow.seconds_a_byte = 0.05
    with RawSource([whole(OLD)], [slow]).running() as stuck, HttpSource().running() as other:
        other.files[PATH] = PublishedFile(OLD, faults=[Fault("stall", after=1000)])
        with ThreadPoolExecutor(1) as thread:
            fetching = thread.submit(lambda: fetch_month(look_at(other.template, "green", JANUARY), tmp_path))
            assert other.stalled.wait(10)
            monkeypatch.setenv("TLC_HTTP_DEADLINE", "0.5")
            with pytest.raises(TransientError, match="DEADLINE"):
                get(stuck, tmp_path)
            assert [request.method for request in other.requests] == ["HEAD", "GET"]
            other.release.set()
            assert fetching.result().path.read_bytes() == OLD


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
    monkeypatch.setenv("TLC_HTTP_DEADLINE", "0.3")
    slow = whole(OLD)
    slow.seconds_a_byte = 0.05
    with RawSource([whole(OLD)], [slow]).running() as source, pytest.raises(TransientError, match="DEADLINE"):
        get(source, tmp_path)


def test_half_a_csv_is_noticed_by_the_size_that_only_the_look_had(tmp_path: Path) -> None:
    half = RawAnswer(["HTTP/1.1 200 OK", 'ETag: "1"', "Connection: close"], CSV[: len(CSV) // 2])
    with RawSource([whole(CSV)], [half]).running() as source, pytest.raises(TransientError):
        get(source, tmp_path)


def test_what_nothing_verifies_is_published_only_by_force(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bare = ["HTTP/1.1 200 OK", "Connection: close"]
    write_sample_csv("green", JANUARY, 100, tmp_path / "month")
    month = gzip.decompress((tmp_path / "month").read_bytes())
    with RawSource([RawAnswer(bare)], [RawAnswer(bare, month)]).running() as source:
        fetched = get(source, tmp_path)
    assert fetched.verified_by == "nothing"
    assert "cannot check that the file is complete" in caplog.text
    contract, lake = read_contract("green"), FolderLake(tmp_path / "lake")
    cleaned = clean_month(fetched, contract, tmp_path)
    with pytest.raises(SourceError, match=r"green 2024-01: nothing shows .*complete.*--force"):
        publish_month(cleaned, contract, lake, None, datetime.now(UTC))
    assert publish_month(cleaned, contract, lake, None, datetime.now(UTC), force=True).source.verified_by == "nothing"


@pytest.mark.parametrize(
    ("answer", "shown_by"),
    [
        (chunked(CSV), "transfer"),
        (RawAnswer(["HTTP/1.1 200 OK", f'ETag: "{hashlib.md5(CSV).hexdigest()}"'], CSV), "etag"),
        (RawAnswer(["HTTP/1.1 200 OK", f'ETag: "{hashlib.md5(OLD).hexdigest()}"'], CSV), "nothing"),
    ],
)
def test_what_else_shows_that_a_csv_is_complete(answer: RawAnswer, shown_by: str, tmp_path: Path) -> None:
    with RawSource([RawAnswer(["HTTP/1.1 200 OK"])], [answer]).running() as source:
        assert get(source, tmp_path).verified_by == shown_by


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
        kind = chance.randrange(10)
        if kind < 3:
            made = whole(body, *chance.choice([[], [DATED]]), etag=etag)
        elif kind < 5:
            made = part(body, chance.choice([0, 10, 100_000, 110_000]), etag=etag)
        elif kind == 5:
            made = RawAnswer([f"HTTP/1.1 {chance.choice([416, 429, 500, 503])} No", "Content-Length: 0"])
        elif kind == 6:
            made = RawAnswer(chance.choice(list(HOSTILE.values())), body)
        elif kind == 7:
            made = whole(gzip.compress(body, 1), "Content-Encoding: gzip", etag=etag)
        elif kind == 8:
            made = chance.choice([*NO_RESTS.values(), chunked(OLD), chunked(OLD + b"more")])
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
    """Record the lines of all loggers, whatever their level."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(self.format(record))

    root, handler = logging.getLogger(), Keep(logging.DEBUG)
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield said
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


SIGNED = ["HTTP/1.1 302 Found", f"Location: {PATH}?signature=hush-query", "Content-Length: 0"]


@pytest.mark.parametrize("head", [*HOSTILE.values(), SIGNED, ["HTTP/1.1 403 No"], ["HTTP/1.1 401 No"]])
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
    with pytest.raises(SourceError, match="it is overdue: it ended 4 or more months ago"):
        require_unpublished(refusal.value, JANUARY, known=False)


def test_a_missing_local_file_of_an_old_month_is_an_error(tmp_path: Path) -> None:
    template, new = f"file://{tmp_path}/{{year}}-{{month}}", Month.current().plus(-2)
    with pytest.raises(NotPublished) as refusal:
        look_at(template, "green", new)
    require_unpublished(refusal.value, new, known=False)
    with pytest.raises(NotPublished) as refusal:
        look_at(template, "green", JANUARY)
    with pytest.raises(
        SourceError, match=f"no file at {tmp_path}/2024-1; it is overdue: it ended 4 or more months ago"
    ):
        require_unpublished(refusal.value, JANUARY, known=False)


def test_a_time_of_change_after_9999_is_one_line() -> None:
    if not Path("/dev/shm").exists():
        pytest.skip("no file system here keeps such a time")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder, "2024-1")
        path.write_bytes(OLD)
        os.utime(path, (3e11, 3e11))
        with pytest.raises(SourceError, match="after the year 9999"):
            look_at(f"file://{folder}/{{year}}-{{month}}", "green", JANUARY)


def test_a_name_that_cannot_be_resolved_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(TransientError, match=r"green 2024-01: .* cannot be resolved .*--source sample"):
        look_at("https://no-such-host.invalid/{year}-{month}", "green", JANUARY)
    assert caplog.records == []


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
    for _ in range(5):
        look_at(http_source.template, "green", JANUARY)
    assert len({request.port for request in http_source.requests}) == 1
