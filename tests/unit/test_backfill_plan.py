"""A backfill's months, what each of them needs, and the backfill's record."""

import shlex
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from factories import JANUARY, green_parquet, publish_fetched, trip
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import ArgumentError, LakeError, TransientError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.month import Color, Month
from nyc_tlc.planning.month_plan import plan_month
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.planning.plan import list_months, parse_months, plan_months
from nyc_tlc.planning.record import BackfillRun, MonthRecord, read_runs, write_run
from nyc_tlc.planning.report import format_plan, format_report
from nyc_tlc.source.fetch import fetch_month
from nyc_tlc.source.published import look_at
from nyc_tlc.warehouse.duckdb import DuckDbWarehouse
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.load import load_month
from stand_ins.http_source import Fault, HttpSource, PublishedFile

NOW = Month(2024, 6)


@pytest.mark.parametrize(
    ("colors", "start", "end", "every", "last", "expected"),
    [
        (["green"], "2024-01", "2024-03", 1, None, ["2024-01", "2024-02", "2024-03"]),
        (["green"], "2023-11", "2024-04", 3, None, ["2023-11", "2024-02"]),
        (["green"], "2013-01", "2013-09", 1, None, ["2013-08", "2013-09"]),
        (["green"], "2024-03", None, 1, None, ["2024-03", "2024-04"]),
        (["green"], None, None, 1, 4, ["2024-01", "2024-02", "2024-03", "2024-04"]),
        (["green", "green"], "2024-01", "2024-01", 1, None, ["2024-01"]),
        (["green"], "2024-01-25", "2024-02-03", 1, None, ["2024-01", "2024-02"]),
        (["green"], "2024-01-31", "2024-01", 1, None, ["2024-01"]),
        # The newest that can be published is April.
        (["green"], None, None, 1, "7d", ["2024-04"]),
        (["green"], None, None, 1, "31d", ["2024-03", "2024-04"]),
    ],
    ids="a_range every_third not_before_the_first up_to_the_newest the_last_four a_colour_twice"
    " days a_day_and_a_month the_last_days the_last_days_of_two_months".split(),
)
def test_the_months_that_are_meant(
    colors: list[str], start: str, end: str, every: int, last: int | str, expected: list[str]
) -> None:
    asked = list_months(colors, start, end, every, last, NOW)
    assert [str(month) for _, month in asked] == expected


def test_months_of_several_colours_come_oldest_first() -> None:
    asked = list_months(["yellow", "fhvhv"], "2018-12", "2019-02", 1, None, NOW)
    assert [f"{color} {month}" for color, month in asked] == [
        "yellow 2018-12",
        "yellow 2019-01",
        "fhvhv 2019-02",
        "yellow 2019-02",
    ]


@pytest.mark.parametrize(
    ("start", "end", "last"),
    [
        ("2024-03", "2024-01", None),
        ("2024-01", None, 2),
        ("soon", None, None),
        ("2024-01-25", "2024-01-03", None),
        ("2024-02-30", None, None),
    ],
)
def test_a_range_that_cannot_be_meant_is_refused(start: str, end: str | None, last: int | None) -> None:
    with pytest.raises(ArgumentError):
        list_months(["green"], start, end, 1, last, NOW)


def test_every_need_is_found_with_one_head_request_a_month(http_source: HttpSource, tmp_path: Path) -> None:
    lake, warehouse = FolderLake(tmp_path / "lake"), DuckDbWarehouse(tmp_path / "w.duckdb")
    newest = Month.current().plus(-1)
    asked = [*(("green", JANUARY.plus(n)) for n in range(4)), ("green", newest)]
    for _, month in asked[:4]:
        http_source.files[f"/green_tripdata_{month}.parquet"] = PublishedFile(b"a month")

    def plans() -> dict[str, str]:
        loads = {"duckdb": warehouse.loads()}
        planned = plan_months(asked, MonthOptions(http_source.template, "local"), lake, loads)
        return {str(plan.month): plan.need for plan in planned}

    assert plans() == {
        "2024-01": "ingest",
        "2024-02": "ingest",
        "2024-03": "ingest",
        "2024-04": "ingest",
        str(newest): "unpublished",
    }
    # The newest is refused; then its first byte is asked for.
    assert sorted(request.method for request in http_source.requests) == ["GET", *["HEAD"] * 5]


