"""Those outside: a folder, a webhook and a witness, over real sockets and TLS. What they do wrong hurts nobody else."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from broker.domain.urls import parse_url
from broker.errors import BrokerError, UnavailableError
from broker.ledger.posting import LONGEST_ANSWER, Poster, Trust
from broker.ledger.publish import Delivery, FolderPublisher, WebhookPublisher
from broker.ledger.tree import Tree
from broker.ledger.witness import CLOCKS_DIFFER_S, Witness
from broker.sandbox.egress.upstream import trust_from
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.note import ED25519, Note, VerifierKey, cosignature_time, verify_note
from tests.checkpoint_world import World, make_note, make_signer, now, world
from tests.egress_support import Certificates, Handler, Host, make_certificates, serving
from tests.witness_server import PLAIN, Reply, WitnessState, cosignature, http_server, witness_server

WITHIN_S = 30
SIGNER = make_signer()


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


@pytest.fixture
def state(one: World) -> WitnessState:
    made = WitnessState()
    made.trust(str(one.signer.key))
    return made


@pytest.fixture
def witness_url(state: WitnessState) -> Iterator[str]:
    with witness_server(state) as url:
        yield url


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    (tmp_path / "tls").mkdir()
    return make_certificates(tmp_path / "tls")


def no_tls() -> ssl.SSLContext:
    raise AssertionError("no TLS here")


def client(url: str, vkey: str, trust: Trust = no_tls, clock: Callable[[], datetime] = now) -> Witness:
    return Witness(parse_url(url), VerifierKey.parse(vkey), trust, clock)


def size_of(note: Note) -> int:
    return Checkpoint.parse(note.text).size


async def grow(one: World) -> Note:
    """A new checkpoint."""
    await one.append(3)
    async with one.checkpointer() as checkpointer:
        note = await checkpointer.publish_now()
    assert note is not None
    return note


def proofs(one: World, note: Note) -> Callable[[int], Awaitable[tuple[bytes, ...]]]:
    return lambda old: one.store.read(lambda tx: Tree(tx.ledger, size_of(note)).consistency_proof(old))


# --- witnesses ---


async def test_a_witness_cosigns_what_extends_what_it_saw(one: World, state: WitnessState, witness_url: str) -> None:
    witness = client(witness_url, state.vkey)
    for sent in ("old 0", "old 5", "old 9"):
        note = await grow(one)
        signature = await witness.cosign(note, proofs(one, note))
        cosigned = note.with_signature(signature)
        assert {key.name for key in verify_note(cosigned, [one.signer.key, witness.key])} == {"origin-1", state.name}
        assert abs(cosignature_time(signature) - now().timestamp()) < WITHIN_S
        assert state.seen["origin-1"][0] == size_of(note)
        assert state.bodies[-1].startswith(sent.encode() + b"\n")
        assert state.bodies[-1].endswith(b"\n\n" + note.encode())
    assert len(state.bodies) == 3  # each at the first attempt
    assert set(state.paths) == {"/add-checkpoint"}


async def test_a_witness_that_is_elsewhere_is_asked_from_there(
    one: World, state: WitnessState, witness_url: str
) -> None:
    for _ in range(2):
        note = await grow(one)
        await client(witness_url, state.vkey).cosign(note, proofs(one, note))
    # A client that knows nothing asks from 0, hears 9, and proves from there.
    note = await grow(one)
    await client(witness_url, state.vkey).cosign(note, proofs(one, note))
    assert [body.partition(b"\n")[0] for body in state.bodies[-2:]] == [b"old 0", b"old 9"]
    # The same checkpoint again: from its own size, without a hash.
    await client(witness_url, state.vkey).cosign(note, proofs(one, note))
    assert state.bodies[-1] == b"old 13\n\n" + note.encode()


async def test_a_witness_that_saw_another_history_says_so(one: World, state: WitnessState, witness_url: str) -> None:
    note = await grow(one)
    other = make_note(size_of(note), bytes(32), one.signer)
    await client(witness_url, state.vkey).cosign(other, proofs(one, note))
    with pytest.raises(BrokerError) as refused:
        await client(witness_url, state.vkey).cosign(note, proofs(one, note))
    assert refused.value.reason == "WITNESS_CONFLICT"
    # And so does one that was ahead of a restored backup, or of a fork.
    ahead = make_note(1000, bytes(32), one.signer)
    state.seen["origin-1"] = (1000, bytes(32))
    with pytest.raises(BrokerError) as refused:
        await client(witness_url, state.vkey).cosign(note, proofs(one, note))
    assert refused.value.reason == "WITNESS_AHEAD"
    assert "1000 entries" in refused.value.message
    assert size_of(ahead) == 1000
    state.seen["origin-1"] = (3, bytes(32))
    with pytest.raises(BrokerError) as refused:
        await client(witness_url, state.vkey).cosign(note, proofs(one, note))
    assert refused.value.reason == "WITNESS_REFUSED"
    assert "doesn't extend" in refused.value.message


def fixed(reply: Reply) -> Callable[[Reply], Reply]:
    return lambda _: reply


SIZE = "text/x.tlog.size"
MISBEHAVIOUR: dict[str, tuple[Callable[[Reply], Reply], str]] = {
    "403": (fixed((403, PLAIN, b"")), "WITNESS_REFUSED"),
    "404": (fixed((404, PLAIN, b"")), "WITNESS_REFUSED"),
    "400": (fixed((400, PLAIN, b"")), "WITNESS_REFUSED"),
    "422": (fixed((422, PLAIN, b"")), "WITNESS_REFUSED"),
    "500": (fixed((500, PLAIN, b"")), "HOLDER_REFUSED"),
    "a redirect": (lambda reply: (307, *reply[1:]), "HOLDER_REFUSED"),
    "a conflict without end": (fixed((409, SIZE, b"3\n")), "WITNESS_CONFLICT"),
    "a conflict at nothing": (fixed((409, SIZE, b"0\n")), "WITNESS_CONFLICT"),
    "a conflict without a size": (fixed((409, SIZE, b"")), "HOLDER_REFUSED"),
    "a conflict with a strange size": (fixed((409, SIZE, b"03\n")), "HOLDER_REFUSED"),
    "a conflict with an endless size": (fixed((409, SIZE, b"9" * 5000 + b"\n")), "HOLDER_REFUSED"),
    "a conflict of another type": (fixed((409, PLAIN, b"3\n")), "HOLDER_REFUSED"),
    "nothing": (fixed((200, PLAIN, b"")), "COSIGNATURE_WRONG"),
    "no text": (fixed((200, PLAIN, b"\xff\n")), "COSIGNATURE_WRONG"),
    "no line": (lambda reply: (200, PLAIN, reply[2][:-1]), "COSIGNATURE_WRONG"),
    "a changed signature": (lambda reply: (200, PLAIN, reply[2][:-4] + b"A=\n"), "COSIGNATURE_WRONG"),
    "another witness": (
        lambda _: (200, PLAIN, cosignature(WitnessState(name="other"), b"x\n")), "COSIGNATURE_WRONG",
    ),
    "another key of that name": (
        lambda _: (200, PLAIN, cosignature(WitnessState(), b"x\n")), "COSIGNATURE_WRONG",
    ),
    "a hundred lines": (lambda reply: (200, PLAIN, reply[2] * 100), "COSIGNATURE_WRONG"),
    "an endless answer": (lambda reply: (200, PLAIN, reply[2] * LONGEST_ANSWER), "HOLDER_UNREACHABLE"),
}  # fmt: skip


@pytest.mark.parametrize("what", MISBEHAVIOUR)
async def test_what_a_witness_does_wrong_is_told_and_not_kept(
    one: World, state: WitnessState, witness_url: str, what: str
) -> None:
    state.instead, reason = MISBEHAVIOUR[what]
    note = await grow(one)
    with pytest.raises(BrokerError) as refused:
        await client(witness_url, state.vkey).cosign(note, proofs(one, note))
    assert refused.value.reason == reason
    async with one.checkpointer(witnesses=(client(witness_url, state.vkey),)) as checkpointer:
        await one.append(1)
        newest = await checkpointer.publish_now()
        await until(lambda: checkpointer.status.holders[0].failures >= 2)
        assert checkpointer.status.holders[0].last_error.startswith(reason)
        assert not checkpointer.status.last_error
        assert await one.checkpoints.latest() == newest
        assert len(newest.signatures) == 1  # type: ignore[union-attr]
        # Once it behaves, it is asked again by itself.
        state.instead = None
        async with asyncio.timeout(WITHIN_S):
            await checkpointer.settle()
        latest = await one.checkpoints.latest()
        assert latest is not None
        assert len(latest.signatures) == 2


@pytest.mark.parametrize("off_s", [-CLOCKS_DIFFER_S - 60, CLOCKS_DIFFER_S + 60])
async def test_a_cosignature_of_another_time_isnt_kept(
    one: World, state: WitnessState, witness_url: str, off_s: int
) -> None:
    state.clock = lambda: now().timestamp() + off_s
    note = await grow(one)
    with pytest.raises(BrokerError) as refused:
        await client(witness_url, state.vkey).cosign(note, proofs(one, note))
    assert refused.value.reason == "COSIGNATURE_WRONG"
    assert "seconds off" in refused.value.message


async def test_other_signatures_beside_the_right_one_are_passed_over(
    one: World, state: WitnessState, witness_url: str
) -> None:
    stranger = cosignature(WitnessState(name="other"), b"x\n")
    state.instead = lambda reply: (200, PLAIN, stranger + reply[2])
    note = await grow(one)
    signature = await client(witness_url, state.vkey).cosign(note, proofs(one, note))
    assert signature.name == state.name


async def test_a_key_of_another_type_makes_no_witness() -> None:
    with pytest.raises(BrokerError) as refused:
        client("https://witness.example", str(VerifierKey("w", ED25519, bytes(32))))
    assert refused.value.reason == "WITNESS_KEY"


async def test_cosignatures_go_to_the_store_and_to_the_holders(
    one: World, state: WitnessState, witness_url: str, tmp_path: Path
) -> None:
    second = WitnessState(name="witness.example/w2")
    second.trust(str(one.signer.key))
    (tmp_path / "outside").mkdir()
    with witness_server(second) as second_url:
        witnesses = (client(witness_url + "/", state.vkey), client(second_url, second.vkey))
        async with one.checkpointer(
            witnesses=witnesses, publishers=(FolderPublisher(tmp_path / "outside"),)
        ) as checkpointer:
            for _ in range(3):
                await one.append(4)
                await checkpointer.publish_now()
                async with asyncio.timeout(WITHIN_S):
                    await checkpointer.settle()
                latest = await one.checkpoints.latest()
                assert latest is not None
                keys = [one.signer.key, *(witness.key for witness in witnesses)]
                assert set(verify_note(latest, keys)) == set(keys)
                assert (tmp_path / "outside" / "latest.note").read_bytes() == latest.encode()
        # A new start on an idle ledger asks nobody for what is there.
        asked = len(state.bodies)
        async with one.checkpointer(witnesses=witnesses) as checkpointer, asyncio.timeout(WITHIN_S):
            await checkpointer.settle()
        assert len(state.bodies) == asked


# --- webhooks ---


async def test_a_webhook_gets_each_newest_note(one: World, certificates: Certificates) -> None:
    got: list[tuple[str, bytes, str]] = []

    def take(path: str, body: bytes, headers: object) -> Reply:
        got.append((path, body, headers["Content-Type"]))  # type: ignore[index]
        return 204, PLAIN, b""

    with http_server(take, context=certificates.context()) as url:
        publisher = WebhookPublisher(parse_url(f"{url}/holders/7?token=x"), lambda: trust_from(certificates.ca))
        async with one.checkpointer(publishers=(publisher,)) as checkpointer:
            for _ in range(2):
                await one.append(1)
                note = await checkpointer.publish_now()
                async with asyncio.timeout(WITHIN_S):
                    await checkpointer.settle()
                assert note is not None
                assert got[-1] == ("/holders/7?token=x", note.encode(), "text/plain; charset=utf-8")
            (holder,) = checkpointer.status.holders
    assert holder.name == f"webhook {parse_url(url).authority}"  # the token is in no status
    assert holder.size == size_of(note)
    assert holder.last_success is not None


async def until(true: Callable[[], bool]) -> None:
    """Lets others work until it is so."""
    async with asyncio.timeout(WITHIN_S):
        while not true():  # noqa: ASYNC110 - a status is looked at, as its readers do
            await asyncio.sleep(0)


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 404, 500, 503])
async def test_only_a_2xx_counts_and_no_redirect_is_followed(one: World, status: int) -> None:
    calls = 0

    def refuse(_path: str, _body: bytes, _headers: object) -> Reply:
        nonlocal calls
        calls += 1
        return status, PLAIN, b"trust me"

    with http_server(refuse) as url:
        publisher = WebhookPublisher(parse_url(url), no_tls)
        with pytest.raises(UnavailableError) as refused:
            await publisher.publish(await grow(one))
    assert refused.value.reason == "HOLDER_REFUSED"
    assert str(status) in refused.value.message
    assert "trust me" not in refused.value.message
    assert calls == 1


async def test_a_certificate_that_isnt_trusted_gets_nothing(one: World, certificates: Certificates) -> None:
    got: list[bytes] = []

    def take(_path: str, body: bytes, _headers: object) -> Reply:
        got.append(body)
        return 200, PLAIN, b""

    with http_server(take, context=certificates.context()) as url:
        publisher = WebhookPublisher(parse_url(url), lambda: trust_from(None))
        with pytest.raises(UnavailableError) as refused:
            await publisher.publish(await grow(one))
    assert refused.value.reason == "HOLDER_UNREACHABLE"
    assert "certificate" in refused.value.message
    assert not got


async def test_a_file_of_authorities_that_is_missing_is_told(one: World, tmp_path: Path) -> None:
    publisher = WebhookPublisher(parse_url("https://127.0.0.1:9"), lambda: trust_from(tmp_path / "none.pem"))
    with pytest.raises(UnavailableError) as refused:
        await publisher.publish(await grow(one))
    assert refused.value.reason == "HOLDER_UNREACHABLE"


def says(data: bytes, *, then_silence: bool = False) -> Callable[[Host], Handler]:
    def made(host: Host) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await host.read_request(reader)
            writer.write(data)
            await writer.drain()
            if then_silence:
                await asyncio.Event().wait()

        return handle

    return made


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 100,
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nContent-Length: 11\r\n\r\n0123456789",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (LONGEST_ANSWER + 1),
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ],
)
async def test_an_answer_that_is_none(data: bytes) -> None:
    async with serving(says(data)) as host:
        poster = Poster(parse_url(f"http://127.0.0.1:{host.port}/x"), no_tls)
        with pytest.raises(UnavailableError) as refused:
            await poster.post(b"body", PLAIN)
    assert refused.value.reason == "HOLDER_UNREACHABLE"


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort"])
async def test_a_holder_that_falls_silent_is_left(data: bytes) -> None:
    async with serving(says(data, then_silence=True)) as host:
        poster = Poster(parse_url(f"http://127.0.0.1:{host.port}/x"), no_tls, timeout_s=0.2)
        with pytest.raises(UnavailableError) as refused:
            await poster.post(b"body", PLAIN)
    assert "in time" in refused.value.message


async def test_a_holder_that_is_down_holds_up_nothing_and_gets_the_newest_later(one: World) -> None:
    entered, go_on = threading.Event(), threading.Event()
    got: list[Note] = []
    broken = True

    def take(_path: str, body: bytes, _headers: object) -> Reply:
        entered.set()
        go_on.wait(WITHIN_S)
        if broken:
            return 500, PLAIN, b""
        got.append(Note.parse(body))
        return 200, PLAIN, b""

    with http_server(take) as url:
        publisher = WebhookPublisher(parse_url(url), no_tls)
        async with one.checkpointer(publishers=(publisher,)) as checkpointer:
            await asyncio.to_thread(entered.wait, WITHIN_S)
            for _ in range(5):  # while the holder hangs
                await one.append(1)
                note = await checkpointer.publish_now()
            go_on.set()
            await until(lambda: checkpointer.status.holders[0].failures >= 3)
            (holder,) = checkpointer.status.holders
            assert holder.last_error.startswith("HOLDER_REFUSED")
            assert holder.size is None
            broken = False
            async with asyncio.timeout(WITHIN_S):
                await checkpointer.settle()
            assert got == [note]
            (holder,) = checkpointer.status.holders
            assert (holder.size, holder.failures, holder.last_error) == (size_of(got[0]), 0, "")


# --- folders ---


async def test_a_folder_holds_every_note_that_it_got(one: World, tmp_path: Path) -> None:
    held = tmp_path / "outside"
    held.mkdir()
    publisher = FolderPublisher(held)
    first, second = await grow(one), await grow(one)
    for note in (first, first, second):
        await publisher.publish(note)
    assert {path.name: path.read_bytes() for path in held.iterdir()} == {
        "0000000000000005.note": first.encode(),
        "0000000000000009.note": second.encode(),
        "latest.note": second.encode(),
    }


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("latest.note", make_note(100, bytes(32), SIGNER).encode(), "CHECKPOINT_HELD_NEWER"),
        ("latest.note", make_note(5, bytes(32), SIGNER).encode(), "CHECKPOINT_HELD_OTHERWISE"),
        ("0000000000000005.note", make_note(5, bytes(32), SIGNER).encode(), "CHECKPOINT_HELD_OTHERWISE"),
        ("latest.note", b"torn", "CHECKPOINT_HELD_UNREADABLE"),
    ],
)
async def test_what_a_folder_holds_is_never_written_over(
    one: World, tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    held = tmp_path / "outside"
    held.mkdir()
    (held / name).write_bytes(content)
    with pytest.raises(BrokerError) as refused:
        await FolderPublisher(held).publish(await grow(one))
    assert refused.value.reason == reason
    assert [(path.name, path.read_bytes()) for path in held.iterdir()] == [(name, content)]


async def test_a_folder_that_isnt_mounted_is_told_and_used_once_it_is(one: World, tmp_path: Path) -> None:
    held = tmp_path / "outside"
    async with one.checkpointer(publishers=(FolderPublisher(held),)) as checkpointer:
        await until(lambda: checkpointer.status.holders[0].failures >= 2)
        assert checkpointer.status.holders[0].last_error.startswith("HOLDER_UNREACHABLE")
        held.mkdir()
        async with asyncio.timeout(WITHIN_S):
            await checkpointer.settle()
    assert (held / "latest.note").read_bytes() == (await one.checkpoints.latest()).encode()  # type: ignore[union-attr]


async def test_a_share_that_hangs_holds_up_neither_checkpoints_nor_the_end(one: World, tmp_path: Path) -> None:
    entered, go_on = threading.Event(), threading.Event()

    class Hanging(FolderPublisher):
        def write(self, note: Note) -> None:
            entered.set()
            go_on.wait(WITHIN_S)
            super().write(note)

    publisher = Hanging(tmp_path / "outside")
    checkpointer = one.checkpointer(publishers=(publisher,))
    await checkpointer.__aenter__()
    try:
        await asyncio.to_thread(entered.wait, WITHIN_S)
        await one.append(1)
        note = await checkpointer.publish_now()
        assert await one.checkpoints.latest() == note
        with pytest.raises(UnavailableError) as refused:
            await publisher.publish(await grow(one))
        assert "still doesn't answer" in refused.value.message
    finally:
        async with asyncio.timeout(WITHIN_S):
            await checkpointer.__aexit__(None, None, None)
        go_on.set()


async def test_an_older_note_that_comes_late_is_passed_over(one: World, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    delivery = Delivery(FolderPublisher(tmp_path / "outside"), now, 0.01)
    first, second = await grow(one), await grow(one)
    delivery.start()
    for note in (second, first):
        delivery.offer(note)
        async with asyncio.timeout(WITHIN_S):
            await delivery.settle()
    await delivery.close(WITHIN_S)
    assert (tmp_path / "outside" / "latest.note").read_bytes() == second.encode()
    assert (delivery.status.size, delivery.status.last_error) == (size_of(second), "")
