"""Keys of people: made once, private, encrypted, and of use to nobody without the passphrase."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.secret import Secret
from broker.errors import BrokerError, ConflictError, DataLossError, FailedPreconditionError, InvalidArgumentError
from broker.signing import Ed25519Signer, load_key_file, new_key_file, read_passphrase, read_public_key, verify
from broker.tlog.note import ED25519, VerifierKey

PASSPHRASE = Secret(b"correct horse battery staple")


def test_a_key_is_made_read_and_signs(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "ada.pem"
    made = new_key_file(path, PASSPHRASE)
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (0o600, 0o700)
    signer = load_key_file(path, PASSPHRASE)
    assert (signer.id, signer.public_key) == (made.id, made.public_key)
    assert signer.id == "sha256:" + hashlib.sha256(signer.public_key).hexdigest()
    assert verify(made.public_key, signer.sign(b"yes"), b"yes")
    assert [item.name for item in path.parent.iterdir()] == ["ada.pem"]


def test_its_text_is_one_that_a_verifier_key_is_read_from(tmp_path: Path) -> None:
    path = tmp_path / "first.pem"
    made = new_key_file(path, PASSPHRASE, name="ada")
    named = read_public_key(path)
    assert named is not None
    assert VerifierKey.parse(str(named)) == made.vkey("ada") == VerifierKey("ada", ED25519, made.public_key)


def test_openssl_reads_it_and_sees_a_slow_derivation(tmp_path: Path) -> None:
    path = tmp_path / "ada.pem"
    made = new_key_file(path, PASSPHRASE)
    password = "pass:" + PASSPHRASE.reveal().decode()
    command = ["openssl", "pkey", "-in", str(path), "-passin", password, "-pubout", "-outform", "DER"]
    assert subprocess.run(command, check=True, capture_output=True).stdout.endswith(made.public_key)
    shown = subprocess.run(["openssl", "asn1parse", "-in", str(path)], check=True, capture_output=True, text=True)
    for part in (":PBES2", ":PBKDF2", ":0927C0", ":hmacWithSHA256", ":aes-256-cbc"):
        assert part in shown.stdout


def test_a_key_that_openssl_made_is_read(tmp_path: Path) -> None:
    path = tmp_path / "ada.pem"
    password = "pass:" + PASSPHRASE.reveal().decode()
    command = ["openssl", "genpkey", "-algorithm", "ed25519", "-aes-256-cbc", "-pass", password, "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    path.chmod(0o600)
    signer = load_key_file(path, PASSPHRASE)
    assert read_public_key(path) is None
    assert verify(signer.public_key, signer.sign(b"x"), b"x")


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "ada.pem"
    made = new_key_file(path, PASSPHRASE)
    with pytest.raises(ConflictError) as refused:
        new_key_file(path, PASSPHRASE)
    assert refused.value.reason == "KEY_EXISTS"
    assert load_key_file(path, PASSPHRASE).id == made.id


def test_a_link_in_its_place_is_neither_written_nor_read(tmp_path: Path) -> None:
    new_key_file(tmp_path / "real.pem", PASSPHRASE)
    (tmp_path / "link.pem").symlink_to(tmp_path / "real.pem")
    with pytest.raises(ConflictError):
        new_key_file(tmp_path / "link.pem", PASSPHRASE)
    with pytest.raises(FailedPreconditionError) as refused:
        load_key_file(tmp_path / "link.pem", PASSPHRASE)
    assert refused.value.reason == "KEY_UNREADABLE"


def test_a_wrong_passphrase_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "ada.pem"
    new_key_file(path, PASSPHRASE)
    with pytest.raises(FailedPreconditionError) as refused:
        load_key_file(path, Secret(b"another horse altogether"))
    assert (refused.value.reason, bool(refused.value.hint)) == ("PASSPHRASE_WRONG", True)
    assert "another horse" not in f"{refused.value} {refused.value.__cause__} {refused.value.__context__}"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "ada.pem"
    new_key_file(path, PASSPHRASE)
    path.chmod(mode)
    for read in (lambda: load_key_file(path, PASSPHRASE), lambda: read_public_key(path)):
        with pytest.raises(FailedPreconditionError) as refused:
            read()
        assert refused.value.reason == "KEY_EXPOSED"


@pytest.mark.parametrize("passphrase", [b"", b"short", b"x" * 1001])
def test_a_passphrase_must_be_long_enough(tmp_path: Path, passphrase: bytes) -> None:
    with pytest.raises(FailedPreconditionError) as refused:
        new_key_file(tmp_path / "ada.pem", Secret(passphrase))
    assert refused.value.reason == "PASSPHRASE_UNFIT"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "a+b", "a\nb"])
def test_a_name_that_no_key_can_have_makes_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        new_key_file(tmp_path / "ada.pem", PASSPHRASE, name=name)
    assert refused.value.reason == "KEY_NAME_INVALID"
    assert list(tmp_path.iterdir()) == []


def _plain() -> bytes:
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _of_another_kind() -> bytes:
    encryption = serialization.BestAvailableEncryption(PASSPHRASE.reveal())
    key = generate_private_key(SECP256R1())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize("content", [b"", b"voter-key: x\n", _plain(), _of_another_kind(), b"\xff" * 100])
def test_what_is_no_encrypted_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ada.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(DataLossError) as refused:
        load_key_file(path, PASSPHRASE)
    assert refused.value.reason == "KEY_DAMAGED"


def test_a_file_that_names_another_public_key_is_refused(tmp_path: Path) -> None:
    path, other = tmp_path / "ada.pem", tmp_path / "eve.pem"
    new_key_file(path, PASSPHRASE)
    new_key_file(other, PASSPHRASE)
    first, pem = other.read_bytes().split(b"\n", 1)[0], path.read_bytes().split(b"\n", 1)[1]
    path.write_bytes(first + b"\n" + pem)
    with pytest.raises(DataLossError):
        load_key_file(path, PASSPHRASE)


def test_no_key_at_all(tmp_path: Path) -> None:
    with pytest.raises(FailedPreconditionError) as refused:
        load_key_file(tmp_path / "ada.pem", PASSPHRASE)
    assert refused.value.reason == "KEY_MISSING"
    assert "broker keys new" in refused.value.hint


def test_where_a_passphrase_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "words"
    path.write_bytes(PASSPHRASE.reveal() + b"\n")
    path.chmod(0o600)
    monkeypatch.setenv("WORDS", os.fsdecode(PASSPHRASE.reveal()))
    for source in (path, str(path), f"file:{path}", "env:WORDS"):
        assert read_passphrase(source, what="key", hint="h") == PASSPHRASE
    path.chmod(0o644)
    for source, reason in (
        (path, "KEY_EXPOSED"),
        ("env:NONE", "PASSPHRASE_MISSING"),
        ("file:/no", "PASSPHRASE_MISSING"),
    ):
        with pytest.raises(BrokerError) as refused:
            read_passphrase(source, what="key", hint="h")
        assert refused.value.reason == reason


def test_another_signature_key_or_text_is_not_verified() -> None:
    signer, other = Ed25519Signer.generate(), Ed25519Signer.generate()
    signature = signer.sign(b"yes")
    assert verify(signer.public_key, signature, b"yes")
    assert not verify(other.public_key, signature, b"yes")
    assert not verify(signer.public_key, signature, b"no")
    assert not verify(signer.public_key, signature[:-1] + bytes([signature[-1] ^ 1]), b"yes")


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_verifying_anything_is_a_no_and_no_error(key: bytes, signature: bytes, data: bytes) -> None:
    assert verify(key, signature, data) is False


def test_a_signer_shows_no_key() -> None:
    signer = Ed25519Signer.generate()
    assert repr(signer) == f"Ed25519Signer({signer.id})"
