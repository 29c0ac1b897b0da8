"""Each step of a checkpoint goes wrong: once as not done, once as done but reported as failed.

Afterwards nothing that was acknowledged is missing, no two signatures contradict each other, and the next round goes on
without a hand. As in sunlight's tests, every outcome that can't be told apart from failure is tried.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.domain.ports import Store, Transaction
from broker.domain.urls import parse_url
from broker.errors import BrokerError, UnavailableError
from broker.ledger.checkpoint_store import CheckpointStore
from broker.ledger.posting import Answer, Poster
from broker.ledger.publish import FolderPublisher, WebhookPublisher
from broker.ledger.signer import FileSigner, Signer
from broker.ledger.startup import verify_checkpoints, verify_store
from broker.ledger.tree import Tree
from broker.ledger.witness import Witness
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.merkle import verify_consistency
from broker.tlog.note import ED25519, Note, VerifierKey, verify_note
from tests.checkpoint_world import ORIGIN, World, now, opened, target_in, world
from tests.postgres_server import PostgresServer
from tests.witness_server import PLAIN, Reply, WitnessState, http_server, witness_server

T = TypeVar("T")
WITHIN_S = 30
STEPS = (
    "checkpoints.latest",
    "store.read 1",
    "store.write",
    "store.read 2",
    "sign",
    "checkpoints.swap",
    "folder",
    "webhook",
    "witness",
    "checkpoints.replace_cosigned",
)
HIDDEN = {"folder", "webhook", "witness", "checkpoints.replace_cosigned"}
"""Steps beside a round: it doesn't fail with them."""


@dataclass
class Fault:
    """One step that fails, once. With ``dies`` nothing is done any more from then on, as if the process had died."""

    step: str = ""
    done: bool = False
    dies: bool = False
    reads: int = 0
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def _is(self, step: str) -> bool:
        if step == "store.read":
            self.reads += 1
            step = f"store.read {self.reads}"
        if self.came.is_set() and self.dies:
            raise UnavailableError("the process is dead", reason="FAULT")
        if self.came.is_set() or step != self.step:
            return False
        self.came.set()
        return True

    def fail(self) -> NoReturn:
        raise UnavailableError("it failed, or was done and reported as failed", reason="FAULT")

    async def around(self, step: str, work: Callable[[], Any]) -> Any:  # noqa: ANN401 - what the step gives
        fails = self._is(step)
        if fails and not self.done:
            self.fail()
        result = await work()
        if fails:
            self.fail()
        return result

    def around_sync(self, step: str, work: Callable[[], T]) -> T:
        fails = self._is(step)
        if fails and not self.done:
            self.fail()
        result = work()
        if fails:
            self.fail()
        return result


class FaultyStore:
    def __init__(self, inner: Store, fault: Fault) -> None:
        self._inner = inner
        self._fault = fault

    async def read(self, work: Callable[[Transaction], T]) -> T:
        return await self._fault.around("store.read", lambda: self._inner.read(work))  # type: ignore[no-any-return]

    async def write(self, work: Callable[[Transaction], T]) -> T:
        return await self._fault.around("store.write", lambda: self._inner.write(work))  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the rest of a store
        return getattr(self._inner, name)


class FaultyCheckpoints:
    def __init__(self, inner: CheckpointStore, fault: Fault) -> None:
        self._inner = inner
        self._fault = fault

    async def latest(self) -> Note | None:
        return await self._fault.around("checkpoints.latest", self._inner.latest)  # type: ignore[no-any-return]

    async def swap(self, old: Note | None, new: Note, *, lost_from: int | None = None) -> None:
        await self._fault.around("checkpoints.swap", lambda: self._inner.swap(old, new, lost_from=lost_from))

    async def replace_cosigned(self, note: Note) -> Note | None:
        return await self._fault.around(  # type: ignore[no-any-return]
            "checkpoints.replace_cosigned", lambda: self._inner.replace_cosigned(note)
        )

    async def history(self, limit: int) -> Sequence[Note]:
        return await self._inner.history(limit)


@dataclass
class RememberingSigner:
    """Remembers all that was ever signed, whatever became of it."""

    inner: Signer
    fault: Fault
    signed: list[str] = field(default_factory=list)

    @property
    def key(self) -> VerifierKey:
        return self.inner.key

    def sign(self, message: bytes) -> bytes:
        def work() -> bytes:
            self.signed.append(message.decode())
            return self.inner.sign(message)

        return self.fault.around_sync("sign", work)


class FaultyFolder(FolderPublisher):
    def __init__(self, folder: Path, fault: Fault) -> None:
        super().__init__(folder)
        self._fault = fault

    async def publish(self, note: Note) -> None:
        await self._fault.around("folder", lambda: FolderPublisher.publish(self, note))


