"""``broker freeze`` and ``broker unfreeze``: one approver stops things at once; two people let them go on."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from broker.cli.call_view import print_table, say, short_time
from broker.cli.output import OutputModel, emit
from broker.cli.remote import AddressOption, CaOption, IdentityOption, JsonOption, Remote, StateOption
from broker.cli.requests import ReasonOption, answer
from broker.cli.voter import AsOption, Person
from broker.client import AsyncBroker
from broker.client.approval_models import Freeze
from broker.domain.approval import FreezeScope
from broker.errors import FieldViolation, InvalidArgumentError
from broker.settings import DEFAULT_STATE

app = typer.Typer(no_args_is_help=True, help="Stop an agent, a tool, a workspace or all of it, at once.")


class FreezeOutput(OutputModel):
    """A freeze; ``target`` is empty where all is frozen."""

    scope: FreezeScope
    target: str
    by: str
    created: datetime | None
    cancelled_calls: int


class FreezesOutput(OutputModel):
    """What is frozen, oldest first."""

    items: list[FreezeOutput]


@app.command("list")
def list_freezes(
    *,
    who: AsOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """List what is frozen.

    Example: broker freeze list --as ada
    """

    async def work(broker: AsyncBroker) -> FreezesOutput:
        return FreezesOutput(items=[_output(item) for item in await broker.list_freezes()])

    emit(Remote(address, Person(who).identity(identity), ca, state).run(work), as_json=as_json, render=_render_list)


@app.command()
def agent(
    *,
    name: Annotated[str, typer.Argument(help="Name of the agent.")],
    reason: ReasonOption = "",
    who: AsOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Freeze one agent at once: nothing new starts of it, and what runs is cancelled.

    Example: broker freeze agent reporter --as ada --reason "looks odd"
    """
    remote = Remote(address, Person(who).identity(identity), ca, state)
    _freeze(remote, FreezeScope.AGENT, name, reason, as_json=as_json)


@app.command()
def tool(
    *,
    name: Annotated[str, typer.Argument(help="Name of the tool.")],
    reason: ReasonOption = "",
    who: AsOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Freeze one tool at once: nothing new starts of it, and what runs is cancelled.

    Example: broker freeze tool ops.deploy --as ada --reason "looks odd"
    """
    remote = Remote(address, Person(who).identity(identity), ca, state)
    _freeze(remote, FreezeScope.TOOL, name, reason, as_json=as_json)


@app.command()
def workspace(
    *,
    name: Annotated[str, typer.Argument(help="Name of the workspace.")],
    reason: ReasonOption = "",
    who: AsOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Freeze one workspace at once: nothing new starts of it, and what runs is cancelled.

    Example: broker freeze workspace sales --as ada --reason "looks odd"
    """
    remote = Remote(address, Person(who).identity(identity), ca, state)
    _freeze(remote, FreezeScope.WORKSPACE, name, reason, as_json=as_json)


@app.command("all")
def everything(
    *,
    reason: ReasonOption = "",
    who: AsOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Freeze everything at once: nothing new starts, and all that runs is cancelled.

    Example: broker freeze all --as ada --reason "incident 12"
    """
    remote = Remote(address, Person(who).identity(identity), ca, state)
    _freeze(remote, FreezeScope.ALL, "", reason, as_json=as_json)


def unfreeze(
    *,
    scope: Annotated[FreezeScope, typer.Argument(help="agent, tool, workspace or all.")],
    name: Annotated[str, typer.Argument(help="Name of the agent, tool or workspace; none for all.")] = "",
    reason: ReasonOption = "",
    who: AsOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Ask for the end of a freeze. Two people must agree: broker approvals approve.

    Example: broker unfreeze tool ops.deploy --as ada --reason "mended"
    """
    if bool(name) == (scope is FreezeScope.ALL):
        why = (
            "is for an agent, a tool or a workspace, and not for all" if name else f"says which {scope}; it is missing"
        )
        raise InvalidArgumentError(f"NAME {why}", reason="SCOPE_INVALID", violations=(FieldViolation("NAME", why),))
    parameters = {"scope": scope.value, "target": name}
    remote = Remote(address, Person(who).identity(identity), ca, state)
    answer(remote.run(lambda broker: broker.request_administration("unfreeze", parameters, reason)), as_json=as_json)


def _freeze(remote: Remote, scope: FreezeScope, target: str, reason: str, *, as_json: bool) -> None:
    done = remote.run(lambda broker: broker.create_freeze(scope, target, reason))
    emit(_output(done), as_json=as_json, render=_render)


def _output(item: Freeze) -> FreezeOutput:
    return FreezeOutput(
        scope=item.scope,
        target=item.target,
        by=item.by,
        created=item.created,
        cancelled_calls=item.cancelled_calls,
    )


def _render(item: FreezeOutput) -> None:
    _render_list(FreezesOutput(items=[item]))
    say(f"{item.cancelled_calls} running calls were told to end; two people end the freeze: broker unfreeze")


def _render_list(output: FreezesOutput) -> None:
    rows = [[item.scope.value, item.target, item.by, short_time(item.created)] for item in output.items]
    print_table(["frozen", "name", "by", "since"], rows)
