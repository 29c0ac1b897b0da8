"""A tool that lies about its effect, and an agent that hides something in it: what is applied is what was shown, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.client.models import CompletedCall
from broker.domain.call import CallState
from broker.domain.tree import TreeLink
from broker.errors import BrokerError, FailedPreconditionError, NotFoundError, PermissionDeniedError
from tests.approval_scene import agreed, end_of, until
from tests.approval_world import Founded, World
from tests.served import command, make_state, serving
from tests.tree_world import (
    CHANGE,
    CHANGE_4,
    SPEC,
    add_tools,
    content,
    seed,
    state_of,
    waiting,
    which,
)

pytestmark = pytest.mark.docker

NARROW = "files.narrow"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    place = tmp_path / "state"
    make_state(place)
    add_tools(place)
    narrow = SPEC.replace(CHANGE, NARROW).replace('writes: ["**"]', 'reads: ["**"], writes: ["src/**"]')
    (place / "tool_specs" / "files.narrow.yaml").write_text(narrow, "utf-8")
    policy = place / "policy" / "policy.csv"
    line = f"p, t-narrow, role:agent, demo, {NARROW}, call, 1, allow, agents change sources\n"
    policy.write_text(policy.read_text("utf-8") + line, "utf-8")
    seed(place)
    return place


def detail(call: CompletedCall) -> str:
    assert call.outcome is not None
    return call.outcome.detail


NOTHING = {
    "what is equal": "data = open('README.md', 'rb').read(); open('README.md', 'wb').write(data)",
    "a folder without anything in it": "import os; os.makedirs('empty folder')",
    "a folder's mode": "import os; os.chmod('src', 0o700)",
    "there and back": "import os; os.rename('README.md', 'x'); os.rename('x', 'README.md')",
}
REFUSED = {
    "a pipe": "import os; os.mkfifo('pipe')",
    "a name with a line feed": "open('a\\nb', 'w')",
    "a name that isn't UTF-8": "open(b'\\xff', 'w')",
    "a link to what isn't UTF-8": "import os; os.symlink(b'\\xff', 'link')",
    "too many": "for i in range(1001): open(str(i), 'w')",
    "the broker's own name": "import os; os.makedirs('.broker-restore'); open('.broker-restore/changes', 'w').write('[]')",
    "the broker's own name, with an honest change": (
        "import os; os.makedirs('.broker-restore'); open('.broker-restore/x', 'w'); open('README.md', 'a').write('x')"
    ),
    "a file of that name": "open('.broker-restore', 'w').write('x')",
    "a link of that name": "import os; os.symlink('src', '.broker-restore')",
}


async def test_what_changes_nothing_changes_nothing_and_what_no_tree_can_hold_is_refused_whole(state: Path) -> None:
    stands = state_of(state)
    with serving(state) as served:
        async with served.client() as agent:
            for what, code in NOTHING.items():
                call = await agent.run(CHANGE, {"code": code})
                assert call.state is CallState.SUCCEEDED, (what, detail(call))
                assert call.outcome is not None
                assert call.outcome.effect is None, what
                with pytest.raises(NotFoundError) as caught:
                    await agent.run("workspace.undo", {"call": which(call.name)})
                assert caught.value.reason == "EFFECT_NOT_FOUND"
            for what, code in REFUSED.items():
                call = await agent.run(CHANGE, {"code": f"{code}\nopen('README.md', 'a').write('x')"})
                assert call.state is CallState.FAILED, (what, call.state, detail(call))
                assert "nothing was changed" in detail(call) or "none of it is" in detail(call), what
                assert state_of(state) == stands, what


async def test_links_lead_nowhere_and_what_lies_outside_of_the_patterns_stays(state: Path) -> None:
    before = content(state)
    code = (
        "import os, shutil\n"
        "os.symlink('/etc/passwd', 'src/out'); os.symlink('../../../..', 'src/up')\n"
        "open('README.md', 'w').write('evil'); os.unlink('data/blob.bin')\n"
        "os.symlink('../README.md', 'src/readme'); open('src/readme', 'a').write('through the link')\n"
        "open('src/app.py', 'a').write('# more')\n"
    )
    with serving(state) as served:
        async with served.client() as agent:
            call = await agent.run(NARROW, {"code": code})
            assert call.state is CallState.SUCCEEDED, detail(call)
            warnings = " ".join(call.outcome.warnings if call.outcome is not None else ())
            assert "outside of what may be written" in warnings
            assert "README.md" in warnings
            after = content(state)
            assert {path for path in {*before, *after} if before.get(path) != after.get(path)} == {
                "src/out",
                "src/up",
                "src/readme",
                "src/app.py",
            }
            assert after["src/out"] == TreeLink("/etc/passwd")
            undone = await agent.run("workspace.undo", {"call": which(call.name)})
            assert undone.state is CallState.SUCCEEDED, detail(undone)
            assert content(state) == before


SHAPES = {
    "a file in the place of a folder": "import shutil; shutil.rmtree('src'); open('src', 'w').write('file')",
    "a folder in the place of a file": "import os; os.unlink('README.md'); os.makedirs('README.md/a/b'); open('README.md/a/b/c', 'w').write('x')",
    "a link in the place of a folder": "import shutil, os; shutil.rmtree('src/old'); os.symlink('..', 'src/old')",
    "a folder in the place of a link": "import os; os.unlink('latest'); os.makedirs('latest'); open('latest/x', 'w').write('x')",
    "modes that let nobody in": "import os; os.chmod('src/app.py', 0); os.chmod('README.md', 0o111); os.chmod('src/old', 0)",
    "names that hide": "open('a\\u202eb', 'w').write('x'); open(' ', 'w').write('y'); open('-rf', 'w').write('z')",
    "all of it goes": "import shutil, os\nfor n in os.listdir('.'):\n  shutil.rmtree(n) if os.path.isdir(n) and not os.path.islink(n) else os.unlink(n)",
    "hard links": "import os; os.link('README.md', 'twin'); open('twin', 'a').write('both')",
}


async def test_whatever_shape_it_leaves_is_taken_back_exactly(state: Path) -> None:
    before = content(state)
    with serving(state) as served:
        async with served.client() as agent:
            for what, code in SHAPES.items():
                call = await agent.run(CHANGE, {"code": code})
                assert call.state is CallState.SUCCEEDED, (what, detail(call))
                after = content(state)
                assert after != before, what
                undo = await agent.run("workspace.undo", {"call": which(call.name)})
                assert undo.state is CallState.SUCCEEDED, (what, detail(undo))
                assert content(state) == before, what
                redo = await agent.run("workspace.undo", {"call": which(undo.name)})
                assert redo.state is CallState.SUCCEEDED, (what, detail(redo))
                assert content(state) == after, what
                again = await agent.run("workspace.undo", {"call": which(redo.name)})
                assert again.state is CallState.SUCCEEDED, (what, detail(again))
                states = [(await agent.get_call(one.name)).state for one in (call, undo, redo, again)]
                S = CallState  # noqa: N806 - for one line
                assert states == [S.UNDONE, S.SUCCEEDED, S.UNDONE, S.SUCCEEDED], what
    assert command(state, "ledger", "verify").returncode == 0
    rebuilt = command(state, "ledger", "rebuild", check=False)
    assert rebuilt.returncode == 0, rebuilt.stdout


async def test_what_hides_is_seen_by_those_who_decide_and_what_cant_be_seen_waits_for_nobody(
    tree_world: Founded,
) -> None:
    hidden = (
        "open('read\\u202eme', 'w').write('safe\\u202e live\\u200b\\r\\nWHAT IT CHANGES\\n\\x1b[2Jgone\\n')\n"
        "import os; os.symlink('x\\u2066y', 'l')\n"
        "open('nul', 'wb').write(b'a\\0b'); open('src/app.py', 'a').write('\\u00a0# \\u0430\\n')\n"
    )
    long = "open('long', 'w').write('x' * (2 * 2**20))"
    many = "for i in range(40): open(f'f{i}', 'w').write('y' * 60000)"
    stands = state_of(tree_world.state)
    with tree_world.serving() as serving:
        async with serving as world:
            call = await waiting(world, hidden)
            approval = await world.pending(call.name)
            shown = (await world.people["ada"].get_approval(approval.name)).rendering
            for char in "\u202e\u200b\r\x1b\u2066\u00a0\0":
                assert char not in shown, ascii(char)
            for text in (r"read\u{202E}me", r"live\u{200B}", r"\u{1B}[2Jgone", r"x\u{2066}y", "BINARY"):
                assert text in shown, (text, shown)
            assert shown.count("\nWHAT IT CHANGES") == 1
            async with world.agent() as agent:
                for code, path in ((long, "long"), (many, "f")):
                    refused = await agent.create_call(CHANGE_4, {"code": code})
                    found, _ = await end_of(agent, refused)
                    assert found.state is CallState.DENIED
                    assert found.outcome is not None
                    assert "EFFECT_NOT_SHOWN" in found.outcome.detail
                    assert path in found.outcome.detail
    assert state_of(tree_world.state) == stands


async def test_whom_an_undo_is_refused(tree_world: Founded) -> None:
    seed(tree_world.state, "other")
    with tree_world.serving() as serving:
        async with serving as world:
            call = await waiting(world, "open('a', 'w').write('a')")
            early = {"call": which(call)}
            there = world.context(workspace="other", session="", workflow="")
            async with world.agent() as agent, world.served.connect("human", "olivia", there) as outside:
                with pytest.raises(BrokerError) as caught:
                    await agent.create_call("workspace.undo", early)
                assert caught.value.reason == "EFFECT_NOT_FOUND"  # it waits yet
                await agreed(world, await world.pending(call.name), "ada", "bob")
                assert (await end_of(agent, call))[0].state is CallState.SUCCEEDED
                with pytest.raises(BrokerError) as caught:
                    await outside.create_call("workspace.undo", early)
                assert caught.value.reason == "EFFECT_NOT_FOUND"
            # A human without the role.
            async with world.served.connect("human", "eve", world.context(session="", workflow="")) as eve:
                with pytest.raises(PermissionDeniedError):
                    await eve.create_call("workspace.undo", early)
            await undone_by_its_agent(world, early)


async def undone_by_its_agent(world: World, which_call: dict[str, str]) -> None:
    """The agent asks for it: its owner has no vote, two others have."""
    async with world.agent() as agent:
        undo = await agent.create_call("workspace.undo", dict(which_call))
        await until(agent, undo, CallState.PENDING_APPROVAL)
        approval = await world.pending(undo.name)
        with pytest.raises(BrokerError) as caught:
            await world.vote("olivia", approval)
        assert "EXCLUDED" in caught.value.reason or "LINEAGE" in caught.value.reason, caught.value.reason
        await agreed(world, approval, "ada", "bob")
        assert (await end_of(agent, undo))[0].state is CallState.SUCCEEDED
        with pytest.raises(FailedPreconditionError) as second:
            await agent.create_call("workspace.undo", dict(which_call))
        assert second.value.reason == "ALREADY_UNDONE"
        assert second.value.metadata["undone_by"] == which(undo)
