"""A transparency log in memory, and a servicer that shows it, or another one in its place, over real gRPC.

Written for the tests from RFC 6962 and the C2SP formats, in the naive way: nothing of the broker's own tree is used.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.domain.canonical import canonical
from broker.tlog.agent_map import AgentMap
from broker.v1 import ledger_pb2 as pb
from broker.v1.ledger_pb2_grpc import LedgerServicer
from tests.fake_broker import Refuse, abort


class SigningKey:
    """A checkpoint key."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.private = Ed25519PrivateKey.generate()
        public = b"\x01" + self.private.public_key().public_bytes_raw()
        self.id = hashlib.sha256(name.encode() + b"\n" + public).digest()[:4]
        self.vkey = f"{name}+{self.id.hex()}+{base64.b64encode(public).decode()}"

    def line(self, text: str) -> str:
        """The signature line of a note."""
        data = base64.b64encode(self.id + self.private.sign(text.encode())).decode()
        return f"\u2014 {self.name} {data}\n"


def leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def root(leaves: list[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = _split(len(leaves))
    return hashlib.sha256(b"\x01" + root(leaves[:k]) + root(leaves[k:])).digest()


def inclusion(index: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) <= 1:
        return []
    k = _split(len(leaves))
    if index < k:
        return [*inclusion(index, leaves[:k]), root(leaves[k:])]
    return [*inclusion(index - k, leaves[k:]), root(leaves[:k])]


def consistency(old: int, leaves: list[bytes], *, whole: bool = True) -> list[bytes]:
    if old == len(leaves):
        return [] if whole else [root(leaves)]
    k = _split(len(leaves))
    if old <= k:
        return [*consistency(old, leaves[:k], whole=whole), root(leaves[k:])]
    return [*consistency(old - k, leaves[k:], whole=False), root(leaves[:k])]


def _split(width: int) -> int:
    k = 1
    while k * 2 < width:
        k *= 2
    return k


@dataclass
class Log:
    """Entries, and the key that signs their checkpoints."""

    key: SigningKey
    entries: list[bytes] = field(default_factory=list)
    agents: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    @classmethod
    def make(cls, origin: str, size: int = 5) -> Log:
        log = cls(SigningKey(origin))
        log.append("genesis", checkpoint_key=log.key.vkey)
        return log.grow(size - 1)

    def append(self, kind: str, agent: str = "", **body: object) -> bytes:
        seq = len(self.entries)
        prev = leaf(self.entries[-1]).hex() if self.entries else "0" * 64
        entry = {**body, "v": 1, "origin": self.key.name, "seq": seq, "prev": prev, "type": kind, "boot_id": "boot_1"}
        entry["ts"] = f"2026-01-01T00:00:{seq % 60:02d}.000000Z"
        if agent:
            number, last = self.agents.get(agent, (-1, bytes(32)))
            entry["agent"] = {"id": agent, "seq": number + 1, "prev": last.hex()}
        data = canonical(entry)
        self.entries.append(data)
        if agent:
            self.agents[agent] = (entry["agent"]["seq"], leaf(data))
        return data

    def grow(self, count: int, text: str = "honest") -> Log:
        for _ in range(count):
            self.append("heartbeat", software=text)
        return self

    def heads(self) -> None:
        agents = AgentMap()
        for name, (seq, last) in self.agents.items():
            agents.set(name, seq, last)
        self.append("heads", heads={"agents": len(agents), "root": agents.root().hex()})

    def fork(self, at: int, count: int, text: str = "another story") -> Log:
        """Another history that shares the first ``at`` entries, under the same key."""
        return Log(self.key, self.entries[:at], dict(self.agents)).grow(count, text)

    def rotate(self, *, signed_by: SigningKey | None = None) -> SigningKey:
        """A new key takes over; the old one's signature comes from ``signed_by`` where an attacker lacks it."""
        new = SigningKey(self.key.name)
        text = self.text(len(self.entries), f"next-key {new.vkey}")
        note = f"{text}\n{(signed_by or self.key).line(text)}{new.line(text)}"
        self.append("signer.rotated", old=self.key.vkey, new=new.vkey, checkpoint=note)
        self.key = new
        return new

    @property
    def leaves(self) -> list[bytes]:
        return [leaf(data) for data in self.entries]

    def text(self, size: int, *extensions: str) -> str:
        encoded = base64.b64encode(root(self.leaves[:size])).decode()
        return "".join(f"{line}\n" for line in (self.key.name, str(size), encoded, *extensions))

    def note(self, size: int, key: SigningKey | None = None) -> bytes:
        text = self.text(size)
        return f"{text}\n{(key or self.key).line(text)}".encode()


class LogServicer(LedgerServicer):
    """Shows a log. ``size`` is that of its latest checkpoint; every size has one."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.size = len(log.entries)
        self.requests: list[str] = []
        self.sign: SigningKey | None = None
        """Signs in place of the log's own key."""
        self.change: dict[str, Callable] = {}
        """Method -> what is done to its answer."""
        self.refuse: dict[str, grpc.StatusCode | Refuse] = {}
        self.times: dict[str, int] = {}
        """Method -> how often it is refused before it is answered; those that aren't here always are."""
        self.hang: set[str] = set()
        """Methods that never answer."""
        self.hung = asyncio.Event()
        """Set when one of them is asked."""
        self.copy: Log | None = None
        """Answers for the growth of the log in its place, with checkpoints of any size."""

    def show(self, log: Log, size: int | None = None) -> None:
        self.log, self.size = log, len(log.entries) if size is None else size

    async def _begin(self, method: str, context: grpc.aio.ServicerContext) -> None:
        self.requests.append(method)
        if method in self.hang:
            self.hung.set()
            await asyncio.Event().wait()
        refusal = self.refuse.get(method)
        if refusal is None or not self.times.get(method, 1):
            return
        if method in self.times:
            self.times[method] -= 1
        if not isinstance(refusal, Refuse):
            # What the library itself says of a method that isn't served comes without a reason.
            bare = refusal is grpc.StatusCode.UNIMPLEMENTED
            refusal = Refuse(refusal, reason="" if bare else "REFUSED")
        await abort(context, refusal)

    def _end(self, method: str, answer: object) -> object:
        return self.change[method](answer) if method in self.change else answer

    async def _at(self, name: str, context: grpc.aio.ServicerContext) -> int:
        size = self.size if name in {"", "checkpoints/latest"} else int(name.removeprefix("checkpoints/"))
        if not 0 < size <= self.size:
            await abort(context, Refuse(grpc.StatusCode.NOT_FOUND, reason="CHECKPOINT_NOT_FOUND"))
        return size

    def _checkpoint(self, size: int) -> pb.Checkpoint:
        note = self.log.note(size, self.sign)
        return pb.Checkpoint(name=f"checkpoints/{size}", note=note, size=size, root_hash=root(self.log.leaves[:size]))

    def entry(self, seq: int) -> pb.LedgerEntry:
        data = self.log.entries[seq]
        kind = json.loads(data)["type"]
        return pb.LedgerEntry(name=f"entries/{seq}", seq=seq, leaf_hash=leaf(data), data=data, type=kind)

    def proof(self, seq: int, size: int) -> bytes:
        hashes = inclusion(seq, self.log.leaves[:size])
        lines = ["c2sp.org/tlog-proof@v1", f"index {seq}", *(base64.b64encode(item).decode() for item in hashes)]
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.log.note(size, self.sign)

    async def GetEntry(self, request, context) -> pb.LedgerEntry:  # noqa: ANN001, N802
        await self._begin("GetEntry", context)
        return self._end("GetEntry", self.entry(int(request.name.removeprefix("entries/"))))

    async def ListEntries(self, request, context) -> pb.ListEntriesResponse:  # noqa: ANN001, N802
        await self._begin("ListEntries", context)
        wanted = request.filter
        numbers = range(wanted.first_seq, min(wanted.before_seq or len(self.log.entries), len(self.log.entries)))
        found = [self.entry(seq) for seq in numbers]
        answer = [item for item in found if not wanted.types or item.type in wanted.types]
        return self._end("ListEntries", pb.ListEntriesResponse(entries=answer))

    async def GetCheckpoint(self, request, context) -> pb.Checkpoint:  # noqa: ANN001, N802
        await self._begin("GetCheckpoint", context)
        return self._end("GetCheckpoint", self._checkpoint(await self._at(request.name, context)))

    async def GetInclusionProof(self, request, context) -> pb.InclusionProof:  # noqa: ANN001, N802
        await self._begin("GetInclusionProof", context)
        size, seq = await self._at(request.checkpoint, context), int(request.entry.removeprefix("entries/"))
        answer = pb.InclusionProof(seq=seq, leaf_hash=leaf(self.log.entries[seq]), proof=self.proof(seq, size))
        return self._end("GetInclusionProof", answer)

    async def GetConsistencyProof(self, request, context) -> pb.ConsistencyProof:  # noqa: ANN001, N802
        await self._begin("GetConsistencyProof", context)
        if self.copy is not None:
            leaves = self.copy.leaves[: int(request.checkpoint.removeprefix("checkpoints/"))]
            return pb.ConsistencyProof(old_size=request.old_size, hashes=consistency(request.old_size, leaves))
        size = await self._at(request.checkpoint, context)
        if not 0 < request.old_size <= size:
            await abort(context, Refuse(grpc.StatusCode.INVALID_ARGUMENT, reason="INVALID_ARGUMENT"))
        hashes = consistency(request.old_size, self.log.leaves[:size])
        answer = pb.ConsistencyProof(old_size=request.old_size, hashes=hashes, checkpoint=self._checkpoint(size))
        return self._end("GetConsistencyProof", answer)

    async def GetAgentHeadProof(self, request, context) -> pb.AgentHeadProof:  # noqa: ANN001, N802
        await self._begin("GetAgentHeadProof", context)
        size = await self._at(request.checkpoint, context)
        heads = max(seq for seq in range(size) if json.loads(self.log.entries[seq])["type"] == "heads")
        agents, known = AgentMap(), {}
        for data in self.log.entries[:heads]:
            agent = json.loads(data).get("agent")
            if agent:
                known[agent["id"]] = (agent["seq"], leaf(data))
        for name, (seq, last) in known.items():
            agents.set(name, seq, last)
        seq, last = known.get(request.agent, (0, b""))
        answer = pb.AgentHeadProof(
            agent=request.agent,
            present=request.agent in known,
            agent_seq=seq,
            agent_leaf_hash=last,
            map_proof_json=json.dumps(agents.prove(request.agent)),
            heads_entry=self.entry(heads),
            heads_proof=pb.InclusionProof(seq=heads, proof=self.proof(heads, size)),
        )
        return self._end("GetAgentHeadProof", answer)
