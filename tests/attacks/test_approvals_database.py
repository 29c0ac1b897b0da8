"""The operator with the database in hand, and without the approvers' keys: no row of theirs makes anything happen."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from broker.approvals import content
from broker.approvals.founding import enrol_key
from broker.domain.approval import Approval, FreezeScope, KeyKind, Vote, VoteDecision
from broker.domain.canonical import canonical
from broker.domain.requirement import Channel, Requirement, RoleCount
from broker.domain.statement import key_id
from broker.errors import BrokerError, DataLossError, FailedPreconditionError, NotFoundError
from broker.ledger.verdict import Verdict
from broker.signing import Ed25519Signer
from tests.approval_core import APPROVERS, OPERATOR, REQUIREMENT, Core

WEAK: Requirement = replace(REQUIREMENT, people=1, roles=(RoleCount("approver", 1),), min_signed=0)


def approved(core: Core) -> Approval:
    """Two people agree, honestly."""
    asked = core.ask()
    core.vote("ada", asked)
    return core.vote("bob", asked)


def half(core: Core) -> Approval:
    """One person agrees."""
    return core.vote("ada", core.ask())


def alone(core: Core) -> Approval:
    """Nobody has voted yet."""
    return core.ask()


def denied(core: Core) -> Approval:
    """Two people agree, and a third says no."""
    return core.vote("cyn", approved(core), "deny")


def withdrawn(core: Core) -> Approval:
    """Two people agree, and one of them takes it back."""
    return core.vote("bob", approved(core), "withdraw")


def used(core: Core) -> Approval:
    """It has been used."""
    return core.use(approved(core)).approval


def expired(core: Core) -> Approval:
    """Nobody used it in time."""
    asked = approved(core)
    core.later(4000)
    return core.write(lambda tx: core.desk.expire(tx, core.desk.find(tx, asked.id)))


def set_to(column: str, value: object) -> Callable[[Core, Approval], None]:
    """Changes a column of the approval's row."""
    return lambda core, asked: core.sql(f"UPDATE approval SET {column} = ? WHERE id = ?", value, asked.id)  # noqa: S608 - our own names


def both(*steps: Callable[[Core, Approval], None]) -> Callable[[Core, Approval], None]:
    """One after the other."""
    return lambda core, asked: [step(core, asked) for step in steps] and None


STATE = set_to("state", "APPROVED")


def vote_row(core: Core, asked: Approval, person: str, number: int, *, seq: int, key: str = "") -> None:
    core.sql(
        'INSERT INTO vote (approval, number, person, key, decision, channel, "cast", seq)'
        " VALUES (?, ?, ?, ?, 'approve', 'cli', ?, ?)",
        asked.id,
        number,
        core.people[person].id,
        key or core.signers[person].id,
        core.now.isoformat(),
        seq,
    )


def made_up_vote(core: Core, asked: Approval) -> None:
    vote_row(core, asked, "bob", 2, seq=asked.requested_seq)


def copied_vote(core: Core, asked: Approval) -> None:
    """Bob's vote on something else, with its own entry."""
    other = core.vote("bob", core.ask())
    vote_row(core, asked, "bob", 2, seq=core.read(lambda tx: tx.approvals.votes(other.id))[0].seq)


def twice(core: Core, asked: Approval) -> None:
    """Ada's vote a second time, as Bob's."""
    vote_row(core, asked, "bob", 2, seq=core.read(lambda tx: tx.approvals.votes(asked.id))[0].seq)


def anothers(core: Core, asked: Approval) -> None:
    """Ada's row says that it is Bob's, beside her own."""
    row = core.read(lambda tx: tx.approvals.votes(asked.id))[0]
    vote_row(core, asked, "bob", 2, seq=row.seq, key=core.signers["ada"].id)


def turned(core: Core, asked: Approval) -> None:
    """A withdrawal becomes a yes."""
    core.sql("UPDATE vote SET decision = 'approve' WHERE approval = ? AND decision <> 'approve'", asked.id)


def dropped(core: Core, asked: Approval) -> None:
    """What took a vote back, or said no, is gone."""
    core.sql("DELETE FROM vote WHERE approval = ? AND decision <> 'approve'", asked.id)


