"""A broker tells a webhook what becomes of an approval: signed, in order, and whatever the receiver does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from broker.domain.approval import ApprovalState, VoteDecision
from broker.domain.call import CallState
from broker.errors import InvalidArgumentError
from broker.settings import load_settings
from tests.approval_world import TOOL, World, make_approval_state
from tests.notice_server import SECRET, Receiver, receiver
from tests.served import serving

pytestmark = pytest.mark.docker

_CODE = {"code": "print('changed')"}
_PURPOSE = "a purpose that nobody outside reads"


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as made:
        yield made
        assert not made.wrong, made.wrong


async def test_every_event_is_told_in_order_and_without_content(tmp_path: Path, hook: Receiver) -> None:
    state = tmp_path / "state"
    webhooks = [{"url": hook.url, "secret": "env:HOOK_SECRET"}]
    make_approval_state(state, settings={"approval_webhooks": webhooks})
    hook.faults = [500, 503]
    with serving(state, HOOK_SECRET=SECRET) as served:
        async with World(served) as world:
            await world.ready()
            async with world.agent(purpose=_PURPOSE) as agent:
                call = await agent.create_call(TOOL, _CODE)
                approval = await world.pending(call.name)
                await world.vote("ada", approval, reason="a reason")
                await world.vote("bob", approval)
                async for _ in agent.watch(call):
                    pass
                assert (await agent.get_call(call)).state is CallState.SUCCEEDED
                second = await agent.create_call(TOOL, {"code": "print('again')"})
                other = await world.pending(second.name)
                denied = await world.vote("cyn", other, VoteDecision.DENY)
                assert denied.state is ApprovalState.DENIED
                await asyncio.to_thread(hook.until, 11)
    workflow = ["requested", "voted", "approved", "used"]
    assert [event for event in hook.events() if event][:4] == workflow
    assert hook.events(approval.name) == ["requested", "voted", "voted", "approved", "used"]
    assert hook.events(other.name) == ["requested", "voted", "denied"]
    assert hook.attempts == len(hook.taken) + 2
    seqs = [item["seq"] for item in hook.taken]
    assert seqs == sorted(seqs)
    first = next(item for item in hook.taken if item["approval"] == approval.name)
    assert (first["kind"], first["object"], first["tier"], first["workspace"]) == ("CALL", TOOL, 4, "demo")
    everything = json.dumps(hook.taken)
    assert all(word not in everything for word in (_PURPOSE, "a reason", "changed", "ada", "scout"))


async def test_a_receiver_that_hangs_holds_up_nobody(tmp_path: Path, hook: Receiver) -> None:
    state = tmp_path / "state"
    webhooks = [{"url": hook.url, "secret": "env:HOOK_SECRET"}]
    make_approval_state(state, settings={"approval_webhooks": webhooks})
    hook.faults = [0] * 100
    with serving(state, HOOK_SECRET=SECRET) as served:
        async with World(served) as world:
            await world.ready()
            async with world.agent() as agent:
                call = await agent.create_call(TOOL, _CODE)
                approval = await world.pending(call.name)
                for name in ("ada", "bob"):
                    await world.vote(name, approval)
                async for _ in agent.watch(call):
                    pass
                assert (await agent.get_call(call)).state is CallState.SUCCEEDED
        # The broker's end waits a moment for it, and no longer; `serving` looks at the exit code.
    assert not hook.taken
    assert "approval.notices_dropped" in served.log.read_text("utf-8")


def test_a_secret_in_the_settings_is_refused(tmp_path: Path) -> None:
    webhooks = [{"url": "https://chat.example/hook", "secret": "the secret itself"}]
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump({"approval_webhooks": webhooks}), "utf-8")
    with pytest.raises(InvalidArgumentError) as refused:
        load_settings(tmp_path)
    assert [item.field for item in refused.value.violations] == ["approval_webhooks.0.secret"]
    assert "the secret itself" not in str(refused.value)
