"""A notebook gets the trips it asks for, without Prefect, and reads only the needed parts of the files."""

import io
import subprocess
import sys
from datetime import date, datetime, timedelta
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import nyc_tlc.notebooks as tables
from conftest import ROOT, bucket
from factories import JANUARY, green_parquet, make_month, publish_fetched, trip
from nyc_tlc import codes, months, plausible, trips, zones
from nyc_tlc.errors import ArgumentError, LakeError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.gcs import GcsLake
from nyc_tlc.lake.keys import Keys
from nyc_tlc.source.fetch import fetch_month
from nyc_tlc.source.published import look_at
from nyc_tlc.source.sample import write_sample
from stand_ins.gcs import Gcs

FEBRUARY = JANUARY.plus(1)


@pytest.fixture
def lake(own_environment: Path, tmp_path: Path) -> FolderLake:
    """Return the lake of the profile local with green 2024-01 and 2024-02."""
    lake = FolderLake(own_environment / "lake")
    january = green_parquet(trip(trip_distance=12.0), trip(trip_distance=3.0, payment_type=None), trip(tip_amount=7.0))
    make_month(lake, january, tmp_path)
    february = green_parquet(trip(lpep_pickup_datetime=datetime(2024, 2, 3, 4), trip_distance=15.0))
    make_month(lake, february, tmp_path, FEBRUARY)
    return lake


def test_trips_are_those_asked_for_with_arrow_types(lake: FolderLake) -> None:
    found = trips(
        "green", "2024-01", "2024-02", columns=["pickup_datetime", "trip_distance"], where="trip_distance > 10"
    )
    assert found["trip_distance"].tolist() == [12.0, 15.0]
    assert found.dtypes.astype(str).tolist() == ["timestamp[us][pyarrow]", "double[pyarrow]"]


def test_a_filter_may_use_columns_that_are_not_wanted(lake: FolderLake) -> None:
    found = trips("green", "2024-01", columns=["source_row"], where="payment_type IS NULL OR tip_amount > 5")
    assert found["source_row"].tolist() == [1, 2]


def test_all_shapes_have_the_same_rows_and_the_clean_schema(lake: FolderLake) -> None:
    schema = pq.read_schema(next(lake.root.glob("clean/green/year=2024/month=01/*.parquet"))).remove_metadata()
    table = trips("green", "2024-01", as_="arrow")
    assert isinstance(table, pa.Table)
    assert table.schema == schema
    frame = trips("green", "2024-01", as_="polars")
    assert isinstance(frame, pl.DataFrame)
    assert pa.Table.from_batches(trips("green", "2024-01", as_="batches"), schema=schema) == table
    assert frame.equals(pl.from_arrow(table))
    assert trips("green", "2024-01", where="trip_distance > 1000").shape == (0, len(schema))


