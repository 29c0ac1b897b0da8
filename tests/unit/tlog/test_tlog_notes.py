"""Notes, checkpoints and proof files: what is written is read back, and nothing else is."""

from __future__ import annotations

import base64
import hashlib
from itertools import count

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from broker.tlog.checkpoint import Checkpoint
from broker.tlog.merkle import MAX_SIZE, ProofError, inclusion_proof, leaf_hash, node_hash, tree_root
from broker.tlog.note import (
    COSIGNATURE,
    ED25519,
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    MAX_TIME,
    Note,
    NoteError,
    Signature,
    VerifierKey,
    cosign,
    cosignature_time,
    sign,
    verify_note,
)
from broker.tlog.proof import MAX_EXTRA_BYTES, TlogProof

ORIGIN = "log.example/ledger"
TEXT = "log.example/ledger\n5\nTjrPtR9Jp4G47+f5qgyWHcFIhPoVbvn1JdjzAqzdpP8=\n"


def private(seed: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)


def key(seed: int = 1, name: str = ORIGIN, algorithm: int = ED25519) -> VerifierKey:
    return VerifierKey(name, algorithm, private(seed).public_key().public_bytes_raw())


def signed(text: str = TEXT, seed: int = 1, name: str = ORIGIN) -> Note:
    return Note(text).with_signature(sign(text, key(seed, name), private(seed).sign))


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


LINE = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=30)
NAME = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"], exclude_characters="+"), min_size=1)
LINES = st.lists(LINE, min_size=1, max_size=8).map(lambda lines: "\n".join(lines) + "\n")


@given(text=LINES, name=NAME, seconds=st.integers(0, MAX_TIME))
def test_round_trip(text: str, name: str, seconds: int) -> None:
    log, witness = key(1, name), key(2, name, COSIGNATURE)
    cosignature = cosign(text, witness, private(2).sign, seconds)
    note = signed(text, 1, name).with_signature(cosignature)
    again = Note.parse(note.encode())
    assert again == note
    assert verify_note(again, [witness, log]) == (log, witness)
    assert cosignature_time(again.signatures[1]) == seconds
    assert VerifierKey.parse(str(log)) == log
    assert VerifierKey.parse(str(witness)) == witness


def test_no_mutated_byte_goes_unnoticed() -> None:
    known = key()
    data = signed().encode()
    for place in range(len(data)):
        for flip in (1, 2, 4, 8, 16, 32, 64, 128):
            with pytest.raises(NoteError):
                verify_note(Note.parse(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :]), [known])
        with pytest.raises(NoteError):
            verify_note(Note.parse(data[:place] + data[place + 1 :]), [known])
        with pytest.raises(NoteError):
            verify_note(Note.parse(data[:place]), [known])
        for more in (b"\n", b" ", b"=", b"A"):
            with pytest.raises(NoteError):
                verify_note(Note.parse(data[: place + 1] + more + data[place + 1 :]), [known])


def test_cosignature_covers_time_and_text() -> None:
    witness = key(2, "witness.example", COSIGNATURE)
    cosignature = cosign(TEXT, witness, private(2).sign, 1679315147)
    assert verify_note(Note(TEXT, (cosignature,)), [witness]) == (witness,)
    for place in range(len(cosignature.data)):
        data = bytearray(cosignature.data)
        data[place] ^= 1
        with pytest.raises(NoteError, match="false"):
            verify_note(Note(TEXT, (Signature(cosignature.name, cosignature.key_id, bytes(data)),)), [witness])
    with pytest.raises(NoteError, match="false"):
        verify_note(Note("x\n" + TEXT, (cosignature,)), [witness])
    for length in (1, 8, 63, 64, 71, 73):
        cut = Signature(cosignature.name, cosignature.key_id, (cosignature.data + b"x")[:length])
        with pytest.raises(NoteError, match="false"):
            verify_note(Note(TEXT, (cut,)), [witness])


def test_signature_of_one_type_is_none_of_the_other() -> None:
    # The same private key under both types: a plain signature over the cosigned message must not count as either.
    plain, witness = key(1, "n"), key(1, "n", COSIGNATURE)
    assert plain.key_id != witness.key_id
    message = f"cosignature/v1\ntime 5\n{TEXT}"
    data = private(1).sign(message.encode())
    with pytest.raises(NoteError, match="false"):
        verify_note(Note(TEXT, (Signature("n", plain.key_id, data),)), [plain, witness])
    assert verify_note(
        Note(TEXT, (Signature("n", witness.key_id, (5).to_bytes(8, "big") + data),)), [plain, witness]
    ) == (witness,)


