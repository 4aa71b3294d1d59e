"""Work-pool templates: Prefect's own with the values of a file, and every mistake in the file is reported."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT
from nyc_tlc.errors import ConfigurationError
from nyc_tlc.server.work_pools import default_template, read_pool

FILES = sorted((ROOT / "deployments/pools").glob("*.yaml"))
GIVEN = {"TLC_IMAGE": "registry/taxi:1", "TLC_REGION": "us-east1", "TLC_SERVICE_ACCOUNT": "runs@taxis"}


def template(name: str, **variables: str) -> dict[str, Any]:
    pool = read_pool(ROOT / f"deployments/pools/{name}.yaml", GIVEN | variables)
    assert pool.base_job_template is not None
    return pool.base_job_template


def default(template: dict[str, Any], name: str) -> Any:
    return template["variables"]["properties"][name].get("default")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_template_is_prefect_s_own_with_other_defaults_and_uses_no_variable_it_lacks(file: Path) -> None:
    pool = read_pool(file, GIVEN)
    content, prefect_s = yaml.safe_load(file.read_text()), default_template(pool.type)
    assert pool.base_job_template is not None
    ours = pool.base_job_template["variables"]["properties"]
    assert ours.keys() == prefect_s["variables"]["properties"].keys()
    changed = {name for name in ours if ours[name] != prefect_s["variables"]["properties"][name]}
    assert changed <= content["variables"].keys()
    used = set(re.findall(r"\{\{ (\w+) \}\}", str(pool.base_job_template["job_configuration"])))
    # What we set in the job configuration takes the place of a variable, where the installed template has one.
    set_here = content.get("job_configuration", {}).keys()
    known = set(re.findall(r"\{\{ (\w+) \}\}", str(prefect_s["job_configuration"])))
    assert known - set_here <= used <= known
    assert pool.name == f"taxi-{file.stem}"
    assert "env" in content["variables"]


def test_runs_in_containers_have_limits_an_image_an_account_and_an_end() -> None:
    docker, kubernetes, cloud_run = map(template, ("docker", "kubernetes", "cloud-run"))
    assert {default(each, "image") for each in (docker, kubernetes, cloud_run)} == {"registry/taxi:1"}
    assert (default(docker, "mem_limit"), default(docker, "auto_remove")) == ("3g", True)
    assert docker["job_configuration"]["container_create_kwargs"]["read_only"] is True
    assert default(kubernetes, "finished_job_ttl") == 3600
    assert default(kubernetes, "memory_limit") == default(kubernetes, "memory_request") == "3Gi"
    assert default(kubernetes, "service_account_name") == "nyc-tlc-flows"
    assert default(cloud_run, "service_account_name") == "runs@taxis"
    assert (default(cloud_run, "memory"), default(cloud_run, "keep_job")) == ("4Gi", False)


def test_a_pod_runs_as_nobody_special_on_a_read_only_root() -> None:
    job = template("kubernetes")["job_configuration"]["job_manifest"]
    assert job["metadata"]["generateName"] == "{{ name }}-"
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["restartPolicy"] == "Never"
    assert pod["securityContext"]["runAsUser"] == 10001
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/data", "/tmp"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_a_variable_fills_in_and_an_empty_one_is_left_to_prefect() -> None:
    assert default(template("process"), "env") is None
    env = default(template("kubernetes", TLC_PROFILE="prod", TLC_RUNS_API_URL="https://example.org/api"), "env")
    assert env == {"TLC_PROFILE": "prod", "PREFECT_API_URL": "https://example.org/api"}
    with pytest.raises(ConfigurationError, match=r"cloud-run\.yaml:8: the variable TLC_IMAGE is not set"):
        read_pool(ROOT / "deployments/pools/cloud-run.yaml", {"TLC_REGION": "us-east1"})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("type: cloud-run-v2", "type: cloud-run-v3", "there is no work pool of type cloud-run-v3; expected azure"),
        ("  memory: 4Gi", "  memory: 4GB", ":13: variables.memory is not usable; got '4GB' does not match"),
        ("  timeout: 21600", "  timeout: 6 h", "variables.timeout is not usable; got '6 h' is not"),
        ("  memory: 4Gi", "  memroy: 4Gi", "unknown variable memroy; expected args, cloudsql_instances, command"),
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
