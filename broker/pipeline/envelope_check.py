"""The refusal of what isn't any more what was admitted or approved."""

from __future__ import annotations

from broker.domain.canonical import digest
from broker.domain.envelope_difference import difference, named
from broker.errors import FailedPreconditionError


def envelope_changed(then: bytes, now: bytes, expected: str) -> FailedPreconditionError:
    """The error about an envelope that hasn't the recorded digest.

    Args:
        then: the envelope that is kept.
        now: the one that was made of what is about to run.
        expected: the digest on record.
    """
    found, fields = digest(now), difference(then, now)
    differs = f"{fields[0][0]} differs" if fields else "the kept envelope is the same, its record isn't"
    return FailedPreconditionError(
        f"what would run is not what was admitted: envelope {found} instead of {expected}: {differs}",
        reason="ENVELOPE_CHANGED",
        hint="Call it again.",
        metadata={"expected": expected, "found": found, "fields": named(fields)},
    )
