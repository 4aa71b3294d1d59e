"""Docker without Docker: an image's files in a folder, and compose's services as processes of this machine.

Implements what the Dockerfile and the compose file use: FROM, ARG, COPY, RUN, ENV and HEALTHCHECK; a .dockerignore of
plain paths and ``**/name``; ``${NAME}``, ``${NAME:-default}`` and ``${NAME:+value}``; commands, variables and health
checks. Paths of the image and addresses of the services are replaced by those here.

Does not implement: isolation of any kind, users, layers, capabilities, limits, networks.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from waiting import eventually, free_port

VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?::(?P<how>[-+])(?P<value>[^{}]*))?\})")


@dataclass
class Stage:
    """One stage of a Dockerfile: its instructions in order, as (``RUN``, the rest)."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        """Return the arguments of each instruction of a kind."""
        return [rest for instruction, rest in self.instructions if instruction == word]

    @property
    def environment(self) -> dict[str, str]:
        """Return its ENV, not expanded."""
        return dict(pair.split("=", 1) for rest in self.all("ENV") for pair in shlex.split(rest))

    @property
    def health_check(self) -> list[str]:
        """Return the command of its HEALTHCHECK."""
        (check,) = self.all("HEALTHCHECK")
        command: list[str] = json.loads(check.partition("CMD ")[2])
        return command


def read_dockerfile(path: Path) -> list[Stage]:
    """Parse the stages of a Dockerfile."""
    text = re.sub(r"^#.*\n", "", path.read_text(encoding="utf-8"), flags=re.M)
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = fill_in(rest, arguments).partition(" AS ")
            stages.append(Stage(name, base))
        elif word == "ARG" and not stages:
            name, _, arguments[name] = rest.partition("=")
        elif word:
            stages[-1].instructions.append((word, rest.strip()))
    return stages


def context(root: Path) -> Iterator[Path]:
    """Return the files of a folder that its .dockerignore includes; the last matching pattern decides."""
    lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]

    def fits(pattern: str, path: Path) -> bool:
        if pattern.startswith("**/"):
            return pattern[3:] in path.parts
        return pattern == "*" or path.is_relative_to(pattern)

    # Hidden folders, above all .git, are large, and no pattern of the project includes them.
    for top in sorted(root.glob("[!.]*")):
        for file in sorted(top.rglob("*")) if top.is_dir() else [top]:
            path = file.relative_to(root)
            last = next((each for each in reversed(patterns) if fits(each.removeprefix("!"), path)), "!")
            if last.startswith("!") and file.is_file():
                yield path


def copy(stage: Stage, root: Path, image: Path) -> None:
    """Copy files from the build context as a stage's COPY does; the working directory is /app."""
    files = list(context(root))
    for rest in stage.all("COPY"):
        *sources, target = rest.split()
        for source in sources:
            chosen = [path for path in files if path.is_relative_to(source)]
            if not chosen:
                raise FileNotFoundError(f"COPY {source}: not in the build context")
            for path in chosen:
                # COPY of a folder copies its content; COPY of a file copies the file.
                inside = path.relative_to(source) if path != Path(source) else Path(path.name)
                to = image / "app" / target / inside
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / path, to)


def compile_code(stage: Stage, image: Path, venv: str) -> None:
    """Run the RUN instruction that compiles the code."""
    (command,) = [run for run in stage.all("RUN") if "compileall" in run]
    subprocess.run(["sh", "-c", command.replace("/opt/venv", venv)], cwd=image / "app", check=True, env={})


