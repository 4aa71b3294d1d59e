"""Tell others what a run has made: events about Prefect assets, and run events of OpenLineage."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from prefect.assets import Asset
from prefect.context import AssetContext
from prefect.states import Completed

from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.profiles.opening import name_lake
from nyc_tlc.source.location import redact_url
from nyc_tlc.warehouse.protocol import Warehouse

log = logging.getLogger(__name__)


def tell_published(manifest: Manifest, lake: Lake, profile: str) -> None:
    """Emit the events about a month that was published: the asset's, and OpenLineage's if a collector is set."""
    _materialize(_lake_key(manifest, profile), manifest, lake.url(manifest.clean.key))
    if not os.environ.get("OPENLINEAGE_URL"):
        return
    try:
        from nyc_tlc.runs.openlineage import send_run

        send_run(manifest, lake)
    # The extra is missing, a setting is wrong, or the connection is. The error's text can have the URL's password.
    except (ImportError, ValueError, OSError) as error:
        reason = getattr(getattr(error, "response", None), "status_code", type(error).__name__)
        place = redact_url(os.environ["OPENLINEAGE_URL"])
        fix = "see OpenLineage in deployments/README.md"
        log.warning("%s: no event for OPENLINEAGE_URL, %s: %s; %s", manifest.name, place, reason, fix)


def tell_loaded(manifest: Manifest, warehouse: Warehouse, profile: str) -> None:
    """Emit the event about a month that was loaded, an asset made from the month in the lake."""
    at = _absolute(warehouse.place).rpartition("://")[2]
    key = f"{warehouse.kind}://{at}/{manifest.color}_trip_data/{manifest.month}"
    _materialize(key, manifest, warehouse.place, made_from=[Asset(key=_lake_key(manifest, profile))])


def _lake_key(manifest: Manifest, profile: str) -> str:
    return f"lake://{name_lake(profile)}/{manifest.color}/{manifest.month}"


def _absolute(place: str) -> str:
    return place if "://" in place else str(Path(place).absolute())


def _materialize(key: str, manifest: Manifest, place: str, made_from: list[Asset] | None = None) -> None:
    """Emit what Prefect emits at the end of a task that materializes an asset.

    Such a task would tell of a month that is loaded already, too; and in a backfill the whole month is one task.
    """
    # Prefect refuses what a path or a host may have: spaces, percent signs.
    asset = Asset(key=re.sub(r"[^\w.:/=-]", "-", key))
    metadata = {
        "rows": manifest.clean.rows,
        "source_rows": manifest.source.rows,
        "quarantine_rows": manifest.quarantine.rows,
        "clean_sha256": manifest.clean.sha256,
        "source_sha256": manifest.source.sha256,
        "source": manifest.source.url,
        "place": _absolute(place),
    }
    AssetContext(
        downstream_assets={asset},
        direct_asset_dependencies=set(made_from or ()),
        materialization_metadata={asset.key: metadata},
    ).emit_events(Completed())
