"""Administrative actions that two people agree to before anything of the sort is done, as rooms speak of them."""

from __future__ import annotations

import shlex

from broker.domain.canonical import JsonObject, canonical
from broker.errors import FailedPreconditionError

ISSUE = "identity.issue"
"""A certificate for one key: of somebody new, who is registered with it, or of somebody who is known."""
OWNER = "identity.owner"
"""Another owner of an agent."""
ENROL = "key.enroll"
"""A person's or a bot's key."""
MAP, UNMAP = "account.map", "account.unmap"
"""Whom a bot knows by a chat account."""
UNFREEZE = "unfreeze"
"""The end of a freeze."""
POLICY = "policy.change"
"""Another policy, where it touches the two-person rule."""
SETTINGS = "settings.change"
"""Another table of tiers, or settings that weaken the rule."""
TOOL = "tool.approve"
"""A tool that is new, may do something else than before, or asks for a lower tier."""


REVOKE = "identity.revoke"
"""The end of a person, or of the last certificate of theirs, where too few would be left who can vote."""
REVOKE_KEY = "key.revoke"
"""The same of somebody's last key."""


def issue_parameters(*, kind: str, name: str, owner: str, key_digest: str) -> JsonObject:
    """The parameters of ``identity.issue``.

    Args:
        kind: ``agent`` or ``human``.
        name: whose certificate it is.
        owner: name of the human who owns the agent; empty for a human.
        key_digest: ``sha256:`` of the key's SubjectPublicKeyInfo bytes.
    """
    return {"kind": kind, "name": name, "owner": owner, "key_digest": key_digest}


def request_command(action: str, parameters: JsonObject, *, who: str = "") -> str:
    """The command line that asks for an action."""
    words = ["broker", "approvals", "request", action]
    if parameters:
        words += ["--parameters", canonical(parameters).decode()]
    words += ["--reason", "..."]
    return shlex.join([*words, *(["--as", who] if who else [])])


def approval_required(what: str, action: str, parameters: JsonObject, *, who: str = "") -> FailedPreconditionError:
    """The refusal of something that people haven't agreed to.

    Args:
        what: what isn't done, as the beginning of a sentence.
        action: the administrative action that they would have to agree to.
        parameters: exactly those that it needs.
        who: name of the human who would ask.
    """
    return FailedPreconditionError(
        f"{what}: two people have to agree to it first, and nobody has agreed to exactly this",
        reason="APPROVAL_REQUIRED",
        hint=f"Ask for it, and do it again once they agree: {request_command(action, parameters, who=who)}",
        metadata={"action": action, "parameters": canonical(parameters).decode()},
    )
