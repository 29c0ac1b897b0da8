"""Handing over and revoking, on a real ledger: who may, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.errors import BrokerError, DataLossError, InvalidArgumentError, NotFoundError, UnavailableError
from broker.ledger.checkpoint_check import Course, Standing, compare
from broker.ledger.checkpoint_store import DirectoryCheckpoints
from broker.ledger.encoding import decode
from broker.ledger.recovery import Recovery, find_loss, keep_checkpoint, recover
from broker.ledger.rotation import MOST_REASON, read_history, revoke, rotate, sign_tree
from broker.ledger.signer import Signer
from broker.ledger.tree import Tree
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.note import Note, encode_base64, verify_note
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


async def _signed_up_to(made: World, *sizes: int, keep: bool = True) -> dict[int, Note]:
    """Lets the ledger grow to each size and makes a checkpoint there."""
    notes = {}
    for size in sizes:
        head = await made.store.read(lambda tx: tx.ledger.head())
        assert head is not None
        await made.append(size - head.seq - 1)
        if keep:
            await keep_checkpoint(made.store, made.checkpoints, made.signer)
        notes[size] = await made.store.read(lambda tx: sign_tree(tx, ORIGIN, made.signer))
    return notes


async def _recover(made: World, lost: Note | None = None, seen: Note | None = None) -> Recovery:
    root = bytes(32) if lost is None else Checkpoint.parse(lost.text).root
    return await recover(
        made.store,
        made.ledger,
        made.checkpoints,
        made.signer,
        confirmation=encode_base64(root)[-6:],
        by="hum_1",
        seen=seen,
    )


async def _standing(made: World, kept: Sequence[Note] = (), signer: Signer | None = None) -> Standing:
    """What a start finds."""
    note = await made.checkpoints.latest()
    key = (signer or made.signer).key
    return await made.store.read(lambda tx: compare(tx, Course(), note, key, kept=kept))


async def _refused(made: World, reason: str, signer: Signer | None = None) -> None:
    with pytest.raises(DataLossError) as refused:
        await _standing(made, signer=signer)
    assert (refused.value.reason, bool(refused.value.hint)) == (reason, True)


async def test_the_entry_of_a_recovery_holds_what_the_key_in_force_states(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await _signed_up_to(made, 3)
        lost = make_note(9, bytes(32), made.signer)
        await made.checkpoints.swap(await made.checkpoints.latest(), lost)
        await _recover(made, lost)
        row = (await made.store.read(lambda tx: tx.ledger.entries(3, 1)))[0]
        entry = decode(row.data)
        statement = Note.parse(str(entry["statement"]).encode())
        root = await made.store.read(lambda tx: Tree(tx.ledger, 3).root())
        zeros = encode_base64(bytes(32))
        assert statement.text == f"{ORIGIN}\n3\n{encode_base64(root)}\nrecovered 3 8 {zeros}\n"
        assert verify_note(statement, (made.signer.key,)) == (made.signer.key,)


async def test_an_older_checkpoint_makes_no_loss_smaller(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await _signed_up_to(made, 3)
        older, lost, newer = (make_note(size, bytes([size]) * 32, made.signer) for size in (5, 9, 12))
        await made.checkpoints.swap(await made.checkpoints.latest(), lost)
        with pytest.raises(InvalidArgumentError) as refused:
            await _recover(made, older, seen=older)
        assert refused.value.reason == "CONFIRMATION_WRONG"
        assert "lost are the entries 3 to 8" in str(refused.value)
        for seen, last in ((older, 8), (None, 8), (newer, 11)):
            loss = await made.store.read(lambda tx, s=seen: find_loss(tx, lost, (), (), s))
            assert loss is not None
            assert (loss.first, loss.last) == (3, last)
        done = await _recover(made, lost, seen=older)
        assert done.loss is not None
        assert (done.loss.first, done.loss.last) == (3, 8)
        # It is of what is lost: it shows nothing more, and nobody says that the ledger holds it.
        with pytest.raises(BrokerError) as nothing:
            await _recover(made, older, seen=older)
        assert nothing.value.reason == "NOTHING_LOST"
        assert "of what the recovery 3 says is lost" in str(nothing.value)


async def test_only_checkpoints_that_count_say_where_the_histories_part(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        notes = await _signed_up_to(made, 3, 6, 9, keep=False)
        lost_key, stranger = make_signer(), make_signer()
        lost = make_note(12, bytes(32), made.signer)
        true, root = notes[3], Checkpoint.parse(notes[6].text).root
        strange = make_note(6, root, stranger)
        unsigned = Note(notes[6].text, strange.signatures)
        early = make_note(2, bytes(32), stranger)
        forked = make_note(8, bytes(32), made.signer)
        for kept in ((true,), (true, strange), (true, unsigned), (true, early), (true, strange, early)):
            loss = await made.store.read(lambda tx, k=kept: find_loss(tx, lost, (forked, *k)))
            assert loss is not None
            assert (loss.first, loss.last) == (3, 11)
        by_lost = make_note(5, bytes(32), lost_key)
        newest = make_note(12, bytes(32), lost_key)
        loss = await made.store.read(lambda tx: find_loss(tx, newest, (true, by_lost, forked), (lost_key.key,)))
        assert loss is not None
        assert (loss.first, loss.lost_key) == (3, lost_key.key)


async def test_what_an_earlier_recovery_has_signed_as_standing_is_not_given_up(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await _signed_up_to(made, 3)
        lost = make_note(9, bytes(32), made.signer)
        await made.checkpoints.swap(await made.checkpoints.latest(), lost)
        await _recover(made, lost)
        await _signed_up_to(made, 20)
        with pytest.raises(BrokerError) as refused:
            await _recover(made, seen=make_note(2, bytes(32), made.signer))
        assert refused.value.reason == "CHECKPOINT_CONTRADICTS"


async def test_lost_checkpoints_are_missed_after_a_rotation_a_revocation_and_a_recovery(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        first = (await _signed_up_to(made, 3))[3]
        second = make_signer()
        await rotate(made.store, made.ledger, made.signer, second, by="hum_1")
        # Cut off here, and after the next step: the checkpoint from before the entry is enough.
        assert (await _standing(made, signer=second)).size == 4
        for old in (None, 2):
            shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
            if old is not None:
                root = await made.store.read(lambda tx: Tree(tx.ledger, 2).root())
                await made.checkpoints.swap(None, make_note(2, root, made.signer))
            await _refused(made, "CHECKPOINTS_MISSING", second)
        shutil.rmtree(tmp_path / "checkpoints")
        await made.checkpoints.swap(None, first)
        made.signer = second
        await keep_checkpoint(made.store, made.checkpoints, second)
        before = await made.checkpoints.latest()
        assert await _revoke(made, (await made.store.read(read_history)).keys[0].key) == 4
        assert (await _standing(made)).size == 5
        assert before is not None
        shutil.rmtree(tmp_path / "checkpoints")
        await _refused(made, "CHECKPOINTS_MISSING")
        await made.checkpoints.swap(None, before)
        assert not (await _standing(made)).covered


class _Away(DirectoryCheckpoints):
    """A store that goes away just before it is moved."""

    async def swap(self, old: Note | None, new: Note, *, lost_from: int | None = None) -> None:
        raise UnavailableError(f"gone: {old is None}, {len(new.text)}, {lost_from}")


@pytest.mark.parametrize("proved", [True, False])
async def test_a_recovery_that_was_cut_off_is_healed_and_written_once(tmp_path: Path, *, proved: bool) -> None:
    async with world(tmp_path) as made:
        await _signed_up_to(made, 3)
        if proved:
            shown = make_note(9, bytes(32), made.signer)
            await made.checkpoints.swap(await made.checkpoints.latest(), shown)
        else:
            made.signer, old = make_signer(), made.signer
            await rotate(made.store, made.ledger, old, made.signer, by="hum_1")
            shutil.rmtree(tmp_path / "checkpoints")
            shown = await made.store.read(lambda tx: sign_tree(tx, ORIGIN, made.signer))
        real = made.checkpoints
        made.checkpoints = _Away(tmp_path / "checkpoints")
        with pytest.raises(UnavailableError):
            await _recover(made, shown)
        made.checkpoints = real
        history = await made.store.read(read_history)
        (done,) = history.recovered
        if proved:
            # The lost one is still the newest: the broker itself can go on from here.
            assert (await _standing(made)).lost_from == 3
        else:
            # It can't tell this from an old backup with its checkpoints lost.
            await _refused(made, "CHECKPOINTS_MISSING")
        again = await _recover(made, shown)
        assert again.loss is not None
        assert (again.loss.entry, again.loss.first, again.loss.last) == (done.seq, done.first, done.last)
        assert (await made.store.read(read_history)).recovered == (done,)
        assert (await _standing(made)).covered
        shutil.rmtree(tmp_path / "checkpoints")
        await _refused(made, "CHECKPOINTS_MISSING")


async def test_the_lost_checkpoint_brought_back_as_the_newest_is_noticed(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        kept = (await _signed_up_to(made, 3))[3]
        lost = make_note(9, bytes(32), made.signer)
        await made.checkpoints.swap(await made.checkpoints.latest(), lost)
        await _recover(made, lost)
        for _ in range(2):
            async with made.checkpointer():
                await made.append(2)
        shutil.rmtree(tmp_path / "checkpoints")
        await made.checkpoints.swap(None, kept)
        await made.checkpoints.swap(kept, lost)
        await _refused(made, "CHECKPOINTS_MISSING")


async def test_kept_checkpoints_of_what_is_not_lost_must_fit(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        true = (await _signed_up_to(made, 3))[3]
        lost = make_note(9, bytes([9]) * 32, made.signer)
        await made.checkpoints.swap(await made.checkpoints.latest(), lost)
        made.checkpoints, real = _Away(tmp_path / "checkpoints"), made.checkpoints
        with pytest.raises(UnavailableError):
            await _recover(made, lost)
        made.checkpoints = real
        of_lost, stranger = make_note(7, bytes(32), made.signer), make_note(2, bytes(32), make_signer())
        assert (await _standing(made, (true, lost, of_lost, stranger))).lost_from == 3
        for wrong in (2, 3):
            with pytest.raises(DataLossError) as refused:
                await _standing(made, (true, make_note(wrong, bytes(32), made.signer)))
            assert refused.value.reason == "LEDGER_FORKED"
        with pytest.raises(DataLossError) as larger:
            await _standing(made, (true, make_note(10, bytes(32), made.signer)))
        assert larger.value.reason == "CHECKPOINTS_MISSING"


async def test_a_lost_checkpoint_excuses_nothing_in_a_ledger_of_another_key(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await _signed_up_to(made, 3)
        real = make_signer()
        lost = make_note(9, bytes(32), real)
        await made.checkpoints.swap(await made.checkpoints.latest(), lost)
        made.checkpoints, kept = _Away(tmp_path / "checkpoints"), made.checkpoints
        with pytest.raises(UnavailableError):
            await recover(
                made.store,
                made.ledger,
                made.checkpoints,
                made.signer,
                confirmation=encode_base64(bytes(32))[-6:],
                by="hum_1",
                pinned=(real.key,),
            )
        made.checkpoints = kept
        assert (await _standing(made)).lost_from == 3
        await _refused(made, "CHECKPOINT_KEY", real)
