"""Work-pool templates: Prefect's own with the values of a file, no variable stays free; mistakes are reported."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import googleapiclient
import kubernetes_validate
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import Flow, FlowRun
from prefect.workers.base import BaseJobConfiguration
from prefect_gcp.workers.cloud_run_v2 import CloudRunWorkerJobV2Configuration
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

from conftest import ROOT
from nyc_tlc.errors import ConfigurationError
from nyc_tlc.server import read_pool, read_server
from stand_ins.google_tokens import GoogleCloud

FILES = sorted((ROOT / "deployments/pools").glob("*.yaml"))
#: Cloud Run's API as Google describes it for its clients.
RUN_API = json.loads(
    (Path(googleapiclient.__file__).parent / "discovery_cache/documents/run.v2.json").read_text(encoding="utf-8")
)["schemas"]
GIVEN = {"TLC_IMAGE": "registry/taxi:1", "TLC_REGION": "us-east1", "TLC_SERVICE_ACCOUNT": "runs@taxis"}


def job(name: str, **variables: str) -> dict[str, Any]:
    pool = read_pool(ROOT / f"deployments/pools/{name}.yaml", GIVEN | variables)
    configuration: dict[str, Any] = pool.base_job_template["job_configuration"]
    return configuration


def test_a_run_can_choose_nothing_and_sends_heartbeats() -> None:
    pools = [*read_server(ROOT / "deployments/server.yaml", {})[0], *(read_pool(file, GIVEN) for file in FILES)]
    assert {pool.name for pool in pools} == {"taxi", *(f"taxi-{file.stem}" for file in FILES)}
    for pool in pools:
        assert pool.base_job_template["variables"] == {
            "type": "object",
            "properties": {},
            "additionalProperties": False,
        }
        configuration = pool.base_job_template["job_configuration"]
        assert "{{" not in str(configuration)
        assert configuration.keys().isdisjoint({"command", "working_dir"})
        assert configuration["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"


def test_runs_in_containers_have_limits_an_image_an_account_and_an_end() -> None:
    docker, kubernetes, cloud_run = map(job, ("docker", "kubernetes", "cloud-run"))
    pod = kubernetes["job_manifest"]["spec"]["template"]["spec"]
    service = cloud_run["job_body"]["template"]["template"]
    images = [docker["image"], *(each["image"] for each in (*pod["containers"], *service["containers"]))]
    assert images == ["registry/taxi:1"] * 3
    assert (docker["mem_limit"], docker["auto_remove"], docker["privileged"]) == ("3g", True, False)
    assert docker["container_create_kwargs"]["read_only"] is True
    assert kubernetes["job_manifest"]["spec"]["ttlSecondsAfterFinished"] == 3600
    resources = pod["containers"][0]["resources"]
    assert resources["limits"]["memory"] == resources["requests"]["memory"] == "3Gi"
    assert (pod["serviceAccountName"], service["serviceAccount"]) == ("nyc-tlc-flows", "runs@taxis")
    assert (service["containers"][0]["resources"]["limits"]["memory"], cloud_run["keep_job"]) == ("4Gi", False)


def test_a_pod_runs_as_nobody_special_on_a_read_only_root() -> None:
    pod = job("kubernetes")["job_manifest"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["restartPolicy"] == "Never"
    assert pod["securityContext"]["runAsUser"] == 10001
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/data", "/tmp"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_a_variable_fills_in_and_an_empty_one_is_left_to_prefect() -> None:
    always = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30", "TLC_SOURCE_SCHEMES": "https,sample"}
    assert job("process")["env"] == always
    assert job("docker", TLC_SOURCE_SCHEMES="https,http")["env"]["TLC_SOURCE_SCHEMES"] == "https,http"
    env = job("kubernetes", TLC_PROFILE="prod", TLC_RUNS_API_URL="https://example.org/api")["env"]
    assert env == always | {"TLC_PROFILE": "prod", "PREFECT_API_URL": "https://example.org/api"}
    with pytest.raises(
        ConfigurationError, match=r"cloud-run\.yaml: variables\.image: the variable TLC_IMAGE is not set"
    ):
        read_pool(ROOT / "deployments/pools/cloud-run.yaml", {"TLC_REGION": "us-east1"})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("type: cloud-run-v2", "type: cloud-run-v3", "there is no work pool of type cloud-run-v3; expected azure"),
        ("  memory: 4Gi", "  memory: 4GB", "pool.yaml: variables.memory is not usable; got '4GB' does not match"),
        ("  timeout: 21600", "  timeout: 6 h", "variables.timeout is not usable; got '6 h' is not"),
        (
            "  memory: 4Gi",
            "  memroy: 4Gi",
            "variables is not usable; got Additional properties are not allowed ('memroy' was unexpected)",
        ),
        ("variables:", "varables:", "unknown key varables; expected name, type, description, variables"),
        ("variables:", "variables: [", "not valid YAML"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (ROOT / "deployments/pools/cloud-run.yaml").read_text()
    assert old in text
    file = tmp_path / "pool.yaml"
    file.write_text(text.replace(old, new))
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        read_pool(file, GIVEN)


def rendered(name: str, configuration: type[BaseJobConfiguration]) -> Any:
    """Return the configuration that a worker of the pool makes for a run."""
    template = read_pool(ROOT / f"deployments/pools/{name}.yaml", GIVEN).base_job_template
    # Nothing is asked of the server, as no value is a block.
    client = PrefectClient("http://127.0.0.1:9/api")
    made = asyncio.run(configuration.from_template_and_values(template, {}, client=client))
    made.prepare_for_flow_run(FlowRun(flow_id=uuid4(), name="green-2024-01"), flow=Flow(name="etl-month"))
    return made


def test_a_run_s_kubernetes_job_is_one_by_the_api_s_own_schema() -> None:
    manifest = rendered("kubernetes", KubernetesWorkerJobConfiguration).job_manifest
    pod = manifest["spec"]["template"]["spec"]
    # Prefect's template has them a level too deep, where Kubernetes ignores them; 1 is its default.
    assert {pod.pop("parallelism"), pod.pop("completions")} == {1}
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    pod["containers"][0]["memory"] = "3Gi"
    with pytest.raises(kubernetes_validate.ValidationError, match="'memory' was unexpected"):
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def find_unknown(value: Any, schema: dict[str, Any], place: str = "job") -> list[str]:
    """Return what in a request Google's description of its API does not have, or has with another type."""
    schema = RUN_API[schema["$ref"]] if "$ref" in schema else schema
    if schema["type"] == "array":
        return [each for part in value for each in find_unknown(part, schema["items"], f"{place}[]")]
    if schema["type"] == "object":
        of_keys, more = schema.get("properties", {}), schema.get("additionalProperties")
        return [
            each
            for key, part in value.items()
            for each in (
                find_unknown(part, of_keys.get(key, more), f"{place}.{key}")
                if key in of_keys or more
                else [f"{place}.{key}"]
            )
        ]
    kinds = {"string": str, "integer": int, "boolean": bool, "number": float}
    return [] if isinstance(value, kinds[schema["type"]]) else [f"{place}: {value!r}"]


def test_a_run_s_cloud_run_job_is_one_by_the_api_s_own_description(
    google: GoogleCloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = tmp_path / "key.json"
    key.write_text(json.dumps(google.tokens.key))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    body = rendered("cloud-run", CloudRunWorkerJobV2Configuration).job_body
    assert find_unknown(body, {"$ref": "GoogleCloudRunV2Job"}) == []
    body["template"]["template"]["retries"] = 0
    assert find_unknown(body, {"$ref": "GoogleCloudRunV2Job"}) == ["job.template.template.retries"]
