"""The ledger's keys through the commands: two rotations, a revocation, and each way to lose what was signed."""

from __future__ import annotations

import asyncio
import fcntl
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from broker.cli.local import clock, open_local
from broker.domain.canonical import canonical
from broker.errors import UnavailableError
from broker.ledger.checkpoint_check import Course, Standing, compare
from broker.ledger.checkpoint_store import DirectoryCheckpoints
from broker.ledger.checkpointer import Checkpointer
from broker.ledger.recovery import keep_checkpoint, recover
from broker.ledger.rotation import read_history
from broker.ledger.signer import FileSigner, read_passphrase
from broker.settings import StatePaths
from broker.store.database import Database
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.merkle import leaf_hash
from broker.tlog.note import Note, NoteError, VerifierKey, encode_base64
from tests.served import OPERATOR, command, command_json, ledger


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    command_json(path, "init", "--operator", OPERATOR)
    return path


def _issue(state: Path, *names: str) -> None:
    for name in names:
        command_json(state, "identity", "issue", "agent", name, "--owner", OPERATOR)


def _refused(state: Path, *arguments: str) -> dict[str, Any]:
    result = command(state, *arguments, "--json", check=False)
    assert result.returncode != 0
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def _signer(state: Path) -> FileSigner:
    paths = StatePaths(state)
    return FileSigner.load(paths.checkpoint_key, read_passphrase("", paths.checkpoint_passphrase))


def _checkpoints(state: Path) -> DirectoryCheckpoints:
    return DirectoryCheckpoints(StatePaths(state).checkpoints)


def _latest(state: Path) -> Note:
    note = _checkpoints(state).latest_sync()
    assert note is not None
    return note


def _sign(state: Path) -> Checkpoint:
    """Makes a checkpoint of the ledger as it is."""
    with open_local(state) as local:
        note = asyncio.run(keep_checkpoint(local.store, _checkpoints(state), _signer(state)))
    return Checkpoint.parse(note.text)


def _standing(state: Path) -> Standing:
    """What the broker's start would find."""
    with open_local(state) as local:
        note = _latest(state)
        return local.read(lambda tx: compare(tx, Course(), note, _signer(state).key))


def _back_up(state: Path, to: Path) -> None:
    to.mkdir()
    with closing(sqlite3.connect(state / "broker.db")) as source, closing(sqlite3.connect(to / "broker.db")) as copy:
        source.backup(copy)
    shutil.copytree(state / "keys", to / "keys")


def _restore(state: Path, backup: Path, *, keys: bool = False, name: str = "broker.db") -> None:
    for old in ("broker.db", "broker.db-wal", "broker.db-shm"):
        (state / old).unlink(missing_ok=True)
    shutil.copy(backup / name, state / "broker.db")
    (state / "broker.db").chmod(0o600)
    if keys:
        shutil.rmtree(state / "keys")
        shutil.copytree(backup / "keys", state / "keys")


def _end_of(root: bytes) -> str:
    return encode_base64(root)[-6:]


def _loss(state: Path) -> dict[str, Any]:
    found = command_json(state, "ledger", "keys")["recovered"]
    assert len(found) == 1
    one: dict[str, Any] = found[0]
    return one


