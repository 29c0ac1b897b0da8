"""One approver takes everybody else's vote away, so that nothing can run and nobody can be enrolled any more."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from broker.approvals.authority import ApprovedActions
from broker.domain.administration import REVOKE, REVOKE_KEY
from broker.domain.approval import ApprovalState
from broker.domain.approvers import FEWEST, able
from broker.domain.canonical import JsonObject
from broker.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from broker.identity.registry import Registry
from broker.ledger.verdict import Verdict
from broker.pipeline.admin_actions import Context, Shown
from broker.pipeline.administration import request, settle
from tests.approval_core import OPERATOR, Core


def registry(core: Core) -> Registry:
    """The registry, as the broker changes it."""
    return Registry(core.desk.recorder, core.local.vault, ApprovedActions(core.desk))


def revoke_key(core: Core, by: str, whose: str) -> None:
    core.revoke_key(by, core.signers[whose])


def revoke_person(core: Core, by: str, whose: str) -> None:
    who, target = core.people[by].id, core.people[whose].id
    core.write(lambda tx: registry(core).revoke_identity(tx, identity=target, by=who, reason="odd", now=core.now))


def revoke_certificate(core: Core, by: str, whose: str) -> None:
    who, target = core.people[by].id, core.people[whose].id
    mine = core.certificates[target].fingerprint
    core.write(
        lambda tx: registry(core).revoke_certificate(
            tx, identity=target, fingerprint=mine, by=who, reason="odd", now=core.now
        )
    )


Way = Callable[[Core, str, str], None]
WAYS: dict[str, Way] = {"keys": revoke_key, "people": revoke_person, "certificates": revoke_certificate}


def parameters_of(core: Core, way: str, whose: str) -> tuple[str, JsonObject]:
    """The action that takes two, and its parameters."""
    if way == "keys":
        return REVOKE_KEY, {"key": core.signers[whose].id}
    mine = core.certificates[core.people[whose].id].fingerprint
    return REVOKE, {"kind": "human", "name": whose, "fingerprint": mine if way == "certificates" else ""}


@pytest.fixture
def three(core: Core) -> Core:
    """Ada, cyn and dan are left: one person has revoked the others' keys."""
    revoke_key(core, "ada", "bob")
    revoke_key(core, "ada", OPERATOR)
    assert len(core.read(able)) == FEWEST
    return core


@pytest.mark.parametrize("way", WAYS)
def test_one_person_does_not_leave_fewer_than_three(three: Core, way: str) -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        WAYS[way](three, "ada", "dan")
    assert caught.value.reason == "APPROVAL_REQUIRED"
    assert "fewer than 3 people would be left who can vote" in caught.value.message
    action, parameters = parameters_of(three, way, "dan")
    assert caught.value.metadata["action"] == action
    assert json.loads(caught.value.metadata["parameters"]) == parameters
    assert len(three.read(able)) == FEWEST


@pytest.mark.parametrize("way", WAYS)
def test_what_one_person_took_away_in_other_ways_counts_as_well(core: Core, way: str) -> None:
    revoke_person(core, "ada", "bob")
    revoke_certificate(core, "ada", "cyn")
    assert len(core.read(able)) == FEWEST
    with pytest.raises(FailedPreconditionError):
        WAYS[way](core, "ada", "dan")


@pytest.mark.parametrize("way", WAYS)
def test_whose_own_it_is_does_it_at_once(three: Core, way: str) -> None:
    WAYS[way](three, "dan", "dan")
    assert len(three.read(able)) == FEWEST - 1


@pytest.mark.parametrize("way", WAYS)
def test_two_people_do_it(three: Core, way: str) -> None:
    context = Context(three.desk.recorder, three.local.vault, three.desk)
    action, parameters = parameters_of(three, way, "dan")
    asked, _ = three.write(
        lambda tx: request(tx, context, three.caller(OPERATOR), action=action, shown=Shown(parameters), reason="odd")
    )
    for name in ("ada", "cyn"):
        three.vote(name, asked)
        asked = three.write(lambda tx, which=asked.id: settle(tx, context, three.desk.find(tx, which)))  # type: ignore[misc]  # bound now
    if way == "keys":
        assert asked.state is ApprovalState.USED, "the broker does it itself"
    else:
        with pytest.raises(FailedPreconditionError):
            WAYS[way](three, "ada", "dan")  # whoever voted on it doesn't use it
        WAYS[way](three, OPERATOR, "dan")
    assert len(three.read(able)) == FEWEST - 1
    assert three.report().verdict is Verdict.OK
    three.restart()
    with pytest.raises(FailedPreconditionError):
        WAYS[way](three, OPERATOR if way != "keys" else "ada", "cyn")


def test_what_is_asked_for_is_about_somebody_who_is_there(three: Core) -> None:
    context = Context(three.desk.recorder, three.local.vault, three.desk)
    for action, parameters, error in (
        (REVOKE_KEY, {"key": f"sha256:{'0' * 64}"}, NotFoundError),
        (REVOKE_KEY, {"key": three.signers["bob"].id}, NotFoundError),
        (REVOKE, {"kind": "agent", "name": "scout", "fingerprint": ""}, InvalidArgumentError),
        (REVOKE, {"kind": "human", "name": "dan", "fingerprint": "sha256:00"}, InvalidArgumentError),
        (REVOKE, {"kind": "human", "name": "nobody", "fingerprint": ""}, NotFoundError),
    ):
        with pytest.raises(error):
            three.write(
                lambda tx, action=action, given=parameters: request(  # type: ignore[misc]  # bound now
                    tx, context, three.caller(OPERATOR), action=action, shown=Shown(dict(given)), reason=""
                )
            )
