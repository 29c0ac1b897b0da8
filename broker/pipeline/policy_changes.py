"""A policy that is to replace the one in force: does it touch the two-person rule, and what people are shown of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from broker.domain.administration import POLICY
from broker.domain.canonical import JsonObject
from broker.domain.ports import Transaction, Vault
from broker.domain.requirement import ADMINISTRATIVE
from broker.domain.tier import Tier
from broker.errors import InvalidArgumentError
from broker.pipeline.standing import recorded_settings, table_of
from broker.policy.difference import PolicyDifference, compare
from broker.policy.rows import ALLOW, APPROVE
from broker.policy.snapshot import Snapshot
from broker.specs.tiers import Tiers

ACTION = POLICY
MOST_BYTES = 512 * 1024
"""Longest difference, in bytes of all its sentences together, that people are asked about."""

_HUMAN = "human:"


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """One policy in the place of another."""

    parameters: JsonObject
    """What people agree to: the digests of both, and how many rules the new one has."""
    sentences: tuple[str, ...]
    """What changes, a sentence for each row, after what that widens."""
    sensitive: tuple[str, ...]
    """Those that touch the two-person rule; empty where nobody has to agree."""
    concerned: frozenset[str]
    """Names of the humans to whom it gives something by name."""
    found: PolicyDifference
    """The same row by row."""


def counted_roles(tiers: Tiers) -> frozenset[str]:
    """The roles of which approvals ask for so many people: administration's, and those of the tiers."""
    asked = [ADMINISTRATIVE]
    for row in tiers.tiers:
        call = row.call_requirement()
        asked += [row.workflow_requirement(), *([] if call is None else [call])]
    return frozenset(item.role for requirement in asked for item in requirement.roles)


def counted_on_record(tx: Transaction, vault: Vault, tiers: Tiers) -> frozenset[str]:
    """The same, of a table and of the one on record: either may be the one in force."""
    before = recorded_settings(tx, vault)
    return counted_roles(tiers) | (frozenset() if before is None else counted_roles(table_of(before)))


def parameters_of(old: Snapshot, new: Snapshot) -> JsonObject:
    """What people agree to."""
    return {"digest": new.digest, "before": old.digest, "rules": new.rules}


def examine(old: Snapshot, new: Snapshot, *, tools: Mapping[str, Tier], counted: Collection[str]) -> PolicyChange:
    """Compares two policies; takes seconds for long ones.

    Args:
        old: the policy in force.
        new: the policy that is to replace it.
        tools: name of a tool -> its tier, for examples in sentences.
        counted: roles of which approvals ask for so many people, without ``role:``. Whoever gets one of them gets a vote
            that counts, even where the rules let them approve already.
    """
    found = compare(old, new, people=(), tools=tools, workspaces=())
    sensitive = tuple(
        dict.fromkeys(
            (
                *(f"WIDENS, and touches the two-person rule: {item.sentence}" for item in found.sensitive),
                *(f"WIDENS, and touches the two-person rule: {item}" for item in _counted(old, new, counted)),
            )
        )
    )
    others = [f"WIDENS: {item.sentence}" for item in found.widens if item not in found.sensitive]
    return PolicyChange(
        parameters=parameters_of(old, new),
        sentences=(*sensitive, *others, *_rows(found)),
        sensitive=sensitive,
        concerned=_concerned(old, new),
        found=found,
    )


def check_length(change: PolicyChange) -> PolicyChange:
    """Lets a change pass that people can be shown whole.

    Raises:
        InvalidArgumentError: ``DIFFERENCE_TOO_LONG``.
    """
    size = sum(len(item.encode()) for item in change.sentences)
    if size > MOST_BYTES:
        raise InvalidArgumentError(
            f"the difference is {size} bytes long; people are asked about at most {MOST_BYTES}",
            reason="DIFFERENCE_TOO_LONG",
            hint="Change the policy in several steps.",
        )
    return change


def _rows(found: PolicyDifference) -> Sequence[str]:
    return [
        *(f"Rule added: {item}" for item in found.rules_added),
        *(f"Rule removed: {item}" for item in found.rules_removed),
        *(f"Rule changed: {item}" for item in found.rules_changed),
        *(f"Grant added: {item}" for item in found.grants_added),
        *(f"Grant removed: {item}" for item in found.grants_removed),
    ]


def _counted(old: Snapshot, new: Snapshot, counted: Collection[str]) -> list[str]:
    """The new grants by which somebody comes to hold a role that approvals count."""
    had = {(grant.member, grant.role, grant.workspace) for grant in old.grants}
    above: dict[str, set[str]] = {}
    for grant in new.grants:
        above.setdefault(grant.member, set()).add(grant.role)
    wanted = {f"role:{name}" for name in counted}
    found = []
    for grant in new.grants:
        reached = _reached(grant.role, above) & wanted
        if reached and (grant.member, grant.role, grant.workspace) not in had:
            roles = ", ".join(sorted(reached))
            found.append(f"{grant.member} comes to hold {roles} in {grant.workspace}, which counts where people vote")
    return found


def _reached(role: str, above: Mapping[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    left = [role]
    while left:
        item = left.pop()
        if item not in reached:
            reached.add(item)
            left.extend(above.get(item, ()))
    return reached


def _concerned(old: Snapshot, new: Snapshot) -> frozenset[str]:
    had = {(grant.member, grant.role, grant.workspace) for grant in old.grants}
    said = {rule.values[1:] for rule in old.table}
    members = [grant.member for grant in new.grants if (grant.member, grant.role, grant.workspace) not in had]
    members += [
        rule.subject
        for rule in new.table
        if rule.effect == ALLOW and rule.action == APPROVE and rule.values[1:] not in said
    ]
    return frozenset(item.removeprefix(_HUMAN) for item in members if item.startswith(_HUMAN))
