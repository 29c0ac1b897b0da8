"""The founding: before it nothing is approved, three people complete it by their own signatures, and nobody in their place."""

from __future__ import annotations

from typing import Any

import pytest

from broker.approvals.founding import founding
from broker.domain.canonical import digest
from broker.domain.statement import AcceptanceStatement
from broker.errors import (
    BrokerError,
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    PermissionDeniedError,
)
from broker.signing import Ed25519Signer
from tests.approval_core import APPROVERS, BOT, OPERATOR, Core


def complete(core: Core) -> bool:
    """Is the rule in force?"""
    return core.read(founding).complete


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
    assert early.read(founding).accepted == {early.people["ada"].id, early.people["bob"].id}


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
    assert not early.read(founding).accepted


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
    assert early.read(founding).accepted == {early.people["cyn"].id}


def test_a_key_that_is_revoked_voids_what_was_accepted(early: Core) -> None:
    early.accept("ada")
    early.accept("bob")
    early.revoke_key("bob", early.signers["bob"])
    early.accept("cyn")
    assert not complete(early)


def test_a_bots_key_is_no_founder(early: Core) -> None:
    assert {key.holder for key in early.read(founding).keys} == {
        early.people[name].id for name in (*APPROVERS, OPERATOR)
    }


def test_it_is_completed_once(core: Core) -> None:
    before = core.read(founding)
    core.accept("dan", founding_digest=before.digest)
    assert core.read(founding).digest == before.digest
    with pytest.raises(FailedPreconditionError):
        core.accept(OPERATOR, founding_digest=digest(b"another"))
    assert list(core.report().votes.findings) == []  # type: ignore[union-attr]


# the operator writes it into the database


def test_a_founding_that_nobody_accepted_opens_nothing(early: Core) -> None:
    early.accept("ada")
    early.sql("INSERT INTO founding (seq, digest) VALUES (3, ?)", early.read(founding).digest)
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
    which = early.read(founding).digest
    for name in ("bob", "cyn"):
        early.sql(
            "INSERT INTO acceptance (founding_digest, person, key, seq) VALUES (?, ?, ?, 3)",
            which,
            early.people[name].id,
            early.signers[name].id,
        )
    early.accept("dan")
    with pytest.raises(DataLossError):
        early.ask()


def test_entries_that_the_operator_writes_complete_nothing(early: Core) -> None:
    """The library is in their hands too: they append what the broker would, and nobody has signed it."""
    early.accept("ada")
    which, people = early.read(founding).digest, sorted(early.people[name].id for name in ("ada", "bob", "cyn"))

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
