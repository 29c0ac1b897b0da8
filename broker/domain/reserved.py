"""The names that the broker keeps for itself: what people approve besides the use of a tool."""

from __future__ import annotations

RESERVED_NAMESPACE = "broker"
"""No tool may be called ``broker.<anything>``: such a name in a policy always means the broker itself."""

WORKFLOWS = f"{RESERVED_NAMESPACE}.workflow"
"""Approving a version of a workflow, in the workspace where it is to run."""

ADMINISTRATION = f"{RESERVED_NAMESPACE}.admin"
"""Approving a change of the broker itself, such as one of its policy. It has no workspace: it is asked about in ``-``."""

RUNBOOKS = f"{RESERVED_NAMESPACE}.runbook"
"""Approving a runbook, in the workspace where it is to run."""

RESERVED_OBJECTS = frozenset({WORKFLOWS, ADMINISTRATION, RUNBOOKS})
"""What a policy may name of the reserved namespace, with the action ``approve`` only."""


def is_reserved(name: str) -> bool:
    """Does a tool's name lie in the reserved namespace?"""
    return name.partition(".")[0] == RESERVED_NAMESPACE
