"""Edits that make an approver, or open tier 4, and try not to look like it: each is found, and called by its name."""

from __future__ import annotations

import pytest

from broker.policy.difference import compare
from broker.policy.snapshot import Snapshot
from broker.policy.widening import Kind

POLICY = """\
p, approve, role:approver, *, *, approve, 4, allow, approvers decide
p, approve-admin, role:approver, *, broker.admin, approve, 4, allow, approvers decide
p, approve-low, role:junior, *, *, approve, 1, allow, juniors decide on little
p, not-mallory, human:mallory, *, *, approve, 4, deny, not again
p, work, role:worker, demo, sql.execute, call, 2, allow, workers work
p, drop, role:worker, *, sql.drop, call, 4, allow, workers may where it is not shut
p, no-drop, *, *, sql.drop, call, 4, deny, nobody drops
p, interns, role:intern, *, *, approve, 4, deny, interns decide on nothing
g, human:ann, role:approver, *
g, human:mallory, role:approver, *
g, human:ivo, role:approver, demo
g, human:ivo, role:intern, *
g, role:lead, role:boss, *
"""


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        # A rule keeps its id and its words, and changes what it says.
        ("role:junior, *, *, approve, 1", "role:junior, *, *, approve, 4", Kind.APPROVER),
        ("p, work, role:worker, demo,", "p, work, role:worker, *,", None),
        ("sql.execute, call, 2", "sql.execute, call, 4", Kind.TIER4_CALL),
        ("sql.execute, call, 2", "*, call, 4", Kind.TIER4_CALL),
        # A deny stays, and no longer holds where it held.
        ("no-drop, *, *, sql.drop", "no-drop, *, *, sql.drops", Kind.TIER4_CALL),
        ("no-drop, *, *,", "no-drop, *, demo,", Kind.TIER4_CALL),
        ("no-drop, *, *,", "no-drop, role:human, *,", Kind.TIER4_CALL),
        ("no-drop, *, *, sql.drop, call, 4, deny", "no-drop, *, *, sql.drop, call, 0, deny", None),
        ("human:mallory, *, *, approve, 4, deny", "human:malory, *, *, approve, 4, deny", Kind.APPROVER),
        # `*` in a deny reached the broker's own subjects; a wildcard of tools doesn't.
        ("not-mallory, human:mallory, *, *,", "not-mallory, human:mallory, *, sql.*,", Kind.APPROVER),
        # A role goes, and with it the deny that was about it.
        ("g, human:ivo, role:intern, *\n", "", Kind.APPROVER),
        ("g, human:ivo, role:intern, *\n", "g, human:ivo, role:intern, finance\n", Kind.APPROVER),
        # An approver's role comes by a chain, from a name that says nothing, or for everybody.
        ("g, role:lead, role:boss, *\n", "g, role:lead, role:boss, *\ng, role:boss, role:approver, *\n", Kind.APPROVER),
        ("g, role:lead, role:boss, *\n", "g, human:eve, role:lead, *\ng, role:lead, role:junior, *\n", Kind.APPROVER),
        ("g, role:lead, role:boss, *\n", "g, role:human, role:approver, demo\n", Kind.APPROVER),
        ("g, human:ivo, role:approver, demo\ng, human:ivo, role:intern, *", "g, human:ivo, role:approver, *", Kind.APPROVER),
        # Nobody holds it yet: the next grant would look harmless.
        ("g, role:lead, role:boss, *\n", "p, new, role:reader, *, *, approve, 4, allow, so\n", Kind.APPROVER),
        ("g, role:lead, role:boss, *\n", "p, new, role:reader, *, *, call, 4, allow, so\n", Kind.TIER4_CALL),
    ],
)  # fmt: skip
def test_a_widening_is_found_however_it_is_written(old: str, new: str, kind: Kind | None) -> None:
    assert POLICY.count(old) == 1
    before, after = Snapshot.load(POLICY), Snapshot.load(POLICY.replace(old, new))
    found = compare(before, after, people=[], tools={}, workspaces=[])
    assert {item.kind for item in found.sensitive} == ({kind} if kind else set())


def test_a_widening_does_not_drown_among_many_edits() -> None:
    noise = "".join(f"p, n{n}, role:n{n}, w{n}, tool.t{n}, call, 1, allow, noise\n" for n in range(2_000))
    before, after = Snapshot.load(POLICY), Snapshot.load(f"{POLICY}{noise}g, human:eve, role:approver, w7\n")
    found = compare(before, after, people=[], tools={}, workspaces=[])
    assert [item.row for item in found.sensitive] == ["g, human:eve, role:approver, w7"]
    assert found.widens[0] == found.sensitive[0]


def test_two_edits_that_widen_only_together_are_found_together() -> None:
    parts = "p, new, role:fresh, *, *, approve, 4, allow, so\ng, human:eve, role:fresh, *\n"
    found = compare(Snapshot.load(POLICY), Snapshot.load(POLICY + parts), people=[], tools={}, workspaces=[])
    assert {item.row for item in found.sensitive} == {"new", "g, human:eve, role:fresh, *"}
