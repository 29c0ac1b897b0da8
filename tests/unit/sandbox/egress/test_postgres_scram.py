"""SCRAM as the broker speaks it: bound where it can be, and no bytes of a server do more than be refused."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.secret import Secret
from broker.sandbox.egress.postgres.scram import BOUND, PLAIN, Scram, ScramError
from broker.sandbox.egress.upstream import trust_from
from tests.egress_support import NAME, Certificates, make_certificates

_PASSWORD = Secret(b"correct horse")


def _channel(certificates: Certificates) -> ssl.SSLObject:
    """A client's end of real TLS, after its handshake."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trust_from(certificates.ca).wrap_bio(to_client, to_server, server_hostname=NAME)
    server = certificates.context().wrap_bio(to_server, to_client, server_side=True)
    for end in (client, server, client):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert client.version()
    return client


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLObject:
    return _channel(make_certificates(tmp_path_factory.mktemp("tls")))


@pytest.mark.parametrize("offered", [[BOUND, PLAIN], [PLAIN, BOUND], ["OAUTHBEARER", PLAIN, BOUND], [BOUND]])
def test_a_login_is_bound_wherever_that_is_offered(channel: ssl.SSLObject, offered: list[str]) -> None:
    scram = Scram(offered, _PASSWORD, channel)
    assert scram.mechanism == BOUND
    assert scram.first().startswith("p=tls-server-end-point,,n=*,r=")


def test_where_it_is_not_offered_the_server_hears_that_it_could_be(channel: ssl.SSLObject) -> None:
    scram = Scram([PLAIN], _PASSWORD, channel)
    assert scram.mechanism == PLAIN
    assert scram.first().startswith("y,,n=*,r=")


@pytest.mark.parametrize("offered", [[], [""], ["SCRAM-SHA-1"], ["SCRAM-SHA-512-PLUS"], ["scram-sha-256"], ["PLAIN"]])
def test_nothing_else_is_spoken(channel: ssl.SSLObject, offered: list[str]) -> None:
    with pytest.raises(ScramError, match="offers no SCRAM-SHA-256"):
        Scram(offered, _PASSWORD, channel)


def test_two_logins_never_begin_alike(channel: ssl.SSLObject) -> None:
    assert Scram([BOUND], _PASSWORD, channel).first() != Scram([BOUND], _PASSWORD, channel).first()


_ATTRIBUTES = st.lists(
    st.tuples(st.sampled_from("rsivemapnc"), st.text("0123456789abc=+/\x00\u00fc", max_size=12)), max_size=5
)
_WRITTEN = _ATTRIBUTES.map(lambda items: ",".join(f"{name}={value}" for name, value in items).encode())


@given(st.one_of(st.binary(max_size=80), _WRITTEN))
def test_a_challenge_is_refused_in_one_way(channel: ssl.SSLObject, data: bytes) -> None:
    scram = Scram([BOUND], _PASSWORD, channel)
    scram.first()
    with pytest.raises(ScramError):
        scram.hear_first(data)


@given(st.one_of(st.binary(max_size=80), _WRITTEN))
def test_a_false_proof_is_refused_in_one_way(channel: ssl.SSLObject, data: bytes) -> None:
    scram = Scram([BOUND], _PASSWORD, channel)
    nonce = scram.first().partition(",r=")[2]
    scram.hear_first(f"r={nonce}more,s=c2FsdHNhbHRzYWx0,i=4096".encode())
    scram.final()
    with pytest.raises(ScramError) as refused:
        scram.hear_final(data)
    assert "horse" not in repr((refused.value, refused.value.__cause__))


def test_the_password_shows_in_no_repr(channel: ssl.SSLObject) -> None:
    scram = Scram([BOUND], _PASSWORD, channel)
    assert "horse" not in repr((scram, vars(scram), vars(vars(scram)["_client"])))


def test_a_certificate_without_a_usual_hash_is_not_bound_to(tmp_path: Path) -> None:
    channel = _channel(make_certificates(tmp_path, ca_key=Ed448PrivateKey.generate(), algorithm=None))
    with pytest.raises(ScramError, match="can't be bound"):
        Scram([BOUND, PLAIN], _PASSWORD, channel)
    assert Scram([PLAIN], _PASSWORD, channel).first().startswith("y,,")
