"""DSSE envelopes: the format's own example, and what a reader refuses."""

from __future__ import annotations

import json

import pytest

from broker.domain.canonical import canonical
from broker.ledger.dsse import DsseError, pae, seal, unseal
from tests.bundle_world import new_signer

TYPE = "application/vnd.example+json"


def test_the_message_of_the_formats_own_example() -> None:
    found = pae("http://example.com/HelloWorld", b"hello world")
    assert found == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pae("ü", b"") == "DSSEv1 2 ü 0 ".encode()  # bytes are counted, not characters


def test_what_is_sealed_is_unsealed() -> None:
    signer, other = new_signer(), new_signer()
    envelope = seal(TYPE, b"{}", signer.key, signer.sign)
    assert unseal(envelope, TYPE, (other.key, signer.key)) == (b"{}", (signer.key,))
    assert json.loads(envelope)["signatures"][0]["keyid"] == str(signer.key)


def test_a_signer_of_another_key_is_found_at_once() -> None:
    with pytest.raises(DsseError, match="not one by"):
        seal(TYPE, b"{}", new_signer().key, new_signer().sign)


def test_what_is_refused() -> None:
    signer = new_signer()
    genuine = json.loads(seal(TYPE, b"{}", signer.key, signer.sign))
    signature = genuine["signatures"][0]
    cases = [
        ({**genuine, "payload": "e30"}, "no envelope"),
        ({**genuine, "payload": "e31="}, "no envelope"),
        ({**genuine, "payload": "W10="}, "false"),
        ({**genuine, "payloadType": "text/plain"}, "another type"),
        ({**genuine, "signatures": []}, "not signed"),
        ({**genuine, "signatures": None}, "no list"),
        ({**genuine, "signatures": [{**signature, "keyid": "other"}]}, "not signed"),
        ({**genuine, "signatures": [{**signature, "sig": "AAAA"}]}, "false"),
        ({**genuine, "signatures": [{"keyid": signature["keyid"]}]}, "no text sig"),
        ({}, "no text payload"),
    ]
    for envelope, why in cases:
        with pytest.raises(DsseError, match=why):
            unseal(canonical(envelope), TYPE, (signer.key,))
    with pytest.raises(DsseError, match="no envelope"):
        unseal(b"{", TYPE, (signer.key,))
    with pytest.raises(DsseError, match="not signed"):
        unseal(canonical(genuine), TYPE, (new_signer().key,))
