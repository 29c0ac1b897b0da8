"""Taking back what others have built on, what somebody else replaced, and what is no longer kept: said, and never half done."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.cli.local import clock, open_local
from broker.client import AsyncBroker
from broker.client.models import CompletedCall
from broker.domain.call import CallState
from broker.errors import BrokerError, DataLossError, FailedPreconditionError, NotFoundError
from broker.vault.destruction import destroy
from tests.served import command, make_state, serving
from tests.tree_world import CHANGE, add_tools, content, seed, state_of, which

pytestmark = pytest.mark.docker


@pytest.fixture
def state(tmp_path: Path) -> Path:
    place = tmp_path / "state"
    make_state(place)
    add_tools(place)
    seed(place)
    return place


async def change(agent: AsyncBroker, code: str) -> str:
    call = await agent.run(CHANGE, {"code": code})
    assert call.state is CallState.SUCCEEDED, call.outcome
    return which(call.name)


async def undo(agent: AsyncBroker, call: str, *, cascade: bool = False) -> CompletedCall:
    return await agent.run("workspace.undo", {"call": call, "cascade": cascade})


async def refused(agent: AsyncBroker, call: str, *, cascade: bool = False) -> BrokerError:
    with pytest.raises(BrokerError) as caught:
        await undo(agent, call, cascade=cascade)
    return caught.value


async def state_in(agent: AsyncBroker, call: str) -> CallState:
    return (await agent.get_call(f"calls/{call}")).state


async def test_who_built_on_it_is_listed_and_taken_back_with_it(state: Path) -> None:
    before = content(state)
    with serving(state) as served:
        async with served.client() as agent:
            first = await change(agent, "open('x', 'w').write('1')")
            beside = await change(agent, "open('beside', 'w').write('b')")
            second = await change(agent, "open('x', 'a').write('2'); open('y', 'w').write('2')")
            third = await change(agent, "import os; os.unlink('y')")
            after = content(state)
            error = await refused(agent, first)
            assert (error.reason, type(error)) == ("UNDO_DEPENDENTS", FailedPreconditionError)
            assert error.metadata["calls"] == f"{second},{third}"
            assert error.metadata["count"] == "2"
            assert "--cascade" in error.hint
            done = await undo(agent, first, cascade=True)
            assert done.state is CallState.SUCCEEDED, done.outcome
            assert done.outcome is not None
            assert done.outcome.effect is not None
            assert done.outcome.effect.undoes == tuple(f"calls/{one}" for one in (first, second, third))
            assert content(state).keys() - before.keys() == {"beside"}
            for call, is_state in ((first, "UNDONE"), (second, "UNDONE"), (third, "UNDONE"), (beside, "SUCCEEDED")):
                assert await state_in(agent, call) is CallState(is_state), call
            again = await undo(agent, which(done.name))
            assert again.state is CallState.SUCCEEDED, again.outcome
            assert content(state) == after
            for call in (first, second, third):
                assert await state_in(agent, call) is CallState.SUCCEEDED
            # What has been brought back is taken back by another: what brought it back has nothing to take back any more.
            whole = await undo(agent, first, cascade=True)
            assert whole.state is CallState.SUCCEEDED, whole.outcome
            error = await refused(agent, which(again.name))
            assert error.reason == "ALREADY_UNDONE"
            assert error.metadata["undone_by"] == which(whole.name)
    assert command(state, "ledger", "verify").returncode == 0
    rebuilt = command(state, "ledger", "rebuild", check=False)
    assert rebuilt.returncode == 0, rebuilt.stdout


async def test_what_stood_on_something_else_is_not_taken_back_to_it(state: Path) -> None:
    with serving(state) as served:
        async with served.client() as agent:
            await change(agent, "open('x', 'w').write('0')")
            first = await change(agent, "import os; os.unlink('x')")
            first_undo = which((await undo(agent, first)).name)
            second = await change(agent, "import os; os.unlink('x')")
            second_undo = which((await undo(agent, second)).name)
            assert (await undo(agent, first_undo)).state is CallState.SUCCEEDED
            await change(agent, "open('x', 'w').write('1')")
            # As it is now, the second change would find no file: without it there would be none either.
            error = await refused(agent, second_undo, cascade=True)
            assert (error.reason, type(error)) == ("UNDO_CONFLICT", FailedPreconditionError)
            assert error.metadata["calls"] == first
            assert f"broker undo {first}" in error.hint
            assert (await undo(agent, first, cascade=True)).state is CallState.SUCCEEDED
            assert (await undo(agent, second_undo)).state is CallState.SUCCEEDED
            assert "x" not in content(state)
            assert await state_in(agent, second) is CallState.SUCCEEDED
    assert command(state, "ledger", "verify").returncode == 0


async def test_an_import_that_replaced_the_files_is_in_the_way_and_named_by_its_paths(
    state: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    (folder / "src").mkdir(parents=True)
    (folder / "README.md").write_text("imported\n", "utf-8")
    with serving(state) as served:
        async with served.client() as agent, served.human() as person:
            call = await change(agent, "open('README.md', 'w').write('agent'); open('new', 'w').write('n')")
            await person.workspaces.import_folder("demo", folder, expected_state=state_of(state).state)
            stands = state_of(state).state
            error = await refused(agent, call)
            assert error.reason == "UNDO_CONFLICT"
            fields = {item.field: item.description for item in error.violations}
            assert set(fields) == {"README.md", "new"}
            assert "is absent" in fields["new"]
            assert "no call of the broker changed it" in fields["README.md"]
            assert error.metadata["paths"] == "2"
            assert state_of(state).state == stands


async def test_what_is_no_longer_kept_is_said(state: Path) -> None:
    with serving(state) as served:
        async with served.client() as agent:
            gone = await change(agent, "open('README.md', 'a').write('1')")
            other = await change(agent, "open('src/app.py', 'a').write('2')")
            found = (await agent.get_call(f"calls/{gone}")).outcome
            assert found is not None
            assert found.effect is not None
            artifact = found.effect.artifact
    stands = state_of(state).state
    with open_local(state) as local:  # as when its time is over
        local.write(lambda tx: destroy(tx, [artifact], clock()))
    with serving(state) as served:
        async with served.client() as agent:
            error = await refused(agent, gone)
            assert isinstance(error, NotFoundError | DataLossError | FailedPreconditionError), error
            assert state_of(state).state == stands
            assert (await undo(agent, other)).state is CallState.SUCCEEDED


async def test_a_taking_back_of_what_is_erased_is_in_nobodys_way(state: Path) -> None:
    with serving(state) as served:
        async with served.client() as agent:
            first = await change(agent, "open('x', 'w').write('1')")
            second = await change(agent, "open('x', 'w').write('2')")
            assert (await undo(agent, second)).state is CallState.SUCCEEDED
    with open_local(state) as local:
        local.write(lambda tx: destroy(tx, [second], clock()))
    with serving(state) as served:
        async with served.client() as agent:
            done = await undo(agent, first)
            assert done.state is CallState.SUCCEEDED, done.outcome
    assert "x" not in content(state)
