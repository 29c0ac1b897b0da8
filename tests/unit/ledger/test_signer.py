"""The signer in a file: what it is made of, where its passphrase comes from, and which file is whose."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from broker.domain.secret import Secret
from broker.errors import BrokerError, ConflictError, FailedPreconditionError
from broker.ledger.rotation import settle_key_files
from broker.ledger.signer import (
    FileSigner,
    make_passphrase_file,
    make_signer_file,
    read_passphrase,
    read_public_key,
)
from tests.signing_support import ORIGIN, NumberedSigner

PASSPHRASE = Secret(b"correct horse battery staple")


def test_a_key_is_made_read_and_signs(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "checkpoint.key"
    key = make_signer_file(path, ORIGIN, PASSPHRASE)
    assert key.name == ORIGIN
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    signer = FileSigner.load(path, PASSPHRASE)
    assert signer.key == key == read_public_key(path)
    assert key.verify("text\n", signer.sign(b"text\n"))
    assert [item.name for item in path.parent.iterdir()] == ["checkpoint.key"]


def test_openssl_reads_it_and_sees_a_slow_derivation(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.key"
    key = make_signer_file(path, ORIGIN, PASSPHRASE)
    password = "pass:" + PASSPHRASE.reveal().decode()
    command = ["openssl", "pkey", "-in", str(path), "-passin", password, "-pubout", "-outform", "DER"]
    public = subprocess.run(command, check=True, capture_output=True).stdout
    assert public.endswith(key.public_key)
    shown = subprocess.run(["openssl", "asn1parse", "-in", str(path)], check=True, capture_output=True, text=True)
    for part in (":PBES2", ":PBKDF2", ":0927C0", ":hmacWithSHA256", ":aes-256-cbc"):
        assert part in shown.stdout


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.key"
    key = make_signer_file(path, ORIGIN, PASSPHRASE)
    with pytest.raises(ConflictError) as refused:
        make_signer_file(path, ORIGIN, PASSPHRASE)
    assert refused.value.reason == "KEY_EXISTS"
    assert read_public_key(path) == key


@pytest.mark.parametrize("passphrase", [b"", b"short", b"x" * 1001])
def test_a_passphrase_must_be_long_enough(tmp_path: Path, passphrase: bytes) -> None:
    with pytest.raises(FailedPreconditionError) as refused:
        make_signer_file(tmp_path / "checkpoint.key", ORIGIN, Secret(passphrase))
    assert refused.value.reason == "PASSPHRASE_UNFIT"
    assert list(tmp_path.iterdir()) == []


def test_where_the_passphrase_comes_from(tmp_path: Path) -> None:
    path, own = tmp_path / "checkpoint.passphrase", tmp_path / "own"
    made = make_passphrase_file(path)
    assert len(made.reveal()) == 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_passphrase("", path) == made
    own.write_bytes(PASSPHRASE.reveal() + b"\r\n")
    own.chmod(0o600)
    assert read_passphrase(f"file:{own}", path) == PASSPHRASE
    assert read_passphrase("env:WORDS", path, {"WORDS": PASSPHRASE.reveal().decode()}) == PASSPHRASE


@pytest.mark.parametrize("source", ["", "env:WORDS", "file:/nowhere/at/all"])
def test_a_passphrase_that_is_not_there(tmp_path: Path, source: str) -> None:
    with pytest.raises(FailedPreconditionError) as refused:
        read_passphrase(source, tmp_path / "checkpoint.passphrase", {})
    assert (refused.value.reason, bool(refused.value.hint)) == ("PASSPHRASE_MISSING", True)


def test_a_key_that_was_never_recorded_is_taken_away(tmp_path: Path) -> None:
    path, following = tmp_path / "checkpoint.key", tmp_path / "checkpoint.key.next"
    key = make_signer_file(path, ORIGIN, PASSPHRASE)
    make_signer_file(following, ORIGIN, PASSPHRASE)
    settle_key_files(path, following, key)
    assert read_public_key(path) == key
    assert not following.exists()


def test_a_key_that_was_recorded_takes_its_place(tmp_path: Path) -> None:
    path, following = tmp_path / "checkpoint.key", tmp_path / "checkpoint.key.next"
    make_signer_file(path, ORIGIN, PASSPHRASE)
    key = make_signer_file(following, ORIGIN, PASSPHRASE)
    settle_key_files(path, following, key)
    assert read_public_key(path) == key
    assert not following.exists()


def test_files_of_another_time_than_the_ledger_stay_as_they_are(tmp_path: Path) -> None:
    path, following = tmp_path / "checkpoint.key", tmp_path / "checkpoint.key.next"
    make_signer_file(path, ORIGIN, PASSPHRASE)
    make_signer_file(following, ORIGIN, PASSPHRASE)
    with pytest.raises(BrokerError) as refused:
        settle_key_files(path, following, NumberedSigner(1).key)
    assert refused.value.reason == "KEY_NOT_CURRENT"
    assert path.exists()
    assert following.exists()


def test_no_key_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(FailedPreconditionError) as refused:
        settle_key_files(tmp_path / "checkpoint.key", tmp_path / "checkpoint.key.next", NumberedSigner(1).key)
    assert refused.value.reason == "KEY_MISSING"
