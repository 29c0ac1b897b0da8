"""How a broker may be reached: mutual TLS or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.client import Endpoint, Identity
from broker.errors import InvalidArgumentError
from tests.fake_broker import Authority


@pytest.mark.parametrize(
    "address", ["", "broker", ":1", "host:", "host:0", "host:65536", "host:x", "::1:7443", "a/b:1"]
)
def test_an_address_is_host_and_port(address: str, identity: Path, authority: Authority) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Endpoint.load(address, identity=identity, ca=authority.pem, unsafe_plaintext=False)
    assert caught.value.violations[0].field == "address"


@pytest.mark.parametrize("address", ["localhost:1", "127.0.0.1:7443", "[::1]:7443", "broker.example.com:443"])
def test_usual_addresses_are_taken(address: str, identity: Path, authority: Authority) -> None:
    assert Endpoint.load(address, identity=identity, ca=authority.pem, unsafe_plaintext=False).address == address


def test_no_identity_is_never_plaintext(authority: Authority) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Endpoint.load("127.0.0.1:1", identity=None, ca=authority.pem, unsafe_plaintext=False)
    assert caught.value.violations[0].field == "identity"


def test_no_ca_is_refused(identity: Path) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Endpoint.load("127.0.0.1:1", identity=identity, ca=None, unsafe_plaintext=False)
    assert caught.value.violations[0].field == "ca"


@pytest.mark.parametrize("address", ["192.0.2.1:7443", "broker.example.com:7443", "0.0.0.0:7443"])
def test_plaintext_is_for_loopback_only(address: str) -> None:
    with pytest.raises(InvalidArgumentError):
        Endpoint.load(address, identity=None, ca=None, unsafe_plaintext=True)


def test_a_folder_without_its_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Identity.load(tmp_path)
    assert "cert.pem" in str(caught.value)


def test_a_key_of_another_certificate_is_refused(authority: Authority, tmp_path: Path) -> None:
    folder = authority.write(tmp_path / "id", "bot")
    (folder / "key.pem").write_bytes(Authority.make("x").issue("y")[1])
    with pytest.raises(InvalidArgumentError):
        Identity.load(folder)


def test_the_key_does_not_show(identity: Path) -> None:
    loaded = Identity.load(identity)
    assert b"PRIVATE KEY" in loaded.key
    assert "PRIVATE" not in repr(loaded)
