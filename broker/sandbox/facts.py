"""What an engine says of itself, for `broker doctor`: asked once, changes nothing."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import datetime

import docker
import docker.errors
import requests.exceptions

from broker.errors import UnavailableError
from broker.sandbox.address import Endpoint
from broker.sandbox.capabilities import known_runtimes
from broker.sandbox.engine import Capabilities
from broker.sandbox.images import SandboxImage, from_listing


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """An engine that answered. ``system_time`` is its clock at about ``asked``, both UTC."""

    address: str
    version: str
    api_version: tuple[int, int]
    cgroup_version: int
    """1 or 2; 0 where it doesn't say."""
    warnings: tuple[str, ...]
    """What it warns of in words of its own, such as a missing swap limit."""
    seccomp: bool
    storage_driver: str
    system_time: datetime
    images: tuple[SandboxImage, ...]
    default_runtime: str = "runc"
    runtimes: tuple[Capabilities, ...] = ()
    """Container runtimes that a tool may run under, and what each keeps."""
    unknown_runtimes: tuple[str, ...] = ()
    """Names of those under which no tool is run."""


def ask_engine(address: str, *, timeout_s: float = 10.0) -> EngineFacts:
    """Asks an engine for its version, its settings and the sandbox images that it has. Blocks up to the timeout.

    Raises:
        UnavailableError: none answers there, or its answer makes no sense (``ENGINE_UNAVAILABLE``).
    """
    _check_reachable(address, timeout_s)
    try:
        client = docker.APIClient(base_url=address, version="auto", timeout=timeout_s)
        try:
            version, info, listing = client.version(), client.info(), client.images()
        finally:
            client.close()
        runtimes, unknown = known_runtimes(info)
        major, minor = str(version["ApiVersion"]).split(".")
        return EngineFacts(
            address=address,
            version=str(version["Version"]),
            api_version=(int(major), int(minor)),
            cgroup_version=int(info.get("CgroupVersion") or 0),
            warnings=tuple(str(warning) for warning in info.get("Warnings") or ()),
            seccomp=any("name=seccomp" in option for option in info.get("SecurityOptions") or ()),
            storage_driver=str(info.get("Driver", "")),
            system_time=datetime.fromisoformat(str(info["SystemTime"])),
            images=from_listing(listing),
            default_runtime=str(info.get("DefaultRuntime") or ""),
            runtimes=runtimes,
            unknown_runtimes=unknown,
        )
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise UnavailableError(f"no engine answers at {address}: {error}", reason="ENGINE_UNAVAILABLE") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UnavailableError(f"what answers at {address} is no Docker Engine", reason="ENGINE_UNAVAILABLE") from error


def _check_reachable(address: str, timeout_s: float) -> None:
    """Connects once by itself: the system's own word says more than the library's, which also leaks its socket here."""
    endpoint = Endpoint.parse(address)
    try:
        if not endpoint.path:
            socket.create_connection((endpoint.host, endpoint.port), timeout=timeout_s).close()
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(timeout_s)
            probe.connect(endpoint.path)
    except OSError as error:
        raise UnavailableError(f"no engine answers at {address}: {error}", reason="ENGINE_UNAVAILABLE") from error
