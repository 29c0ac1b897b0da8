#!/usr/bin/env python3
"""Builds the images that the broker needs: the base, then one per folder of ``sandboxes/`` that has a Dockerfile.

    python scripts/build_images.py [--base IMAGE] [--bootstrap] [--print-base]

The base comes from a Debian image where one is at hand or can be pulled, else from Debian's packages (``mmdebstrap``).
An image carries the digest of all that it was made from; what is there already isn't made again.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from importlib import metadata
from pathlib import Path

import docker
import docker.errors
import requests.exceptions

from broker.errors import BrokerError
from broker.sandbox.address import engine_address
from broker.sandbox.images import CURRENT_TAG, LABEL_IMAGE, LABEL_INPUTS, LABEL_WIRE, WIRE_VERSION

SANDBOXES = Path(__file__).resolve().parent.parent / "sandboxes"
DEFAULT_BASE = "debian:bookworm-slim"
SUITE = "bookworm"
PACKAGES = "python3,python3-venv,ca-certificates"
PACKAGES_FILE = "packages.txt"
"""In a sandbox's folder: Python packages of this environment that its image gets, one a line; ``#`` begins a comment."""
LABEL_BASE = "broker.base"
PULL_SILENCE_S = 60
"""A pull that says nothing for so long is given up."""
BUILD_SILENCE_S = 900
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*")


class BuildError(Exception):
    """An image can't be built; the text says what to do."""


def say(text: str) -> None:
    """One line of progress."""
    sys.stderr.write(f"images: {text}\n")
    sys.stderr.flush()


