"""The two-person rule without a broker around it: real store, ledger, vault, policy and keys, and a clock that tests move.

People's votes go through the very code that the broker calls; what a test changes behind its back is changed in the file.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from broker.app.record import Keeper
from broker.approvals.content import Texts
from broker.approvals.desk import Desk, Request, Used
from broker.approvals.envelopes import Matter, envelope
from broker.approvals.founding import Founding, accept, enrol_key, founding
from broker.approvals.revoking import revoke_key
from broker.approvals.voting import Cast, cast
from broker.cli.init import create_state
from broker.cli.local import Local, load_ca, open_local
from broker.domain.approval import Approval, ApprovalKind, ApprovalState, KeyKind, VoteDecision
from broker.domain.canonical import JsonObject, digest
from broker.domain.identity import Caller, Identity, IdentityKind
from broker.domain.ids import new_id
from broker.domain.ports import StoredEntry, Transaction
from broker.domain.requirement import Channel, Requirement, RoleCount
from broker.domain.statement import AcceptanceStatement, VoteStatement, commitment, fresh_commit_salt, key_id
from broker.domain.tool_standing import Registered, ToolStanding, tools_text
from broker.identity import keys
from broker.identity.directory import Directory
from broker.identity.registry import Registry
from broker.ledger.agreement import LedgerAgreement
from broker.ledger.ledger import Ledger
from broker.ledger.source import Row
from broker.ledger.verdict import Report
from broker.ledger.verifier import verify
from broker.pipeline.admin_actions import Context, Shown
from broker.pipeline.administration import request, settle
from broker.pipeline.standing import UNSAFE, settings_text
from broker.policy.electorate import PolicyElectorate
from broker.policy.snapshot import Snapshot
from broker.signing import Ed25519Signer
from broker.specs.shipped import shipped_folder
from broker.specs.tiers import load_tiers, tiers_of

T = TypeVar("T")

OPERATOR = "olivia"
APPROVERS = ("ada", "bob", "cyn", "dan")
AGENT, BOT = "scout", "slack-bot"
TEAM = "T0TEAM"
REQUIREMENT = Requirement(
    people=2,
    roles=(RoleCount("approver", 2),),
    channels=frozenset({Channel.CLI}),
    min_signed=2,
    expiry_s=3600.0,
    cooldown_s=60.0,
    max_pending=5,
    exclude_tool_owner=False,
)
BY_CHAT = replace(REQUIREMENT, channels=frozenset({Channel.CLI, Channel.SLACK}), min_signed=1)

RULES = """
p, approve, role:approver, *, *, approve, 4, allow, approvers decide
p, approve-admin, role:approver, *, broker.admin, approve, 4, allow, approvers decide on the broker itself
p, approve-workflow, role:approver, *, broker.workflow, approve, 4, allow, approvers decide on workflows
g, human:olivia, role:operator, *
"""


@lru_cache(64)
def policy(approvers: frozenset[str]) -> PolicyElectorate:
    """A policy by which these people hold the role of approvers."""
    grants = "".join(f"g, human:{name}, role:approver, *\n" for name in sorted(approvers))
    return PolicyElectorate(Snapshot.load(RULES + grants))


@dataclass(frozen=True)
class Kept:
    """A state directory in which the rule is in force, to be copied, with everybody's keys and certificates."""

    folder: Path
    signers: Mapping[str, Ed25519Signer]


