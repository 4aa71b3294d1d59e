"""The user's own rules (``TLC_RULES``), on a real month of TLC."""

import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from factories import JANUARY
from nyc_tlc.cleaning.clean import clean_month
from nyc_tlc.cleaning.publish import publish_month
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.descriptions.dictionary import make_dictionary
from nyc_tlc.errors import ConfigurationError, SourceError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.planning.month_plan import plan_month
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.runs.month_report import format_quality_report
from nyc_tlc.source.fetch import fetch_month
from nyc_tlc.source.published import look_at
from scripts import Scripts

ROOT = Path(__file__).parents[2]
UNKNOWN = """
  unknown_passengers:
    severity: reject
    when: passenger_count IS NULL
    why: Nobody knows how many rode.
"""


class OwnRules:
    """The file that TLC_RULES names."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, text: str) -> None:
        self.path.write_text(text)
        # A process reads them once.
        read_contract.cache_clear()


@pytest.fixture
def own_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnRules]:
    monkeypatch.setenv("TLC_RULES", str(tmp_path / "my-rules.yaml"))
    yield OwnRules(tmp_path / "my-rules.yaml")
    read_contract.cache_clear()


@pytest.fixture
def source(real_data: Path) -> str:
    return f"{(real_data / 'parquet').as_uri()}/green_tripdata_{{year:04d}}-{{month:02d}}.parquet"


def publish(source: str, lake: FolderLake) -> Manifest:
    folder = Path(tempfile.mkdtemp(dir=Path.cwd()))
    fetched = fetch_month(look_at(source, "green", JANUARY), folder)
    cleaned = clean_month(fetched, read_contract("green"), folder / "cleaned")
    before = lake.find_manifest(Keys("green", JANUARY)).version
    return publish_month(cleaned, read_contract("green"), lake, before, datetime.now(UTC))


def test_the_seeds_filter_rejects_the_real_rows_without_passengers(
    own_rules: OwnRules, source: str, real_data: Path, tmp_path: Path
) -> None:
    lake = FolderLake(tmp_path / "lake")
    own_rules.write("")
    publish(source, lake)
    assert "yours" not in make_dictionary()

    own_rules.write(f"green:{UNKNOWN}  zero_distance: {{severity: reject}}")
    plan = plan_month("green", JANUARY, MonthOptions(source, "local"), lake)
    assert (plan.need, plan.why.partition(" from ")[0]) == ("clean again", "the rules changed")
    manifest = publish(source, lake)

    raw = pd.read_parquet(real_data / "parquet/green_tripdata_2024-01.parquet")
    rejected = pq.read_table(lake.local_path(manifest.quarantine.key)).to_pandas()
    rules = rejected.set_index("source_row")["rejection_rules"].explode()
    assert set(rules.index[rules == "unknown_passengers"]) == set(raw.index[raw["passenger_count"].isna()])
    assert set(rules.index[rules == "zero_distance"]) == set(raw.index[raw["trip_distance"] == 0])
    clean = pq.read_table(lake.local_path(manifest.clean.key)).to_pandas()
    assert clean["passenger_count"].notna().all()
    assert manifest.rules_version == read_contract("green").rules_version

    rows = manifest.quarantine.rules["unknown_passengers"]
    line = next(line for line in format_quality_report(manifest, lake).splitlines() if "unknown_passengers" in line)
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "`unknown_passengers`",
        "reject",
        f"{rows:,}",
        "Nobody knows how many rode. (yours, in my-rules.yaml)",
    ]
    assert make_dictionary().count("yours, in my-rules.yaml") == 2
    assert plan_month("green", JANUARY, MonthOptions(source, "local"), lake).need == "current"


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ("enough: {at_least: 60000 rows, why: A month has more.}", "expected at least 60000 rows; got 56,"),
        ("zero_distance: {at_most: 5 %}", "got 2,"),
        ("zero_passengers: {at_most: 511 rows}", "expected at most 511 rows; got 512 rows, 0.9 %"),
    ],
)
def test_a_month_that_fails_a_limit_is_not_published(
    own_rules: OwnRules, source: str, tmp_path: Path, limits: str, message: str
) -> None:
    lake = FolderLake(tmp_path / "lake")
    own_rules.write(f"green: {{{limits}}}")
    with pytest.raises(SourceError) as caught:
        publish(source, lake)
    assert str(caught.value).startswith(f"green 2024-01: the rule {limits.partition(':')[0]} (my-rules.yaml) fails")
    assert message in str(caught.value)
    assert lake.manifest(Keys("green", JANUARY)) is None


def test_limits_that_are_kept_change_nothing_but_the_version(own_rules: OwnRules, source: str, tmp_path: Path) -> None:
    lake = FolderLake(tmp_path / "lake")
    own_rules.write("")
    before = publish(source, lake)
    own_rules.write(
        "green: {enough: {at_least: 1000 rows, why: Less is no month.}, zero_passengers: {at_most: 512 rows}}"
    )
    after = publish(source, lake)
    assert (after.clean.rows, after.quarantine.rules) == (before.clean.rows, before.quarantine.rules)
    assert after.rules_version != before.rules_version
    assert "`enough`" in format_quality_report(after, lake)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("purple: {}", "purple.[key]: Input should be 'yellow', 'green'"),
        ("green: {zero_distance: {severty: reject}}", "green.zero_distance: unknown key severty"),
        ("green: {zero_distance: {severity: stop}}", "green.zero_distance.severity: "),
        ("green: {zero_distance: 5}", "green.zero_distance: "),
        ("green: {mine: {severity: warn, when: fare > 1, why: So.}}", "green.mine.when: not usable"),
        ("green: {mine: {severity: warn, when: 'fare_amount > 1 +', why: So.}}", "green.mine.when: not usable"),
        ("green: {mine: {severity: warn, when: 'fare_amount > AVG(fare_amount)', why: So.}}", "green.mine.when: "),
        ("green: {mine: {severity: warn, when: fare_amount, why: So.}}", "green.mine.when: not usable"),
        ("green: {mine: {severity: warn, when: '{no} > 1', why: So.}}", "green.mine.when: not usable"),
        ("green: {mine: {when: fare_amount > 1, why: So.}}", "green.mine: when and severity go together"),
        ("green: {mine: {at_least: many, why: So.}}", "green.mine.at_least: "),
        ("green: {mine: {at_least: 5 rows}}", "green.mine.why: missing or empty"),
        ("green: {no_pickup_time: {severity: warn}}", "green.no_pickup_time.[key]: not a name"),
        ("green: {bad_value:fare: {at_least: 5 rows, why: So.}}", "green.bad_value:fare.[key]: not a name"),
        ("green: {a: b: c}", "not valid YAML in line 1"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_key(own_rules: OwnRules, text: str, message: str) -> None:
    own_rules.write(text)
    with pytest.raises(ConfigurationError) as caught:
        read_contract("green")
    assert str(caught.value).startswith(f"{own_rules.path}: {message}")
    assert "\n" not in str(caught.value)


def test_a_script_names_the_mistake_before_any_server_starts(
    own_rules: OwnRules, scripts: Scripts, tmp_path: Path
) -> None:
    own_rules.write("green: {zero_distance: {severty: reject}}")
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect")}
    done = scripts.run(str(ROOT / "flows/etl_web_to_gcs.py"), "--color", "green", environment=environment)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"error: {own_rules.path}: green.zero_distance: unknown key severty")
    assert not (tmp_path / "prefect/prefect.db").exists()
