"""Votes that were valid once: played in again, taken back, late, on something else, or under another statement than was signed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.domain.approval import Approval, ApprovalState, VoteDecision
from broker.domain.canonical import canonical, digest
from broker.domain.statement import (
    MAX_REASON_BYTES,
    MAX_STATEMENT_BYTES,
    VoteStatement,
    fresh_commit_salt,
    parse_acceptance,
    parse_vote,
)
from broker.errors import (
    BrokerError,
    ConflictError,
    FailedPreconditionError,
    InvalidArgumentError,
    PermissionDeniedError,
    ResourceExhaustedError,
)
from broker.signing import Ed25519Signer
from tests.approval_core import OPERATOR, Core


def test_a_vote_that_was_taken_back_is_not_played_in_again(core: Core) -> None:
    asked = core.ask()
    core.later()
    first = core.signed(core.statement("ada", asked), core.signers["ada"])
    core.give("ada", first)
    core.vote("ada", asked, "withdraw")
    entries = core.report().entries
    assert core.give("ada", first).state is ApprovalState.PENDING, "the same bytes again change nothing"
    assert core.report().entries == entries
    other_salt = core.signed(parse_vote(first.statement), core.signers["ada"])
    with pytest.raises(InvalidArgumentError):
        core.give("ada", other_salt)
    old = core.signed(replace(core.statement("ada", asked), time=parse_vote(first.statement).time), core.signers["ada"])
    with pytest.raises(FailedPreconditionError) as caught:
        core.give("ada", old)
    assert caught.value.reason == "STATEMENT_STALE"
    core.vote("bob", asked)
    with pytest.raises(FailedPreconditionError) as unmet:
        core.use(asked)
    assert unmet.value.reason == "APPROVAL_NOT_MET"


def test_a_vote_is_not_played_onto_another_approval(core: Core) -> None:
    one, other = core.ask(), core.ask()
    given = core.signed(core.statement("ada", one), core.signers["ada"], approval=other.id)
    with pytest.raises(InvalidArgumentError) as caught:
        core.give("ada", given)
    assert caught.value.reason == "STATEMENT_INVALID"
    for changes in ({"approval": other.id}, {"approval": other.id, "envelope_digest": other.envelope_digest}):
        mixed = core.signed(core.statement("ada", one, **changes), core.signers["ada"])
        with pytest.raises(FailedPreconditionError) as differs:
            core.give("ada", mixed)
        assert differs.value.reason == "DIGEST_DIFFERS"
        assert differs.value.metadata["found"] != differs.value.metadata["expected"]


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"origin": "brk_01k00000000000000000000000"}, InvalidArgumentError, "STATEMENT_INVALID"),
        ({"envelope_digest": digest(b"other")}, FailedPreconditionError, "DIGEST_DIFFERS"),
        ({"rendering_digest": digest(b"other")}, FailedPreconditionError, "DIGEST_DIFFERS"),
        ({"reason_commit": "0" * 64}, InvalidArgumentError, "REASON_DIFFERS"),
        ({"key": digest(b"unknown")}, PermissionDeniedError, "KEY_UNKNOWN"),
    ],
)
def test_another_statement_than_of_this_very_approval_is_refused(
    core: Core, changes: dict[str, Any], error: type[BrokerError], reason: str
) -> None:
    asked = core.ask()
    with pytest.raises(error) as caught:
        core.vote("ada", asked, **changes)
    assert caught.value.reason == reason
    assert core.now_of(asked).state is ApprovalState.PENDING


def test_a_signature_by_anothers_key_is_refused(core: Core) -> None:
    asked = core.ask()
    for signer, reason in (
        (core.signers["bob"], "SIGNATURE_INVALID"),
        (Ed25519Signer.generate(), "SIGNATURE_INVALID"),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            core.give("ada", core.signed(core.statement("ada", asked), signer))
        assert caught.value.reason == reason
    by_bobs_key = core.statement("ada", asked, key=core.signers["bob"].id)
    with pytest.raises(PermissionDeniedError) as theirs:
        core.give("ada", core.signed(by_bobs_key, core.signers["bob"]))
    assert theirs.value.reason == "KEY_UNKNOWN"
    in_bobs_name = core.statement("bob", asked)
    with pytest.raises(PermissionDeniedError) as carried:
        core.give("ada", core.signed(in_bobs_name, core.signers["bob"]))
    assert carried.value.reason == "NOT_A_VOTER"
    changed = core.signed(core.statement("ada", asked), core.signers["ada"])
    for signature in (b"", changed.signature[:-1], changed.signature + b"\0", bytes(64)):
        with pytest.raises(InvalidArgumentError) as broken:
            core.give("ada", replace(changed, signature=signature))
        assert broken.value.reason == "SIGNATURE_INVALID"


def test_a_key_that_was_revoked_signs_nothing_more(core: Core) -> None:
    asked = core.ask()
    core.revoke_key("bob", core.signers["ada"])
    with pytest.raises(PermissionDeniedError) as caught:
        core.vote("ada", asked)
    assert caught.value.reason == "KEY_REVOKED"


@pytest.mark.parametrize("reason", ["other", "", "committed\n", "x" * (MAX_REASON_BYTES + 1)])
def test_another_reason_than_the_committed_one_is_refused(core: Core, reason: str) -> None:
    asked = core.ask()
    made = core.signed(core.statement("ada", asked), core.signers["ada"], reason="committed")
    with pytest.raises(InvalidArgumentError):
        core.give("ada", replace(made, reason=reason))
    for salt in (b"", fresh_commit_salt(), made.salt + b"\0"):
        with pytest.raises(InvalidArgumentError):
            core.give("ada", replace(made, salt=salt))
    assert core.give("ada", made).state is ApprovalState.PENDING


@pytest.mark.parametrize("off", [-601, 601, -86400 * 365, 86400 * 365])
def test_a_time_far_off_is_refused(core: Core, off: int) -> None:
    asked = core.ask(lasts=7 * 86400.0)
    core.later(off)
    said = core.statement("ada", asked)
    core.later(-off)
    with pytest.raises(FailedPreconditionError) as caught:
        core.give("ada", core.signed(said, core.signers["ada"]))
    assert caught.value.reason == "STATEMENT_STALE"


def test_a_vote_after_its_time_is_refused_and_silence_allows_nothing(core: Core) -> None:
    asked = core.ask()
    core.vote("ada", asked)
    core.later(3600)
    with pytest.raises(FailedPreconditionError) as late:
        core.vote("bob", asked)
    assert late.value.reason == "APPROVAL_CLOSED"
    with pytest.raises(FailedPreconditionError) as used:
        core.use(asked)
    assert used.value.metadata["state"] == "EXPIRED"


def test_what_is_approved_expires_too(core: Core) -> None:
    asked = core.ask()
    core.vote("ada", asked)
    core.vote("bob", asked)
    core.later(3600)
    with pytest.raises(FailedPreconditionError) as caught:
        core.use(asked)
    assert caught.value.metadata["state"] == "EXPIRED"
    assert core.write(lambda tx: core.desk.expire(tx, core.desk.find(tx, asked.id))).state is ApprovalState.EXPIRED


def test_nobody_asks_for_longer_than_the_requirement_allows(core: Core) -> None:
    asked = core.ask(lasts=86400.0)
    assert (asked.expires - asked.created).total_seconds() == asked.requirement.expiry_s


def test_a_vote_that_is_taken_back_counts_no_more(core: Core) -> None:
    asked = core.ask()
    core.vote("ada", asked)
    assert core.vote("bob", asked).state is ApprovalState.APPROVED
    assert core.vote("bob", asked, "withdraw").state is ApprovalState.PENDING
    with pytest.raises(FailedPreconditionError):
        core.use(asked)
    with pytest.raises(FailedPreconditionError) as nothing:
        core.vote("bob", asked, "withdraw")
    assert nothing.value.reason == "NOTHING_TO_WITHDRAW"
    with pytest.raises(FailedPreconditionError) as anothers:
        core.vote("cyn", asked, "withdraw")
    assert anothers.value.reason == "NOTHING_TO_WITHDRAW"


@pytest.mark.parametrize("who", ["ada", "cyn"])
def test_a_denial_ends_it_after_the_quorum_too(core: Core, who: str) -> None:
    asked = core.ask()
    core.vote("ada", asked)
    core.vote("bob", asked)
    assert core.vote(who, asked, "deny").state is ApprovalState.DENIED
    with pytest.raises(FailedPreconditionError) as caught:
        core.use(asked)
    assert caught.value.metadata["state"] == "DENIED"
    with pytest.raises(FailedPreconditionError):
        core.vote("dan", asked)
    with pytest.raises(FailedPreconditionError):
        core.vote(who, asked, "withdraw")


def test_it_is_used_once(core: Core) -> None:
    asked = core.ask()
    core.vote("ada", asked)
    core.vote("bob", asked)
    core.use(asked)
    with pytest.raises(FailedPreconditionError) as caught:
        core.use(asked)
    assert caught.value.metadata["state"] == "USED"
    with pytest.raises(FailedPreconditionError):
        core.vote("cyn", asked, "deny")


def test_it_is_used_for_nothing_else(core: Core) -> None:
    asked, other = core.ask(), core.ask()
    core.vote("ada", asked)
    core.vote("bob", asked)
    with pytest.raises(FailedPreconditionError) as caught:
        core.write(lambda tx: core.desk.use(tx, asked.id, subject=other.subject, check=lambda _: None))
    assert caught.value.reason == "APPROVAL_OTHER"


def test_the_same_vote_twice_is_one_vote(core: Core) -> None:
    asked = core.ask()
    given = core.signed(core.statement("ada", asked), core.signers["ada"])
    core.give("ada", given)
    core.give("ada", given)
    with pytest.raises(ConflictError) as caught:
        core.vote("ada", asked)
    assert caught.value.reason == "ALREADY_VOTED"


def test_stricter_rules_stop_what_was_asked_for_under_weaker_ones(core: Core) -> None:
    asked = core.ask()
    core.vote("ada", asked)
    core.vote("bob", asked)
    for stricter in (replace(asked.requirement, people=3), replace(asked.requirement, exclude_tool_owner=True)):
        with pytest.raises(FailedPreconditionError) as caught:
            core.use(asked, needed=stricter)
        assert caught.value.reason == "REQUIREMENT_STRICTER"
    weaker = replace(asked.requirement, expiry_s=7200.0, cooldown_s=30.0)
    core.use(asked, needed=replace(asked.requirement, cooldown_s=0.0, max_pending=9))
    assert weaker != asked.requirement


def test_too_many_wait(core: Core) -> None:
    for _ in range(5):
        core.ask()
    with pytest.raises(ResourceExhaustedError) as caught:
        core.ask()
    assert caught.value.reason == "TOO_MANY_PENDING"
    core.ask(by=OPERATOR)


def test_after_a_denial_it_cools_down(core: Core) -> None:
    asked = core.ask()
    core.vote("ada", asked, "deny")
    core.later(30)
    with pytest.raises(ResourceExhaustedError) as caught:
        core.ask()
    assert caught.value.reason == "COOLING_DOWN"
    assert caught.value.retry_after_s is not None
    core.later(31)
    core.ask()


def test_asking_and_withdrawing_does_not_go_on_for_ever(core: Core) -> None:
    def withdraw(asked: Approval) -> None:
        core.write(
            lambda tx: core.desk.close(tx, core.desk.find(tx, asked.id), ApprovalState.CANCELLED, why="withdrawn")
        )

    for _ in range(2 * core.ask().requirement.max_pending):
        withdraw(core.ask())
    with pytest.raises(ResourceExhaustedError) as caught:
        core.ask()
    assert caught.value.reason == "ASKING_TOO_OFTEN"
    core.later(3601)
    core.ask()


# statements: the bytes

_SAID = VoteStatement(
    origin="brk_1",
    approval="apv_01k00000000000000000000001",
    envelope_digest=digest(b"e"),
    rendering_digest=digest(b"r"),
    decision=VoteDecision.APPROVE,
    reason_commit="0" * 64,
    approver="hum_01k00000000000000000000001",
    key=digest(b"k"),
    time=datetime(2026, 1, 1, tzinfo=UTC),
    checkpoint=None,
)
_BODY: dict[str, Any] = json.loads(_SAID.encode())


def _changed(**changes: Any) -> bytes:  # noqa: ANN401 - any value
    return canonical({**_BODY, **changes})


WRONG: dict[str, Callable[[], bytes]] = {
    "an unknown member": lambda: _changed(also=1),
    "an account in a plain vote": lambda: _changed(account_commit="0" * 64),
    "a channel in a plain vote": lambda: _changed(channel="slack"),
    "a missing member": lambda: canonical({key: item for key, item in _BODY.items() if key != "checkpoint"}),
    "a space": lambda: _SAID.encode().replace(b":", b": ", 1),
    "another order": lambda: json.dumps(dict(reversed(_BODY.items())), separators=(",", ":")).encode(),
    "a member twice": lambda: _SAID.encode().replace(b'"decision":', b'"decision":"deny","decision":', 1),
    "a mark at the front": lambda: b"\xef\xbb\xbf" + _SAID.encode(),
    "a byte at the end": lambda: _SAID.encode() + b"\n",
    "an escape that needs none": lambda: _SAID.encode().replace(b"approve", b"\\u0061pprove", 1),
    "no object": lambda: b"[]",
    "nothing": lambda: b"",
    "no JSON": lambda: b"\xff\xfe",
    "huge": lambda: _changed(origin="o" * MAX_STATEMENT_BYTES),
    "deep": lambda: b'{"a":' * 3000 + b"1" + b"}" * 3000,
    "another format": lambda: _changed(format="broker.vote.v2"),
    "an acceptance": lambda: _changed(format="broker.acceptance.v1"),
    "a decision that is none": lambda: _changed(decision="APPROVE"),
    "always": lambda: _changed(decision="always"),
    "a number for a text": lambda: _changed(origin=1),
    "a time without a zone": lambda: _changed(time="2026-01-01T00:00:00.000000"),
    "a time in another zone": lambda: _changed(time="2026-01-01T01:00:00.000000+01:00"),
    "a time that is none": lambda: _changed(time="2026-13-01T00:00:00.000000Z"),
    "a time in nanoseconds": lambda: _changed(time="2026-01-01T00:00:00.000000000Z"),
    "a digest in capitals": lambda: _changed(envelope_digest="sha256:" + "A" * 64),
    "a short digest": lambda: _changed(rendering_digest="sha256:00"),
    "a checkpoint of no size": lambda: _changed(checkpoint={"size": True, "root": "A" * 43 + "="}),
    "a checkpoint of size zero": lambda: _changed(checkpoint={"size": 0, "root": "A" * 43 + "="}),
    "a checkpoint with more": lambda: _changed(checkpoint={"size": 1, "root": "A" * 43 + "=", "x": 1}),
    "a checkpoint of a float": lambda: _changed(checkpoint={"size": 1.5, "root": "A" * 43 + "="}),
}


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
def test_bytes_that_nobody_signs_are_refused(make: Callable[[], bytes]) -> None:
    for parse in (parse_vote, parse_acceptance):
        with pytest.raises(InvalidArgumentError) as caught:
            parse(make())
        assert caught.value.reason == "STATEMENT_INVALID"


def test_the_plain_bytes_are_read() -> None:
    assert parse_vote(_SAID.encode()) == _SAID


@settings(max_examples=400)
@given(
    st.binary(max_size=300)
    | st.builds(
        lambda at, new: _SAID.encode()[:at] + new + _SAID.encode()[at + 1 :],
        st.integers(0, len(_SAID.encode()) - 1),
        st.binary(max_size=3),
    )
)
def test_whatever_is_read_is_what_was_signed(data: bytes) -> None:
    try:
        read = parse_vote(data)
    except InvalidArgumentError:
        return
    assert read.encode() == data
