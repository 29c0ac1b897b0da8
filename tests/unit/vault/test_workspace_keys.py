"""Keys of workspaces: made once, shared by processes, destroyed for all of them; and what was sealed before there were any."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from broker.domain.ports import DESTROYED, SEAL_OVERHEAD, Transaction, VaultRow
from broker.errors import DataLossError, InternalError, NotFoundError
from broker.store.database import Database
from broker.vault import workspace_keys
from broker.vault.sealing import KEYS_BYTES, Place, bound, place_of, with_place
from broker.vault.vault import SealedItem, SealedVault

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = secrets.token_bytes(32)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    Database.create(tmp_path / "broker.db")
    with Database.open_sync(tmp_path / "broker.db") as opened:
        yield opened


def make(database: Database, vault: SealedVault, object_id: str, workspace: str = "shop", call: str = "") -> SealedItem:
    def work(tx: Transaction) -> SealedItem:
        item = vault.create(
            tx,
            object_id=object_id,
            owner="agt_1",
            kind="call",
            now=NOW,
            expires=None,
            workspace=workspace,
            call=call,
        )
        item.put(tx, {0: b"text", 5: b"more"})
        return item

    return database.write_sync(work)


def read(database: Database, vault: SealedVault, object_id: str) -> list[tuple[int, bytes]]:
    return database.read_sync(lambda tx: list(vault.open(tx, object_id).read(tx, 0, 10)))


def row(database: Database, object_id: str) -> VaultRow:
    found = database.read_sync(lambda tx: tx.vault.get(object_id))
    assert found is not None
    return found


def change(database: Database, new: VaultRow) -> None:
    def work(tx: Transaction) -> None:
        chunks = dict(tx.vault.chunks(new.id, 0, 10))
        tx.vault.delete(new.id)
        tx.vault.insert(new)
        tx.vault.insert_chunks(new.id, chunks)

    database.write_sync(work)


def test_objects_of_a_workspace_share_its_key_and_nothing_else_does(database: Database) -> None:
    vault = SealedVault(KEY)
    for object_id, workspace in (("call_1", "shop"), ("call_2", "shop"), ("call_3", "lab"), ("hum_1", "")):
        make(database, vault, object_id, workspace)
    assert all(
        database.read_sync(lambda tx, name=name: tx.workspace_keys.get(name)) is not None for name in ("shop", "lab")
    )
    database.write_sync(lambda tx: tx.workspace_keys.delete("shop"))
    for gone in ("call_1", "call_2"):
        with pytest.raises(NotFoundError) as refused:
            read(database, vault, gone)
        assert refused.value.reason == "CONTENT_ERASED"
    assert read(database, vault, "call_3") == read(database, vault, "hum_1") == [(0, b"text"), (5, b"more")]


def test_another_process_opens_what_this_one_sealed(database: Database) -> None:
    item = make(database, SealedVault(KEY), "call_1", call="call_1")
    assert item.place == Place("shop", "call_1")
    other = SealedVault(KEY)
    assert read(database, other, "call_1") == [(0, b"text"), (5, b"more")]
    make(database, other, "call_2")
    assert read(database, SealedVault(KEY), "call_2") == [(0, b"text"), (5, b"more")]


def test_a_key_that_another_process_destroyed_is_not_used_from_memory(database: Database) -> None:
    mine, theirs = SealedVault(KEY), SealedVault(KEY)
    make(database, mine, "call_1")
    database.write_sync(lambda tx: tx.workspace_keys.delete("shop"))
    make(database, theirs, "call_2")
    make(database, mine, "call_3")
    fresh = SealedVault(KEY)
    assert read(database, fresh, "call_2") == read(database, fresh, "call_3")
    for vault in (mine, theirs, fresh):
        with pytest.raises(DataLossError):
            read(database, vault, "call_1")


def test_a_key_of_a_transaction_that_failed_is_not_remembered(database: Database) -> None:
    vault = SealedVault(KEY)

    def failing(tx: Transaction) -> None:
        vault.create(tx, object_id="call_1", owner="a", kind="call", now=NOW, expires=None, workspace="shop")
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        database.write_sync(failing)
    assert database.read_sync(lambda tx: tx.workspace_keys.get("shop")) is None
    make(database, vault, "call_2")
    assert read(database, SealedVault(KEY), "call_2") == [(0, b"text"), (5, b"more")]


def test_a_workspaces_key_moved_or_changed_or_of_another_vault_does_not_open(database: Database) -> None:
    make(database, SealedVault(KEY), "call_1")
    wrapped = database.read_sync(lambda tx: tx.workspace_keys.get("shop"))
    assert wrapped is not None
    assert len(wrapped) == 32 + SEAL_OVERHEAD
    for position in range(len(wrapped)):
        changed = bytearray(wrapped)
        changed[position] ^= 1

        def swap(tx: Transaction, new: bytes = bytes(changed)) -> None:
            tx.workspace_keys.delete("shop")
            tx.workspace_keys.insert("shop", new, NOW)

        database.write_sync(swap)
        with pytest.raises(DataLossError) as refused:
            read(database, SealedVault(KEY), "call_1")
        assert refused.value.reason == "VAULT_KEYS_DAMAGED"

    def move(tx: Transaction) -> None:
        tx.workspace_keys.delete("shop")
        tx.workspace_keys.insert("shop", wrapped, NOW)
        tx.workspace_keys.insert("lab", wrapped, NOW)

    database.write_sync(move)
    assert read(database, SealedVault(KEY), "call_1")
    # Nothing is sealed under another workspace's key either: it would outlive the erasure of its own.
    with pytest.raises(DataLossError):
        make(database, SealedVault(KEY), "call_2", "lab")
    moved = row(database, "call_1")
    change(database, replace(moved, wrapped=with_place(moved.wrapped[-KEYS_BYTES:], Place("lab"))))
    with pytest.raises(DataLossError):
        read(database, SealedVault(KEY), "call_1")
    with pytest.raises(DataLossError):
        read(database, SealedVault(secrets.token_bytes(32)), "call_1")


def test_what_was_sealed_before_there_were_workspace_keys_stays_readable(database: Database) -> None:
    """Written as that version wrote it, with nothing of today's code."""
    nonce, data_nonce, keys = secrets.token_bytes(12), secrets.token_bytes(12), secrets.token_bytes(64)
    wrapped = nonce + AESGCM(KEY).encrypt(nonce, keys, b"broker.vault.v1|keys|call_1|call")
    sealed = data_nonce + AESGCM(keys[:32]).encrypt(data_nonce, b"old", b"broker.vault.v1|chunk|call_1|call|0")

    def work(tx: Transaction) -> None:
        tx.vault.insert(VaultRow("call_1", "agt_1", "call", wrapped, NOW, None))
        tx.vault.insert_chunks("call_1", {0: sealed})

    database.write_sync(work)
    assert len(wrapped) == KEYS_BYTES == 92
    assert read(database, SealedVault(KEY), "call_1") == [(0, b"old")]


