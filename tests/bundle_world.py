"""A ledger in a real database with agents, texts, keys, heads and checkpoints, to export bundles from."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.domain.canonical import JsonObject, JsonValue, canonical, digest
from broker.domain.ports import Transaction
from broker.ledger.bundle import Kept, Written, write_bundle
from broker.ledger.bundle_format import Selection
from broker.ledger.bundle_zip import new_file
from broker.ledger.genesis import genesis_body
from broker.ledger.ledger import Ledger
from broker.ledger.signer import FileSigner
from broker.ledger.tree import Tree
from broker.store.database import Database
from broker.tlog.agent_map import AgentMap
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.note import ED25519, Note, VerifierKey, encode_base64, sign
from broker.vault.vault import SealedVault

ORIGIN = "brk_example"
START = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = "p, rule-1, role:human, *, files.read, call, 3\n"
SPEC: JsonObject = {"name": "files.read", "limits": {"cpus": 0.5}}
FILES = {"read.py": "print('read')\n", "empty.txt": ""}
AGENTS = ("agt_a", "agt_b", "agt_c")


def new_signer(name: str = ORIGIN) -> FileSigner:
    """A fresh key."""
    private = Ed25519PrivateKey.generate()
    return FileSigner(VerifierKey(name, ED25519, private.public_key().public_bytes_raw()), private)


@dataclass
class World:
    """An open ledger."""

    database: Database
    ledger: Ledger
    vault: SealedVault
    signer: FileSigner
    notes: list[Note] = field(default_factory=list)
    """Newest first."""

    def append(self, entry_type: str, body: JsonObject | None = None, agent: str = "") -> int:
        """Appends an entry."""
        return self.database.write_sync(lambda tx: self.ledger.append(tx, entry_type, body or {}, agent=agent))

    def call(self, call: str, agent: str, session: str = "") -> None:
        """Appends what a call leaves."""
        spec = digest(hashed_spec())
        lineage: JsonObject = {"owner": "hum_1", "proofs": [f"session:{session}"] if session else []}
        tool: JsonObject = {"name": "files.read", "version": spec}
        body: JsonObject = {"call_id": call, "lineage": lineage, "tool": tool, "tier": 1}
        policy: JsonObject = {"digest": digest(POLICY.encode()), "rule": "rule-1", "decision": "allow", "inputs": {}}
        self.append("decision", {**body, "policy": policy}, agent)
        intent = self.append("intent", body, agent)
        outcome: JsonObject = {"state": "SUCCEEDED", "exit_code": 0, "detail_commit": "0" * 64}
        self.append("outcome", {"call_id": call, "intent_seq": intent, "outcome": outcome}, agent)

    def keep_texts(self) -> None:
        """Seals policy and specification as a broker's start does."""

        def work(tx: Transaction) -> None:
            spec_id = f"spec_{digest(hashed_spec())[7:39]}"
            for name, kind, text in (
                (f"policy_{digest(POLICY.encode())[7:39]}", "policy", POLICY.encode()),
                (spec_id, "spec", canonical({"spec": SPEC, "files": FILES})),
            ):
                sealed = self.vault.create(tx, object_id=name, owner="broker", kind=kind, now=START, expires=None)
                sealed.put(tx, {0: text})

        self.database.write_sync(work)

    def tree(self) -> tuple[int, bytes]:
        """Size and root of the ledger now."""

        def work(tx: Transaction) -> tuple[int, bytes]:
            head = tx.ledger.head()
            assert head is not None
            return head.seq + 1, Tree(tx.ledger, head.seq + 1).root()

        return self.database.read_sync(work)

    def heads(self) -> int:
        """Appends where each agent's chain ends."""

        def work(tx: Transaction) -> int:
            agents = AgentMap()
            for name, head in tx.ledger.agent_heads():
                agents.set(name, head.seq, head.leaf)
            return self.ledger.append(tx, "heads", {"heads": {"agents": len(agents), "root": agents.root().hex()}})

        return self.database.write_sync(work)

    def note(self, *extensions: str, signers: tuple[FileSigner, ...] = ()) -> Note:
        """A checkpoint of the ledger now."""
        size, root = self.tree()
        text = Checkpoint(ORIGIN, size, root, extensions).text()
        return Note(text, tuple(sign(text, one.key, one.sign) for one in signers or (self.signer,)))

    def publish(self) -> Note:
        """Commits the heads and keeps a checkpoint."""
        self.heads()
        self.notes.insert(0, self.note())
        return self.notes[0]

    def rotate(self) -> FileSigner:
        """Hands over to a new key; returns the old one."""
        old, new = self.signer, new_signer()
        note = self.note(f"next-key {new.key}", signers=(old, new))
        body: JsonObject = {"old": str(old.key), "new": str(new.key), "checkpoint": note.encode().decode()}
        self.append("signer.rotated", body)
        self.signer = new
        return old

    def lost_note(self, size: int, signer: FileSigner | None = None) -> Note:
        """A signed checkpoint of another history."""
        text, by = Checkpoint(ORIGIN, size, b"l" * 32).text(), signer or self.signer
        return Note(text, (sign(text, by.key, by.sign),))

    def recover(self, first: int, last: int, **changes: JsonValue) -> int:
        """Puts on record that the entries ``first`` to ``last`` of another history are lost."""
        line = f"recovered {first} {last} {encode_base64(b'l' * 32)}"
        body: JsonObject = {
            "lost": {"from": first, "to": last},
            "checkpoint": self.lost_note(last + 1).encode().decode(),
            "votes": [],
            "statement": self.note(line).encode().decode(),
        }
        return self.append("recovered", {**body, **changes})

    def export(self, path: Path, selection: Selection | None = None, **changes: Any) -> Written:  # noqa: ANN401 - of Kept
        """Writes a bundle."""
        values: dict[str, Any] = {
            "notes": tuple(self.notes),
            "vault": self.vault,
            "signer": self.signer,
            "software": "agent-broker test",
            "made": START,
        }
        kept = Kept(**{**values, **changes})
        with new_file(path) as stream:
            return self.database.read_sync(lambda tx: write_bundle(stream, tx, selection or Selection(), kept))


