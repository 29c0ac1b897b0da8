"""What each store of checkpoints promises: one newest, moved by compare-and-swap, durable, and never two of one size."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

import pytest

from broker.errors import BrokerError, ConflictError, DataLossError, InternalError
from broker.ledger.checkpoint_store import CheckpointStore
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.note import COSIGNATURE, Note, VerifierKey, cosign
from tests.checkpoint_world import make_note, make_signer

SIGNER = make_signer()
WITNESS = make_signer("witness.example")
KEY = VerifierKey(WITNESS.key.name, COSIGNATURE, WITNESS.key.public_key)


def note(size: int, what: str = "") -> Note:
    return make_note(size, hashlib.sha256(f"{size}{what}".encode()).digest(), SIGNER)


def cosigned(signed: Note, moment_s: int = 1) -> Note:
    return signed.with_signature(cosign(signed.text, KEY, WITNESS.sign, moment_s))


async def test_an_empty_store_has_nothing(checkpoints: CheckpointStore) -> None:
    assert await checkpoints.latest() is None
    assert list(await checkpoints.history(10)) == []
    assert await checkpoints.replace_cosigned(cosigned(note(1))) is None
    assert await checkpoints.latest() is None


async def test_what_was_swapped_in_is_the_newest_for_everybody(make_store: Callable[[], CheckpointStore]) -> None:
    one, other = make_store(), make_store()
    await one.swap(None, note(2))
    assert await other.latest() == note(2)
    await other.swap(note(2), note(7))
    await one.swap(note(7), note(1000))
    assert await other.latest() == note(1000)
    assert list(await other.history(10)) == [note(1000), note(7), note(2)]
    assert list(await other.history(2)) == [note(1000), note(7)]
    assert list(await other.history(0)) == []


@pytest.mark.parametrize("old", [None, note(2), note(4), note(3, "other"), cosigned(note(3))])
async def test_a_swap_from_anything_but_the_newest_changes_nothing(
    checkpoints: CheckpointStore, old: Note | None
) -> None:
    await checkpoints.swap(None, note(3))
    with pytest.raises(ConflictError) as refused:
        await checkpoints.swap(old, note(9))
    assert refused.value.reason == "CHECKPOINT_MOVED"
    assert await checkpoints.latest() == note(3)
    assert list(await checkpoints.history(10)) == [note(3)]


async def test_a_swap_into_an_empty_store_from_something_is_refused(checkpoints: CheckpointStore) -> None:
    with pytest.raises(ConflictError):
        await checkpoints.swap(note(3), note(9))
    assert await checkpoints.latest() is None


@pytest.mark.parametrize("size", [3, 2, 1])
async def test_the_newest_only_grows(checkpoints: CheckpointStore, size: int) -> None:
    await checkpoints.swap(None, note(3))
    with pytest.raises(InternalError):
        await checkpoints.swap(note(3), note(size, "other"))
    assert await checkpoints.latest() == note(3)


async def test_one_of_many_swaps_at_once_wins(make_store: Callable[[], CheckpointStore]) -> None:
    stores = [make_store() for _ in range(8)]
    await stores[0].swap(None, note(1))
    results = await asyncio.gather(
        *(store.swap(note(1), note(10 + at)) for at, store in enumerate(stores)), return_exceptions=True
    )
    assert sum(result is None for result in results) == 1
    assert all(result is None or isinstance(result, ConflictError) for result in results)
    won = 10 + results.index(None)
    assert await stores[0].latest() == note(won)
    assert list(await stores[1].history(10)) == [note(won), note(1)]


async def test_cosignatures_are_only_added(checkpoints: CheckpointStore) -> None:
    await checkpoints.swap(None, note(3))
    assert await checkpoints.replace_cosigned(cosigned(note(3))) == cosigned(note(3))
    assert await checkpoints.replace_cosigned(note(3)) == cosigned(note(3))
    # A later time by the same key says nothing more, and a note can't grow for ever.
    assert await checkpoints.replace_cosigned(cosigned(note(3), 2)) == cosigned(note(3))
    assert await checkpoints.latest() == cosigned(note(3))
    assert list(await checkpoints.history(1)) == [cosigned(note(3))]
    await checkpoints.swap(cosigned(note(3)), note(4))
    assert await checkpoints.latest() == note(4)


async def test_a_cosignature_that_comes_late_goes_to_the_history(checkpoints: CheckpointStore) -> None:
    await checkpoints.swap(None, note(3))
    await checkpoints.swap(note(3), note(5))
    assert await checkpoints.replace_cosigned(cosigned(note(3))) == cosigned(note(3))
    assert await checkpoints.latest() == note(5)
    assert list(await checkpoints.history(9)) == [note(5), cosigned(note(3))]
    assert await checkpoints.replace_cosigned(cosigned(note(3, "other"))) is None
    assert list(await checkpoints.history(9)) == [note(5), cosigned(note(3))]


async def test_a_history_that_was_given_up_is_set_aside(checkpoints: CheckpointStore) -> None:
    for old, new in ((None, 2), (2, 6), (6, 9)):
        await checkpoints.swap(None if old is None else note(old), note(new))
    with pytest.raises(BrokerError):
        await checkpoints.swap(note(9), note(6, "again"))
    await checkpoints.swap(note(9), note(6, "again"), lost_from=4)
    assert await checkpoints.latest() == note(6, "again")
    assert list(await checkpoints.history(9)) == [note(6, "again"), note(2)]
    await checkpoints.swap(note(6, "again"), note(9, "again"))
    await checkpoints.swap(note(9, "again"), note(9, "third"), lost_from=3)
    assert list(await checkpoints.history(9)) == [note(9, "third"), note(2)]


async def test_never_two_of_one_size(checkpoints: CheckpointStore) -> None:
    for old, new in ((None, 2), (2, 6)):
        await checkpoints.swap(None if old is None else note(old), note(new))
    # As if 6 had been given up, but only from 6 on: what was signed over its six entries stays what it is.
    with pytest.raises(DataLossError) as refused:
        await checkpoints.swap(note(6), note(6, "other"), lost_from=6)
    assert refused.value.reason == "CHECKPOINT_FORKED"
    assert await checkpoints.latest() == note(6)
    assert Checkpoint.parse(note(6).text).size == 6