class FaultyPoster(Poster):
    """Loses a request, or its answer."""

    step = ""
    fault: Fault

    async def post(self, body: bytes, content_type: str, target: str = "") -> Answer:
        return await self.fault.around(  # type: ignore[no-any-return]
            self.step, lambda: Poster.post(self, body, content_type, target)
        )


def lossy(holder: WebhookPublisher | Witness, step: str, fault: Fault) -> None:
    holder._poster.__class__ = FaultyPoster
    holder._poster.step, holder._poster.fault = step, fault  # type: ignore[attr-defined]


@dataclass
class Outside:
    """Those who hold checkpoints outside."""

    folder: Path
    posted: list[Note]
    witness: WitnessState
    webhook_url: str
    witness_url: str


@asynccontextmanager
async def outside(made: World, tmp_path: Path) -> AsyncIterator[Outside]:
    state = WitnessState()
    state.trust(str(made.signer.key))
    posted: list[Note] = []

    def take(_path: str, body: bytes, _headers: object) -> Reply:
        posted.append(Note.parse(body))
        return 200, PLAIN, b""

    (tmp_path / "outside").mkdir()
    with http_server(take) as webhook_url, witness_server(state) as witness_url:
        yield Outside(tmp_path / "outside", posted, state, webhook_url, witness_url)


@asynccontextmanager
async def checkpointing(made: World, held: Outside, fault: Fault, signer: RememberingSigner) -> AsyncIterator[Any]:
    webhook = WebhookPublisher(parse_url(held.webhook_url), _no_tls)
    key = VerifierKey.parse(held.witness.vkey)
    witness = Witness(parse_url(held.witness_url), key, _no_tls, now)
    lossy(webhook, "webhook", fault)
    lossy(witness, "witness", fault)
    async with made.checkpointer(
        store=FaultyStore(made.store, fault),  # type: ignore[arg-type]
        checkpoints=FaultyCheckpoints(made.checkpoints, fault),
        signer=signer,
        publishers=(FaultyFolder(held.folder, fault), webhook),
        witnesses=(witness,),
    ) as checkpointer:
        yield checkpointer


def _no_tls() -> Any:  # noqa: ANN401 - never called
    raise AssertionError("no TLS here")


CASES = [
    *(itertools.product(["sqlite"], STEPS, [False, True], [False, True], [False, True])),
    # What differs there is the store.
    *(itertools.product(["postgres"], ["store.read 1", "store.write", "store.read 2"], [False], [False, True], [True])),
]


@pytest.mark.parametrize(("database", "step", "first", "done", "restart"), CASES)
async def test_a_step_that_fails(
    request: pytest.FixtureRequest, tmp_path: Path, database: str, step: str, *, first: bool, done: bool, restart: bool
) -> None:
    """``first``: of the first checkpoint. ``done``: it was done, and reported as failed. ``restart``: nothing follows it."""
    target = target_in(tmp_path)
    if database == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        target = replace(target, url=server.url(f"checkpoint_faults_{uuid4().hex}"))
    async with world(tmp_path, target) as made, outside(made, tmp_path) as held:
        fault = Fault()
        signer = RememberingSigner(made.signer, fault)
        acknowledged = 1
        if not first:
            async with checkpointing(made, held, fault, signer):
                await made.append(5)
                acknowledged += 5
        await made.append(4)
        acknowledged += 4
        fault.step, fault.done, fault.reads, fault.dies = step, done, 0, restart
        async with checkpointing(made, held, fault, signer) as checkpointer:
            async with asyncio.timeout(WITHIN_S):
                await fault.came.wait()
            assert checkpointer.status.failures == (0 if step in HIDDEN else 1)
            if not restart:
                await made.append(1)
                acknowledged += 1
                await _goes_on(made, held, checkpointer)
        if restart:
            async with opened(tmp_path, made.signer, target) as again:
                await verify_store(again.store)
                await verify_checkpoints(again.store, again.checkpoints, again.signer.key)
                await again.append(1)
                acknowledged += 1
                fault.dies = False
                async with checkpointing(again, held, fault, signer) as checkpointer:
                    await _goes_on(again, held, checkpointer)
        assert not made.unfit
        await _check(made, signer, acknowledged)


async def _goes_on(made: World, held: Outside, checkpointer: Any) -> None:  # noqa: ANN401 - a Checkpointer
    await checkpointer.publish_now()
    async with asyncio.timeout(WITHIN_S):
        await checkpointer.settle()
    newest = await made.checkpoints.latest()
    assert newest is not None
    keys = [made.signer.key, VerifierKey.parse(held.witness.vkey)]
    assert set(verify_note(newest, keys)) == set(keys), "the newest isn't cosigned"
    size = Checkpoint.parse(newest.text).size
    assert held.witness.seen[made.signer.key.name] == (size, Checkpoint.parse(newest.text).root)
    assert Note.parse((held.folder / "latest.note").read_bytes()) == newest
    assert held.posted[-1] == newest
    status = checkpointer.status
    assert not status.last_error
    assert all(not holder.last_error and holder.size == size for holder in status.holders), status
    head = await made.store.read(lambda tx: tx.ledger.head())
    assert head is not None
    assert size == head.seq + 1


