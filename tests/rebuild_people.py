"""What people decide in a state that is to be rebuilt: approvals in every state, votes of every kind, keys and freezes."""

from __future__ import annotations

import asyncio
import os
import textwrap
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from broker.approvals.voting import Cast
from broker.domain.approval import Approval, ApprovalKind, ApprovalState, FreezeScope, VoteDecision
from broker.domain.call import CallContext, CallRequest, CallState
from broker.domain.canonical import canonical
from broker.domain.identity import Caller, IdentityKind
from broker.domain.requirement import Channel
from broker.domain.statement import AcceptanceStatement, VoteStatement, commitment
from broker.identity.registry import Registry
from broker.pipeline.erasure import Erasure, Order
from broker.pipeline.holdings import find_subject
from broker.pipeline.parts import Parts
from broker.pipeline.pipeline import Pipeline
from broker.pipeline.runbooks import RunbookRequest
from broker.settings import StatePaths
from broker.signing import Ed25519Signer
from tests.identity_world import World

FOUNDERS = ("cyn", "dan", "fay")
VOTERS = (*FOUNDERS, "bob", "eve")
BOT = "helper"
TEAM = "T0001"
WITHIN_S = 60

POLICY = """
p, t-change, role:agent, demo, world.change, call, 4, allow, agents change the world
p, t-workflow, role:exec-sponsor, *, broker.workflow, approve, 4, allow, the sponsor decides on workflows
g, human:fay, role:exec-sponsor, *
g, agent:helper, role:slack-bot, *
""" + "".join(f"g, human:{name}, role:approver, *\n" for name in VOTERS)

SPEC = """
name: world.change
description: Changes the world, as far as a test can tell.
owner: ada
tier: 4
image: python
run:
  python: {argument: code}
arguments:
  type: object
  properties: {code: {type: string}}
  required: [code]
  additionalProperties: false
"""


def workflow(name: str) -> str:
    """A workflow's file."""
    return textwrap.dedent(f"""
        name: {name}
        description: Cleans up what nobody needs any more.
        owner: ada
        workspaces: [demo]
        tier: 4
        models: [model-1]
        prompt_versions: [p1]
        tools: [world.change]
        data_classes: []
        """)


def write_files(paths: StatePaths) -> None:
    """The operator's own tool and workflows, and the rules for them."""
    policy = paths.policy / "policy.csv"
    policy.write_text(policy.read_text("utf-8") + POLICY, "utf-8")
    for folder, name, text in (
        (paths.tool_specs, "world.change", SPEC),
        (paths.workflows, "clean-up", workflow("clean-up")),
        (paths.workflows, "tidy-up", workflow("tidy-up")),
    ):
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.yaml").write_text(text, "utf-8")


def add_people(world: World) -> str:
    """Further people, the bot, and a session for the agent; gives the session's id."""
    for name in FOUNDERS:
        world.add(IdentityKind.HUMAN, name)
    world.add(IdentityKind.AGENT, BOT, owner=world.ada)
    return world.start(workspace="demo").id


