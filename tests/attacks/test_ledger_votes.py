"""An operator with all of the broker's code writes what people never agreed to; the ledger's chain is right, the votes aren't."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from broker.domain.canonical import JsonObject, JsonValue, digest
from broker.domain.requirement import RoleCount
from broker.domain.tool_standing import Registered, ToolStanding, tools_digest
from broker.ledger import verify_bundle
from broker.ledger.source import Row
from broker.ledger.verdict import Verdict
from broker.ledger.verifier import verify
from broker.ledger.votes import Votes, concerns
from broker.ledger.votes_reading import ran_of
from broker.tlog.merkle import leaf_hash
from tests.ledger_world import data_of, rechained
from tests.signing_support import NumberedSigner
from tests.votes_world import (
    ADA,
    APPROVAL,
    BOB,
    BOT,
    BY_CHAT,
    CALL,
    CYD,
    DAN,
    EVE,
    LINEAGE,
    REQUIREMENT,
    SCOUT,
    SETTINGS,
    SURFACE,
    TOOL,
    VERSION,
    Story,
    id_of,
    key_act,
    signer_of,
)

OTHER = "apv_01k00000000000000000000002"


def founded() -> Story:
    return Story().found()


def asked(*, bot: bool = False, **changes: Any) -> Story:  # noqa: ANN401 - arguments of ask
    story = founded()
    if bot:
        story.with_bot()
    story.ask(**changes)
    return story


def used(story: Story, *votes: int, **named: Any) -> Story:  # noqa: ANN401 - arguments of begin
    story.close(*votes)
    story.begin(*votes, **named)
    return story


def honest() -> Story:
    """All that is right: calls by signatures and by a bot, a withdrawal, a denial, a revocation, administration, a workflow."""
    story = founded().with_bot().run(ADA, BOB)
    story.ask(OTHER, requirement=BY_CHAT)
    story.vote(ADA, OTHER)
    story.vote(ADA, OTHER, "withdraw")
    votes = [story.vote(CYD, OTHER, bot=True), story.vote(ADA, OTHER)]
    story.close(*votes, approval=OTHER)
    story.begin(*votes, approval=OTHER)
    third, fourth, fifth, sixth = (f"apv_01k0000000000000000000000{number}" for number in range(3, 7))
    story.ask(third)
    story.close(story.vote(DAN, third, "deny"), approval=third, state="DENIED")
    story.revoke(CYD)
    votes = story.agree("key.enroll", key_act(EVE), ADA, BOB, approval=fourth)
    story.enrol(EVE, approval=fourth)
    story.close(*votes, approval=fourth)
    story.ask(
        fifth,
        kind="WORKFLOW",
        subject="nightly",
        tier=2,
        requirement=replace(REQUIREMENT, people=1, roles=(RoleCount("a", 1),), min_signed=1),
        act={"type": "workflow.approved", "workflow.version": digest(b"w")},
    )
    vote = story.vote(DAN, fifth)
    story.close(vote, approval=fifth)
    story.begin(
        vote, approval=fifth, kind="workflow.approved", tier=2, workflow={"id": "nightly", "version": digest(b"w")}
    )
    story.ask(sixth, kind="RUNBOOK", subject=sixth)
    votes = [story.vote(ADA, sixth), story.vote(DAN, sixth)]
    story.close(*votes, approval=sixth)
    story.begin(*votes, approval=sixth, call="call_01k0000000000000000000000z")
    return story


def honest_changes() -> Story:
    """Tools, a policy, settings, identities, an account and a freeze, each as it may be changed."""
    story = founded()
    acts: list[tuple[str, str, JsonObject, JsonObject]] = [
        ("spec.registered", "tool.approve", TOOL_BODY, TOOL_ACT),
        ("policy.changed", "policy.change", POLICY_BODY, POLICY_ACT),
        ("settings.changed", "settings.change", SETTINGS_BODY, SETTINGS_ACT),
        ("identity.issued", "identity.issue", CERTIFICATE_BODY, {**ISSUE_ACT, "identity": SCOUT}),
    ]
    for number, (kind, subject, body, act) in enumerate(acts):
        story.use(kind, subject, body, act, approval=f"apv_01k000000000000000000001{number:02}")
    issued = "apv_01k00000000000000000000120"
    story.use("identity.issued", "identity.issue", REGISTERED_BODY, {**ISSUE_ACT, "identity": ""}, approval=issued)
    approvals = json.loads(data_of(story.rows[-1]))["approvals"]
    story.append("identity.issued", {**CERTIFICATE_BODY, "identity": "agt_new", "approvals": approvals})
    with_the_vote: list[tuple[str, str, JsonObject, JsonObject]] = [
        (
            "identity.issued",
            "identity.owner",
            {**OWNER_BODY, "approvals": [{"id": "apv_01k00000000000000000000130"}]},
            OWNER_ACT,
        ),
        ("account.mapped", "account.map", {**ACCOUNT_BODY, "approval": "apv_01k00000000000000000000131"}, ACCOUNT_ACT),
        ("unfrozen", "unfreeze", {**FREEZE_BODY, "approval": "apv_01k00000000000000000000132"}, FREEZE_BODY),
    ]
    for number, (kind, subject, body, act) in enumerate(with_the_vote):
        which = f"apv_01k000000000000000000001{30 + number}"
        votes = story.agree(subject, {"type": kind, **act}, ADA, BOB, approval=which)
        story.append(kind, body)
        story.close(*votes, approval=which)
    story.ran(1)
    story.ran(2)
    story.register_tool(2)
    story.ran(2)
    story.append("policy.changed", {"policy_digest": digest(b"3"), "before": NEXT_POLICY, "sensitive": False})
    story.append(
        "settings.changed",
        {**SETTINGS_BODY, "in_force": {"settings": digest(b"4")}, "before": SETTLED, "sensitive": False},
    )
    tools = tools_digest({TOOL: ToolStanding(Registered(TOOL, VERSION, 2, 2, SURFACE), None)})
    in_force: JsonObject = {"tools": tools, "settings": digest(b"4")}
    story.append("settings.changed", {"in_force": {"tools": tools}, "before": ""})
    story.append("heartbeat", {"policy_digest": digest(b"3"), "in_force": in_force})
    return story


NEXT_POLICY, SETTLED = digest(b"policy 2"), digest(b"settings 2")
POLICY_BODY: JsonObject = {"policy_digest": NEXT_POLICY, "before": digest(b"policy")}
POLICY_ACT: JsonObject = {**POLICY_BODY}
SETTINGS_BODY: JsonObject = {"in_force": {"settings": SETTLED}, "before": digest(b"settings 1")}
SETTINGS_ACT: JsonObject = {"in_force.settings": SETTLED, "before": digest(b"settings 1")}
TOOL_BODY: JsonObject = {"tool": {"name": TOOL, "version": VERSION}, "tier": 1, "declared": 1, "surface": SURFACE}
TOOL_ACT: JsonObject = {"tool.name": TOOL, "tool.version": VERSION, "tier": 1, "surface": SURFACE}
ISSUE_ACT: JsonObject = {"kind": "agent", "lineage.owner": ADA, "key_digest": digest(b"key")}
_WHO: JsonObject = {"kind": "agent", "lineage": {"owner": ADA, "registrar": ADA}}
REGISTERED_BODY: JsonObject = {**_WHO, "identity": "agt_new", "change": "registered"}
CERTIFICATE_BODY: JsonObject = {**_WHO, "identity": SCOUT, "change": "certificate", "key_digest": digest(b"key")}
OWNER_BODY: JsonObject = {**_WHO, "identity": SCOUT, "change": "owner"}
OWNER_ACT: JsonObject = {"identity": SCOUT, "lineage.owner": ADA}
ACCOUNT_BODY: JsonObject = {"person": ADA, "sealed": {"index": 1, "commit": "c0ffee"}}
ACCOUNT_ACT: JsonObject = {"person": ADA, "sealed.commit": "c0ffee"}
FREEZE_BODY: JsonObject = {"scope": "tool", "target": TOOL}


def test_what_is_changed_as_it_may_be_is_found_right() -> None:
    report = honest_changes().report()
    assert report.verdict is Verdict.OK, report.place
    assert report.votes is not None
    assert (report.votes.acts, report.votes.votes, report.votes.signatures) == (9, 16, 19)
    assert [item.type for item in report.votes.alone] == ["policy.changed", "settings.changed"]


def test_what_is_right_is_found_right() -> None:
    report = honest().report()
    assert report.verdict is Verdict.OK, report.place
    assert report.votes is not None
    assert (report.votes.acts, report.votes.votes, report.votes.signatures) == (6, 14, 17)
    assert [(item.person, item.key) for item in report.votes.attested] == [(CYD, id_of(signer_of(BOT)))]


def intent_without_approvals() -> Story:
    story = founded()
    story.append("intent", {"call_id": CALL, "tier": 4, "lineage": LINEAGE})
    return story


def intent_with_an_empty_list() -> Story:
    story = founded()
    story.append("intent", {"call_id": CALL, "tier": 4, "lineage": LINEAGE, "approvals": []})
    return story


def intent_that_says_no_tier() -> Story:
    story = founded()
    story.append("intent", {"call_id": CALL, "lineage": LINEAGE})
    return story


def intent_of_a_tier_that_is_none() -> Story:
    story = founded()
    story.append("intent", {"call_id": CALL, "tier": "1", "lineage": LINEAGE})
    return story


BACK: JsonObject = {"digest": digest(b"what takes it back"), "state": "UNDOING"}
SHELF: JsonObject = {"name": TOOL, "version": VERSION}


def _agreed(on_failure: str, end: str = "unknown") -> Story:
    """A call to which two people agreed, with what is to happen where its end isn't known; and its end."""
    story = asked()
    votes = [story.vote(ADA), story.vote(BOB)]
    story.close(*votes)
    effect: JsonObject = {"outside": {"on_failure": on_failure, "undo": BACK["digest"]}}
    intent = story.begin(*votes, effect=effect)
    if end:
        body: JsonObject = {"call_id": CALL, "intent_seq": intent, "outcome": {"state": end.upper()}, "effect": {}}
        story.append(end, body)
    return story