def folder_digest(folders: list[Path], *more: str) -> str:
    """SHA-256 (first 16 hex digits) over names, modes and contents of the files in ``folders``, and further texts."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                executable = os.access(path, os.X_OK)
                digest.update(f"{path.relative_to(folder.parent)}\0{executable}\0{content}\n".encode())
    for text in more:
        digest.update(f"{text}\0".encode())
    return digest.hexdigest()[:16]


def package_files(folder: Path) -> dict[str, Path]:
    """The files of the packages that a sandbox's folder names, by their place in the build context.

    They are those of this environment, which the lock file pins and whose hashes were checked when they were installed.

    Raises:
        BuildError: one isn't installed here, or isn't of Python alone.
    """
    listing = folder / PACKAGES_FILE
    lines = listing.read_text("utf-8").splitlines() if listing.is_file() else []
    found: dict[str, Path] = {}
    for name in filter(None, (line.partition("#")[0].strip() for line in lines)):
        try:
            files = metadata.distribution(name).files or []
        except metadata.PackageNotFoundError as error:
            raise BuildError(f"{listing} names {name}, which isn't installed here; `make venv` installs it") from error
        if any(file.suffix == ".so" for file in files):
            raise BuildError(f"{listing} names {name}, which isn't of Python alone, so it fits this machine only")
        # What an installer notes of itself differs from machine to machine; a package's own metadata doesn't.
        found |= {
            f"packages/{file}": Path(str(file.locate()))
            for file in files
            if file.suffix == ".py" or (file.name in {"METADATA", "LICENSE"} and ".dist-info" in file.parts[0])
        }
    return dict(sorted(found.items()))


def inputs_digest(folder: Path, packages: dict[str, Path], base: str, base_id: str) -> str:
    """The digest of all that a sandbox's image is made from: its folder, the runner, files of packages, the base."""
    lines = [f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n" for name, path in packages.items()]
    more = [hashlib.sha256("".join(lines).encode()).hexdigest()] if lines else []
    return folder_digest([folder, SANDBOXES / "runner"], base, base_id, *more)


def base_tag(base: str) -> str:
    """The tag of the base image: it follows from what it is made of, not from whether a registry was there."""
    return f"broker-base:{folder_digest([SANDBOXES / 'base'], base, SUITE, PACKAGES, *LEFT_OUT)}"


class Builder:
    """Builds on one engine."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._client = docker.APIClient(base_url=address, version="auto", timeout=BUILD_SILENCE_S)

    def close(self) -> None:
        """Closes the connection to the engine."""
        self._client.close()

    def has(self, image: str) -> bool:
        """Whether the engine holds an image under this name."""
        try:
            self._client.inspect_image(image)
        except docker.errors.ImageNotFound:
            return False
        return True

    def base(self, wanted: str, *, bootstrap: bool) -> str:
        """Makes sure of the base image; returns its tag."""
        tag = base_tag(wanted)
        if self.has(tag):
            say(f"base {tag} is there")
        elif bootstrap:
            self._bootstrap(tag)
        elif self._obtain(wanted):
            self._base_from(wanted, tag)
        elif wanted != DEFAULT_BASE:
            raise BuildError(f"the image {wanted!r} named with --base is not on this engine and can't be pulled")
        else:
            say("no registry answers: making the base from Debian's packages instead")
            self._bootstrap(tag)
        return tag

    def sandbox(self, name: str, base: str) -> str:
        """Makes sure of one sandbox image; returns its id."""
        folder = SANDBOXES / name
        packages = package_files(folder)
        inputs = inputs_digest(folder, packages, base, str(self._client.inspect_image(base)["Id"]))
        tag = f"broker-sandbox-{name}:{inputs}"
        if self.has(tag):
            say(f"{tag} is there")
        else:
            say(f"building {tag} ...")
            context = _context([folder, SANDBOXES / "runner"], folder / "Dockerfile", packages)
            labels = {LABEL_IMAGE: name, LABEL_INPUTS: inputs, LABEL_WIRE: WIRE_VERSION}
            self._build(context, tag, {"BASE": base}, labels, network="none")
        self._client.tag(tag, f"broker-sandbox-{name}", CURRENT_TAG)
        return str(self._client.inspect_image(tag)["Id"])

    def _obtain(self, image: str) -> bool:
        """Pulls an image unless it is there; false when no registry gives it."""
        if self.has(image):
            return True
        say(f"pulling {image} (given up after {PULL_SILENCE_S} s of silence) ...")
        patient = docker.APIClient(base_url=self._address, version="auto", timeout=PULL_SILENCE_S)
        try:
            for line in patient.pull(image, stream=True, decode=True):
                if "error" in line:
                    say(f"not pulled: {line['error']}")
                    return False
        except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
            say(f"not pulled: {str(error).splitlines()[0]}")
            return False
        finally:
            patient.close()
        return self.has(image)

    def _base_from(self, image: str, tag: str) -> None:
        say(f"building {tag} from {image} ...")
        context = _context([], SANDBOXES / "base" / "Dockerfile", {})
        self._build(context, tag, {"FROM_IMAGE": image}, {LABEL_BASE: tag}, network=None)

    def _build(
        self, context: io.BytesIO, tag: str, arguments: dict[str, str], labels: dict[str, str], *, network: str | None
    ) -> None:
        lines = self._client.build(
            fileobj=context,
            custom_context=True,
            encoding="gzip",
            tag=tag,
            buildargs=arguments,
            labels=labels,
            network_mode=network,
            rm=True,
            forcerm=True,
            decode=True,
        )
        told: list[str] = []
        for line in lines:
            if text := str(line.get("stream", "")).strip():
                told.append(text)
                if text.startswith("Step "):
                    say(text)
            if "error" in line:
                raise BuildError(f"building {tag} failed: {line['error']}\n" + "\n".join(told[-20:]))

    def _bootstrap(self, tag: str) -> None:
        """Makes the base from Debian's packages, without any image."""
        program = _mmdebstrap()
        say(f"bootstrapping {tag} from Debian's packages (about a minute) ...")
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="broker-base-") as folder:
            root = Path(folder) / "base.tar"
            command = [program, "--quiet", "--variant=minbase", f"--include={PACKAGES}"]
            command += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
            done = subprocess.run([*command, SUITE, str(root)], check=False, capture_output=True, text=True)  # noqa: S603
            if done.returncode:
                raise BuildError(
                    f"mmdebstrap failed with {done.returncode}: {done.stderr[-2000:]}\n"
                    "A Debian mirror must be reachable; or name a Debian image with --base."
                )
            say("importing it into the engine ...")
            changes = [f"LABEL {LABEL_BASE}={tag}", 'CMD ["/bin/sh"]']
            repository, _, version = tag.partition(":")
            self._client.import_image_from_file(str(root), repository=repository, tag=version, changes=changes)
        if not self.has(tag):
            raise BuildError(f"the engine did not keep the imported image {tag}")
        say(f"base made in {time.monotonic() - started:.0f} s")


