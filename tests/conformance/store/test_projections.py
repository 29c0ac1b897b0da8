"""What each store promises of projections as plain rows, and that they can be made anew on it."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from broker.app.rebuild import Comparison, mend
from broker.domain.identity import Caller, Certificate, IdentityKind
from broker.domain.ids import new_id
from broker.domain.ports import Store, Transaction, VaultRow
from broker.domain.projection import KEYS
from broker.identity import keys
from broker.identity.ca import CertificateAuthority
from broker.identity.names import trust_domain
from broker.identity.registry import Registry
from broker.identity.sessions import Sessions
from broker.ledger.genesis import genesis_body
from broker.ledger.index import catch_up
from broker.ledger.ledger import Ledger
from broker.store import projections as projections_module
from broker.vault.vault import SealedVault

NOW = datetime(2026, 5, 1, 12, 0, 0, 5, tzinfo=UTC)
VAULT = SealedVault(bytes(32))


async def test_rows_come_in_the_order_of_their_keys_however_many(store: Store) -> None:
    tiles = [{"level": level, "idx": index, "hashes": os.urandom(32)} for level in (0, 1) for index in range(1100)]
    names = [
        {"agent": name, "seq": 0, "leaf": b"l", "entry_seq": 1}
        for name in ("a", "B", "a-b", "\u00e9", "z", "\U0001f512")
    ]

    def fill(tx: Transaction) -> None:
        for row in reversed(tiles):
            tx.projections.put("ledger_tile", row)
        for row in names:
            tx.projections.put("ledger_agent", row)

    await store.write(fill)
    assert await store.read(lambda tx: [dict(row) for row in tx.projections.rows("ledger_tile")]) == tiles
    found = await store.read(lambda tx: [str(row["agent"]) for row in tx.projections.rows("ledger_agent")])
    assert found == sorted(str(row["agent"]) for row in names)
    assert all(first.encode() < second.encode() for first, second in pairwise(found))


async def test_rows_are_replaced_and_deleted(store: Store) -> None:
    row = {"agent": "a", "seq": 0, "leaf": b"l", "entry_seq": 1}

    def work(tx: Transaction) -> None:
        tx.projections.put("ledger_agent", row)
        tx.projections.put("ledger_agent", {**row, "agent": "b"})
        tx.projections.put("ledger_agent", {**row, "seq": 5})
        tx.projections.delete("ledger_agent", ("b",))
        tx.projections.delete("ledger_agent", ("c",))

    await store.write(work)
    assert await store.read(lambda tx: list(tx.projections.rows("ledger_agent"))) == [{**row, "seq": 5}]


async def test_the_last_chunk(store: Store) -> None:
    def work(tx: Transaction) -> None:
        for name in ("one", "none"):
            tx.vault.insert(VaultRow(name, "o", "call", b"k", NOW, None))
        tx.vault.insert_chunks("one", {-2: b"x", 0: b"y", 7: b"z"})

    await store.write(work)
    found = await store.read(lambda tx: [tx.projections.last_chunk(name) for name in ("one", "none", "no such")])
    assert found == [7, None, None]


async def test_what_each_owner_keeps_is_counted_as_it_was_added_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projections_module, "_PAGE", 2)
    owners = ["a", "B", "c-d", "\u00e9", "\U0001f512"]

    def fill(tx: Transaction) -> None:
        for number, owner in enumerate(owners):
            for item in range(number + 1):
                name = f"{owner}{item}"
                tx.vault.insert(VaultRow(name, owner, "blob", b"k", NOW, None, data_classes=("personal", "\u00e9")))
                tx.vault.insert_chunks(name, {index: bytes(100 * number + index) for index in range(item)})
        tx.vault.insert(VaultRow("gone", "nobody", "blob", b"k", NOW, None))
        tx.vault.delete("gone")
        tx.vault.insert(VaultRow("going", "a", "blob", b"k", NOW, None))
        tx.vault.insert_chunks("going", {0: b"x" * 10, 1: b"y" * 10})
        tx.erasure.destroy_keys("going", NOW)
        tx.erasure.drop_chunks("going", 10)

    await store.write(fill)
    counted = await store.read(lambda tx: [dict(row) for row in tx.projections.usage()])
    assert [row["owner"] for row in counted] == sorted(owners)
    for row in counted:
        assert type(row["stored"]) is int
        assert await store.read(lambda tx, which=str(row["owner"]): tx.vault.usage(which)) == row["stored"]  # type: ignore[misc]  # bound now
    assert {"owner": "nobody", "stored": 0} in await store.read(
        lambda tx: [dict(row) for row in tx.projections.rows("vault_usage")]
    )


def _people(tx: Transaction) -> None:
    """An operator, an agent with two certificates, and its session, on record."""
    authority = CertificateAuthority.create(new_id("brk"), NOW)
    ledger = Ledger(authority.origin, "boot_1", lambda: NOW)
    body = genesis_body(trust_domain=trust_domain(authority.origin), software="s")
    ledger.append(tx, "genesis", {**body, "operator": "hum_1"})
    registry = Registry(ledger, VAULT)
    human = registry.register_operator(tx, identity="hum_1", name="ada", now=NOW)
    agent = registry.register_agent(tx, name="scout", owner=human.id, by=human.id, now=NOW)
    for identity in (human, agent, agent):
        certificate = authority.issue_client(
            identity.kind, identity.name, keys.new_key().public_key(), NOW, timedelta(days=1)
        )
        issued = registry.issue(tx, identity=identity.id, certificate=certificate, by=human.id, now=NOW)
        if identity.kind is IdentityKind.HUMAN:
            caller = Caller(human, issued)
    Sessions(ledger).start(tx, caller=caller, agent="scout", workspace="demo", ttl=None, schedule="", now=NOW)
    for _ in range(260):
        ledger.append(tx, "heartbeat", {})
    catch_up(tx)


TABLES = ("ledger_tile", "ledger_agent", "ledger_index", "identity", "certificate", "session", "vault_usage")


def _whole(tx: Transaction) -> dict[str, list[dict[str, object]]]:
    found = {table: [dict(row) for row in tx.projections.rows(table)] for table in TABLES}
    order = sorted(found["certificate"], key=lambda row: str(row["number"]).zfill(9))
    for row in found["certificate"]:
        row["number"] = order.index(row)
    return found


@pytest.mark.parametrize("table", TABLES)
async def test_a_damaged_table_is_made_anew(store: Store, table: str) -> None:
    await store.write(_people)
    before = await store.read(_whole)
    assert all(before.values())
    report = await store.read(lambda tx: Comparison(tx, VAULT).report())
    assert (report.wrong, report.behind) == (0, 0)

    def damage(tx: Transaction) -> None:
        column = {"ledger_tile": "hashes", "ledger_agent": "leaf", "ledger_index": "type"}.get(table)
        column = column or {"vault_usage": "stored", "certificate": "not_after", "session": "starter"}.get(
            table, "registrar"
        )
        for row in list(tx.projections.rows(table)):
            other = {bytes: b"x" * 32, int: -(10**12)}.get(type(row[column]), "changed")
            tx.projections.put(table, {**row, column: other})
        if table != "identity":  # certificates refer to it
            tx.projections.delete(table, tuple(row[name] for name in KEYS[table]))

    await store.write(damage)
    mended = await store.write(lambda tx: mend(tx, VAULT, ledger_is_whole=False))
    assert mended.written
    assert {item.table for item in mended.tables if item.wrong} == {table}
    assert await store.read(_whole) == before
    later = Certificate("sha256:0", "hum_1", b"k", NOW, NOW)
    await store.write(lambda tx: tx.identities.insert_certificate(later))  # its number is free, and the highest
    assert (await store.read(lambda tx: tx.identities.certificates()))[-1] == later
    await store.write(lambda tx: tx.projections.delete("certificate", ("sha256:0",)))
    assert (await store.read(lambda tx: Comparison(tx, VAULT).report())).wrong == 0