def fill_in(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``${…}``."""

    def value(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        given = variables.get(match["name"], "")
        if match["how"] == "+":
            return match["value"] if given else ""
        return given or match["value"] or ""

    # A default may have a variable of its own.
    return VARIABLE.sub(value, VARIABLE.sub(value, text))


@dataclass
class Machine:
    """A machine that has the image's files, and services to run.

    Attributes:
        stage: The image.
        compose: The content of compose.yaml, with its variables replaced.
        places: Path or address in a container -> the one on this machine.
        base: Variables of all services.
        extra: Service -> variables that adapt it to this machine.
    """

    stage: Stage
    compose: dict[str, Any]
    places: dict[str, str]
    base: dict[str, str]
    extra: dict[str, dict[str, str]] = field(default_factory=dict)

    def here(self, text: str) -> str:
        """Replace the paths and addresses in a text of the image or of compose.yaml by those of this machine."""
        known = "|".join(map(re.escape, self.places))
        return re.sub(rf"(?<![\w.])({known})(?!\w)", lambda match: self.places[match[0]], text)

    def environment(self, service: str, **more: str) -> dict[str, str]:
        """Return the variables of a service."""
        given = {**self.stage.environment, **self.compose["services"][service].get("environment", {}), **more}
        given = {name: self.here(str(value)) for name, value in given.items() if name != "PATH"}
        return self.base | given | self.extra.get(service, {})

    def run(self, service: str, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a service to its end, or another command in its place: ``docker compose run``."""
        return subprocess.run(
            **self.prepare(service, command, more),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    @contextlib.contextmanager
    def running(self, service: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Start a service and yield when it is healthy; its output is in the folder."""
        log = folder / f"{service}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(**self.prepare(service, (), {}), stdout=out, stderr=subprocess.STDOUT)
        try:
            wait_for(lambda: self.is_healthy(service), process, log, every=1)
            yield process
        finally:
            process.terminate()
            process.wait(30)

    def prepare(self, service: str, command: Sequence[str], more: Mapping[str, str]) -> dict[str, Any]:
        """Return the command that runs a service, or another command in its place, and where it is run."""
        (entrypoint,) = self.stage.all("ENTRYPOINT")
        words = [*json.loads(entrypoint), *(command or self.compose["services"][service]["command"])]
        args = [self.here(word) for word in words]
        return {"args": args, "cwd": self.here("/app"), "env": self.environment(service, **more)}

    def is_healthy(self, service: str) -> bool:
        """Whether the image's health check says so."""
        check = [self.here(word) for word in self.stage.health_check]
        done = subprocess.run(check, env=self.environment(service), capture_output=True, check=False, timeout=60)
        return done.returncode == 0


def machine_with(image: Path, venv: str, secrets: Path, folder: Path, compose: Path) -> Machine:
    """A machine with an image's files, with authentication, and with ports of its own.

    Args:
        image: The folder that contains ``/app``.
        venv: The folder for ``/opt/venv``.
        secrets: The folder for ``/run/secrets``.
        folder: The folder it may write to.
        compose: The compose file; the Dockerfile is beside it.
    """
    (folder / "data").mkdir()
    api, health = free_port(), free_port()
    places = {
        "/run/secrets": str(secrets),
        "/opt/venv": venv,
        "/tmp/prefect": str(folder / "prefect"),
        "/app": str(image / "app"),
        "/data": str(folder / "data"),
        "server:4200": f"127.0.0.1:{api}",
        "127.0.0.1:4200": f"127.0.0.1:{api}",
        "127.0.0.1:8080": f"127.0.0.1:{health}",
    }
    base = {"PATH": f"{venv}/bin:/usr/bin:/bin", "PREFECT_WORKER_QUERY_SECONDS": "1", "TLC_SAMPLE_ROWS": "2000"}
    services = read_compose(compose, {"PREFECT_PORT": str(api)})
    # Without it, the server is started as in the README, without containers.
    del services["services"]["server"]["environment"]["PREFECT_SERVER_API_HOST"]
    extra = {
        "server": {"PREFECT_SERVER_API_PORT": str(api)},
        "worker": {"PREFECT_WORKER_WEBSERVER_PORT": str(health)},
    }
    return Machine(read_dockerfile(compose.parent / "Dockerfile")[-1], services, places, base, extra)


def without_postgres(machine: Machine) -> None:
    """Let the server keep its data in a file."""
    given = machine.compose["services"]["server"]["environment"]
    for name in [name for name in given if name.startswith("PREFECT_SERVER_DATABASE_")]:
        del given[name]


def wait_for(happens: Callable[[], Any], process: subprocess.Popen[bytes], log: Path, every: float = 0.2) -> None:
    """Wait for something that a process will do."""

    def happened() -> Any:
        assert process.poll() is None, log.read_text()
        return happens()

    eventually(happened, 180, every=every, describe=log.read_text)


def read_compose(path: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """Read a compose file and replace its variables."""
    content: dict[str, Any] = yaml.safe_load(fill_in(path.read_text(encoding="utf-8"), variables))
    return content
