"""What the rooms need of the store, the ledger and the vault, as protocols: rooms never import each other.

A ``Store`` runs a function inside one transaction. Writers are serialised and committed in groups: when ``write``
returns, what the function wrote is durable; when it raises, none of it is. A function may run in another thread, must
not block on anything but the transaction, and must not keep the transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from broker.domain.approval_ports import ApprovalTable, FreezeTable, VoterTable, WorkflowTable
from broker.domain.call import CallState
from broker.domain.canonical import JsonObject
from broker.domain.identity import Certificate, Identity, IdentityKind, Schedule, Session
from broker.domain.projection import ProjectionTable
from broker.domain.tree_ports import TreeTable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Head:
    """The last entry of a chain: its number (from 0) and its leaf hash (32 bytes)."""

    seq: int
    leaf: bytes


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One ledger entry as it lies in the store; ``data`` is the RFC 8785 text that ``leaf`` hashes."""

    seq: int
    prev: str
    leaf: bytes
    data: bytes


TILE_WIDTH = 256
"""Hashes of a complete tile, as C2SP's tiled logs have it."""


@dataclass(frozen=True, slots=True)
class EntryKeys:
    """By what an entry is found; empty where it has no such member."""

    type: str
    ts: str
    agent: str = ""
    call_id: str = ""
    workspace: str = ""
    tool: str = ""


@dataclass(frozen=True, slots=True)
class EntryQuery:
    """Which entries to find; empty fields don't filter. ``first`` and ``before`` bound the numbers (``before`` excluded)."""

    first: int = 0
    before: int | None = None
    types: frozenset[str] = frozenset()
    agent: str = ""
    call_id: str = ""
    workspace: str = ""
    tool: str = ""
    ts_from: str = ""
    ts_before: str = ""
    newest_first: bool = False
    limit: int = 100


class LedgerTable(Protocol):
    """Append-only entries; the database itself refuses UPDATE, DELETE and a used ``seq`` or ``prev``.

    Tiles, index and agents' heads are projections of them.
    """

    def head(self) -> Head | None:
        """The last entry, or ``None`` in an empty ledger."""

    def insert(self, entry: StoredEntry) -> None:
        """Adds the next entry."""

    def entries(self, first: int, limit: int) -> Sequence[StoredEntry]:
        """Up to ``limit`` entries from ``first`` on, in order."""

    def agent_head(self, agent: str) -> Head | None:
        """The last entry of an agent's own chain (numbers from 0)."""

    def set_agent_head(self, agent: str, head: Head, entry_seq: int) -> None:
        """Moves an agent's own chain on; ``entry_seq`` is the number of that entry in the ledger."""

    def agent_heads(self, changed_from: int = 0) -> Sequence[tuple[str, Head]]:
        """The agents whose last entry has this number in the ledger or a later one, with their heads."""

    def leaves(self, first: int, limit: int) -> Sequence[bytes]:
        """Up to ``limit`` leaf hashes from ``first`` on, in order."""

    def tile(self, level: int, index: int) -> bytes | None:
        """A tile: up to ``TILE_WIDTH`` hashes of 32 bytes, the nodes of tree level ``8 * level``; or ``None``.

        Those of level 0 are complete; those above grow until they are.
        """

    def put_tile(self, level: int, index: int, hashes: bytes) -> None:
        """Keeps a tile in place of what was kept under its level and index."""

    def index(self, rows: Mapping[int, EntryKeys]) -> None:
        """Makes entries findable, by their numbers: those that follow ``indexed``. Not part of an append."""

    def indexed(self) -> int:
        """How many entries are findable: those with numbers below that."""

    def find(self, query: EntryQuery) -> Sequence[int]:
        """Numbers of the entries that fit, oldest first unless the query says otherwise."""


SEAL_OVERHEAD = 28
"""Bytes by which a sealed chunk is longer than its plain text: a 96-bit nonce and a 128-bit tag."""

OBJECT_COST = 1024
"""Bytes that an object counts for besides its chunks and labels: what its row and keys take, rounded up."""


@dataclass(frozen=True, slots=True)
class VaultRow:
    """One encrypted object. ``wrapped`` holds its keys, encrypted under the vault's; without it nothing can be read."""

    id: str
    owner: str
    """Id of the identity that it belongs to."""
    kind: str
    """``call``, ``blob``, ``identity``, ..."""
    wrapped: bytes
    created: datetime
    expires: datetime | None
    size: int = 0
    digest: str = ""
    data_classes: tuple[str, ...] = ()
    complete: bool = False


