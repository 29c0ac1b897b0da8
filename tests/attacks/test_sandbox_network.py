"""A hostile tool looks for a way out by the network, where there is none but loopback."""

from __future__ import annotations

import contextlib
import socket
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from broker.sandbox.engine import Engine
from tests.attacks.sandbox_probes import DONE, probe, probed

pytestmark = pytest.mark.docker

_TARGETS = {
    "metadata": "169.254.169.254",
    "metadata of ECS": "169.254.170.2",
    "metadata of Alibaba": "100.100.100.200",
    "the engine's gateway": "172.17.0.1",
    "private 10": "10.0.0.1",
    "private 192.168": "192.168.1.1",
    "shared": "100.64.0.1",
    "documentation": "192.0.2.1",
    "public": "203.0.113.1",
    "broadcast": "255.255.255.255",
    "multicast": "224.0.0.251",
}
_TARGETS6 = {
    "public": "2001:db8::1",
    "metadata": "fd00:ec2::254",
    "unique local": "fd00::1",
    "mapped": "::ffff:192.0.2.1",
    "translated": "64:ff9b::c000:201",
}
_UNREACHABLE = {"ENETUNREACH", "EHOSTUNREACH", "EADDRNOTAVAIL", "EAFNOSUPPORT", "EACCES", "EPERM"}

_GIVEN = f"TARGETS, TARGETS6 = {_TARGETS!r}, {_TARGETS6!r}\n"
_ASK = (
    _GIVEN
    + r"""
found["interfaces"] = [name for _, name in socket.if_nameindex()]
found["devices"] = [line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]]
found["routes"] = len(open("/proc/net/route").readlines()) - 1
def lines(path):
    return open(path).read().splitlines() if os.path.exists(path) else []
found["routes 6"] = sorted({line.split()[-1] for line in lines("/proc/net/ipv6_route")})
found["addresses 6"] = sorted({line.split()[-1] for line in lines("/proc/net/if_inet6")})
found["neighbours"] = len(lines("/proc/net/arp")) - 1
found["tcp"] = len(lines("/proc/net/tcp")) - 1
found["resolvers"] = [line for line in lines("/etc/resolv.conf") if line.startswith("nameserver")]

def tcp(family, address, port):
    with socket.socket(family) as made:
        made.settimeout(3)
        made.connect((address, port))
def udp(family, address, port):
    with socket.socket(family, socket.SOCK_DGRAM) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        made.sendto(b"x", (address, port))
for name, address in TARGETS.items():
    attempt(f"tcp {name}", lambda: tcp(socket.AF_INET, address, 80))
    attempt(f"udp {name}", lambda: udp(socket.AF_INET, address, 53))
for name, address in TARGETS6.items():
    attempt(f"tcp6 {name}", lambda: tcp(socket.AF_INET6, address, 443))
    attempt(f"udp6 {name}", lambda: udp(socket.AF_INET6, address, 53))

query = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + b"\6secret\7example\3org\0" + struct.pack(">HH", 1, 1)
def dns_udp(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.settimeout(3)
        made.connect((address, 53))
        made.send(query)
        made.recv(512)
def dns_tcp(address):
    with socket.socket(socket.AF_INET) as made:
        made.settimeout(3)
        made.connect((address, 53))
        made.send(struct.pack(">H", len(query)) + query)
        made.recv(512)
for address in ("8.8.8.8", "127.0.0.11", "127.0.0.53", "127.0.0.1", "169.254.169.253"):
    attempt(f"dns udp {address}", lambda: dns_udp(address))
    attempt(f"dns tcp {address}", lambda: dns_tcp(address))
for name in ("example.org", "host.docker.internal", "gateway.docker.internal", "metadata.google.internal", "sandbox.local"):
    try:
        found[f"name {name}"] = sorted({item[4][0] for item in socket.getaddrinfo(name, 80)})
    except socket.gaierror as error:
        found[f"name {name}"] = "unknown"

def neighbour(address):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as made:
        made.sendto(b"x", (address, 9, 0, socket.if_nametoindex("lo")))
def link_neighbour():
    with socket.socket(socket.AF_INET6) as made:
        made.settimeout(3)
        made.connect(("fe80::1", 80, 0, socket.if_nametoindex("lo")))
attempt("link-local", link_neighbour)
attempt("link-local without a link", lambda: tcp(socket.AF_INET6, "fe80::1", 80))
def device():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
attempt("eth0", device)
def marked():
    with socket.socket() as made:
        made.setsockopt(socket.SOL_SOCKET, 36, 1)
attempt("SO_MARK", marked)
def transparent():
    with socket.socket() as made:
        made.setsockopt(socket.IPPROTO_IP, 19, 1)
attempt("IP_TRANSPARENT", transparent)
def foreign():
    with socket.socket() as made:
        made.bind(("172.17.0.1", 0))
attempt("bind to the gateway", foreign)
attempt("low port", lambda: socket.create_server(("127.0.0.1", 22)).close())
def listener():
    server = socket.create_server(("0.0.0.0", 0))
    with socket.create_connection(("127.0.0.1", server.getsockname()[1]), 3):
        server.accept()[0].close()
    server.close()
attempt("loopback itself", listener)
"""
)
found = probed(_ASK)