def test_time_of_a_cosignature_is_bounded() -> None:
    witness = key(2, "w", COSIGNATURE)
    late = MAX_TIME + 1
    for moment in (late, -1):
        with pytest.raises(NoteError, match="time"):
            cosign(TEXT, witness, private(2).sign, moment)
    data = late.to_bytes(8, "big") + private(2).sign(f"cosignature/v1\ntime {late}\n{TEXT}".encode())
    forged = Signature("w", witness.key_id, data)
    with pytest.raises(NoteError, match="false"):
        verify_note(Note(TEXT, (forged,)), [witness])
    with pytest.raises(NoteError, match="no cosignature"):
        cosignature_time(forged)


def test_unknown_keys_are_ignored_and_known_ones_must_hold() -> None:
    ours, other = key(1), key(2)
    note = signed().with_signature(sign(TEXT, other, private(2).sign))
    assert verify_note(note, [ours]) == (ours,)
    assert verify_note(note, [other]) == (other,)
    assert verify_note(note, iter([other, ours])) == (ours, other)
    with pytest.raises(NoteError, match="not signed by a known key"):
        verify_note(note, [])
    with pytest.raises(NoteError, match="not signed by a known key"):
        verify_note(note, [key(3)])
    # A name or an id alone is not a key, however wrong what stands behind it.
    strangers = [Signature(ours.name, b"\x00" * 4, b"x"), Signature("another", ours.key_id, b"x")]
    assert verify_note(Note(TEXT, (*strangers, *note.signatures)), [ours]) == (ours,)
    bad = Signature(ours.name, ours.key_id, b"\x00" * 64)
    for signatures in ((bad, *note.signatures), (*note.signatures, bad)):
        with pytest.raises(NoteError, match="false"):
            verify_note(Note(TEXT, signatures), [ours])
    with pytest.raises(NoteError, match="not signed by a known key"):
        verify_note(Note(TEXT, (bad,)), [other])


def test_a_key_that_signed_twice_counts_once() -> None:
    note = signed()
    assert verify_note(note.with_signature(note.signatures[0]), [key(), key()]) == (key(),)


def test_two_keys_of_one_name_and_id() -> None:
    seen: dict[bytes, VerifierKey] = {}
    for number in count():  # 32 bits: found after some 2^16
        candidate = VerifierKey("n", ED25519, hashlib.sha256(number.to_bytes(8, "big")).digest())
        twin = seen.setdefault(candidate.key_id, candidate)
        if twin != candidate:
            break
    with pytest.raises(NoteError, match="two keys"):
        verify_note(signed(), [key(), candidate, twin])


@pytest.mark.parametrize(
    "text",
    ["", "no newline", "a\r\n", "a\x00\n", "a\tb\n", "a\x1f\n", "a\ud800\n", "a\n\x0c"],
)
def test_texts_that_no_note_holds(text: str) -> None:
    with pytest.raises(NoteError):
        Note(text)
    with pytest.raises(NoteError):
        sign(text, key(), private(1).sign)
    with pytest.raises(NoteError):
        cosign(text, key(1, ORIGIN, COSIGNATURE), private(1).sign, 1)