class VaultTable(Protocol):
    """Objects and their encrypted chunks."""

    def insert(self, row: VaultRow) -> None:
        """Adds an object."""

    def get(self, object_id: str) -> VaultRow | None:
        """An object, complete or not."""

    def complete(self, object_id: str, *, size: int, digest: str, expires: datetime | None) -> None:
        """Marks an upload complete, with its size and digest; it is kept until ``expires``, sooner or later than before."""

    def extend(self, object_id: str, expires: datetime | None) -> None:
        """Keeps an object at least until then; ``None`` is for ever. Never shortens."""

    def insert_chunks(self, object_id: str, chunks: Mapping[int, bytes]) -> None:
        """Adds sealed chunks, by index."""

    def chunks(self, object_id: str, first: int, limit: int) -> Sequence[tuple[int, bytes]]:
        """Up to ``limit`` chunks (index, sealed) from index ``first`` on, in order."""

    def delete(self, object_id: str) -> None:
        """Destroys an object's keys and chunks."""

    def expired(self, now: datetime, limit: int) -> Sequence[str]:
        """Ids of objects whose time is over."""

    def usage(self, owner: str) -> int:
        """Bytes that an owner keeps in all objects: chunks as they are stored, labels, and ``OBJECT_COST`` for each.

        Unfinished ones count.
        """


class WorkspaceKeyTable(Protocol):
    """The keys of workspaces, wrapped; what is sealed under a deleted one can't be had any more."""

    def get(self, workspace: str) -> bytes | None:
        """A workspace's wrapped key; ``None`` where it has none, or none any more."""

    def insert(self, workspace: str, wrapped: bytes, created: datetime) -> None:
        """Adds a workspace's key."""

    def delete(self, workspace: str) -> None:
        """Destroys a workspace's key; nothing happens where there is none."""


DESTROYED = b"\x00"
"""What stands in the place of an object's keys once they are destroyed, until its chunks are dropped as well."""


class ErasureTable(Protocol):
    """What an erasure needs besides the other tables."""

    def objects(self, after: str, limit: int) -> Sequence[str]:
        """Ids of up to ``limit`` encrypted objects that sort after one, in order."""

    def stored(self, object_id: str) -> int:
        """Bytes of an object's sealed chunks."""

    def destroy_keys(self, object_id: str, moment: datetime) -> None:
        """Destroys an object's keys, size and digest, and lets its time be over; its chunks wait to be dropped."""

    def drop_chunks(self, object_id: str, most_bytes: int) -> bool:
        """Deletes an object's first chunks, at least one and about ``most_bytes`` of them; whether any is left."""

    def forget_name(self, identity_id: str) -> None:
        """Puts an identity's id in the place of its name."""


class IdentityTable(Protocol):
    """Identities, certificates, sessions and schedules."""

    def insert(self, identity: Identity) -> None:
        """Adds an identity; kind and name together are unique."""

    def get(self, identity_id: str) -> Identity | None:
        """By id."""

    def by_name(self, kind: IdentityKind, name: str) -> Identity | None:
        """By kind and name."""

    def all(self) -> Sequence[Identity]:
        """All, oldest first."""

    def update(self, identity: Identity) -> None:
        """Replaces owner, registrar and revocation of an identity."""

    def insert_certificate(self, certificate: Certificate) -> None:
        """Adds a certificate; its fingerprint is unique."""

    def certificate(self, fingerprint: str) -> Certificate | None:
        """By fingerprint."""

    def certificates(self) -> Sequence[Certificate]:
        """All, oldest first."""

    def revoke_certificate(self, fingerprint: str, moment: datetime) -> None:
        """Revokes one certificate."""

    def insert_session(self, session: Session) -> None:
        """Adds a session."""

    def session(self, session_id: str) -> Session | None:
        """By id."""

    def sessions(self, *, agent: str, starter: str, before: str, limit: int) -> Sequence[Session]:
        """Newest first; empty strings don't filter; only ids that sort before ``before``."""

    def end_session(self, session_id: str, moment: datetime) -> None:
        """Ends a session."""

    def insert_schedule(self, schedule: Schedule) -> None:
        """Adds a schedule."""

    def schedule(self, schedule_id: str) -> Schedule | None:
        """By id."""


@dataclass(frozen=True, slots=True)
class CallRow:
    """A call's projection: what is needed to find it and to go on with it. The content lies in the vault under ``id``."""

    id: str
    agent: str
    owner: str
    tool: str
    tool_version: str
    workspace: str
    workflow: str
    state: CallState
    tier: int
    request_id: str
    """Empty where the caller gave none; otherwise unique for the agent."""
    request_digest: str
    created: datetime
    started: datetime | None = None
    ended: datetime | None = None
    expires: datetime | None = None
    decision_seq: int | None = None
    intent_seq: int | None = None
    outcome_seq: int | None = None
    last_event: int = 0
    envelope_digest: str = ""


@dataclass(frozen=True, slots=True)
class CallQuery:
    """Which calls to list; empty fields don't filter. ``agents`` empty means of any agent; ``before`` pages by id."""

    agents: frozenset[str] = frozenset()
    tool: str = ""
    states: frozenset[CallState] = frozenset()
    workspace: str = ""
    workflow: str = ""
    created_from: datetime | None = None
    created_before: datetime | None = None
    before: str = ""
    limit: int = 100