def test_a_source_that_states_no_size_is_compared_by_its_time_of_change(
    http_source: HttpSource, tmp_path: Path
) -> None:
    file = PublishedFile(green_parquet(trip()), etag=None, length_told=False)
    http_source.files["/green_tripdata_2024-01.parquet"] = file
    lake = FolderLake(tmp_path / "lake")
    publish_fetched(lake, fetch_month(look_at(http_source.template, "green", JANUARY), tmp_path), tmp_path)
    assert plan_month("green", JANUARY, MonthOptions(http_source.template, "local"), lake).need == "current"
    file.last_modified = "Tue, 19 Mar 2024 15:30:12 GMT"
    assert plan_month("green", JANUARY, MonthOptions(http_source.template, "local"), lake).why == "the source changed"


def test_what_is_in_the_lake_but_not_or_otherwise_in_a_warehouse_is_to_be_loaded(tmp_path: Path) -> None:
    lake, warehouse = FolderLake(tmp_path / "lake"), DuckDbWarehouse(tmp_path / "w.duckdb")
    source = tmp_path / "green_tripdata_2024-01"
    template = f"file://{tmp_path}/{{color}}_tripdata_{{year}}-{{month:02d}}"

    def ingest(body: bytes) -> LakeFile:
        source.write_bytes(body)
        fetched = fetch_month(look_at(template, "green", JANUARY), Path(tempfile.mkdtemp(dir=tmp_path)))
        manifest = publish_fetched(lake, fetched, tmp_path)
        return LakeFile(manifest, lake)

    def plan(force: bool = False) -> tuple[str, str]:
        loads = {"duckdb": warehouse.loads()}
        (planned,) = plan_months([("green", JANUARY)], MonthOptions(template, "local", force=force), lake, loads)
        return planned.need, planned.why

    file = ingest(green_parquet(trip()))
    assert plan() == ("load", "not in duckdb")
    load_month(file, warehouse)
    assert plan()[0] == "current"
    assert plan(force=True)[0] == "reload"
    source.write_bytes(green_parquet(trip(), trip()))
    assert plan() == ("reload", "the source changed")
    ingest(green_parquet(trip(), trip()))
    assert plan() == ("load", "another file of it is in duckdb")


def test_a_source_that_does_not_answer_for_one_month_leaves_the_plan_of_the_others(
    http_source: HttpSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLC_HTTP_RETRIES", "0")
    http_source.files["/green_tripdata_2024-01.parquet"] = PublishedFile(b"a month")
    http_source.files["/green_tripdata_2024-02.parquet"] = PublishedFile(b"a month", faults=[Fault("status", 503)] * 9)
    asked = [("green", JANUARY), ("green", JANUARY.plus(1))]
    plans = plan_months(asked, MonthOptions(http_source.template, "local"), FolderLake(tmp_path / "lake"), {})
    assert [plan.need for plan in plans] == ["ingest", "unknown"]
    assert "| green 2024-02 | unknown |" in format_plan(plans)


def a_run(*results: str | None) -> BackfillRun:
    months = [
        MonthRecord(color="green", month=f"2024-0{number}", need="ingest", why="new", result=result)
        for number, result in enumerate(results, 1)
    ]
    return BackfillRun(
        reason="a year was missing",
        flow_run_id="a flow run",
        started_at=datetime(2024, 6, 1, tzinfo=UTC),
        profile="dev",
        source="tlc",
        warehouses=("postgres",),
        months=tuple(months),
    )


def test_a_source_that_is_none_is_told_once_and_nothing_is_planned(tmp_path: Path) -> None:
    asked: list[tuple[Color, Month]] = [("green", JANUARY), ("green", JANUARY.plus(1))]
    with pytest.raises(ArgumentError, match="neither a name nor a template"):
        plan_months(asked, MonthOptions("file:///data", "local"), FolderLake(tmp_path / "lake"), {})


def test_the_record_keeps_every_run_of_a_backfill(tmp_path: Path) -> None:
    lake = FolderLake(tmp_path / "lake")
    first, second = a_run("done", None), a_run("done", "done")
    write_run(lake, "the-lost-year", [], first)
    write_run(lake, "the-lost-year", read_runs(lake, "the-lost-year"), second)
    assert read_runs(lake, "the-lost-year") == (first, second)
    assert b"a year was missing" in (tmp_path / "lake" / "backfills" / "the-lost-year.json").read_bytes()


@pytest.mark.parametrize("name", ["../manifest/green", "", "a/b", ".hidden"])
def test_a_name_that_is_no_files_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArgumentError):
        write_run(FolderLake(tmp_path), name, [], a_run("done"))


