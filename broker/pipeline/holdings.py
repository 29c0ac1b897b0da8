"""What is kept, encrypted, of somebody or something: the subject of an erasure."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from broker.domain.call import RESTING_STATES, CallState
from broker.domain.events import StoredRequest
from broker.domain.identity import IdentityKind
from broker.domain.ids import NAME_PATTERN
from broker.domain.ports import DESTROYED, CallQuery, CallRow, Transaction, Vault, VaultRow
from broker.errors import DataLossError, NotFoundError
from broker.pipeline.kept import read_outcome, read_request
from broker.vault.sealing import ADDRESS, Place, place_of

ACTIVE = frozenset(CallState) - RESTING_STATES
"""States of calls that go on, or wait to."""
_PAGE = 1000
_PREFIXES = ("calls/", "toolCalls/", "sessions/", "identities/", "workspaces/")


class SubjectKind(enum.StrEnum):
    """What a subject is."""

    AGENT = "agent"
    HUMAN = "human"
    CALL = "call"
    SESSION = "session"
    WORKSPACE = "workspace"


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose content it is: an id, or the name of a workspace. ``agent`` is the agent whose chain tells of it, if one."""

    kind: SubjectKind
    id: str
    agent: str = ""


@dataclass(frozen=True, slots=True)
class Holdings:
    """What is kept of a subject. ``size`` is in sealed bytes; a call may be listed whose content is gone already, for its
    row still holds what its caller wrote as request id.
    """

    calls: frozenset[str] = frozenset()
    objects: tuple[str, ...] = ()
    kinds: Mapping[str, int] = field(default_factory=dict)
    size: int = 0
    name: str = ""
    """Of the identity, as long as the registry has it."""
    workspace_key: bool = False

    @property
    def items(self) -> tuple[str, ...]:
        """Objects and calls, each once. Calls come last: as long as they are there, they say which files were theirs."""
        return (*(name for name in self.objects if name not in self.calls), *sorted(self.calls))


def find_subject(tx: Transaction, text: str) -> Subject:
    """The subject that a person names: an id of an agent, human, call or session, or the name of a workspace.

    Raises:
        NotFoundError: the broker knows no such thing (``SUBJECT_UNKNOWN``).
    """
    name = text
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    if (identity := tx.identities.get(name)) is not None:
        is_agent = identity.kind is IdentityKind.AGENT
        kind = SubjectKind.AGENT if is_agent else SubjectKind.HUMAN
        return Subject(kind, name, name if is_agent else "")
    if (call := tx.calls.get(name)) is not None:
        return Subject(SubjectKind.CALL, name, call.agent)
    if (session := tx.identities.session(name)) is not None:
        return Subject(SubjectKind.SESSION, name, session.agent)
    if NAME_PATTERN.fullmatch(name) and (
        tx.workspace_keys.get(name) or tx.calls.list(CallQuery(workspace=name, limit=1))
    ):
        return Subject(SubjectKind.WORKSPACE, name)
    raise NotFoundError(
        f"nothing is known of {text[:80]!a}",
        reason="SUBJECT_UNKNOWN",
        hint="Name an id (broker identity list --json, broker calls list, broker sessions list) or a workspace.",
    )


def find_holdings(tx: Transaction, vault: Vault, subject: Subject, until: datetime) -> Holdings:
    """All that is kept of a subject and was made until a moment, less calls that go on. Looks at each object there is."""
    rows = [row for row in _calls(tx, vault, subject, CallQuery()) if row.created <= until]
    active = {row.id for row in rows if row.state in ACTIVE}
    calls = {row.id: row for row in rows if row.id not in active}
    objects = {name for row in calls.values() for name in _named(tx, vault, row)}
    belongs = _belongs(subject, frozenset(calls))
    kinds: Counter[str] = Counter()
    found, size = [], 0
    for row in _objects(tx):
        place = claimed_place(row)
        if row.wrapped == DESTROYED or row.kind == ADDRESS or row.created > until:
            continue
        if row.id in active or (place is not None and place.call in active):
            continue
        if row.id in objects or belongs(row, place):
            found.append(row.id)
            kinds[row.kind] += 1
            size += tx.erasure.stored(row.id)
    identity = tx.identities.get(subject.id) if subject.kind in (SubjectKind.AGENT, SubjectKind.HUMAN) else None
    keyed = subject.kind is SubjectKind.WORKSPACE and tx.workspace_keys.get(subject.id) is not None
    kept = set(found)
    return Holdings(
        calls=frozenset(row.id for row in calls.values() if row.id in kept or row.request_id or row.request_digest),
        objects=tuple(found),
        kinds=dict(kinds),
        size=size,
        name="" if identity is None or identity.name == identity.id else identity.name,
        workspace_key=keyed,
    )