def hashed_spec() -> bytes:
    """What the specification's digest is taken over."""
    files = {name: digest(text.encode()) for name, text in FILES.items()}
    return canonical({"format": "broker.tool-spec.v1", "spec": SPEC, "files": files})


@contextmanager
def bundle_world(folder: Path) -> Iterator[World]:
    """A ledger with a genesis and nothing else."""
    folder.mkdir(exist_ok=True)
    path = folder / "broker.db"
    Database.create(path)
    signer = new_signer()
    ticks = iter(START + timedelta(seconds=number) for number in range(10**6))
    ledger = Ledger(ORIGIN, "boot_1", lambda: next(ticks))
    with Database.open_sync(path) as database:
        world = World(database, ledger, SealedVault(b"k" * 32), signer)
        body = genesis_body(trust_domain="example.org", software="agent-broker test", checkpoint_key=signer.key)
        world.append("genesis", body)
        yield world


def fill(world: World) -> None:
    """Calls of three agents, texts, three checkpoints, and entries after the last."""
    world.keep_texts()
    version = digest(hashed_spec())
    world.append("spec.registered", {"tool": {"name": "files.read", "version": version}, "tier": 1})
    gone = digest(b"a policy that was erased")
    world.append("policy.changed", {"policy_digest": digest(POLICY.encode()), "before": gone, "rules": 1})
    world.append("session.started", {"session": "ses_1", "text": 'ünï\u2028 \U0001f600 "\\\n'}, "agt_a")
    for number in range(12):
        world.call(f"call_{number}", AGENTS[number % 3], "ses_1" if number % 4 == 0 else "")
        if number in (3, 7):
            world.publish()
    world.publish()
    world.call("call_late", "agt_a")


def members(path: Path) -> dict[str, bytes]:
    """All files of a bundle."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path: Path, files: Mapping[str, bytes]) -> Path:
    """A ZIP file with these members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path