def _mmdebstrap() -> str:
    """Path of mmdebstrap; installs it where that may be done without asking: as root on Debian."""
    if found := shutil.which("mmdebstrap"):
        return found
    if os.geteuid() == 0 and Path("/etc/debian_version").exists() and shutil.which("apt-get"):
        say("installing mmdebstrap ...")
        for step in (["update"], ["install", "--yes", "--no-install-recommends", "mmdebstrap"]):
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            subprocess.run(["apt-get", "--quiet", *step], check=False, env=environment, stdout=sys.stderr)  # noqa: S603, S607
        if found := shutil.which("mmdebstrap"):
            return found
    raise BuildError(
        f"there is no base image: {DEFAULT_BASE} can't be pulled, and mmdebstrap is not installed.\n"
        f"Do one of these: pull or load {DEFAULT_BASE} into the engine; name a Debian image that the engine has or can "
        "pull with --base IMAGE; or, on Debian as root, `apt-get install mmdebstrap`."
    )


def _context(folders: list[Path], dockerfile: Path, packages: dict[str, Path]) -> io.BytesIO:
    """A build context: each folder under its own name, the Dockerfile, packages; owned by root, without times."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1, mtime=0) as squeezed,
        tarfile.open(fileobj=squeezed, mode="w") as archive,
    ):
        _add(archive, dockerfile, "Dockerfile")
        for folder in folders:
            for path in sorted(folder.rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    _add(archive, path, str(path.relative_to(folder.parent)))
        for name, path in packages.items():
            _add(archive, path, name)
    packed.seek(0)
    return packed


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    entry = tarfile.TarInfo(name)
    content = path.read_bytes()
    entry.size = len(content)
    entry.mode = 0o755 if os.access(path, os.X_OK) else 0o644
    archive.addfile(entry, io.BytesIO(content))


def main() -> int:
    """Builds what is missing; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=os.environ.get("BROKER_BASE_IMAGE") or DEFAULT_BASE, metavar="IMAGE")
    parser.add_argument("--bootstrap", action="store_true", help="make the base from Debian's packages, pull nothing")
    parser.add_argument("--print-base", action="store_true", help="print the base image's tag and do nothing else")
    parser.add_argument("--engine", default="", metavar="ADDRESS", help="engine address; default: DOCKER_HOST or local")
    options = parser.parse_args()
    if options.print_base:
        sys.stdout.write(base_tag(options.base) + "\n")
        return 0
    started = time.monotonic()
    try:
        builder = Builder(engine_address(options.engine))
        try:
            base = builder.base(options.base, bootstrap=options.bootstrap)
            for dockerfile in sorted(SANDBOXES.glob("*/Dockerfile")):
                if dockerfile.parent.name != "base":
                    builder.sandbox(dockerfile.parent.name, base)
        finally:
            builder.close()
    except (BuildError, BrokerError) as error:
        say(str(error))
        return 1
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        say(f"the engine refused or does not answer: {error}")
        say("is it running? `docker version` must show a server")
        return 1
    say(f"all there ({time.monotonic() - started:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