def find_active(tx: Transaction, vault: Vault, items: frozenset[str], subject: Subject | None) -> tuple[str, ...]:
    """Ids of calls that go on and need one of the items, or are the subject's own."""
    found = {row.id for row in _calls(tx, vault, subject, CallQuery(states=ACTIVE))} if subject else set()
    for row in _pages(tx, CallQuery(states=ACTIVE)):
        request = None if row.id in found else _request(tx, vault, row, brief=False)
        if row.id in items or (request is not None and not items.isdisjoint(item.blob for item in request.files)):
            found.add(row.id)
    return tuple(sorted(found))


def find_overdue_callers(tx: Transaction, now: datetime) -> frozenset[str]:
    """Ids of those with a call that goes on although the time for which its content is kept is over.

    Only such a call can still need an upload whose time is over: when it was admitted, all that its request names was
    kept for as long as itself. So nothing has to be opened to know whose uploads are needed.
    """
    rows = _pages(tx, CallQuery(states=ACTIVE))
    return frozenset(row.agent for row in rows if row.expires is None or row.expires <= now)


def _calls(tx: Transaction, vault: Vault, subject: Subject, query: CallQuery) -> Iterator[CallRow]:
    match subject.kind:
        case SubjectKind.CALL:
            row = tx.calls.get(subject.id)
            rows = iter([] if row is None or (query.states and row.state not in query.states) else [row])
        case SubjectKind.AGENT | SubjectKind.SESSION:
            rows = _pages(tx, replace(query, agents=frozenset({subject.agent})))
        case SubjectKind.WORKSPACE:
            rows = _pages(tx, replace(query, workspace=subject.id))
        case SubjectKind.HUMAN:
            rows = _pages(tx, query)
    yield from (row for row in rows if _is_of(tx, vault, subject, row))


def _is_of(tx: Transaction, vault: Vault, subject: Subject, row: CallRow) -> bool:
    if subject.kind not in (SubjectKind.SESSION, SubjectKind.HUMAN):
        return True
    request = _request(tx, vault, row, brief=True)
    if request is None:
        return False
    if subject.kind is SubjectKind.SESSION:
        return request.context.session == subject.id
    # Their signed delegation lies in each call that was made on their behalf, with their name.
    return request.lineage.on_behalf_of == subject.id


def _pages(tx: Transaction, query: CallQuery) -> Iterator[CallRow]:
    query = replace(query, limit=_PAGE)
    while page := tx.calls.list(query):
        yield from page
        query = replace(query, before=page[-1].id)


def _objects(tx: Transaction) -> Iterator[VaultRow]:
    after = ""
    while page := tx.erasure.objects(after, _PAGE):
        for object_id in page:
            row = tx.vault.get(object_id)
            if row is not None:
                yield row
        after = page[-1]


def _named(tx: Transaction, vault: Vault, row: CallRow) -> Iterator[str]:
    """The call's own object, and the files that went in and came out."""
    yield row.id
    request = _request(tx, vault, row, brief=False)
    if request is not None:
        yield from (item.blob for item in request.files)
    try:
        outcome = read_outcome(tx, vault.open(tx, row.id), row)
    except (NotFoundError, DataLossError):
        return
    if outcome is not None:
        yield from (item.blob for item in outcome.files)


def _request(tx: Transaction, vault: Vault, row: CallRow, *, brief: bool) -> StoredRequest | None:
    try:
        return read_request(tx, vault.open(tx, row.id), brief=brief)
    except (NotFoundError, DataLossError):
        return None  # erased, or damaged: it is its caller's in any case, and what else is its own can't be asked


def _belongs(subject: Subject, calls: frozenset[str]) -> Callable[[VaultRow, Place | None], bool]:
    def belongs(row: VaultRow, place: Place | None) -> bool:
        if subject.kind in (SubjectKind.AGENT, SubjectKind.HUMAN) and row.owner == subject.id:
            return True
        if place is None:
            return False
        return place.call in calls or (subject.kind is SubjectKind.WORKSPACE and place.workspace == subject.id)

    return belongs


def claimed_place(row: VaultRow) -> Place | None:
    """Where an object's row says that it belongs; only opening its keys proves that."""
    try:
        return place_of(row.wrapped)[0]
    except ValueError:
        return None
