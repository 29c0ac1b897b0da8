"""``broker approvals``: what waits for people, and their votes. There is no command for several at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing, suppress
from typing import Annotated

import typer

from broker.cli.approval_view import (
    ApprovalOutput,
    ApprovalsOutput,
    approval_output,
    left_words,
    render_approval,
    render_list,
    render_standing,
    state_code,
    vote_words,
)
from broker.cli.lazy import Lazy, lazy_group
from broker.cli.output import ExitCode, console, emit, printable, report
from broker.cli.remote import AddressOption, CaOption, IdentityOption, JsonOption, Remote, StateOption
from broker.cli.voter import AsOption, Person
from broker.client import AsyncBroker
from broker.client.approval_models import Approval, ApprovalFilter
from broker.client.ballot import check_content
from broker.domain.approval import OPEN_STATES, ApprovalKind, ApprovalState
from broker.domain.ids import ID_PATTERN
from broker.errors import DataLossError, DeadlineError, FieldViolation, InvalidArgumentError, NotFoundError
from broker.settings import DEFAULT_STATE

_OTHERS = {
    "request": Lazy("broker.cli.approvals_request:request", "Ask for an administrative action by its name."),
    "approve": Lazy("broker.cli.vote:approve", "Approve one exact action, after a look at all of it."),
    "deny": Lazy("broker.cli.vote:deny", "Deny an action; one denial ends it."),
    "withdraw": Lazy("broker.cli.vote:withdraw", "Take your own vote back."),
}

app = typer.Typer(cls=lazy_group(_OTHERS), no_args_is_help=True, help="Show and decide what waits for approval.")

ApprovalArgument = Annotated[
    str, typer.Argument(help="The approval, apv_..., or at least 8 characters of its beginning that no other has.")
]
_LEAST_PREFIX = 8
_MOST_NAMED = 5
_LOOK_S = 15.0


@app.command("list")
def list_approvals(
    *,
    states: Annotated[
        list[ApprovalState] | None,
        typer.Option(
            "--approval-state", case_sensitive=False, help="State; may be repeated. Default: those that are open."
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="In any state.")] = False,
    mine: Annotated[bool, typer.Option("--mine", help="Only what you may vote on now.")] = False,
    kinds: Annotated[
        list[ApprovalKind] | None, typer.Option("--kind", case_sensitive=False, help="Kind; may be repeated.")
    ] = None,
    workspace: Annotated[str, typer.Option("--workspace", "-w", help="Workspace.")] = "",
    call: Annotated[str, typer.Option("--call", help="The approval of a call, call_....")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="Most approvals to list.")] = 100,
    who: AsOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """List approvals, newest first: those that are open, unless others are asked for.

    Example: broker approvals list --mine --as ada
    """
    chosen = ApprovalFilter(
        states=() if every else tuple(states or sorted(OPEN_STATES)),
        kinds=tuple(kinds or ()),
        workspace=workspace,
        votable=mine,
        call=call,
    )

    async def work(broker: AsyncBroker) -> ApprovalsOutput:
        await broker.check_founding()
        found: list[ApprovalOutput] = []
        async with aclosing(broker.list_approvals(chosen, page_size=min(limit + 1, 1000))) as approvals:
            async for approval in approvals:
                if len(found) == limit:
                    return ApprovalsOutput(items=found, more=True)
                found.append(approval_output(approval))
        return ApprovalsOutput(items=found, more=False)

    remote = Remote(address, Person(who).identity(identity), ca, state)
    emit(remote.run(work), as_json=as_json, render=render_list)


@app.command()
def show(
    approval: ApprovalArgument,
    *,
    who: AsOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Show all of an approval: the text that every channel shows, who has voted, what is missing, and the time left.

    Example: broker approvals show apv_01jx0000000000000000000000 --as ada
    """
    found = Remote(address, Person(who).identity(identity), ca, state).run(lambda broker: fetch(broker, approval))
    emit(approval_output(found), as_json=as_json, render=render_approval)
    if found.envelope or found.rendering:
        try:
            check_content(found)
        except DataLossError as error:
            if not as_json:
                report(error, as_json=False)
            raise typer.Exit(int(ExitCode.OURS)) from error