def test_an_interface_besides_loopback(found: dict[str, Any]) -> None:
    assert found["interfaces"] == ["lo"]
    assert set(found["devices"]) <= {
        "lo",
        "tunl0",
        "sit0",
        "ip6tnl0",
        "gre0",
        "gretap0",
        "erspan0",
        "ip_vti0",
        "ip6_vti0",
        "ip6gre0",
    }
    assert found["devices"][0] == "lo" or "lo" in found["devices"]


def test_a_route_out(found: dict[str, Any]) -> None:
    assert found["routes"] == 0
    assert set(found["routes 6"]) <= {"lo"}
    assert set(found["addresses 6"]) <= {"lo"}
    assert found["neighbours"] <= 0


@pytest.mark.parametrize("name", _TARGETS)
def test_hidden_egress_by_address(found: dict[str, Any], name: str) -> None:
    assert found[f"tcp {name}"] in _UNREACHABLE
    assert found[f"udp {name}"] in _UNREACHABLE


@pytest.mark.parametrize("name", _TARGETS6)
def test_hidden_egress_by_ipv6(found: dict[str, Any], name: str) -> None:
    assert found[f"tcp6 {name}"] in _UNREACHABLE
    assert found[f"udp6 {name}"] in _UNREACHABLE


@pytest.mark.parametrize("way", ["udp", "tcp"])
@pytest.mark.parametrize("address", ["8.8.8.8", "127.0.0.11", "127.0.0.53", "127.0.0.1", "169.254.169.253"])
def test_a_question_to_a_name_server(found: dict[str, Any], way: str, address: str) -> None:
    assert found[f"dns {way} {address}"] in _UNREACHABLE | {"ECONNREFUSED"}


@pytest.mark.parametrize(
    "name", ["example.org", "host.docker.internal", "gateway.docker.internal", "metadata.google.internal"]
)
def test_hidden_egress_by_name(found: dict[str, Any], name: str) -> None:
    assert found[f"name {name}"] == "unknown"


@pytest.mark.parametrize("name", ["link-local", "link-local without a link"])
def test_a_neighbour_on_the_link(found: dict[str, Any], name: str) -> None:
    assert found[name] in _UNREACHABLE | {"EINVAL"}


@pytest.mark.parametrize("name", ["eth0", "SO_MARK", "IP_TRANSPARENT", "bind to the gateway"])
def test_socket_options_that_lead_round_routes(found: dict[str, Any], name: str) -> None:
    assert found[name] in {"ENODEV", "EPERM", "EADDRNOTAVAIL"}


def test_what_works_is_loopback_alone(found: dict[str, Any]) -> None:
    assert found["loopback itself"] == DONE


@contextlib.contextmanager
def _listening(
    address: tuple[str, int], family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM
) -> Iterator[socket.socket]:
    with socket.socket(family, kind) as made:
        made.bind(address)
        if kind == socket.SOCK_STREAM:
            made.listen()
        made.settimeout(0)
        yield made


def _nobody_came(server: socket.socket) -> bool:
    try:
        server.accept()
    except BlockingIOError:
        return True
    return False


async def test_a_service_of_the_host_on_its_loopback(engine: Engine) -> None:
    with _listening(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port)).close()  # the door is open on the host
        server.accept()[0].close()
        code = (
            f"for address in ('127.0.0.1', '0.0.0.0', '127.1'):\n"
            f"    attempt(address, lambda: socket.create_connection((address, {port}), 3))"
        )
        assert set((await probe(engine, code)).values()) <= {"ECONNREFUSED", "EADDRNOTAVAIL"}
        assert _nobody_came(server)


async def test_a_service_of_the_host_on_all_addresses(engine: Engine) -> None:
    with _listening(("0.0.0.0", 0)) as server:  # noqa: S104  # for one test: the attack is on just this
        port = server.getsockname()[1]
        addresses = sorted({str(item[4][0]) for item in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)})
        tried = [*addresses, "172.17.0.1", "127.0.0.1"]
        code = (
            f"for address in {tried!r}:\n    attempt(address, lambda: socket.create_connection((address, {port}), 3))"
        )
        found = await probe(engine, code)
        assert set(found) == set(tried)
        assert set(found.values()) <= {"ENETUNREACH", "ECONNREFUSED"}
        assert _nobody_came(server)


@pytest.mark.parametrize(
    "kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET], ids=lambda kind: kind.name
)
async def test_an_abstract_unix_socket_of_the_host(engine: Engine, kind: socket.SocketKind) -> None:
    name = f"attack-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX, kind) as server:
        server.bind(f"\0{name}")
        if kind != socket.SOCK_DGRAM:
            server.listen()
        with socket.socket(socket.AF_UNIX, kind) as client:
            client.connect(f"\0{name}")  # the door is open on the host
        code = f"attempt('it', lambda: socket.socket(socket.AF_UNIX, {int(kind)}).connect('\\0{name}'))\nfound['seen'] = '{name}' in open('/proc/net/unix').read()"
        assert await probe(engine, code) == {"it": "ECONNREFUSED", "seen": False}


async def test_a_port_of_the_host_is_not_taken_by_a_tool(engine: Engine) -> None:
    with _listening(("0.0.0.0", 0)) as server:  # noqa: S104  # the same
        port = server.getsockname()[1]
        code = f"attempt('listen', lambda: found.update(at=socket.create_server(('0.0.0.0', {port})).getsockname()[1]))"
        assert await probe(engine, code) == {"listen": DONE, "at": port}  # it holds a port of its own loopback
        assert _nobody_came(server)