def _back(story: Story, **changes: JsonValue) -> Story:
    """The call is taken back by itself."""
    intent = next(row.seq for row in story.rows if json.loads(data_of(row))["type"] == "intent")
    body: JsonObject = {"call_id": CALL, "tier": 4, "intent_seq": intent, "undo": BACK}
    story.append("undo.intent", {**body, **changes})
    return story


def test_a_call_that_people_let_be_taken_back_by_itself_may_be_once() -> None:
    story = _back(_agreed("undo"))
    report = story.report()
    assert report.verdict is Verdict.OK, report.place
    assert _both(story.rows) == ([], [])


def undo_without_approvals() -> Story:
    story = founded()
    story.append("undo.intent", {"call_id": CALL, "tier": 4, "undo": BACK})
    return story


def undo_that_says_a_lower_tier_and_that_nobody_agreed_to() -> Story:
    story = founded()
    story.append("undo.intent", {"call_id": CALL, "tier": 1, "undo": BACK})
    return story


def undo_by_itself_that_nobody_let_be() -> Story:
    return _back(_agreed("none"))


def undo_by_itself_of_something_else() -> Story:
    return _back(_agreed("undo"), undo={**BACK, "digest": digest(b"other")})


def undo_by_itself_twice() -> Story:
    return _back(_back(_agreed("undo")))


def undo_by_itself_of_another_call() -> Story:
    return _back(_agreed("undo"), call_id=f"{CALL[:-1]}9")


def undo_by_itself_of_what_succeeded() -> Story:
    return _back(_agreed("undo", "outcome"))


def undo_by_itself_before_there_is_an_end() -> Story:
    return _back(_agreed("undo", ""))


def undo_by_itself_at_a_lower_tier() -> Story:
    return _back(_agreed("undo"), tier=3)


def undo_by_itself_of_another_intent() -> Story:
    return _back(_agreed("undo"), intent_seq=0)


def undo_by_itself_by_another_tool() -> Story:
    return _back(_agreed("undo"), tool=SHELF)


def one_person() -> Story:
    story = asked()
    return used(story, story.vote(ADA))


