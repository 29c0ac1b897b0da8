"""A broker with the two-person rule in force: people with keys of their own, a founding, a workflow, Tier-4 tools."""

from __future__ import annotations

import json
import shlex
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from broker.client import AsyncBroker, CallContext
from broker.client.approval_models import Approval
from broker.domain.approval import ApprovalState, VoteDecision
from broker.signing import Ed25519Signer
from tests.served import OPERATOR, Served, command, issue, make_state, serving

APPROVERS = ("ada", "bob", "cyn")
SPONSOR = "eve"
TOOL = "world.change"
WORKFLOW = "clean-up"

POLICY = """
p, t-approve, role:approver, *, *, approve, 4, allow, approvers decide
p, t-admin, role:approver, *, broker.admin, approve, 4, allow, approvers decide
p, t-runbook, role:approver, *, broker.runbook, approve, 4, allow, approvers decide
p, t-workflow, role:exec-sponsor, *, broker.workflow, approve, 4, allow, the sponsor decides on workflows
p, t-call, role:agent, demo, world.change, call, 4, allow, agents change the world
p, t-call-python, role:agent, demo, python.run, call, 4, allow, agents run Python
g, human:ada, role:approver, *
g, human:bob, role:approver, *
g, human:cyn, role:approver, *
g, human:olivia, role:approver, *
g, human:eve, role:exec-sponsor, *
"""

SPEC = """
name: world.change
description: Changes the world, as far as a test can tell.
owner: olivia
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

WORKFLOW_SPEC = """
name: clean-up
description: Cleans up what nobody needs any more.
owner: olivia
workspaces: [demo]
tier: 4
models: [model-1]
prompt_versions: [p1]
tools: [world.change, python.run]
data_classes: []
"""


def refused(state: Path, *arguments: str) -> dict[str, Any]:
    """Runs a command that is refused because nobody has agreed to it, and gives its error."""
    result = command(state, *arguments, "--json", check=False)
    assert result.returncode == 4, f"{arguments}: {result.returncode}\n{result.stdout}\n{result.stderr}"
    error: dict[str, Any] = json.loads(result.stdout)
    assert error["reason"] == "APPROVAL_REQUIRED", error
    return error


def needed(error: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The action and the parameters that a refusal says are needed; the command line in its hint says the same."""
    action, parameters = error["metadata"]["action"], json.loads(error["metadata"]["parameters"])
    words = shlex.split(error["hint"].partition(": ")[2])
    assert words[:4] == ["broker", "approvals", "request", action]
    assert json.loads(words[words.index("--parameters") + 1]) == parameters
    return action, parameters


def make_approval_state(state: Path, *, settings: Mapping[str, Any] | None = None, tiers: str = "") -> None:
    """Makes a state directory with the people, the tool, the workflow and the policy; nobody has a key yet."""
    make_state(state, settings=settings)
    issue(state, dict.fromkeys((*APPROVERS, SPONSOR), ""))
    policy = state / "policy" / "policy.csv"
    policy.write_text(policy.read_text("utf-8") + POLICY, "utf-8")
    specs = state / "tool_specs"
    specs.mkdir(exist_ok=True)
    (specs / "world.change.yaml").write_text(SPEC, "utf-8")
    if tiers:
        (specs / "tiers.yaml").write_text(tiers, "utf-8")
    workflows = state / "workflows"
    workflows.mkdir(exist_ok=True)
    (workflows / "clean-up.yaml").write_text(textwrap.dedent(WORKFLOW_SPEC), "utf-8")