@dataclass
class Core:
    """One state directory, opened."""

    local: Local
    signers: dict[str, Ed25519Signer] = field(default_factory=dict)
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    approvers: frozenset[str] = frozenset(APPROVERS)
    desk: Desk = field(init=False)
    people: dict[str, Identity] = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """As a broker that starts again: nothing is remembered but what stands in the database."""
        ledger = Ledger(self.local.origin, new_id("boot"), lambda: self.now)
        agreement = LedgerAgreement()
        self.local.read(agreement.read_on)
        self.desk = Desk(
            ledger,
            self.local.vault,
            lambda: policy(self.approvers),
            origin=self.local.origin,
            clock=lambda: self.now,
            agreement=agreement,
        )
        known = self.local.read(Directory.load)
        self.people = {item.name: item for item in known.identities.values()}
        self.certificates = {item.identity: item for item in known.certificates.values()}

    @property
    def database(self) -> Path:
        """The file that the operator has in hand."""
        return self.local.paths.database

    def read(self, work: Callable[[Transaction], T]) -> T:
        """In a reading transaction."""
        return self.local.read(work)

    def write(self, work: Callable[[Transaction], T]) -> T:
        """In a writing one."""
        return self.local.write(work)

    def caller(self, name: str) -> Caller:
        """Somebody under their own certificate."""
        person = self.people[name]
        return Caller(person, self.certificates[person.id])

    def later(self, seconds: float = 1.0) -> None:
        """Time passes."""
        self.now += timedelta(seconds=seconds)

    # what is asked for

    def ask(
        self,
        *,
        kind: ApprovalKind = ApprovalKind.CALL,
        by: str = AGENT,
        excluded: tuple[str, ...] = (OPERATOR,),
        requirement: Requirement = REQUIREMENT,
        code: str = "print(1)",
        lasts: float = 3600.0,
        action: str = "key.enroll",
        caller: Caller | None = None,
        act: JsonObject | None = None,
    ) -> Approval:
        """Asks for an approval; ``excluded`` are names, ``act`` is what an administrative action's entry will say."""
        which, expires = new_id("apv"), self.now + timedelta(seconds=lasts)
        who = caller or self.caller(by)
        subject = new_id("call") if kind is ApprovalKind.CALL else action
        obj, workspace = ("world.change", "demo") if kind is ApprovalKind.CALL else ("broker.admin", "-")

        def work(tx: Transaction) -> Approval:
            shown = envelope(
                tx,
                Matter(action={"name": subject, "parameters": {"code": code}}, people={who.identity.id}),
                approval=which,
                kind=ApprovalKind.ADMINISTRATION,
                caller=who,
                requirement=requirement,
                expires=expires,
                tier=4,
                workspace=workspace,
                obj=obj,
            )
            return self.desk.request(
                tx,
                Request(
                    id=which,
                    kind=kind,
                    subject=subject,
                    workspace=workspace,
                    obj=obj,
                    tier=4,
                    requester=who.identity.id,
                    excluded=frozenset(self.people[name].id for name in excluded),
                    requirement=requirement,
                    texts=Texts.of(shown),
                    expires=expires,
                    act=act,
                ),
            )

        return self.write(work)

    # votes

    def statement(self, person: str, approval: Approval, /, decision: str = "approve", **changes: Any) -> VoteStatement:  # noqa: ANN401 - any member
        """What somebody signs; ``changes`` are members that are otherwise."""
        signer = self.signers[person]
        given: dict[str, Any] = {
            "origin": self.local.origin,
            "approval": approval.id,
            "envelope_digest": approval.envelope_digest,
            "rendering_digest": approval.rendering_digest,
            "decision": VoteDecision(decision),
            "reason_commit": "",
            "approver": self.people[person].id,
            "key": signer.id,
            "time": self.now,
            "checkpoint": None,
            **changes,
        }
        return VoteStatement(**given)

    def signed(
        self,
        statement: VoteStatement,
        signer: Ed25519Signer,
        *,
        reason: str = "",
        account: tuple[str, str, str] | None = None,
        approval: str = "",
    ) -> Cast:
        """A statement as its signer sends it, with what it commits to."""
        salt = fresh_commit_salt()
        changes: dict[str, Any] = {}
        if not statement.reason_commit:
            changes["reason_commit"] = commitment(salt, "reason", reason)
        if statement.attested and not statement.account_commit:
            changes["account_commit"] = commitment(salt, "account", "\n".join(account or ()))
        data = replace(statement, **changes).encode()
        return Cast(approval or statement.approval, data, signer.sign(data), reason, salt, account)

    def attested(self, person: str, approval: Approval, decision: str = "approve", *, team: str = TEAM) -> Cast:
        """What the bot sends when somebody has voted in its chat."""
        said = self.statement(person, approval, decision, key=self.signers[BOT].id, channel=Channel.SLACK)
        return self.signed(said, self.signers[BOT], account=account_of(person, team))

    def give(self, caller: str, given: Cast) -> Approval:
        """Casts what was signed."""
        return self.write(lambda tx: cast(tx, self.desk, self.caller(caller), given))

    def vote(self, person: str, approval: Approval, /, decision: str = "approve", **changes: Any) -> Approval:  # noqa: ANN401 - any member
        """A person votes with their own key, a moment after what was before."""
        self.later()
        said = self.statement(person, approval, decision, **changes)
        return self.give(person, self.signed(said, self.signers[person]))

    # what comes of it

    def now_of(self, approval: Approval) -> Approval:
        """As it stands."""
        return self.read(lambda tx: self.desk.find(tx, approval.id))

    def use(self, approval: Approval, **more: Any) -> Used:  # noqa: ANN401 - of ``Desk.use``
        """Begins what was approved."""
        given: dict[str, Any] = {"check": lambda _: None, "needed": approval.requirement, **more}
        return self.write(lambda tx: self.desk.use(tx, approval.id, subject=approval.subject, **given))

    def enrol(self, name: str, signer: Ed25519Signer, kind: KeyKind = KeyKind.APPROVER, approval: str = "") -> None:
        """Enrols a key, as an operator may before the founding, and nobody after it without an approval."""
        self.write(
            lambda tx: enrol_key(
                tx,
                self.desk.recorder,
                holder=self.people[name],
                vkey=str(signer.vkey(name)),
                kind=kind,
                by=self.people[OPERATOR].id,
                approval=approval,
                now=self.now,
            )
        )

    def by_people(
        self,
        action: str,
        work: Callable[[Transaction, str], object],
        voters: tuple[str, ...] = ("ada", "bob"),
        *,
        about: str = "",
        code: str = "",
        act: JsonObject | None = None,
    ) -> None:
        """Does something as the broker does it: by an approval, given by its id, that is used for it."""
        excluded = (OPERATOR, about) if about else (OPERATOR,)
        asked = self.ask(
            kind=ApprovalKind.ADMINISTRATION, by=OPERATOR, excluded=excluded, code=code, action=action, act=act
        )
        for voter in voters:
            self.vote(voter, asked)

        def both(tx: Transaction) -> None:
            work(tx, asked.id)
            self.desk.use(tx, asked.id, subject=asked.subject, check=lambda _: None)

        self.write(both)

    def enrol_by_people(
        self, name: str, signer: Ed25519Signer, voters: tuple[str, ...], kind: KeyKind = KeyKind.APPROVER
    ) -> None:
        """Enrols a key by an approval."""
        act: JsonObject = {
            "type": "key.enrolled",
            "key.id": signer.id,
            "key.kind": kind.value,
            "person": self.people[name].id,
        }

        def work(tx: Transaction, approval: str) -> None:
            enrol_key(
                tx,
                self.desk.recorder,
                holder=self.people[name],
                vkey=str(signer.vkey(name)),
                kind=kind,
                by=self.people[OPERATOR].id,
                approval=approval,
                now=self.now,
            )

        self.by_people("key.enroll", work, voters, about=name, code=signer.id, act=act)

    def administrate(self, action: str, voters: tuple[str, ...] = (), /, **parameters: str) -> Approval:
        """Has the operator ask for an action, by the broker's own code, and people agree to it."""
        context = Context(self.desk.recorder, self.local.vault, self.desk)

        def work(tx: Transaction) -> Approval:
            shown = Shown(dict(parameters))
            return request(tx, context, self.caller(OPERATOR), action=action, shown=shown, reason="")[0]

        asked = self.write(work)
        for voter in voters:
            asked = self.vote(voter, asked)
        return self.write(lambda tx: settle(tx, context, asked))

    def founding(self) -> Founding:
        """How far the founding is."""
        return self.read(lambda tx: founding(tx, self.desk.agreement))

    def found(self) -> None:
        """Three people accept; then people agree to the bot, and to whose chat account is whose."""
        for name in APPROVERS[:3]:
            self.accept(name)
        self.enrol_by_people(BOT, self.signers[BOT], ("ada", "bob"), KeyKind.BOT)
        for name in APPROVERS:
            service, team, user = account_of(name)
            voters = tuple(one for one in APPROVERS if one != name)[:2]
            done = self.administrate("account.map", voters, service=service, team=team, user=user, person=name)
            assert done.state is ApprovalState.USED

    def revoke_key(self, by: str, signer: Ed25519Signer) -> None:
        """Somebody revokes a key."""
        caller = self.caller(by)
        self.write(
            lambda tx: revoke_key(
                tx,
                self.desk.recorder,
                caller,
                which=signer.id,
                reason="lost",
                founded=self.desk.founded(tx),
                now=self.now,
            )
        )

    def revoke_person(self, name: str) -> None:
        """The operator revokes a person."""
        registry = Registry(self.desk.recorder, self.local.vault)
        person, by = self.people[name].id, self.people[OPERATOR].id
        self.write(lambda tx: registry.revoke_identity(tx, identity=person, by=by, reason="left", now=self.now))

    def accept(self, name: str, signer: Ed25519Signer | None = None, **changes: Any) -> None:  # noqa: ANN401 - any member
        """Somebody accepts the founding as it is."""
        used = signer or self.signers[name]
        given: dict[str, Any] = {
            "origin": self.local.origin,
            "founding_digest": self.founding().digest,
            "approver": self.people[name].id,
            "key": used.id,
            "time": self.now,
            "checkpoint": None,
            **changes,
        }
        data = AcceptanceStatement(**given).encode()
        self.write(
            lambda tx: accept(
                tx,
                self.desk.recorder,
                self.desk.agreement,
                self.caller(name),
                statement=data,
                signature=used.sign(data),
                now=self.now,
                origin=self.local.origin,
            )
        )

    # behind its back

    def sql(self, statement: str, *values: object) -> None:
        """The operator works on the file; triggers that refuse it are taken away first."""
        with closing(sqlite3.connect(self.database, isolation_level=None)) as connection:
            for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                connection.execute(f'DROP TRIGGER "{trigger}"')
            assert connection.execute(statement, values).rowcount != 0, "nothing was changed"

    def entries(self) -> list[StoredEntry]:
        """All of the ledger."""
        return list(self.read(lambda tx: tx.ledger.entries(0, 100_000)))

    def report(self) -> Report:
        """What an auditor finds in the ledger."""

        def work(tx: Transaction) -> Report:
            rows = tx.ledger.entries(0, 100_000)
            return verify([Row(item.seq, item.prev, item.leaf, item.data) for item in rows], votes=True)

        return self.read(work)


