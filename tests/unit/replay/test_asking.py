"""The answers to the questions of boards and auditors, and the entries that prove them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.replay.asking.answer import Answer, Span
from broker.replay.asking.outside import changed, irreversible, left, refused
from broker.replay.asking.paths import Wanted, done_by, ran_under, touched
from broker.replay.asking.persons import could_approve, decided_by
from broker.replay.casebook import Casebook
from tests.bundle_world import World, bundle_world
from tests.casebook_world import OLD_POLICY, casebook, tell

ALWAYS = Span()


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Casebook]:
    """The whole story."""
    folder = tmp_path_factory.mktemp("asking")
    with bundle_world(folder) as world:
        tell(world)
        with casebook(folder, world) as found:
            yield found


def values(answer: Answer, *names: str) -> list[tuple[object, ...]]:
    """Cells of some columns."""
    places = [[column.name for column in answer.columns].index(name) for name in names]
    return [tuple(line.cells[place] for place in places) for line in answer.lines]


def prove(book: Casebook, answer: Answer) -> set[str]:
    """Types of all entries that are named as evidence; each of them is in the ledger."""
    return {str(book.entry(seq).body["type"]) for line in answer.lines for seq in line.evidence}


def test_which_model_touched_which_data(book: Casebook) -> None:
    answer = touched(book, Wanted(data_class="customer*"), ALWAYS)
    assert values(answer, "data class", "model", "workflow", "tool", "calls") == [
        ("customer.email", "model-1", "support", "files.read", 2)
    ]
    assert {"decision", "workflow.approved", "spec.registered"} <= prove(book, answer)


def test_who_approved_that_path(book: Casebook) -> None:
    answer = touched(book, Wanted(tool="files.clean"), ALWAYS)
    assert values(answer, "data class", "calls approved by") == [("internal", ("hum_a", "hum_b", "hum_c"))]
    assert "vote" in prove(book, answer)


@pytest.mark.parametrize(
    ("wanted", "lines"),
    [
        (Wanted(), 3),
        (Wanted(data_class="internal"), 2),
        (Wanted(data_class="intern"), 0),
        (Wanted(model="other"), 0),
        (Wanted(agent="agt_a", workspace="shop", workflow="support"), 3),
        (Wanted(agent="agt_b"), 0),
    ],
)
def test_each_filter_must_be_met(book: Casebook, wanted: Wanted, lines: int) -> None:
    assert len(touched(book, wanted, ALWAYS).lines) == lines


def test_what_an_agent_did_and_was_refused(book: Casebook) -> None:
    found = values(done_by(book, "agt_a", ALWAYS), "tool", "ended", "calls")
    assert ("files.read", "SUCCEEDED", 2) in found
    assert ("shell.run", "refused: POLICY_DENIED by no-shell", 1) not in found
    assert ("shell.run", "refused: POLICY_DENIED by no-shell", 5) in found


def test_what_ran_under_a_policy(book: Casebook) -> None:
    answer = ran_under(book, OLD_POLICY, ALWAYS)
    assert values(answer, "rule", "decided", "tool", "times") == [
        ("rule-1", "allow", "files.read", 2),
        ("rule-1", "allow", "files.clean", 2),
    ]
    assert "policy.changed" in prove(book, answer)


def test_what_left_the_house(book: Casebook) -> None:
    answer = left(book, "", ALWAYS)
    assert values(answer, "host", "port", "calls", "requests", "bytes sent", "bytes received") == [
        ("api.example", 443, 1, 2, 100, 900)
    ]
    assert not left(book, "other.example", ALWAYS).lines


def test_what_was_changed_and_taken_back(book: Casebook) -> None:
    answer = changed(book, "", ALWAYS, removed=False)
    assert values(answer, "call", "removed", "approved by", "takes back", "taken back by") == [
        ("call_3", 3, ("hum_a", "hum_b"), (), ("call_4",)),
        ("call_4", 0, ("hum_b", "hum_c"), ("call_3",), ()),
    ]
    assert len(changed(book, "", ALWAYS, removed=True).lines) == 1
    assert not changed(book, "elsewhere", ALWAYS, removed=False).lines


def test_what_was_refused(book: Casebook) -> None:
    assert values(refused(book, ALWAYS), "reason", "rule", "tool", "times") == [
        ("POLICY_DENIED", "no-shell", "shell.run", 5)
    ]


def test_nothing_was_irreversible(book: Casebook) -> None:
    answer = irreversible(book, ALWAYS)
    assert not answer.lines
    assert answer.notes


def test_what_a_person_approved(book: Casebook) -> None:
    answer = decided_by(book, "hum_b", ALWAYS)
    assert values(answer, "decision", "subject", "how", "came to") == [
        ("approve", "call_3", "signed", "USED"),
        ("approve", "call_4", "signed", "USED"),
    ]
    assert not decided_by(book, "hum_nobody", ALWAYS).lines


def test_a_span_takes_its_beginning_and_not_its_end(book: Casebook) -> None:
    first, last = book.rows("SELECT min(ts), max(ts) FROM call")[0]
    assert len(touched(book, Wanted(tool="files.read"), Span(first, first + 1)).lines) == 2
    assert not touched(book, Wanted(tool="files.read"), Span(0, first)).lines
    assert not changed(book, "", Span(last + 1), removed=False).lines


POLICY = """\
p, all-approve, role:approver, *, *, approve, 4, allow, approvers approve
p, no-shop-clean, role:approver, shop, files.clean, approve, 0, deny, not in the shop
g, human:ada, role:approver, *
"""


def test_who_could_approve_what_on_a_date(world_with_people: tuple[Casebook, list[int]]) -> None:
    book, times = world_with_people
    names = {"hum_a": "human:ada", "hum_b": "human:bob"}
    ask = lambda moment: could_approve(book, moment, {OLD_POLICY: POLICY}.get, lambda who: names.get(who, ""))  # noqa: E731
    assert not ask(times[0]).lines
    answer = ask(times[1])
    assert {line.cells[0] for line in answer.lines} == {("hum_a",)}
    may = {line.cells[1]: line.cells[3] for line in answer.lines}
    assert "files.clean" in may["any other"]
    assert "shop" not in may
    assert not ask(times[2]).lines, "the key was revoked"
    unknown = could_approve(book, times[1], {OLD_POLICY: POLICY}.get, lambda _: "")
    assert not unknown.lines
    assert "the name is not known here" in " ".join(unknown.notes)
    lost = could_approve(book, times[1], lambda _: None, lambda _: "")
    assert "is not kept here" in lost.notes[0]


@pytest.fixture
def world_with_people(tmp_path: Path) -> Iterator[tuple[Casebook, list[int]]]:
    """Keys come and go; with the moments between."""
    with bundle_world(tmp_path) as world:
        world.append("policy.changed", {"policy_digest": OLD_POLICY, "rules": 2})
        world.append("spec.registered", {"tool": {"name": "files.clean", "version": OLD_POLICY}, "tier": 4})
        seqs = [_enrol(world, "hum_a"), _enrol(world, "hum_b")]
        seqs.append(world.append("key.revoked", {"key": {"id": "key_hum_a"}, "person": "hum_a", "by": "hum_b"}))
        world.append("heartbeat", {"policy_digest": OLD_POLICY})
        with casebook(tmp_path, world) as found:
            times = [found.rows("SELECT ts FROM entry WHERE seq = ?", seq)[0][0] for seq in seqs]
            yield found, [times[0], times[2], times[2] + 1]


def _enrol(world: World, person: str) -> int:
    return world.append(
        "key.enrolled", {"key": {"id": f"key_{person}", "kind": "approver"}, "person": person, "by": "hum_o"}
    )
