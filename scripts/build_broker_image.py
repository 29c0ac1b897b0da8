"""Builds the broker's own image from wheels; or, with --wheels, the wheels alone.

    python scripts/build_broker_image.py [--base IMAGE] [--python 3.11] [--wheels]

``build/wheels`` gets what ``requirements-run.lock`` names, checked by its hashes; ``build/project`` the project. What is
there already for the same inputs isn't made again. The last line on standard output is the image's id.
"""
# ruff: noqa: INP001, T201 -- a script, not a module of a package; it prints what it does

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import docker
import docker.errors

from broker.errors import BrokerError
from broker.sandbox.address import engine_address

ROOT = Path(__file__).resolve().parent.parent
WHEELS = ROOT / "build" / "wheels"
PROJECT = ROOT / "build" / "project"
LOCK = ROOT / "requirements-run.lock"
PROJECT_INPUTS = ("pyproject.toml", "README.md", "broker", "protos", "tool_specs")
"""What the project's wheel is made of."""
GLIBC_TAGS = ("2_36", "2_34", "2_31", "2_28", "2_27", "2_24", "2_17", "2_12", "2_5")
"""Wheels built for these versions of glibc and older ones run on Debian 12 and newer."""


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


def files_of(path: Path) -> list[Path]:
    """The files under a path, or the path itself; without what Python and the build leave there."""
    if path.is_file():
        return [path]
    return sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and "_pb2" not in file.name
    )


def digest(paths: list[Path], *words: str) -> str:
    """SHA-256, hex, over names and contents of files, and some words."""
    total = hashlib.sha256()
    for word in words:
        total.update(f"{word}\0".encode())
    for path in paths:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(ROOT)}\0{content}\0".encode())
    return total.hexdigest()


def pip(*arguments: str | Path) -> None:
    """Runs this environment's pip, with its programs first on the PATH: protoc looks for plugins there."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq", *arguments]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=sys.stderr)  # noqa: S603 -- our own arguments


def is_stamped(stamp: Path, value: str) -> bool:
    """Was this made from the same inputs, to its end?"""
    return stamp.is_file() and stamp.read_text("utf-8") == value


def download_dependencies(python: str) -> None:
    """Fetches the locked run-time packages for the image's Python (``3.11``), checked by their hashes."""
    machine = platform.machine()
    stamp = WHEELS.with_name("wheels.stamp")
    value = digest([LOCK], python, machine)
    if is_stamped(stamp, value):
        return
    say(f"fetching the locked packages for Python {python} on {machine}")
    stamp.unlink(missing_ok=True)
    shutil.rmtree(WHEELS, ignore_errors=True)
    WHEELS.mkdir(parents=True)
    platforms = [f"--platform=manylinux_{tag}_{machine}" for tag in GLIBC_TAGS] + [
        f"--platform=manylinux2014_{machine}"
    ]
    pip(
        "download", "--require-hashes", "--no-deps", "--only-binary=:all:", "--implementation=cp",
        f"--python-version={python}", *platforms, "--dest", WHEELS, "--requirement", LOCK,
    )  # fmt: skip
    stamp.write_text(value, "utf-8")


def build_project() -> None:
    """Builds the project's wheel from a copy, so that the stubs in this folder stay as they are."""
    inputs = [file for name in PROJECT_INPUTS for file in files_of(ROOT / name)]
    stamp = PROJECT.with_name("project.stamp")
    value = digest(inputs)
    if is_stamped(stamp, value) and list(PROJECT.glob("*.whl")):
        return
    say("building the project's wheel")
    stamp.unlink(missing_ok=True)
    shutil.rmtree(PROJECT, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        for file in inputs:
            copy = Path(scratch, file.relative_to(ROOT))
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, copy)
        pip("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", PROJECT, scratch)
    stamp.write_text(value, "utf-8")


def default_base() -> str:
    """The base that the sandboxes are built on, made by now."""
    command = [sys.executable, str(ROOT / "scripts" / "build_images.py"), "--print-base"]
    output = subprocess.check_output(command, cwd=ROOT, text=True)  # noqa: S603 -- our own arguments
    return output.split()[-1]


def build_image(base: str) -> str:
    """Builds the image unless there is one of the same inputs; returns its id."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    client = docker.DockerClient(base_url=engine_address(), version="auto", timeout=600)
    try:
        try:
            base_id = client.images.get(base).id
        except docker.errors.ImageNotFound:
            base_id = base
        inputs = digest(
            [ROOT / "Dockerfile", LOCK, *sorted(WHEELS.glob("*.whl")), *sorted(PROJECT.glob("*.whl"))], base_id
        )[:16]
        tag = f"agent-broker:{version}-{inputs}"
        try:
            image = client.images.get(tag)
        except docker.errors.ImageNotFound:
            say(f"building {tag} on {base}")
            image, _ = client.images.build(
                path=str(ROOT),
                tag=tag,
                buildargs={"BASE": base},
                labels={"broker.inputs": inputs},
                rm=True,
                forcerm=True,
            )
        image.tag("agent-broker", version)
        return str(image.id)
    finally:
        client.close()


def main() -> int:
    """Exit code 0: built, or there already; 1: it can't be built."""
    parser = argparse.ArgumentParser(description="Builds the broker's own image.")
    parser.add_argument("--base", help="base image (default: the one that the sandboxes are built on)")
    parser.add_argument(
        "--python", default="3.11", help="Python version of the base image (default: 3.11, Debian 12's)"
    )
    parser.add_argument("--wheels", action="store_true", help="make the wheels only")
    options = parser.parse_args()
    try:
        download_dependencies(options.python)
        build_project()
        if not options.wheels:
            print(build_image(options.base or default_base()))
    except docker.errors.BuildError as error:
        for line in error.build_log:
            say(str(line.get("stream", line.get("error", ""))).rstrip())
        say(f"stopped: {error}")
        return 1
    except (subprocess.CalledProcessError, docker.errors.DockerException, BrokerError) as error:
        say(f"stopped: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
