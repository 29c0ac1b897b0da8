"""``broker tools approve``: asks two people to accept a tool that is held at a higher tier than it asks for."""

from __future__ import annotations

from typing import Annotated

import typer

from broker.cli.remote import AddressOption, CaOption, IdentityOption, JsonOption, Remote, StateOption
from broker.cli.requests import ReasonOption, answer
from broker.cli.voter import AsOption, Person
from broker.client import AsyncBroker
from broker.client.approval_models import Approval
from broker.errors import NotFoundError
from broker.settings import DEFAULT_STATE


def approve(
    *,
    tool: Annotated[str, typer.Argument(help="The tool's name, such as data.query.")],
    reason: ReasonOption = "",
    who: AsOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Ask for a tool to be accepted as its specification is: one that is new, may do something else, or asks for a lower tier.

    Two people vote on it, besides who asks; the broker's next start then runs it at the tier that it asks for.

    Example: broker tools approve data.query --as ada --reason "reads the new warehouse"
    """

    async def work(broker: AsyncBroker) -> Approval:
        name = tool.removeprefix("tools/")
        for item in (await broker.status()).held:
            if item.tool == name:
                return await broker.request_tool_approval(item.digest, reason)
        raise NotFoundError(
            f"no tool {name[:64]!a} waits for approval: it runs at the tier that it asks for, or there is none",
            reason="NOTHING_HELD",
            hint="`broker status` says what waits. A specification that was changed is read at the broker's next start.",
        )

    answer(Remote(address, Person(who).identity(identity), ca, state).run(work), as_json=as_json)