def account_of(person: str, team: str = TEAM) -> tuple[str, str, str]:
    """A person's account in the chat."""
    return "slack", team, f"U{person.upper()}{team[1:3]}"


def make_unfounded(folder: Path, database: str = "") -> Core:
    """A state directory with people and their keys, an agent and a bot, and all that is in force; nobody has accepted it yet.

    ``database`` is the address of a PostgreSQL database. The store is closed again: only the keys are of use.
    """
    create_state(folder, operator=OPERATOR, hosts=(), chosen={"database": database} if database else {})
    with open_local(folder) as local:
        registry, authority, now = local.registry, load_ca(local.paths, local.origin), datetime.now(UTC)
        operator = next(iter(local.read(Directory.load).identities.values())).id

        def register(tx: Transaction) -> None:
            for name in (*APPROVERS, AGENT, BOT):
                kind = IdentityKind.HUMAN if name in APPROVERS else IdentityKind.AGENT
                made = (
                    registry.register_human(tx, name=name, by=operator, now=now)
                    if kind is IdentityKind.HUMAN
                    else registry.register_agent(tx, name=name, owner=operator, by=operator, now=now)
                )
                key = keys.new_key().public_key()
                certificate = authority.issue_client(kind, name, key, now, timedelta(days=30))
                registry.issue(tx, identity=made.id, certificate=certificate, by=operator, now=now)

        local.write(register)
        core = Core(local)
        for name in (*APPROVERS, OPERATOR, BOT):
            core.signers[name] = Ed25519Signer.generate()
            if name != BOT:
                core.enrol(name, core.signers[name])
        core.write(lambda tx: stand(core, tx))
        return core


