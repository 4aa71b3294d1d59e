"""Build the image from the unchanged Dockerfile with buildah, and run compose.yaml's services with podman.

Needs root and Debian's packages: ``make containers``. The base image is pulled; if no registry can be reached, it is
made by debootstrap, with a Python of this machine. Containers have the settings of compose.yaml: a read-only root, no
capabilities, limits, volumes, secrets and health checks. They share this machine's network, so services are found at
127.0.0.1.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stand_ins.docker import Machine, read_dockerfile

TOOLS = ("buildah", "podman", "runc", "catatonit", "debootstrap")
#: What Python's standard library needs of Debian.
LIBRARIES = "ca-certificates libssl3 libsqlite3-0 libffi8 libbz2-1.0 liblzma5 libreadline8 libncursesw6 tzdata"
#: compose.yaml -> podman, for what is said in the same words.
FLAGS = {
    "read_only": "--read-only",
    "init": "--init",
    "tmpfs": "--tmpfs",
    "cap_drop": "--cap-drop",
    "cpus": "--cpus",
    "mem_limit": "--memory",
    "pids_limit": "--pids-limit",
}


@dataclass(frozen=True)
class Store:
    """A folder of images and containers for the tests."""

    folder: Path

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return a command of buildah or podman."""
        own = ["--storage-driver", "overlay", "--root", f"{self.folder}/root", "--runroot", f"{self.folder}/run"]
        if program == "podman":
            own += ["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "runc"]
        return [program, *own, *arguments]

    def run(self, program: str, *arguments: str) -> str:
        """Run a command of buildah or podman, and return its output."""
        done = subprocess.run(self.command(program, *arguments), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
        return done.stdout

    def run_in(self, image: str, *command: str) -> str:
        """Run a command in a container with the same restrictions as in compose.yaml, and return its output."""
        closed = ("--read-only", "--tmpfs=/tmp", "--volume=/data", "--cap-drop=all", "--security-opt=no-new-privileges")
        return self.run("podman", "run", "--rm", "--network=host", "--pull=never", *limits(), *closed, image, *command)

    def has(self, image: str) -> bool:
        """Return whether an image is available: on this machine or in a registry."""
        return not subprocess.run(self.command("buildah", "pull", image), capture_output=True, check=False).returncode

    def volume(self, name: str) -> Path:
        """Return the folder of a volume."""
        return Path(self.run("podman", "volume", "inspect", "--format", "{{.Mountpoint}}", name).strip())


def limits() -> list[str]:
    """Return limits that this machine allows; podman's own may be higher."""
    return ["--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096"]


def build(store: Store, root: Path, tags: Mapping[str, str]) -> None:
    """Build stages of the Dockerfile.

    Args:
        store: The store for the images.
        root: The build context.
        tags: Image -> stage.
    """
    base = read_dockerfile(root / "docker/Dockerfile")[0].base
    if not store.has(f"docker.io/library/{base}"):
        folder = store.folder / "base"
        make_base(folder, base)
        (store.folder / "Base").write_text("FROM scratch\nCOPY . /\n")
        name = f"docker.io/library/{base}"
        store.run("buildah", "bud", "--isolation", "chroot", "-f", f"{store.folder}/Base", "-t", name, str(folder))
        shutil.rmtree(folder)
    volumes = [word for path in list_pip_files() for word in ("--volume", f"{path}:{path}:ro")]
    # The certificates that pip's configuration names are among the system's; uv has its own.
    (store.folder / "uv.toml").write_text("system-certs = true\n")
    volumes += ["--volume", f"{store.folder}/uv.toml:/etc/uv/uv.toml:ro"]
    for tag, stage in tags.items():
        target = ["--target", stage] if stage else []
        # Docker's own format: that of OCI has no health checks.
        store.run(
            *("buildah", "bud", "--format", "docker", "--isolation", "chroot", "--network", "host", "--pull-never"),
            *("--layers", "-f", str(root / "docker/Dockerfile"), "-t", tag, *target, *volumes, str(root)),
        )


def make_base(folder: Path, image: str) -> None:
    """Make an image like ``python:…-slim-bookworm``: Debian, and a Python with pip in /usr/local."""
    (minor,) = re.findall(r"3\.\d+", image)
    python = find_python(minor)
    assert python, f"there is no Python {minor} to make a base image with"
    include = ",".join(LIBRARIES.split())
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={include}", "bookworm", folder],
        check=True,
        capture_output=True,
    )
    where = [python, "-c", "import sys; print(sys.base_prefix)"]
    prefix = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    local = folder / "usr/local"
    shutil.copy(prefix / f"bin/python{minor}", local / "bin")
    for name in ("python", "python3"):
        (local / "bin" / name).symlink_to(f"python{minor}")
    for library in (prefix / "lib").glob("libpython*.so*"):
        shutil.copy(library, local / "lib")
    left_out = shutil.ignore_patterns("test", "__pycache__", "config-*", "idlelib", "site-packages")
    modules = Path("lib", f"python{minor}")
    shutil.copytree(prefix / modules, local / modules, ignore=left_out)
    for package in (prefix / modules / "site-packages").glob("pip*"):
        shutil.copytree(package, local / modules / "site-packages" / package.name)
    subprocess.run(["chroot", folder, "ldconfig"], check=True)
    for left in (*folder.glob("var/cache/apt/archives/*.deb"), *folder.glob("var/lib/apt/lists/*_*")):
        left.unlink()


def find_python(minor: str) -> str | None:
    """Find a Python of this machine, by its minor version, that has pip."""
    for name in (f"python{minor}", *map(str, Path.home().glob(f".pyenv/versions/{minor}.*/bin/python"))):
        found = shutil.which(name)
        if found and not subprocess.run([found, "-c", "import pip"], capture_output=True, check=False).returncode:
            return found
    return None


def list_pip_files() -> Iterator[str]:
    """Yield the files and folders of this machine's configuration of pip, which a build's pip needs too."""
    shown = subprocess.run(["pip", "config", "debug"], capture_output=True, text=True, check=True).stdout
    files = re.findall(r"(/\S+), exists: True", shown)
    yield from files
    text = "\n".join(Path(file).read_text(encoding="utf-8") for file in files)
    # An index has its files beside it, and a certificate the others.
    named = {Path(name).parent for name in re.findall(r"file://(/\S+)", text)}
    named |= {path if path.is_dir() else path.parent for path in map(Path, re.findall(r"= *(/\S+)", text))}
    yield from sorted(str(path) for path in named if path.is_dir())


@dataclass
class Containers(Machine):
    """Compose's services in containers.

    Attributes:
        store: The store of the images.
        secrets: The folder of the secrets.
        folder: The folder of compose.yaml.
    """

    store: Store = Store(Path())
    secrets: Path = Path()
    folder: Path = Path()

    def prepare(self, service: str, command: Sequence[str], more: Mapping[str, str]) -> dict[str, Any]:
        """Return the command that runs a service, or another command in its place, and where it is run."""
        given = self.compose["services"][service]
        flags = ["--rm", "--network=host", "--pull=never", *limits()]
        if not command:
            flags.append(f"--name={service}-{os.getpid()}")
        for key, flag in FLAGS.items():
            values = given.get(key, [])
            flags += [f"{flag}={value}".lower() for value in (values if isinstance(values, list) else [values])]
        flags += [f"--security-opt={option.removesuffix(':true')}" for option in given["security_opt"]]
        flags += [f"--volume={volume}" for volume in given.get("volumes", [])]
        flags += [f"--volume={self.secrets / name}:/run/secrets/{name}:ro" for name in given.get("secrets", [])]
        for config in given.get("configs", []):
            file = self.folder / self.compose["configs"][config["source"]]["file"]
            flags.append(f"--volume={file}:{config['target']}:ro")
        if "healthcheck" in given:
            flags.append(f"--health-cmd={json.dumps(given['healthcheck']['test'][1:])}")
        variables = self.environment(service, **more)
        flags += [f"--env={name}={value}" for name, value in variables.items()]
        words = command or given.get("command", [])
        return {"args": self.store.command("podman", "run", *flags, given["image"], *map(self.here, words))}

    def is_healthy(self, service: str) -> bool:
        """Return the result of the service's own health check."""
        check = self.store.command("podman", "healthcheck", "run", f"{service}-{os.getpid()}")
        return not subprocess.run(check, capture_output=True, check=False, timeout=60).returncode
