"""A published month as a run event of OpenLineage, by its own client: the extra ``openlineage``."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5

from openlineage.client import OpenLineageClient, facet_v2
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.transport.http import HttpConfig, HttpTransport

from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.lake.manifest import FileRecord, Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Color


def send_run(manifest: Manifest, lake: Lake) -> None:
    """Send a month's event to the collector at ``OPENLINEAGE_URL``, once.

    Raises:
        OSError: when the collector does not take it.
        ValueError: when a setting of the client is not usable.
    """
    keys, source = manifest.month_keys, manifest.source
    nominal = (f"{month.first_day}T00:00:00Z" for month in (keys.month, keys.month.plus(1)))
    read = facet_v2.input_statistics_input_dataset.InputStatisticsInputDatasetFacet(source.rows, source.bytes)
    event = RunEvent(
        eventType=RunState.COMPLETE,
        eventTime=manifest.finished_at.isoformat(),
        producer=f"urn:nyc-tlc-flows:{manifest.code_version}",
        job=Job(os.environ.get("OPENLINEAGE_NAMESPACE", "nyc-tlc-flows"), f"etl-web-to-gcs/{manifest.color}"),
        # A flow run can make many months; the key is this publication's own.
        run=Run(
            str(uuid5(NAMESPACE_URL, manifest.clean.key)),
            {"nominalTime": facet_v2.nominal_time_run.NominalTimeRunFacet(*nominal)},
        ),
        inputs=[InputDataset(*_name(source.url), {"inputStatistics": read}, facets=_version(source))],
        outputs=[
            _output(lake.url(keys.partition("clean")), manifest.clean, manifest.color),
            _output(lake.url(keys.partition("quarantine")), manifest.quarantine, manifest.color),
        ],
    )
    config = {"url": os.environ["OPENLINEAGE_URL"], "retry": {"total": 0}}
    if key := os.environ.get("OPENLINEAGE_API_KEY"):
        config["auth"] = {"type": "api_key", "apiKey": key}
    OpenLineageClient(transport=HttpTransport(HttpConfig.from_dict(config))).emit(event)


def _output(place: str, file: FileRecord, color: Color) -> OutputDataset:
    written = facet_v2.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(file.rows, file.bytes)
    field = facet_v2.schema_dataset.SchemaDatasetFacetFields
    fields = [field(column.name, column.type, column.description) for column in read_contract(color).columns]
    facets = _version(file) | {"schema": facet_v2.schema_dataset.SchemaDatasetFacet(fields)}
    return OutputDataset(*_name(place.rstrip("/")), {"outputStatistics": written}, facets=facets)


def _version(file: FileRecord) -> dict[str, facet_v2.DatasetFacet]:
    return {"version": facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet(file.sha256)}


def _name(place: str) -> tuple[str, str]:
    """Return the namespace and the name that OpenLineage has for a URL or a path."""
    parts = urlsplit(place)
    if not parts.netloc:
        return "file", str(Path(parts.path).absolute())
    return f"{parts.scheme}://{parts.netloc}", parts.path.strip("/") or "/"
