"""What each store promises of workspaces' trees and the effects of calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from broker.domain.ports import Store, Transaction
from broker.domain.tree_ports import EffectRow, TreeState
from broker.errors import ConflictError

NOW = datetime(2026, 5, 1, 12, 0, 0, 5, tzinfo=UTC)
EFFECT = EffectRow("call_1", "demo", "sha256:0", "sha256:1", "sha256:e", "sha256:a", (), "", 7, NOW)


async def refused(store: Store, work: Callable[[Transaction], None]) -> ConflictError:
    with pytest.raises(ConflictError) as caught:
        await store.write(work)
    return caught.value


async def test_a_state_moves_only_from_the_present_one(store: Store) -> None:
    assert await store.read(lambda tx: tx.trees.get("demo")) is None
    await store.write(lambda tx: tx.trees.move("demo", "", "sha256:0", 3, NOW))
    first = TreeState("demo", "sha256:0", 3, NOW)
    assert await store.read(lambda tx: tx.trees.get("demo")) == first
    for old in ("", "sha256:1", "SHA256:0"):
        error = await refused(store, lambda tx, old=old: tx.trees.move("demo", old, "sha256:2", 4, NOW))  # type: ignore[misc]  # bound now
        assert (error.reason, error.metadata["found"]) == ("STATE_MOVED", "sha256:0")
    error = await refused(store, lambda tx: tx.trees.move("other", "sha256:0", "sha256:2", 4, NOW))
    assert (error.reason, error.metadata["found"]) == ("STATE_MOVED", "")
    assert await store.read(lambda tx: tx.trees.all()) == [first]
    later = NOW + timedelta(seconds=1)
    await store.write(lambda tx: tx.trees.move("demo", "sha256:0", "sha256:1", 5, later))
    await store.write(lambda tx: tx.trees.move("a", "", "sha256:9", 6, later))
    assert await store.read(lambda tx: tx.trees.all()) == [
        TreeState("a", "sha256:9", 6, later),
        TreeState("demo", "sha256:1", 5, later),
    ]


async def test_who_is_refused_may_go_on_in_the_same_transaction(store: Store) -> None:
    def work(tx: Transaction) -> None:
        tx.trees.move("demo", "", "sha256:0", 3, NOW)
        for old in ("", "sha256:x"):
            with pytest.raises(ConflictError):
                tx.trees.move("demo", old, "sha256:1", 4, NOW)
        tx.trees.move("demo", "sha256:0", "sha256:2", 5, NOW)

    await store.write(work)
    assert await store.read(lambda tx: tx.trees.get("demo")) == TreeState("demo", "sha256:2", 5, NOW)


async def test_effects_come_in_the_order_of_their_entries(store: Store) -> None:
    second = replace(EFFECT, call="call_0", seq=9, artifact="", undoes=("call_1", "call_7"))
    elsewhere = replace(EFFECT, call="call_2", workspace="other")

    def work(tx: Transaction) -> None:
        for effect in (second, elsewhere, EFFECT):
            tx.trees.insert(effect)

    await store.write(work)
    assert await store.read(lambda tx: list(tx.trees.effects("demo", -1))) == [EFFECT, second]
    assert await store.read(lambda tx: list(tx.trees.effects("demo", 7))) == [second]
    assert await store.read(lambda tx: list(tx.trees.effects("nowhere", -1))) == []
    assert await store.read(lambda tx: tx.trees.effect("call_0")) == second
    assert await store.read(lambda tx: tx.trees.effect("call_9")) is None
    await refused(store, lambda tx: tx.trees.insert(EFFECT))


async def test_an_effect_is_marked_as_taken_back_and_in_effect_again(store: Store) -> None:
    await store.write(lambda tx: tx.trees.insert(EFFECT))
    await store.write(lambda tx: tx.trees.mark("call_1", undone_by="call_u"))
    assert await store.read(lambda tx: tx.trees.effect("call_1")) == replace(EFFECT, undone_by="call_u")
    await store.write(lambda tx: tx.trees.mark("call_1", undone_by=""))
    assert await store.read(lambda tx: tx.trees.effect("call_1")) == EFFECT


async def test_a_state_is_known_that_is_there_or_was_around_an_effect(store: Store) -> None:
    def work(tx: Transaction) -> None:
        tx.trees.move("demo", "", "sha256:2", 3, NOW)
        tx.trees.insert(EFFECT)

    await store.write(work)
    for state, known in (("sha256:0", True), ("sha256:1", True), ("sha256:2", True), ("sha256:3", False), ("", False)):
        assert await store.read(lambda tx, state=state: tx.trees.knows("demo", state)) is known  # type: ignore[misc]  # bound now
    assert not await store.read(lambda tx: tx.trees.knows("other", "sha256:0"))
