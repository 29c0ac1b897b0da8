"""The rollback artifact: it is read as it was written, or refused, whatever was done to its bytes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.domain.tree import Change, Effect, TreeFile
from broker.errors import DataLossError, InvalidArgumentError
from broker.rollback import artifact
from broker.rollback.artifact import Manifest, pack, unpack
from tests.tree_values import BY_DIGEST, address, content, effects

manifests = st.builds(Manifest, st.just("call_1"), st.just("demo"), st.just(address(b"base")), effects)


async def pieces(data: bytes, size: int = 7) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def packed(manifest: Manifest) -> bytes:
    async def run() -> bytes:
        return b"".join([piece async for piece in pack(manifest, content)])

    return asyncio.run(run())


def unpacked(data: bytes, size: int = 7) -> tuple[Manifest, dict[str, bytes]]:
    kept: dict[str, bytes] = {}

    async def keep(stream: AsyncIterator[bytes]) -> tuple[str, int]:
        found = b"".join([piece async for piece in stream])
        digest = f"sha256:{hashlib.sha256(found).hexdigest()}"
        kept[digest] = found
        return digest, len(found)

    async def run() -> Manifest:
        return await unpack(pieces(data, size), keep)

    return asyncio.run(run()), kept


@given(manifests, st.integers(1, 400))
def test_it_is_read_as_it_was_written_and_every_pre_image_is_in_it_once(manifest: Manifest, size: int) -> None:
    found, kept = unpacked(packed(manifest), size)
    assert found == manifest
    wanted = {change.before.digest for change in manifest.effect.changes if isinstance(change.before, TreeFile)}
    assert kept == {digest: BY_DIGEST[digest] for digest in wanted}


@given(manifests, st.data())
@settings(max_examples=60)
def test_every_byte_that_is_flipped_or_cut_off_or_added_is_noticed(manifest: Manifest, data: st.DataObject) -> None:
    whole = packed(manifest)
    at, flip = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    changed = bytearray(whole)
    changed[at] ^= flip
    other = None
    with contextlib.suppress(DataLossError):
        other = unpacked(bytes(changed))[0]
    # The manifest names no digest of itself: the artifact's address does. What it says otherwise, it says in full.
    assert other != manifest
    for broken in (whole[:at], whole + b"x"):
        with pytest.raises(DataLossError) as caught:
            unpacked(broken)
        assert caught.value.reason in {"ARTIFACT_DAMAGED", "TREE_DAMAGED"}


def test_each_byte_of_one_is_flipped() -> None:
    data = b"the only copy of it\n"
    file = TreeFile(address(data), len(data), 0o600)
    manifest = Manifest("call_1", "demo", address(b"base"), Effect((Change("a", file, None),)))
    whole = manifest.encode()
    whole = len(whole).to_bytes(4, "big") + whole + data
    assert unpacked(whole) == (manifest, {file.digest: data})
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1
        try:
            found = unpacked(bytes(changed))[0]
        except DataLossError:
            continue
        assert found != manifest, f"byte {at} doesn't count"


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format":"broker.rollback.v2"}',
        b'{"base":"","call":1,"changes":[],"format":"broker.rollback.v1","workspace":""}',
        b'{"base":"","call":"","changes":{},"format":"broker.rollback.v1","workspace":""}',
        b'{"base":"", "call":"","changes":[],"format":"broker.rollback.v1","workspace":""}',
        b'{"base":"","call":"","changes":[],"format":"broker.rollback.v1","more":1,"workspace":""}',
        b'{"base":"","call":"","changes":[{"after":null,"before":null,"path":"a"}],"format":"broker.rollback.v1","workspace":""}',
        b'{"base":"","call":"","changes":[],"format":"broker.rollback.v1","workspace":"',
    ],
)
def test_what_is_no_manifest_is_refused(head: bytes) -> None:
    with pytest.raises(DataLossError):
        unpacked(len(head).to_bytes(4, "big") + head)


def test_a_manifest_that_claims_to_be_longer_than_any_is_not_waited_for() -> None:
    with pytest.raises(DataLossError, match="longer than any"):
        unpacked(b"\xff\xff\xff\xff" + b"x" * 100)


def test_a_manifest_that_is_too_long_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact, "MAX_MANIFEST", 50)
    with pytest.raises(InvalidArgumentError) as caught:
        packed(Manifest("call_1", "demo", "", Effect(())))
    assert caught.value.reason == "ARTIFACT_TOO_LARGE"
