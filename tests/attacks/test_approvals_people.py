"""One human in two places, votes of people who may not, and agents and bots that vote: two distinct eligible people, or nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.approvals.authority import Agreed
from broker.approvals.founding import parse_vkey
from broker.approvals.freezing import freeze
from broker.domain.administration import OWNER
from broker.domain.approval import ApprovalKind, ApprovalState, FreezeScope
from broker.domain.ports import Transaction
from broker.domain.requirement import Channel, RoleCount
from broker.errors import (
    BrokerError,
    ConflictError,
    FailedPreconditionError,
    InvalidArgumentError,
    PermissionDeniedError,
)
from broker.identity.registry import Registry
from broker.pipeline.admin_actions import Context, Shown
from broker.pipeline.administration import request, settle
from broker.signing import Ed25519Signer
from tests.approval_core import AGENT, BOT, BY_CHAT, OPERATOR, REQUIREMENT, TEAM, Core, account_of, mapped_to, owner_act


def refused(
    core: Core, error: type[BrokerError], reason: str, person: str, approval: object, **changes: object
) -> None:
    """A vote is refused for this reason, and leaves nothing behind."""
    before = core.report().entries
    with pytest.raises(error) as caught:
        core.vote(person, approval, **changes)
    assert caught.value.reason == reason
    assert core.report().entries == before


def test_nobody_who_is_kept_out_has_a_vote(core: Core) -> None:
    asked = core.ask(excluded=(OPERATOR, "ada"))
    refused(core, PermissionDeniedError, "VOTER_IN_LINEAGE", "ada", asked)
    core.vote("bob", asked)
    with pytest.raises(FailedPreconditionError) as caught:
        core.use(asked)
    assert caught.value.reason == "APPROVAL_NOT_MET"
    core.vote("cyn", asked)
    core.use(asked)


def test_who_came_into_the_lineage_after_the_vote_counts_no_more(core: Core) -> None:
    asked = core.ask()
    core.vote("ada", asked)
    assert core.vote("bob", asked).state is ApprovalState.APPROVED
    with pytest.raises(FailedPreconditionError) as caught:
        core.use(asked, barred=frozenset({core.people["ada"].id}))
    assert caught.value.reason == "APPROVAL_NOT_MET"
    core.vote("cyn", asked)
    votes = core.use(asked, barred=frozenset({core.people["ada"].id})).votes
    assert len(votes) == 2


def test_one_person_with_two_keys_counts_once(core: Core) -> None:
    second = Ed25519Signer.generate()
    core.enrol_by_people("ada", second, ("bob", "cyn"))
    asked = core.ask()
    core.vote("ada", asked)
    core.later()
    said = core.statement("ada", asked, key=second.id)
    with pytest.raises(ConflictError):
        core.give("ada", core.signed(said, second))
    core.vote("ada", asked, "withdraw")
    core.later()
    again = core.give("ada", core.signed(core.statement("ada", asked, key=second.id), second))
    assert again.state is ApprovalState.PENDING, "another key takes the person's one place, and no second one"
    with pytest.raises(FailedPreconditionError):
        core.use(asked)


def test_one_person_with_two_accounts_counts_once(core: Core) -> None:
    asked = core.ask(requirement=replace(BY_CHAT, min_signed=0, people=2))
    core.later()
    core.give(BOT, core.attested("ada", asked))
    core.later()
    with pytest.raises(PermissionDeniedError) as unknown:
        core.give(BOT, core.attested("ada", asked, team="T0OTHER"))
    assert unknown.value.reason == "ACCOUNT_UNKNOWN"
    core.administrate("account.map", ("bob", "cyn"), **mapped_to("ada", "T0OTHER"))
    core.later()
    with pytest.raises(ConflictError) as twice:
        core.give(BOT, core.attested("ada", asked, team="T0OTHER"))
    assert twice.value.reason == "ALREADY_VOTED"
    refused(core, ConflictError, "ALREADY_VOTED", "ada", asked)


def test_nobody_holds_one_key_together_with_somebody_else(core: Core) -> None:
    with pytest.raises(ConflictError) as caught:
        core.enrol("bob", core.signers["ada"])
    assert caught.value.reason == "KEY_IN_USE"


def test_a_key_that_was_revoked_never_comes_back(core: Core) -> None:
    core.revoke_key("ada", core.signers["ada"])
    with pytest.raises(ConflictError) as caught:
        core.enrol("ada", core.signers["ada"])
    assert caught.value.reason == "KEY_IN_USE"


def test_another_persons_name_on_the_key_is_refused() -> None:
    signer = Ed25519Signer.generate()
    with pytest.raises(InvalidArgumentError) as caught:
        parse_vkey(str(signer.vkey("bob")), "ada")
    assert caught.value.reason == "KEY_INVALID"


def test_an_agent_has_no_vote_whatever_it_signs(core: Core) -> None:
    asked, own = core.ask(), Ed25519Signer.generate()
    core.signers["scout"] = own
    with pytest.raises(PermissionDeniedError) as plain:
        core.vote("scout", asked)
    assert plain.value.reason == "NOT_A_VOTER"
    said = core.statement("scout", asked, approver=core.people["ada"].id, channel=Channel.SLACK)
    with pytest.raises(PermissionDeniedError) as attested:
        core.give("scout", core.signed(said, own, account=account_of("ada")))
    assert attested.value.reason == "KEY_UNKNOWN"
    with pytest.raises(FailedPreconditionError) as enrolled:
        core.enrol("scout", own)
    assert enrolled.value.reason == "HOLDER_INVALID"
    said = core.statement("ada", asked)
    with pytest.raises(PermissionDeniedError) as carried:
        core.give("scout", core.signed(said, core.signers["ada"]))
    assert carried.value.reason == "NOT_A_VOTER", "a vote is cast by who signed it"


def test_nobody_without_the_role_has_a_vote(core: Core) -> None:
    asked = core.ask(excluded=())
    core.approvers -= {"dan"}
    refused(core, PermissionDeniedError, "NOT_ELIGIBLE", "dan", asked)


def test_roles_are_counted_as_they_are_at_the_use(core: Core) -> None:
    asked = core.ask()
    core.vote("ada", asked)
    core.vote("bob", asked)
    core.approvers -= {"bob"}
    with pytest.raises(FailedPreconditionError) as caught:
        core.use(asked)
    assert caught.value.reason == "APPROVAL_NOT_MET"
    assert "1 person with the role approver" in caught.value.metadata["missing"]
    core.approvers |= {"bob"}
    core.use(asked)


def test_two_people_of_one_role_fill_no_seat_of_another(core: Core) -> None:
    asked = core.ask()
    two_roles = replace(REQUIREMENT, roles=(RoleCount("approver", 1), RoleCount("legal", 1)))
    with pytest.raises(PermissionDeniedError) as nobody:
        core.ask(requirement=two_roles)
    assert nobody.value.reason == "NOBODY_ELIGIBLE"
    assert "1 person with the role legal" in nobody.value.metadata["missing"]
    assert core.now_of(asked).state is ApprovalState.PENDING


@pytest.mark.parametrize("left", [0, 1])
def test_too_few_eligible_people_are_told_at_once_and_named(core: Core, left: int) -> None:
    core.approvers = frozenset(["ada"][:left])
    with pytest.raises(PermissionDeniedError) as caught:
        core.ask()
    assert caught.value.reason == "NOBODY_ELIGIBLE"
    people = "1 person" if left else "2 people"
    assert caught.value.metadata["missing"].startswith(f"{people} with the role approver")


def test_whoever_is_kept_out_is_named_where_nobody_else_is_left(core: Core) -> None:
    core.approvers = frozenset({"ada", "bob"})
    with pytest.raises(PermissionDeniedError) as caught:
        core.ask(excluded=(OPERATOR, "bob"))
    assert caught.value.reason == "NOBODY_ELIGIBLE"
    assert "1 person with the role approver" in caught.value.message
    assert caught.value.message.endswith("kept out of it, as it is theirs or concerns them: bob")


def test_whoever_a_frozen_agent_was_given_to_since_does_not_let_it_go_on(core: Core) -> None:
    context = Context(core.desk.recorder, core.local.vault, core.desk)
    shown = Shown({"scope": "agent", "target": AGENT})
    core.write(
        lambda tx: freeze(
            tx, core.desk.recorder, core.caller("bob"), scope=FreezeScope.AGENT, target=AGENT, now=core.now
        )
    )
    asked, _ = core.write(
        lambda tx: request(tx, context, core.caller(OPERATOR), action="unfreeze", shown=shown, reason="mended")
    )

    def give_to_ada(tx: Transaction, approval: str) -> None:
        agreed = Agreed(OWNER, {"agent": AGENT, "owner": "ada"}, approval)
        agent, owner, by = (core.people[name].id for name in (AGENT, "ada", OPERATOR))
        Registry(core.desk.recorder, core.local.vault, agreed).change_owner(
            tx, agent=agent, owner=owner, by=by, now=core.now
        )

    def vote(name: str) -> ApprovalState:
        core.vote(name, asked)
        return core.write(lambda tx: settle(tx, context, core.desk.find(tx, asked.id))).state

    assert vote("ada") is ApprovalState.PENDING
    core.by_people(OWNER, give_to_ada, ("bob", "cyn"), about="ada", act=owner_act(core, AGENT, "ada"))
    assert vote("bob") is ApprovalState.APPROVED, "two have agreed, and one of them owns it by now"
    assert core.read(lambda tx: tx.freezes.all())
    assert vote("cyn") is ApprovalState.USED
    assert not core.read(lambda tx: tx.freezes.all())


def test_keys_that_are_revoked_make_nobody_eligible(core: Core) -> None:
    for name in ("bob", "cyn", "dan"):
        core.revoke_key(name, core.signers[name])
    with pytest.raises(PermissionDeniedError) as caught:
        core.ask()
    assert caught.value.reason == "NOBODY_ELIGIBLE"


def test_a_person_is_revoked_between_vote_and_use(core: Core) -> None:
    asked = core.ask()
    core.vote("ada", asked)
    core.vote("bob", asked)
    core.revoke_person("bob")
    core.restart()
    with pytest.raises(FailedPreconditionError) as caught:
        core.use(asked)
    assert caught.value.reason == "APPROVAL_NOT_MET"
    core.vote("cyn", asked)
    assert len(core.use(asked).votes) == 2


def test_a_key_is_revoked_between_vote_and_use(core: Core) -> None:
    asked = core.ask()
    core.vote("ada", asked)
    core.vote("bob", asked)
    core.revoke_key("cyn", core.signers["bob"])
    with pytest.raises(FailedPreconditionError) as caught:
        core.use(asked)
    assert caught.value.reason == "APPROVAL_NOT_MET"
    refused(core, PermissionDeniedError, "KEY_REVOKED", "bob", asked)


def test_who_has_no_key_revokes_nobody_elses(core: Core) -> None:
    core.revoke_key("ada", core.signers[OPERATOR])
    with pytest.raises(PermissionDeniedError) as caught:
        core.revoke_key(OPERATOR, core.signers["ada"])
    assert caught.value.reason == "NOT_AN_APPROVER"


# bots


def test_a_human_casts_no_attested_vote(core: Core) -> None:
    asked = core.ask(requirement=BY_CHAT)
    said = core.statement("ada", asked, channel=Channel.SLACK)
    with pytest.raises(PermissionDeniedError) as caught:
        core.give("ada", core.signed(said, core.signers["ada"], account=account_of("ada")))
    assert caught.value.reason == "NOT_A_VOTER"
    with pytest.raises(PermissionDeniedError) as carried:
        core.give("ada", core.attested("ada", asked))
    assert carried.value.reason == "NOT_A_VOTER", "what the bot signed comes from the bot"


def test_a_bot_casts_nothing_of_its_own(core: Core) -> None:
    asked = core.ask(requirement=BY_CHAT)
    refused(core, PermissionDeniedError, "NOT_A_VOTER", BOT, asked)
    said = core.statement("ada", asked, key=core.signers[BOT].id)
    with pytest.raises(PermissionDeniedError) as plain:
        core.give(BOT, core.signed(said, core.signers[BOT]))
    assert plain.value.reason == "NOT_A_VOTER"
    for_itself = core.statement(BOT, asked, channel=Channel.SLACK)
    with pytest.raises(PermissionDeniedError) as itself:
        core.give(BOT, core.signed(for_itself, core.signers[BOT], account=account_of("ada")))
    assert itself.value.reason == "ACCOUNT_UNKNOWN"


@pytest.mark.parametrize(
    ("person", "account", "reason"),
    [
        ("ada", account_of("bob"), "ACCOUNT_UNKNOWN"),
        ("ada", account_of("ada", "T0OTHER"), "ACCOUNT_UNKNOWN"),
        ("ada", ("slack", TEAM, "UNOBODY"), "ACCOUNT_UNKNOWN"),
        ("ada", ("teams", *account_of("ada")[1:]), "ACCOUNT_UNKNOWN"),
        (OPERATOR, account_of(OPERATOR), "ACCOUNT_UNKNOWN"),
        ("ada", None, "ACCOUNT_UNKNOWN"),
    ],
)
def test_a_bot_speaks_for_mapped_accounts_only(
    core: Core, person: str, account: tuple[str, str, str] | None, reason: str
) -> None:
    asked = core.ask(requirement=BY_CHAT)
    said = core.statement(person, asked, key=core.signers[BOT].id, channel=Channel.SLACK)
    with pytest.raises(PermissionDeniedError) as caught:
        core.give(BOT, core.signed(said, core.signers[BOT], account=account))
    assert caught.value.reason == reason


def test_a_bots_word_about_another_account_than_it_signed_is_refused(core: Core) -> None:
    asked = core.ask(requirement=BY_CHAT)
    given = replace(core.attested("ada", asked), account=account_of("bob"))
    with pytest.raises(InvalidArgumentError) as caught:
        core.give(BOT, given)
    assert caught.value.reason == "ACCOUNT_DIFFERS"


def test_a_bot_approves_nothing_where_people_must_sign(core: Core) -> None:
    asked = core.ask()
    with pytest.raises(PermissionDeniedError) as caught:
        core.give(BOT, core.attested("ada", asked))
    assert caught.value.reason == "CHANNEL_REFUSED"
    core.later()
    assert core.give(BOT, core.attested("ada", asked, "deny")).state is ApprovalState.DENIED


def test_a_bot_alone_is_never_enough(core: Core) -> None:
    asked = core.ask(requirement=BY_CHAT)
    for name in ("ada", "bob", "cyn"):
        core.later()
        assert core.give(BOT, core.attested(name, asked)).state is ApprovalState.PENDING
    with pytest.raises(FailedPreconditionError):
        core.use(asked)
    assert core.vote("dan", asked).state is ApprovalState.APPROVED


def test_a_bot_with_a_clock_that_is_ahead_keeps_nobody_from_saying_no(core: Core) -> None:
    asked = core.ask(requirement=BY_CHAT)
    core.later(540)
    forged = core.attested("ada", asked)
    core.later(-540)
    core.give(BOT, forged)
    assert core.vote("ada", asked, "deny").state is ApprovalState.DENIED
    assert core.report().votes is not None
    assert not core.report().votes.findings


def test_votes_of_a_bot_that_is_gone_count_no_more(core: Core) -> None:
    asked = core.ask(requirement=BY_CHAT)
    core.give(BOT, core.attested("ada", asked))
    assert core.vote("bob", asked).state is ApprovalState.APPROVED
    core.revoke_person(BOT)
    with pytest.raises(FailedPreconditionError) as caught:
        core.use(asked)
    assert caught.value.reason == "APPROVAL_NOT_MET"


def test_administration_keeps_out_who_asked(core: Core) -> None:
    asked = core.ask(kind=ApprovalKind.ADMINISTRATION, by="ada", excluded=("ada",))
    refused(core, PermissionDeniedError, "VOTER_IN_LINEAGE", "ada", asked)