def one_person_with_a_weak_requirement() -> Story:
    story = asked(requirement=replace(REQUIREMENT, people=1, roles=(RoleCount("approver", 1),), min_signed=1))
    return used(story, story.vote(ADA))


def one_person_counted_twice() -> Story:
    story = asked()
    vote = story.vote(ADA)
    return used(story, vote, vote)


def one_person_with_two_votes() -> Story:
    story = asked()
    return used(story, story.vote(ADA), story.vote(ADA))


def one_person_with_two_keys() -> Story:
    second = NumberedSigner(200)
    story = Story()
    story.enrol(ADA, signer=second)
    story.found()
    story.ask()
    first = story.vote(ADA)
    again = replace(story.statement(ADA), key=id_of(second))
    return used(story, first, story.cast(again, signer=second))


def withdrawn_vote() -> Story:
    story = asked()
    votes = [story.vote(ADA), story.vote(BOB)]
    story.vote(BOB, decision="withdraw")
    return used(story, *votes)


def withdrawn_vote_played_in_again() -> Story:
    story = asked()
    first, statement = story.vote(ADA), story.statement(BOB)
    story.cast(statement)
    story.vote(BOB, decision="withdraw")
    return used(story, first, story.cast(statement))


def denied_and_used() -> Story:
    story = asked()
    votes = [story.vote(ADA), story.vote(BOB)]
    story.vote(CYD, decision="deny")
    return used(story, *votes)


def denial_counted_as_a_vote() -> Story:
    story = asked()
    return used(story, story.vote(ADA), story.vote(BOB, decision="deny"))


def forged_signature() -> Story:
    story = asked()
    return used(story, story.vote(ADA), story.cast(story.statement(BOB), signer=signer_of(EVE)))


def vote_by_anothers_key() -> Story:
    story = asked()
    statement = replace(story.statement(BOB), key=id_of(signer_of(CYD)))
    return used(story, story.vote(ADA), story.cast(statement, signer=signer_of(CYD)))


def vote_by_a_key_that_nobody_enrolled() -> Story:
    story = asked()
    return used(story, story.vote(ADA), story.vote(EVE))


def vote_by_a_revoked_key() -> Story:
    story = asked()
    story.revoke(BOB)
    return used(story, story.vote(ADA), story.vote(BOB))


def key_revoked_between_vote_and_use() -> Story:
    story = asked()
    votes = [story.vote(ADA), story.vote(BOB)]
    story.revoke(BOB)
    return used(story, *votes)


def key_enrolled_after_the_vote() -> Story:
    story = asked()
    votes = [story.vote(ADA), story.vote(EVE)]
    story.enrol(EVE)
    return used(story, *votes)


def vote_in_the_name_of_another() -> Story:
    story = asked()
    statement = story.statement(BOB)
    return used(story, story.vote(ADA), story.cast(statement, person=CYD))


def bots_word_as_a_persons_vote() -> Story:
    story = asked(bot=True)
    story.append("vote", json.loads(data_of(_attested_row())))
    return story


def _attested_row() -> Row:
    story = asked(bot=True, requirement=BY_CHAT)
    story.vote(ADA, bot=True)
    return story.rows[-1]


def bot_signs_as_a_person() -> Story:
    story = asked(bot=True)
    statement = replace(story.statement(BOB), key=id_of(signer_of(BOT)))
    return used(story, story.vote(ADA), story.cast(statement, signer=signer_of(BOT)))


def person_attests_as_a_bot() -> Story:
    story = asked(bot=True, requirement=BY_CHAT)
    statement = replace(story.statement(BOB, bot=True), key=id_of(signer_of(ADA)))
    return used(story, story.vote(ADA), story.cast(statement, signer=signer_of(ADA)))


def attested_where_it_may_not_count() -> Story:
    story = asked(bot=True)
    return used(story, story.vote(ADA), story.vote(BOB, bot=True))


def nobody_signs() -> Story:
    story = asked(bot=True, requirement=BY_CHAT)
    return used(story, story.vote(ADA, bot=True), story.vote(BOB, bot=True))


def vote_on_another_envelope() -> Story:
    story = asked()
    statement = replace(story.statement(BOB), envelope_digest=digest(b"another"))
    return used(story, story.vote(ADA), story.cast(statement))


def vote_on_another_text() -> Story:
    story = asked()
    statement = replace(story.statement(BOB), rendering_digest=digest(b"another"))
    return used(story, story.vote(ADA), story.cast(statement))


def vote_of_another_ledger() -> Story:
    story = asked()
    statement = replace(story.statement(BOB), origin="brk_other")
    return used(story, story.vote(ADA), story.cast(statement))


def vote_of_another_approval() -> Story:
    story = asked()
    story.ask(OTHER)
    body: JsonObject = {"id": APPROVAL, "kind": "CALL", "state": "PENDING"}
    statement = replace(story.statement(BOB), approval=OTHER)
    return used(story, story.vote(ADA), story.cast(statement, approval=body))


def vote_of_the_lineage() -> Story:
    story = asked(excluded=(BOB,))
    return used(story, story.vote(ADA), story.vote(BOB))


def lineage_that_was_not_kept_out() -> Story:
    story = asked()
    return used(story, story.vote(ADA), story.vote(BOB), lineage={**LINEAGE, "on_behalf_of": BOB})


def lineage_that_is_not_said() -> Story:
    story = asked()
    return used(story, story.vote(ADA), story.vote(BOB), lineage={})


def vote_after_closing() -> Story:
    story = asked()
    story.close(story.vote(ADA), state="CANCELLED")
    story.vote(BOB)
    return story


def used_after_it_was_cancelled() -> Story:
    story = asked()
    votes = [story.vote(ADA), story.vote(BOB)]
    story.close(state="CANCELLED")
    return used(story, *votes)


def used_after_it_expired() -> Story:
    story = founded()
    story.ask(expires=story.now - timedelta(hours=1))
    return used(story, story.vote(ADA), story.vote(BOB))


def used_twice() -> Story:
    story = founded().run(ADA, BOB)
    story.begin(*_counted(story))
    return story


def used_twice_and_closed_twice() -> Story:
    story = founded().run(ADA, BOB)
    return used(story, *_counted(story))