def test_a_record_that_is_none_is_not_overwritten(tmp_path: Path) -> None:
    lake = FolderLake(tmp_path)
    lake.write("backfills/x.json", b"{}")
    with pytest.raises(LakeError, match="choose another --name"):
        read_runs(lake, "x")


def test_the_report_has_a_command_that_does_just_what_is_left() -> None:
    run = a_run("done", "failed", "unpublished", None).model_copy(
        update={"source": "https://x/{year}?a=$b c", "layout": "day", "force": True, "via": "etl-month"}
    )
    report = format_report("the-lost-year", run)
    assert report.startswith("backfill the-lost-year: 1 done, 1 failed, 1 not reached, 1 unpublished")
    assert "green 2024-03" not in report, "what is not published is only counted"
    assert shlex.split(report.splitlines()[-1]) == shlex.split(
        "python flows/backfill.py --months green-2024-02 green-2024-04 --profile dev --source 'https://x/{year}?a=$b c'"
        " --warehouses postgres --layout day --force --via etl-month --name the-lost-year"
    )
    assert "what is left" not in format_report("x", a_run("done", "unpublished"))


def test_single_months_can_be_named() -> None:
    assert parse_months(["yellow-2024-01", "green-2023-12", "yellow-2024-01"]) == [
        ("green", Month(2023, 12)),
        ("yellow", JANUARY),
    ]
    for wrong in ("red-2024-01", "green", "green-2024", "green-2013-07"):
        with pytest.raises(ArgumentError):
            parse_months([wrong])


def test_a_month_of_one_source_is_not_replaced_by_one_of_another_unless_asked(tmp_path: Path) -> None:
    lake = FolderLake(tmp_path / "lake")
    (tmp_path / "green_2024-01").write_bytes(green_parquet(trip()))
    template = f"file://{tmp_path}/{{color}}_{{year}}-{{month:02d}}"
    made = publish_fetched(lake, fetch_month(look_at(template, "green", JANUARY), tmp_path), tmp_path)
    kept = plan_month("green", JANUARY, MonthOptions("sample", "local"), lake)
    assert kept.need == "kept"
    assert "the source template (file://" in kept.why
    assert "--force replaces it by sample" in kept.why
    assert plan_month("green", JANUARY, MonthOptions("sample", "local", force=True), lake).need == "reload"
    (planned,) = plan_months([("green", JANUARY)], MonthOptions("sample", "local"), lake, {"duckdb": {}})
    assert (planned.need, planned.is_due) == ("kept", False)
    assert lake.manifest(made.month_keys) == made


def test_force_holds_where_the_source_tells_nothing(http_source: HttpSource, tmp_path: Path) -> None:
    body = green_parquet(trip())
    http_source.files["/green_tripdata_2024-01.parquet"] = PublishedFile(body, etag=None, last_modified=None)
    lake = FolderLake(tmp_path / "lake")
    fetched = fetch_month(look_at(http_source.template, "green", JANUARY), tmp_path)
    publish_fetched(lake, fetched, tmp_path)
    assert plan_month("green", JANUARY, MonthOptions(http_source.template, "local"), lake).is_current_with(fetched)
    assert not plan_month(
        "green", JANUARY, MonthOptions(http_source.template, "local", force=True), lake
    ).is_current_with(fetched)


