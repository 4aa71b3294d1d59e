"""Downloads over real sockets: what is retried, what is resumed, what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from factories import JANUARY, green_parquet, trip
from nyc_tlc.errors import ArgumentError, NotPublished, SourceError, TransientError
from nyc_tlc.month import Month
from nyc_tlc.source.fetch import FetchedFile, fetch_month
from nyc_tlc.source.location import locate
from nyc_tlc.source.published import find_newest, look_at
from stand_ins.http_source import Fault, HttpSource, PublishedFile

PATH = "/green_tripdata_2024-01.parquet"
MONTH = green_parquet(*(trip(trip_distance=number / 7) for number in range(30_000)))


@pytest.fixture
def published(http_source: HttpSource) -> PublishedFile:
    """Publish a month on the web source."""
    http_source.files[PATH] = file = PublishedFile(MONTH)
    return file


@pytest.fixture
def get(http_source: HttpSource, tmp_path: Path) -> Callable[[], FetchedFile]:
    """Return a function that looks at the month and fetches it."""
    return lambda: fetch_month(look_at(http_source.template, "green", JANUARY), tmp_path)


def test_a_month_comes_whole_and_says_what_it_is(published: PublishedFile, get: Callable[[], FetchedFile]) -> None:
    fetched = get()
    assert fetched.path.read_bytes() == MONTH
    assert fetched.format == "parquet"
    assert fetched.remote.etag == published.headers()["ETag"]
    assert fetched.remote.last_modified == "2024-03-18T15:30:12+00:00"
    assert fetched.remote.bytes == fetched.bytes == len(MONTH)


def test_progress_is_told_to_the_last_byte(published: PublishedFile, http_source: HttpSource, tmp_path: Path) -> None:
    reported: list[tuple[int, int | None]] = []
    fetch_month(look_at(http_source.template, "green", JANUARY), tmp_path, lambda *progress: reported.append(progress))
    assert reported[-1] == (len(MONTH), len(MONTH))


@pytest.mark.parametrize("status", [403, 404])
def test_a_month_that_is_not_there_is_not_published(http_source: HttpSource, status: int) -> None:
    http_source.files[PATH] = PublishedFile(b"", faults=[Fault("status", status)] * 2)
    with pytest.raises(NotPublished, match="green 2024-01"):
        look_at(http_source.template, "green", JANUARY)
    # TLC's 403 can also be a server's answer to HEAD, so the first byte is asked for.
    assert [request.range for request in http_source.requests] == [None, "bytes=0-0"][: 1 + (status == 403)]


@pytest.mark.parametrize("status", [403, 405, 501])
@pytest.mark.parametrize("resumable", [True, False])
def test_a_server_that_refuses_head_is_asked_for_the_first_byte(
    published: PublishedFile, get: Callable[[], FetchedFile], http_source: HttpSource, status: int, resumable: bool
) -> None:
    published.faults, published.resumable = [Fault("status", status)], resumable
    fetched = get()
    assert fetched.path.read_bytes() == MONTH
    assert (fetched.remote.bytes, fetched.remote.etag) == (len(MONTH), published.headers()["ETag"])
    assert [request.method for request in http_source.requests] == ["HEAD", "GET", "GET"]


@pytest.mark.parametrize(("status", "error"), [(403, NotPublished), (404, NotPublished), (401, SourceError)])
def test_the_answer_to_get_decides_when_head_is_refused(
    published: PublishedFile, http_source: HttpSource, status: int, error: type[Exception]
) -> None:
    published.faults = [Fault("status", 405), Fault("status", status)]
    with pytest.raises(error, match=f"HTTP {status}"):
        look_at(http_source.template, "green", JANUARY)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_time_can_heal_is_tried_again(
    published: PublishedFile, get: Callable[[], FetchedFile], http_source: HttpSource, status: int
) -> None:
    published.faults = [Fault("status", status)] * 3
    assert get().bytes == len(MONTH)
    assert [request.method for request in http_source.requests] == ["HEAD"] * 4 + ["GET"]


@pytest.mark.parametrize("status", [400, 401, 410, 451])
def test_a_refusal_for_good_is_not(published: PublishedFile, http_source: HttpSource, status: int) -> None:
    published.faults = [Fault("status", status)]
    with pytest.raises(SourceError, match=str(status)):
        look_at(http_source.template, "green", JANUARY)
    assert len(http_source.requests) == 1


def test_retry_after_is_honoured(published: PublishedFile, http_source: HttpSource) -> None:
    published.faults = [Fault("status", 503, {"Retry-After": "1"})]
    look_at(http_source.template, "green", JANUARY)
    first, second = http_source.requests
    assert second.at - first.at >= 1


def test_a_source_that_stays_down_is_given_up_on(
    published: PublishedFile, http_source: HttpSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLC_HTTP_RETRIES", "2")
    published.faults = [Fault("status", 503)] * 9
    with pytest.raises(TransientError, match="after 3 attempts"):
        look_at(http_source.template, "green", JANUARY)
    assert len(http_source.requests) == 3


def test_a_source_that_refuses_connections_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLC_HTTP_RETRIES", "1")
    with pytest.raises(TransientError, match="green 2024-01"):
        look_at("http://127.0.0.1:9/{year}-{month}", "green", JANUARY)


def test_a_broken_transfer_goes_on_where_it_broke(
    published: PublishedFile, get: Callable[[], FetchedFile], http_source: HttpSource
) -> None:
    published.faults = [Fault("cut", after=100_000), Fault("cut", after=50_000)]
    assert get().path.read_bytes() == MONTH
    ranges = [request.range for request in http_source.requests if request.method == "GET"]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_a_connection_reset_loses_nothing(published: PublishedFile, get: Callable[[], FetchedFile]) -> None:
    published.faults = [Fault("reset", after=100_000), Fault("reset", after=50_000)]
    assert get().path.read_bytes() == MONTH


def test_a_transfer_that_stalls_goes_on_too(
    published: PublishedFile, get: Callable[[], FetchedFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLC_HTTP_TIMEOUT", "0.5")
    published.faults = [Fault("stall", after=100_000)]
    assert get().path.read_bytes() == MONTH


def test_without_range_a_broken_transfer_starts_over(published: PublishedFile, get: Callable[[], FetchedFile]) -> None:
    published.resumable = False
    published.faults = [Fault("cut", after=100_000)]
    assert get().path.read_bytes() == MONTH


def test_a_file_that_changes_while_it_is_fetched_starts_over(
    published: PublishedFile, http_source: HttpSource, tmp_path: Path
) -> None:
    other = green_parquet(*(trip(trip_distance=number / 9) for number in range(30_000)))
    published.faults = [Fault("cut", after=100_000)]

    def replace(done: int, total: int | None) -> None:
        published.body = other

    fetched = fetch_month(look_at(http_source.template, "green", JANUARY), tmp_path, replace)
    assert fetched.path.read_bytes() == other
    assert fetched.remote.etag == published.headers()["ETag"]


def test_a_transfer_that_breaks_without_progress_is_given_up_on(
    published: PublishedFile, get: Callable[[], FetchedFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLC_HTTP_RETRIES", "2")
    published.faults = [Fault("cut", after=0)] * 9
    with pytest.raises(TransientError, match="green 2024-01"):
        get()


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (
            b"<!DOCTYPE html><html><head><title>Scheduled &amp; down</title></head></html>",
            "an HTML page (Scheduled & down)",
        ),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML document (AccessDenied)"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:55\nsize 7854533\n",
            "a Git-LFS pointer to a file of 7,854,533",
        ),
        (MONTH[:100_000], "an incomplete Parquet file (100,000 bytes, no footer)"),
        (b"", "an empty file"),
        (b'{"message": "rate limited"}', "beginning with"),
        (b"\x1f\x8b\x08\x00 not gzip at all", "a gzip file that can't be unpacked"),
    ],
)
def test_what_is_no_month_is_named(
    http_source: HttpSource, get: Callable[[], FetchedFile], body: bytes, named: str
) -> None:
    http_source.files[PATH] = PublishedFile(body)
    with pytest.raises(SourceError) as caught:
        get()
    assert named in caught.value.got


def test_bytes_missing_at_the_end_are_noticed_without_a_length(
    http_source: HttpSource, get: Callable[[], FetchedFile]
) -> None:
    http_source.files[PATH] = PublishedFile(MONTH, length_told=False, faults=[Fault("cut", after=100_000)])
    with pytest.raises(SourceError, match="incomplete"):
        get()


def test_a_local_file_that_shrank_after_the_look_is_incomplete(tmp_path: Path) -> None:
    file = tmp_path / "green_2024-01"
    file.write_bytes(b"VendorID,lpep_pickup_datetime\n" * 3)
    remote = look_at(f"file://{tmp_path}/{{color}}_{{year}}-{{month:02d}}", "green", JANUARY)
    file.write_bytes(b"VendorID,lpep_pickup_datetime\n" * 2)
    (tmp_path / "scratch").mkdir()
    with pytest.raises(SourceError, match="the file is incomplete; expected 90 bytes; got 60"):
        fetch_month(remote, tmp_path / "scratch")


def test_the_newest_month_is_found_by_looking_back(http_source: HttpSource) -> None:
    month = Month.current().plus(-3)
    http_source.files[f"/green_tripdata_{month}.parquet"] = PublishedFile(MONTH)
    assert find_newest(http_source.template, "green").month == month
    asked = [request.path for request in http_source.requests if request.method == "HEAD"]
    assert asked == [f"/green_tripdata_{month.plus(later)}.parquet" for later in (3, 2, 1, 0)]
    assert {request.range for request in http_source.requests} == {None, "bytes=0-0"}


def test_secrets_in_a_url_are_not_shown(http_source: HttpSource) -> None:
    template = http_source.template.replace("http://", "http://me:secret@") + "?signature=secret"
    with pytest.raises(NotPublished) as caught:
        look_at(template, "green", JANUARY)
    assert "secret" not in str(caught.value)


def test_known_sources() -> None:
    month = Month(2024, 3)
    assert locate("tlc", "yellow", month) == (
        "https://d37ci6vzurychx.cloudfront.net/trip-data/yellow_tripdata_2024-03.parquet"
    )
    assert locate("dtc", "fhv", month) == (
        "https://github.com/DataTalksClub/nyc-tlc-data/releases/download/fhv/fhv_tripdata_2024-03.csv.gz"
    )


@pytest.mark.parametrize(
    "template",
    [
        "mirror",
        "ftp://host/{year}-{month}",
        "https://host/{color}.parquet",
        "https://host/{year}-{month}-{day}",
        "{",
        "{0}",
        "file://data/{year}-{month}",
        "file://~/{year}-{month}",
        "file:///data/{year}-{month}%00",
    ],
)
def test_a_template_that_cannot_work_is_refused(template: str) -> None:
    with pytest.raises(ArgumentError):
        locate(template, "green", JANUARY)
