"""What the broker runs with, put on the record: specifications and policies by digest, their texts sealed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from broker.domain.canonical import JsonObject, canonical, digest, parse_object
from broker.domain.ports import Transaction
from broker.domain.spec import version_of
from broker.domain.tool_standing import Registered
from broker.errors import BrokerError
from broker.ledger.in_force import sealed_id
from broker.ledger.ledger import Ledger
from broker.pipeline.tool_changes import spec_text
from broker.policy.snapshot import Snapshot
from broker.rpc.administration import Boot
from broker.settings import Settings
from broker.specs.catalogue import Tool
from broker.store.base import SqlStore
from broker.vault.vault import SealedVault

_MOST_SPEC = 16 << 20


class Keeper:
    """Writes what a start and a change of the policy bring into force."""

    def __init__(self, store: SqlStore, ledger: Ledger, vault: SealedVault, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._ledger = ledger
        self._vault = vault
        self._clock = clock

    async def started(self, tools: int, policy: Snapshot, settings: Settings, boot: Boot, in_force: JsonObject) -> None:
        """Records a start, and what is in force."""
        body: JsonObject = {
            "software": f"agent-broker {boot.version}",
            "policy_digest": policy.digest,
            "settings_digest": digest(settings.model_dump_json().encode()),
            "tools": tools,
            "in_force": in_force,
        }

        def work(tx: Transaction) -> None:
            if self._keep(tx, sealed_id("policy", policy.digest), "policy", policy.text.encode()):
                self._ledger.append(tx, "policy.changed", {"policy_digest": policy.digest, "rules": policy.rules})
            self._ledger.append(tx, "heartbeat", body)

        await self._store.write(work)

    def register(self, tx: Transaction, tool: Tool, said: Registered, agreed: Sequence[JsonObject]) -> None:
        """Records how a tool runs from now on; ``agreed`` are the approvals that were used for it."""
        self._keep(tx, sealed_id("spec", tool.digest), "spec", canonical(spec_text(tool)))
        body: JsonObject = {
            "tool": {"name": said.name, "version": said.version},
            "tier": said.tier,
            "declared": said.declared,
            "surface": said.surface,
        }
        if agreed:
            body["approvals"] = list(agreed)
        self._ledger.append(tx, "spec.registered", body)

    def kept_spec(self, tx: Transaction, version: str) -> JsonObject | None:
        """The text of a specification by its version; ``None`` where it can't be had, or isn't that version's."""
        try:
            found = dict(self._vault.open(tx, sealed_id("spec", version)).read(tx, 0, 1))
            text = parse_object(found.get(0, b""), field="spec", max_bytes=_MOST_SPEC)
        except BrokerError:
            return None
        return text if version_of(text) == version else None

    def record_policy(
        self, tx: Transaction, old: Snapshot, new: Snapshot, agreed: Sequence[JsonObject], *, founded: bool
    ) -> None:
        """Records a new policy, before it is in force; ``agreed`` are the approvals that were used for it."""
        self._keep(tx, sealed_id("policy", new.digest), "policy", new.text.encode())
        body: JsonObject = {"policy_digest": new.digest, "before": old.digest, "rules": new.rules}
        self._ledger.append(tx, "policy.changed", {**body, **_agreement(agreed, founded=founded)})

    def record_standing(
        self,
        tx: Transaction,
        part: str,
        text: JsonObject,
        *,
        before: str,
        agreed: Sequence[JsonObject] = (),
        founded: bool = False,
    ) -> None:
        """Records that other tiers, or settings that the two-person rule hangs on, are in force."""
        data = canonical(text)
        self._keep(tx, sealed_id(part, digest(data)), part, data)
        body: JsonObject = {"in_force": {part: digest(data)}, "before": before}
        self._ledger.append(tx, "settings.changed", {**body, **_agreement(agreed, founded=founded)})

    def _keep(self, tx: Transaction, object_id: str, kind: str, text: bytes) -> bool:
        if tx.vault.get(object_id) is not None:
            return False
        sealed = self._vault.create(tx, object_id=object_id, owner="broker", kind=kind, now=self._clock(), expires=None)
        sealed.put(tx, {0: text})
        return True


def _agreement(agreed: Sequence[JsonObject], *, founded: bool) -> JsonObject:
    """Who agreed; or, once people would have to, that the texts were compared and it doesn't touch the two-person rule."""
    if agreed:
        return {"approvals": list(agreed)}
    return {"sensitive": False} if founded else {}
