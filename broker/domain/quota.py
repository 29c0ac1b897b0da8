"""How much may be kept of one caller."""

from __future__ import annotations

from broker.domain.ports import Transaction
from broker.errors import ResourceExhaustedError


def check_quota(tx: Transaction, owner: str, more: int, quota: int) -> None:
    """Keeps one caller from filling the disk with files, requests, events, output and what people shall agree to.

    Args:
        tx: a transaction.
        owner: id of the caller.
        more: bytes that shall be kept besides.
        quota: most bytes that are kept of one caller.

    Raises:
        ResourceExhaustedError: with ``more`` bytes the caller would be over the quota (``STORAGE_QUOTA``).
    """
    used = tx.vault.usage(owner)
    if used + more > quota:
        raise ResourceExhaustedError(
            f"{used} bytes of this caller are kept, and the quota is {quota}",
            reason="STORAGE_QUOTA",
            hint="What is kept expires by itself, calls by their tool's retention; or ask the operator for a higher "
            "`storage_quota_bytes`.",
            metadata={"quota_bytes": str(quota), "used_bytes": str(used)},
        )