def _counted(story: Story) -> list[int]:
    return [row.seq for row in story.rows if json.loads(data_of(row))["type"] == "vote" and isinstance(row.seq, int)]


def begun_without_the_use() -> Story:
    story = asked()
    story.begin(story.vote(ADA), story.vote(BOB))
    return story


def another_call() -> Story:
    story = asked()
    return used(story, story.vote(ADA), story.vote(BOB), call="call_01k00000000000000000000009")


def another_envelope_begins() -> Story:
    story = asked()
    return used(story, story.vote(ADA), story.vote(BOB), envelope_digest=digest(b"another"))


def another_text_begins() -> Story:
    story = asked()
    return used(story, story.vote(ADA), story.vote(BOB), rendering_digest=digest(b"another"))


def closed_on_another_envelope() -> Story:
    story = asked()
    story.close(story.vote(ADA), story.vote(BOB), envelope=digest(b"another"))
    return story


def another_tier() -> Story:
    story = asked(tier=3)
    return used(story, story.vote(ADA), story.vote(BOB))


def votes_other_than_those_used() -> Story:
    story = asked()
    votes = [story.vote(ADA), story.vote(BOB), story.vote(CYD)]
    story.close(*votes[:2])
    story.begin(*votes[1:])
    return story


def votes_that_are_none() -> Story:
    story = asked()
    return used(story, 0, 1)


def request_before_the_founding() -> Story:
    story = Story()
    for person in (ADA, BOB, CYD):
        story.enrol(person)
    return story.run(ADA, BOB)


def founding_with_two_acceptances() -> Story:
    story = Story()
    for person in (ADA, BOB, CYD):
        story.enrol(person)
    story.accept(ADA)
    story.accept(BOB)
    story.complete(ADA, BOB)
    return story.run(ADA, BOB)


def founding_with_a_forged_acceptance() -> Story:
    story = Story()
    for person in (ADA, BOB, CYD):
        story.enrol(person)
    story.accept(ADA)
    story.accept(BOB)
    story.append("approver.accepted", {**json.loads(data_of(story.rows[-1])), "person": CYD})
    return story


def founding_of_other_keys() -> Story:
    story = Story()
    for person in (ADA, BOB, CYD):
        story.enrol(person)
    for person in (ADA, BOB, CYD):
        story.accept(person)
    story.enrol(EVE)
    story.complete(ADA, BOB, CYD)
    return story


def acceptance_of_another_founding() -> Story:
    story = Story()
    story.enrol(ADA)
    story.accept(ADA, founding=digest(b"another"))
    return story


class Bare(Story):
    """A ledger in which nothing says what is in force."""

    def stand(self) -> None:
        """Nothing."""


def nothing_on_record() -> Story:
    story = Bare()
    story.append("policy.changed", {"policy_digest": digest(b"p"), "rules": 1})
    return story.found()


def bot_before_the_founding() -> Story:
    story = Story()
    story.enrol(BOT, "bot")
    return story.found()


def account_before_the_founding(kind: str = "account.mapped") -> Story:
    story = Story()
    story.append(kind, {"person": ADA, "sealed": {}, "by": EVE, "approval": ""})
    return story.found()


def account_taken_away_before_the_founding() -> Story:
    return account_before_the_founding("account.unmapped")


def agent_that_a_founder_was_not_shown() -> Story:
    """The broker has shown all but the last entry to the third, who has signed what was shown."""
    story = Story()
    for person in (ADA, BOB, CYD):
        story.enrol(person)
    shown = story.founding
    story.register("agt_01k0000000000000000000000x", owner=EVE)
    story.accept(ADA)
    story.accept(BOB)
    story.accept(CYD, founding=shown)
    story.complete(ADA, BOB, CYD)
    return story


def swapped(change: Callable[[Story], object], *, after: int = 1) -> Story:
    """Three people accept, and after so many of them something is changed; the founding is completed all the same."""
    story, people = Story(), (ADA, BOB, CYD)
    for person in people:
        story.enrol(person)
    for place, person in enumerate(people):
        if place == after:
            change(story)
        story.accept(person)
    if after == len(people):
        change(story)
    story.complete(*people)
    return story


def policy_swapped() -> Story:
    return swapped(lambda story: story.append("policy.changed", {"policy_digest": digest(b"other"), "rules": 1}))


def policy_swapped_by_a_start() -> Story:
    return swapped(lambda story: story.start(policy=digest(b"other")), after=2)


def policy_swapped_and_back() -> Story:
    def change(story: Story) -> None:
        story.start(policy=digest(b"other"))
        story.start()

    return swapped(change, after=2)


def tiers_or_settings_swapped() -> Story:
    other = {"in_force": {"settings": digest(b"other")}, "before": SETTINGS}
    return swapped(lambda story: story.append("settings.changed", other))


def settings_swapped_after_the_last() -> Story:
    return swapped(lambda story: story.start(settings=digest(b"other")), after=3)


def tools_swapped() -> Story:
    return swapped(lambda story: story.start(tools=digest(b"other")), after=2)


def owner_swapped() -> Story:
    return swapped(lambda story: story.give(SCOUT, ADA))


def owner_swapped_after_the_last() -> Story:
    return swapped(lambda story: story.give(SCOUT, ADA), after=3)


def certificate_slipped_in() -> Story:
    return swapped(lambda story: story.certify(BOB, "a second one"), after=2)


def person_slipped_in() -> Story:
    return swapped(lambda story: story.register("hum_01k0000000000000000000000x"), after=2)


def founding_twice() -> Story:
    story = founded()
    story.complete(ADA, BOB, CYD)
    return story


def key_enrolled_by_nobody() -> Story:
    story = founded()
    story.enrol(EVE)
    return story


def key_enrolled_by_one_person() -> Story:
    story = asked(kind="ADMINISTRATION", subject="key.enroll", act=key_act(EVE))
    story.vote(ADA)
    story.enrol(EVE, approval=APPROVAL)
    return story


def key_enrolled_by_anothers_approval() -> Story:
    story = asked(kind="ADMINISTRATION", subject="account.map", act=key_act(EVE))
    story.vote(ADA)
    story.vote(BOB)
    story.enrol(EVE, approval=APPROVAL)
    return story


