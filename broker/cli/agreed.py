"""What two people agreed to, as local commands use it: counted by the policy that is in force on record."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from broker.domain.canonical import JsonObject
from broker.domain.ports import Recorder, Transaction, Vault
from broker.errors import FailedPreconditionError
from broker.ledger.agreement import LedgerAgreement


@dataclass(frozen=True, slots=True)
class RecordedAuthority:
    """Lets changes of the registry pass that people agreed to; implements the registry's ``Authority``.

    Roles are asked of the policy that the ledger says is in force, and never of the file, which its owner may have edited.
    """

    recorder: Recorder
    vault: Vault
    origin: str

    def founded(self, tx: Transaction) -> bool:
        """It is, where ledger or tables say so."""
        return bool(tx.voters.founding() or LedgerAgreement().founding(tx))

    def permit(self, tx: Transaction, action: str, parameters: JsonObject, *, by: str) -> JsonObject | None:
        """As ``Authority``."""
        agreement = LedgerAgreement()
        if not tx.voters.founding() and not agreement.founding(tx):
            return None
        # Before the founding commands needn't wait for the policy's and the approvals' modules.
        from broker.approvals.authority import ApprovedActions  # noqa: PLC0415
        from broker.approvals.desk import Desk  # noqa: PLC0415
        from broker.ledger.in_force import policy_in_force  # noqa: PLC0415
        from broker.policy.electorate import PolicyElectorate  # noqa: PLC0415
        from broker.policy.snapshot import Snapshot  # noqa: PLC0415

        text = policy_in_force(tx, self.vault)
        if text is None:
            raise FailedPreconditionError(
                "no policy has ever been in force, so nobody can have agreed to anything",
                reason="POLICY_NOT_STARTED",
                hint="Start the broker once: broker serve",
            )
        electorate = PolicyElectorate(Snapshot.load(text))
        desk = Desk(
            self.recorder,
            self.vault,
            lambda: electorate,
            origin=self.origin,
            clock=lambda: datetime.now(UTC),
            agreement=agreement,
        )
        return ApprovedActions(desk).permit(tx, action, parameters, by=by)
