"""Handing over and revoking, on a real ledger: who may, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.errors import BrokerError, DataLossError, InvalidArgumentError, NotFoundError
from broker.ledger.recovery import find_loss, keep_checkpoint, recover
from broker.ledger.rotation import MOST_REASON, read_history, revoke, rotate, sign_tree
from broker.ledger.tree import Tree
from broker.tlog.checkpoint import Checkpoint
from broker.vault.vault import SealedVault
from tests.checkpoint_world import ORIGIN, World, make_note, make_signer, world

VAULT = SealedVault(b"k" * 32)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def _revoke(made: World, key: object, reason: str = "why") -> int:
    return await revoke(made.store, made.ledger, VAULT, key, reason=reason, by="hum_1", now=NOW)  # type: ignore[arg-type]


async def test_the_handing_over_is_of_the_tree_before_it(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.append(300)
        new = make_signer()
        note = await rotate(made.store, made.ledger, made.signer, new, by="hum_1")
        checkpoint = Checkpoint.parse(note.text)
        assert (checkpoint.size, checkpoint.extensions) == (301, (f"next-key {new.key}",))
        assert checkpoint.root == await made.store.read(lambda tx: Tree(tx.ledger, 301).root())
        assert [item.key_id for item in note.signatures] == [made.signer.key.key_id, new.key.key_id]
        history = await made.store.read(read_history)
        assert [(item.key, item.from_size) for item in history.keys] == [(made.signer.key, 1), (new.key, 302)]


async def test_only_the_key_in_force_hands_over_and_only_to_a_fresh_one(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        second, third = make_signer(), make_signer()
        await rotate(made.store, made.ledger, made.signer, second, by="hum_1")
        before = await made.store.read(lambda tx: tx.ledger.head())
        pairs = [
            (made.signer, third),
            (third, second),
            (second, second),
            (second, made.signer),
            (second, make_signer("other")),
            (make_signer("other"), third),
        ]
        for old, new in pairs:
            with pytest.raises(BrokerError) as refused:
                await rotate(made.store, made.ledger, old, new, by="hum_1")
            assert refused.value.reason == "KEY_NOT_CURRENT"
        assert await made.store.read(lambda tx: tx.ledger.head()) == before


async def test_what_can_be_revoked(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        second = make_signer()
        with pytest.raises(BrokerError) as refused:
            await _revoke(made, made.signer.key)
        assert refused.value.reason == "KEY_IN_FORCE"
        await rotate(made.store, made.ledger, made.signer, second, by="hum_1")
        with pytest.raises(NotFoundError):
            await _revoke(made, make_signer().key)
        for reason in ("", "x" * (MOST_REASON + 1)):
            with pytest.raises(InvalidArgumentError):
                await _revoke(made, made.signer.key, reason)
        assert await _revoke(made, made.signer.key) == 2
        with pytest.raises(BrokerError) as again:
            await _revoke(made, made.signer.key)
        assert again.value.reason == "KEY_REVOKED"


async def test_a_signer_that_is_not_in_force_keeps_no_checkpoint_and_recovers_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await keep_checkpoint(made.store, made.checkpoints, made.signer)
        await rotate(made.store, made.ledger, made.signer, make_signer(), by="hum_1")
        with pytest.raises(BrokerError) as refused:
            await keep_checkpoint(made.store, made.checkpoints, made.signer)
        assert refused.value.reason == "KEY_NOT_CURRENT"
        with pytest.raises(BrokerError) as also:
            await recover(made.store, made.ledger, made.checkpoints, made.signer, confirmation="", by="hum_1")
        assert also.value.reason == "KEY_NOT_CURRENT"


async def test_a_checkpoint_that_was_kept_already_is_not_made_again(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        first = await keep_checkpoint(made.store, made.checkpoints, made.signer)
        assert await keep_checkpoint(made.store, made.checkpoints, made.signer) == first
        assert len(await made.checkpoints.history(9)) == 1


async def test_a_broken_history_is_named_with_its_entry(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        key = str(make_signer().key)
        body = {"key": key, "reason_commit": "ab" * 32}
        await made.store.write(lambda tx: made.ledger.append(tx, "signer.revoked", dict(body)))
        with pytest.raises(DataLossError) as refused:
            await made.store.read(read_history)
        assert refused.value.reason == "KEY_HISTORY_BROKEN"
        assert "entry 1" in str(refused.value)


async def test_where_the_histories_part(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        notes = {}
        for size, more in ((3, 2), (6, 3), (9, 3)):
            await made.append(more)
            notes[size] = await made.store.read(lambda tx: sign_tree(tx, ORIGIN, made.signer))
        strange = {size: make_note(size, bytes(32), made.signer) for size in (2, 5, 8, 12)}
        cases = [
            (strange[12], (), 9, 11, False),
            (strange[12], (notes[9], notes[3]), 9, 11, False),
            (strange[12], (strange[8], notes[6], notes[3]), 6, 11, True),
            (strange[12], (notes[9], strange[5], notes[3]), 3, 11, True),
            (strange[8], (notes[6],), 6, 7, True),
            (strange[2], (), 0, 1, True),
        ]
        for latest, kept, first, last, forked in cases:
            loss = await made.store.read(lambda tx, a=latest, b=kept: find_loss(tx, a, b))
            assert loss is not None
            assert (loss.first, loss.last, loss.forked, loss.size) == (first, last, forked, 9)
            assert str(last) in str(loss)
        for latest in (None, notes[3], notes[9]):
            assert await made.store.read(lambda tx, a=latest: find_loss(tx, a, ())) is None


async def test_a_checkpoint_of_another_ledger_shows_no_loss(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        note = make_note(9, bytes(32), make_signer("other"))
        with pytest.raises(BrokerError) as refused:
            await made.store.read(lambda tx: find_loss(tx, note, ()))
        assert refused.value.reason == "CHECKPOINT_FOREIGN"
        stranger = make_note(9, bytes(32), make_signer())
        with pytest.raises(BrokerError) as also:
            await made.store.read(lambda tx: find_loss(tx, stranger, ()))
        assert also.value.reason == "CHECKPOINT_KEY_UNKNOWN"