def test_sizes_are_bounded() -> None:
    with pytest.raises(NoteError, match="longer"):
        Note("x" * MAX_NOTE_BYTES + "\n")
    with pytest.raises(NoteError, match="limit"):
        Note.parse(b"x" * (MAX_NOTE_BYTES + 1))
    wide = Note("\u2014" * (MAX_NOTE_BYTES // 3) + "\n", signed().signatures)
    with pytest.raises(NoteError, match="limit"):
        wide.encode()
    line = signed().signatures[0]
    full = Note(TEXT, (line,) * MAX_SIGNATURES)
    assert Note.parse(full.encode()) == full
    with pytest.raises(NoteError, match="at most 64"):
        full.with_signature(line)
    with pytest.raises(NoteError, match="more than 64"):
        Note.parse(full.encode() + f"{line}\n".encode())
    with pytest.raises(NoteError, match="no signature"):
        Note(TEXT).encode()


GOOD = str(signed().signatures[0])
BODY = GOOD.split(" ")[2]


@pytest.mark.parametrize(
    "lines",
    [
        "",
        "\n",
        GOOD,  # without its newline
        GOOD + "\r\n",
        GOOD + "\n\n",
        GOOD + "\n\n" + GOOD + "\n" + "x\n",
        GOOD + " \n",
        " " + GOOD + "\n",
        GOOD.replace("\u2014", "-") + "\n",
        GOOD.replace("\u2014", "\u2013") + "\n",
        GOOD.replace("\u2014 ", "\u2014") + "\n",
        GOOD.replace(" " + BODY, "  " + BODY) + "\n",
        GOOD.replace(ORIGIN, "") + "\n",
        GOOD.replace(ORIGIN, "a+b") + "\n",
        GOOD.replace(ORIGIN, "a\u00a0b") + "\n",
        GOOD.replace(ORIGIN, "a\u2003b") + "\n",
        GOOD.replace(ORIGIN, "a\u2028b") + "\n",
        GOOD.replace(ORIGIN, "a" * 1025) + "\n",
        GOOD.rstrip("=") + "\n",
        GOOD + "=\n",
        GOOD[:-2] + chr(ord(GOOD[-2]) + 1) + "=\n",  # bits that no byte holds
        f"\u2014 {ORIGIN}\n",
        f"\u2014 {ORIGIN} \n",
        f"\u2014 {ORIGIN} AAAA\n",
        f"\u2014 {ORIGIN} AAAAAA==\n",  # an id, and nothing signed
        f"\u2014 {ORIGIN} {BODY.replace(BODY[5], '-')}\n",
        f"\u2014 {ORIGIN} {BODY[:8]} {BODY[8:]}\n",
        "text\n" + GOOD + "\n",
    ],
)
def test_signature_lines_that_nobody_writes(lines: str) -> None:
    with pytest.raises(NoteError):
        Note.parse(f"{TEXT}\n{lines}".encode())


def test_last_empty_line_separates() -> None:
    text = "a\n\nb\n\n\n"
    note = signed(text)
    assert Note.parse(note.encode()).text == text
    # Text that looks like signatures is text.
    inner = signed().encode().decode()
    outer = signed(inner)
    assert Note.parse(outer.encode()) == outer
    assert verify_note(outer, [key()]) == (key(),)


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"\n\n", b"a\n\n", b"\xff\n\n\xe2\x80\x94 a AAAAAAA=\n", b"a\n\n\xe2\x80\x94 a \xff\n"]
)
def test_bytes_that_are_no_note(data: bytes) -> None:
    with pytest.raises(NoteError):
        Note.parse(data)


@given(st.binary(max_size=80) | LINES.map(str.encode))
def test_anything_is_refused_cleanly_or_is_as_written(data: bytes) -> None:
    for candidate in (data, TEXT.encode() + b"\n" + data):
        try:
            note = Note.parse(candidate)
        except NoteError:
            continue
        assert note.encode() == candidate


def test_verifier_key_texts() -> None:
    text = str(key())
    name, key_id, body = text.split("+", 2)
    other = f"{int(key_id, 16) ^ 1:08x}"
    for wrong in (
        "",
        name,
        f"{name}+{key_id}",
        f"{name}+{key_id}+",
        f"+{key_id}+{body}",
        f"{name}+{other}+{body}",
        f"{name}x+{key_id}+{body}",
        f"{name}+{key_id.upper()}+{body}" if key_id.upper() != key_id else "",
        f"{name}+0{key_id}+{body}",
        f"{name}+{key_id}+{body[:-1]}",
        f"{name}+{key_id}+{body}\n",
        f" {text}",
        f"{name}+{key_id}+{base64_text(bytes([2]) + key().public_key)}",
        f"{name}+{key_id}+{base64_text(bytes([1]) + key().public_key[:-1])}",
        "x" * 5000,
    ):
        with pytest.raises(NoteError):
            VerifierKey.parse(wrong)
    for bad in ("", "a b", "a+b", "a\nb", "a\u2003b"):
        with pytest.raises(NoteError):
            VerifierKey(bad, ED25519, bytes(32))
    for algorithm, size in ((2, 32), (0, 32), (255, 32), (ED25519, 31), (COSIGNATURE, 33)):
        with pytest.raises(NoteError):
            VerifierKey("a", algorithm, bytes(size))
    with pytest.raises(NoteError, match="4 bytes"):
        Signature("a", b"123", b"x")