def two_keys_by_one_approval() -> Story:
    story = asked(kind="ADMINISTRATION", subject="key.enroll", act=key_act(EVE))
    story.vote(ADA)
    story.vote(BOB)
    story.enrol(EVE, approval=APPROVAL)
    story.enrol(EVE, approval=APPROVAL, signer=NumberedSigner(200))
    return story


def administration_that_is_not_used_up() -> Story:
    story = asked(kind="ADMINISTRATION", subject="key.enroll", act=key_act(EVE))
    story.vote(ADA)
    story.vote(BOB)
    story.enrol(EVE, approval=APPROVAL)
    story.close(state="CANCELLED")
    return story


def a_freeze_ended_by_nobody() -> Story:
    story = founded()
    story.append("unfrozen", {"scope": "all", "target": "", "by": EVE, "approval": ""})
    return story


def a_workflow_approved_by_nobody() -> Story:
    story = founded()
    story.append(
        "workflow.approved", {"workflow": {"id": "nightly", "version": digest(b"w")}, "tier": 1, "approvals": []}
    )
    return story


def tool_at_a_low_tier() -> Story:
    story = founded()
    story.register_tool(1)
    return story


def call_of_a_tool_that_was_held() -> Story:
    story = founded()
    story.register_tool(4, declared=1)
    story.ran(1)
    return story


def undo_of_a_tool_that_was_held() -> Story:
    story = founded()
    story.register_tool(4, declared=1)
    story.ran(3, kind="undo.intent")
    return story


def call_of_a_tool_that_nobody_registered() -> Story:
    story = founded()
    story.ran(0)
    return story


def call_that_names_no_tool() -> Story:
    story = founded()
    story.append("intent", {"call_id": CALL, "tier": 1})
    return story


def call_of_another_version() -> Story:
    story = before_the_founding(registered(1))
    story.ran(1, version=digest(b"another"))
    return story


def call_below_the_tier_before_the_founding() -> Story:
    story = Story()
    story.register_tool(4)
    story.ran(1)
    return story


def tool_that_does_something_else() -> Story:
    story = before_the_founding(registered(1))
    story.register_tool(1, surface=digest(b"reaches more"), version=digest(b"another"))
    return story


def tool_that_says_nothing_of_what_it_does() -> Story:
    story = before_the_founding(registered(1))
    story.register_tool(1, surface="")
    return story


def tool_at_a_lower_tier() -> Story:
    story = before_the_founding(registered(3))
    story.register_tool(2)
    return story


def tool_that_was_raised_and_lowered() -> Story:
    story = before_the_founding(registered(1))
    story.register_tool(3)
    story.register_tool(1)
    return story


def tool_below_what_it_asks_for() -> Story:
    story = before_the_founding(registered(1))
    story.register_tool(2, declared=4)
    return story


def tool_by_anothers_approval() -> Story:
    story = founded()
    story.use("spec.registered", "tool.approve", TOOL_BODY, {**TOOL_ACT, "tool.name": "files.read"})
    return story


def tool_by_an_approval_of_a_higher_tier() -> Story:
    story = founded()
    story.use("spec.registered", "tool.approve", TOOL_BODY, {**TOOL_ACT, "tier": 2})
    return story


def tool_by_an_approval_of_something_else() -> Story:
    story = founded()
    story.use("spec.registered", "policy.change", TOOL_BODY, TOOL_ACT)
    return story


def tool_by_an_approval_that_says_nothing() -> Story:
    story = founded()
    story.use("spec.registered", "tool.approve", TOOL_BODY, {})
    return story


def tools_that_are_not_those_registered() -> Story:
    story = Story()
    story.register_tool(4)
    story.append("settings.changed", {"in_force": {"tools": digest(b"at tier 4, said to founders")}, "before": ""})
    return story


def before_the_founding(*steps: Callable[[Story], object]) -> Story:
    story = Story()
    for step in steps:
        step(story)
    return story.found()


def registered(tier: int) -> Callable[[Story], None]:
    """A tool's registration before the founding, and that it is in force."""

    def step(story: Story) -> None:
        story.register_tool(tier)
        story.tools(Registered(TOOL, VERSION, tier, tier, SURFACE))

    return step


def policy_by_nobody() -> Story:
    story = founded()
    story.append("policy.changed", POLICY_BODY)
    return story


def policy_that_goes_on_from_one_that_nobody_agreed_to() -> Story:
    story = founded()
    story.append("policy.changed", {**POLICY_BODY, "before": digest(b"nobody's"), "sensitive": False})
    return story


def policy_by_anothers_approval() -> Story:
    story = founded()
    story.use("policy.changed", "policy.change", POLICY_BODY, {**POLICY_ACT, "policy_digest": digest(b"other")})
    return story


def policy_that_only_a_start_names() -> Story:
    story = before_the_founding(lambda story: story.append("policy.changed", {"policy_digest": digest(b"policy")}))
    story.append("heartbeat", {"policy_digest": NEXT_POLICY, "in_force": {}})
    return story


def settings_by_nobody() -> Story:
    story = founded()
    story.append("settings.changed", SETTINGS_BODY)
    return story


def settings_by_an_approval_of_others() -> Story:
    story = founded()
    story.use("settings.changed", "settings.change", SETTINGS_BODY, {**SETTINGS_ACT, "before": digest(b"other")})
    return story


def identity_by_nobody() -> Story:
    story = founded()
    story.append("identity.issued", REGISTERED_BODY)
    return story


def certificate_for_another_key() -> Story:
    story = founded()
    act = {**ISSUE_ACT, "identity": SCOUT, "key_digest": digest(b"agreed")}
    story.use("identity.issued", "identity.issue", CERTIFICATE_BODY, act)
    return story


def certificate_of_another_agent() -> Story:
    story = founded()
    story.use("identity.issued", "identity.issue", CERTIFICATE_BODY, {**ISSUE_ACT, "identity": "agt_other"})
    return story


def two_certificates_by_one_approval() -> Story:
    story = founded()
    story.use("identity.issued", "identity.issue", CERTIFICATE_BODY, {**ISSUE_ACT, "identity": SCOUT})
    story.append("identity.issued", json.loads(data_of(story.rows[-1])))
    return story


