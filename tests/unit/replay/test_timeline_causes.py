"""Which entries an entry came of, and that none ever stands before one of them."""

from __future__ import annotations

import pytest

from broker.replay.timeline.causes import Causes
from broker.replay.timeline.model import Kept, Lane, Tone
from tests.timeline_world import DELETE, LATER, LOST, Incident, casebook_of, events_of, timeline_of
from tests.votes_world import ADA, BOB, SCOUT, Story


@pytest.fixture(scope="module")
def incident() -> Incident:
    return Incident().tell()


def test_each_step_names_the_ones_that_it_came_of(incident: Incident) -> None:
    at, found = incident.at, events_of(timeline_of(incident.story))

    def causes(name: str) -> set[int]:
        return set(found[at[name]].causes)

    assert causes("decision") >= {at["session"], at["spec"]}
    assert causes("plan") == {at["decision"]}
    assert causes("artifact") == {at["plan"]}
    assert causes("planned") == {at["plan"]}
    assert causes("asked") == {at["planned"]}
    assert at["asked"] in causes("ada")
    assert found[max(causes("ada") - {at["asked"]})].type == "key.enrolled"
    assert causes("closed") == {at["asked"], at["ada"], at["bob"]}
    assert causes("intent") == {at["decision"], at["planned"], at["asked"], at["ada"], at["bob"], at["closed"]}
    assert causes("outcome") == {at["intent"]}
    assert at["outcome"] in causes("undone")
    assert causes("refused") == {at["spec"], at["frozen"]}
    assert causes("session end") == {at["session"]}
    assert at["later end"] in causes("erased")


def test_a_decision_names_the_policy_that_was_in_force(incident: Incident) -> None:
    at, found = incident.at, events_of(timeline_of(incident.story))
    policies = [found[seq] for seq in found[at["decision"]].causes if found[seq].type == "policy.changed"]
    assert len(policies) == 1
    assert policies[0].seq < at["stricter"], "the first one: it is that digest that the decision read"


def test_no_event_stands_before_its_cause_and_no_cause_is_left_out_for_it(incident: Incident) -> None:
    found = timeline_of(incident.story)
    place = {event.seq: number for number, event in enumerate(found.events)}
    assert sorted(place) == list(place), "by the ledger's own order"
    pairs = [(cause, event.seq) for event in found.events for cause in event.causes]
    assert len(pairs) > len(found.events) / 2
    assert all(place[cause] < place[seq] for cause, seq in pairs if cause in place)
    with casebook_of(incident.story) as casebook:
        causes = Causes(casebook)
        assert [row.seq for row in incident.story.rows if causes.of(casebook.entry(row.seq))[1]] == []


def test_an_entry_that_names_a_later_one_is_told_as_odd() -> None:
    story = Story().found()
    seq = story.append("intent", {"call_id": DELETE, "decision_seq": 10**6})
    event = events_of(timeline_of(story, call=DELETE))[seq]
    assert (event.causes, event.tone) == ((), Tone.BAD)
    assert ("names later entries as causes", "1000000") in event.details


def test_what_nobody_could_have_written_is_told_all_the_same() -> None:
    story = Story()
    strange: list[object] = [None, 7, [], {"id": 7}, "x", [[1]], {"votes": ["a", None]}]
    names = (
        "agent",
        "tool",
        "policy",
        "approval",
        "approvals",
        "effect",
        "outcome",
        "egress",
        "vote",
        "lineage",
        "undo",
    )
    for kind in ("decision", "intent", "outcome", "vote", "approval.requested", "approval.closed", "frozen", "erased"):
        for value in strange:
            story.append(kind, {"call_id": LOST, **dict.fromkeys(names, value)})  # type: ignore[dict-item]  # on purpose
    assert len(timeline_of(story).events) == len(story.rows)


def test_a_call_that_a_dead_broker_left_is_marked(incident: Incident) -> None:
    stories = {group.name: group.call for group in timeline_of(incident.story).groups}
    lost, later = stories[LOST], stories[LATER]
    assert lost is not None
    assert later is not None
    assert f"another start wrote entry {incident.at['restart']}" in lost.left_open
    assert (later.left_open, lost.state) == ("", "RUNNING")


def test_a_call_that_was_ended_after_a_restart_names_that_start() -> None:
    incident = Incident().tell()
    seq = incident.story.append("unknown", {"call_id": LOST, "intent_seq": incident.at["open intent"], "outcome": {}})
    event = events_of(timeline_of(incident.story, call=LOST))[seq]
    assert event.causes == (incident.at["open intent"], incident.at["restart"])
    assert event.text.startswith("UNKNOWN")


def test_what_was_erased_is_marked_with_its_entry(incident: Incident) -> None:
    stories = {group.name: group.call for group in timeline_of(incident.story).groups}
    later, deleted = stories[LATER], stories[DELETE]
    assert later is not None
    assert deleted is not None
    assert (later.erased, later.texts.kept) == (incident.at["erased"], Kept.ERASED)
    assert (deleted.erased, deleted.texts.kept) == (None, Kept.AWAY)


def test_people_and_what_is_in_force_have_lanes_of_their_own(incident: Incident) -> None:
    at, found = incident.at, events_of(timeline_of(incident.story))
    lanes = {
        name: (found[at[name]].lane, found[at[name]].who) for name in ("decision", "ada", "bob", "stricter", "frozen")
    }
    assert lanes["decision"] == (Lane.CALLS, SCOUT)
    assert (lanes["ada"], lanes["bob"]) == ((Lane.PEOPLE, ADA), (Lane.PEOPLE, BOB))
    assert lanes["stricter"][0] is Lane.BROKER
    assert lanes["frozen"][0] is Lane.PEOPLE
    assert found[at["ada"]].text == "human:ada: approve (signed, cli)"
