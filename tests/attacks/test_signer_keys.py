"""Attacks on the keys that sign checkpoints: on how one takes over from another, and on the files that hold them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.domain.canonical import JsonObject
from broker.domain.secret import Secret
from broker.errors import BrokerError, DataLossError, FailedPreconditionError
from broker.ledger.signer import FileSigner, make_signer_file, read_passphrase, read_public_key
from broker.tlog.key_history import KeyHistory, KeyHistoryError
from broker.tlog.note import Note, NoteError, sign
from tests.signing_support import (
    ORIGIN,
    NumberedSigner,
    genesis,
    note_of,
    recovered,
    revoked,
    root_of,
    rotated,
    statement_of,
    text_of,
)

FIRST, SECOND, THIRD, ATTACKER = (NumberedSigner(number) for number in (1, 2, 3, 666))
PASSPHRASE = Secret(b"correct horse battery staple")


def _history(*entries: JsonObject) -> KeyHistory:
    history = KeyHistory()
    for entry in entries:
        history.entry(entry, lambda: root_of(int(str(entry["seq"]))))  # noqa: B023 - asked at once
    return history


def _refused(entry: JsonObject, why: str, *before: JsonObject) -> None:
    history = _history(genesis(FIRST), *before)
    with pytest.raises(KeyHistoryError, match=why):
        history.entry(entry, lambda: root_of(int(str(entry["seq"]))))
    assert history.current != ATTACKER.key


def _handing_over(size: int, new: NumberedSigner, *signers: NumberedSigner, history: str = "") -> Note:
    return note_of(size, *signers, extensions=(f"next-key {new.key}",), history=history)


def test_a_rotation_that_the_old_key_did_not_sign() -> None:
    _refused(rotated(4, FIRST, ATTACKER, _handing_over(4, ATTACKER, ATTACKER)), "not signed by the old key")


def test_a_rotation_with_the_old_keys_signature_of_another_checkpoint() -> None:
    ordinary = note_of(4, FIRST)
    forged = _handing_over(4, ATTACKER, ATTACKER).with_signature(ordinary.signatures[0])
    _refused(rotated(4, FIRST, ATTACKER, forged), "is false")


def test_a_rotation_whose_checkpoint_is_an_ordinary_one_that_both_signed() -> None:
    _refused(rotated(4, FIRST, ATTACKER, note_of(4, FIRST, ATTACKER)), "next-key")


def test_a_rotation_note_replayed_at_another_place() -> None:
    note = _handing_over(4, SECOND, FIRST, SECOND)
    _refused(rotated(7, FIRST, SECOND, note), "of 4 entries, not of the 7")
    _refused(rotated(2, FIRST, SECOND, note), "of 4 entries, not of the 2")


def test_a_rotation_note_replayed_in_a_history_that_was_rewritten_before_it() -> None:
    note = _handing_over(4, SECOND, FIRST, SECOND, history="the real one")
    _refused(rotated(4, FIRST, SECOND, note), "another root")


def test_a_rotation_note_replayed_once_its_old_key_is_no_longer_in_force() -> None:
    note = _handing_over(9, ATTACKER, FIRST, ATTACKER)
    _refused(rotated(9, FIRST, ATTACKER, note), "old is not the key in force", rotated(4, FIRST, SECOND))


def test_a_rotation_whose_next_key_was_swapped() -> None:
    note = _handing_over(4, SECOND, FIRST, SECOND)
    swapped = note.with_signature(sign(note.text, ATTACKER.key, ATTACKER.sign))
    _refused({**rotated(4, FIRST, SECOND, swapped), "new": str(ATTACKER.key)}, "next-key")
    retexted = Note(note.text.replace(str(SECOND.key), str(ATTACKER.key)), note.signatures)
    _refused(rotated(4, FIRST, ATTACKER, retexted), "is false|not signed")


def test_a_rotation_with_two_next_keys() -> None:
    lines = (f"next-key {SECOND.key}", f"next-key {ATTACKER.key}")
    _refused(rotated(4, FIRST, ATTACKER, note_of(4, FIRST, ATTACKER, extensions=lines)), "next-key")


def test_a_revoked_key_brought_back() -> None:
    before = (rotated(4, FIRST, SECOND), revoked(5, FIRST))
    _refused(rotated(6, SECOND, FIRST), "was a key of this ledger before", *before)


def test_a_checkpoint_by_a_revoked_key() -> None:
    history = _history(genesis(FIRST), rotated(4, FIRST, SECOND), revoked(5, FIRST))
    for size in (1, 4, 5, 99):
        with pytest.raises(NoteError):
            history.check(note_of(size, FIRST))
    assert history.check(note_of(4, FIRST, SECOND)).size == 4


def test_a_checkpoint_by_an_old_key_after_its_time() -> None:
    history = _history(genesis(FIRST), rotated(4, FIRST, SECOND))
    assert history.check(note_of(4, FIRST)).size == 4
    with pytest.raises(NoteError, match="must be signed by"):
        history.check(note_of(5, FIRST))


def test_a_checkpoint_by_a_new_key_of_a_time_before_it() -> None:
    history = _history(genesis(FIRST), rotated(4, FIRST, SECOND))
    with pytest.raises(NoteError, match="must be signed by"):
        history.check(note_of(3, SECOND))


def test_the_key_in_force_revoked_by_whoever_stole_an_older_one() -> None:
    _refused(revoked(5, SECOND), "the one in force", rotated(4, FIRST, SECOND))


def test_a_loss_made_up_by_a_stranger_or_a_revoked_key() -> None:
    _refused(recovered(4, 4, note_of(9, ATTACKER), FIRST), "not signed by a known key")
    before = (rotated(4, FIRST, SECOND), revoked(5, FIRST))
    _refused(recovered(6, 6, note_of(9, FIRST), SECOND), "not signed by a known key", *before)


def test_a_loss_that_quotes_a_real_checkpoint_but_that_no_key_has_stated() -> None:
    public = note_of(9, FIRST)
    for statement in (None, public, note_of(9, ATTACKER), statement_of(9, 4, public, ATTACKER)):
        entry = recovered(9, 4, public, FIRST)
        entry = {**entry, "statement": None if statement is None else text_of(statement)}
        _refused(entry, "statement")


def test_a_real_statement_replayed_at_another_place_or_in_a_rewritten_history() -> None:
    lost = note_of(9, FIRST, history="lost")
    real = recovered(4, 4, lost, FIRST)
    for seq in (5, 8):
        _refused({**real, "seq": seq}, f"of 4 entries, not of the {seq}")
    _refused({**real, "lost": {"from": 3, "to": 8}}, "doesn't say just")
    other = _history(genesis(FIRST))
    with pytest.raises(KeyHistoryError, match="another root"):
        other.entry(real, lambda: root_of(4, "rewritten"))


def test_a_whole_history_under_the_attackers_key_against_a_known_key() -> None:
    forged = _history(genesis(ATTACKER), rotated(4, ATTACKER, THIRD))
    note = note_of(9, THIRD)
    assert forged.check(note).size == 9
    with pytest.raises(NoteError, match="another history"):
        forged.check(note, [FIRST.key])


def test_a_known_key_smuggled_into_a_forged_history() -> None:
    # The attacker can't bring the known key in: it would have to sign.
    forged = _history(genesis(ATTACKER))
    with pytest.raises(KeyHistoryError, match="not signed by the new key"):
        forged.entry(rotated(4, ATTACKER, FIRST, _handing_over(4, FIRST, ATTACKER)))
    # Nor does an old note of the known key's help, for it is of a handing over to somebody else.
    old_note = _handing_over(4, SECOND, FIRST, SECOND)
    with pytest.raises(KeyHistoryError):
        forged.entry(
            rotated(4, ATTACKER, FIRST, old_note.with_signature(sign(old_note.text, ATTACKER.key, ATTACKER.sign)))
        )


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys" / "checkpoint.key"
    make_signer_file(path, ORIGIN, PASSPHRASE)
    return path


def _file_refused(path: Path, reason: str, passphrase: Secret = PASSPHRASE) -> None:
    with pytest.raises(BrokerError) as refused:
        FileSigner.load(path, passphrase)
    assert (refused.value.reason, bool(refused.value.hint)) == (reason, True)
    said = f"{refused.value}{refused.value.hint}{refused.value.__cause__}"
    assert passphrase.reveal().decode() not in said


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666])
def test_a_key_file_that_others_may_use(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)
    _file_refused(key_file, "KEY_EXPOSED")


def test_a_key_file_of_somebody_else(key_file: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(key_file, 12345, -1)
    _file_refused(key_file, "KEY_EXPOSED")


def test_a_link_a_folder_or_a_pipe_in_place_of_the_key_file(key_file: Path) -> None:
    real = key_file.with_name("real")
    key_file.rename(real)
    key_file.symlink_to(real)
    _file_refused(key_file, "KEY_UNREADABLE")
    key_file.unlink()
    key_file.mkdir(mode=0o700)
    _file_refused(key_file, "KEY_UNREADABLE")
    key_file.rmdir()
    os.mkfifo(key_file, 0o600)
    _file_refused(key_file, "KEY_UNREADABLE")


def test_another_passphrase(key_file: Path) -> None:
    _file_refused(key_file, "PASSPHRASE_WRONG", Secret(b"correct horse battery stapler"))


def test_another_public_key_over_the_private_one(key_file: Path) -> None:
    real = str(read_public_key(key_file))
    text = key_file.read_text()
    key_file.write_text(text.replace(real, str(ATTACKER.key)))
    _file_refused(key_file, "KEY_DAMAGED")


def test_no_changed_byte_of_the_file_gives_another_key(key_file: Path) -> None:
    data = key_file.read_bytes()
    # One in seven keeps it quick; each has the whole key derivation to go through.
    for at in range(0, len(data), 7):
        changed = bytearray(data)
        changed[at] ^= 1
        key_file.write_bytes(changed)
        with pytest.raises((FailedPreconditionError, DataLossError)) as refused:
            FileSigner.load(key_file, PASSPHRASE)
        assert refused.value.reason in {"KEY_DAMAGED", "PASSPHRASE_WRONG"}


@pytest.mark.parametrize("data", [b"", b"x", b"\x00" * 100_000, b"checkpoint-key: a+b+c\n"])
def test_something_else_in_place_of_the_key(key_file: Path, data: bytes) -> None:
    key_file.write_bytes(data)
    _file_refused(key_file, "KEY_DAMAGED")


def test_a_passphrase_file_that_others_may_read(tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.write_text("correct horse battery staple\n")
    path.chmod(0o640)
    for source in ("", f"file:{path}"):
        with pytest.raises(FailedPreconditionError) as refused:
            read_passphrase(source, path)
        assert refused.value.reason == "KEY_EXPOSED"
        assert "horse" not in f"{refused.value}{refused.value.hint}"


def test_a_link_in_place_of_the_passphrase_that_init_made(tmp_path: Path) -> None:
    real, path = tmp_path / "real", tmp_path / "passphrase"
    real.write_text("correct horse battery staple\n")
    real.chmod(0o600)
    path.symlink_to(real)
    with pytest.raises(FailedPreconditionError) as refused:
        read_passphrase("", path)
    assert refused.value.reason == "KEY_UNREADABLE"
    # Where the operator names it, a link is what mounted secrets are.
    assert read_passphrase(f"file:{path}", path) == PASSPHRASE


def test_a_signer_shows_nothing_of_its_private_half(key_file: Path) -> None:
    signer = FileSigner.load(key_file, PASSPHRASE)
    assert repr(signer) == f"FileSigner({signer.key})"
