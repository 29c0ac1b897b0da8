"""``broker migrate``: brings an older broker's database up to date."""

from __future__ import annotations

from typing import Annotated

import typer

from broker.cli.local import JsonOption, StateOption
from broker.cli.output import OutputModel, console, emit
from broker.settings import DEFAULT_STATE, StatePaths, load_settings
from broker.store.opening import DatabaseTarget


class MigrateOutput(OutputModel):
    """Which version of the schema the database had, and which it has; equal where nothing was to be done."""

    database: str
    before: str
    after: str


def migrate(
    *,
    database_owner: Annotated[
        str, typer.Option(help="The PostgreSQL database as the user who owns the tables, if that is another.")
    ] = "",
    database_owner_password: Annotated[
        str, typer.Option(help="Where the owner's password comes from: env:NAME or file:/absolute/path.")
    ] = "",
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Bring the database of an older broker up to date; stop the broker first, and keep a copy.

    All of it or nothing: what is interrupted leaves the database as it was. Entries of the ledger are never changed.
    On PostgreSQL the broker's user is granted anew what it needs.

    Example: broker migrate --state /var/lib/broker
    """
    # Alembic and the server's lock bring much along, which no other command waits for.
    from broker.app.place import only_broker  # noqa: PLC0415
    from broker.store.migrating import migrate as migrate_store  # noqa: PLC0415

    paths = StatePaths(state)
    settings = load_settings(state)
    target = DatabaseTarget(paths.database, settings.database, settings.database_password)
    owner = DatabaseTarget(paths.database, database_owner, database_owner_password) if database_owner else None
    with only_broker(paths):
        done = migrate_store(target, owner)
    emit(MigrateOutput(database=str(target), before=done.before, after=done.after), as_json=as_json, render=_render)


def _render(output: MigrateOutput) -> None:
    if output.before == output.after:
        console.print(f"{output.database} has version {output.after} already", soft_wrap=True, markup=False)
    else:
        console.print(f"{output.database}: version {output.before} became {output.after}", soft_wrap=True, markup=False)