def stand(
    core: Core,
    tx: Transaction,
    *,
    rules: str = RULES,
    tier: int = 1,
    unsafe: bool = False,
    must_carry: tuple[str, ...] = ("workflow", "session", "purpose"),
) -> None:
    """Puts a policy, tiers, settings and tools on record as in force, as a start does."""
    local = core.local
    ledger = Ledger(local.origin, new_id("boot"), lambda: core.now)
    keeper = Keeper(local.store, ledger, local.vault, lambda: core.now)
    snapshot = Snapshot.load(rules)
    shipped = load_tiers(shipped_folder(), chat_only_allowed=False, slack_allowed=False).model_dump(mode="json")
    shipped["tiers"][4]["must_carry"] = list(must_carry)
    table = tiers_of(shipped)
    said = Registered("world.change", digest(b"its specification"), tier, tier, digest(b"what it may do"))
    body: JsonObject = {
        "tool": {"name": said.name, "version": said.version},
        "tier": tier,
        "declared": tier,
        "surface": said.surface,
    }
    ledger.append(tx, "spec.registered", body)
    keeper.record_standing(tx, "tools", tools_text({said.name: ToolStanding(said, None)}), before="")
    text = settings_text(table, dict.fromkeys(UNSAFE, unsafe))
    keeper.record_standing(tx, "settings", text, before="")
    keeper.record_policy(tx, snapshot, snapshot, (), founded=False)