def two_people_registered_by_one_approval() -> Story:
    story = founded()
    story.use("identity.issued", "identity.issue", REGISTERED_BODY, {**ISSUE_ACT, "identity": ""})
    again = json.loads(data_of(story.rows[-1]))
    story.append("identity.issued", {**again, **CERTIFICATE_BODY, "identity": "agt_other"})
    return story


def owner_by_nobody() -> Story:
    story = founded()
    story.append("identity.issued", OWNER_BODY)
    return story


def another_owner_than_was_agreed_to() -> Story:
    story = founded()
    story.agree("identity.owner", {"type": "identity.issued", **OWNER_ACT, "lineage.owner": BOB}, CYD, DAN)
    story.append("identity.issued", {**OWNER_BODY, "approvals": [{"id": APPROVAL}]})
    return story


def another_account_than_was_agreed_to() -> Story:
    story = founded()
    story.agree("account.map", {"type": "account.mapped", **ACCOUNT_ACT, "sealed.commit": "other"}, BOB, CYD)
    story.append("account.mapped", {**ACCOUNT_BODY, "approval": APPROVAL})
    return story


def another_freeze_than_was_agreed_to() -> Story:
    story = founded()
    story.agree("unfreeze", {"type": "unfrozen", **FREEZE_BODY}, BOB, CYD)
    story.append("unfrozen", {"scope": "all", "target": "", "approval": APPROVAL})
    return story


def another_key_than_was_agreed_to() -> Story:
    story = asked(kind="ADMINISTRATION", subject="key.enroll", act=key_act(EVE))
    story.vote(ADA)
    story.vote(BOB)
    story.enrol(EVE, approval=APPROVAL, signer=NumberedSigner(200))
    return story


def key_of_another_id() -> Story:
    story = Story()
    story.append(
        "key.enrolled",
        {
            **json.loads(data_of(_enrolled())),
            "key": {"id": digest(b"x"), "kind": "approver", "public_key": "AAAA"},
        },
    )
    return story


def _enrolled() -> Row:
    story = Story()
    story.enrol(ADA)
    return story.rows[-1]


def key_enrolled_twice() -> Story:
    story = Story()
    story.enrol(ADA)
    story.enrol(BOB, signer=signer_of(ADA))
    return story


