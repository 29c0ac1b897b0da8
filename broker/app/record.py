"""What the broker runs with, put on the record: specifications and policies by digest, their texts sealed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from broker.domain.canonical import JsonObject, canonical, digest
from broker.domain.ports import Transaction
from broker.ledger.in_force import sealed_id
from broker.ledger.ledger import Ledger
from broker.policy.snapshot import Snapshot
from broker.rpc.administration import Boot
from broker.settings import Settings
from broker.specs.catalogue import Catalogue, Tool
from broker.store.base import SqlStore
from broker.vault.vault import SealedVault


class Keeper:
    """Writes what a start and a change of the policy bring into force."""

    def __init__(self, store: SqlStore, ledger: Ledger, vault: SealedVault, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._ledger = ledger
        self._vault = vault
        self._clock = clock

    async def started(
        self, catalogue: Catalogue, policy: Snapshot, settings: Settings, boot: Boot, in_force: JsonObject
    ) -> None:
        """Records a start: new tool specifications as they are written, and what is in force."""
        body: JsonObject = {
            "software": f"agent-broker {boot.version}",
            "policy_digest": policy.digest,
            "settings_digest": digest(settings.model_dump_json().encode()),
            "tools": len(catalogue.names),
            "in_force": in_force,
        }

        def work(tx: Transaction) -> None:
            for tool in catalogue.all():
                if self._keep(tx, sealed_id("spec", tool.digest), "spec", _spec_text(tool)):
                    entry: JsonObject = {
                        "tool": {"name": tool.spec.name, "version": tool.digest},
                        "tier": int(tool.spec.risk),
                    }
                    self._ledger.append(tx, "spec.registered", entry)
            if self._keep(tx, sealed_id("policy", policy.digest), "policy", policy.text.encode()):
                self._ledger.append(tx, "policy.changed", {"policy_digest": policy.digest, "rules": policy.rules})
            self._ledger.append(tx, "heartbeat", body)

        await self._store.write(work)

    def record_policy(self, tx: Transaction, old: Snapshot, new: Snapshot, agreed: Sequence[JsonObject]) -> None:
        """Records a new policy, before it is in force; ``agreed`` are the approvals that were used for it."""
        self._keep(tx, sealed_id("policy", new.digest), "policy", new.text.encode())
        body: JsonObject = {"policy_digest": new.digest, "before": old.digest, "rules": new.rules}
        if agreed:
            body["approvals"] = list(agreed)
        self._ledger.append(tx, "policy.changed", body)

    def record_standing(
        self, tx: Transaction, part: str, text: JsonObject, *, before: str, agreed: Sequence[JsonObject]
    ) -> None:
        """Records that other tiers, or settings that the two-person rule hangs on, are in force."""
        data = canonical(text)
        self._keep(tx, sealed_id(part, digest(data)), part, data)
        body: JsonObject = {"in_force": {part: digest(data)}, "before": before}
        if agreed:
            body["approvals"] = list(agreed)
        self._ledger.append(tx, "settings.changed", body)

    def _keep(self, tx: Transaction, object_id: str, kind: str, text: bytes) -> bool:
        if tx.vault.get(object_id) is not None:
            return False
        sealed = self._vault.create(tx, object_id=object_id, owner="broker", kind=kind, now=self._clock(), expires=None)
        sealed.put(tx, {0: text})
        return True


def _spec_text(tool: Tool) -> bytes:
    files = {name: data.decode("utf-8", "backslashreplace") for name, data in tool.files.items()}
    return canonical({"spec": tool.spec.normalised(), "files": files})
