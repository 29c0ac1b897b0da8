"""Where the container engine listens."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from broker.errors import InvalidArgumentError

_DEFAULT_PORT = 2375


def engine_address(setting: str = "") -> str:
    """The engine's address: the setting, else ``DOCKER_HOST``, else the first usual socket that exists.

    Raises:
        InvalidArgumentError: the address asks for a transport other than a Unix socket or plain TCP.
    """
    chosen = setting or os.environ.get("DOCKER_HOST", "") or _usual_socket()
    Endpoint.parse(chosen)
    return chosen


def _usual_socket() -> str:
    home = Path.home()
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    usual = [
        Path("/var/run/docker.sock"),
        *([Path(runtime) / "docker.sock"] if runtime else []),
        home / ".docker" / "run" / "docker.sock",
        home / ".docker" / "desktop" / "docker.sock",
        home / ".colima" / "default" / "docker.sock",
    ]
    found = next((path for path in usual if path.exists()), usual[0])
    return f"unix://{found}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address that a plain stream can be opened to: a socket's path, or host and port."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        """The address again."""
        return f"unix://{self.path}" if self.path else f"tcp://{self.host}:{self.port}"

    @classmethod
    def parse(cls, address: str) -> Endpoint:
        """Reads ``unix:///path`` or ``tcp://host:port``.

        Raises:
            InvalidArgumentError: it is neither, or the environment asks for TLS.
        """
        parts = urlsplit(address)
        if parts.scheme in {"unix", "http+unix"} and parts.path:
            return cls(path=parts.path)
        if parts.scheme in {"tcp", "http"} and parts.hostname and not os.environ.get("DOCKER_TLS_VERIFY"):
            return cls(host=parts.hostname, port=parts.port or _DEFAULT_PORT)
        raise InvalidArgumentError(
            f"the engine address {address!r} is neither unix:///path nor tcp://host:port without TLS",
            reason="ENGINE_ADDRESS_INVALID",
            hint="set `engine` in settings.yaml, or DOCKER_HOST, to the engine's Unix socket; reach a remote engine "
            "through a socket that ssh forwards: ssh -nNT -L /run/engine.sock:/var/run/docker.sock HOST",
        )
