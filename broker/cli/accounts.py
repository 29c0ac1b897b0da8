"""``broker accounts``: which chat account is whose. Administration: two people agree once the two-person rule is in force."""

from __future__ import annotations

from typing import Annotated

import typer

from broker.cli.call_view import print_fields
from broker.cli.output import OutputModel, emit
from broker.cli.remote import AddressOption, CaOption, IdentityOption, JsonOption, Remote, StateOption
from broker.cli.requests import ReasonOption, answer
from broker.cli.voter import AsOption, Person
from broker.errors import FieldViolation, InvalidArgumentError
from broker.settings import DEFAULT_STATE

app = typer.Typer(no_args_is_help=True, help="Map chat accounts to people, and show whose one is.")

TeamOption = Annotated[str, typer.Option("--team", help="The service's id of the team, such as T0123ABCD.")]
ServiceOption = Annotated[str, typer.Option("--service", help="The chat service.")]
_SERVICE = "slack"


class AccountOutput(OutputModel):
    """A person's account in a chat service."""

    service: str
    team: str
    user: str
    person: str
    person_name: str


@app.command("map")
def map_account(
    *,
    team: TeamOption,
    user: Annotated[
        str, typer.Option("--user", help="The service's id of the user, such as U0123ABCD; no name, no address.")
    ],
    person: Annotated[str, typer.Option("--person", help="The human whose account it is, by name.")],
    service: ServiceOption = _SERVICE,
    reason: ReasonOption = "",
    who: AsOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Ask for a chat account to be a person's, so that a bot knows them by it.

    Example: broker accounts map --team T0123ABCD --user U0123ABCD --person ada --as olivia
    """
    parameters = {"service": service, "team": team, "user": user, "person": person}
    remote = Remote(address, Person(who).identity(identity), ca, state)
    answer(remote.run(lambda broker: broker.request_administration("account.map", parameters, reason)), as_json=as_json)


@app.command("unmap")
def unmap_account(
    *,
    team: TeamOption,
    user: Annotated[str, typer.Option("--user", help="The service's id of the user.")],
    service: ServiceOption = _SERVICE,
    reason: ReasonOption = "",
    who: AsOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Ask for a chat account to be nobody's any more.

    Example: broker accounts unmap --team T0123ABCD --user U0123ABCD --as olivia
    """
    parameters = {"service": service, "team": team, "user": user}
    remote = Remote(address, Person(who).identity(identity), ca, state)
    answer(
        remote.run(lambda broker: broker.request_administration("account.unmap", parameters, reason)),
        as_json=as_json,
    )


@app.command()
def show(
    *,
    team: TeamOption,
    user: Annotated[str, typer.Option("--user", help="The service's id of the user.")] = "",
    person: Annotated[str, typer.Option("--person", help="The person, by id, hum_....")] = "",
    service: ServiceOption = _SERVICE,
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Show whose a chat account is, or which one a person has. Only a bot may ask: give its identity.

    Example: broker accounts show --team T0123ABCD --user U0123ABCD --identity agent/slack-bot
    """
    if bool(user) == bool(person):
        why = "give one of --user and --person"
        raise InvalidArgumentError(why, reason="ACCOUNT_NOT_NAMED", violations=(FieldViolation("--user", why),))
    found = Remote(address, identity, ca, state).run(
        lambda broker: broker.get_chat_account(service, team, user, person)
    )
    output = AccountOutput(
        service=found.service, team=found.team, user=found.user, person=found.person, person_name=found.person_name
    )
    emit(output, as_json=as_json, render=_render)


def _render(item: AccountOutput) -> None:
    print_fields(
        {
            "service": item.service,
            "team": item.team,
            "user": item.user,
            "person": item.person_name,
            "person's id": item.person,
        }
    )