def test_two_rotations_and_a_revocation(state: Path) -> None:
    first = command_json(state, "ledger", "keys")["items"][0]["key"]
    early = _sign(state)
    early_note = _latest(state)
    turned = command_json(state, "ledger", "rotate-key")
    assert (turned["old"], turned["from_size"]) == (first, early.size + 1)
    _issue(state, "scout")
    again = command_json(state, "ledger", "rotate-key")
    assert again["old"] == turned["new"]
    assert _refused(state, "ledger", "revoke-key", again["new"], "--reason", "x")["reason"] == "KEY_IN_FORCE"
    assert _refused(state, "ledger", "revoke-key", first[:-4], "--reason", "x")["reason"] == "KEY_INVALID"
    gone = command_json(state, "ledger", "revoke-key", first, "--reason", "a disk was lost")
    assert _refused(state, "ledger", "revoke-key", first, "--reason", "x")["reason"] == "KEY_REVOKED"
    listed = command_json(state, "ledger", "keys")
    assert [(item["key"], item["revoked"], item["until_size"] is None) for item in listed["items"]] == [
        (first, True, False),
        (turned["new"], False, False),
        (again["new"], False, True),
    ]
    assert (listed["key_file"], listed["anchored"], listed["recovered"]) == (again["new"], True, [])
    # The ledger says why only as a commitment, and who.
    (entry,) = (item for item in ledger(state) if item["type"] == "signer.revoked")
    assert (entry["seq"], entry["key"]) == (gone["entry"], first)
    assert entry["by"].startswith("hum_")
    assert "disk" not in json.dumps(ledger(state))
    with open_local(state) as local:
        history = local.read(read_history)
        sealed = local.read(lambda tx: [text for _, text in local.vault.open(tx, entry["reason_id"]).read(tx, 0, 9)])
    assert sealed == [b"a disk was lost"]
    with pytest.raises(NoteError, match="revoked"):
        history.check(early_note)
    assert history.check(_latest(state)).size == gone["entry"] + 1
    assert _standing(state).covered