class CallTable(Protocol):
    """Calls."""

    def insert(self, row: CallRow) -> None:
        """Adds a call."""

    def get(self, call_id: str) -> CallRow | None:
        """By id."""

    def by_request(self, agent: str, request_id: str) -> CallRow | None:
        """By an agent's own request id."""

    def replace(self, row: CallRow) -> None:
        """Stores a row in place of the one with the same id."""

    def list(self, query: CallQuery) -> Sequence[CallRow]:
        """Newest first."""

    def count(self, agent: str, states: frozenset[CallState]) -> int:
        """How many calls of an agent (of all, where empty) are in one of the states."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Equal refusals of one agent since the last ledger entry about them; ``body`` is the entry to write."""

    agent: str
    key: str
    first: datetime
    last: datetime
    count: int
    body: bytes


class RefusalTable(Protocol):
    """Repeated refusals that wait to become one counted entry."""

    def bump(self, agent: str, key: str, now: datetime, body: bytes) -> int:
        """Counts one more; returns the count since the row was made: 1 is the first."""

    def keys(self, agent: str) -> frozenset[str]:
        """The keys of an agent's rows."""

    def due(self, first_before: datetime) -> Sequence[Refusal]:
        """Rows whose first refusal is older than that."""

    def remove(self, agent: str, key: str) -> None:
        """Forgets a row, once its entry is written."""


class Transaction(Protocol):
    """The tables, inside one transaction."""

    @property
    def ledger(self) -> LedgerTable:
        """Ledger entries."""

    @property
    def vault(self) -> VaultTable:
        """Encrypted objects."""

    @property
    def workspace_keys(self) -> WorkspaceKeyTable:
        """Keys of workspaces."""

    @property
    def erasure(self) -> ErasureTable:
        """What erasures need."""

    @property
    def identities(self) -> IdentityTable:
        """Identities, certificates, sessions and schedules."""

    @property
    def calls(self) -> CallTable:
        """Calls."""

    @property
    def refusals(self) -> RefusalTable:
        """Repeated refusals."""

    @property
    def approvals(self) -> ApprovalTable:
        """Approvals and votes."""

    @property
    def voters(self) -> VoterTable:
        """Voters' keys, the founding, chat accounts."""

    @property
    def freezes(self) -> FreezeTable:
        """What is frozen."""

    @property
    def workflows(self) -> WorkflowTable:
        """Approved versions of workflows."""

    @property
    def trees(self) -> TreeTable:
        """States of workspaces' trees, and effects on them."""

    @property
    def projections(self) -> ProjectionTable:
        """What is made anew from the ledger, as plain rows."""

    def meanwhile(self, begin: Callable[[], None]) -> None:
        """Has something begun once all is written and only the disk is waited for; never where that isn't reached.

        ``begin`` runs in the writing thread, takes no time, and is no part of the transaction: that may still fail.

        Raises:
            InternalError: ``STORE_READ_ONLY``: this transaction only reads.
        """


class Store(Protocol):
    """Transactions on the broker's database."""

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Runs ``work`` in a writing transaction; returns once it is durable."""

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Runs ``work`` on a consistent snapshot."""

    @property
    def failed(self) -> bool:
        """Has a commit failed so that nobody knows whether it is durable? No write is taken after that, for good."""

    @property
    def scrub_due(self) -> bool:
        """May something that was deleted still be readable in the files?"""

    async def scrub(self) -> None:
        """Makes what was deleted unreadable in the files, and lowers ``scrub_due``.

        Raises:
            UnavailableError: ``STORE_BUSY``, at once: readers were in the way; it stays due.
        """

    def data_version(self) -> int:
        """A number that differs after anybody, this process or another, has committed; cheap enough to ask on each RPC."""


class Recorder(Protocol):
    """The ledger, as those see it who have something to record."""

    def append(self, tx: Transaction, entry_type: str, body: JsonObject, *, agent: str = "") -> int:
        """Appends an entry in the transaction and returns its ``seq``.

        The ledger adds ``v, origin, seq, prev, type, ts, boot_id`` and, where ``agent`` is given, ``agent{id, seq,
        prev}``. It is durable when the transaction is.
        """


class SealedObject(Protocol):
    """An encrypted object whose keys are at hand."""

    @property
    def id(self) -> str:
        """Its id."""

    def commit(self, kind: str, plaintext: bytes) -> str:
        """The keyed commitment of a text: hex HMAC-SHA256(r32, kind || 0x00 || text)."""

    def put(self, tx: Transaction, chunks: Mapping[int, bytes]) -> None:
        """Seals and stores chunks, by index; an index is used once."""

    def read(self, tx: Transaction, first: int, limit: int) -> Iterator[tuple[int, bytes]]:
        """Opens up to ``limit`` chunks from index ``first`` on."""


class Vault(Protocol):
    """The encrypted store beside the ledger."""

    def create(
        self,
        tx: Transaction,
        *,
        object_id: str,
        owner: str,
        kind: str,
        now: datetime,
        expires: datetime | None,
        data_classes: tuple[str, ...] = (),
        workspace: str = "",
        call: str = "",
    ) -> SealedObject:
        """Makes an object with fresh keys, wrapped by the key of its workspace where it has one."""

    def open(self, tx: Transaction, object_id: str) -> SealedObject:
        """Opens an object.

        Raises:
            NotFoundError: there is none, or it has been erased.
            DataLossError: its keys don't open under the vault's key.
        """