def test_a_signer_with_another_key_signs_nothing() -> None:
    with pytest.raises(NoteError, match="not one by"):
        sign(TEXT, key(1), private(2).sign)
    with pytest.raises(NoteError, match="not one by"):
        sign(TEXT, key(1), lambda message: private(1).sign(message) + b"\x00")
    with pytest.raises(NoteError, match="not one by"):
        cosign(TEXT, key(1, "w", COSIGNATURE), private(2).sign, 1)
    with pytest.raises(NoteError, match="for cosignatures"):
        sign(TEXT, key(1, "w", COSIGNATURE), private(1).sign)
    with pytest.raises(NoteError, match="no key for cosignatures"):
        cosign(TEXT, key(1), private(1).sign, 1)


@given(
    origin=LINE.filter(bool),
    size=st.integers(0, MAX_SIZE),
    root=st.binary(min_size=32, max_size=32),
    extensions=st.lists(LINE.filter(bool), max_size=4).map(tuple),
)
def test_checkpoint_round_trip(origin: str, size: int, root: bytes, extensions: tuple[str, ...]) -> None:
    checkpoint = Checkpoint(origin, size, root, extensions)
    assert Checkpoint.parse(checkpoint.text()) == checkpoint
    assert Checkpoint.parse(Note.parse(signed(checkpoint.text()).encode()).text) == checkpoint


ROOT_TEXT = "TjrPtR9Jp4G47+f5qgyWHcFIhPoVbvn1JdjzAqzdpP8="


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "o\n",
        "o\n5\n",
        f"o\n5\n{ROOT_TEXT}",
        f"\n5\n{ROOT_TEXT}\n",
        f"o\n\n{ROOT_TEXT}\n",
        f"o\n05\n{ROOT_TEXT}\n",
        f"o\n00\n{ROOT_TEXT}\n",
        f"o\n+5\n{ROOT_TEXT}\n",
        f"o\n-5\n{ROOT_TEXT}\n",
        f"o\n 5\n{ROOT_TEXT}\n",
        f"o\n5 \n{ROOT_TEXT}\n",
        f"o\n5_0\n{ROOT_TEXT}\n",
        f"o\n5.0\n{ROOT_TEXT}\n",
        f"o\n0x5\n{ROOT_TEXT}\n",
        f"o\n\u0665\n{ROOT_TEXT}\n",
        f"o\n{2**63}\n{ROOT_TEXT}\n",
        f"o\n{'9' * 5000}\n{ROOT_TEXT}\n",
        f"o\n5\n{ROOT_TEXT}=\n",
        f"o\n5\n{ROOT_TEXT[:-1]}\n",
        f"o\n5\n{ROOT_TEXT[:-2]}9=\n",
        f"o\n5\n{ROOT_TEXT} \n",
        f"o\n5\n{base64_text(bytes(31))}\n",
        f"o\n5\n{base64_text(bytes(33))}\n",
        f"o\n5\n{ROOT_TEXT}\n\n",
        f"o\n5\n{ROOT_TEXT}\nx\n\n",
        f"o\n5\n{ROOT_TEXT}\n\nx\n",
        f"o\r\n5\n{ROOT_TEXT}\n",
        f"o\n5\n{ROOT_TEXT}\n" + "x\n" * 65,
    ],
)
def test_texts_that_are_no_checkpoint(text: str) -> None:
    with pytest.raises(NoteError):
        Checkpoint.parse(text)


def test_checkpoints_that_cant_be_written() -> None:
    for origin, size, root, extensions in (
        ("", 0, bytes(32), ()),
        ("a\nb", 0, bytes(32), ()),
        ("a\x00", 0, bytes(32), ()),
        ("a", -1, bytes(32), ()),
        ("a", 2**63, bytes(32), ()),
        ("a", 0, bytes(31), ()),
        ("a", 0, bytes(32), ("",)),
        ("a", 0, bytes(32), ("x\ny",)),
        ("a", 0, bytes(32), ("x",) * 65),
    ):
        with pytest.raises(NoteError):
            Checkpoint(origin, size, root, extensions)


LEAVES = [leaf_hash(bytes([number])) for number in range(11)]


def node(level: int, index: int) -> bytes:
    return LEAVES[index] if level == 0 else node_hash(node(level - 1, 2 * index), node(level - 1, 2 * index + 1))


def proof(index: int = 3, size: int = 11, extra: bytes | None = None) -> TlogProof:
    note = signed(Checkpoint(ORIGIN, size, tree_root(size, node)).text())
    return TlogProof(index, inclusion_proof(index, size, node), note, extra)


