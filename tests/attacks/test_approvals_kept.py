"""Whoever asks for approvals again and again fills no disk: what people were shown counts as theirs, and has an end."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest

from broker.approvals import content
from broker.approvals.content import KEPT
from broker.approvals.desk import Desk
from broker.domain.approval import ApprovalKind
from broker.domain.ports import OBJECT_COST
from broker.errors import NotFoundError, ResourceExhaustedError
from broker.ledger.verdict import Verdict
from broker.pipeline.retention import Retention
from tests.approval_core import AGENT, OPERATOR, Core
from tests.approval_scene import CHANGED, Scene
from tests.approval_world import TOOL


def usage(core: Core, who: str) -> int:
    """Bytes that are kept of somebody."""
    return core.read(lambda tx: tx.vault.usage(core.people[who].id))


def sweep(core: Core) -> None:
    """What housekeeping does every few seconds."""
    retention = Retention(core.local.store, core.desk.recorder, lambda: core.now)
    core.write(retention._sweep)


def with_quota(core: Core, quota: int) -> None:
    """The broker's setting."""
    desk = core.desk
    core.desk = Desk(
        desk.recorder,
        desk.vault,
        desk.electorate,
        origin=desk.origin,
        clock=desk.clock,
        agreement=desk.agreement,
        storage_quota_bytes=quota,
    )


@pytest.mark.parametrize(("who", "kind"), [(AGENT, ApprovalKind.CALL), (OPERATOR, ApprovalKind.ADMINISTRATION)])
def test_what_is_asked_for_counts_as_the_requesters_and_has_a_quota(core: Core, who: str, kind: ApprovalKind) -> None:
    before = usage(core, who)
    asked = core.ask(by=who, kind=kind, code="x" * 5000)
    texts = core.read(lambda tx: content.read_texts(tx, core.local.vault, asked))
    more = usage(core, who) - before
    assert more >= texts.size + OBJECT_COST > 10_000
    entries = core.report().entries
    with_quota(core, usage(core, who) + texts.size)
    with pytest.raises(ResourceExhaustedError) as refused:
        core.ask(by=who, kind=kind, code="x" * 5000)
    assert refused.value.reason == "STORAGE_QUOTA"
    assert core.report().entries == entries, "nothing is left behind"
    with_quota(core, usage(core, who) + 2 * more)
    core.ask(by=who, kind=kind, code="x" * 5000)


def test_what_people_were_shown_ends_and_who_agreed_stays(core: Core) -> None:
    asked = core.vote("bob", core.vote("ada", core.ask()))
    core.use(asked)
    kept = usage(core, AGENT)
    core.now = asked.expires + KEPT - timedelta(seconds=1)
    sweep(core)
    assert core.read(lambda tx: content.read_texts(tx, core.local.vault, asked)).envelope
    core.later()
    sweep(core)
    with pytest.raises(NotFoundError) as erased:
        core.read(lambda tx: content.read_texts(tx, core.local.vault, asked))
    assert erased.value.reason == "CONTENT_ERASED"
    assert core.read(lambda tx: content.read_vote(tx, core.local.vault, asked.id, 1)) == {}
    assert [vote.person for vote in core.read(lambda tx: tx.approvals.votes(asked.id))]
    assert core.report().verdict is Verdict.OK
    core.write(lambda tx: tx.erasure.drop_chunks(asked.id, 2**20))  # the next step of housekeeping
    assert usage(core, AGENT) < kept


@pytest.mark.docker
async def test_the_texts_of_a_call_are_kept_as_long_as_the_call(scene: Scene) -> None:
    async with scene.open() as world, world.agent() as agent:
        call = await agent.create_call(TOOL, CHANGED)
        approval = await world.pending(call.name)
    with closing(sqlite3.connect(scene.state / "broker.db")) as database:
        found = dict(database.execute("SELECT id, expires FROM vault_object WHERE kind IN ('call', 'approval')"))
    of_call, of_approval = (found[name.partition("/")[2]] for name in (call.name, approval.name))
    assert of_call == of_approval
    assert of_call is not None
