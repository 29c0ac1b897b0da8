"""The table of states: complete, without a way out of the last states, and no way to an effect but the right ones."""

from __future__ import annotations

import itertools

import pytest

from broker.domain.call import LEGAL_MOVES, RESTING_STATES, CallState, check_move
from broker.domain.tier import Tier
from broker.errors import InternalError, InvalidArgumentError

EFFECTS = {CallState.RUNNING, CallState.APPLYING, CallState.UNDOING}


def test_every_state_stands_in_the_table() -> None:
    assert set(LEGAL_MOVES) == set(CallState)


def test_only_legal_moves_pass() -> None:
    for old, new in itertools.product(CallState, CallState):
        if new in LEGAL_MOVES[old]:
            check_move(old, new)
        else:
            with pytest.raises(InternalError):
                check_move(old, new)


def test_effects_begin_only_after_a_queue_a_plan_or_an_approval_and_undo_only_after_an_end() -> None:
    into = {state: {old for old in CallState if state in LEGAL_MOVES[old]} for state in EFFECTS}
    assert into[CallState.RUNNING] == {CallState.QUEUED, CallState.APPROVED}
    assert into[CallState.APPLYING] == {CallState.PLANNING, CallState.APPROVED}
    assert into[CallState.UNDOING] <= RESTING_STATES


def test_nothing_runs_twice() -> None:
    reachable = set(LEGAL_MOVES[CallState.RUNNING])
    while more := {new for state in reachable for new in LEGAL_MOVES[state]} - reachable:
        reachable |= more
    assert not reachable & {CallState.RUNNING, CallState.APPLYING, CallState.QUEUED}


@pytest.mark.parametrize("text", ["5", "-1", "04", "4.0", "four", "", " 4", "4 ", "10", "٤"])
def test_what_is_no_tier_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        Tier.parse(text)


def test_tiers_compare_as_numbers() -> None:
    assert [Tier.parse(text) for text in "01234"] == sorted(Tier)