ATTACKS: dict[Callable[[], Story], tuple[str, str]] = {
    # What is done -> the member that is found, and a part of why.
    intent_without_approvals: ("approvals", "nobody's agreement is named, and it needs that of people"),
    intent_with_an_empty_list: ("approvals", "nobody's agreement is named, and it needs that of people"),
    intent_that_says_no_tier: ("approvals", "nobody's agreement is named, and it needs that of people"),
    intent_of_a_tier_that_is_none: ("approvals", "nobody's agreement is named, and it needs that of people"),
    undo_without_approvals: ("undo.digest", "is not what was agreed to, should the call's end not be known"),
    undo_that_says_a_lower_tier_and_that_nobody_agreed_to: ("undo.digest", "is not what was agreed to"),
    undo_by_itself_that_nobody_let_be: ("undo.digest", "is not what was agreed to"),
    undo_by_itself_of_something_else: ("undo.digest", "is not what was agreed to"),
    undo_by_itself_twice: ("undo.digest", "is not what was agreed to"),
    undo_by_itself_of_another_call: ("undo.digest", "is not what was agreed to"),
    undo_by_itself_of_what_succeeded: ("undo.digest", "is not what was agreed to"),
    undo_by_itself_before_there_is_an_end: ("call_id", "names a call whose end was known"),
    undo_by_itself_at_a_lower_tier: ("intent_seq", "is not that of the call's intent"),
    undo_by_itself_of_another_intent: ("intent_seq", "is not that of the call's intent"),
    undo_by_itself_by_another_tool: ("intent_seq", "is not that of the call's intent"),
    one_person: ("approval.votes", "1 people have agreed to"),
    one_person_with_a_weak_requirement: ("approval.votes", "1 people have agreed to"),
    one_person_counted_twice: ("approval.votes", "1 people have agreed to"),
    one_person_with_two_votes: ("approval.votes", "entry {1} is no vote for"),
    one_person_with_two_keys: ("approval.votes", "entry {2} is no vote for"),
    withdrawn_vote: ("approval.votes", "entry {2} is no vote for"),
    withdrawn_vote_played_in_again: ("vote.statement", "is not later than the person's vote before: it was played in"),
    denied_and_used: ("approval.votes", "was denied"),
    denial_counted_as_a_vote: ("approval.votes", "was denied"),
    forged_signature: ("vote.signature", "is not the signature of this statement by the key"),
    vote_by_anothers_key: ("vote.statement", "is in the name of"),
    vote_by_a_key_that_nobody_enrolled: ("vote.statement", "which no entry before this one enrolled"),
    vote_by_a_revoked_key: ("vote.statement", "which was revoked before"),
    key_revoked_between_vote_and_use: ("approval.votes", "which was revoked before"),
    key_enrolled_after_the_vote: ("vote.statement", "which no entry before this one enrolled"),
    vote_in_the_name_of_another: ("person", "names the person"),
    bots_word_as_a_persons_vote: ("type", "a bot's word stands as a person's vote, or the other way rou"),
    bot_signs_as_a_person: ("vote.statement", "is by a key of the kind bot"),
    person_attests_as_a_bot: ("vote.statement", "is by a key of the kind approver"),
    attested_where_it_may_not_count: ("channel", "approves by slack, which the requirement doesn't let count"),
    nobody_signs: ("approval.votes", "themselves; it takes 1"),
    vote_on_another_envelope: ("vote.statement", "names the envelope"),
    vote_on_another_text: ("vote.statement", "names the rendering"),
    vote_of_another_ledger: ("vote.statement", "names the ledger"),
    vote_of_another_approval: ("vote.statement", "names the approval"),
    vote_of_the_lineage: ("person", "is in the request's lineage, or it is about them"),
    lineage_that_was_not_kept_out: ("approvals.votes", "entry {2} is the vote of"),
    lineage_that_is_not_said: ("lineage", "is missing, or no object"),
    vote_after_closing: ("approval.id", "is not open"),
    used_after_it_was_cancelled: ("approval.id", "is not open"),
    used_after_it_expired: ("ts", "had expired"),
    used_twice: ("approvals.id", "was used for something else before"),
    used_twice_and_closed_twice: ("approval.id", "was closed before"),
    begun_without_the_use: ("approvals.id", "was not used for this"),
    another_call: ("approvals.id", "is about something else"),
    another_envelope_begins: ("approvals.envelope_digest", "is not the one of"),
    another_text_begins: ("approvals.rendering_digest", "is not the one of"),
    closed_on_another_envelope: ("approval.envelope_digest", "is not that of the request"),
    another_tier: ("tier", "was for tier 3"),
    votes_other_than_those_used: ("approvals.votes", "are not those by which"),
    votes_that_are_none: ("approval.votes", "entry 0 is no vote for"),
    request_before_the_founding: ("type", "comes before 3 people have accepted the founding"),
    founding_with_two_acceptances: ("people", "2 people have accepted the founding that is in force here"),
    founding_with_a_forged_acceptance: ("statement", "is another person's, by another key or of another founding t"),
    founding_of_other_keys: ("people", "0 people have accepted the founding that is in force here"),
    acceptance_of_another_founding: ("founding_digest", "is not that of what stood then, as of entry"),
    nothing_on_record: ("founding_digest", "no entry before it names what is in force: settings, tools"),
    bot_before_the_founding: ("key.kind", "is a bot's, and comes before the founding: nobody agreed to it"),
    account_before_the_founding: ("type", "comes before the founding: nobody agreed to whose the account is"),
    account_taken_away_before_the_founding: (
        "type",
        "comes before the founding: nobody agreed to whose the account is",
    ),
    agent_that_a_founder_was_not_shown: ("founding_digest", "is not that of what stood then, as of entry"),
    policy_swapped: ("people", "2 people have accepted the founding that is in force here"),
    policy_swapped_by_a_start: ("people", "1 people have accepted the founding that is in force here"),
    policy_swapped_and_back: ("people", "1 people have accepted the founding that is in force here"),
    tiers_or_settings_swapped: ("people", "2 people have accepted the founding that is in force here"),
    settings_swapped_after_the_last: ("people", "0 people have accepted the founding that is in force here"),
    tools_swapped: ("in_force.tools", "is not the digest of the tools that are registered"),
    owner_swapped: ("people", "2 people have accepted the founding that is in force here"),
    owner_swapped_after_the_last: ("people", "0 people have accepted the founding that is in force here"),
    certificate_slipped_in: ("people", "1 people have accepted the founding that is in force here"),
    person_slipped_in: ("people", "1 people have accepted the founding that is in force here"),
    founding_twice: ("type", "the founding was complete before"),
    key_enrolled_by_nobody: ("approval", "the founding is complete, and no open approval of this act i"),
    key_enrolled_by_one_person: ("approval", "1 people have agreed to"),
    key_enrolled_by_anothers_approval: ("approval", "is about something else"),
    two_keys_by_one_approval: ("approval", "the founding is complete, and no open approval of this act i"),
    administration_that_is_not_used_up: ("approval.state", "ends as not used what has been acted on"),
    a_freeze_ended_by_nobody: ("approval", "the founding is complete, and no open approval of this act i"),
    a_workflow_approved_by_nobody: ("approvals", "nobody's agreement is named, and it needs that of people"),
    tool_at_a_low_tier: ("approvals", "nobody's agreement is named, and it needs that of people"),
    call_of_a_tool_that_was_held: ("tier", "runs at 4"),
    undo_of_a_tool_that_was_held: ("undo.digest", "is not what was agreed to"),
    call_of_a_tool_that_nobody_registered: ("tier", "runs at 4"),
    call_that_names_no_tool: ("tier", "runs at 4"),
    call_of_another_version: ("tier", "runs at 4"),
    call_below_the_tier_before_the_founding: ("tier", "runs at 4"),
    tool_that_does_something_else: ("approvals", "nobody's agreement is named, and it needs that of people"),
    tool_that_says_nothing_of_what_it_does: ("approvals", "nobody's agreement is named, and it needs that of people"),
    tool_at_a_lower_tier: ("approvals", "nobody's agreement is named, and it needs that of people"),
    tool_that_was_raised_and_lowered: ("approvals", "nobody's agreement is named, and it needs that of people"),
    tool_below_what_it_asks_for: ("tier", "runs below tier 4, which its specification asks for"),
    tool_by_anothers_approval: ("tool.name", "is about files.read"),
    tool_by_an_approval_of_a_higher_tier: ("tier", "is about 2"),
    tool_by_an_approval_of_something_else: ("approvals.id", "is about something else"),
    tool_by_an_approval_that_says_nothing: ("tool.name", "is about None"),
    tools_that_are_not_those_registered: ("in_force.tools", "is not the digest of the tools that are registered"),
    policy_by_nobody: ("approvals", "nobody's agreement is named, and it needs that of people"),
    policy_that_goes_on_from_one_that_nobody_agreed_to: ("approvals", "nobody's agreement is named"),
    policy_by_anothers_approval: ("policy_digest", "is about"),
    policy_that_only_a_start_names: ("in_force.policy", "is not the one that was put into force"),
    settings_by_nobody: ("approvals", "nobody's agreement is named, and it needs that of people"),
    settings_by_an_approval_of_others: ("before", "is about"),
    identity_by_nobody: ("approvals", "nobody's agreement is named, and it needs that of people"),
    certificate_for_another_key: ("key_digest", "is about"),
    certificate_of_another_agent: ("identity", "is about another"),
    two_certificates_by_one_approval: ("approvals.id", "was used for something else before"),
    two_people_registered_by_one_approval: ("approvals.id", "was used for something else before"),
    owner_by_nobody: ("approvals", "nobody's agreement is named, and it needs that of people"),
    another_owner_than_was_agreed_to: ("lineage.owner", "is about"),
    another_account_than_was_agreed_to: ("sealed.commit", "is about other"),
    another_freeze_than_was_agreed_to: ("scope", "is about tool"),
    another_key_than_was_agreed_to: ("key.id", "is about"),
    key_of_another_id: ("key.id", "is not the digest of this public key"),
    key_enrolled_twice: ("key.id", "was enrolled before"),
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_it_is_found_and_said_where(attack: Callable[[], Story]) -> None:
    story = attack()
    report = story.report()
    assert verify(story.rows).verdict is Verdict.OK, "the chain itself is right"
    assert report.verdict is Verdict.VOTES_INVALID
    assert report.place is not None
    member, why = ATTACKS[attack]
    assert report.place.field == member
    # Numbers of entries as they follow on the founding.
    assert why.format(*range(len(founded().rows), len(founded().rows) + 3)) in report.place.why
    assert report.entries == len(story.rows), "all of it was looked at"


def _both(rows: list[Row]) -> tuple[list[tuple[int | None, str]], list[tuple[int | None, str]]]:
    """Where the broker's verifier, and the one that lies in bundles, find something."""
    ours = Votes()
    found: dict[str, Any] = {}
    theirs = verify_bundle.Votes(found)
    for row in rows:
        data = data_of(row)
        entry = json.loads(data)
        if concerns(entry["type"], entry):
            ours.entry(entry["seq"], data, entry)
        ran = ran_of(entry["type"], entry)
        if ran is not None:
            ours.ran(entry["seq"], *ran)
        theirs.entry(entry["seq"], entry, leaf_hash(data).hex())
    report = ours.report()
    assert (report.acts, report.votes, report.found) == (found["acts"], found["votes"], found["found"])
    assert [(item.seq, item.type) for item in report.alone] == [(item["seq"], item["type"]) for item in found["alone"]]
    return [(item.seq, item.field) for item in report.findings], [
        (item["seq"], item["field"]) for item in found["findings"]
    ]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_the_bundles_verifier_finds_the_same(attack: Callable[[], Story]) -> None:
    ours, theirs = _both(attack().rows)
    assert ours
    assert theirs == ours


def test_a_start_that_changes_nothing_voids_nothing() -> None:
    story = swapped(lambda story: story.start(), after=2)
    assert story.report().verdict is Verdict.OK
    assert _both(story.rows) == ([], [])


OWN = {"v", "origin", "seq", "prev", "type", "ts", "boot_id"}
FREE = {
    # What no check rests on: it is the broker's word about itself, or said elsewhere too.
    *(("approval.requested", name) for name in ("approval.obj", "approval.requester", "approval.created", "workspace")),
    *(("approval.requested", f"approval.requirement.{name}") for name in ("expiry_s", "cooldown_s", "max_pending")),
    ("approval.requested", "approval.requirement.exclude_tool_owner"),
    ("approval.requested", "approval.requirement.roles.0.role"),
    ("approval.requested", "call_id"),
    *(
        (kind, name)
        for kind in ("vote", "vote.attested")
        for name in ("call_id", "workspace", "approval.kind", "approval.state")
    ),
    *(("approval.closed", name) for name in ("call_id", "workspace", "tier", "approval.kind", "approval.subject")),
    ("key.enrolled", "by"),
    *(("key.revoked", name) for name in ("by", "person")),
    *(("intent", name) for name in ("workspace", "workflow")),
    *(("intent", f"lineage.{name}") for name in ("owner", "registrar", "starter", "on_behalf_of", "proofs")),
    *(("workflow.approved", name) for name in ("call_id", "workspace")),
    *(("workflow.approved", f"lineage.{name}") for name in ("owner", "registrar", "starter", "on_behalf_of", "proofs")),
    # Of what nobody acted on, or so that it asks for more, or for another who didn't vote.
    *(("approval.requested", f"approval.{name}") for name in ("excluded.0", "expires", "subject")),
    *(("approval.requested", f"approval.requirement.{name}") for name in ("people", "roles.0.people")),
    ("approval.requested", "tier"),
    ("approval.closed", "approval.votes.0"),
    ("intent", "call_id"),
    ("intent", "tier"),
    # What is bound to an approval, and what the act rests on, is no longer free; the rest is told for people.
    *(("identity.issued", name) for name in ("lineage.registrar", "kind")),
    ("account.mapped", "sealed.index"),
    ("settings.changed", "before"),  # of the tools, each of which has an entry of its own
    ("key.enrolled", "person"),  # a bot's, before the founding
}


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:  # noqa: ANN401 - any JSON
    if isinstance(value, dict) and value:
        return [inner for key, item in value.items() for inner in _paths(item, (*path, key))]
    if isinstance(value, list) and value:
        return [inner for index, item in enumerate(value) for inner in _paths(item, (*path, index))]
    return [path]


def _mutated(value: Any) -> list[Any]:  # noqa: ANN401 - any JSON
    if isinstance(value, bool) or value is None:
        return [not value]
    if isinstance(value, int):
        return [value + 1, True]
    if isinstance(value, str):
        return [f"{value[:-1]}{'0' if value.endswith('1') else '1'}" if value else "x", [value]]
    return ["x"]


@pytest.mark.parametrize(("whole", "first"), [(honest, 0), (honest_changes, len(founded().rows))])
def test_each_member_that_was_changed_is_found_by_both_verifiers(whole: Callable[[], Story], first: int) -> None:
    rows = whole().rows
    missed: set[tuple[str, str]] = set()
    for place, row in enumerate(rows[first:], first):
        entry = json.loads(data_of(row))
        for path in _paths(entry):
            if path[0] in OWN:
                continue
            for new in _mutated(_at(entry, path)):
                changed = json.loads(data_of(row))
                inner = _at(changed, path[:-1])
                inner[path[-1]] = new
                story = rechained(rows, place, changed)
                ours, theirs = _both(story)
                assert [item[0] for item in ours] == [item[0] for item in theirs], (entry["type"], path, new)
                if not ours:
                    missed.add((entry["type"], ".".join(map(str, path))))
    # An outcome concerns no votes.
    assert {item for item in missed if item[0] != "outcome"} - FREE == set()


def _at(value: Any, path: tuple[Any, ...]) -> Any:  # noqa: ANN401 - any JSON
    for part in path:
        value = value[part]
    return value
