"""Why a recorded call can't be run again, and how it is said that a record isn't what the ledger says."""

from __future__ import annotations

from dataclasses import dataclass

from broker.errors import BrokerError, DataLossError


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One thing without which a call can't be run again."""

    reason: str
    """UPPER_SNAKE_CASE, for a program."""
    what: str
    """What is missing, by its name; a sentence for a person."""
    hint: str = ""
    """How to get it; empty where there is no way."""

    @classmethod
    def of(cls, error: BrokerError) -> Obstacle:
        """The same from a refusal."""
        return cls(error.reason, error.message, error.hint)


def doctored(reason: str, what: str) -> DataLossError:
    """What is kept isn't what the ledger says, or the ledger's own entry isn't what was written.

    Args:
        reason: UPPER_SNAKE_CASE.
        what: what differs from what; a sentence.
    """
    return DataLossError(
        what,
        reason=reason,
        hint="Keep the state directory as it is, for an investigation, and run `broker ledger verify`.",
    )
