"""A published month as a run event of OpenLineage, by its own client: the extra ``openlineage``."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5

from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    DatasetFacet,
    dataset_version_dataset,
    input_statistics_input_dataset,
    nominal_time_run,
    output_statistics_output_dataset,
    schema_dataset,
)
from openlineage.client.transport.http import HttpConfig, HttpTransport

from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.lake.manifest import FileRecord, Manifest
from nyc_tlc.lake.store import Lake


def send_run(manifest: Manifest, lake: Lake) -> None:
    """Send the event to the collector at ``OPENLINEAGE_URL``, once.

    Raises:
        OSError: when the collector does not take it.
        ValueError: when a setting of the client is not usable.
    """
    config = {"url": os.environ["OPENLINEAGE_URL"], "retry": {"total": 0}}
    if endpoint := os.environ.get("OPENLINEAGE_ENDPOINT"):
        config["endpoint"] = endpoint
    if key := os.environ.get("OPENLINEAGE_API_KEY"):
        config["auth"] = {"type": "api_key", "apiKey": key}
    OpenLineageClient(transport=HttpTransport(HttpConfig.from_dict(config))).emit(describe_run(manifest, lake))


def describe_run(manifest: Manifest, lake: Lake) -> RunEvent:
    """Return the event: its input is the source file, its outputs are the month's clean and rejected rows."""
    month = manifest.month_keys.month
    nominal = [f"{each.first_day}T00:00:00Z" for each in (month, month.plus(1))]
    fields = [
        schema_dataset.SchemaDatasetFacetFields(name=each.name, type=each.type, description=each.description)
        for each in read_contract(manifest.color).columns
    ]
    source, keys = manifest.source, manifest.month_keys
    read = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(source.rows, source.bytes)
    clean = _output(lake.url(keys.partition("clean")), manifest.clean)
    clean.facets = {**(clean.facets or {}), "schema": schema_dataset.SchemaDatasetFacet(fields)}
    return RunEvent(
        eventType=RunState.COMPLETE,
        eventTime=manifest.finished_at.isoformat(),
        # A flow run can make many months; the key is this publication's own.
        run=Run(
            str(uuid5(NAMESPACE_URL, manifest.clean.key)),
            {"nominalTime": nominal_time_run.NominalTimeRunFacet(*nominal)},
        ),
        job=Job(os.environ.get("OPENLINEAGE_NAMESPACE", "nyc-tlc-flows"), f"etl-web-to-gcs/{manifest.color}"),
        inputs=[InputDataset(*_name(source.url), {"inputStatistics": read}, facets=_version(source))],
        outputs=[clean, _output(lake.url(keys.partition("quarantine")), manifest.quarantine)],
        producer=f"urn:nyc-tlc-flows:{manifest.code_version}",
    )


def _output(place: str, file: FileRecord) -> OutputDataset:
    written = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(file.rows, file.bytes)
    return OutputDataset(*_name(place.rstrip("/")), {"outputStatistics": written}, facets=_version(file))


def _version(file: FileRecord) -> dict[str, DatasetFacet]:
    return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(file.sha256)}


def _name(place: str) -> tuple[str, str]:
    """Return the namespace and the name that OpenLineage has for a URL or a path on this machine."""
    parts = urlsplit(place)
    if not parts.netloc:
        return "file", str(Path(parts.path).absolute())
    return f"{parts.scheme}://{parts.netloc}", parts.path.strip("/") or "/"
