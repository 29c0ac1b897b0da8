"""``broker delegations``: a human signs that an agent may act on their behalf. Needs no broker."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from broker.cli.durations import parse_duration
from broker.cli.local import AsOption, CertOption, JsonOption, KeyOption, StateOption, load_holder
from broker.cli.output import OutputModel, console, emit
from broker.identity import delegation
from broker.settings import DEFAULT_STATE

app = typer.Typer(no_args_is_help=True, help="Sign that an agent may act on your behalf.")


class DelegationOutput(OutputModel):
    """A signed delegation; ``token`` goes into the ``delegation`` of a call's context."""

    token: str
    human: str
    agent: str
    workspace: str
    audience: str
    not_before: datetime
    expires: datetime


@app.callback()
def group() -> None:
    """Sign that an agent may act on your behalf."""


@app.command()
def sign(
    *,
    agent: Annotated[str, typer.Option(help="Name of the agent that may act.")],
    workspace: Annotated[str, typer.Option(help="The one workspace in which it may.")],
    human: AsOption = "",
    expires: Annotated[str, typer.Option(help="How long it counts, at most 30d: 90s, 30m, 8h, 7d.")] = "8h",
    key: KeyOption = None,
    cert: CertOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Sign a delegation with the key of your certificate.

    Example: broker delegations sign --agent reporter --workspace sales --expires 8h --as ada

    With --key and --cert it works on any machine: the certificate says who you are and for which broker it is.
    """
    holder = load_holder(state, human, key=key, cert=cert)
    token, signed = delegation.sign(
        certificate=holder.certificate,
        key=holder.key,
        agent=agent,
        workspace=workspace,
        life=parse_duration(expires, option="--expires"),
        now=datetime.now(UTC),
    )
    output = DelegationOutput(
        token=token,
        human=signed.human,
        agent=signed.agent,
        workspace=signed.workspace,
        audience=signed.audience,
        not_before=signed.not_before,
        expires=signed.expires,
    )
    emit(output, as_json=as_json, render=_render)


def _render(output: DelegationOutput) -> None:
    # The token alone on its line, and unwrapped, so that a script can take it.
    console.print(output.token, soft_wrap=True, markup=False)
