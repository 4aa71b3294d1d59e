"""An unusual month is reported with its numbers, a far too small one is not loaded, and usual months pass."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from factories import JANUARY, green_parquet, make_month, trip
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.keys import FileKeys, Keys
from nyc_tlc.lake.manifest import FileRecord, Manifest, QuarantineRecord, SourceRecord
from nyc_tlc.month import Month
from nyc_tlc.pages.anomalies import compute_trends, find_anomalies, format_trend
from nyc_tlc.warehouse.duckdb import DuckDbWarehouse
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.load import load_month
from nyc_tlc.warehouse.volume import VolumeError, check_volume, read_trailing

#: Rows of twelve months, as green taxis had them in 2023.
USUAL = [68_211, 64_809, 72_044, 65_392, 69_174, 65_550, 61_343, 60_649, 65_471, 66_177, 64_025, 64_215]


def month(rows: int, rejected: int = 0, at: Month = JANUARY, url: str = "https://example.org/x") -> Manifest:
    """Return the manifest of a month with this number of rows."""
    now, keys = datetime(2024, 3, 1, tzinfo=UTC), FileKeys(Keys("green", at), "0123456789ab")
    source = SourceRecord(
        url=url,
        etag=None,
        last_modified=None,
        bytes=1,
        sha256="0" * 64,
        format="parquet",
        rows=rows,
        columns=(),
        key=keys.raw("parquet"),
    )
    return Manifest(
        color="green",
        month=str(at),
        source=source,
        clean=FileRecord(key=keys.clean, rows=rows - rejected, bytes=1, sha256="1" * 64),
        quarantine=QuarantineRecord(
            key=keys.quarantine, rows=rejected, bytes=1, sha256="2" * 64, rules={"zero_passengers": rejected}
        ),
        warnings={"negative_fare": rows // 300},
        drift=(),
        contract_version="1-a",
        rules_version="1-b",
        code_version="0",
        flow_run_id=None,
        started_at=now,
        finished_at=now,
    )


def year(rejected_share: float = 0.006) -> list[Manifest]:
    return [
        month(rows, int(rows * rejected_share), JANUARY.plus(index - len(USUAL))) for index, rows in enumerate(USUAL)
    ]


def test_a_usual_month_is_not_odd() -> None:
    usual = month(56_551, 400)
    assert find_anomalies(usual, year()) == []
    check_volume(usual, year())


def test_the_robust_z_score_is_that_of_the_textbook() -> None:
    # Median 65,431.5; the absolute differences' median is 1,964; 0.6745 * (80,000 - 65,431.5) / 3,271.575: the spread
    # counts as at least 5 % of the median.
    trend = compute_trends(month(80_000), year())[0]
    assert trend.median == 65_431.5
    assert trend.z == pytest.approx(0.6745 * 14_568.5 / 3_271.575)


def test_an_odd_month_is_named_with_its_numbers() -> None:
    (rows,) = find_anomalies(month(20_000, 120), year())
    assert rows.startswith("green 2024-01: rows 20,000 is far from usual: the median of the 12 months before is 65,432")
    shares = find_anomalies(month(65_000, 6_500), year())
    assert [line.split(" is far")[0] for line in shares] == [
        "green 2024-01: rejected 10.00%",
        "green 2024-01: zero_passengers 10.00%",
    ]


@pytest.mark.parametrize(("rows", "stopped"), [(13_000, True), (13_500, False), (327_000, False), (328_000, True)])
def test_under_a_fifth_and_over_five_times_the_median_is_not_loaded(rows: int, stopped: bool) -> None:
    if not stopped:
        check_volume(month(rows), year())
        return
    with pytest.raises(VolumeError) as caught:
        check_volume(month(rows), year())
    message = str(caught.value)
    assert "\n" not in message
    assert f"{rows:,} rows" in message
    assert "13,086 to 327,158 rows (20% to 500% of the median 65,432 of the 12 months before)" in message
    assert "--force" in message


def test_a_load_refuses_a_month_that_is_far_too_small_without_force(tmp_path: Path) -> None:
    lake, warehouse = FolderLake(tmp_path / "lake"), DuckDbWarehouse(tmp_path / "warehouse.duckdb")
    for before in year():
        lake.write(f"manifest/green/{before.month}.json", before.to_json())
    file = LakeFile(make_month(lake, green_parquet(trip()), tmp_path), lake)
    with pytest.raises(VolumeError, match="got 1 rows"):
        load_month(file, warehouse)
    assert warehouse.loads() == {}
    assert load_month(file, warehouse, force=True)[0].row_count == 1


def test_a_vendor_with_one_minute_only_is_named_without_any_month_before() -> None:
    lost = month(60_000, 360).model_copy(update={"warnings": {"one_minute:6": 731}})
    (line,) = find_anomalies(lost, [])
    assert line.startswith("green 2024-01: all 731 trips of vendor 6 begin in the same minute of the hour")
    assert find_anomalies(lost, year())[0] == line


def test_with_five_months_known_nothing_is_said() -> None:
    check_volume(month(1), year()[:5])
    assert find_anomalies(month(1), year()[:5]) == []


def test_samples_are_compared_with_samples_of_their_size_only(tmp_path: Path) -> None:
    lake = FolderLake(tmp_path / "lake")
    for ago, rows, url in ((3, 100, "sample://x"), (2, 5_000, "sample://x"), (1, 50_000, "https://example.org/x")):
        at = JANUARY.plus(-ago)
        lake.write(f"manifest/green/{at}.json", month(rows, at=at, url=url).to_json())
    assert [each.source.rows for each in read_trailing(lake, month(5_000, url="sample://x"))] == [5_000]
    assert [each.source.rows for each in read_trailing(lake, month(60_000))] == [50_000]
    lake.write(f"manifest/green/{JANUARY.plus(-4)}.json", b"not a manifest")
    assert [each.source.rows for each in read_trailing(lake, month(60_000))] == [50_000]


def test_the_report_shows_the_trend(tmp_path: Path) -> None:
    lake = FolderLake(tmp_path / "lake")
    made = make_month(lake, green_parquet(trip(), trip(passenger_count=0)), tmp_path)
    assert format_trend(made, []) == ""
    text = format_trend(made, year())
    assert "**Warning**: green 2024-01: rows 2 is far from usual" in text
    assert "| rows | 2 | 65,432 | **-13.5** |" in text
    assert "| 2023-01 | 68,211 | 0.60% |" in text
