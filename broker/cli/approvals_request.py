"""``broker approvals request``: asks for an administrative action by its name."""

from __future__ import annotations

from typing import Annotated

import typer

from broker.cli.remote import AddressOption, CaOption, IdentityOption, JsonOption, Remote, StateOption
from broker.cli.requests import ReasonOption, answer
from broker.cli.voter import AsOption, Person
from broker.domain.canonical import parse_object
from broker.settings import DEFAULT_STATE

_MOST_PARAMETERS = 1 << 20


def request(
    action: Annotated[str, typer.Argument(help="Name of the action, such as identity.issue.")],
    *,
    parameters: Annotated[str, typer.Option("--parameters", help="Its parameters, a JSON object.")] = "{}",
    reason: ReasonOption = "",
    who: AsOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Ask for an administrative action. Commands that need one which isn't agreed to print the line to type.

    The broker does key.enroll, identity.owner, account.map, account.unmap and unfreeze itself as soon as two people agree.
    The others wait until the command, or the start of the broker, that they are for.

    Example: broker approvals request identity.owner --parameters '{"agent":"scout","owner":"ada"}' --as olivia
    """
    given = parse_object(parameters, field="--parameters", max_bytes=_MOST_PARAMETERS)
    remote = Remote(address, Person(who).identity(identity), ca, state)
    answer(remote.run(lambda broker: broker.request_administration(action, given, reason)), as_json=as_json)
