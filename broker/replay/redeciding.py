"""Asks another policy what one was asked before: each question once, with the names that its ids stand for."""

from __future__ import annotations

import enum

from broker.domain.call import PolicyRequest
from broker.domain.tier import Tier
from broker.errors import InvalidArgumentError
from broker.policy.many import Answer, Many
from broker.policy.rows import is_person
from broker.policy.snapshot import Snapshot
from broker.replay.naming import Names
from broker.replay.questions_asked import Question

_KINDS = {"agt": "agent", "hum": "human"}
"""What an id begins with -> whose it is."""
_MOST_NAMED = 200
"""Most people or agents of a policy in whose place somebody unknown is put."""


class Unknown(enum.StrEnum):
    """Why a question can't be asked again."""

    NAME = "name not known"
    """Policies speak of names. Whose id this is was erased, or isn't in the bundle, and the answer depends on it."""
    MALFORMED = "inputs malformed"
    """Its entry doesn't say what a policy could be asked."""


class Redecider:
    """One policy, asked about recorded questions.

    The roles are those that this policy grants: what an entry says of roles was another policy's word. Whoever has no known
    name is one of those whom the policy names or somebody whom it doesn't: where it answers all of these alike, the answer
    is certain.

    Args:
        snapshot: the policy.
        names: whose id is whose.
    """

    def __init__(self, snapshot: Snapshot, names: Names) -> None:
        self.snapshot = snapshot
        self._many = Many(snapshot)
        self._names = names
        self._subjects: dict[str, tuple[str, ...]] = {}
        self._anybody = {prefix: _anybody(snapshot, kind) for prefix, kind in _KINDS.items()}

    def answer(self, question: Question) -> Answer | Unknown:
        """What the policy says of a recorded question, or why it can't be asked."""
        try:
            tier = Tier.parse(question.tier)
        except InvalidArgumentError:
            return Unknown.MALFORMED
        asking = (question.workspace, question.obj, question.action, tier)
        answers = {self._many.decide(PolicyRequest(subject, *asking)) for subject in self._who(question.subject)}
        return answers.pop() if len(answers) == 1 else Unknown.NAME

    def _who(self, identity: str) -> tuple[str, ...]:
        """By which names the policy is asked about an id."""
        found = self._subjects.get(identity)
        if found is None:
            name = self._names.name(identity)
            found = (name,) if name else self._anybody.get(identity.partition("_")[0], ())
            self._subjects[identity] = found
        return found


def _anybody(snapshot: Snapshot, kind: str) -> tuple[str, ...]:
    """All of a kind whom a policy names, and one whom it doesn't; nobody where they are too many."""
    said = {rule.subject for rule in snapshot.table} | {grant.member for grant in snapshot.grants}
    named = sorted(name for name in said if is_person(name) and name.startswith(f"{kind}:"))
    stranger = next(name for name in (f"{kind}:x{number}" for number in range(len(named) + 1)) if name not in said)
    return (stranger, *named) if len(named) <= _MOST_NAMED else ()
