"""Risk tiers: the tier decides the paperwork."""

from __future__ import annotations

import enum
from typing import Self

from broker.errors import InvalidArgumentError


class Tier(enum.IntEnum):
    """0 to 4, compared as numbers and never as text."""

    INTERNAL = 0
    CUSTOMER_ASSIST = 1
    CUSTOMER_FACING = 2
    REGULATED = 3
    AUTONOMOUS = 4

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads exactly one of ``0`` to ``4``.

        Raises:
            InvalidArgumentError: any other text, such as ``04``, ``4.0`` or ``four``.
        """
        if len(text) == 1 and text in "01234":
            return cls(int(text))
        message = f"{text!r} is not a tier; a tier is one of 0, 1, 2, 3, 4"
        raise InvalidArgumentError(message, reason="UNKNOWN_TIER")


LINEAGE_REQUIRED_FROM = Tier.REGULATED
"""From this tier up a call whose lineage isn't proved is refused."""

WORKFLOW_REQUIRED_FROM = Tier.AUTONOMOUS
"""From this tier up a call belongs to an approved workflow; code holds this floor, whatever data says."""

APPROVAL_REQUIRED_FROM = Tier.AUTONOMOUS
"""From this tier up two people approve the very action; code holds this floor, whatever data says."""