@app.command()
def watch(
    approval: Annotated[
        str, typer.Argument(help="One approval, until it is closed. Default: all that are open, for good.")
    ] = "",
    *,
    mine: Annotated[bool, typer.Option("--mine", help="Only what you may vote on.")] = False,
    workspace: Annotated[str, typer.Option("--workspace", "-w", help="Workspace.")] = "",
    who: AsOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Print the open approvals, and each again whenever something about it changes; with --json an object for each.

    One that is named is followed until it is closed; the exit code is then 0 where it was used, 3 where it was refused.

    Example: broker approvals watch --mine --as ada
    """
    chosen = ApprovalFilter(workspace=workspace, votable=mine)

    async def work(broker: AsyncBroker) -> ExitCode:
        await broker.check_founding()
        if approval:
            return await _watch_one(broker, approval, as_json=as_json)
        return await _watch_all(broker, chosen, as_json=as_json)

    code = Remote(address, Person(who).identity(identity), ca, state).run(work)
    raise typer.Exit(int(code))


async def _watch_all(broker: AsyncBroker, chosen: ApprovalFilter, *, as_json: bool) -> ExitCode:
    while True:
        with suppress(DeadlineError):  # the client's own: a watch is for good
            async with aclosing(broker.watch_approvals(chosen)) as changes:
                async for item in changes:
                    emit(approval_output(item), as_json=as_json, render=_render_change)


async def _watch_one(broker: AsyncBroker, given: str, *, as_json: bool) -> ExitCode:
    name = (await fetch(broker, given)).name
    shown: Approval | None = None
    async with aclosing(broker.watch_approvals()) as changes:
        following = asyncio.ensure_future(anext(changes))
        try:
            while True:
                # Looked up now and then too: what ends before the watch stands isn't among the open ones that it begins with.
                present = await broker.get_approval(name)
                if present != shown:
                    emit(approval_output(present), as_json=as_json, render=_render_change)
                    shown = present
                if present.state not in OPEN_STATES:
                    return state_code(present.state)
                await asyncio.wait({following}, timeout=_LOOK_S)
                if following.done():
                    following.result()
                    following = asyncio.ensure_future(anext(changes))
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


@app.command()
def cancel(
    approval: ApprovalArgument,
    *,
    who: AsOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Withdraw a request of your own, or of an agent that you answer for. Nobody can approve it any more.

    Example: broker approvals cancel apv_01jx0000000000000000000000 --as ada
    """

    async def work(broker: AsyncBroker) -> Approval:
        return await broker.cancel_approval(await resolve(broker, approval, tuple(sorted(OPEN_STATES))))

    done = Remote(address, Person(who).identity(identity), ca, state).run(work)
    emit(approval_output(done), as_json=as_json, render=render_standing)


async def fetch(broker: AsyncBroker, given: str, states: Sequence[ApprovalState] = ()) -> Approval:
    """An approval with its content, by its name or the beginning of it; the founding is compared first.

    Raises:
        BrokerError: as ``resolve``, ``check_founding`` and ``get_approval``.
    """
    await broker.check_founding()
    return await broker.get_approval(await resolve(broker, given, states))


async def resolve(broker: AsyncBroker, given: str, states: Sequence[ApprovalState] = ()) -> str:
    """The full name of an approval; ``states`` are those in which a beginning of a name is looked for.

    Raises:
        InvalidArgumentError: too short, or the beginning of several (``APPROVAL_AMBIGUOUS``).
        NotFoundError: it is the beginning of none that the caller may see.
    """
    beginning = given.removeprefix("approvals/")
    if ID_PATTERN.fullmatch(beginning):
        return beginning
    if len(beginning) < _LEAST_PREFIX:
        raise _ambiguous(given, f"is shorter than {_LEAST_PREFIX} characters")
    found: list[str] = []
    async with aclosing(broker.list_approvals(ApprovalFilter(states=tuple(states)), page_size=1000)) as approvals:
        async for approval in approvals:
            if approval.id.startswith(beginning):
                found.append(approval.id)
            if len(found) > _MOST_NAMED:
                break
    if not found:
        raise NotFoundError(
            f"no approval that you may see{' and that is open' if states else ''} begins with {given!a}",
            reason="APPROVAL_NOT_FOUND",
            hint="`broker approvals list --all` lists them.",
        )
    if len(found) > 1:
        raise _ambiguous(given, f"is the beginning of several: {', '.join(found[:_MOST_NAMED])}")
    return found[0]


def _ambiguous(given: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"the approval {given[:80]!a} {why}",
        reason="APPROVAL_AMBIGUOUS",
        hint="Give more of its name.",
        violations=(FieldViolation("APPROVAL", why),),
    )


def _render_change(item: ApprovalOutput) -> None:
    last = f"; last vote: {vote_words(item.votes[-1])}" if item.votes else ""
    left = f"; {left_words(item.left_s)} left" if item.left_s is not None else ""
    mine = "; yours to decide" if item.may_vote else ""
    line = f"{item.name.removeprefix('approvals/')}  {item.state:<9}  {item.summary}{left}{mine}{last}"
    console.print(
        printable(" ".join(line.split("\n"))), markup=False, soft_wrap=True, style="bold" if item.may_vote else ""
    )
