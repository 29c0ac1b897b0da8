"""A real PostgreSQL with TLS and passwords, and a state directory with the tool ``sql.execute`` for a database there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import yaml

from tests.egress_support import make_certificates
from tests.postgres_server import APPLICATION, PASSWORD, PostgresServer, postgres_server

TOOL = "shop.sql"
DATABASE = "shop"
PASSWORD_NAME = "SHOP_PASSWORD"  # noqa: S105 - of a variable
POLICY = f"""
p, t-sql, role:agent, *, {TOOL}, call, 1, allow, agents change rows
p, t-sql-undo, role:agent, *, workspace.undo, call, 1, allow, agents take back
"""
EXAMPLES = Path(__file__).parents[1] / "examples" / "tool_specs"


@dataclass(frozen=True)
class ShopDatabase:
    """The server, and who vouches for its certificate."""

    server: PostgresServer
    ca: Path

    def do(self, *statements: str) -> None:
        """Runs statements as the role of the tool."""
        with psycopg.connect(self.server.url(DATABASE), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a query gives."""
        with psycopg.connect(self.server.url(DATABASE), autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    def settings(self) -> dict[str, Any]:
        """What the broker's settings need."""
        secret = {"source": f"env:{PASSWORD_NAME}", "hosts": [f"127.0.0.1:{self.server.port}"]}
        return {"egress_networks": ["127.0.0.0/8"], "egress_trust": str(self.ca), "secrets": {"shop-db": secret}}

    def add_tool(self, state: Path, *, name: str = TOOL, tier: int = 1, **outside: str) -> None:
        """Adds the tool and the policy for it to a state directory."""
        specs = state / "tool_specs"
        specs.mkdir(exist_ok=True)
        spec = yaml.safe_load((EXAMPLES / "sql.execute.yaml").read_text("utf-8"))
        spec["egress"][0] |= {"host": "127.0.0.1", "port": self.server.port, "database": DATABASE, "user": APPLICATION}
        spec["env"] |= {"SQL_DATABASE": DATABASE, "SQL_USER": APPLICATION}
        spec["outside"] |= outside
        (specs / f"{name}.yaml").write_text(yaml.safe_dump({**spec, "name": name, "tier": tier}), "utf-8")
        (specs / "sql_execute.py").write_bytes((EXAMPLES / "sql_execute.py").read_bytes())
        policy = state / "policy" / "policy.csv"
        policy.write_text(policy.read_text("utf-8") + POLICY, "utf-8")

    @property
    def environment(self) -> dict[str, str]:
        """What the broker is started with."""
        return {PASSWORD_NAME: PASSWORD}


@contextmanager
def shop_database(folder: Path) -> Iterator[ShopDatabase]:
    """The server while the block lasts; its certificates lie in ``folder``."""
    made = make_certificates(folder)
    with postgres_server(tls=(made.certificate, made.key)) as server:
        server.url(DATABASE)
        yield ShopDatabase(server, made.ca)
