"""What a run tells others about the months that it made: events of Prefect's assets, and OpenLineage's run events."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import attr
import urllib3
from openlineage.client import event_v2

from conftest import PrefectServer
from nyc_tlc.month import Month
from stand_ins.inbox import inbox
from waiting import eventually, free_port

MONTH = ("--color", "green", "--year", "2024", "--month", "1", "--source", "sample")
MATERIALIZED = "prefect.asset.materialization.succeeded"


def materialized(server: PrefectServer, home: Path) -> dict[str, dict[str, Any]]:
    """Return the assets whose events the server has and whose place is in a folder: key -> the event."""
    api = urllib3.PoolManager()
    found = api.request("POST", f"{server.url}/events/filter", json={"filter": {"event": {"name": [MATERIALIZED]}}})
    events = found.json()["events"]
    api.clear()
    here = [each for each in events if str(home) in each["payload"]["place"]]
    assert len({each["resource"]["prefect.resource.id"] for each in here}) == len(here)
    return {each["resource"]["prefect.resource.id"]: each for each in here}


def test_a_month_is_told_of_once_as_an_asset_and_as_a_run_of_openlineage(
    prefect_server: PrefectServer, own_environment: Path
) -> None:
    told = {"OPENLINEAGE_API_KEY": "planted-4a1b", "TLC_SAMPLE_ROWS": "1000"}
    months = ("--colors", "green", "--start", "2024-01", "--end", "2024-02", "--source", "sample")
    with inbox() as (url, events):
        told["OPENLINEAGE_URL"] = url
        runs = [
            prefect_server.run("flows/etl_month.py", *MONTH, **told),
            # January is current by now, and loaded.
            prefect_server.run("flows/backfill.py", *months, "--warehouses", "duckdb", **told),
        ]
    assert [run.returncode for run in runs] == [0] * len(runs), runs[-1].stderr
    manifest = json.loads((own_environment / "lake/manifest/green/2024-01.json").read_text())

    in_lake, warehouse = "lake://local-home/green/2024-01", own_environment / "warehouse.duckdb"
    loaded = f"duckdb://{warehouse}/green_trip_data/2024-01"
    february = {key.replace("2024-01", "2024-02") for key in (in_lake, loaded)}
    assets = eventually(lambda: len(found := materialized(prefect_server, own_environment)) == 4 and found, every=0.2)
    assert assets.keys() == {in_lake, loaded} | february
    expected = {
        "rows": manifest["clean"]["rows"],
        "source_rows": 1000,
        "quarantine_rows": manifest["quarantine"]["rows"],
        "clean_sha256": manifest["clean"]["sha256"],
        "source_sha256": manifest["source"]["sha256"],
        "source": "sample://green/2024-01/1000",
    }
    clean = str(own_environment / "lake" / manifest["clean"]["key"])
    assert assets[in_lake]["payload"] == expected | {"place": clean}
    assert assets[loaded]["payload"] == expected | {"place": str(warehouse)}
    related = {each["prefect.resource.role"]: each["prefect.resource.id"] for each in assets[loaded]["related"]}
    assert related["asset"] == in_lake
    assert related["flow-run"] == f"prefect.flow-run.{manifest['flow_run_id']}"

    (path, authorization, event), (*_, next_event) = events
    assert next_event["run"]["runId"] != event["run"]["runId"]
    assert (path, authorization) == ("/api/v1/lineage", "Bearer planted-4a1b")
    assert "planted" not in json.dumps([event, assets]) + runs[0].stdout + runs[0].stderr
    # The client's own classes take it.
    attr.evolve(event_v2.RunEvent(**{name: each for name, each in event.items() if name != "schemaURL"}))
    assert UUID(event["run"]["runId"]).version == 5
    assert (event["eventType"], event["job"]["name"]) == ("COMPLETE", "etl-web-to-gcs/green")
    assert event["run"]["facets"]["nominalTime"]["nominalEndTime"] == f"{Month(2024, 2).first_day}T00:00:00Z"
    (source,), (rows, rejected) = event["inputs"], event["outputs"]
    assert (source["namespace"], source["name"]) == ("sample://green", "2024-01/1000")
    assert source["inputFacets"]["inputStatistics"]["rowCount"] == 1000
    assert (rows["namespace"], rows["name"]) == ("file", str(Path(clean).parent))
    statistics = [each["outputFacets"]["outputStatistics"]["rowCount"] for each in (rows, rejected)]
    assert statistics == [expected["rows"], expected["quarantine_rows"]]
    assert rows["facets"]["version"]["datasetVersion"] == expected["clean_sha256"]
    assert {"name": "pickup_datetime", "type": "timestamp"}.items() <= rows["facets"]["schema"]["fields"][1].items()


def test_a_collector_that_takes_nothing_costs_one_warning(prefect_server: PrefectServer, own_environment: Path) -> None:
    told = {"OPENLINEAGE_URL": f"http://me:planted@127.0.0.1:{free_port()}", "TLC_SAMPLE_ROWS": "10"}
    done = prefect_server.run("flows/etl_web_to_gcs.py", *MONTH, **told)
    assert done.returncode == 0, done.stderr
    assert (own_environment / "lake/manifest/green/2024-01.json").is_file()
    (warning,) = [line for line in done.stderr.splitlines() if "lineage" in line.lower() or "WARN" in line]
    assert "green 2024-01: no event for OPENLINEAGE_URL" in warning
    assert "me:planted" not in done.stderr
