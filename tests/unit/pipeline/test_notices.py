"""Notices of approvals: what is told of an entry, by which signature, in which order, and what a bad receiver does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from broker.domain.approval import Approval, ApprovalKind, ApprovalState
from broker.domain.canonical import JsonObject, canonical
from broker.domain.ports import StoredEntry
from broker.domain.requirement import Requirement, RoleCount
from broker.domain.secret import Secret
from broker.domain.urls import parse_url
from broker.errors import NotFoundError
from broker.pipeline.notices import Herald, Notice, signature
from broker.pipeline.notifying import MOST_WAITING, Delivery, Webhook
from broker.sandbox.egress.upstream import trust_from
from tests.notice_server import SECRET, Receiver, receiver

NOW = datetime(2026, 1, 31, tzinfo=UTC)
APPROVAL = Approval(
    id="apv_1",
    kind=ApprovalKind.CALL,
    subject="call_1",
    workspace="shop",
    obj="prices.set",
    tier=4,
    requester="agt_1",
    excluded=("hum_1",),
    state=ApprovalState.PENDING,
    requirement=Requirement(
        people=2,
        roles=(RoleCount("approver", 2),),
        channels=frozenset(),
        min_signed=1,
        expiry_s=60.0,
        cooldown_s=0.0,
        max_pending=5,
        exclude_tool_owner=True,
    ),
    envelope_digest="sha256:envelope",
    rendering_digest="sha256:rendering",
    created=NOW,
    expires=NOW + timedelta(hours=4),
    requested_seq=7,
)


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as made:
        yield made
        assert not made.wrong, made.wrong


def entry(kind: str, state: str = "", which: str = "apv_1") -> StoredEntry:
    body: JsonObject = {"type": kind, "approval": {"id": which, "state": state}, "reason": "secret"}
    return StoredEntry(8, "", b"", canonical(body))


def told(herald: Herald, *entries: StoredEntry) -> list[str]:
    known = {"apv_1": APPROVAL, "apv_2": replace(APPROVAL, id="apv_2")}
    return [notice.event for row in entries for notice in herald.hear(row, known.get)]


def delivery_to(hook: Receiver, *, timeout_s: float = 10.0, attempts: int = 8) -> Delivery:
    made = Delivery(
        Webhook(parse_url(hook.url), lambda: Secret(SECRET.encode()), trust_from, timeout_s),
        first_wait_s=0.01,
        attempts=attempts,
    )
    made.start()
    return made


def test_each_entry_tells_what_happened_once() -> None:
    herald = Herald()
    assert told(herald, entry("approval.requested")) == ["requested"]
    assert told(herald, entry("vote", "PENDING"), entry("vote", "APPROVED")) == ["voted", "voted", "approved"]
    assert told(herald, entry("vote.attested", "APPROVED")) == ["voted"]
    assert told(herald, entry("vote", "PENDING"), entry("vote", "APPROVED")) == ["voted", "voted", "approved"]
    for state in ("USED", "DENIED", "EXPIRED", "CANCELLED"):
        assert told(herald, entry("approval.closed", state)) == [state.lower()]
    assert told(herald, entry("vote", "APPROVED", "apv_2")) == ["voted", "approved"]


@pytest.mark.parametrize("kind", ["intent", "heartbeat", "approver.accepted", "workflow.approved", "voted.made.up"])
def test_other_entries_tell_nothing(kind: str) -> None:
    assert told(Herald(), entry(kind, "USED")) == []
    assert told(Herald(), entry("approval.requested", which="apv_unknown")) == []


def test_a_notice_holds_no_content_name_or_reason() -> None:
    body = json.loads(Notice("requested", APPROVAL, 7).encode())
    assert body == {
        "event": "requested",
        "approval": "approvals/apv_1",
        "kind": "CALL",
        "object": "prices.set",
        "tier": 4,
        "workspace": "shop",
        "expires": "2026-01-31T04:00:00+00:00",
        "seq": 7,
    }


def test_the_signature_is_of_time_and_body() -> None:
    # The value that another program gives: printf '1700000000.{}' | openssl dgst -sha256 -hmac key
    wanted = "t=1700000000,v1=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae"
    assert signature(b"key", 1700000000, b"{}") == wanted
    assert signature(b"key", 1700000001, b"{}") != wanted


async def test_notices_come_in_order_whatever_the_receiver_answers(hook: Receiver) -> None:
    hook.faults = [500, 302, 404]
    delivery = delivery_to(hook)
    for number in range(20):
        delivery.offer(Notice("voted", APPROVAL, number))
    async with asyncio.timeout(30):
        await delivery.settle()
    await delivery.close(0)
    assert [item["seq"] for item in hook.taken] == list(range(20))
    assert hook.attempts == 23


async def test_a_receiver_that_never_takes_it_loses_that_one_alone(hook: Receiver) -> None:
    hook.faults = [500, 500, 500]
    delivery = delivery_to(hook, attempts=3)
    for number in range(2):
        delivery.offer(Notice("voted", APPROVAL, number))
    async with asyncio.timeout(30):
        await delivery.settle()
    await delivery.close(0)
    assert [item["seq"] for item in hook.taken] == [1]


async def test_a_receiver_that_hangs_is_asked_again(hook: Receiver) -> None:
    hook.faults = [0]
    delivery = delivery_to(hook, timeout_s=0.2)
    delivery.offer(Notice("used", APPROVAL, 9))
    async with asyncio.timeout(30):
        await delivery.settle()
    await delivery.close(0)
    assert (hook.events(), hook.attempts) == (["used"], 2)


async def test_a_receiver_that_hangs_holds_up_no_end(hook: Receiver) -> None:
    hook.faults = [0]
    delivery = delivery_to(hook)
    delivery.offer(Notice("used", APPROVAL, 9))
    await asyncio.to_thread(_asked, hook)
    async with asyncio.timeout(5):
        await delivery.close(0.01)
    assert hook.events() == []


def _asked(hook: Receiver) -> None:
    with hook.changed:
        assert hook.changed.wait_for(lambda: hook.attempts, 10)


async def test_the_oldest_go_where_too_many_wait(hook: Receiver) -> None:
    delivery = Delivery(
        Webhook(parse_url(hook.url), lambda: Secret(SECRET.encode()), trust_from), first_wait_s=0.01, attempts=1
    )
    for number in range(MOST_WAITING + 5):
        delivery.offer(Notice("voted", APPROVAL, number))
    delivery.start()
    await asyncio.to_thread(hook.until, 1)
    await delivery.close(0)
    assert hook.taken[0]["seq"] == 5


async def test_a_secret_that_is_missing_sends_nothing(hook: Receiver) -> None:
    def missing() -> Secret:
        raise NotFoundError("nothing is there", reason="SECRET_MISSING")

    delivery = Delivery(Webhook(parse_url(hook.url), missing, trust_from), first_wait_s=0.01, attempts=2)
    delivery.start()
    delivery.offer(Notice("used", APPROVAL, 9))
    async with asyncio.timeout(10):
        await delivery.settle()
    await delivery.close(0)
    assert hook.attempts == 0