@pytest.mark.parametrize("place", [None, Place("shop"), Place("shop", "call_1"), Place("w" * 63, "c" * 128)])
def test_a_place_is_read_back(place: Place | None) -> None:
    keys = secrets.token_bytes(KEYS_BYTES)
    assert place_of(with_place(keys, place)) == (place, keys)


@pytest.mark.parametrize(
    "head",
    [b"\x02", b"\x02\x00\x00", b"\x02\x01a", b"\x02\x01a\x01", b"\x02\x01a\x00x", b"\x01\x01a\x00", b"\x02\xffa\x00", b"\x02\x01\xff\x00"],
)  # fmt: skip
def test_a_place_of_another_form_is_refused(head: bytes) -> None:
    with pytest.raises(ValueError):
        place_of(head + bytes(KEYS_BYTES))
    with pytest.raises(ValueError):
        place_of(head)


def test_an_object_whose_keys_are_destroyed_reads_as_erased(database: Database) -> None:
    vault = SealedVault(KEY)
    make(database, vault, "call_1")
    change(database, replace(row(database, "call_1"), wrapped=DESTROYED))
    with pytest.raises(NotFoundError) as refused:
        read(database, vault, "call_1")
    assert refused.value.reason == "CONTENT_ERASED"


@pytest.mark.parametrize(("workspace", "call"), [("", "call_1"), ("a|b", ""), ("shop", "a|b"), ("ä", "")])
def test_a_place_that_could_be_mistaken_is_refused(database: Database, workspace: str, call: str) -> None:
    with pytest.raises(InternalError):
        make(database, SealedVault(KEY), "call_1", workspace, call)


def test_only_so_many_keys_are_kept_and_none_is_shown(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace_keys, "KEPT", 3)
    vault = SealedVault(KEY)
    for number in range(8):
        make(database, vault, f"call_{number}", f"w{number}")
    for number in range(8):
        assert read(database, vault, f"call_{number}")
    assert repr(vault._workspaces) == "WorkspaceKeys(3 kept)"


def test_whether_another_chunk_follows_is_bound_as_well(database: Database) -> None:
    item = make(database, SealedVault(KEY), "call_1", call="call_1")
    for said in (True, False, None):
        sealed = item.seal(3, b"text", last=said)
        assert item.unseal(3, sealed, last=said) == b"text"
        for other in {True, False, None} - {said}:
            with pytest.raises(DataLossError):
                item.unseal(3, sealed, last=other)


def test_what_is_bound_differs_in_each_word() -> None:
    places = (None, Place("shop"), Place("lab"), Place("shop", "call_1"), Place("shop", "call_2"))
    words = [
        ("keys", "a", "call"), ("keys", "b", "call"), ("keys", "a", "blob"),
        ("chunk", "a", "call", "0"), ("chunk", "a", "call", "1"), ("chunk", "a", "call", "1", "last"),
        ("chunk", "a", "call", "1", "more"), ("chunk", "a", "artifact.x", "1", "last"), ("workspace", "a"),
    ]  # fmt: skip
    assert len({bound(*some, place=place) for some in words for place in places}) == len(words) * len(places)
