"""What is measured while the broker works; who listens is the composition root's choice."""

from __future__ import annotations

import enum
from typing import Protocol

from broker.domain.run import EgressVerdict, EndCause


class Claim(enum.StrEnum):
    """Where a call's container came from."""

    WARM = "warm"
    COLD = "cold"
    """Made for the call: none was waiting under its profile."""
    UNFIT = "unfit"
    """One was waiting, failed its health check and was destroyed."""


class Step(enum.StrEnum):
    """The steps of a call and of what the pool does beside them."""

    ADMIT = "admit"
    QUEUE = "queue"
    BEGIN = "begin"
    CLAIM = "claim"
    RUN = "run"
    FINISH = "finish"
    CREATE = "create"
    REMOVE = "remove"


class Meter(Protocol):
    """Takes measurements; never fails, never waits."""

    def claimed(self, claim: Claim) -> None:
        """A call looked for a container."""

    def took(self, step: Step, seconds: float) -> None:
        """A step ended."""

    def ended(self, cause: EndCause, state: str) -> None:
        """A call ended."""

    def egress(self, verdict: EgressVerdict, sent_bytes: int, received_bytes: int) -> None:
        """A request or connection of a tool to a host ended."""

    def pool(self, *, idle: int, making: int, leased: int) -> None:
        """How many containers wait, are being made, and are in use."""


class NoMeter:
    """Nobody listens."""

    def claimed(self, claim: Claim) -> None:
        """See ``Meter``."""

    def took(self, step: Step, seconds: float) -> None:
        """See ``Meter``."""

    def ended(self, cause: EndCause, state: str) -> None:
        """See ``Meter``."""

    def egress(self, verdict: EgressVerdict, sent_bytes: int, received_bytes: int) -> None:
        """See ``Meter``."""

    def pool(self, *, idle: int, making: int, leased: int) -> None:
        """See ``Meter``."""