@dataclass
class World:
    """Clients of everybody, open while the block lasts, and everybody's signer."""

    served: Served
    signers: dict[str, Ed25519Signer] = field(
        default_factory=lambda: {name: Ed25519Signer.generate() for name in (*APPROVERS, SPONSOR, OPERATOR)}
    )
    people: dict[str, AsyncBroker] = field(default_factory=dict)
    session: str = ""
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> Self:
        for name in self.signers:
            self.people[name] = await self._stack.enter_async_context(self.served.human(name))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    @property
    def operator(self) -> AsyncBroker:
        """The operator's client: the agent's owner, and who starts its session."""
        return self.people[OPERATOR]

    async def found(self) -> None:
        """Enrols everybody's key, and has three people accept."""
        for name, signer in self.signers.items():
            parameters = {"person": name, "vkey": str(signer.vkey(name)), "kind": "approver"}
            await self.operator.request_administration("key.enroll", parameters)
        for name in APPROVERS:
            founding = await self.people[name].get_founding()
            founding = await self.people[name].accept_founding(founding, signer=self.signers[name])
        assert founding.complete

    async def admit_bot(self, name: str, signer: Ed25519Signer, *, team: str, user: str) -> None:
        """Has people agree, after the founding, to a bot's key, and to ada's account in its chat."""
        enrol = {"person": name, "vkey": str(signer.vkey(name)), "kind": "bot"}
        account = {"service": "slack", "team": team, "user": user, "person": "ada"}
        for action, parameters in (("key.enroll", enrol), ("account.map", account)):
            asked = await self.operator.request_administration(action, parameters)
            for voter in ("bob", "cyn"):
                asked = await self.vote(voter, asked)
            assert asked.state is ApprovalState.USED, asked

    async def approve_workflow(self) -> None:
        """Has the sponsor approve the workflow."""
        asked = await self.operator.submit_workflow(WORKFLOW)
        await self.vote(SPONSOR, asked)

    async def start_session(self) -> None:
        """Starts the agent's session, under the operator's certificate."""
        self.session = (await self.operator.start_session("scout", "demo")).name

    async def ready(self) -> Self:
        """All three of them."""
        await self.found()
        await self.approve_workflow()
        await self.start_session()
        return self

    def context(self, **changes: str) -> CallContext:
        """What a Tier-4 call has to carry."""
        given = {
            "workspace": "demo",
            "workflow": WORKFLOW,
            "session": self.session,
            "purpose": "to clean up",
            "model": "model-1",
            "prompt_version": "p1",
            **changes,
        }
        return CallContext(**given)

    def agent(self, name: str = "scout", **changes: str) -> AsyncBroker:
        """The agent's client."""
        return self.served.connect("agent", name, self.context(**changes))

    async def pending(self, call: str = "") -> Approval:
        """The open approval (of a call)."""
        async for item in self.operator.list_approvals():
            if item.state.value in {"PENDING", "APPROVED"} and call in {"", item.subject}:
                return item
        raise AssertionError("nothing waits for approval")

    async def agree(
        self, action: str, parameters: Mapping[str, Any], *, by: str = OPERATOR, people: int = 2
    ) -> Approval:
        """Has somebody ask for an administrative action, and as many people as that agree."""
        asked = await self.people[by].request_administration(action, parameters)
        for name in [one for one in APPROVERS if one != by][:people]:
            asked = await self.vote(name, asked)
        return asked

    async def vote(
        self, name: str, approval: Approval, decision: VoteDecision = VoteDecision.APPROVE, reason: str = ""
    ) -> Approval:
        """A person looks at an approval, and votes on it with their own key."""
        client = self.people[name]
        whole = await client.get_approval(approval.name)
        return await client.cast_vote(whole, decision, signer=self.signers[name], reason=reason)


@dataclass(frozen=True)
class Founded:
    """A state directory in which the two-person rule is in force, and everybody's keys; nobody serves it."""

    state: Path
    signers: Mapping[str, Ed25519Signer]

    def copy(self, place: Path) -> Founded:
        """The same for one test. Its clients must remember nothing of other copies: they have one origin, and differ."""
        shutil.copytree(self.state, place, symlinks=True)
        return Founded(place, self.signers)

    @contextmanager
    def serving(self, **env: str) -> Iterator[World]:
        """Serves it; the world is to be entered."""
        with serving(self.state, **env) as served:
            yield World(served, dict(self.signers))


async def make_founded(state: Path) -> Founded:
    """Makes a state directory, enrols everybody's key and completes the founding."""
    make_approval_state(state)
    with serving(state) as served:
        async with World(served) as world:
            await world.found()
    return Founded(state, world.signers)


def tiers_with(**changes: object) -> str:
    """The shipped table with another ``call_approval`` for Tier 4."""
    from broker.specs.shipped import shipped_folder  # noqa: PLC0415 - a test's own reading

    table = yaml.safe_load((shipped_folder() / "tiers.yaml").read_text("utf-8"))
    table["tiers"][4]["call_approval"] |= changes
    return yaml.safe_dump(table)