class Clock:
    """The time, which a test may put forward."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class People:
    """Everybody with a key of their own, at a broker's own parts."""

    pipeline: Pipeline
    parts: Parts
    clock: Clock
    callers: dict[str, Caller]
    session: str
    signers: dict[str, Ed25519Signer] = field(default_factory=dict)

    async def found(self) -> None:
        """Keys, the founding, a bot, chat accounts and the workflows; and whoever leaves, with all that was theirs."""
        for name in (*VOTERS, BOT):
            self.signers[name] = Ed25519Signer.generate()
        for name in VOTERS:
            await self._administrate("key.enroll", person=name, vkey=self._vkey(name), kind="approver")
        for name in FOUNDERS:
            await self._accept(name)
        await self._agree("key.enroll", person=BOT, vkey=self._vkey(BOT), kind="bot")
        for user, person in (("UCYN", "cyn"), ("UDAN", "dan"), ("UFAY", "fay"), ("UEVE", "eve"), ("UBOB", "bob")):
            await self._agree("account.map", service="slack", team=TEAM, user=user, person=person)
        await self._agree("account.unmap", service="slack", team=TEAM, user="UBOB")
        await self._erase_eve()
        for name in ("clean-up", "tidy-up"):
            asked = await self.pipeline.approvals.submit_workflow(self.callers["ada"], name, "", "needed")
            done = await self.vote("fay", asked.approval)
            assert done.state is ApprovalState.USED

    async def decide(self) -> dict[str, str]:
        """Approvals that end in every way, and freezes; nothing of it is open afterwards. Word -> id of the call."""
        lost = await self.ask("changed")
        for name in ("cyn", "dan"):
            await self.vote(name, await self.approval_of(lost))
        await self.until(lost, CallState.SUCCEEDED)
        cancelled = await self.ask("cancelled")
        await self.pipeline.approvals.cancel(self.callers["reporter"], (await self.approval_of(cancelled)).id)
        await self.until(cancelled, CallState.CANCELLED)
        runbook = await self.pipeline.approvals.create_runbook(
            self.callers["cyn"],
            RunbookRequest(
                workspace="demo",
                tool="world.change",
                tool_version="",
                arguments={"code": "emergency"},
                agent="reporter",
                workflow="clean-up",
                reason="for an emergency",
                expires=self.clock() + timedelta(hours=1),
            ),
        )
        self.clock.ahead = timedelta(hours=2)
        assert await self.pipeline.approvals.sweep() == 1
        self.clock.ahead = timedelta()
        assert runbook.approval.kind is ApprovalKind.RUNBOOK
        await self._freeze()
        return {"used": lost, "cancelled": cancelled}

    async def leave_open(self) -> dict[str, str]:
        """Calls that wait in each way, while another runs; the last is denied by an attested vote."""
        agreed, half, untouched = [await self.ask(code) for code in ("agreed", "half", "untouched")]
        for name in ("cyn", "dan"):
            await self.vote(name, await self.approval_of(agreed))
        await self.until(agreed, CallState.APPROVED)
        for decision in (VoteDecision.APPROVE, VoteDecision.WITHDRAW, VoteDecision.APPROVE):
            await self.vote("cyn", await self.approval_of(half), decision, "on second thoughts")
        denied = await self.ask("denied")
        await self.attest("UDAN", "dan", await self.approval_of(denied))
        await self.until(denied, CallState.DENIED)
        return {"agreed": agreed, "half": half, "untouched": untouched, "denied": denied}

    async def ask(self, code: str) -> str:
        """A Tier-4 call; gives its id."""
        arguments = {"code": code}
        context = CallContext(
            workspace="demo",
            workflow="clean-up",
            session=self.session,
            purpose="to see",
            model="model-1",
            prompt_version="p1",
        )
        request = CallRequest(
            tool="world.change",
            tool_version="",
            arguments=arguments,
            arguments_bytes=canonical(arguments),
            files=(),
            context=context,
            request_id="",
        )
        return (await self.pipeline.create(self.callers["reporter"], request)).id

    async def approval_of(self, call: str) -> Approval:
        """The approval that a call waits for."""
        found = await self.parts.store.read(lambda tx: tx.approvals.by_subject(call))
        assert found is not None
        return found

    async def vote(
        self, name: str, approval: Approval, decision: VoteDecision = VoteDecision.APPROVE, reason: str = ""
    ) -> Approval:
        """A person's own vote."""
        person = self.callers[name]
        return await self._cast(person, approval, decision, reason, person=person)

    async def attest(self, user: str, name: str, approval: Approval) -> Approval:
        """A denial that the bot says a person gave in a chat."""
        account = ("slack", TEAM, user)
        person = self.callers[name]
        return await self._cast(self.callers[BOT], approval, VoteDecision.DENY, "no", person=person, account=account)

    async def until(self, call: str, state: CallState) -> None:
        """Waits until a call is in a state."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                count = self.parts.bell.count
                row = await self.parts.store.read(lambda tx: tx.calls.get(call))
                assert row is not None
                if row.state is state:
                    return
                await self.parts.bell.heard(count, 0.02)

    async def _cast(
        self,
        caller: Caller,
        approval: Approval,
        decision: VoteDecision,
        reason: str,
        *,
        person: Caller,
        account: tuple[str, str, str] | None = None,
    ) -> Approval:
        signer, salt = self.signers[caller.identity.name], os.urandom(32)
        statement = VoteStatement(
            origin=self.parts.origin,
            approval=approval.id,
            envelope_digest=approval.envelope_digest,
            rendering_digest=approval.rendering_digest,
            decision=decision,
            reason_commit=commitment(salt, "reason", reason),
            approver=person.identity.id,
            key=signer.id,
            time=self.clock(),
            checkpoint=None,
            channel=Channel.CLI if account is None else Channel.SLACK,
            account_commit="" if account is None else commitment(salt, "account", "\n".join(account)),
        ).encode()
        given = Cast(approval.id, statement, signer.sign(statement), reason, salt, account)
        return (await self.pipeline.approvals.cast(caller, given)).approval

    async def _accept(self, name: str) -> None:
        found = (await self.pipeline.safeguards.founding(content=False)).found
        signer, caller = self.signers[name], self.callers[name]
        statement = AcceptanceStatement(
            self.parts.origin, found.digest, caller.identity.id, signer.id, self.clock(), None
        ).encode()
        await self.pipeline.safeguards.accept(caller, statement, signer.sign(statement))

    async def _erase_eve(self) -> None:
        """She has a key and a chat account, leaves, and is erased: nobody knows any more which account it was."""
        registry, eve, ada = Registry(self.parts.ledger, self.parts.vault), self.callers["eve"], self.callers["ada"]
        await self.pipeline.safeguards.revoke(eve, self.signers["eve"].id, "leaves")
        await self.parts.store.write(
            lambda tx: registry.revoke_identity(
                tx, identity=eve.identity.id, by=ada.identity.id, reason="left", now=self.clock()
            )
        )
        erasure = Erasure(self.parts.store, self.parts.vault, self.parts.ledger, self.clock)
        found = await self.parts.store.read(lambda tx: find_subject(tx, eve.identity.id))
        await erasure.run(Order(found, by=ada.identity.id, reason="asked for"))
        accounts = await self.parts.store.read(lambda tx: tx.voters.accounts(person=eve.identity.id))
        assert not accounts

    async def _freeze(self) -> None:
        freezes = ((FreezeScope.TOOL, "shell.run"), (FreezeScope.WORKSPACE, "nowhere"), (FreezeScope.AGENT, "spy"))
        for scope, target in freezes:
            await self.pipeline.safeguards.freeze(self.callers["cyn"], scope, target)
        await self._agree("unfreeze", scope="agent", target="spy")

    async def _agree(self, action: str, **parameters: str) -> None:
        """Two founders whom it isn't about agree to it."""
        asked = await self._administrate(action, **parameters)
        for name in [name for name in FOUNDERS if name != parameters.get("person")][-2:]:
            asked = await self.vote(name, asked)
        assert asked.state is ApprovalState.USED, asked

    def _vkey(self, name: str) -> str:
        return str(self.signers[name].vkey(name))

    async def _administrate(self, action: str, **parameters: str) -> Approval:
        view = await self.pipeline.approvals.administrate(self.callers["ada"], action, dict(parameters), "")
        return view.approval
