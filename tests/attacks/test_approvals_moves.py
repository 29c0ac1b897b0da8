"""The state machines: explored exhaustively, and driven by concurrent actors against an independent model of the rule."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from itertools import product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.approvals.freezing import check_frozen, freeze, unfreeze
from broker.domain.approval import (
    APPROVAL_MOVES,
    OPEN_STATES,
    Approval,
    ApprovalKind,
    ApprovalState,
    FreezeScope,
    check_approval_move,
)
from broker.domain.call import LEGAL_MOVES, RESTING_STATES, UNASKED_MOVES, CallState, check_move
from broker.domain.canonical import JsonObject
from broker.domain.ports import Transaction
from broker.domain.tier import Tier
from broker.errors import BrokerError, InternalError
from broker.ledger.verdict import Verdict
from broker.signing import Ed25519Signer
from tests.approval_core import APPROVERS, OPERATOR, Core, Kept, make_kept, opened

ACTING = frozenset({CallState.RUNNING, CallState.APPLYING})
"""States in which the tool, or what it prepared, has an effect."""


def paths(start: CallState, avoided: CallState) -> frozenset[CallState]:
    """All states that can be reached without one of them."""
    seen, todo = {start}, [start]
    while todo:
        for after in LEGAL_MOVES[todo.pop()] - seen - {avoided}:
            seen.add(after)
            todo.append(after)
    return frozenset(seen)


def test_what_waits_for_people_never_acts_without_their_agreement() -> None:
    assert not paths(CallState.PENDING_APPROVAL, CallState.APPROVED) & ACTING
    assert paths(CallState.PENDING_APPROVAL, CallState.QUEUED) > ACTING
    # Two moves lead to an act around it, and no call of Tier 4 may make them, whatever the pipeline believes.
    around = {(old, new) for old in CallState for new in LEGAL_MOVES[old] & ACTING if old is not CallState.APPROVED}
    assert around == UNASKED_MOVES
    for old, new in around:
        check_move(old, new, Tier(3))
        with pytest.raises(InternalError):
            check_move(old, new, Tier.AUTONOMOUS)
    assert not any(state in after for after in LEGAL_MOVES.values() for state in (CallState.QUEUED,))


def test_nothing_is_undone_that_never_acted() -> None:
    for state in (CallState.DENIED, CallState.EXPIRED):
        assert CallState.UNDOING not in paths(state, CallState.QUEUED)


def test_what_rests_never_acts_again() -> None:
    for state in RESTING_STATES:
        assert not paths(state, CallState.APPROVED) & ACTING
        assert not LEGAL_MOVES[state] - {CallState.UNDOING, CallState.SUCCEEDED}
    # What took it back may be taken back itself: it stands again, and nothing is done for that.
    assert [state for state in RESTING_STATES if CallState.SUCCEEDED in LEGAL_MOVES[state]] == [CallState.UNDONE]


@pytest.mark.parametrize(("old", "new"), list(product(CallState, CallState)))
def test_each_move_of_a_call_is_let_or_refused(old: CallState, new: CallState) -> None:
    if new in LEGAL_MOVES[old]:
        check_move(old, new)
        return
    with pytest.raises(InternalError) as caught:
        check_move(old, new)
    assert caught.value.reason == "ILLEGAL_STATE_MOVE"


@pytest.mark.parametrize(("old", "new"), list(product(ApprovalState, ApprovalState)))
def test_each_move_of_an_approval_is_let_or_refused(old: ApprovalState, new: ApprovalState) -> None:
    closed = old not in OPEN_STATES
    legal = not closed and new is not old and (new is not ApprovalState.USED or old is ApprovalState.APPROVED)
    assert (new in APPROVAL_MOVES[old]) is legal
    if legal:
        check_approval_move(old, new)
        return
    with pytest.raises(InternalError):
        check_approval_move(old, new)


def test_it_is_used_from_approved_alone() -> None:
    assert {old for old, after in APPROVAL_MOVES.items() if ApprovalState.USED in after} == {ApprovalState.APPROVED}


# the transactional core against a model


@dataclass
class Model:
    """What a reader of the rule would keep on paper; it knows nothing of rows, tallies or ledgers."""

    expires: datetime
    keys: dict[str, str]
    """Person -> the key of the vote that stands."""
    ended: bool = False
    yes: set[str] = field(default_factory=set)


class TwoPeople(RuleBasedStateMachine):
    """Approvers, an operator and time, in any order."""

    kept: Kept

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="two-people-")))
        shutil.copytree(self.kept.folder, folder / "state")
        self.core: Core = self.stack.enter_context(opened(Kept(folder / "state", self.kept.signers)))
        self.revoked_keys: set[str] = set()
        self.revoked_people: set[str] = set()
        self.frozen = False
        self.asked: list[Approval] = []
        self.models: dict[str, Model] = {}
        self.uses: dict[str, int] = {}

    def teardown(self) -> None:
        """Closes the store; what happened must hold before an auditor."""
        report = self.core.report()
        assert report.verdict is Verdict.OK, report.place
        self.stack.close()

    def may(self, person: str) -> bool:
        """Could this person's vote count now?"""
        return person in self.core.approvers and person not in self.revoked_people

    def enough(self, asked: Approval) -> bool:
        """Do two people's signed votes stand now, for something that is open?"""
        model = self.models[asked.id]
        standing = {who for who in model.yes if self.may(who) and model.keys[who] not in self.revoked_keys}
        return not model.ended and self.core.now < model.expires and not self.frozen and len(standing) >= 2

    @initialize()
    def first(self) -> None:
        """Something waits from the beginning."""
        self.ask()

    @precondition(lambda self: len(self.asked) < 3)
    @rule()
    def ask(self) -> None:
        """The agent asks."""
        try:
            asked = self.core.ask()
        except BrokerError as error:
            if error.reason not in {"NOBODY_ELIGIBLE", "COOLING_DOWN", "TOO_MANY_PENDING"}:
                raise
            return
        self.asked.append(asked)
        self.models[asked.id] = Model(asked.expires, {})

    @precondition(lambda self: self.asked)
    @rule(
        who=st.sampled_from((*APPROVERS, OPERATOR)),
        which=st.integers(0, 2),
        decision=st.sampled_from(("approve", "approve", "approve", "deny", "withdraw")),
    )
    def vote(self, who: str, which: int, decision: str) -> None:
        """Somebody votes."""
        self.cast(who, which, decision)

    @precondition(lambda self: self.asked)
    @rule(people=st.permutations(APPROVERS), which=st.integers(0, 2))
    def agree(self, people: list[str], which: int) -> None:
        """Two people say yes, one after the other."""
        for who in people[:2]:
            self.cast(who, which, "approve")

    def cast(self, who: str, which: int, decision: str) -> None:
        """Casts a vote, and notes it where it was taken."""
        asked = self.asked[which % len(self.asked)]
        model = self.models[asked.id]
        try:
            self.core.vote(who, asked, decision)
        except BrokerError:
            return
        key = self.core.signers[who].id
        assert self.may(who), "a vote that was taken is of somebody who may vote"
        assert key not in self.revoked_keys
        assert not model.ended
        assert self.core.now < model.expires
        if decision == "approve":
            model.yes.add(who)
            model.keys[who] = key
        else:
            model.yes.discard(who)
            model.ended |= decision == "deny"

    @rule(who=st.sampled_from(APPROVERS), by=st.sampled_from((*APPROVERS, OPERATOR)))
    def lose_key(self, who: str, by: str) -> None:
        """A key is revoked."""
        if by in self.revoked_people:
            return
        try:
            self.core.revoke_key(by, self.core.signers[who])
        except BrokerError:
            return
        self.revoked_keys.add(self.core.signers[who].id)

    @rule(who=st.sampled_from(APPROVERS))
    def new_key(self, who: str) -> None:
        """The operator enrols a further key, by the library; nobody agreed to it."""
        if len(self.revoked_keys) > 2 or who in self.revoked_people:
            return
        signer = Ed25519Signer.generate()
        others = tuple(name for name in APPROVERS if name != who)
        try:
            self.core.enrol_by_people(who, signer, others[:2])
        except BrokerError:
            return
        self.core.signers[who] = signer

    @rule(who=st.sampled_from(APPROVERS))
    def change_role(self, who: str) -> None:
        """A role is granted or taken away."""
        self.core.approvers ^= {who}

    @precondition(lambda self: not self.revoked_people)
    @rule(who=st.sampled_from(APPROVERS))
    def leave(self, who: str) -> None:
        """A person is revoked."""
        try:
            self.core.revoke_person(who)
        except BrokerError:
            return  # too few would be left who can vote
        self.revoked_people.add(who)
        caller, certificates = self.core.people[OPERATOR], self.core.certificates
        self.core.restart()
        assert caller.id in certificates

    @rule(seconds=st.sampled_from((1.0, 61.0, 61.0, 600.0, 3601.0)))
    def wait(self, seconds: float) -> None:
        """Time passes, and what is over is ended."""
        self.core.later(seconds)
        for asked in self.asked:
            self.core.write(lambda tx, asked=asked: self.core.desk.expire(tx, self.core.desk.find(tx, asked.id)))  # type: ignore[misc]  # bound now

    @precondition(lambda self: self.asked)
    @rule(which=st.integers(0, 2))
    def cancel(self, which: int) -> None:
        """The agent withdraws its request."""
        asked = self.core.now_of(self.asked[which % len(self.asked)])
        if asked.state in OPEN_STATES and asked.expires > self.core.now:
            self.core.write(lambda tx: self.core.desk.close(tx, asked, ApprovalState.CANCELLED, why="withdrawn"))
            self.models[asked.id].ended = True

    @rule(who=st.sampled_from((*APPROVERS, OPERATOR)))
    def freeze(self, who: str) -> None:
        """Somebody stops everything."""
        core = self.core
        if who in self.revoked_people:
            return
        try:
            core.write(
                lambda tx: freeze(
                    tx, core.desk.recorder, core.caller(who), scope=FreezeScope.ALL, target="", now=core.now
                )
            )
        except BrokerError as error:
            if error.reason != "NOT_AN_APPROVER":
                raise
            return
        self.frozen = True

    @precondition(lambda self: self.frozen)
    @rule()
    def unfreeze(self) -> None:
        """Two people let it go on."""
        core = self.core
        able = [who for who in APPROVERS if self.may(who) and core.signers[who].id not in self.revoked_keys]
        try:
            act: JsonObject = {"type": "unfrozen", "scope": "all", "target": ""}
            asked = core.ask(kind=ApprovalKind.ADMINISTRATION, by=OPERATOR, action="unfreeze", act=act)
            for name in able[:2]:
                core.vote(name, asked)
        except BrokerError:
            assert len(able) < 2
            return

        def work(tx: Transaction) -> None:
            by, scope = core.people[OPERATOR].id, FreezeScope.ALL
            unfreeze(tx, core.desk.recorder, scope=scope, target="", by=by, approval=asked.id)
            core.desk.use(tx, asked.id, subject=asked.subject, check=lambda _: None)

        core.write(work)
        assert len(able) >= 2
        self.frozen = False

    @rule()
    def restart(self) -> None:
        """The broker starts again."""
        self.core.restart()

    @precondition(lambda self: self.asked)
    @rule(which=st.integers(0, 2))
    def use(self, which: int) -> None:
        """The call would begin: as the broker's start does it."""
        asked, core = self.asked[which % len(self.asked)], self.core
        wanted = self.enough(asked)

        def work(tx: Transaction) -> None:
            check_frozen(tx, agent=asked.requester, tool=asked.obj, workspace=asked.workspace)
            core.desk.use(tx, asked.id, subject=asked.subject, needed=asked.requirement, check=lambda _: None)

        try:
            core.write(work)
        except BrokerError:
            assert not wanted, "two distinct eligible people's votes stand, and it was refused"
            return
        assert wanted, "it was used, and no two eligible people's votes stand"
        self.models[asked.id].ended = True
        self.uses[asked.id] = self.uses.get(asked.id, 0) + 1

    @rule(
        people=st.permutations(APPROVERS),
        between=st.sampled_from(
            ("", "", "key", "role", "role of another", "withdraw", "deny", "late", "freeze", "restart")
        ),
    )
    def story(self, people: list[str], between: str) -> None:
        """Two people agree, something happens or nothing, and it is used."""
        del self.asked[:-2]
        before = len(self.asked)
        self.ask()
        if len(self.asked) == before:
            return
        which, (first, second, third, _) = len(self.asked) - 1, people
        self.cast(first, which, "approve")
        self.cast(second, which, "approve")
        match between:
            case "key":
                self.lose_key(first, second)
            case "role":
                self.change_role(second)
            case "role of another":
                self.change_role(third)
            case "withdraw":
                self.cast(first, which, "withdraw")
            case "deny":
                self.cast(third, which, "deny")
            case "late":
                self.core.later(3601)
            case "freeze":
                self.freeze(third)
            case "restart":
                self.core.restart()
        self.use(which)

    @invariant()
    def each_is_used_once(self) -> None:
        """Nothing twice; and what has ended in the model is not open to anybody."""
        assert all(count == 1 for count in self.uses.values())
        for asked in self.asked:
            if self.models[asked.id].ended:
                assert self.core.now_of(asked).state not in OPEN_STATES


@pytest.fixture(scope="module")
def kept_once(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """A founded state directory."""
    return make_kept(tmp_path_factory.mktemp("moves"))[1]


def test_no_order_of_steps_runs_what_two_people_have_not_agreed_to(kept_once: Kept) -> None:
    TwoPeople.kept = kept_once
    from hypothesis.stateful import run_state_machine_as_test  # noqa: PLC0415 - only here

    run_state_machine_as_test(
        TwoPeople,
        settings=settings(
            max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