def own_key(core: Core, asked: Approval) -> None:
    """Bob's key is the operator's own; they sign in his name and write the row and the entry."""
    mine = Ed25519Signer.generate()
    core.sql("UPDATE voter_key SET public_key = ? WHERE id = ?", mine.public_key, core.signers["bob"].id)
    _sign_for(core, asked, "bob", mine, core.signers["bob"].id)


def own_key_under_its_id(core: Core, asked: Approval) -> None:
    mine = Ed25519Signer.generate()
    core.sql(
        "UPDATE voter_key SET public_key = ?, id = ? WHERE id = ?", mine.public_key, mine.id, core.signers["bob"].id
    )
    _sign_for(core, asked, "bob", mine, mine.id)


def further_key(core: Core, asked: Approval) -> None:
    """A row for a key that nobody enrolled."""
    mine = Ed25519Signer.generate()
    core.sql(
        "INSERT INTO voter_key (id, holder, kind, public_key, enrolled, enrolled_seq) VALUES (?, ?, 'approver', ?, ?, 4)",
        mine.id,
        core.people["bob"].id,
        mine.public_key,
        core.now.isoformat(),
    )
    _sign_for(core, asked, "bob", mine, mine.id)


def enrolled_by_the_library(core: Core, asked: Approval) -> None:
    """A row and its entry, written as the broker writes them; the chain is sound, and no two people agreed."""
    mine = Ed25519Signer.generate()
    core.enrol("bob", mine)
    _sign_for(core, asked, "bob", mine, mine.id)


def enrolled_by_an_approval_of_their_own(core: Core, asked: Approval) -> None:
    """And it names an approval that nobody has voted on."""
    from broker.domain.approval import ApprovalKind  # noqa: PLC0415 - this attack's own

    mine = Ed25519Signer.generate()
    named = core.ask(kind=ApprovalKind.ADMINISTRATION, by=OPERATOR)
    core.enrol("bob", mine, approval=named.id)
    _sign_for(core, asked, "bob", mine, mine.id)


def bots_key_as_a_persons(core: Core, asked: Approval) -> None:
    """The operator runs the bot: its key is made an approver's."""
    core.sql(
        "UPDATE voter_key SET kind = 'approver', holder = ? WHERE id = ?",
        core.people["bob"].id,
        core.signers["slack-bot"].id,
    )
    _sign_for(core, asked, "bob", core.signers["slack-bot"], core.signers["slack-bot"].id)


def _sign_for(core: Core, asked: Approval, person: str, signer: Ed25519Signer, key: str) -> None:
    core.later()
    data = core.signed(core.statement(person, asked, key=key), signer)
    number = len(core.read(lambda tx: tx.approvals.votes(asked.id))) + 1
    body: dict[str, Any] = {
        "approval": {"id": asked.id, "kind": asked.kind.value, "state": "PENDING"},
        "person": core.people[person].id,
        "channel": "cli",
        "workspace": asked.workspace,
        "call_id": asked.subject,
        "vote": {
            "number": number,
            "statement": data.statement.decode(),
            "signature": base64.b64encode(data.signature).decode(),
        },
    }

    def work(tx: Any) -> None:  # noqa: ANN401 - a transaction
        seq = core.desk.recorder.append(tx, "vote", body)
        who = core.people[person].id
        tx.approvals.insert_vote(Vote(asked.id, number, who, key, VoteDecision.APPROVE, Channel.CLI, core.now, seq))

    core.write(work)


def revived_key(core: Core, _: Approval) -> None:
    core.revoke_key("ada", core.signers["bob"])
    core.sql("UPDATE voter_key SET revoked = NULL WHERE id = ?", core.signers["bob"].id)


def revived_person(core: Core, _: Approval) -> None:
    core.revoke_person("bob")
    core.sql("UPDATE identity SET revoked = NULL WHERE id = ?", core.people["bob"].id)


def swapped_text(core: Core, asked: Approval) -> None:
    """The sealed text is another one: the operator has the vault's key."""
    _seal(core, asked, {0: canonical({"format": "x", "call": {"code": "rm -rf"}})})


def swapped_text_and_digests(core: Core, asked: Approval) -> None:
    other = core.ask(code="rm -rf /")
    texts = core.read(lambda tx: content.read_texts(tx, core.local.vault, other))
    _seal(core, asked, {0: texts.envelope, 1: texts.rendering.encode()})
    for column, value in (("envelope_digest", other.envelope_digest), ("rendering_digest", other.rendering_digest)):
        set_to(column, value)(core, asked)


