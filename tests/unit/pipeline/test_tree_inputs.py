"""What a tool is given of a tree: all of it is in the digest of the selection, and in its job."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given

from broker.domain.run import Job, TreeRules
from broker.domain.tree import Entry, TreeFile, TreeLink
from broker.pipeline.tree_inputs import TreeInputs
from broker.workspace.objects import Objects
from tests.tree_values import address, trees

BASE = address(b"base")


@given(trees, trees)
def test_two_selections_have_two_digests_and_those_of_another_state_others(
    one: dict[str, Entry], other: dict[str, Entry]
) -> None:
    rules = TreeRules(("**",))
    first, second = TreeInputs(BASE, one, rules), TreeInputs(BASE, other, None)
    assert (first.selection == second.selection) == (one == other)
    assert TreeInputs(address(b"another"), one, rules).selection != first.selection
    backwards = dict(reversed(one.items()))
    assert TreeInputs(BASE, backwards, rules).selection == first.selection


def test_the_job_gets_files_with_digest_and_mode_and_links_as_links(tmp_path: Path) -> None:
    entries: dict[str, Entry] = {"b": TreeFile(address(b"b"), 1, 0o751), "a": TreeLink("/etc/passwd")}
    job = TreeInputs(BASE, entries, None, undoes=("call_1",)).added_to(
        Job("argv", ("true",), "", {}, b"{}"), Objects(tmp_path)
    )
    (file,) = job.files
    assert (file.path, file.digest, file.size, file.mode) == ("b", address(b"b"), 1, 0o751)
    assert [(link.path, link.target) for link in job.links] == [("a", "/etc/passwd")]
    assert job.tree == TreeRules(), "what it changes of it is nobody's"
    assert TreeInputs(BASE, entries, None, undoes=("call_1",)).bound()["undoes"] == ["call_1"]