def test_only_the_row_groups_and_columns_needed_are_asked_of_a_bucket(
    gcs: Gcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, source = GcsLake(bucket(gcs.url), "taxi"), tmp_path / "sample.parquet"
    write_sample("yellow", JANUARY, 140_000, source)
    manifest = make_month(lake, source.read_bytes(), tmp_path, color="yellow")
    footer = pq.read_metadata(io.BytesIO(gcs.read("taxi-lake", f"taxi/{manifest.clean.key}")))
    assert footer.num_row_groups > 1
    column = footer.schema.names.index("source_row")
    needed = footer.row_group(0).column(column).total_compressed_size
    monkeypatch.setattr(tables, "open_lake", lambda _: lake)
    gcs.calls.clear()
    wanted = trips("yellow", "2024-01", columns=["source_row"], where="source_row < 5")
    assert wanted["source_row"].tolist() == [0, 1, 2, 3, 4]
    ranges = [tuple(map(int, call.range[6:].split("-"))) for call in gcs.calls if call.range]
    asked = sum(last - first + 1 for first, last in ranges)
    # The footer, then one column of one row group; not the other 23 columns, nor the other row groups.
    assert len(ranges) == 2
    assert needed <= asked < needed + (1 << 17) < manifest.clean.bytes / 5


def test_a_missing_month_names_the_command_that_brings_it(lake: FolderLake) -> None:
    with pytest.raises(LakeError) as caught:
        trips("green", "2023-11", "2024-03")
    assert "green 2023-11, 2023-12, 2024-03: not in the lake" in str(caught.value)
    assert "python flows/backfill.py --colors green --start 2023-11 --end 2024-03 --profile local" in str(caught.value)


def test_trips_and_months_are_those_of_a_time(lake: FolderLake, tmp_path: Path) -> None:
    old = lake.manifest(Keys("green", JANUARY))
    new = make_month(lake, green_parquet(trip()), tmp_path)
    assert old
    then = new.published_at - timedelta(microseconds=1)
    assert [len(trips("green", "2024-01", "2024-02", as_of=each)) for each in (then, str(new.published_at))] == [4, 2]
    assert len(trips("green", "2024-01-15", as_of=then)) == 3
    found = months(as_of=then)
    assert found[["month", "rows"]].to_numpy().tolist() == [["2024-01", 3], ["2024-02", 1]]
    assert pq.read_metadata(found["lake"][0]).num_rows == 3
    assert months(as_of=old.published_at)["month"].tolist() == ["2024-01"]
    with pytest.raises(LakeError, match=r"green 2024-02: not in the lake .* at 20"):
        trips("green", "2024-01", "2024-02", as_of=old.published_at)
    assert len(trips("green", "2024-01", "2024-02", as_of=old.published_at, missing="skip")) == 3
    assert months(as_of="2009-01-01").empty


def test_months_that_are_missing_can_be_skipped(lake: FolderLake) -> None:
    assert len(trips("green", "2023-11", "2024-03", missing="skip")) == 4
    assert len(trips("green", "2023-11", missing="skip")) == 0


def test_days_are_those_of_the_pick_up_whatever_file_has_the_trip(lake: FolderLake, tmp_path: Path) -> None:
    at = [datetime(2024, 3, 31, 23), datetime(2024, 4, 1, 1), datetime(2024, 4, 2, 1)]
    make_month(lake, green_parquet(trip(lpep_pickup_datetime=at[1])), tmp_path, JANUARY.plus(2))
    april = green_parquet(*(trip(lpep_pickup_datetime=each) for each in (at[0], at[2])))
    make_month(lake, april, tmp_path, JANUARY.plus(3))
    assert trips("green", "2024-03-31")["pickup_datetime"].tolist() == at[:1]
    assert trips("green", date(2024, 3, 1), "2024-04-01")["pickup_datetime"].tolist() == [at[1], at[0]]
    assert trips("green", "2024-04-02", "2024-04")["pickup_datetime"].tolist() == at[2:]
    assert len(trips("green", "2024-01-15", where="tip_amount > 5")) == 1


def test_generated_months_say_so(
    own_environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TLC_SAMPLE_ROWS", "10")
    lake = FolderLake(own_environment / "lake")
    publish_fetched(lake, fetch_month(look_at("sample", "green", FEBRUARY), tmp_path), tmp_path)
    make_month(lake, green_parquet(trip()), tmp_path)
    caplog.clear()
    assert len(trips("green", "2024-01")) == 1
    assert caplog.text == ""
    trips("green", "2024-02")
    assert "GENERATED DATA. All months here are made up" in caplog.text
    trips("green", "2024-01", "2024-02")
    assert "GENERATED DATA. The months green 2024-02 here are made up" in caplog.text


def test_a_mean_of_plausible_values_leaves_out_what_it_cannot_bear(lake: FolderLake, tmp_path: Path) -> None:
    march = [datetime(2024, 3, 3, 4)] * 3
    body = [
        trip(lpep_pickup_datetime=at, trip_distance=far) for at, far in zip(march, (2.0, 4.0, 259777.0), strict=True)
    ]
    make_month(lake, green_parquet(*body), tmp_path, JANUARY.plus(2))
    found = trips("green", "2024-03")
    assert found["trip_distance"].max() == 259777.0
    assert plausible(found["trip_distance"]).mean() == 3.0
    assert plausible(found["trip_distance"] / 1000, "trip_distance").isna().sum() == 1
    with pytest.raises(ArgumentError, match="no plausible values of vendor_id; expected trip_distance"):
        plausible(found["vendor_id"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": ["fare"]}, "green trips have no column fare; expected vendor_id"),
        ({"where": "fare > 1"}, "where='fare \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} 1' can't be used"),
        ({"where": "1; DROP"}, "can't be used"),
        ({"end": "2023-12"}, "no months from 2024-01 to 2023-12"),
        ({"end": "2024-02-30"}, "2024-01 or 2024-02-30 is no day"),
        ({"as_": "list"}, "as_ can't be 'list'"),
    ],
)
def test_a_wrong_argument_is_one_line(lake: FolderLake, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        trips("green", "2024-01", **arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_zones_and_codes_join(lake: FolderLake) -> None:
    named = trips("green", "2024-01").merge(zones(), left_on="pickup_location_id", right_on="location_id")
    assert set(named["zone"]) == {"East Harlem North"}
    assert codes("payment_types").set_index("payment_type")["name"][1] == "Credit card"
    with pytest.raises(ArgumentError, match="payment_types"):
        codes("payments")


def test_zones_have_shapes_as_geojson() -> None:
    features = {each["id"]: each for each in zones(shapes=True)["features"]}
    assert set(features) == set(range(1, 264)) - {57, 104, 105}
    assert features[74]["properties"]["zone"] == "East Harlem North"
    longitudes = [x for polygon in features[74]["geometry"]["coordinates"] for x, _ in polygon[0]]
    latitudes = [y for polygon in features[74]["geometry"]["coordinates"] for _, y in polygon[0]]
    # 125th Street and Lexington Avenue is in it.
    assert min(longitudes) < -73.9376 < max(longitudes)
    assert min(latitudes) < 40.8041 < max(latitudes)
    assert all(
        polygon[0][0] == polygon[0][-1] for each in features.values() for polygon in each["geometry"]["coordinates"]
    )


def test_months_say_what_there_is(lake: FolderLake) -> None:
    found = months()
    assert found[["color", "month", "rows"]].to_numpy().tolist() == [["green", "2024-01", 3], ["green", "2024-02", 1]]
    assert found["duckdb"].isna().all()
    assert isinstance(months("yellow"), pd.DataFrame)


def test_a_month_that_cannot_be_read_does_not_hide_the_others(
    lake: FolderLake, caplog: pytest.LogCaptureFixture
) -> None:
    lake.write("manifest/green/2024-01.json", b"{}")
    assert months()["month"].tolist() == ["2024-02"]
    assert "green 2024-01: the manifest" in caplog.text


def test_notebooks_do_without_prefect_and_import_month_the_module_and_months_the_function(lake: FolderLake) -> None:
    script = (
        "import sys; import nyc_tlc; assert 'pandas' not in sys.modules\n"
        "from nyc_tlc.month import Month\n"
        "from nyc_tlc import months, trips, zones\n"
        "import nyc_tlc.month\n"
        "assert nyc_tlc.month.Month is Month and callable(months) and nyc_tlc.months is months\n"
        "assert len(months()) == 2 and len(trips('green', '2024-01')) == 3 and len(zones()) == 265\n"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'prefect'], 'Prefect was imported'\n"
    )
    subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        cwd=ROOT,
        env={"PYTHONPATH": "flows", "TLC_HOME": str(lake.root.parent), "PATH": ""},
        timeout=60,
    )
