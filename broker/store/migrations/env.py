"""What Alembic runs to migrate: on the connection that it is given, in its owner's transaction."""

from __future__ import annotations

from alembic import context

from broker.store.tables import Base


def run() -> None:
    """Runs the migrations that were asked for; the caller begins and commits, so that all of them count, or none."""
    context.configure(
        connection=context.config.attributes["connection"], target_metadata=Base.metadata, transactional_ddl=False
    )
    context.run_migrations()


run()
