"""What commands share that ask for something which people may have to agree to."""

from __future__ import annotations

from typing import Annotated

import typer

from broker.cli.approval_view import ApprovalOutput, approval_output, render_standing, state_code
from broker.cli.call_view import say
from broker.cli.output import emit
from broker.client.approval_models import Approval
from broker.domain.approval import ApprovalState

ReasonOption = Annotated[str, typer.Option("--reason", help="Why; those who decide see it, and it is kept encrypted.")]
RequiredReason = Annotated[str, typer.Option("--reason", help="Why; kept encrypted.")]


def answer(asked: Approval, *, as_json: bool) -> None:
    """Prints what became of a request, and ends the command: with 0 where it is done, 4 where it waits for people.

    Raises:
        typer.Exit: always.
    """
    emit(approval_output(asked), as_json=as_json, render=_render)
    raise typer.Exit(int(state_code(asked.state)))


def _render(item: ApprovalOutput) -> None:
    render_standing(item)
    if item.state is ApprovalState.USED:
        say("done")
    elif item.state is ApprovalState.PENDING:
        say(f"waits for people: broker approvals show {item.name.removeprefix('approvals/')}")
