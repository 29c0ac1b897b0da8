"""Known answers that others wrote: proofs of transparency-dev/merkle (``proof/verify_test.go``), notes of C2SP and Go."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import pytest

from broker.tlog.checkpoint import Checkpoint
from broker.tlog.merkle import (
    ProofError,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from broker.tlog.note import ED25519, Note, NoteError, Signature, VerifierKey, cosignature_time, verify_note
from broker.tlog.proof import TlogProof

LEAVES = [
    leaf_hash(bytes.fromhex(text))
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    bytes.fromhex(text)
    for text in (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    )
]
INCLUSION: list[tuple[int, int, list[str]]] = [
    (0, 1, []),
    (
        0,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        1,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]
CONSISTENCY: list[tuple[int, int, list[str]]] = [
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
    (
        6,
        7,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
]

VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE = (
    "This is an example message.\n"
    "\n"
    "\u2014 example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
# Russ Cox's: golang.org/x/mod/sumdb/note.
PETER_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
# The example of c2sp.org/tlog-checkpoint and c2sp.org/tlog-cosignature.
COSIGNED = (
    "example.com/behind-the-sofa\n"
    "20852163\n"
    "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    "\n"
    "\u2014 example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "\u2014 witness.example.com/w1 "
    "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
)


def _node(level: int, index: int) -> bytes:
    if level == 0:
        return LEAVES[index]
    return node_hash(_node(level - 1, 2 * index), _node(level - 1, 2 * index + 1))


def _hashes(texts: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(text) for text in texts)


@pytest.mark.parametrize("size", range(1, 9))
def test_roots(size: int) -> None:
    assert tree_root(size, _node) == ROOTS[size - 1]


@pytest.mark.parametrize(("index", "size", "proof"), INCLUSION)
def test_inclusion(index: int, size: int, proof: list[str]) -> None:
    assert inclusion_proof(index, size, _node) == _hashes(proof)
    verify_inclusion(LEAVES[index], index, size, _hashes(proof), ROOTS[size - 1])


@pytest.mark.parametrize(("old", "new", "proof"), CONSISTENCY)
def test_consistency(old: int, new: int, proof: list[str]) -> None:
    assert consistency_proof(old, new, _node) == _hashes(proof)
    verify_consistency(old, ROOTS[old - 1], new, ROOTS[new - 1], _hashes(proof))


def test_probes_of_the_reference_that_must_fail() -> None:
    some = bytes.fromhex("abacaba000000000000000000000000000000000000000000060061e00123456")
    empty = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    for index, size in ((0, 0), (0, 1), (1, 0), (2, 1)):
        for leaf, root in ((some, b""), (b"", empty), (some, empty)):
            with pytest.raises(ProofError):
                verify_inclusion(leaf, index, size, (), root)
    for old, new, first, second, proof in (
        (0, 0, some, empty, ()),
        (1, 1, some, empty, ()),
        (1, 0, some, empty, ()),
        (2, 1, some, empty, ()),
        (1, 2, some, empty, ()),
        (0, 0, empty, empty, (empty,)),
        (0, 1, empty, empty, (empty,)),
        (1, 1, empty, empty, (empty,)),
    ):
        with pytest.raises(ProofError):
            verify_consistency(old, first, new, second, proof)


@pytest.mark.parametrize(("vkey", "text"), [(VKEY, EXAMPLE), (PETER_VKEY, PETER)])
def test_signed_note(vkey: str, text: str) -> None:
    key = VerifierKey.parse(vkey)
    assert str(key) == vkey
    note = Note.parse(text.encode())
    assert note.encode() == text.encode()
    assert verify_note(note, [key]) == (key,)
    with pytest.raises(NoteError, match="false"):
        verify_note(Note("This is another message.\n", note.signatures), [key])


def test_key_id() -> None:
    key = VerifierKey.parse(VKEY)
    assert (key.name, key.algorithm) == ("example.com/foo", ED25519)
    assert key.key_id.hex() == "530d903a"
    assert key.public_key == base64.b64decode("AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")[1:]


def test_checkpoint_with_cosignature() -> None:
    note = Note.parse(COSIGNED.encode())
    checkpoint = Checkpoint.parse(note.text)
    root = base64.b64decode("CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=")
    assert checkpoint == Checkpoint("example.com/behind-the-sofa", 20852163, root)
    assert checkpoint.text() == note.text
    assert [item.name for item in note.signatures] == ["example.com/behind-the-sofa", "witness.example.com/w1"]
    assert note.signatures[1].key_id.hex() == "8d66cf3f"
    assert cosignature_time(note.signatures[1]) == 1679315147
    with pytest.raises(NoteError, match="no cosignature"):
        cosignature_time(note.signatures[0])


def test_proof_file() -> None:
    # The layout of the example of c2sp.org/tlog-proof.
    lines = [base64.b64encode(leaf).decode() for leaf in LEAVES[:3]]
    text = (
        "c2sp.org/tlog-proof@v1\nextra ZXh0cmE=\nindex 73894\n"
        + "".join(f"{line}\n" for line in lines)
        + "\n"
        + COSIGNED
    )
    proof = TlogProof.parse(text.encode())
    assert proof == TlogProof(73894, tuple(LEAVES[:3]), Note.parse(COSIGNED.encode()), b"extra")
    assert proof.encode() == text.encode()


def test_signature_line() -> None:
    line = EXAMPLE.splitlines()[2]
    signature = Signature.parse(line)
    assert (signature.name, signature.key_id.hex(), len(signature.data)) == ("example.com/foo", "530d903a", 64)
    assert str(signature) == line