def _seal(core: Core, asked: Approval, chunks: dict[int, bytes]) -> None:
    for index in chunks:
        core.sql("DELETE FROM vault_chunk WHERE object_id = ? AND idx = ?", asked.id, index)
    core.write(lambda tx: core.local.vault.open(tx, asked.id).put(tx, chunks))


def another_request(core: Core, asked: Approval) -> None:
    """A second entry asks for the same approval, and for less; the row points there."""

    def work(tx: Any) -> int:  # noqa: ANN401 - a transaction
        from broker.approvals.evidence import request_body  # noqa: PLC0415 - this attack's own

        body = {
            "approval": request_body(replace(asked, requirement=WEAK)),
            "workspace": asked.workspace,
            "tier": asked.tier,
        }
        return core.desk.recorder.append(tx, "approval.requested", body)

    seq = core.write(work)
    set_to("requested_seq", seq)(core, asked)
    set_to("requirement", canonical(WEAK.json()).decode())(core, asked)


def freeze_taken_away(core: Core, _: Approval) -> None:
    from broker.approvals.freezing import freeze  # noqa: PLC0415 - this attack's own

    core.write(
        lambda tx: freeze(tx, core.desk.recorder, core.caller("ada"), scope=FreezeScope.ALL, target="", now=core.now)
    )
    core.sql("DELETE FROM freeze")


def unfrozen_by_the_library(core: Core, asked: Approval) -> None:
    freeze_taken_away(core, asked)
    body = {"scope": "all", "target": "", "by": core.people[OPERATOR].id, "approval": ""}
    core.write(lambda tx: core.desk.recorder.append(tx, "unfrozen", body))


ATTACKS: dict[str, tuple[Callable[[Core], Approval], Callable[[Core, Approval], None]]] = {
    "an approval with one vote is set to approved": (half, STATE),
    "an approval without votes is set to approved": (alone, STATE),
    "a denied one is set to approved": (denied, STATE),
    "a denied one is set to approved and the denial is gone": (denied, both(STATE, dropped)),
    "a denial becomes a yes": (denied, both(STATE, turned)),
    "a vote that was taken back is there again": (withdrawn, both(STATE, dropped)),
    "a withdrawal becomes a yes": (withdrawn, both(STATE, turned)),
    "a used one is set to approved": (used, STATE),
    "a used one is set to pending": (used, set_to("state", "PENDING")),
    "an expired one is set to approved": (expired, STATE),
    "an expired one lasts longer": (expired, both(STATE, set_to("expires", "2999-01-01T00:00:00+00:00"))),
    "it needs one person": (half, both(STATE, set_to("requirement", canonical(WEAK.json()).decode()))),
    "nobody is kept out": (approved, set_to("excluded", "[]")),
    "it is of a lower tier": (half, both(STATE, set_to("tier", 1))),
    "it is about another call": (approved, set_to("subject", "call_01k00000000000000000000001")),
    "it is about another object": (approved, set_to("obj", "world.look")),
    "it is in another workspace": (approved, set_to("workspace", "other")),
    "it is somebody else's": (approved, set_to("requester", "agt_01k00000000000000000000001")),
    "it is of another kind": (half, both(STATE, set_to("kind", "REVIEW"))),
    "it lasts longer": (approved, set_to("expires", "2999-01-01T00:00:00+00:00")),
    "its digests are others": (approved, set_to("envelope_digest", f"sha256:{'0' * 64}")),
    "a vote is made up": (half, both(STATE, made_up_vote)),
    "a vote on something else": (half, both(STATE, copied_vote)),
    "one vote for two people": (half, both(STATE, twice)),
    "one vote in two names": (half, both(STATE, anothers)),
    "somebody's key is the operator's": (half, both(STATE, own_key)),
    "somebody's key is the operator's under its own id": (half, both(STATE, own_key_under_its_id)),
    "a further key": (half, both(STATE, further_key)),
    "a further key with its entry": (half, both(STATE, enrolled_by_the_library)),
    "a further key by an approval of their own": (half, both(STATE, enrolled_by_an_approval_of_their_own)),
    "the bot's key as a person's": (half, both(STATE, bots_key_as_a_persons)),
    "a key that was revoked": (approved, revived_key),
    "a person who was revoked": (approved, revived_person),
    "another text": (approved, swapped_text),
    "another text with its digests": (approved, swapped_text_and_digests),
    "another request": (half, both(STATE, another_request)),
    "the founding is gone": (approved, lambda core, _: core.sql("DELETE FROM founding")),
    "a freeze is taken away": (approved, freeze_taken_away),
    "a freeze is ended by the operator alone": (approved, unfrozen_by_the_library),
}


