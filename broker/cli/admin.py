"""``broker status`` and ``broker policy reload``: looking after a running broker."""

from __future__ import annotations

import shlex
from datetime import datetime
from pathlib import Path

from broker.cli.call_view import print_fields, short_time
from broker.cli.output import OutputModel, console, emit, printable
from broker.cli.remote import AddressOption, CaOption, IdentityOption, JsonOption, Remote, StateOption
from broker.client import AsyncBroker, HeldChange
from broker.domain.administration import request_command
from broker.settings import DEFAULT_STATE, StatePaths

_POLICY = "policy.change"


class HeldOutput(OutputModel):
    """A change that is not in force because two people have not agreed to it, and the command that asks for it."""

    action: str
    digest: str
    weaker: list[str]
    command: str
    tool: str
    """Name of the tool that it is about; empty for another change."""


class StatusOutput(OutputModel):
    """What a running broker runs with; ``held`` is what waits for two people to agree."""

    version: str
    origin: str
    boot_id: str
    started: datetime | None
    policy_digest: str
    tools: int
    running: int
    queued: int
    ledger_seq: int
    held: list[HeldOutput]


class ReloadOutput(OutputModel):
    """The policy now in force, and whether it is another than before."""

    policy_digest: str
    changed: bool


def status(
    *,
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Say what a running broker runs with: version, policy, tools, queue, ledger.

    Example: broker status --identity human/ada
    """

    async def work(broker: AsyncBroker) -> StatusOutput:
        found = await broker.status()
        return StatusOutput(
            version=found.version,
            origin=found.origin,
            boot_id=found.boot_id,
            started=found.started,
            policy_digest=found.policy_digest,
            tools=found.tools,
            running=found.running,
            queued=found.queued,
            ledger_seq=found.ledger_seq,
            held=[
                HeldOutput(
                    action=item.action,
                    digest=item.digest,
                    weaker=list(item.weaker),
                    command=_command(item, state),
                    tool=item.tool,
                )
                for item in found.held
            ],
        )

    emit(Remote(address, identity, ca, state).run(work), as_json=as_json, render=_render)


def _command(item: HeldChange, state: Path) -> str:
    if item.action == _POLICY:
        return shlex.join(["broker", "policy", "apply", str(StatePaths(state).policy / "policy.csv")])
    if item.tool:
        return shlex.join(["broker", "tools", "approve", item.tool, "--reason", "..."])
    return request_command(item.action, {"digest": item.digest})


def _render(item: StatusOutput) -> None:
    print_fields(
        {
            "version": item.version,
            "origin": item.origin,
            "boot": item.boot_id,
            "started": short_time(item.started),
            "policy": item.policy_digest,
            "tools": str(item.tools),
            "running": str(item.running),
            "queued": str(item.queued),
            "ledger entry": str(item.ledger_seq),
        }
    )
    for held in item.held:
        text = f"NOT IN FORCE, as two people have not agreed to it ({held.action}):\n"
        text += "".join(f"  {line}\n" for line in held.weaker)
        then = "" if held.action == _POLICY else ", and start the broker again once they agree"
        console.print(
            printable(f"{text}  ask for it: {held.command}{then}"), soft_wrap=True, markup=False, style="bold red"
        )


def reload_policy(
    *,
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Have the running broker read its policy again; one that doesn't pass its checks changes nothing.

    Example: broker policy reload --identity human/ada
    """

    async def work(broker: AsyncBroker) -> ReloadOutput:
        found = await broker.reload_policy()
        return ReloadOutput(policy_digest=found.policy_digest, changed=found.changed)

    emit(Remote(address, identity, ca, state).run(work), as_json=as_json, render=_render_reload)


def _render_reload(item: ReloadOutput) -> None:
    console.print(
        f"{'changed to' if item.changed else 'unchanged:'} {item.policy_digest}", soft_wrap=True, markup=False
    )
