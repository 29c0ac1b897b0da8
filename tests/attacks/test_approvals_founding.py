"""The founding: before it nothing is approved, three people complete it by their own signatures, and nobody in their place."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from broker.cli.local import load_ca
from broker.domain.approval import ChatAccount, KeyKind
from broker.domain.canonical import digest
from broker.domain.founding import parse_content
from broker.domain.founding_state import COVERED, FoundingState
from broker.domain.identity import IdentityKind
from broker.domain.statement import AcceptanceStatement
from broker.errors import (
    BrokerError,
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    PermissionDeniedError,
)
from broker.identity import keys
from broker.ledger.verdict import Verdict
from broker.signing import Ed25519Signer
from tests.approval_core import AGENT, APPROVERS, BOT, BY_CHAT, OPERATOR, RULES, Core, account_of, stand

OTHER_RULES = f"{RULES}p, all, role:agent, *, *, call, 4, allow, agents do what they like\n"


def complete(core: Core) -> bool:
    """Is the rule in force?"""
    return core.founding().complete


def test_before_it_nothing_is_approved(early: Core) -> None:
    with pytest.raises(FailedPreconditionError) as asked:
        early.ask()
    assert asked.value.reason == "FOUNDING_INCOMPLETE"
    early.accept("ada")
    early.accept("bob")
    with pytest.raises(FailedPreconditionError):
        early.ask()
    early.accept("cyn")
    early.ask()


def test_two_acceptances_by_one_person_with_two_keys_are_one(early: Core) -> None:
    second = Ed25519Signer.generate()
    early.enrol("ada", second)
    early.accept("ada")
    early.accept("ada", second)
    early.accept("bob")
    early.accept("bob")
    assert not complete(early)
    assert early.founding().accepted == {early.people["ada"].id, early.people["bob"].id}


@pytest.mark.parametrize("who", ["scout", BOT])
def test_an_agent_accepts_nothing(early: Core, who: str) -> None:
    early.accept("ada")
    early.accept("bob")
    signer = early.signers.get(who, Ed25519Signer.generate())
    for changes in ({}, {"approver": early.people["cyn"].id}, {"key": early.signers["cyn"].id}):
        with pytest.raises((PermissionDeniedError, InvalidArgumentError)):
            early.accept(who, signer, **changes)
    assert not complete(early)


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"founding_digest": digest(b"another")}, FailedPreconditionError, "DIGEST_DIFFERS"),
        ({"origin": "brk_01k00000000000000000000000"}, FailedPreconditionError, "DIGEST_DIFFERS"),
        ({"key": digest(b"unknown")}, PermissionDeniedError, "KEY_UNKNOWN"),
    ],
)
def test_an_acceptance_of_something_else_is_refused(
    early: Core, changes: dict[str, Any], error: type[BrokerError], reason: str
) -> None:
    with pytest.raises(error) as caught:
        early.accept("ada", **changes)
    assert caught.value.reason == reason


def test_an_acceptance_in_anothers_name_or_by_anothers_key_is_refused(early: Core) -> None:
    for signer, changes in (
        (early.signers["bob"], {}),
        (early.signers["bob"], {"key": early.signers["ada"].id}),
        (early.signers["ada"], {"approver": early.people["bob"].id}),
    ):
        with pytest.raises((PermissionDeniedError, InvalidArgumentError)):
            early.accept("ada", signer, **changes)
    assert not early.founding().accepted


def test_an_old_acceptance_is_refused(early: Core) -> None:
    early.later(-601)
    then = early.now
    early.later(601)
    with pytest.raises(FailedPreconditionError) as caught:
        early.accept("ada", time=then)
    assert caught.value.reason == "STATEMENT_STALE"


def test_a_key_that_is_slipped_in_voids_what_was_accepted(early: Core) -> None:
    early.accept("ada")
    early.accept("bob")
    early.enrol(OPERATOR, Ed25519Signer.generate())
    early.accept("cyn")
    assert not complete(early)
    assert early.founding().accepted == {early.people["cyn"].id}


def test_a_key_that_is_revoked_voids_what_was_accepted(early: Core) -> None:
    early.accept("ada")
    early.accept("bob")
    early.revoke_key("bob", early.signers["bob"])
    early.accept("cyn")
    assert not complete(early)


# what an operator prepares before it, or swaps while people accept


def test_an_operator_enrols_a_bot_before_it(early: Core) -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        early.administrate("key.enroll", person=BOT, vkey=str(early.signers[BOT].vkey(BOT)), kind="bot")
    assert caught.value.reason == "FOUNDING_INCOMPLETE"
    assert "broker approvers founding" in caught.value.hint
    assert early.read(lambda tx: tx.voters.key(early.signers[BOT].id)) is None


@pytest.mark.parametrize("action", ["account.map", "account.unmap"])
def test_an_operator_maps_an_account_before_it(early: Core, action: str) -> None:
    service, team, user = account_of("ada")
    given = {"service": service, "team": team, "user": user}
    if action == "account.unmap":
        early.sql(
            "INSERT INTO chat_account (service, team, user, person, seq) VALUES (?, ?, ?, ?, 1)",
            *account_of("ada"),
            early.people["ada"].id,
        )
    else:
        given["person"] = OPERATOR
    before = len(early.entries())
    with pytest.raises(FailedPreconditionError) as caught:
        early.administrate(action, **given)
    assert caught.value.reason == "FOUNDING_INCOMPLETE"
    assert len(early.entries()) == before


def test_a_bot_that_the_operator_writes_into_the_ledger_before_it_attests_nothing(early: Core) -> None:
    """They have the library: the entry and the row are there, and nobody agreed to either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("broker.approvals.founding.check_after_founding", lambda *_, **__: None)
        early.enrol(BOT, early.signers[BOT], KeyKind.BOT)
    for name in APPROVERS[:3]:
        early.accept(name)
    assert complete(early), "the founders' own keys stand"
    places = early.report().votes.findings  # type: ignore[union-attr]
    assert [(item.field, "comes before the founding" in item.why) for item in places] == [("key.kind", True)]
    asked = early.ask(requirement=BY_CHAT)
    early.vote("ada", asked)
    early.write(lambda tx: tx.voters.map_account(ChatAccount(*account_of("bob"), early.people["bob"].id), 1))
    early.later()
    with pytest.raises(DataLossError) as caught:
        early.give(BOT, early.attested("bob", asked))
    assert caught.value.reason == "ACCOUNT_CHANGED"


