"""Decides a great many questions by one policy: casbin is asked once for all that are one and the same to its matcher."""

from __future__ import annotations

from typing import NamedTuple

from broker.domain.call import PolicyRequest
from broker.errors import InvalidArgumentError
from broker.policy.snapshot import Alike, Snapshot


class Answer(NamedTuple):
    """What a policy says, without the sentence for a person."""

    allowed: bool
    rule: str
    """As in ``Decision``."""


class Many:
    """Answers of one policy. It keeps one for each set of rows that questions meet, however many questions there are.

    Args:
        snapshot: the policy.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._answers: dict[Alike, Answer] = {}

    def decide(self, request: PolicyRequest) -> Answer:
        """May it? The same as ``Snapshot.evaluate`` says, which is asked for the first of those that are alike."""
        try:
            alike = self.snapshot.alike(request)
        except InvalidArgumentError:
            return self._evaluated(request)
        found = self._answers.get(alike)
        if found is None:
            found = self._answers[alike] = self._evaluated(request)
        return found

    def _evaluated(self, request: PolicyRequest) -> Answer:
        decision = self.snapshot.evaluate(request)
        return Answer(decision.allowed, decision.rule)