def test_writing_commands_need_the_state_for_themselves(state: Path) -> None:
    with StatePaths(state).lock.open("w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        for arguments in (("rotate-key",), ("recover",), ("revoke-key", str(_signer(state).key), "--reason", "x")):
            assert _refused(state, "ledger", *arguments)["reason"] == "ALREADY_SERVING"
        assert len(command_json(state, "ledger", "keys")["items"]) == 1


def test_a_restored_backup_is_refused_until_it_is_recovered(state: Path, tmp_path: Path) -> None:
    _issue(state, "scout")
    kept = _sign(state)
    _back_up(state, tmp_path / "backup")
    _issue(state, "rover", "digger")
    lost = _sign(state)
    _restore(state, tmp_path / "backup")
    assert _refused(state, "ledger", "rotate-key")["reason"] == "LEDGER_BEHIND_CHECKPOINT"
    asked = _refused(state, "ledger", "recover")
    assert asked["reason"] == "CONFIRMATION_MISSING"
    assert f"lost are the entries {kept.size} to {lost.size - 1}" in asked["error"]
    assert _end_of(lost.root) not in json.dumps(asked)
    wrong = _refused(state, "ledger", "recover", "--checkpoint-root", _end_of(kept.root))
    assert wrong["reason"] == "CONFIRMATION_WRONG"
    assert command_json(state, "ledger", "keys")["recovered"] == []
    done = command_json(state, "ledger", "recover", "--checkpoint-root", _end_of(lost.root))
    assert done["lost"] == {
        "entry": kept.size,
        "first": kept.size,
        "last": lost.size - 1,
        "checkpoint_size": lost.size,
        "checkpoint_root": encode_base64(lost.root),
        "forked": False,
    }
    assert _loss(state) == done["lost"]
    (entry,) = (item for item in ledger(state) if item["type"] == "recovered")
    assert (entry["votes"], entry["lost"]) == ([], {"from": kept.size, "to": lost.size - 1})
    assert entry["by"].startswith("hum_")
    # What was lost is still told by the store, and the ledger can go on.
    aside = list(StatePaths(state).checkpoints.glob("*.lost-1.note"))
    assert [Checkpoint.parse(Note.parse(path.read_bytes()).text) for path in aside] == [lost]
    assert _standing(state).covered
    assert _refused(state, "ledger", "recover", "--checkpoint-root", _end_of(lost.root))["reason"] == "NOTHING_LOST"
    _issue(state, "rover")
    assert command_json(state, "ledger", "rotate-key")["from_size"] > kept.size


def test_a_backup_that_was_written_to_is_a_fork(state: Path, tmp_path: Path) -> None:
    _issue(state, "scout")
    kept = _sign(state)
    _back_up(state, tmp_path / "backup")
    _issue(state, "rover")
    _sign(state)
    _issue(state, "digger")
    lost = _sign(state)
    _restore(state, tmp_path / "backup")
    _issue(state, "finder", "keeper", "teller")
    assert _refused(state, "ledger", "rotate-key")["reason"] == "LEDGER_FORKED"
    asked = _refused(state, "ledger", "recover")
    assert f"only entries 0 to {kept.size - 1} are known to be the same" in asked["error"]
    done = command_json(state, "ledger", "recover", "--checkpoint-root", _end_of(lost.root))
    assert (done["lost"]["first"], done["lost"]["last"], done["lost"]["forked"]) == (kept.size, lost.size - 1, True)
    assert _standing(state).covered


def test_a_rotation_that_was_lost_needs_its_key_named(state: Path, tmp_path: Path) -> None:
    kept = _sign(state)
    _back_up(state, tmp_path / "backup")
    lost_key = command_json(state, "ledger", "rotate-key")["new"]
    _issue(state, "scout")
    lost = _sign(state)
    _restore(state, tmp_path / "backup")
    assert _refused(state, "ledger", "recover")["reason"] == "KEY_NOT_CURRENT"
    _restore(state, tmp_path / "backup", keys=True)
    confirmed = ("--checkpoint-root", _end_of(lost.root))
    assert _refused(state, "ledger", "recover", *confirmed)["reason"] == "CHECKPOINT_KEY_UNKNOWN"
    assert _refused(state, "ledger", "recover", *confirmed, "--known-key", "no key")["reason"] == "KEY_INVALID"
    command_json(state, "ledger", "recover", *confirmed, "--known-key", lost_key)
    assert (_loss(state)["first"], _loss(state)["last"]) == (kept.size, lost.size - 1)
    assert _standing(state).covered


def _without_keys(state: Path, tmp_path: Path) -> None:
    """Makes the state what it was before there were keys: a genesis that names none, and no key file."""
    paths = StatePaths(state)
    fresh = tmp_path / "fresh.db"
    Database.create(fresh)
    prev = "0" * 64
    with closing(sqlite3.connect(paths.database)) as old, closing(sqlite3.connect(fresh)) as new, new:
        for seq, data in old.execute("SELECT seq, data FROM ledger_entry ORDER BY seq").fetchall():
            entry = json.loads(data)
            entry.pop("checkpoint_key", None)
            entry["prev"] = prev
            bare = canonical(entry)
            prev = leaf_hash(bare).hex()
            row = (seq, entry["prev"], leaf_hash(bare), bare)
            new.execute("INSERT INTO ledger_entry (seq, prev, leaf, data) VALUES (?, ?, ?, ?)", row)
        for table in ("identity", "certificate", "vault_object", "vault_chunk", "vault_usage"):
            for row in old.execute(f"SELECT * FROM {table}").fetchall():  # noqa: S608 - names from the line above
                new.execute(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608
    _restore(state, tmp_path, name="fresh.db")
    paths.checkpoint_key.unlink()
    paths.checkpoint_passphrase.unlink()


def test_a_ledger_from_before_there_were_keys_gets_its_first(state: Path, tmp_path: Path) -> None:
    _without_keys(state, tmp_path)
    before = command_json(state, "ledger", "keys")
    assert (before["anchored"], before["items"], before["key_file"]) == (False, [], "")
    first = command_json(state, "ledger", "rotate-key")
    assert (first["old"], first["from_size"]) == ("", 1)
    assert str(_signer(state).key) == first["new"]
    second = command_json(state, "ledger", "rotate-key")
    assert second["old"] == first["new"]
    with open_local(state) as local:
        history = local.read(read_history)
    with pytest.raises(NoteError, match="without a known key"):
        history.check(_latest(state))
    assert history.check(_latest(state), [VerifierKey.parse(first["new"])]).size == 4
    assert _standing(state).covered


class _Unreachable(DirectoryCheckpoints):
    """A checkpoint store that goes away just before it is moved."""

    async def swap(self, old: Note | None, new: Note, *, lost_from: int | None = None) -> None:
        raise UnavailableError(f"gone before {lost_from}, {old is None}, {len(new.text)}")


def test_a_recovery_cut_off_in_the_middle_is_not_done_twice(state: Path, tmp_path: Path) -> None:
    _back_up(state, tmp_path / "backup")
    _issue(state, "scout")
    lost = _sign(state)
    _restore(state, tmp_path / "backup")
    with open_local(state) as local, pytest.raises(UnavailableError):
        asyncio.run(
            recover(
                local.store,
                local.recorder,
                _Unreachable(StatePaths(state).checkpoints),
                _signer(state),
                confirmation=_end_of(lost.root),
                by="hum_x",
            )
        )
    assert _loss(state)["last"] == lost.size - 1
    done = command_json(state, "ledger", "recover", "--checkpoint-root", _end_of(lost.root))
    assert _loss(state) == done["lost"]
    assert _standing(state).covered


async def _rounds(state: Path, count: int) -> None:
    """What a running broker does, ``count`` times, with something new before each."""
    with open_local(state) as local:
        checkpointer = Checkpointer(
            store=local.store,
            ledger=local.recorder,
            signer=_signer(state),
            checkpoints=_checkpoints(state),
            clock=clock,
            interval_s=3600,
            on_unfit=lambda error: pytest.fail(str(error)),
        )
        for _ in range(count):
            await local.store.write(lambda tx: local.recorder.append(tx, "heartbeat", {}))
            await checkpointer.publish_now()


def test_lost_checkpoints_come_back_from_whoever_has_the_newest(state: Path, tmp_path: Path) -> None:
    asyncio.run(_rounds(state, 3))
    held = tmp_path / "held.note"
    held.write_bytes(_latest(state).encode())
    shutil.rmtree(StatePaths(state).checkpoints)
    assert _refused(state, "ledger", "rotate-key")["reason"] == "CHECKPOINTS_MISSING"
    done = command_json(state, "ledger", "recover", "--checkpoint", str(held))
    assert done["lost"] is None
    assert command_json(state, "ledger", "keys")["recovered"] == []
    assert Checkpoint.parse(_latest(state).text) == Checkpoint.parse(Note.parse(held.read_bytes()).text)
    assert _refused(state, "ledger", "recover", "--checkpoint", str(held))["reason"] == "NOTHING_LOST"


def test_lost_checkpoints_that_nobody_has_are_put_on_record(state: Path) -> None:
    asyncio.run(_rounds(state, 3))
    last = Checkpoint.parse(_latest(state).text)
    shutil.rmtree(StatePaths(state).checkpoints)
    asked = _refused(state, "ledger", "recover")
    assert f"no proof is left that entries 0 to {last.size - 1} are those signed" in asked["error"]
    done = command_json(state, "ledger", "recover", "--checkpoint-root", _end_of(last.root))
    assert (done["lost"]["first"], done["lost"]["last"], done["lost"]["forked"]) == (0, last.size - 1, True)
    assert _standing(state).covered


def test_a_backup_of_everything_shows_against_a_checkpoint_held_elsewhere(state: Path, tmp_path: Path) -> None:
    kept = _sign(state)
    shutil.copytree(state, tmp_path / "backup")
    _issue(state, "scout")
    lost = _sign(state)
    held = tmp_path / "held.note"
    held.write_bytes(_latest(state).encode())
    shutil.rmtree(state)
    shutil.copytree(tmp_path / "backup", state)
    assert _refused(state, "ledger", "recover")["reason"] == "NOTHING_LOST"
    confirmed = ("--checkpoint", str(held), "--checkpoint-root", _end_of(lost.root))
    done = command_json(state, "ledger", "recover", *confirmed)
    assert (done["lost"]["first"], done["lost"]["last"]) == (kept.size, lost.size - 1)
    assert _standing(state).covered