@given(st.data(), st.none() | st.binary(min_size=1, max_size=100))
def test_proof_round_trip(data: st.DataObject, extra: bytes | None) -> None:
    size = data.draw(st.integers(1, 11))
    index = data.draw(st.integers(0, size - 1))
    made = proof(index, size, extra)
    again = TlogProof.parse(made.encode())
    assert again == made
    assert again.encode() == made.encode()
    assert again.verify(LEAVES[index], [key()]) == Checkpoint(ORIGIN, size, tree_root(size, node))
    for other in range(11):
        if other != index:
            with pytest.raises(ProofError):
                again.verify(LEAVES[other], [key()])
    with pytest.raises(NoteError):
        again.verify(LEAVES[index], [key(2)])


def test_no_mutated_byte_of_a_proof_goes_unnoticed() -> None:
    data = proof().encode()
    for place in range(len(data)):
        for flip in (1, 2, 4, 16, 128):
            with pytest.raises((NoteError, ProofError)):
                TlogProof.parse(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :]).verify(
                    LEAVES[3], [key()]
                )
        with pytest.raises((NoteError, ProofError)):
            TlogProof.parse(data[:place]).verify(LEAVES[3], [key()])
        with pytest.raises((NoteError, ProofError)):
            TlogProof.parse(data[:place] + data[place + 1 :]).verify(LEAVES[3], [key()])


def test_what_is_no_proof_file() -> None:
    good = proof(extra=b"x").encode().decode()
    _, extra, index, *_ = good.split("\n")
    for wrong in (
        "",
        good.replace("@v1", "@v2"),
        good.replace("@v1", "@v1 "),
        good.replace(extra, extra + "="),
        good.replace(extra, "extra "),
        good.replace(extra, f"{extra}\n{extra}"),
        good.replace(extra, "more eA=="),
        good.replace(f"{extra}\n{index}", f"{index}\n{extra}"),
        good.replace(index + "\n", ""),
        good.replace(index, f"{index}\n{index}"),
        good.replace(index, "index 03"),
        good.replace(index, "index -3"),
        good.replace(index, "index"),
        good.replace(index, f"index {2**63 - 1}"),
        good.replace(index, index + f"\n{base64_text(bytes(31))}"),
        good.replace(index, index + f"\n{base64_text(bytes(32))}" * 64),
        good.replace(index, index + "\n"),
        good.replace("\n", "\r\n"),
        "\n" + good,
        good + "\n",
    ):
        with pytest.raises(NoteError):
            TlogProof.parse(wrong.encode())
    note = proof().checkpoint
    for arguments in (
        (-1, (), note, None),
        (2**63 - 1, (), note, None),
        (0, (b"x",), note, None),
        (0, (bytes(32),) * 64, note, None),
        (0, (), note, b""),
        (0, (), note, bytes(MAX_EXTRA_BYTES + 1)),
    ):
        with pytest.raises(NoteError):
            TlogProof(*arguments)
    with pytest.raises(NoteError, match="no signature"):
        TlogProof(0, (), Note(note.text)).encode()


def test_only_the_logs_own_key_makes_a_checkpoint_its_own() -> None:
    made = proof()
    text = made.checkpoint.text
    witness, stranger = key(2, "witness.example", COSIGNATURE), key(3, "other.example")
    cosigned = made.checkpoint.with_signature(cosign(text, witness, private(2).sign, 5))
    TlogProof(3, made.hashes, cosigned).verify(LEAVES[3], [key(), witness])
    with pytest.raises(NoteError, match="no key of the log"):
        TlogProof(3, made.hashes, cosigned).verify(LEAVES[3], [witness])
    namesake = key(2, ORIGIN, COSIGNATURE)
    vouched = Note(text, (cosign(text, namesake, private(2).sign, 5),))
    with pytest.raises(NoteError, match="no key of the log"):
        TlogProof(3, made.hashes, vouched).verify(LEAVES[3], [namesake])
    foreign = Note(text, (sign(text, stranger, private(3).sign),))
    with pytest.raises(NoteError, match="no key of the log"):
        TlogProof(3, made.hashes, foreign).verify(LEAVES[3], [key(), stranger])
    with pytest.raises(NoteError, match="a checkpoint has"):
        TlogProof(3, made.hashes, signed("hello\n"))
