"""``broker workflows list`` and ``submit``: the workflows of a running broker, and having one approved."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import JsonValue

from broker.cli.call_view import print_table
from broker.cli.output import OutputModel, emit
from broker.cli.remote import AddressOption, CaOption, IdentityOption, JsonOption, Remote, StateOption
from broker.cli.requests import ReasonOption, answer
from broker.cli.voter import AsOption, Person
from broker.client import AsyncBroker
from broker.settings import DEFAULT_STATE

app = typer.Typer(no_args_is_help=True, help="List workflows, and ask for one to be approved.")


class WorkflowOutput(OutputModel):
    """A workflow as the broker has read it; ``approval`` is empty where its present version isn't approved."""

    name: str
    digest: str
    tier: int | None
    approved: bool
    approval: str
    text: dict[str, JsonValue]


class WorkflowsOutput(OutputModel):
    """The workflows, by name."""

    items: list[WorkflowOutput]


@app.command("list")
def list_workflows(
    *,
    who: AsOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """List the workflows that the broker has read, and which of them are approved.

    Example: broker workflows list --as ada
    """

    async def work(broker: AsyncBroker) -> WorkflowsOutput:
        return WorkflowsOutput(
            items=[
                WorkflowOutput(
                    name=item.name,
                    digest=item.digest,
                    tier=item.tier,
                    approved=item.approved,
                    approval=item.approval,
                    text=item.text,
                )
                for item in await broker.list_workflows()
            ]
        )

    emit(Remote(address, Person(who).identity(identity), ca, state).run(work), as_json=as_json, render=_render)


@app.command()
def submit(
    *,
    name: Annotated[str, typer.Argument(help="The workflow's name.")],
    digest: Annotated[
        str,
        typer.Option(
            "--digest", help="The version that you mean, sha256:.... Default: the one that the broker has read."
        ),
    ] = "",
    reason: ReasonOption = "",
    who: AsOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Ask for a version of a workflow to be approved by the people of its tier.

    Example: broker workflows submit quarterly-report --as ada --reason "adds the new model"
    """
    remote = Remote(address, Person(who).identity(identity), ca, state)
    answer(remote.run(lambda broker: broker.submit_workflow(name, digest, reason)), as_json=as_json)


def _render(output: WorkflowsOutput) -> None:
    rows = [
        [
            item.name.removeprefix("workflows/"),
            "" if item.tier is None else str(int(item.tier)),
            "approved" if item.approved else "not approved",
            item.approval.removeprefix("approvals/"),
            item.digest,
        ]
        for item in output.items
    ]
    print_table(["workflow", "tier", "", "approval", "version"], rows)