def mapped_to(name: str, team: str = TEAM) -> dict[str, str]:
    """Parameters by which somebody's account is mapped."""
    service, _, user = account_of(name, team)
    return {"service": service, "team": team, "user": user, "person": name}


def owner_act(core: Core, agent: str, owner: str) -> JsonObject:
    """What the entry says by which an agent gets another owner."""
    return {"type": "identity.issued", "identity": core.people[agent].id, "lineage.owner": core.people[owner].id}


def make_kept(folder: Path) -> tuple[Kept, Kept]:
    """Two state directories: before the founding, and after it."""
    signers = make_unfounded(folder / "early").signers
    shutil.copytree(folder / "early", folder / "founded")
    with opened(Kept(folder / "founded", signers)) as core:
        core.found()
    return Kept(folder / "early", signers), Kept(folder / "founded", signers)


def make_founded(folder: Path, database: str = "") -> Kept:
    """A state directory after the founding, in a database of its own."""
    kept = Kept(folder, make_unfounded(folder, database).signers)
    with opened(kept) as core:
        core.found()
    return kept


@contextmanager
def opened(kept: Kept) -> Iterator[Core]:
    """Opens a state directory as long as the block lasts."""
    with open_local(kept.folder) as local:
        yield Core(local, dict(kept.signers))


@contextmanager
def copied(kept: Kept, place: Path) -> Iterator[Core]:
    """The same of a copy."""
    shutil.copytree(kept.folder, place)
    with opened(Kept(place, kept.signers)) as core:
        yield core


def fingerprint(signer: Ed25519Signer) -> str:
    """Id of a key."""
    return key_id(signer.public_key)


OPEN = frozenset({ApprovalState.PENDING, ApprovalState.APPROVED})