def _new_agent(core: Core) -> None:
    registry, by = core.local.registry, core.people[OPERATOR].id
    core.write(lambda tx: registry.register_agent(tx, name="helper", owner=by, by=by, now=core.now))


def _new_owner(core: Core) -> None:
    agent, owner, by = (core.people[name].id for name in (AGENT, "ada", OPERATOR))
    core.write(lambda tx: core.local.registry.change_owner(tx, agent=agent, owner=owner, by=by, now=core.now))


def _new_certificate(core: Core) -> None:
    authority = load_ca(core.local.paths, core.local.origin)
    certificate = authority.issue_client(
        IdentityKind.HUMAN, "bob", keys.new_key().public_key(), core.now, timedelta(days=1)
    )
    bob, by = core.people["bob"].id, core.people[OPERATOR].id
    core.write(lambda tx: core.local.registry.issue(tx, identity=bob, certificate=certificate, by=by, now=core.now))


SWAPS: dict[str, tuple[Callable[[Core], None], str]] = {
    # What the operator swaps -> a part of what the founders are told of it.
    "policy": (
        lambda core: core.write(lambda tx: stand(core, tx, rules=OTHER_RULES)),
        "policy.changed: policy sha256:",
    ),
    "setting": (lambda core: core.write(lambda tx: stand(core, tx, unsafe=True)), "settings.changed: settings sha256:"),
    "tiers": (lambda core: core.write(lambda tx: stand(core, tx, must_carry=())), "settings.changed: settings sha256:"),
    "tool": (lambda core: core.write(lambda tx: stand(core, tx, tier=0)), "settings.changed: tools sha256:"),
    "agent": (_new_agent, "identity.issued: registered agt_"),
    "owner": (_new_owner, "identity.issued: owner agt_"),
    "certificate": (_new_certificate, "identity.issued: certificate hum_"),
    "key": (lambda core: core.enrol(OPERATOR, Ed25519Signer.generate()), "key.enrolled: the key sha256:"),
    "person": (lambda core: core.revoke_person("dan"), "identity.revoked: revoked hum_"),
}


@pytest.mark.parametrize("swap", SWAPS)
def test_what_is_swapped_between_acceptances_voids_them(early: Core, swap: str) -> None:
    change, told = SWAPS[swap]
    early.accept("ada")
    early.accept("bob")
    signed_before = early.founding().digest
    change(early)
    with pytest.raises(FailedPreconditionError) as caught:
        early.accept("cyn", founding_digest=signed_before)
    assert caught.value.reason == "DIGEST_DIFFERS"
    assert "what has changed, and sign again" in caught.value.hint
    assert f"entry {early.founding().standing.content.last_seq} " in caught.value.message
    early.accept("cyn")
    found = early.founding()
    assert not found.complete
    assert found.accepted == {early.people["cyn"].id}
    assert found.standing.voided == {early.people["ada"].id, early.people["bob"].id}
    assert [item.what for item in found.standing.changes if told in item.what], found.standing.changes
    for name in ("ada", "bob"):
        early.accept(name)
    assert complete(early)
    assert early.report().verdict is Verdict.OK


