"""A secret is found wherever it stands, however the text is cut and whatever shape it has; other text passes unchanged."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.domain.secret import Secret
from broker.sandbox.egress.scanner import SecretFoundError, SecretScanner

_PRINTABLE = st.text(alphabet=[chr(code) for code in range(0x20, 0x7F)], min_size=8, max_size=40)
_SECRETS = _PRINTABLE.map(str.strip).filter(lambda text: len(text) >= 8).map(str.encode)
_CUTS = st.lists(st.integers(1, 60), max_size=60)


def _escaped(data: st.DataObject, secret: bytes, forms: tuple[str, ...]) -> bytes:
    picks = data.draw(st.lists(st.sampled_from(forms), min_size=len(secret), max_size=len(secret)))
    return b"".join(form.format(byte, chr(byte)).encode() for form, byte in zip(picks, secret, strict=True))


def _base64(data: st.DataObject, secret: bytes) -> bytes:
    encode = data.draw(st.sampled_from([base64.b64encode, base64.urlsafe_b64encode]))
    text = encode(data.draw(st.binary(max_size=4)) + secret + data.draw(st.binary(max_size=4)))
    return text.rstrip(b"=") if data.draw(st.booleans()) else text


def _percent(data: st.DataObject, secret: bytes) -> bytes:
    # An encoder never leaves a percent sign as it is.
    forms = ("%{0:02x}", "%{0:02X}") if b"%" in secret else ("{1}", "%{0:02x}", "%{0:02X}")
    return _escaped(data, secret, forms)


_SHAPES = {
    "raw": lambda _, secret: secret,
    "base64": _base64,
    "hex": lambda data, secret: "".join(data.draw(st.sampled_from([c, c.upper()])) for c in secret.hex()).encode(),
    "percent": _percent,
    "JSON": lambda data, secret: _escaped(data, secret, ("\\u{0:04x}", "\\u{0:04X}")),
    "JSON text": lambda _, secret: json.dumps(secret.decode())[1:-1].encode(),
    "quote": lambda data, secret: quote(secret, safe=data.draw(st.sampled_from(["", "/", "!'()*~", "/:@"]))).encode(),
    "UTF-16": lambda _, secret: secret.decode().encode("utf-16-le"),
}


def _pieces(text: bytes, cuts: list[int]) -> list[bytes]:
    pieces = []
    for cut in cuts:
        pieces.append(text[:cut])
        text = text[cut:]
    return [*pieces, text]


def _scan(secret: bytes, pieces: list[bytes]) -> tuple[bytes, bool]:
    """What was given out, and whether the secret was found."""
    scanner, out = SecretScanner([(Secret(secret), "")]), b""
    try:
        for piece in pieces:
            out += scanner.feed(piece)
        out += scanner.finish()
    except SecretFoundError:
        return out, True
    return out, False


@settings(max_examples=400, deadline=None)
@given(st.data(), _SECRETS, st.binary(max_size=700), st.binary(max_size=700), _CUTS)
def test_a_secret_is_found_before_any_of_it_is_given_out(
    data: st.DataObject, secret: bytes, before: bytes, after: bytes, cuts: list[int]
) -> None:
    shaped = _SHAPES[data.draw(st.sampled_from(sorted(_SHAPES)))](data, secret)
    if shaped[:1] in b'\\"/bfnrtu%0123456789abcdefABCDEF':
        before = before.rstrip(b"\\%") + b" "  # what stands before must not make another escape of its beginning
    text = before + shaped + after
    out, found = _scan(secret, _pieces(text, cuts))
    assert found
    assert len(out) <= len(before)
    assert text.startswith(out)


@settings(deadline=None)
@given(_SECRETS, st.binary(max_size=3000), _CUTS)
def test_text_without_the_secret_passes_unchanged(secret: bytes, text: bytes, cuts: list[int]) -> None:
    scanner = SecretScanner([(Secret(secret), "Bearer ")])
    out = b""
    for piece in _pieces(text, cuts):
        out += scanner.feed(piece)
    assert out + scanner.finish() == text


def test_a_backslash_cut_off_before_the_secret_does_not_hide_it() -> None:
    secret = b'\\bc"defgh-secret'
    escaped = json.dumps(secret.decode())[1:-1].encode()
    for before in range(1200):
        text = b"\\" * before + escaped + b"x" * 100
        _, found = _scan(secret, [text[start : start + 100] for start in range(0, len(text), 100)])
        assert found


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_without_a_secret_nothing_is_held_back(pieces: list[bytes]) -> None:
    scanner = SecretScanner([])
    assert scanner.idle
    assert [scanner.feed(piece) for piece in pieces] == pieces
    assert scanner.finish() == b""


@given(st.lists(st.binary(max_size=100), max_size=20), st.lists(st.binary(max_size=100), max_size=20))
def test_what_is_held_back_depends_on_lengths_alone(one: list[bytes], other: list[bytes]) -> None:
    other = [piece.ljust(len(match), b".")[: len(match)] for piece, match in zip(other, one, strict=False)]
    secret = [(Secret(b"an-unlikely-secret-4711"), "")]
    first, second = SecretScanner(secret), SecretScanner(secret)
    for piece, match in zip(one, other, strict=False):
        assert len(first.feed(piece)) == len(second.feed(match))


def test_several_secrets_are_looked_for_at_once() -> None:
    for echo in (b"the-first-secret", b"the-second-secret"):
        scanner = SecretScanner([(Secret(b"the-first-secret"), ""), (Secret(b"the-second-secret"), "Bearer ")])
        with pytest.raises(SecretFoundError):
            scanner.feed(b"..." + echo + b"." * 400)


def test_a_secret_at_the_very_end_is_found_by_the_last_look() -> None:
    scanner = SecretScanner([(Secret(b"the-first-secret"), "")])
    assert scanner.feed(b"the-first-secret") == b""
    with pytest.raises(SecretFoundError):
        scanner.finish()


class Counting(SecretScanner):
    looked_at = 0

    def check(self, text: bytes) -> None:
        self.looked_at += len(text)
        super().check(text)


@pytest.mark.parametrize("size", [1, 6, 1000, 16 * 1024])
def test_the_work_grows_with_the_text_and_not_with_the_number_of_its_pieces(size: int) -> None:
    text = rb"%41%5c" * 11_000
    scanner = Counting([(Secret(b"k3y" * 500), "")])
    out = b"".join(scanner.feed(text[start : start + size]) for start in range(0, len(text), size))
    assert out + scanner.finish() == text
    assert scanner.looked_at < 4 * len(text)


def test_the_scanner_does_not_show_its_secret() -> None:
    assert "secret-value" not in repr(SecretScanner([(Secret(b"secret-value"), "")]))
