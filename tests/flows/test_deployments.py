"""The deployments and the server's objects for them: files are read strictly, and applied to a real Prefect server."""

import contextlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml
from prefect import flow
from prefect.blocks.core import Block
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, FlowRun
from prefect.client.schemas.schedules import CronSchedule
from prefect.events import Event
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.states import Crashed, Failed, Late, Pending, Running, State
from prefect.utilities.schema_tools import validate
from pydantic import ValidationError

from conftest import ROOT, PrefectServer
from nyc_tlc.errors import ConfigurationError
from nyc_tlc.month import COLORS
from nyc_tlc.profiles.registering import read_blocks, register
from nyc_tlc.runs import command_line, tasks
from nyc_tlc.server import (
    NAME_PREFIX,
    RUN_ENVIRONMENT,
    default_template,
    read_automations,
    read_pool,
    read_server,
    save_pool,
)
from scripts import Scripts
from stand_ins.inbox import inbox
from waiting import eventually

SECRET = "s3cr3t"
FREQUENCY = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"
PREFECT_YAML = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS = {f"{flow}/{color}" for flow in ("etl-web-to-gcs", "etl-month", "backfill") for color in COLORS} | {
    "backfill/backfill",
    "etl-gcs-to-bq/lake-to-bigquery",
    "etl-gcs-to-postgres/lake-to-postgres",
    "etl-gcs-to-duckdb/lake-to-duckdb",
    "replay/lake-to-kafka",
    "transform/models",
}
SCHEDULED = {
    "backfill/catch-up",
    "load-lookups/zones-and-codes",
    "check-connections/connections-check",
    "report/coverage-and-trips-pages",
}
DEPLOYMENTS |= SCHEDULED
FAILURES = f"{NAME_PREFIX}failed -> notification"
NOTIFYING = (
    FAILURES,
    f"{NAME_PREFIX}crashed for good -> notification",
    f"{NAME_PREFIX}late for 15 minutes -> notification",
    f"{NAME_PREFIX}troubles -> notification",
)
LOADED = f"{NAME_PREFIX}months loaded -> models"
HEARTBEATS = f"{NAME_PREFIX}heartbeats missed -> crashed"


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str


Apply = Callable[..., Ran]


@pytest.fixture(scope="module")
def client(prefect_server: PrefectServer) -> Iterator[SyncPrefectClient]:
    """Return a client of the server; delete the objects of these tests at the end."""
    settings = {PREFECT_API_URL: prefect_server.url, PREFECT_HOME: prefect_server.home}
    with temporary_settings(settings), get_client(sync_client=True) as client:
        yield client
        for automation in client.read_automations():
            client.delete_automation(automation.id)
        for deployment in client.read_deployments():
            client.delete_deployment(deployment.id)
        for pool in client.read_work_pools():
            client.delete_work_pool(pool.name)
        for limit in client.read_global_concurrency_limits():
            client.delete_global_concurrency_limit_by_name(limit.name)
        for block in client.read_block_documents():
            if str(block.name).startswith("taxi-"):
                client.delete_block_document(block.id)


@pytest.fixture(scope="module")
def first_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the needed part of the checkout."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in ("flows", "blocks", "deployments"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("prefect.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout)
    return checkout


@pytest.fixture
def checkout(first_checkout: Path, tmp_path: Path) -> Path:
    """Return a copy that the test may change."""
    return shutil.copytree(first_checkout, tmp_path / "checkout")