def test_a_month_is_current_only_while_its_files_are_whole(tmp_path: Path) -> None:
    lake = FolderLake(tmp_path / "lake")
    (tmp_path / "green_2024-01").write_bytes(green_parquet(trip(), trip(passenger_count=0)))
    template = f"file://{tmp_path}/{{color}}_{{year}}-{{month:02d}}"

    def make() -> Manifest:
        return publish_fetched(lake, fetch_month(look_at(template, "green", JANUARY), tmp_path), tmp_path)

    for kind in ("source", "clean", "quarantine"):
        needed = "reload" if kind == "source" else "clean again"
        key = getattr(make(), kind).key
        assert plan_month("green", JANUARY, MonthOptions(template, "local", verify=True), lake).need == "current"
        content = lake.local_path(key).read_bytes()
        lake.local_path(key).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert plan_month("green", JANUARY, MonthOptions(template, "local"), lake).need == "current", "its size fits"
        damaged = plan_month("green", JANUARY, MonthOptions(template, "local", verify=True), lake)
        assert (damaged.need, damaged.why) == (needed, f"{key} is not what the manifest says")
        again = getattr(make(), kind).key
        assert lake.local_path(again).read_bytes() == content, "it is made again"
        lake.local_path(again).unlink()
        missing = plan_month("green", JANUARY, MonthOptions(template, "local"), lake)
        assert (missing.need, missing.why) == (needed, f"{again} is not what the manifest says")


@pytest.fixture
def outdated(http_source: HttpSource, tmp_path: Path) -> FolderLake:
    """Return a lake with a month of the web source that was cleaned by an earlier contract."""
    http_source.files["/green_tripdata_2024-01.parquet"] = PublishedFile(green_parquet(trip(), trip()))
    lake = FolderLake(tmp_path / "lake")
    fetched = fetch_month(look_at(http_source.template, "green", JANUARY), tmp_path)
    manifest = publish_fetched(lake, fetched, tmp_path)
    old = manifest.model_copy(update={"contract_version": "an earlier one"})
    lake.write(manifest.month_keys.manifest, old.to_json())
    http_source.requests.clear()
    return lake


def test_a_month_of_which_only_the_contract_changed_is_cleaned_again(
    outdated: FolderLake, http_source: HttpSource
) -> None:
    plan = plan_month("green", JANUARY, MonthOptions(http_source.template, "local"), outdated)
    assert (plan.need, plan.why.partition(" from ")[0]) == ("clean again", "the contract changed")
    assert [request.method for request in http_source.requests] == ["HEAD"]


def test_a_month_of_which_only_the_rules_changed_is_cleaned_again(
    outdated: FolderLake, http_source: HttpSource
) -> None:
    manifest = outdated.manifest(Keys("green", JANUARY))
    assert manifest is not None
    now = {"contract_version": read_contract("green").contract_version, "rules_version": "an earlier one"}
    outdated.write(manifest.month_keys.manifest, manifest.model_copy(update=now).to_json())
    plan = plan_month("green", JANUARY, MonthOptions(http_source.template, "local"), outdated)
    assert (plan.need, plan.why.partition(" from ")[0]) == ("clean again", "the rules changed")


def test_a_month_whose_source_changed_too_is_fetched(outdated: FolderLake, http_source: HttpSource) -> None:
    http_source.files["/green_tripdata_2024-01.parquet"] = PublishedFile(green_parquet(trip()))
    plan = plan_month("green", JANUARY, MonthOptions(http_source.template, "local"), outdated)
    assert (plan.need, plan.why) == ("reload", "the source changed")


def test_a_month_whose_raw_file_is_missing_is_fetched(outdated: FolderLake, http_source: HttpSource) -> None:
    manifest = outdated.manifest(Keys("green", JANUARY))
    assert manifest is not None
    outdated.remove(manifest.source.key)
    assert plan_month("green", JANUARY, MonthOptions(http_source.template, "local"), outdated).need == "reload"


def test_without_a_network_a_month_is_cleaned_again_from_the_lake(
    outdated: FolderLake, http_source: HttpSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLC_HTTP_RETRIES", "0")
    away = "http://127.0.0.1:9/{color}_tripdata_{year}-{month:02d}.parquet"
    plan = plan_month("green", JANUARY, MonthOptions(away, "local"), outdated)
    assert plan.need == "clean again"
    assert plan.remote is not None
    assert plan.remote.name == "green 2024-01"
    with pytest.raises(TransientError):
        plan_month("green", JANUARY, MonthOptions(away, "local", force=True), outdated)
    with pytest.raises(TransientError):
        plan_month("green", JANUARY.plus(1), MonthOptions(away, "local"), outdated)
