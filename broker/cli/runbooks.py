"""``broker runbooks``: calls that people agree on beforehand, for the night on which there is no time."""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.approval_view import ApprovalOutput, ApprovalsOutput, approval_output, render_list
from broker.cli.durations import parse_duration
from broker.cli.output import emit
from broker.cli.remote import AddressOption, CaOption, IdentityOption, JsonOption, Remote, StateOption
from broker.cli.requests import ReasonOption, answer
from broker.cli.voter import AsOption, Person
from broker.client import AsyncBroker
from broker.client.approval_models import ApprovalFilter
from broker.domain.approval import OPEN_STATES, ApprovalKind
from broker.domain.canonical import parse_object
from broker.errors import FieldViolation, InvalidArgumentError
from broker.settings import DEFAULT_STATE

app = typer.Typer(no_args_is_help=True, help="Agree on a call beforehand, for an emergency.")
_MOST_ARGUMENTS = 4 * 2**20


@app.command()
def create(
    *,
    tool: Annotated[str, typer.Argument(help="The tool, such as ops.restart.")],
    agent: Annotated[str, typer.Option("--agent", help="The agent that may make the call, by name.")],
    until: Annotated[str, typer.Option("--for", help="For how long it can be used: 8h, 7d.")],
    workspace: Annotated[
        str, typer.Option("--workspace", "-w", envvar="BROKER_WORKSPACE", help="Workspace of the call.")
    ],
    arguments: Annotated[str, typer.Option("--args", help="The exact arguments as JSON, or @FILE.")] = "{}",
    version: Annotated[str, typer.Option("--tool-version", help="The tool's version. Default: the present one.")] = "",
    workflow: Annotated[str, typer.Option("--workflow", help="The workflow under which it is used.")] = "",
    reason: ReasonOption = "",
    who: AsOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Ask for a runbook: one exact call that an agent may make once. Its use is looked back at afterwards.

    Example: broker runbooks create ops.restart -w prod --agent oncall --args '{"host": "db1"}' --for 7d --as ada
    """
    values = parse_object(_text(arguments), field="--args", max_bytes=_MOST_ARGUMENTS)
    expires = datetime.now(UTC) + parse_duration(until, option="--for")
    remote = Remote(address, Person(who).identity(identity), ca, state)
    asked = remote.run(
        lambda broker: broker.create_runbook(
            tool,
            values,
            agent=agent,
            expires=expires,
            workspace=workspace,
            tool_version=version,
            workflow=workflow,
            reason=reason,
        )
    )
    answer(asked, as_json=as_json)


@app.command("list")
def list_runbooks(
    *,
    every: Annotated[bool, typer.Option("--all", help="Those too that were used, denied or have expired.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="Most runbooks to list.")] = 100,
    who: AsOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """List runbooks, newest first: APPROVED ones can be used.

    Example: broker runbooks list --as ada
    """
    chosen = ApprovalFilter(states=() if every else tuple(sorted(OPEN_STATES)), kinds=(ApprovalKind.RUNBOOK,))

    async def work(broker: AsyncBroker) -> ApprovalsOutput:
        found: list[ApprovalOutput] = []
        async with aclosing(broker.list_approvals(chosen, page_size=min(limit + 1, 1000))) as runbooks:
            async for item in runbooks:
                if len(found) == limit:
                    return ApprovalsOutput(items=found, more=True)
                found.append(approval_output(item))
        return ApprovalsOutput(items=found, more=False)

    emit(Remote(address, Person(who).identity(identity), ca, state).run(work), as_json=as_json, render=render_list)


def _text(given: str) -> str:
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = f"{given[1:]} can't be read"
        raise InvalidArgumentError(
            f"--args: {why}", reason="FILE_UNREADABLE", violations=(FieldViolation("--args", why),)
        ) from error