@pytest.mark.parametrize(("prepare", "attack"), ATTACKS.values(), ids=ATTACKS)
def test_nothing_comes_of_it(
    core: Core, prepare: Callable[[Core], Approval], attack: Callable[[Core, Approval], None]
) -> None:
    asked = prepare(core)
    attack(core, asked)
    for needed in (REQUIREMENT, WEAK, None):
        with pytest.raises(BrokerError) as caught:
            core.use(asked, needed=needed)
        assert isinstance(caught.value, (DataLossError, FailedPreconditionError, NotFoundError)), caught.value
    core.restart()
    with pytest.raises((DataLossError, FailedPreconditionError, NotFoundError)):
        core.use(asked, needed=None)
    assert core.report().verdict in {Verdict.OK, Verdict.VOTES_INVALID}


def test_without_an_attack_all_of_it_is_used(core: Core) -> None:
    """The table above would pass where nothing can be used at all."""
    core.use(approved(core))
    core.restart()
    asked = approved(core)
    core.restart()
    core.use(asked)
    assert core.report().verdict is Verdict.OK


def test_a_key_that_two_people_enrolled_counts_and_survives_a_restart(core: Core) -> None:
    signer = Ed25519Signer.generate()
    core.enrol_by_people("dan", signer, ("ada", "bob"))
    core.restart()
    core.signers["dan"] = signer
    asked = core.ask()
    core.vote("dan", asked)
    core.vote("cyn", asked)
    core.use(asked)


def test_an_error_rolls_back_what_the_ledger_was_asked_meanwhile(core: Core) -> None:
    """What a transaction added, and took back, is not remembered as if it had happened."""
    asked = approved(core)
    signer = Ed25519Signer.generate()

    def work(tx: Any) -> None:  # noqa: ANN401 - a transaction
        enrol_key(
            tx,
            core.desk.recorder,
            holder=core.people["dan"],
            vkey=str(signer.vkey("dan")),
            kind=KeyKind.APPROVER,
            by=core.people[OPERATOR].id,
            approval="",
            now=core.now,
        )
        core.desk.close(
            tx, core.desk.find(tx, asked.id), core.desk.find(tx, asked.id).state.__class__.CANCELLED, why="x"
        )
        with pytest.raises(BrokerError):
            core.desk.use(tx, asked.id, subject=asked.subject, check=lambda _: None)
        raise FailedPreconditionError("taken back", reason="TAKEN_BACK")

    with pytest.raises(FailedPreconditionError):
        core.write(work)
    core.read(core.desk.agreement.read_on)
    core.use(asked)


def test_a_workflow_that_nobody_approved_is_none(core: Core) -> None:
    version = key_id(bytes(32))
    core.sql(
        "INSERT INTO approved_workflow VALUES ('clean-up', ?, 4, 'apv_01k00000000000000000000001', ?, 5)",
        version,
        core.now.isoformat(),
    )
    with pytest.raises(DataLossError) as caught:
        core.read(lambda tx: core.desk.agreement.check_workflow(tx, "clean-up", version))
    assert caught.value.reason == "AGREEMENT_DIFFERS"
    body = {
        "workflow": {"id": "clean-up", "version": version},
        "tier": 4,
        "workspace": "demo",
        "approvals": [],
    }
    core.write(lambda tx: core.desk.recorder.append(tx, "workflow.approved", body))
    with pytest.raises(DataLossError):
        core.read(lambda tx: core.desk.agreement.check_workflow(tx, "clean-up", version))


def test_everybody_in_these_tests_is_somebody(core: Core) -> None:
    assert {core.people[name].id for name in APPROVERS} < {item.id for item in core.people.values()}
    assert json.loads(canonical(WEAK.json()))["people"] == 1