async def _check(made: World, signer: RememberingSigner, acknowledged: int) -> None:
    report = await verify_store(made.store)
    assert report.entries - report.types["heads"] == acknowledged
    standing = await verify_checkpoints(made.store, made.checkpoints, made.signer.key)
    assert standing.covered
    # Each signature that was ever made is over this one history, and none contradicts another.
    signed = {text: Checkpoint.parse(text) for text in signer.signed}
    assert len({checkpoint.size for checkpoint in signed.values()}) == len(signed)
    kept = [note.text for note in await made.checkpoints.history(100)]
    assert set(kept) <= signed.keys()
    newest = standing.checkpoint
    assert newest is not None
    for checkpoint in signed.values():
        proof = await made.store.read(lambda tx, c=checkpoint: Tree(tx.ledger, newest.size).consistency_proof(c.size))
        verify_consistency(checkpoint.size, checkpoint.root, newest.size, newest.root, proof)
    assert report.types["heads"] == len(kept), "a heads entry without its checkpoint"


async def test_a_signature_that_doesnt_verify_never_leaves(tmp_path: Path) -> None:
    class Wrong(RememberingSigner):
        def sign(self, message: bytes) -> bytes:
            return bytes([super().sign(message)[0] ^ 1]) + super().sign(message)[1:]

    async with world(tmp_path) as made:
        async with made.checkpointer(signer=Wrong(made.signer, Fault())) as checkpointer:
            with pytest.raises(BrokerError) as refused:
                await checkpointer.publish_now()
            assert refused.value.reason == "CHECKPOINT_SIGNER_FAILED"
            assert await made.checkpoints.latest() is None
        async with made.checkpointer() as checkpointer:
            assert checkpointer.status.size == 2


class Deadly(Fault):
    """The process is killed instead."""

    def fail(self) -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@dataclass
class WritingSigner(RememberingSigner):
    """Remembers in a file, which outlives the process."""

    file: Path = Path()

    def sign(self, message: bytes) -> bytes:
        with self.file.open("ab") as file:
            file.write(message + b"\0")
        return super().sign(message)


async def victim(folder: Path, step: str, *, done: bool) -> None:
    """Makes a checkpoint, and is killed on the way."""
    fault = Deadly(step, done=done)
    signer = read_signer(folder)
    async with opened(folder, signer) as made:
        remembering = WritingSigner(signer, fault, file=folder / "signed")
        async with made.checkpointer(
            store=FaultyStore(made.store, fault),  # type: ignore[arg-type]
            checkpoints=FaultyCheckpoints(made.checkpoints, fault),
            signer=remembering,
        ):
            raise AssertionError("it lives")


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", [step for step in STEPS if step not in HIDDEN])
async def test_a_process_killed_at_a_step(repository: Path, tmp_path: Path, step: str, *, done: bool) -> None:
    async with world(tmp_path) as made:
        write_signer(tmp_path, made.signer)
        signer = WritingSigner(made.signer, Fault(), file=tmp_path / "signed")
        async with made.checkpointer(signer=signer):
            await made.append(5)
    for _ in range(2):  # twice in a row, at the same step
        async with opened(tmp_path, made.signer) as again:
            await again.append(2)
        program = (
            "import asyncio, pathlib, sys; from tests.integration.test_checkpoint_faults import victim;"
            f"asyncio.run(victim(pathlib.Path(sys.argv[1]), {step!r}, done={done}))"
        )
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(tmp_path), cwd=repository)
        assert await process.wait() == -signal.SIGKILL
    async with opened(tmp_path, made.signer) as again:
        await verify_store(again.store)
        await verify_checkpoints(again.store, again.checkpoints, again.signer.key)
        await again.append(1)
        signer = WritingSigner(made.signer, Fault(), file=tmp_path / "signed")
        async with again.checkpointer(signer=signer):
            pass
        assert not again.unfit
        signer.signed = [text.decode() for text in (tmp_path / "signed").read_bytes().split(b"\0")[:-1]]
        await _check(again, signer, acknowledged=1 + 5 + 2 + 2 + 1)


def write_signer(folder: Path, signer: FileSigner) -> None:
    (folder / "private").write_bytes(signer._private.private_bytes_raw())


def read_signer(folder: Path) -> FileSigner:
    private = Ed25519PrivateKey.from_private_bytes((folder / "private").read_bytes())
    return FileSigner(VerifierKey(ORIGIN, ED25519, private.public_key().public_bytes_raw()), private)
