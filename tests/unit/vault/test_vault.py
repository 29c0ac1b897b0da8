"""The vault: what it seals, what it refuses to open, and what it never shows."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.domain.ports import SEAL_OVERHEAD, Transaction, VaultRow
from broker.domain.secret import Secret
from broker.errors import ConflictError, DataLossError, InternalError, NotFoundError
from broker.store.database import Database
from broker.vault.vault import SealedItem, SealedVault

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TEXT = b"attack at dawn, card 4111 1111 1111 1111"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    Database.create(tmp_path / "broker.db")
    with Database.open_sync(tmp_path / "broker.db") as opened:
        yield opened


@pytest.fixture
def vault() -> SealedVault:
    return SealedVault(Secret(secrets.token_bytes(32)))


def _make(database: Database, vault: SealedVault, object_id: str = "call_1", kind: str = "call") -> SealedItem:
    def work(tx: Transaction) -> SealedItem:
        item = vault.create(tx, object_id=object_id, owner="agt_1", kind=kind, now=NOW, expires=None)
        for index in range(3):
            item.put(tx, {index: TEXT + b"%d" % index})
        return item

    return database.write_sync(work)


def _read(database: Database, vault: SealedVault, object_id: str = "call_1") -> list[tuple[int, bytes]]:
    return database.read_sync(lambda tx: list(vault.open(tx, object_id).read(tx, 0, 10)))


def _row(database: Database, object_id: str) -> VaultRow:
    row = database.read_sync(lambda tx: tx.vault.get(object_id))
    assert row is not None
    return row


def _store(database: Database, row: VaultRow, chunks: list[tuple[int, bytes]]) -> None:
    def work(tx: Transaction) -> None:
        tx.vault.delete(row.id)
        tx.vault.insert(row)
        for index, sealed in chunks:
            tx.vault.insert_chunks(row.id, {index: sealed})

    database.write_sync(work)


def _chunks(database: Database, object_id: str) -> list[tuple[int, bytes]]:
    return list(database.read_sync(lambda tx: tx.vault.chunks(object_id, 0, 10)))


def test_what_was_put_comes_back(database: Database, vault: SealedVault) -> None:
    item = _make(database, vault)
    assert item.id == "call_1"
    assert _read(database, vault) == [(index, TEXT + b"%d" % index) for index in range(3)]
    assert database.read_sync(lambda tx: list(item.read(tx, 1, 1))) == [(1, TEXT + b"1")]


def test_a_sealed_chunk_is_longer_by_what_the_port_says(database: Database, vault: SealedVault) -> None:
    _make(database, vault)
    assert [len(sealed) - len(TEXT) - 1 for _, sealed in _chunks(database, "call_1")] == [SEAL_OVERHEAD] * 3


def test_an_id_or_index_is_used_once(database: Database, vault: SealedVault) -> None:
    item = _make(database, vault)
    with pytest.raises(ConflictError):
        _make(database, vault)
    with pytest.raises(ConflictError):
        database.write_sync(lambda tx: item.put(tx, {1: b"other"}))


def test_no_plain_text_is_in_any_file(database: Database, vault: SealedVault, tmp_path: Path) -> None:
    for number in range(20):
        _make(database, vault, f"call_{number}")
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        assert b"attack at dawn" not in content
        assert b"4111" not in content


def test_the_same_text_is_sealed_differently_each_time(database: Database, vault: SealedVault) -> None:
    def work(tx: Transaction) -> None:
        item = vault.create(tx, object_id="call_1", owner="agt_1", kind="call", now=NOW, expires=None)
        for index in range(20):
            item.put(tx, {index: TEXT})

    database.write_sync(work)
    sealed = [chunk for _, chunk in database.read_sync(lambda tx: tx.vault.chunks("call_1", 0, 100))]
    assert len({chunk[:12] for chunk in sealed}) == 20
    assert len({chunk[12:] for chunk in sealed}) == 20


def test_a_chunk_changed_in_any_byte_is_refused(database: Database, vault: SealedVault) -> None:
    _make(database, vault)
    row, chunks = _row(database, "call_1"), _chunks(database, "call_1")
    for position in range(len(chunks[1][1])):
        changed = bytearray(chunks[1][1])
        changed[position] ^= 1
        _store(database, row, [chunks[0], (1, bytes(changed)), chunks[2]])
        with pytest.raises(DataLossError) as refused:
            _read(database, vault)
        assert refused.value.reason == "VAULT_CHUNK_DAMAGED"
        assert "chunk 1 " in refused.value.message


@pytest.mark.parametrize("length", [0, 1, 12, 27, 28, 40])
def test_a_chunk_cut_short_is_refused(database: Database, vault: SealedVault, length: int) -> None:
    _make(database, vault)
    row, chunks = _row(database, "call_1"), _chunks(database, "call_1")
    _store(database, row, [(0, chunks[0][1][:length])])
    with pytest.raises(DataLossError):
        _read(database, vault)


def test_swapped_chunks_are_refused(database: Database, vault: SealedVault) -> None:
    _make(database, vault)
    row, chunks = _row(database, "call_1"), _chunks(database, "call_1")
    _store(database, row, [(0, chunks[1][1]), (1, chunks[0][1])])
    with pytest.raises(DataLossError) as refused:
        _read(database, vault)
    assert refused.value.reason == "VAULT_CHUNK_DAMAGED"


def test_an_object_under_another_id_or_kind_is_refused(database: Database, vault: SealedVault) -> None:
    _make(database, vault, "call_1")
    _make(database, vault, "call_2")
    row, chunks = _row(database, "call_1"), _chunks(database, "call_1")
    for wrong in (replace(row, id="call_2"), replace(row, kind="blob")):
        _store(database, wrong, chunks)
        with pytest.raises(DataLossError) as refused:
            _read(database, vault, wrong.id)
        assert refused.value.reason == "VAULT_KEYS_DAMAGED"


def test_chunks_of_another_object_are_refused(database: Database, vault: SealedVault) -> None:
    _make(database, vault, "call_1")
    _make(database, vault, "call_2")
    _store(database, _row(database, "call_2"), _chunks(database, "call_1"))
    with pytest.raises(DataLossError) as refused:
        _read(database, vault, "call_2")
    assert refused.value.reason == "VAULT_CHUNK_DAMAGED"


def test_keys_changed_in_any_byte_are_refused(database: Database, vault: SealedVault) -> None:
    _make(database, vault)
    row = _row(database, "call_1")
    for position in range(len(row.wrapped)):
        changed = bytearray(row.wrapped)
        changed[position] ^= 0x80
        _store(database, replace(row, wrapped=bytes(changed)), [])
        with pytest.raises(DataLossError):
            database.read_sync(lambda tx: vault.open(tx, "call_1"))
    _store(database, replace(row, wrapped=b""), [])
    with pytest.raises(DataLossError):
        database.read_sync(lambda tx: vault.open(tx, "call_1"))


def test_another_vault_key_opens_nothing(database: Database, vault: SealedVault) -> None:
    _make(database, vault)
    with pytest.raises(DataLossError) as refused:
        _read(database, SealedVault(secrets.token_bytes(32)))
    assert refused.value.reason == "VAULT_KEYS_DAMAGED"


def test_what_is_erased_or_was_never_there_is_not_found(database: Database, vault: SealedVault) -> None:
    _make(database, vault)
    database.write_sync(lambda tx: tx.vault.delete("call_1"))
    for object_id in ("call_1", "call_9"):
        with pytest.raises(NotFoundError) as refused:
            _read(database, vault, object_id)
        assert refused.value.reason == "CONTENT_ERASED"


def test_a_commitment_is_the_keyed_hash_of_the_design(database: Database, vault: SealedVault) -> None:
    item = _make(database, vault)
    r32 = item._commitment_key.reveal()
    assert len(r32) == 32
    assert item.commit("args", TEXT) == hmac.new(r32, b"args\x00" + TEXT, hashlib.sha256).hexdigest()
    again = database.read_sync(lambda tx: vault.open(tx, "call_1"))
    assert again.commit("args", TEXT) == item.commit("args", TEXT)
    assert item.commit("purpose", TEXT) != item.commit("args", TEXT)
    assert _make(database, vault, "call_2").commit("args", TEXT) != item.commit("args", TEXT)
    with pytest.raises(InternalError):
        item.commit("args\x00", TEXT)


@pytest.mark.parametrize("key", [b"", b"x" * 31, b"x" * 33])
def test_a_key_of_another_length_is_refused(key: bytes) -> None:
    with pytest.raises(InternalError) as refused:
        SealedVault(key)
    assert key.decode() not in refused.value.message or not key


@pytest.mark.parametrize("name", ["", "a|b", "a b", "ä", "x" * 129])
def test_a_name_that_could_be_mistaken_is_refused(database: Database, vault: SealedVault, name: str) -> None:
    for object_id, kind in ((name, "call"), ("call_1", name)):
        with pytest.raises(InternalError) as refused:
            _make(database, vault, object_id, kind)
        assert refused.value.reason == "VAULT_NAME_INVALID"


def test_no_representation_shows_a_key(database: Database, vault: SealedVault) -> None:
    item = _make(database, vault)
    secret = item._commitment_key
    for text in (repr(secret), str(secret), f"{secret}", repr(item), repr(vault), repr([secret])):
        assert secret.reveal().hex() not in text
        assert repr(secret.reveal())[2:-1] not in text
    with pytest.raises(TypeError):
        secret.__reduce__()
    with pytest.raises(TypeError):
        hash(secret)
    assert secret == Secret(secret.reveal())
    assert secret != Secret(b"other")
    assert secret != secret.reveal()