@pytest.mark.parametrize("swap", ["policy", "setting", "tiers", "tool"])
def test_what_is_swapped_and_swapped_back_voids_them_too(early: Core, swap: str) -> None:
    """Under the other one something may have been done that is seen nowhere else."""
    early.accept("ada")
    early.accept("bob")
    SWAPS[swap][0](early)
    early.write(lambda tx: stand(early, tx))
    early.accept("cyn")
    assert not complete(early)
    assert early.founding().accepted == {early.people["cyn"].id}


@pytest.mark.parametrize("swap", sorted(SWAPS))
def test_what_is_swapped_after_it_is_not_what_was_accepted(core: Core, swap: str) -> None:
    """Written past the broker's own refusals, by its library: the founding stays what it was, to everybody."""
    before = core.founding()
    with suppress(FailedPreconditionError):  # by what refuses it; the others are written as the operator writes
        SWAPS[swap][0](core)
    assert core.founding().standing.content == before.standing.content


def test_a_key_that_is_only_in_the_database_is_nobodys(early: Core) -> None:
    early.sql("UPDATE voter_key SET holder = ? WHERE holder = ?", early.people[OPERATOR].id, early.people["ada"].id)
    with pytest.raises(DataLossError) as caught:
        early.founding()
    assert caught.value.reason == "FOUNDING_CHANGED"


def test_nobody_founds_on_what_is_not_on_record(early: Core) -> None:
    """A ledger in which no start has said which policy, tiers and settings there are."""
    state, kept = FoundingState(), {"policy.changed", "settings.changed"}
    for row in early.entries():
        entry = json.loads(row.data)
        if entry["type"] in COVERED - kept:
            state.entry(row.seq, row.leaf, entry)
    assert state.content().missing == ("policy", "settings", "tools")
    with pytest.raises(InvalidArgumentError):
        parse_content(state.content().encode())


def test_a_bots_key_is_no_founder(early: Core) -> None:
    assert {key.holder for key in early.founding().keys} == {early.people[name].id for name in (*APPROVERS, OPERATOR)}


def test_it_is_completed_once(core: Core) -> None:
    before = core.founding()
    core.accept("dan", founding_digest=before.digest)
    assert core.founding().digest == before.digest
    with pytest.raises(FailedPreconditionError):
        core.accept(OPERATOR, founding_digest=digest(b"another"))
    assert list(core.report().votes.findings) == []  # type: ignore[union-attr]


# the operator writes it into the database


def test_a_founding_that_nobody_accepted_opens_nothing(early: Core) -> None:
    early.accept("ada")
    early.sql("INSERT INTO founding (seq, digest) VALUES (3, ?)", early.founding().digest)
    early.restart()
    with pytest.raises(DataLossError) as caught:
        early.ask()
    assert caught.value.reason == "FOUNDING_CHANGED"


def test_a_founding_that_is_taken_away_gives_nobody_the_operators_rights_back(core: Core) -> None:
    core.sql("DELETE FROM founding")
    core.restart()
    with pytest.raises(DataLossError) as caught:
        core.ask()
    assert caught.value.reason == "FOUNDING_CHANGED"
    with pytest.raises(DataLossError):
        core.read(core.desk.founded)


def test_acceptances_that_are_made_up_complete_nothing(early: Core) -> None:
    early.accept("ada")
    which = early.founding().digest
    for name in ("bob", "cyn"):
        early.sql(
            "INSERT INTO acceptance (founding_digest, person, key, seq) VALUES (?, ?, ?, 3)",
            which,
            early.people[name].id,
            early.signers[name].id,
        )
    early.accept("dan")
    assert not complete(early), "rows count for nothing: two people have signed"
    with pytest.raises(FailedPreconditionError):
        early.ask()


def test_entries_that_the_operator_writes_complete_nothing(early: Core) -> None:
    """The library is in their hands too: they append what the broker would, and nobody has signed it."""
    early.accept("ada")
    which, people = early.founding().digest, sorted(early.people[name].id for name in ("ada", "bob", "cyn"))

    def work(tx: Any) -> None:  # noqa: ANN401 - a transaction
        body = {"founding_digest": which, "people": list(people)}
        tx.voters.complete_founding(which, early.desk.recorder.append(tx, "founding.completed", body))

    early.write(work)
    early.restart()
    with pytest.raises(DataLossError) as caught:
        early.ask()
    assert caught.value.reason == "FOUNDING_CHANGED"


def test_a_statement_of_the_founding_is_no_vote(core: Core) -> None:
    asked = core.ask()
    said = AcceptanceStatement(
        core.local.origin, asked.envelope_digest, core.people["ada"].id, core.signers["ada"].id, core.now, None
    ).encode()
    given = core.signed(core.statement("ada", asked), core.signers["ada"])
    from dataclasses import replace  # noqa: PLC0415 - this test's own

    with pytest.raises(InvalidArgumentError) as caught:
        core.give("ada", replace(given, statement=said, signature=core.signers["ada"].sign(said)))
    assert caught.value.reason == "STATEMENT_INVALID"
