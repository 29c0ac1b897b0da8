"""Lookups run in threads of their own, with a deadline and a bound."""

from __future__ import annotations

import asyncio
import socket
import threading
from ipaddress import ip_address

import pytest

from broker.sandbox.egress.resolving import SystemResolver, UnresolvedError


async def test_the_machines_own_name_is_resolved() -> None:
    assert ip_address("127.0.0.1") in await SystemResolver().resolve("localhost")


@pytest.mark.parametrize("failure", [socket.gaierror(-2, "unknown"), UnicodeError("too long"), OSError("down")])
async def test_a_name_without_an_address_is_unresolved(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(UnresolvedError):
        await SystemResolver().resolve("a.example")


async def test_each_address_is_given_once_in_order_with_its_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["192.0.2.2", "fe80::1%eth0", "192.0.2.1", "192.0.2.2"]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (text, 0)) for text in answers])
    found = await SystemResolver().resolve("a.example")
    assert [str(address) for address in found] == ["192.0.2.2", "fe80::1%eth0", "192.0.2.1"]


async def test_a_lookup_that_hangs_is_given_up_and_holds_its_place_until_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release, asked = threading.Event(), []

    def hang(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        release.wait()
        return [(0, 0, 0, "", ("192.0.2.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    resolver = SystemResolver(deadline_s=0.05, lookups=2)
    results = await asyncio.gather(*(resolver.resolve(f"h{number}") for number in range(5)), return_exceptions=True)
    assert all(isinstance(result, UnresolvedError) for result in results)
    assert len(asked) == 2
    release.set()
    patient = SystemResolver(deadline_s=30, lookups=1)
    assert await patient.resolve("later") == (ip_address("192.0.2.1"),)
    async with asyncio.timeout(30):
        while True:  # the places of the two that hung are free again
            try:
                assert await resolver.resolve("again") == (ip_address("192.0.2.1"),)
                break
            except UnresolvedError:
                continue
