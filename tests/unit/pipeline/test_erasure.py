"""Erasing: what belongs to a subject, what is refused, and what a broken erasure leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from broker.domain.call import CallState, InputFile, Lineage
from broker.domain.events import (
    OUTCOME_TEXTS,
    REQUEST,
    REQUEST_TEXTS,
    CallEvent,
    Finished,
    Outcome,
    OutputFile,
    encode_event,
    encode_outcome_texts,
    encode_request,
)
from broker.domain.identity import Identity, IdentityKind, Session
from broker.domain.ports import Transaction
from broker.domain.run import EndCause, EvidenceSource
from broker.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from broker.identity.directory import LiveDirectory
from broker.pipeline import erasure as erasure_module
from broker.pipeline.erasure import MAX_REASON, Erasure, Order
from broker.pipeline.holdings import Subject, SubjectKind, find_holdings, find_subject
from broker.store.database import Database
from tests.artifact_world import NOW, ROW, World, content, make_world
from tests.unit.pipeline.test_entry_sizes import REQUEST as STORED

HOUR = timedelta(hours=1)
AGENT, HUMAN, OTHER = "agt_1", "hum_1", "agt_2"


@dataclass
class Kept:
    """A world with calls that have content."""

    world: World
    erasure: Erasure

    async def call(
        self,
        call_id: str,
        *,
        agent: str = AGENT,
        workspace: str = "shop",
        session: str = "",
        on_behalf_of: str = "",
        state: CallState = CallState.SUCCEEDED,
        inputs: tuple[str, ...] = (),
        output: str = "",
        old: bool = False,
    ) -> None:
        """Puts a call on record with a request and, where it has ended, an outcome; ``old``: as before workspace keys."""
        request = replace(
            STORED,
            arguments_json='{"a":1}',
            files=tuple(InputFile(name, name) for name in inputs),
            file_digests={},
            context=replace(STORED.context, workspace=workspace, session=session, sources=()),
            lineage=Lineage(agent, HUMAN, HUMAN, on_behalf_of=on_behalf_of),
            envelope="{}",
        )
        outcome = Outcome(EndCause.TOOL, EvidenceSource.ENGINE, "")
        if output:
            outcome = replace(outcome, files=(OutputFile("out", output, 1, "sha256:0"),))
        place = {} if old else {"workspace": workspace, "call": call_id}

        def work(tx: Transaction) -> None:
            sealed = self.world.vault.create(
                tx, object_id=call_id, owner=agent, kind="call", now=NOW, expires=NOW + HOUR, **place
            )
            brief, texts = encode_request(request)
            sealed.put(tx, {REQUEST: brief, REQUEST_TEXTS: texts})
            if state is CallState.SUCCEEDED:
                sealed.put(tx, {1: encode_event(CallEvent(1, NOW, Finished(state, outcome)))})
                sealed.put(tx, {OUTCOME_TEXTS: encode_outcome_texts(outcome)})
            row = replace(
                ROW,
                id=call_id,
                agent=agent,
                workspace=workspace,
                state=state,
                last_event=1,
                request_id=f"request of {call_id}",
                request_digest="sha256:11",
            )
            tx.calls.insert(row)

        await self.world.store.write(work)
        if output:
            await self.blob(output, agent, **place)

    async def blob(self, blob_id: str, owner: str = AGENT, **place: str) -> None:
        def work(tx: Transaction) -> None:
            sealed = self.world.vault.create(
                tx, object_id=blob_id, owner=owner, kind="blob", now=NOW, expires=NOW + HOUR, **place
            )
            sealed.put(tx, {0: b"file"})
            tx.vault.complete(blob_id, size=4, digest="sha256:ff", expires=NOW + HOUR)

        await self.world.store.write(work)

    async def erase(self, subject: str, reason: str = "") -> int:
        target = await self.world.store.read(lambda tx: find_subject(tx, subject))
        return (await self.erasure.run(Order(target, HUMAN, reason))).objects

    async def left(self) -> set[str]:
        return set(await self.world.store.read(lambda tx: tx.erasure.objects("", 1000)))


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    Database.create(tmp_path / "broker.db")
    async with Database.open(tmp_path / "broker.db") as store:
        world = await make_world(store)

        def work(tx: Transaction) -> None:
            tx.identities.insert(Identity(HUMAN, IdentityKind.HUMAN, "ada", "", HUMAN, NOW))
            for agent in (AGENT, OTHER):
                tx.identities.insert(Identity(agent, IdentityKind.AGENT, f"name-of-{agent[-1]}", HUMAN, HUMAN, NOW))
            for number in (1, 2, 3):
                row = tx.calls.get(f"call_{number}")
                assert row is not None
                tx.calls.replace(replace(row, state=CallState.SUCCEEDED, agent=OTHER))
            tx.identities.insert_session(Session("ses_1", AGENT, "shop", HUMAN, "", NOW, NOW + HOUR, NOW))

        await world.store.write(work)
        yield Kept(world, Erasure(store, world.vault, world.ledger, world.clock))


async def test_a_call_is_erased_with_its_files_and_artifacts_and_nothing_else(kept: Kept) -> None:
    for blob in ("blob_in", "blob_apart"):
        await kept.blob(blob)
    await kept.call("call_a", inputs=("blob_in",), output="blob_out")
    await kept.call("call_b")
    mine = await kept.world.put(content(1), call="call_a")
    theirs = await kept.world.put(content(1), call="call_b")
    assert await kept.erase("call_a") == 4
    assert not await kept.world.artifacts.exists(mine.digest)
    assert await kept.world.get(theirs.digest) == content(1)
    assert {"call_b", "blob_apart"} <= await kept.left()
    assert not {"call_a", "blob_in", "blob_out", mine.digest} & await kept.left()
    row = await kept.world.store.read(lambda tx: tx.calls.get("call_a"))
    assert row is not None
    assert (row.request_id, row.request_digest, row.state) == ("", "", CallState.SUCCEEDED)
    (entry,) = await kept.world.entries("erased")
    assert entry["subject"] == {"kind": "call", "id": "call_a"}
    assert (entry["objects"], entry["by"], entry["call_id"], entry["reason_commit"]) == (4, HUMAN, "call_a", "")


async def test_what_a_call_put_out_before_there_were_workspace_keys_is_found(kept: Kept) -> None:
    await kept.call("call_a", output="blob_out", old=True)
    assert await kept.erase("call_a") == 2
    assert await kept.left() == set()


async def test_a_file_that_a_running_call_needs_is_not_taken_away(kept: Kept) -> None:
    await kept.blob("blob_in")
    await kept.call("call_a", inputs=("blob_in",))
    await kept.call("call_b", inputs=("blob_in",), state=CallState.QUEUED, agent=OTHER)
    with pytest.raises(FailedPreconditionError) as refused:
        await kept.erase("call_a")
    assert refused.value.reason == "CALLS_ACTIVE"
    assert "call_b" in refused.value.message
    assert await kept.left() == {"blob_in", "call_a", "call_b"}
    assert await kept.world.entries("erased") == []


@pytest.mark.parametrize("state", [CallState.QUEUED, CallState.RUNNING, CallState.PENDING_APPROVAL, CallState.UNDOING])
async def test_a_call_that_goes_on_is_refused_for_each_subject_that_has_it(kept: Kept, state: CallState) -> None:
    await kept.call("call_a", state=state, session="ses_1", on_behalf_of=HUMAN)
    await kept.world.store.write(lambda tx: _revoke(tx, AGENT, HUMAN))
    for subject in ("call_a", "ses_1", "shop", AGENT, HUMAN):
        with pytest.raises(FailedPreconditionError) as refused:
            await kept.erase(subject)
        assert refused.value.reason == "CALLS_ACTIVE", subject
    assert await kept.left() == {"call_a"}


async def test_what_belongs_to_a_call_that_goes_on_is_not_among_what_would_go(kept: Kept) -> None:
    await kept.call("call_a")
    await kept.call("call_b", state=CallState.RUNNING)
    await kept.blob("blob_b", workspace="shop", call="call_b")
    subject = Subject(SubjectKind.WORKSPACE, "shop")
    found = await kept.world.store.read(lambda tx: find_holdings(tx, kept.world.vault, subject, NOW))
    assert found.objects == ("call_a",)
    assert not {"call_b", "blob_b"} & set(found.items)


async def test_identities_must_be_revoked_and_sessions_over(kept: Kept) -> None:
    for subject in (AGENT, HUMAN):
        with pytest.raises(FailedPreconditionError) as refused:
            await kept.erase(subject)
        assert refused.value.reason == "IDENTITY_VALID"
    await kept.world.store.write(
        lambda tx: tx.identities.insert_session(Session("ses_2", AGENT, "shop", HUMAN, "", NOW, NOW + HOUR))
    )
    with pytest.raises(FailedPreconditionError) as refused:
        await kept.erase("ses_2")
    assert refused.value.reason == "SESSION_OPEN"
    kept.world.now += HOUR
    assert await kept.erase("ses_2") == 0


async def test_an_agent_loses_calls_uploads_and_name(kept: Kept) -> None:
    await kept.blob("blob_1")
    await kept.blob("blob_2", OTHER)
    await kept.call("call_a")
    await kept.call("call_b", agent=OTHER)
    await kept.world.store.write(lambda tx: _revoke(tx, AGENT))
    assert await kept.erase(AGENT) == 2
    assert await kept.left() == {"blob_2", "call_b"}
    found = await kept.world.store.read(lambda tx: tx.identities.get(AGENT))
    assert found is not None
    assert found.name == AGENT
    (entry,) = await kept.world.entries("erased")
    assert entry["name"] is True
    agent = entry["agent"]
    assert isinstance(agent, dict)
    assert agent["id"] == AGENT
    assert await kept.erase(AGENT) == 0
    assert len(await kept.world.entries("erased")) == 1


async def test_a_broker_that_serves_forgets_the_name(kept: Kept) -> None:
    live = LiveDirectory(kept.world.store)
    await kept.world.store.write(lambda tx: _revoke(tx, AGENT))
    assert (await live.current()).identities[AGENT].name == "name-of-1"
    await kept.erase(AGENT)
    directory = await live.current()
    assert directory.identities[AGENT].name == AGENT
    assert directory.by_name(IdentityKind.AGENT, "name-of-1") is None


async def test_a_human_loses_what_was_done_on_their_behalf(kept: Kept) -> None:
    await kept.call("call_a", on_behalf_of=HUMAN)
    await kept.call("call_b")
    await kept.world.store.write(lambda tx: _revoke(tx, HUMAN))
    assert await kept.erase(HUMAN) == 1
    assert await kept.left() == {"call_b"}


async def test_a_session_is_its_calls(kept: Kept) -> None:
    await kept.call("call_a", session="ses_1", output="blob_out")
    await kept.call("call_b", session="ses_2")
    assert await kept.erase("sessions/ses_1") == 2
    assert await kept.left() == {"call_b"}


async def test_a_workspace_loses_its_key_with_the_first_step(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure_module, "BATCH", 2)
    for number in range(5):
        await kept.call(f"call_s{number}")
    await kept.call("call_l", workspace="lab")
    subject = Subject(SubjectKind.WORKSPACE, "shop")
    found = await kept.world.store.read(lambda tx: find_holdings(tx, kept.world.vault, subject, NOW))
    order = Order(subject, HUMAN)
    await kept.world.store.write(
        lambda tx: kept.erasure.step(tx, order, found.items[:4], first=found, note="ers_1", moment=NOW)
    )
    # Stopped here, nothing of the workspace can be opened any more.
    for number in range(5):
        with pytest.raises(NotFoundError):
            await kept.world.store.read(lambda tx, n=number: kept.world.vault.open(tx, f"call_s{n}"))  # type: ignore[misc]
    assert await kept.world.store.read(lambda tx: kept.world.vault.open(tx, "call_l"))
    assert await kept.erase("shop") == 3
    entries = await kept.world.entries("erased")
    assert [item["workspace_key"] for item in entries] == [True, False, False]
    ids = [name for item in entries for name in item["ids"]]  # type: ignore[union-attr]
    assert sorted(map(str, ids)) == [f"call_s{number}" for number in range(5)]
    assert await kept.left() == {"call_l"}


async def test_many_objects_go_in_batches_each_on_record(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure_module, "BATCH", 3)
    for number in range(8):
        await kept.call(f"call_s{number}")
    await kept.world.store.write(lambda tx: _revoke(tx, AGENT))
    assert await kept.erase(AGENT, "asked for") == 8
    entries = await kept.world.entries("erased")
    assert [item["objects"] for item in entries] == [3, 3, 2]
    assert [item["name"] for item in entries] == [True, False, False]
    assert len({item["reason_commit"] for item in entries}) == 1


async def test_files_go_before_the_call_that_names_them(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after the first step, the same erasure again finds the rest."""
    monkeypatch.setattr(erasure_module, "BATCH", 1)
    for blob in ("blob_1", "blob_2"):
        await kept.blob(blob, OTHER)
    await kept.call("call_a", inputs=("blob_1", "blob_2"))
    order = Order(Subject(SubjectKind.CALL, "call_a", AGENT), HUMAN)
    found = await kept.world.store.read(lambda tx: find_holdings(tx, kept.world.vault, order.subject, NOW))
    assert found.items == ("blob_1", "blob_2", "call_a")
    await kept.world.store.write(
        lambda tx: kept.erasure.step(tx, order, found.items[:1], first=found, note="ers_1", moment=NOW)
    )
    assert await kept.erase("call_a") == 2


