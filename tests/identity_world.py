"""A registry with people, agents and sessions, over a real store, ledger and vault."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker.cli.init import create_state
from broker.cli.local import Local, load_ca, open_local
from broker.domain.call import CallContext, Lineage
from broker.domain.identity import Caller, Identity, IdentityKind, Schedule, Session
from broker.domain.tier import Tier
from broker.errors import (
    PermissionDeniedError,
)
from broker.identity import keys
from broker.identity.directory import Directory
from broker.identity.lineage import prove
from broker.identity.sessions import SchedulePlan, Sessions

HOUR = timedelta(hours=1)


class World:
    """A real state directory with the humans ada (operator), bob and eve, and two agents that bob registered: reporter
    (ada's) and spy (eve's).
    """

    def __init__(self, local: Local) -> None:
        self.local = local
        self.now = datetime.now(UTC)
        self.authority = load_ca(local.paths, local.origin)
        self.keys: dict[str, keys.PrivateKey] = {}
        self.certificates: dict[str, object] = {}
        self.callers: dict[str, Caller] = {}
        directory = local.read(Directory.load)
        self.ada = next(iter(directory.identities.values())).id
        self.callers["ada"] = Caller(directory.identities[self.ada], next(iter(directory.certificates.values())))
        self.bob = self.add(IdentityKind.HUMAN, "bob").id
        self.eve = self.add(IdentityKind.HUMAN, "eve").id
        self.add(IdentityKind.AGENT, "reporter", owner=self.ada)
        self.add(IdentityKind.AGENT, "spy", owner=self.eve)

    def add(self, kind: IdentityKind, name: str, owner: str = "") -> Identity:
        key = keys.new_key()
        certificate = self.authority.issue_client(kind, name, key.public_key(), self.now, timedelta(days=30))
        registry = self.local.registry

        def work(tx: object) -> Caller:
            if kind is IdentityKind.HUMAN:
                new = registry.register_human(tx, name=name, by=self.ada, now=self.now)
            else:
                new = registry.register_agent(tx, name=name, owner=owner, by=self.bob, now=self.now)
            by = new.registrar or self.ada
            return Caller(new, registry.issue(tx, identity=new.id, certificate=certificate, by=by, now=self.now))

        self.keys[name], self.certificates[name] = key, certificate
        self.callers[name] = self.local.write(work)
        return self.callers[name].identity

    def start(
        self,
        *,
        by: str = "bob",
        agent: str = "reporter",
        workspace: str = "sales",
        schedule: str = "",
        ttl: timedelta | None = None,
        now: datetime | None = None,
    ) -> Session:
        sessions, caller = Sessions(self.local.recorder), self.callers[by]
        return self.local.write(
            lambda tx: sessions.start(
                tx,
                caller=caller,
                agent=agent,
                workspace=workspace,
                ttl=ttl,
                schedule=schedule,
                now=now or self.now,
            )
        )

    def end(self, session: Session, by: str) -> Session:
        sessions, caller = Sessions(self.local.recorder), self.callers[by]
        return self.local.write(lambda tx: sessions.end(tx, caller=caller, session_id=session.id, now=self.now))

    def schedule(self, by: str = "bob", agent: str = "reporter", **changes: object) -> Schedule:
        plan = SchedulePlan(
            agent=agent,
            workspace="sales",
            weekdays=frozenset(),
            from_minute=0,
            until_minute=1440,
            session_ttl=HOUR,
            expires=self.now + timedelta(days=7),
        )
        plan = dataclasses.replace(plan, **changes)
        sessions, caller = Sessions(self.local.recorder), self.callers[by]
        return self.local.write(lambda tx: sessions.create_schedule(tx, caller=caller, plan=plan, now=self.now))

    def revoke(self, name: str, kind: IdentityKind = IdentityKind.HUMAN) -> None:
        registry, identity = self.local.registry, self.callers[name].identity.id
        assert self.callers[name].identity.kind is kind
        self.local.write(
            lambda tx: registry.revoke_identity(tx, identity=identity, by=self.ada, reason="left", now=self.now)
        )

    def prove(
        self,
        session: str = "",
        token: str = "",
        *,
        by: str = "reporter",
        workspace: str = "sales",
        tier: Tier = Tier.INTERNAL,
        now: datetime | None = None,
    ) -> Lineage:
        context = CallContext(workspace=workspace, session=session, delegation=token)
        directory, caller = self.local.read(Directory.load), self.callers[by]
        return self.local.read(
            lambda tx: prove(
                tx,
                directory,
                caller=caller,
                context=context,
                tier=tier,
                now=now or self.now,
                origin=self.local.origin,
            )
        )

    def refusal(self, session: str, **given: object) -> str:
        with pytest.raises(PermissionDeniedError) as caught:
            self.prove(session, **given)
        assert caught.value.reason == "SESSION_INVALID"
        return caught.value.message


def make_world(folder: Path) -> Iterator[World]:
    """A world in a state directory below a folder, as long as the iterator is held."""
    create_state(folder / "state", operator="ada", hosts=())
    with open_local(folder / "state") as local:
        yield World(local)
