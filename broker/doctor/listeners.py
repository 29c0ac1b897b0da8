"""Which addresses a broker opens with the present settings, and whether any of them is a door without a lock."""

from __future__ import annotations

import errno
import ipaddress
import socket
from dataclasses import dataclass

from broker.doctor.finding import Finding, fail, ok, warn
from broker.settings import Settings


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port, as settings write them: ``127.0.0.1:7443``, ``[::1]:7443``, ``localhost:7443``."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Can only this machine reach it? A name counts only if it is ``localhost``: others may change."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str) -> Address | None:
    """``None`` where it isn't ``HOST:PORT``."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        return None
    return Address(host, int(port))


def judge_tls(text: str) -> Finding:
    """The mutual-TLS listener may face a network: who has no certificate of the broker's CA gets nowhere."""
    address = parse_address(text)
    if address is None:
        return fail("listeners", f"listen: {text!r} is not HOST:PORT", "Such as: listen: 127.0.0.1:7443")
    reach = "this machine only" if address.loopback else "reachable from the network"
    return ok("listeners", f"{text}: mutual TLS, {reach}")


def judge_unsafe(text: str, agent: str) -> Finding:
    """The plaintext listener: off, or loopback only and loudly named."""
    if not text:
        return ok("listeners", "off: no listener without TLS")
    address = parse_address(text)
    mend = "Take unsafe_plaintext_listen out of settings.yaml and out of BROKER_UNSAFE_PLAINTEXT_LISTEN."
    if address is None:
        return fail("listeners", f"unsafe_plaintext_listen: {text!r} is not HOST:PORT", mend)
    if not address.loopback:
        found = f"UNSAFE: {text} would take calls without TLS from the network; the broker refuses to start so"
        return fail("listeners", found, mend)
    if not agent:
        found = f"UNSAFE: {text} would take calls without TLS, and unsafe_plaintext_agent names no agent"
        return fail("listeners", found, mend)
    found = f"UNSAFE: {text} takes calls without TLS or authentication; any local process acts as agent {agent}"
    return warn("listeners", found, mend)


def judge_port(text: str, *, problem: str) -> tuple[Finding, ...]:
    """Can the address be opened? ``problem`` is the system's reason why not, empty where it can."""
    if not problem:
        return ()
    mend = "End the program that has it (ss -ltnp shows which), or choose another address: listen in settings.yaml."
    return (fail("listeners", f"{text} can't be opened: {problem}", mend),)


def probe_port(text: str) -> str:
    """Opens the address for a moment; returns the system's reason why not, empty where it could be opened."""
    address = parse_address(text)
    if address is None or address.port == 0:
        return ""
    try:
        family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As a server does, so that connections that have just ended are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address.host, address.port))
            probe.listen(1)
    except OSError as error:
        return "another program listens there" if error.errno == errno.EADDRINUSE else str(error)
    return ""


def check_listeners(settings: Settings, *, running: bool) -> tuple[Finding, ...]:
    """Of the settings; ports are tried only where no broker of ours holds them."""
    findings = [
        judge_tls(settings.listen),
        judge_unsafe(settings.unsafe_plaintext_listen, settings.unsafe_plaintext_agent),
    ]
    if not running:
        for text in filter(None, (settings.listen, settings.unsafe_plaintext_listen)):
            findings.extend(judge_port(text, problem=probe_port(text)))
    return tuple(findings)
