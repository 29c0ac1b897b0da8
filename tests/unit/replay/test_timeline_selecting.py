"""What a timeline selects: every selector, alone and with others, and what it says of what it leaves out."""

from __future__ import annotations

from datetime import timedelta

import pytest

from broker.replay.members import microseconds
from broker.replay.timeline.making import Limits
from broker.replay.timeline.selecting import Looked
from tests.timeline_world import (
    DELETE,
    GUARD,
    LATER,
    LOST,
    PLAIN,
    SESSION,
    UNDO,
    Incident,
    calls_of,
    timeline_of,
)
from tests.votes_world import ADA, BOB, CYD, DAN, EVE, SCOUT, START

OF_SCOUT = {DELETE, UNDO, LOST, LATER}


@pytest.fixture(scope="module")
def incident() -> Incident:
    return Incident().tell()


@pytest.mark.parametrize(
    ("wanted", "calls"),
    [
        ({}, {*OF_SCOUT, PLAIN}),
        ({"call": LOST}, {LOST}),
        ({"agent": SCOUT}, OF_SCOUT),
        ({"agent": GUARD}, {PLAIN}),
        ({"session": SESSION}, OF_SCOUT),
        ({"workflow": "clean-up"}, OF_SCOUT),
        ({"tool": "files.write"}, {DELETE, LOST, LATER}),
        ({"workspace": "lab"}, {PLAIN}),
        ({"data_class": "personal"}, {DELETE}),
        ({"host": "api.example.org"}, {PLAIN}),
        ({"person": ADA}, {DELETE}),
        ({"person": BOB}, OF_SCOUT),
        ({"person": EVE}, {*OF_SCOUT, PLAIN}),
        ({"person": DAN}, set()),
        ({"agent": SCOUT, "tool": "workspace.undo"}, {UNDO}),
        ({"agent": GUARD, "tool": "files.write"}, set()),
        ({"agent": "agt_of_nobody"}, set()),
        ({"call": "call_of_nobody"}, set()),
    ],
)
def test_each_selector_finds_its_calls_and_all_have_to_fit(
    incident: Incident, wanted: dict[str, str], calls: set[str]
) -> None:
    found = timeline_of(incident.story, **wanted)
    assert calls_of(found) == calls
    assert dict(found.selection) == wanted


def test_a_call_that_took_one_back_comes_along_and_is_said_to(incident: Incident) -> None:
    found = timeline_of(incident.story, call=DELETE)
    by_call = {group.name: group.call for group in found.groups}
    assert set(by_call) == {DELETE, UNDO}
    deleted, undo = by_call[DELETE], by_call[UNDO]
    assert deleted is not None
    assert undo is not None
    assert (deleted.selected, deleted.undone_by, deleted.effect) == (True, UNDO, (0, 0, 3))
    assert (undo.selected, undo.undoes) == (False, (DELETE,))
    assert deleted.votes == ((ADA, "approve"), (BOB, "approve"))


def test_times_bound_it(incident: Incident) -> None:
    def at(what: str, seconds: int = 0) -> int:
        return microseconds((START + timedelta(seconds=incident.at[what] + seconds)).isoformat())

    assert calls_of(timeline_of(incident.story, until=at("outcome"))) == {DELETE}
    assert calls_of(timeline_of(incident.story, since=at("restart"))) == {LOST, LATER}, "one is open still"
    assert calls_of(timeline_of(incident.story, since=at("stricter"), until=at("refused"))) == {UNDO}
    refused = timeline_of(incident.story, since=at("refused"), until=at("refused"))
    assert [group.name for group in refused.groups] == [f"entry {incident.at['refused']}"]


def test_acts_and_refused_requests_are_told_where_nothing_asks_for_calls(incident: Incident) -> None:
    acts = {group.name for group in timeline_of(incident.story, agent=SCOUT).groups if group.call is None}
    numbers = (incident.at[name] for name in ("session", "refused", "session end"))
    assert acts >= {f"entry {number}" for number in numbers}
    assert f"entry {incident.at['frozen']}" in {group.name for group in timeline_of(incident.story, person=CYD).groups}
    assert not [group for group in timeline_of(incident.story, data_class="personal").groups if group.call is None]


def test_what_is_left_out_is_counted(incident: Incident) -> None:
    found = timeline_of(incident.story, agent=SCOUT, limits=Limits(groups=1))
    left = {item.what: item.number for item in found.left_out}
    assert left["older calls that fit"] == len(OF_SCOUT) - 1
    assert calls_of(found) == {LATER}, "the newest"
    few = timeline_of(incident.story, session=SESSION, limits=Limits(entries=1))
    assert {item.what: item.number for item in few.left_out}["calls, as there would be too many entries"] == 3


def test_a_file_is_looked_for_in_what_is_kept_and_what_is_erased_is_counted(incident: Incident) -> None:
    asked: list[tuple[list[str], str]] = []

    def look(calls: object, file: str) -> Looked:
        asked.append((list(calls), file))  # type: ignore[call-overload]  # they are names
        return Looked(frozenset({DELETE}), 2)

    found = timeline_of(incident.story, look=look, agent=SCOUT, file="a/*.txt")
    assert calls_of(found) == {DELETE}
    assert asked == [([LATER, LOST, UNDO, DELETE], "a/*.txt")], "only those that fit otherwise"
    assert [item.number for item in found.left_out] == [2]


def test_what_is_around_is_in_no_group_and_says_what_was_in_force(incident: Incident) -> None:
    at = incident.at
    around = {event.seq for event in timeline_of(incident.story, call=DELETE).around}
    assert around >= {at["session"], at["session end"], at["spec"], at["stricter"]}
    assert not around & {at["decision"], at["outcome"], at["restart"]}
    later = {event.seq for event in timeline_of(incident.story, call=LATER).around}
    assert at["frozen"] in later, "it was still in force"
    assert at["frozen"] not in {event.seq for event in timeline_of(incident.story, call=PLAIN).around}