def deploy(checkout: Path, server: PrefectServer, *which: str) -> None:
    """Deploy a checkout as the README says."""
    done = server.run("-m", "prefect", "--no-prompt", "deploy", *(which or ("--all",)), cwd=checkout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def deployed(client: SyncPrefectClient, first_checkout: Path, prefect_server: PrefectServer) -> SyncPrefectClient:
    """Prepare the server, from another directory, and deploy the checkout. Return a client of the server."""
    prepared = prefect_server.run(str(first_checkout / "deployments/apply.py"))
    assert prepared.returncode == 0, prepared.stderr
    deploy(first_checkout, prefect_server)
    return client


@pytest.fixture
def apply(checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Apply:
    """Return a function that runs the checkout's deployments/apply.py in this process."""

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["deployments/apply.py", *arguments])
        monkeypatch.setattr(sys, "path", [*sys.path])
        with pytest.raises(SystemExit) as exited:
            runpy.run_path(str(checkout / "deployments/apply.py"), run_name="__main__")
        shown = capsys.readouterr()
        return Ran(int(str(exited.value.code)), shown.out, shown.err)

    return run


@contextlib.contextmanager
def machine(server: PrefectServer, directory: Path, **environment: str) -> Iterator[None]:
    """Start a worker in a new directory, which stands for a machine."""
    directory.mkdir()
    settings = {"PREFECT_WORKER_QUERY_SECONDS": "0.5", "MACHINE": str(directory), **environment}
    with (directory / "log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "taxi", "--type", "process"],
            cwd=directory,
            env=server.environment(**settings),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        worker.terminate()
        worker.wait(30)


def new_run(client: SyncPrefectClient, deployment: str, **parameters: Any) -> FlowRun:
    found = client.read_deployment_by_name(deployment)
    return client.create_flow_run_from_deployment(found.id, parameters=parameters)


def pass_through(client: SyncPrefectClient, run: FlowRun, *states: State[Any]) -> None:
    for state in states:
        client.set_flow_run_state(run.id, state)


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def keep_automations(checkout: Path, *names: str, within: int) -> None:
    """Keep only some automations of a checkout, with a shorter time ``within`` for those that wait.

    Only some, because a Prefect server on SQLite sometimes loses an event that several automations wait for.
    """
    file = checkout / "deployments/automations.yaml"
    kept = [
        each for each in yaml.safe_load(file.read_text())["automations"] if any(name in each["name"] for name in names)
    ]
    assert len(kept) == len(names)
    for each in kept:
        if each["trigger"]["posture"] == "Proactive":
            each["trigger"]["within"] = within
    file.write_text(yaml.safe_dump({"automations": kept}))


def full_name(deployment: dict[str, Any]) -> str:
    """Return the names of flow and deployment: ``etl-month/green``."""
    return f"{deployment['entrypoint'].rpartition(':')[2].replace('_', '-')}/{deployment['name']}"


def test_prefect_yaml_has_no_key_that_prefect_would_ignore() -> None:
    PrefectYamlModel.model_validate(PREFECT_YAML, extra="forbid")


def test_a_misspelt_key_would_be_noticed() -> None:
    for where in ([], [0], [0, "work_pool"], [0, "concurrency_limit"]):
        content = part = json.loads(json.dumps(PREFECT_YAML))
        for key in ["deployments", *where] if where else []:
            part = part[key]  # type: ignore[call-overload]
        part["cuncurrency"] = 1
        with pytest.raises(ValidationError, match="cuncurrency"):
            PrefectYamlModel.model_validate(content, extra="forbid")


def test_every_deployment_is_there_and_says_what_it_needs() -> None:
    pools = {pool.name for pool in read_server(ROOT / "deployments/server.yaml", {})[0]}
    assert {full_name(deployment) for deployment in PREFECT_YAML["deployments"]} == DEPLOYMENTS
    for content in PREFECT_YAML["deployments"]:
        assert content["description"]
        assert "nyc-tlc" in content["tags"]
        assert content["work_pool"].get("name", "taxi") in pools
        # The server would refuse them.
        assert "job_variables" not in content["work_pool"]
        # How many months are at work is the work pool's to say: a run that a deployment refuses waits for 30 seconds.
        limit = content.get("concurrency_limit", {"limit": 1, "collision_strategy": "ENQUEUE"})
        assert limit["limit"] == 1
        assert limit["collision_strategy"] in ConcurrencyLimitStrategy.__members__
        schedules = content.get("schedules", [])
        assert all(CronSchedule(cron=each["cron"], timezone="America/New_York") for each in schedules)
        assert all(each["timezone"] == "America/New_York" for each in schedules)
        # What is drawn as a schedule is on.
        assert [each["active"] for each in schedules] == [True] * (full_name(content) in SCHEDULED)


def test_a_run_sends_two_heartbeats_before_it_is_taken_for_lost_a_script_s_too() -> None:
    (within,) = (
        automation.trigger.within.total_seconds()
        for automation in read_automations(ROOT / "deployments/automations.yaml")
        if automation.name == HEARTBEATS
    )
    (of_scripts,) = command_line.HEARTBEATS.values()
    assert str(of_scripts) == RUN_ENVIRONMENT[FREQUENCY]
    assert 2 * of_scripts < within


def test_every_entrypoint_imports_from_elsewhere_and_takes_the_parameters(scripts: Scripts, tmp_path: Path) -> None:
    entrypoints = sorted({deployment["entrypoint"] for deployment in PREFECT_YAML["deployments"]})
    script = f"""if True:
        import json
        from prefect.flows import load_flow_from_entrypoint
        from prefect.utilities.callables import parameter_schema
        flows = {{name: load_flow_from_entrypoint(f"{ROOT}/{{name}}") for name in {entrypoints}}}
        print(json.dumps({{name: [flow.name, parameter_schema(flow).model_dump()] for name, flow in flows.items()}}))
    """
    (tmp_path / "script.py").write_text(script)
    done = scripts.run(str(tmp_path / "script.py"), environment=os.environ)
    assert done.returncode == 0, done.stderr
    flows = json.loads(done.stdout)
    for content in PREFECT_YAML["deployments"]:
        flow, schema = flows[content["entrypoint"]]
        assert full_name(content) == f"{flow}/{content['name']}"
        parameters = content.get("parameters", {})
        assert parameters.keys() <= schema["properties"].keys()
        validate(parameters, schema, raise_on_error=True, ignore_required=False)


def test_a_prepared_server_takes_the_deployments_twice_and_nothing_changes(
    deployed: SyncPrefectClient, first_checkout: Path, prefect_server: PrefectServer, apply: Apply
) -> None:
    def everything() -> dict[str, Any]:
        flows = {flow.id: flow.name for flow in deployed.read_flows()}
        return {
            f"{flows[each.flow_id]}/{each.name}": (each.id, [(s.id, s.slug, s.active) for s in each.schedules])
            for each in deployed.read_deployments()
        }

    before = everything()
    assert before.keys() == DEPLOYMENTS
    assert {name for name, (_, schedules) in before.items() if any(active for *_, active in schedules)} == SCHEDULED
    again = ("etl-month/green", "backfill/catch-up")
    deploy(first_checkout, prefect_server, *(word for name in again for word in ("--name", name)))
    assert everything() == before
    assert LOADED not in apply().out
    (loaded,) = [each for each in deployed.read_automations() if each.name == LOADED]
    models = deployed.read_deployment_by_name("transform/models")
    assert (loaded.enabled, [action.deployment_id for action in loaded.actions]) == (False, [models.id])
    automations = deployed.read_automations()
    unchanged = apply()
    assert unchanged.status == 0
    assert f"left out: {', '.join(NOTIFYING)}; the profile local" in unchanged.out
    # What is right is not saved again: an automation would start anew what it waits for.
    assert deployed.read_automations() == automations
    yellow = deployed.read_deployment_by_name("etl-month/yellow")
    assert yellow.parameters == {"color": "yellow"}
    assert yellow.global_concurrency_limit is None
    backfills = deployed.read_deployment_by_name("backfill/backfill")
    assert backfills.global_concurrency_limit.limit == 1
    assert backfills.concurrency_options.collision_strategy == ConcurrencyLimitStrategy.ENQUEUE


def test_the_server_plans_the_runs_of_the_active_schedules_and_no_others(deployed: SyncPrefectClient) -> None:
    def planned() -> set[str]:
        ids = {run.deployment_id for run in deployed.read_flow_runs() if run.auto_scheduled}
        flows = {flow.id: flow.name for flow in deployed.read_flows()}
        return {f"{flows[each.flow_id]}/{each.name}" for each in deployed.read_deployments() if each.id in ids}

    assert eventually(lambda: planned() >= SCHEDULED and planned()) == SCHEDULED


def test_what_was_changed_by_hand_is_put_right_and_a_fleet_raises_the_limits_in_one_place(
    deployed: SyncPrefectClient, apply: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed.upsert_global_concurrency_limit_by_name("taxi-warehouse-postgres", 20)
    deployed.upsert_global_concurrency_limit_by_name("somebody's", 20)
    deployed.delete_global_concurrency_limit_by_name("taxi-source-github.com")
    deployed.pause_automation(deployed.find_automation(HEARTBEATS).id)
    free = default_template("process")
    deployed.update_work_pool("taxi", WorkPoolUpdate(base_job_template=free))
    assert apply().status == 0
    assert deployed.read_work_pool("taxi").concurrency_limit == 4
    assert deployed.read_global_concurrency_limit_by_name("taxi-warehouse-postgres").limit == 4
    assert deployed.read_global_concurrency_limit_by_name("taxi-source-github.com").limit == 4
    assert deployed.read_global_concurrency_limit_by_name("somebody's").limit == 20
    assert deployed.find_automation(HEARTBEATS).enabled
    monkeypatch.setenv("TLC_AT_ONCE", "16")
    assert apply().status == 0
    assert deployed.read_work_pool("taxi").concurrency_limit == 16
    assert deployed.read_global_concurrency_limit_by_name("taxi-source-github.com").limit == 16
    assert deployed.read_work_pool("taxi").base_job_template["variables"]["properties"] == {}


def test_a_run_that_brings_its_own_program_is_refused(deployed: SyncPrefectClient) -> None:
    found = deployed.read_deployment_by_name("etl-month/green")
    run = new_run(deployed, "etl-month/green")
    pool = {"work_pool_name": "taxi"}
    for variables in (
        {"command": "id"},
        {"env": {"PYTHONPATH": "/tmp"}},
        {"env.PYTHONPATH": "/"},
        {"working_dir": "/"},
    ):
        for bring in (
            lambda **own: deployed.create_flow_run_from_deployment(found.id, **own),
            lambda **own: deployed.create_deployment(found.flow_id, "stranger's", **pool, **own),
            lambda **own: deployed.update_flow_run(run.id, **own),
        ):
            with pytest.raises(PrefectHTTPStatusError, match="Additional properties are not allowed"):
                bring(job_variables=variables)
    deployed.delete_flow_run(run.id)


def test_a_pool_of_another_type_is_named_and_stays(deployed: SyncPrefectClient) -> None:
    deployed.create_work_pool(WorkPoolCreate(name="taxi-docker", type="process"))
    with pytest.raises(ConfigurationError, match="taxi-docker is of another type; expected docker; got process"):
        save_pool(read_pool(ROOT / "deployments/pools/docker.yaml", {}), 2, deployed)
    assert deployed.read_work_pool("taxi-docker").type == "process"
    deployed.delete_work_pool("taxi-docker")


def test_a_server_as_prefect_starts_it_is_warned_of(deployed: SyncPrefectClient, apply: Apply) -> None:
    everyone, leases = apply().err.splitlines()
    assert everyone.startswith("warning: everyone who reaches this server, and pages of every origin in a browser may ")
    assert leases.startswith("warning: a run that is Pending when this server restarts ")
    assert everyone.endswith("start it with make server, or as docker/compose.yaml does")
    # The morning check says the same.
    fine, text = tasks.check_server.__wrapped__()
    assert not fine
    assert [line.split()[:2] for line in text.splitlines()[::2]] == [["FAIL", "server"]] * 2


def test_automations_are_made_once_updated_by_name_and_removed_when_they_left_the_file(
    deployed: SyncPrefectClient, checkout: Path, apply: Apply
) -> None:
    file = checkout / "deployments/automations.yaml"
    somebody = {
        "name": "somebody's",
        "trigger": {"type": "event", "expect": ["prefect.flow-run.Failed"]},
        "actions": [{"type": "do-nothing"}],
    }
    content = yaml.safe_load(file.read_text())
    copies = [each for each in content["automations"] if each["actions"][0]["type"] != "send-notification"]
    for each in [*copies, somebody]:
        deployed.create_automation(AutomationCore.model_validate(each))
    change(file, "within: 90", "within: 120")
    assert len(deployed.read_automations()) == 2 * len(copies) + 1
    assert apply().status == 0
    assert len(deployed.read_automations()) == len(copies) + 1
    heartbeats = [each for each in deployed.read_automations() if each.name == HEARTBEATS]
    assert [each.trigger.within.total_seconds() for each in heartbeats] == [120]
    file.write_text("automations: []")
    assert apply().status == 0
    assert [each.name for each in deployed.read_automations()] == ["somebody's"]


def profile(content: str, folder: Path) -> list[Block]:
    (folder / "profile.yaml").write_text(content)
    return read_blocks(folder / "profile.yaml", {})[0]


SLACK = f"slack-webhook: {{url: https://hooks.slack.com/services/T00/B00/{SECRET}}}"
EMAIL = f"sendgrid-email: {{api_key: {SECRET}, sender_email: taxi@example.com, to_emails: [me@example.com]}}"
WEBHOOK = f"custom-webhook: {{url: https://example.com/{SECRET}, token: {SECRET}}}"


def test_a_notification_is_registered_once_and_used(deployed: SyncPrefectClient, apply: Apply, tmp_path: Path) -> None:
    block = "custom-webhook/taxi-kind"
    assert [register("kind", profile(WEBHOOK, tmp_path)) for _ in range(2)] == [{block: "created"}, {block: "updated"}]
    (shown,) = [each for each in deployed.read_block_documents(include_secrets=False) if each.name == "taxi-kind"]
    assert SECRET not in str(shown.data)
    assert "left out" not in apply("--profile", "kind").out
    notifying = [each for each in deployed.read_automations() if each.actions[0].type == "send-notification"]
    assert [each.actions[0].block_document_id for each in notifying] == [shown.id] * 4
    deployed.delete_block_document(shown.id)
    for automation in notifying:
        deployed.delete_automation(automation.id)


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # by a library of Prefect's
def test_a_notification_that_could_not_arrive_is_refused(tmp_path: Path) -> None:
    for content, message in {
        f"{SLACK}\n{EMAIL}": "sendgrid-email: a second notification; expected either slack-webhook or sendgrid-email",
        SLACK.replace("hooks.", ""): "slack-webhook.url: not an incoming webhook of Slack, which starts with",
        WEBHOOK.replace("https://", ""): "custom-webhook.url: not a web address: it has to start with https://",
        EMAIL.replace("[me@example.com]", "[]"): "sendgrid-email.to_emails: List should have at least 1 item",
        EMAIL.replace("s3cr3t", "s3cr3t s3cr3t"): "sendgrid-email: its values are not usable; got ",
        "slack-webhook:": "slack-webhook.url: missing or empty",
    }.items():
        with pytest.raises(ConfigurationError) as refused:
            profile(content, tmp_path)
        assert f"profile.yaml: {message}" in str(refused.value)
        assert SECRET not in str(refused.value)


@pytest.mark.torture
def test_failed_and_late_runs_are_told_to_the_block_of_the_profile(
    deployed: SyncPrefectClient, checkout: Path, apply: Apply, tmp_path: Path
) -> None:
    stack = contextlib.ExitStack()
    url, received = stack.enter_context(inbox())
    register("notified", profile(f"custom-webhook: {{url: {url}, token: {SECRET}}}", tmp_path))
    keep_automations(checkout, "failed ->", "crashed for good", "late for", "troubles", within=10)
    assert "left out" not in apply("--profile", "notified").out
    failed, crashed, late = (new_run(deployed, f"etl-month/{color}") for color in ("green", "fhv", "fhvhv"))
    pass_through(deployed, late, Late())
    pass_through(deployed, failed, Pending(), Running(), Failed(message="no such month"))
    pass_through(deployed, crashed, Pending(), Crashed(message="no memory"))
    told = {"subject": "1 troubles are open, 1 have changed", "text": "new, overdue: fhv 2024-01 is not there"}
    lake = {"prefect.resource.id": "nyc-tlc.lake.dev", "prefect.resource.name": "dev"}
    event = Event(event="nyc-tlc.troubles", resource=lake, payload=told).model_dump(mode="json")
    deployed.request("POST", "/events", json=[event])
    eventually(lambda: len(received) == 4)
    stack.close()
    mails = {mail["subject"].removeprefix("etl-month "): mail["body"] for *_, mail in received}
    assert mails[f"{failed.name}: Failed"] == f"no such month\nAttempt 1, started by green: {failed.id}"
    assert "by a worker of the pool taxi" in mails[f"{late.name}: late"]
    assert mails[f"{crashed.name}: Crashed"].startswith("no memory\nAttempt 0, started by fhv: ")
    assert mails["dev: 1 troubles are open, 1 have changed"] == "new, overdue: fhv 2024-01 is not there"
    assert {authorization for _, authorization, _ in received} == {f"Bearer {SECRET}"}
    (shown,) = [
        block for block in deployed.read_block_documents(include_secrets=False) if block.name == "taxi-notified"
    ]
    assert SECRET not in str(shown.data)
    assert url not in str(shown.data)
    assert FAILURES in apply().out
    assert FAILURES in {each.name for each in deployed.read_automations()}


def test_a_crashed_run_is_scheduled_again_twice_one_lost_before_its_start_once_and_one_that_cannot_start_never(
    deployed: SyncPrefectClient, checkout: Path, apply: Apply
) -> None:
    keep_automations(checkout, "crashed -> scheduled", "lost before it started", "killed before it started", within=0)
    assert apply().status == 0
    run, lost, killed, unfit = (new_run(deployed, f"etl-month/{color}") for color in COLORS)

    script = deployed.create_flow_run(flow(lambda: None, name="a-script"), tags=["nyc-tlc"])
    pass_through(deployed, script, Pending(), Running(), Crashed())

    def is_scheduled_again(run: FlowRun) -> bool:
        return deployed.read_flow_run(run.id).state_name == "AwaitingRetry"

    gone = "Pending for 10 minutes; it was lost before it started."
    pass_through(deployed, unfit, Pending(), Crashed(message="Flow run could not be submitted"))
    pass_through(deployed, lost, Pending(), Crashed(message=gone))
    eventually(lambda: is_scheduled_again(lost))
    pass_through(deployed, lost, Pending(), Crashed(message=gone))
    for _ in range(2):
        pass_through(deployed, run, Pending(), Running(), Crashed())
        eventually(lambda: is_scheduled_again(run))
    pass_through(deployed, run, Pending(), Running(), Crashed())
    # The server looks at one event after the other: when this one is dealt with, those before it are.
    pass_through(deployed, killed, Pending(), Crashed(message="Process exited with status code: -9. It was killed."))
    eventually(lambda: is_scheduled_again(killed))
    assert {deployed.read_flow_run(each.id).state_name for each in (run, lost, unfit, script)} == {"Crashed"}


@pytest.mark.torture
def test_a_loaded_month_starts_the_models_when_that_is_switched_on(
    deployed: SyncPrefectClient, checkout: Path, apply: Apply, prefect_server: PrefectServer
) -> None:
    change(checkout / "deployments/automations.yaml", "enabled: false", "enabled: true")
    keep_automations(checkout, "months loaded", within=10)
    assert apply().status == 0
    month = ("--color", "green", "--year", "2024", "--month", "1", "--source", "sample")
    done = prefect_server.run("flows/etl_month.py", *month, TLC_SAMPLE_ROWS="10")
    assert done.returncode == 0, done.stderr
    models = deployed.read_deployment_by_name("transform/models")
    (run,) = eventually(lambda: [each for each in deployed.read_flow_runs() if each.deployment_id == models.id])
    assert run.created_by.type == "AUTOMATION"


@pytest.mark.torture
def test_a_run_that_stays_pending_is_crashed_and_taken_up_again(
    deployed: SyncPrefectClient, checkout: Path, apply: Apply
) -> None:
    keep_automations(checkout, "pending for 10 minutes", "lost before it started", within=10)
    assert apply().status == 0
    run, started = new_run(deployed, "etl-month/yellow"), new_run(deployed, "etl-month/green")
    for each in (run, started):
        pass_through(deployed, each, Pending(), Pending(name="Submitting"))
    # A worker takes seconds to start a run; a server that gets both events at once may look at them in any order.
    time.sleep(2)
    pass_through(deployed, started, Running())
    eventually(lambda: deployed.read_flow_run(run.id).state_name == "AwaitingRetry")
    (crashed,) = [state for state in deployed.read_flow_run_states(run.id) if state.name == "Crashed"]
    assert str(crashed.message).startswith("Pending for 10 minutes")
    assert deployed.read_flow_run(started.id).state_name == "Running"
    # A run that is taken up again has its ten minutes anew.
    pass_through(deployed, run, Pending())
    eventually(lambda: deployed.read_flow_run(run.id).state_name == "Crashed")


def test_a_run_as_a_worker_starts_it_elsewhere_finds_the_flow(
    deployed: SyncPrefectClient, prefect_server: PrefectServer, tmp_path: Path
) -> None:
    # As people write a month; the script takes it too.
    run = new_run(deployed, "etl-month/green", year=2024, month="01", source="sample")
    pass_through(deployed, run, Pending())
    home = tmp_path / "data"
    environment = {"TLC_HOME": str(home), "TLC_SAMPLE_ROWS": "1000", "PREFECT__FLOW_RUN_ID": str(run.id)}
    done = prefect_server.run("-m", "prefect.engine", cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert deployed.read_flow_run(run.id).state_name == "Completed"
    manifest = json.loads((home / "lake/manifest/green/2024-01.json").read_text())
    with duckdb.connect(str(home / "warehouse.duckdb"), read_only=True) as warehouse:
        assert warehouse.sql("SELECT count(*) FROM ny_taxi.green_trip_data").fetchall() == [
            (manifest["clean"]["rows"],)
        ]


@pytest.mark.torture
def test_a_worker_clones_the_flows_as_the_readme_says(
    deployed: SyncPrefectClient, checkout: Path, prefect_server: PrefectServer, tmp_path: Path
) -> None:
    who = ("-c", "user.name=me", "-c", "user.email=me@example.com")
    for command in (["init", "--initial-branch", "main"], ["add", "."], ["commit", "--message", "flows"]):
        subprocess.run(["git", *who, *command], cwd=checkout, check=True, capture_output=True)
    readme = (ROOT / "deployments/README.md").read_text()
    (shown,) = re.findall(r"```yaml\n(pull:\n.*?)```", readme, re.DOTALL)
    content = PREFECT_YAML | yaml.safe_load(
        shown.replace("https://github.com/you/nyc-tlc-flows.git", checkout.as_uri())
    )
    (green,) = [each for each in content["deployments"] if full_name(each) == "etl-web-to-gcs/green"]
    content["deployments"] = [green | {"name": "cloned"}]
    (checkout / "prefect.yaml").write_text(yaml.safe_dump(content))
    deploy(checkout, prefect_server)
    # Nothing is read from where it was deployed.
    shutil.rmtree(checkout / "flows")
    with machine(prefect_server, tmp_path / "elsewhere", TLC_HOME=str(tmp_path / "data"), TLC_SAMPLE_ROWS="10"):
        month = ("-p", "year=2024", "-p", "month=1", "-p", "source=sample")
        done = prefect_server.run("-m", "prefect", "deployment", "run", "etl-web-to-gcs/cloned", "--watch", *month)
    deployed.delete_deployment(deployed.read_deployment_by_name("etl-web-to-gcs/cloned").id)
    assert done.returncode == 0, done.stdout + (tmp_path / "elsewhere/log").read_text()
    assert (tmp_path / "data/lake/manifest/green/2024-01.json").is_file()


def test_a_mistake_in_a_file_is_one_line_and_changes_nothing(checkout: Path, apply: Apply) -> None:
    for name, old, new, message in (
        ("automations", "after: [prefect.flow-run.Late]", "afte: [x]", "automations.7.trigger.event.afte"),
        ("automations", "state: CRASHED", "state: LOST", "automations.0.actions.0.ChangeFlowRunState.state"),
        ("automations", 'name: "nyc-tlc: late', 'name: "late', "not a name of this project; expected"),
        ("automations", "automations:", "automations: [", "not valid YAML"),
        ("automations", "automations:", "automation:", "unknown key automation; expected automations"),
        ("server", "postgres: 4", "postgres: 0", "concurrency_limits.taxi-warehouse-postgres: Input should be greater"),
        ("server", "postgres: 4", "postgres: many", "concurrency_limits.taxi-warehouse-postgres: Input should be a"),
        ("server", "type: process", "kind: process", "work_pools.0: unknown key kind; expected name, type"),
    ):
        file = checkout / f"deployments/{name}.yaml"
        right = file.read_text()
        change(file, old, new)
        ran = apply()
        assert (ran.status, ran.out) == (1, "")
        assert ran.err.startswith(f"error: checkout/deployments/{name}.yaml: ")
        assert message in ran.err
        assert ran.err.count("\n") == 1
        file.write_text(right)


def test_without_a_server_the_way_to_one_is_told(apply: Apply) -> None:
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        none = apply()
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        away = apply()
    assert (none.status, away.status) == (1, 1)
    assert none.err.startswith(
        "error: no Prefect server to prepare: PREFECT_API_URL is not set; start one with make server"
    )
    assert away.err.startswith("error: the Prefect server at http://127.0.0.1:9/api (PREFECT_API_URL) can't be reached")
    assert (none.err + away.err).count("\n") == 2


def test_wrong_arguments_exit_with_2(apply: Apply) -> None:
    for argument in ("--chek", "dev"):
        ran = apply(argument)
        assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
        assert argument in ran.err


def test_the_readme_has_every_deployment_with_its_time_and_every_option() -> None:
    readme = (ROOT / "deployments/README.md").read_text()
    for content in PREFECT_YAML["deployments"]:
        flow, _, name = full_name(content).partition("/")
        assert f"`{flow}/{'{color}' if name in COLORS else name}`" in readme
        if name not in COLORS[1:]:
            for schedule in content.get("schedules", []):
                minute, hour, *_ = schedule["cron"].split()
                assert f"{hour}:{int(minute):02}" in readme
    for option in ("--pool", "--profile"):
        assert f"| `{option}` |" in readme
    for target in re.findall(r"\]\(([^)]+)\)", readme):
        assert (ROOT / "deployments" / target.partition("#")[0]).exists()