async def test_the_reason_is_sealed_and_committed_to(kept: Kept) -> None:
    await kept.call("call_a")
    await kept.erase("call_a", "the customer asked")
    (entry,) = await kept.world.entries("erased")
    assert "customer" not in str(entry)
    note = str(entry["sealed"])
    sealed = await kept.world.store.read(lambda tx: kept.world.vault.open(tx, note))
    assert entry["reason_commit"] == sealed.commit("erased", b"the customer asked")
    assert await kept.world.store.read(lambda tx: list(sealed.read(tx, 0, 2))) == [(0, b"the customer asked")]
    with pytest.raises(InvalidArgumentError) as refused:
        await kept.erase("call_a", "x" * (MAX_REASON + 1))
    assert refused.value.reason == "TOO_LARGE"


async def test_a_request_whose_content_is_gone_already_loses_what_its_row_says(kept: Kept) -> None:
    await kept.call("call_a")
    await kept.world.store.write(lambda tx: tx.vault.delete("call_a"))
    assert await kept.erase("call_a") == 0
    row = await kept.world.store.read(lambda tx: tx.calls.get("call_a"))
    assert row is not None
    assert (row.request_id, row.request_digest) == ("", "")
    assert await kept.world.entries("erased") == []


async def test_a_subject_is_found_by_id_or_workspace(kept: Kept) -> None:
    kinds = {
        AGENT: SubjectKind.AGENT,
        HUMAN: SubjectKind.HUMAN,
        "calls/call_1": SubjectKind.CALL,
        "sessions/ses_1": SubjectKind.SESSION,
        "workspaces/shop": SubjectKind.WORKSPACE,
    }
    for text, kind in kinds.items():
        assert (await kept.world.store.read(lambda tx, text=text: find_subject(tx, text))).kind is kind  # type: ignore[misc]
    for text in ("name-of-1", "nowhere", "", "call_9", "calls/calls/"):
        with pytest.raises(NotFoundError) as refused:
            await kept.world.store.read(lambda tx, text=text: find_subject(tx, text))  # type: ignore[misc]
        assert refused.value.reason == "SUBJECT_UNKNOWN"


def _revoke(tx: Transaction, *ids: str) -> None:
    for name in ids:
        identity = tx.identities.get(name)
        assert identity is not None
        tx.identities.update(replace(identity, revoked=NOW))
